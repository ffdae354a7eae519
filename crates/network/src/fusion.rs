//! From operations to fused steps.
//!
//! A convolution, a pooling or a linear layer makes a *tensor*: numbers in memory. BatchNorm,
//! activations and residual additions make none. They become part of how the next operation *reads* its
//! input, `activation(norm(tensor) + residual)`, and of how gradients are delivered on the way back.
//! Where a read value is needed again (a block's end is the input of the next block and its residual),
//! the first reader keeps it as a tensor.
//!
//! What cannot be read in that form (an activation of an activation, a sum of two activations) is
//! written down first, by a step of its own.

use std::fmt::Write as _;

use crescendo_kernels::{
    ActivationFunction as Activation, ConvAlgorithm, Convolution, linear::Linear,
};

use crate::plan::{Plan, Step};
use crate::{Error, Operation, Shape, Value};

/// Numbers in memory, by their index in [`Fused::tensors`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TensorId(pub usize);

/// A tensor: what it holds, and which fused step makes it.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorInfo {
    /// The value of the network's list that it holds.
    pub value: Value,
    /// One image's shape.
    pub shape: Shape,
    /// The fused step that writes it; the images are nobody's.
    pub maker: Option<usize>,
    /// Whether its maker writes it while it reads its input.
    pub kept: bool,
}

/// A tensor behind a BatchNorm, or as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Normed {
    /// The tensor.
    pub tensor: TensorId,
    /// The BatchNorm, as an index of [`Plan::statistics`].
    pub norm: Option<usize>,
}

/// How a value is read: `activation(main + residual)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reading {
    /// What is read.
    pub main: Normed,
    /// What is added.
    pub residual: Option<Normed>,
    /// The function of the sum.
    pub activation: Option<Activation>,
}

impl Reading {
    fn plain(tensor: TensorId) -> Self {
        Reading { main: Normed { tensor, norm: None }, residual: None, activation: None }
    }

    /// Whether it is a tensor as it lies in memory.
    pub fn is_plain(&self) -> bool {
        *self == Reading::plain(self.main.tensor)
    }

    /// What lies before the activation: main and residual.
    pub fn terms(&self) -> impl Iterator<Item = Normed> + use<> {
        [Some(self.main), self.residual].into_iter().flatten()
    }
}

/// What a fused step computes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Work {
    /// A convolution, by a method.
    Convolution(Convolution, ConvAlgorithm),
    /// Average pooling of squares.
    AveragePool(usize),
    /// Max-pooling of squares.
    MaxPool(usize),
    /// The value as it is read, written down.
    Write,
    /// From maps to a vector.
    Flatten,
    /// A linear layer.
    Linear(Linear),
    /// An activation of a vector.
    Activation(Activation),
}

/// How the gradient of a step's input is delivered on the way back.
#[derive(Clone, Debug, PartialEq)]
pub struct Delivery {
    /// The gradient that it adds to or completes, as an index of [`Fused::gradients`].
    pub gradient: usize,
    /// Whether earlier deliveries left a part there.
    pub accumulate: bool,
    /// Complete gradients that are further parts: those of sums in which the value is a residual.
    pub addends: Vec<usize>,
    /// Whether this is the last part: then the activation's slope is applied, and the sums of the
    /// BatchNorms before it are taken.
    pub last: bool,
}

/// The gradient of a value that is read, before its activation: what its BatchNorms' backward, and
/// its residual's gradient, begin with.
#[derive(Clone, Debug, PartialEq)]
pub struct GradientInfo {
    /// How the value is read for the first time.
    pub reading: Reading,
    /// Where it is kept, if its first reader keeps it.
    pub kept: Option<TensorId>,
    /// One image's shape.
    pub shape: Shape,
}

impl GradientInfo {
    /// The tensor from which the activation's slope can be told, if there is one.
    pub fn slope_from_kept(&self) -> Option<TensorId> {
        self.kept
            .filter(|_| self.reading.activation.is_some_and(Activation::derivative_from_output))
    }
}

/// One fused step.
#[derive(Clone, Debug, PartialEq)]
pub struct FusedStep {
    /// The operation, as an index of [`Plan::steps`]; for [`Work::Write`], the one that is written.
    pub step: usize,
    /// What is computed.
    pub work: Work,
    /// How its input is read.
    pub input: Reading,
    /// Where the input is kept as it was read.
    pub keep: Option<TensorId>,
    /// What it makes.
    pub output: TensorId,
    /// The BatchNorm that takes the output's sums, as an index of [`Plan::statistics`].
    pub norm: Option<usize>,
    /// The gradient from which its backward begins, as an index of [`Fused::gradients`].
    pub gradient: usize,
    /// Where its input's gradient goes; `None` for the images.
    pub delivery: Option<Delivery>,
}

impl FusedStep {
    /// How backward reads the input again: where it was kept, if it was.
    pub fn input_again(&self) -> Reading {
        self.keep.map_or(self.input, Reading::plain)
    }
}

/// A network as it is computed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Fused {
    /// What lies in memory; the images first.
    pub tensors: Vec<TensorInfo>,
    /// The gradients; that of the logits last.
    pub gradients: Vec<GradientInfo>,
    /// The steps in order.
    pub steps: Vec<FusedStep>,
}

impl Fused {
    pub(crate) fn new(plan: &Plan) -> Result<Fused, Error> {
        let images = TensorInfo { value: Value(0), shape: plan.input, maker: None, kept: false };
        let mut fusion = Fusion {
            plan,
            uses: vec![0; plan.steps.len() + 1],
            readings: vec![Some(Reading::plain(TensorId(0)))],
            fused: Fused { tensors: vec![images], ..Fused::default() },
        };
        for step in &plan.steps {
            for input in &step.node.inputs {
                fusion.uses[input.0] += 1;
            }
        }
        for (index, step) in plan.steps.iter().enumerate() {
            let reading = fusion.fuse(index, step)?;
            fusion.readings.push(Some(reading));
        }
        fusion.gradients()?;
        Ok(fusion.fused)
    }

    /// The step that makes a tensor; nobody makes the images.
    pub fn maker(&self, tensor: TensorId) -> Option<&FusedStep> {
        self.tensors[tensor.0].maker.map(|index| &self.steps[index])
    }
}

struct Fusion<'a> {
    plan: &'a Plan,
    /// How many operations use each value.
    uses: Vec<usize>,
    /// How each value so far is read.
    readings: Vec<Option<Reading>>,
    fused: Fused,
}

impl Fusion<'_> {
    fn reading(&self, value: Value) -> Reading {
        self.readings[value.0].expect("values are made in order")
    }

    fn fuse(&mut self, index: usize, step: &Step) -> Result<Reading, Error> {
        let input = step.node.inputs[0];
        match step.node.operation {
            Operation::Convolution { .. } => {
                let layer = step.convolution().expect("the plan checked its input");
                let method = step.method(self.plan.compute).expect("it is a convolution");
                Ok(self.push(index, Work::Convolution(layer, method), input))
            }
            Operation::AveragePool { size } => Ok(self.push(index, Work::AveragePool(size), input)),
            Operation::MaxPool { size } => Ok(self.push(index, Work::MaxPool(size), input)),
            Operation::Flatten => Ok(self.push(index, Work::Flatten, input)),
            Operation::Linear { .. } => {
                let layer = step.linear().expect("the plan checked its input");
                Ok(self.push(index, Work::Linear(layer), input))
            }
            Operation::BatchNorm { .. } => {
                let tensor = self.plain(input);
                if self.uses[input.0] > 1 {
                    return Err(self.refuse(step, "something else uses what it normalises"));
                }
                let Some(maker) = self.fused.tensors[tensor.0].maker else {
                    return Err(self.refuse(step, "it would normalise the images themselves"));
                };
                let norm = step.statistics;
                self.fused.steps[maker].norm = norm;
                Ok(Reading { main: Normed { tensor, norm }, residual: None, activation: None })
            }
            Operation::Activation(f) if matches!(step.input, Shape::Vector { .. }) => {
                Ok(self.push(index, Work::Activation(f), input))
            }
            Operation::Activation(f) => {
                let reading = self.reading(input);
                let open = reading.activation.is_none() && self.uses[input.0] == 1;
                let reading = if open { reading } else { Reading::plain(self.plain(input)) };
                Ok(Reading { activation: Some(f), ..reading })
            }
            Operation::Add => {
                let [main, other] = [input, step.node.inputs[1]].map(|value| self.term(value));
                Ok(Reading { main, residual: Some(other), activation: None })
            }
        }
    }

    fn refuse(&self, step: &Step, problem: &str) -> Error {
        Error(format!("{}: {problem}", step.node.name))
    }

    /// A value as a term of a sum.
    fn term(&mut self, value: Value) -> Normed {
        let reading = self.reading(value);
        let bare = reading.residual.is_none() && reading.activation.is_none();
        // A BatchNorm's output that others use too must be one tensor for all of them.
        let single = reading.main.norm.is_none() || self.uses[value.0] == 1;
        if bare && single { reading.main } else { Normed { tensor: self.plain(value), norm: None } }
    }

    /// A value as a tensor: written down, unless it is one.
    fn plain(&mut self, value: Value) -> TensorId {
        let reading = self.reading(value);
        if reading.is_plain() {
            return reading.main.tensor;
        }
        let reading = self.push(value.0 - 1, Work::Write, value);
        self.readings[value.0] = Some(reading);
        reading.main.tensor
    }

    /// Adds a step that reads `value`; returns how its output is read.
    fn push(&mut self, step: usize, work: Work, value: Value) -> Reading {
        let input = self.reading(value);
        let index = self.fused.steps.len();
        let mut add = |value: Value, kept| {
            let shape = self.plan.shape(value);
            self.fused.tensors.push(TensorInfo { value, shape, maker: Some(index), kept });
            TensorId(self.fused.tensors.len() - 1)
        };
        // A step that writes its input down anyway need not keep it.
        let again = !input.is_plain() && self.uses[value.0] > 1 && work != Work::Write;
        let keep = again.then(|| add(value, true));
        let output = add(Value(step + 1), false);
        if let Some(kept) = keep {
            self.readings[value.0] = Some(Reading::plain(kept));
        }
        self.fused.steps.push(FusedStep {
            step,
            work,
            input,
            keep,
            output,
            norm: None,
            gradient: 0,
            delivery: None,
        });
        Reading::plain(output)
    }

    /// Works out which gradients there are, and how each comes together.
    fn gradients(&mut self) -> Result<(), Error> {
        // The gradient that belongs to each tensor, and the step that completes each gradient: the
        // first reader, which is the last on the way back.
        let mut of_tensor: Vec<Option<usize>> = vec![None; self.fused.tensors.len()];
        let mut completed_by = Vec::new();
        for index in 0..self.fused.steps.len() {
            let FusedStep { input, keep, .. } = self.fused.steps[index];
            if input.main.tensor == TensorId(0) {
                if input.is_plain() {
                    continue;
                }
                let problem = "only a convolution or a pooling can read the images";
                return Err(Error(problem.into()));
            }
            let known = of_tensor[input.main.tensor.0].filter(|_| input.is_plain());
            let gradient = known.unwrap_or(self.fused.gradients.len());
            if known.is_none() {
                let shape = self.fused.tensors[input.main.tensor.0].shape;
                self.fused.gradients.push(GradientInfo { reading: input, kept: keep, shape });
                completed_by.push(index);
                let own = input.terms().filter(|&term| self.is_own(&input, term));
                for tensor in own.map(|term| term.tensor).chain(keep) {
                    of_tensor[tensor.0] = Some(gradient);
                }
            }
            let last = known.is_none();
            self.fused.steps[index].delivery =
                Some(Delivery { gradient, accumulate: false, addends: Vec::new(), last });
        }
        let logits = TensorId(self.fused.tensors.len() - 1);
        let shape = self.fused.tensors[logits.0].shape;
        let reading = Reading::plain(logits);
        of_tensor[logits.0] = Some(self.fused.gradients.len());
        self.fused.gradients.push(GradientInfo { reading, kept: None, shape });

        // Later readers' parts are there before the first reader's.
        let mut begun = vec![false; self.fused.gradients.len()];
        for step in self.fused.steps.iter_mut().rev() {
            if let Some(delivery) = &mut step.delivery {
                delivery.accumulate = begun[delivery.gradient];
                begun[delivery.gradient] = true;
            }
        }
        // The gradient of a sum is a part of that of each term that has other readers.
        for (sum, &at) in completed_by.iter().enumerate() {
            let reading = self.fused.gradients[sum].reading;
            for term in reading.terms() {
                if self.is_own(&reading, term) {
                    continue;
                }
                let step = of_tensor[term.tensor.0].map(|gradient| completed_by[gradient]);
                let Some(step) = step.filter(|&step| step < at) else {
                    return Err(self.unsupported(term.tensor, "is added before it is used"));
                };
                let delivery = self.fused.steps[step].delivery.as_mut();
                let addends = &mut delivery.expect("it completes a gradient").addends;
                addends.push(sum);
                if addends.len() > 2 {
                    return Err(self.unsupported(term.tensor, "is added to more than two sums"));
                }
            }
        }
        for index in 0..self.fused.steps.len() {
            let output = self.fused.steps[index].output;
            let Some(gradient) = of_tensor[output.0] else {
                return Err(self.unsupported(output, "is only ever added to others"));
            };
            self.fused.steps[index].gradient = gradient;
        }
        Ok(())
    }

    /// Whether a term of a reading is read there alone, so that the reading's gradient is its own.
    fn is_own(&self, reading: &Reading, term: Normed) -> bool {
        let info = &self.fused.tensors[term.tensor.0];
        reading.is_plain() || term.norm.is_some() || (!info.kept && self.uses[info.value.0] == 1)
    }

    fn unsupported(&self, tensor: TensorId, problem: &str) -> Error {
        let value = self.fused.tensors[tensor.0].value;
        let name = value.0.checked_sub(1).map_or("the images", |i| &self.plan.steps[i].node.name);
        Error(format!("{name}: what it makes {problem}: not supported"))
    }
}

impl Plan {
    /// Every fused step in words: what it reads and how, what it computes, and what backward does.
    pub fn describe(&self) -> String {
        let mut text = String::new();
        for (index, step) in self.fused.steps.iter().enumerate() {
            let name = &self.steps[step.step].node.name;
            let work = match step.work {
                Work::Convolution(layer, method) => {
                    let Convolution { kernel, stride, .. } = layer;
                    let method = match method {
                        ConvAlgorithm::Direct => "direct",
                        ConvAlgorithm::Winograd2 => "winograd2",
                        ConvAlgorithm::Winograd4 => "winograd4",
                    };
                    format!("conv {kernel}x{kernel}/{stride} {method}")
                }
                Work::AveragePool(size) => format!("average {size}x{size}"),
                Work::MaxPool(size) => format!("max {size}x{size}"),
                Work::Write => "write".into(),
                Work::Flatten => "flatten".into(),
                Work::Linear(_) => "linear".into(),
                Work::Activation(f) => activation_name(f),
            };
            let _ = write!(
                text,
                "{index:>3}  {name:<32} {work:<22} {:<10} reads {}",
                self.fused.tensors[step.output.0].shape.to_string(),
                self.describe_reading(&step.input)
            );
            if step.keep.is_some() {
                text.push_str(", keeps it");
            }
            if let Some(norm) = step.norm {
                let _ = write!(text, "; sums for {}", self.statistics[norm].name);
            }
            if let Some(delivery) = &step.delivery {
                let _ = write!(text, "; back: {}", self.describe_delivery(delivery));
            }
            text.push('\n');
        }
        text
    }

    fn describe_tensor(&self, tensor: TensorId) -> &str {
        match self.fused.tensors[tensor.0].value.0 {
            0 => "images",
            value => &self.steps[value - 1].node.name,
        }
    }

    fn describe_reading(&self, reading: &Reading) -> String {
        let term = |normed: Normed| match normed.norm {
            Some(norm) => format!("norm {}", self.statistics[norm].name),
            None => self.describe_tensor(normed.tensor).to_owned(),
        };
        let sum = reading.terms().map(term).collect::<Vec<_>>().join(" + ");
        match reading.activation {
            Some(f) => format!("{}({sum})", activation_name(f)),
            None => sum,
        }
    }

    fn describe_delivery(&self, delivery: &Delivery) -> String {
        let reading = &self.fused.gradients[delivery.gradient].reading;
        let mut parts = Vec::new();
        if delivery.accumulate || !delivery.addends.is_empty() {
            parts.push("adds parts".to_owned());
        }
        if delivery.last {
            if let Some(f) = reading.activation {
                parts.push(format!("slope of {}", activation_name(f)));
            }
            let norms = reading.terms().filter_map(|term| term.norm);
            parts.extend(norms.map(|norm| format!("sums for {}", self.statistics[norm].name)));
        }
        if parts.is_empty() { "input".into() } else { parts.join(", ") }
    }
}

fn activation_name(f: Activation) -> String {
    let text = format!("{f:?}").to_lowercase();
    text.split([' ', '{']).next().unwrap_or_default().to_owned()
}
