//! From a network's list to everything that an engine needs to know before it computes.

use std::ops::Range;

use crescendo_kernels::linear::Linear;
use crescendo_kernels::{Convolution, Map, pooling};

use crate::memory::{Life, Memory};
use crate::{Error, Network, Node, Operation, Shape, Value};

/// What a parameter is for; it decides how it is initialised and whether it decays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The weight of a convolution or a linear layer whose outputs are sums of `fan_in` products.
    Weight {
        /// Products in a sum.
        fan_in: usize,
    },
    /// The bias beside such a weight.
    Bias {
        /// Products in a sum.
        fan_in: usize,
    },
    /// BatchNorm's weight.
    NormWeight,
    /// BatchNorm's bias.
    NormBias,
}

/// A parameter: a named view of the flat buffers of parameters, gradients and velocities.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// Such as `start_layer.0.weight`.
    pub name: String,
    /// PyTorch's shape.
    pub shape: Vec<usize>,
    /// Where it lies in a flat buffer.
    pub range: Range<usize>,
    /// What it is for.
    pub role: Role,
}

/// The running statistics of one BatchNorm: a view of the flat buffers of means and variances.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statistics {
    /// The layer's name, such as `start_layer.1`.
    pub name: String,
    /// Where it lies in a flat buffer.
    pub range: Range<usize>,
}

/// One tensor of PyTorch's state: what a checkpoint holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateTensor {
    /// Such as `start_layer.1.running_mean`.
    pub name: String,
    /// PyTorch's shape; empty for a single number.
    pub shape: Vec<usize>,
    /// What it is.
    pub source: Source,
}

/// What a tensor of the state is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// This one of [`Plan::parameters`].
    Parameter(usize),
    /// The running mean of this one of [`Plan::statistics`].
    RunningMean(usize),
    /// The running variance of this one of [`Plan::statistics`].
    RunningVariance(usize),
    /// How many batches this one of [`Plan::statistics`] has seen.
    BatchesTracked(usize),
}

/// One operation, with everything that follows from its place in the list.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// The operation, its name and its inputs.
    pub node: Node,
    /// The shape of its first input.
    pub input: Shape,
    /// The shape of what it makes.
    pub output: Shape,
    /// Its weight and bias, as indices of [`Plan::parameters`], where it has any.
    pub parameters: Option<[usize; 2]>,
    /// Its statistics, as an index of [`Plan::statistics`], where it has any.
    pub statistics: Option<usize>,
    /// Multiplications with parameters in the forward pass of one image.
    pub macs: u64,
}

/// A network, worked out. Values and steps are numbered as in [`Network`].
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The shape of an image.
    pub input: Shape,
    /// The operations in order.
    pub steps: Vec<Step>,
    /// All parameters in the order of PyTorch's state.
    pub parameters: Vec<Parameter>,
    /// All running statistics in that order.
    pub statistics: Vec<Statistics>,
    /// The buffers of training, and of inference.
    pub training: Placement,
    /// The buffers of inference.
    pub inference: Placement,
}

/// Which buffer holds what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// The buffers.
    pub memory: Memory,
    /// The buffer of each value.
    pub values: Vec<usize>,
    /// The buffer of each value's gradient; the images have none, and nothing has in inference.
    pub gradients: Vec<Option<usize>>,
    /// For each input of each step, where its backward leaves that input's gradient.
    pub targets: Vec<Vec<Target>>,
}

impl Placement {
    /// Whether there is a place for gradients.
    pub fn trains(&self) -> bool {
        !self.targets.is_empty()
    }
}

/// Where the gradient of a step's input goes. Where several steps use a value, the last of them is
/// the first to be reached on the way back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Nobody asks for it.
    Nowhere,
    /// Into this buffer, the first of its value.
    Write(usize),
    /// Into `scratch`, to be added to what is in `total`.
    Add {
        /// Used for this step only.
        scratch: usize,
        /// The value's gradient so far.
        total: usize,
    },
}

impl Plan {
    /// Works out a network.
    ///
    /// # Errors
    /// If shapes do not fit together, or an operation has the wrong number of inputs.
    pub fn new(network: &Network) -> Result<Plan, Error> {
        let mut plan = Plan {
            input: network.input,
            steps: Vec::new(),
            parameters: Vec::new(),
            statistics: Vec::new(),
            training: Placement::default(),
            inference: Placement::default(),
        };
        for node in &network.nodes {
            plan.push(node)?;
        }
        for (index, node) in network.nodes.iter().enumerate() {
            let used = network.nodes.iter().any(|other| other.inputs.contains(&Value(index + 1)));
            if !used && index + 1 < network.nodes.len() {
                return Err(Error(format!("{}: nothing uses what it makes", node.name)));
            }
            if network.nodes[..index].iter().any(|other| other.name == node.name) {
                return Err(Error(format!("{}: two operations have this name", node.name)));
            }
        }
        if !matches!(plan.steps.last().map(|step| step.output), Some(Shape::Vector { .. })) {
            return Err(Error("the network must end in a vector of logits".into()));
        }
        plan.training = plan.place(true);
        plan.inference = plan.place(false);
        Ok(plan)
    }

    /// The shape of a value.
    pub fn shape(&self, value: Value) -> Shape {
        if value.0 == 0 { self.input } else { self.steps[value.0 - 1].output }
    }

    /// Numbers in all parameters.
    pub fn parameter_count(&self) -> usize {
        self.parameters.last().map_or(0, |p| p.range.end)
    }

    /// Channels of all running statistics.
    pub fn statistic_count(&self) -> usize {
        self.statistics.last().map_or(0, |s| s.range.end)
    }

    /// Multiplications with parameters in the forward pass of one image.
    pub fn forward_macs(&self) -> u64 {
        self.steps.iter().map(|step| step.macs).sum()
    }

    /// Floating-point operations to train on one image: a multiplication and an addition for each
    /// product, forward, to the inputs and to the weights.
    pub fn training_flops(&self) -> u64 {
        6 * self.forward_macs()
    }

    /// The classes that the logits stand for.
    pub fn classes(&self) -> usize {
        self.steps.last().map_or(0, |step| step.output.len())
    }

    /// The tensors of a checkpoint, in the order of PyTorch's state: each layer's together.
    pub fn state(&self) -> Vec<StateTensor> {
        let mut state = Vec::new();
        for step in &self.steps {
            for index in step.parameters.into_iter().flatten() {
                let Parameter { name, shape, .. } = self.parameters[index].clone();
                state.push(StateTensor { name, shape, source: Source::Parameter(index) });
            }
            let Some(index) = step.statistics else { continue };
            let channels = vec![self.statistics[index].range.len()];
            for (name, shape, source) in [
                ("running_mean", channels.clone(), Source::RunningMean(index)),
                ("running_var", channels, Source::RunningVariance(index)),
                ("num_batches_tracked", Vec::new(), Source::BatchesTracked(index)),
            ] {
                let name = format!("{}.{name}", step.node.name);
                state.push(StateTensor { name, shape, source });
            }
        }
        state
    }

    fn push(&mut self, node: &Node) -> Result<(), Error> {
        let refuse = |problem: String| Error(format!("{}: {problem}", node.name));
        let expected = if node.operation == Operation::Add { 2 } else { 1 };
        if node.inputs.len() != expected || node.inputs.iter().any(|v| v.0 > self.steps.len()) {
            return Err(refuse(format!("needs {expected} inputs made by earlier operations")));
        }
        let input = self.shape(node.inputs[0]);
        let maps = |input: Shape| match input {
            Shape::Maps { channels, height, width } => Ok((channels, height, width)),
            Shape::Vector { .. } => Err(refuse("needs maps, not a vector".into())),
        };
        let mut step = Step {
            node: node.clone(),
            input,
            output: input,
            parameters: None,
            statistics: None,
            macs: 0,
        };
        match node.operation {
            Operation::Convolution { outputs, kernel, stride, padding } => {
                let (channels, height, width) = maps(input)?;
                if kernel == 0 || stride == 0 || kernel > height.min(width) + 2 * padding {
                    return Err(refuse(format!("filters of {kernel} do not fit {input}")));
                }
                let layer = Convolution { inputs: channels, outputs, kernel, stride, padding };
                let out = layer.output(Map { images: 1, height, width });
                step.output =
                    Shape::Maps { channels: outputs, height: out.height, width: out.width };
                let fan_in = channels * kernel * kernel;
                let shape = vec![outputs, channels, kernel, kernel];
                step.parameters = Some(self.weight_and_bias(&node.name, shape, fan_in));
                step.macs = (layer.weights() * out.pixels()) as u64;
            }
            Operation::BatchNorm { .. } => {
                let (channels, ..) = maps(input)?;
                step.parameters = Some([
                    self.parameter(&node.name, "weight", vec![channels], Role::NormWeight),
                    self.parameter(&node.name, "bias", vec![channels], Role::NormBias),
                ]);
                let start = self.statistic_count();
                step.statistics = Some(self.statistics.len());
                self.statistics
                    .push(Statistics { name: node.name.clone(), range: start..start + channels });
            }
            Operation::Activation(_) => {}
            Operation::Add => {
                let other = self.shape(node.inputs[1]);
                if other != input {
                    return Err(refuse(format!("cannot add {input} and {other}")));
                }
            }
            Operation::AveragePool { size } => {
                let (channels, height, width) = maps(input)?;
                if size == 0 || size > height.min(width) {
                    return Err(refuse(format!("squares of {size} do not fit {input}")));
                }
                let out = pooling::output(size, Map { images: 1, height, width });
                step.output = Shape::Maps { channels, height: out.height, width: out.width };
            }
            Operation::Flatten => {
                maps(input)?;
                step.output = Shape::Vector { features: input.len() };
            }
            Operation::Linear { outputs } => {
                let Shape::Vector { features } = input else {
                    return Err(refuse("needs a vector, not maps: flatten them first".into()));
                };
                step.output = Shape::Vector { features: outputs };
                let shape = vec![outputs, features];
                step.parameters = Some(self.weight_and_bias(&node.name, shape, features));
                step.macs = (outputs * features) as u64;
            }
        }
        self.steps.push(step);
        Ok(())
    }

    fn weight_and_bias(&mut self, name: &str, shape: Vec<usize>, fan_in: usize) -> [usize; 2] {
        let bias = vec![shape[0]];
        [
            self.parameter(name, "weight", shape, Role::Weight { fan_in }),
            self.parameter(name, "bias", bias, Role::Bias { fan_in }),
        ]
    }

    fn parameter(&mut self, layer: &str, name: &str, shape: Vec<usize>, role: Role) -> usize {
        let start = self.parameter_count();
        let range = start..start + shape.iter().product::<usize>();
        self.parameters.push(Parameter { name: format!("{layer}.{name}"), shape, range, role });
        self.parameters.len() - 1
    }

    /// Decides which values, and which gradients, share buffers. Forward step `i` happens at moment
    /// `i`, the loss at moment `n`, the backward of step `i` at moment `2n - i`.
    fn place(&self, training: bool) -> Placement {
        let n = self.steps.len();
        let backward = |step: usize| 2 * n - step;
        let size = |value: usize| self.shape(Value(value)).len();
        let mut values: Vec<Life> = (0..=n)
            .map(|value| {
                let first = value.saturating_sub(1);
                Life { size: size(value), first, last: first }
            })
            .collect();
        let mut keep = |value: usize, moment: usize| {
            values[value].last = values[value].last.max(moment);
        };
        keep(n, n);
        for (i, step) in self.steps.iter().enumerate() {
            for input in &step.node.inputs {
                keep(input.0, i);
            }
            if !training {
                continue;
            }
            match step.node.operation {
                Operation::Convolution { .. }
                | Operation::BatchNorm { .. }
                | Operation::Linear { .. } => keep(step.node.inputs[0].0, backward(i)),
                Operation::Activation(_) => keep(i + 1, backward(i)),
                Operation::Add | Operation::AveragePool { .. } | Operation::Flatten => {}
            }
        }
        let mut lives = values;
        // For each value, and for each input of each step, the life of its gradient.
        let mut gradients: Vec<Option<usize>> = vec![None; n + 1];
        let mut targets: Vec<Vec<Option<usize>>> = vec![Vec::new(); if training { n } else { 0 }];
        let mut ask = |size, first, last| {
            lives.push(Life { size, first, last });
            Some(lives.len() - 1)
        };
        if training {
            gradients[n] = ask(size(n), n, backward(n - 1));
        }
        for (i, targets) in targets.iter_mut().enumerate().rev() {
            for &Value(input) in &self.steps[i].node.inputs {
                let now = backward(i);
                targets.push(match (input, gradients[input]) {
                    (0, _) => None,
                    (_, Some(_)) => ask(size(input), now, now),
                    (_, None) => {
                        gradients[input] = ask(size(input), now, backward(input - 1));
                        gradients[input]
                    }
                });
            }
        }
        let (memory, places) = Memory::place(&lives);
        let target = |value: usize, life: Option<usize>| match (life, gradients[value]) {
            (Some(life), Some(total)) if life == total => Target::Write(places[life]),
            (Some(life), Some(total)) => {
                Target::Add { scratch: places[life], total: places[total] }
            }
            _ => Target::Nowhere,
        };
        Placement {
            memory,
            targets: std::iter::zip(&self.steps, targets)
                .map(|(step, lives)| {
                    std::iter::zip(&step.node.inputs, lives)
                        .map(|(input, life)| target(input.0, life))
                        .collect()
                })
                .collect(),
            gradients: gradients.iter().map(|life| life.map(|life| places[life])).collect(),
            values: places[..=n].to_vec(),
        }
    }
}

impl Step {
    /// The map of a batch of its input; a vector is a map of one pixel.
    pub(crate) fn input_map(&self, images: usize) -> Map {
        match self.input {
            Shape::Maps { height, width, .. } => Map { images, height, width },
            Shape::Vector { .. } => Map { images, height: 1, width: 1 },
        }
    }

    /// The convolution's shape, if it is one.
    pub(crate) fn convolution(&self) -> Option<Convolution> {
        match (self.node.operation, self.input) {
            (
                Operation::Convolution { outputs, kernel, stride, padding },
                Shape::Maps { channels: inputs, .. },
            ) => Some(Convolution { inputs, outputs, kernel, stride, padding }),
            _ => None,
        }
    }

    /// The linear layer's shape, if it is one.
    pub(crate) fn linear(&self) -> Option<Linear> {
        match self.node.operation {
            Operation::Linear { outputs } => Some(Linear { inputs: self.input.len(), outputs }),
            _ => None,
        }
    }
}
