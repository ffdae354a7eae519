//! From a network's list to everything that an engine needs to know before it computes.

use std::ops::Range;

use crescendo_kernels::linear::Linear;
use crescendo_kernels::{ConvAlgorithm, Convolution, MapShape, pooling};
use serde::{Deserialize, Serialize};

use crate::fusion::Fused;
use crate::placement::Placement;
use crate::{Error, Init, Network, Node, Operation, Shape, Value};

/// What a parameter is for; it decides how it is initialised and whether it decays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The weight of a convolution or a linear layer whose outputs are sums of `fan_in` products.
    Weight {
        /// Products in a sum.
        fan_in: usize,
        /// What it is before training.
        init: Init,
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
    /// Whether it is trained; else it stays what it was at first.
    pub trained: bool,
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
    /// Its weight, as an index of [`Plan::parameters`], where it has one.
    pub weight: Option<usize>,
    /// Its bias, which follows the weight, where it has one.
    pub bias: Option<usize>,
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
    /// How it is computed.
    pub compute: Compute,
    /// What is computed, operation into operation.
    pub fused: Fused,
    /// The buffers of training.
    pub training: Placement,
    /// The buffers of inference.
    pub inference: Placement,
}

/// What the section `[engine]` says about how a network is computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compute {
    /// How convolutions are computed.
    pub convolution: ConvolutionChoice,
    /// How training keeps what backward needs.
    pub activations: Storage,
}

/// How convolutions are computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConvolutionChoice {
    /// Each by the method that its shape makes the fastest.
    #[default]
    Auto,
    /// Winograd F(4x4, 3x3) wherever it is possible.
    Winograd4,
    /// Winograd F(2x2, 3x3) wherever it is possible.
    Winograd2,
    /// All directly.
    Direct,
}

impl ConvolutionChoice {
    fn method(self, layer: &Convolution, input: MapShape) -> ConvAlgorithm {
        let method = match self {
            ConvolutionChoice::Auto => return layer.best_algorithm(input),
            ConvolutionChoice::Winograd4 => ConvAlgorithm::Winograd4,
            ConvolutionChoice::Winograd2 => ConvAlgorithm::Winograd2,
            ConvolutionChoice::Direct => ConvAlgorithm::Direct,
        };
        if layer.supports(method) { method } else { ConvAlgorithm::Direct }
    }
}

/// How numbers are kept between forward and backward; arithmetic is in f32 always.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Storage {
    /// As they are.
    #[default]
    F32,
    /// Rounded to their upper halves: half the memory, a thousandth of a number's precision.
    Bf16,
}

impl Plan {
    /// Works out a network.
    ///
    /// # Errors
    /// If shapes do not fit together, or an operation has the wrong number of inputs.
    pub fn new(network: &Network, compute: Compute) -> Result<Plan, Error> {
        let mut plan = Plan {
            input: network.input,
            steps: Vec::new(),
            parameters: Vec::new(),
            statistics: Vec::new(),
            compute,
            fused: Fused::default(),
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
        plan.fused = Fused::new(&plan)?;
        plan.training = Placement::training(&plan);
        plan.inference = Placement::inference(&plan);
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
            for index in step.parameters() {
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
            weight: None,
            bias: None,
            statistics: None,
            macs: 0,
        };
        match node.operation {
            Operation::Convolution { outputs, kernel, stride, padding, bias, init } => {
                let (channels, height, width) = maps(input)?;
                if kernel == 0 || stride == 0 || kernel > height.min(width) + 2 * padding {
                    return Err(refuse(format!("filters of {kernel} do not fit {input}")));
                }
                let layer = Convolution { inputs: channels, outputs, kernel, stride, padding };
                let out = layer.output_shape(MapShape { images: 1, channels, height, width });
                step.output =
                    Shape::Maps { channels: outputs, height: out.height, width: out.width };
                let fan_in = channels * kernel * kernel;
                let shape = vec![outputs, channels, kernel, kernel];
                self.weight_and_bias(&mut step, shape, fan_in, bias, init);
                step.macs = (layer.weight_len() * out.pixels()) as u64;
            }
            Operation::BatchNorm { scale, .. } => {
                let (channels, ..) = maps(input)?;
                let name = &node.name;
                let shape = vec![channels];
                step.weight =
                    Some(self.parameter(name, "weight", shape.clone(), Role::NormWeight, scale));
                step.bias = Some(self.parameter(name, "bias", shape, Role::NormBias, true));
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
            Operation::AveragePool { size } | Operation::MaxPool { size } => {
                let (channels, height, width) = maps(input)?;
                if size == 0 || size > height.min(width) {
                    return Err(refuse(format!("squares of {size} do not fit {input}")));
                }
                let out =
                    pooling::output_shape(size, MapShape { images: 1, channels, height, width });
                step.output = Shape::Maps { channels, height: out.height, width: out.width };
            }
            Operation::Flatten => {
                maps(input)?;
                step.output = Shape::Vector { features: input.len() };
            }
            Operation::Linear { outputs, bias, init } => {
                let Shape::Vector { features } = input else {
                    return Err(refuse("needs a vector, not maps: flatten them first".into()));
                };
                step.output = Shape::Vector { features: outputs };
                let shape = vec![outputs, features];
                self.weight_and_bias(&mut step, shape, features, bias, init);
                step.macs = (outputs * features) as u64;
            }
        }
        self.steps.push(step);
        Ok(())
    }

    fn weight_and_bias(
        &mut self,
        step: &mut Step,
        shape: Vec<usize>,
        fan_in: usize,
        bias: bool,
        init: Init,
    ) {
        let (name, outputs) = (&step.node.name, vec![shape[0]]);
        let (role, trained) = (Role::Weight { fan_in, init }, init != Init::Whitening);
        step.weight = Some(self.parameter(name, "weight", shape, role, trained));
        step.bias =
            bias.then(|| self.parameter(name, "bias", outputs, Role::Bias { fan_in }, true));
    }

    fn parameter(
        &mut self,
        layer: &str,
        name: &str,
        shape: Vec<usize>,
        role: Role,
        trained: bool,
    ) -> usize {
        let start = self.parameter_count();
        let range = start..start + shape.iter().product::<usize>();
        let name = format!("{layer}.{name}");
        self.parameters.push(Parameter { name, shape, range, role, trained });
        self.parameters.len() - 1
    }
}

impl Step {
    /// Its weight and bias, as indices of [`Plan::parameters`].
    pub fn parameters(&self) -> impl Iterator<Item = usize> + use<> {
        [self.weight, self.bias].into_iter().flatten()
    }

    /// The convolution's shape, if it is one.
    pub fn convolution(&self) -> Option<Convolution> {
        match (self.node.operation, self.input) {
            (
                Operation::Convolution { outputs, kernel, stride, padding, .. },
                Shape::Maps { channels: inputs, .. },
            ) => Some(Convolution { inputs, outputs, kernel, stride, padding }),
            _ => None,
        }
    }

    /// How the convolution is computed, if it is one.
    pub fn method(&self, compute: Compute) -> Option<ConvAlgorithm> {
        let input = self.input.maps(1)?;
        Some(compute.convolution.method(&self.convolution()?, input))
    }

    /// The linear layer's shape, if it is one.
    pub(crate) fn linear(&self) -> Option<Linear> {
        match self.node.operation {
            Operation::Linear { outputs, .. } => Some(Linear { inputs: self.input.len(), outputs }),
            _ => None,
        }
    }
}
