//! From a network's description to its graph: shapes, parameters, statistics and state names. Everything
//! here is true of the network on any engine.

use std::ops::Range;

use crate::{Activation, EngineError, Error, Init, Network, Node, Operation, Shape, Value};

/// What a parameter is; it decides how it is initialised and whether weight decay applies to it.
///
/// See the example of [`Graph`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The weight of a convolution or a linear layer.
    Weight {
        /// The number of products in each output's sum.
        fan_in: usize,
        /// How it is initialised.
        init: Init,
    },
    /// The bias of a convolution or a linear layer.
    Bias {
        /// The number of products in each output's sum.
        fan_in: usize,
    },
    /// BatchNorm's weight.
    NormWeight,
    /// BatchNorm's bias.
    NormBias,
}

/// A parameter: a named range of the flat buffers of parameters, gradients and momentum buffers.
///
/// See the example of [`Graph`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Parameter {
    /// Such as `start_layer.0.weight`.
    pub name: String,
    /// PyTorch's shape.
    pub shape: Vec<usize>,
    /// Where it lies in a flat buffer.
    pub range: Range<usize>,
    /// What it is.
    pub role: Role,
    /// Whether it can be trained; otherwise it keeps its initial value.
    pub requires_grad: bool,
}

/// The running statistics of one BatchNorm: a named range of the flat buffers of means and variances.
///
/// See the example of [`Graph`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Statistics {
    /// The layer's name, such as `start_layer.1`.
    pub name: String,
    /// Where it lies in a flat buffer.
    pub range: Range<usize>,
}

/// One tensor of PyTorch's state: what a checkpoint holds.
///
/// See the example of [`Graph`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StateTensor {
    /// Such as `start_layer.1.running_mean`.
    pub name: String,
    /// PyTorch's shape; empty for a single number.
    pub shape: Vec<usize>,
    /// What it is.
    pub kind: StateKind,
}

/// What a tensor of the state is.
///
/// See the example of [`Graph`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateKind {
    /// An index of [`Graph::parameters`].
    Parameter(usize),
    /// The running mean of an index of [`Graph::statistics`].
    RunningMean(usize),
    /// The running variance of an index of [`Graph::statistics`].
    RunningVariance(usize),
    /// How many batches an index of [`Graph::statistics`] has seen.
    BatchesTracked(usize),
}

impl StateKind {
    /// Whether it is a count, not numbers of a model.
    pub fn is_count(self) -> bool {
        matches!(self, StateKind::BatchesTracked(_))
    }
}

/// One operation of a [`Graph`], with everything that follows from its place in the network.
///
/// See the example of [`Graph`].
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct GraphNode {
    /// See [`Node::name`].
    pub name: String,
    /// What it computes.
    pub operation: Operation,
    /// What it reads.
    pub inputs: Vec<Value>,
    /// The shape of its first input.
    pub input: Shape,
    /// The shape of its output.
    pub output: Shape,
    /// Its weight, as an index of [`Graph::parameters`].
    pub weight: Option<usize>,
    /// Its bias, as an index of [`Graph::parameters`]; it follows the weight.
    pub bias: Option<usize>,
    /// Its running statistics, as an index of [`Graph::statistics`].
    pub statistics: Option<usize>,
    /// Multiply-accumulate operations with parameters in the forward pass of one image.
    pub macs: u64,
}

/// A checked network: operations with their shapes, parameters and statistics. Values are numbered as in
/// [`Network`], and node `i` computes `Value(i + 1)`.
///
/// # Example
///
/// ```
/// use crescendo_network::{Graph, NetworkConfig, Role, Shape, StateKind};
///
/// let images = Shape::Maps { channels: 3, height: 32, width: 32 };
/// let config = NetworkConfig { blocks: vec![1], widths: vec![8], ..NetworkConfig::paper() };
/// let graph = Graph::new(&config.network(images)?)?;
///
/// let first = &graph.nodes[0];
/// assert_eq!((first.name.as_str(), first.output.to_string()), ("start_layer.0", "8x32x32".into()));
/// let weight = &graph.parameters[first.weight.unwrap()];
/// assert_eq!((weight.name.as_str(), &weight.shape[..]), ("start_layer.0.weight", &[8, 3, 3, 3][..]));
/// assert!(matches!(weight.role, Role::Weight { fan_in: 27, .. }));
/// assert_eq!(weight.range, 0..8 * 27);
/// assert_eq!(first.macs, 8 * 27 * 32 * 32);
///
/// // BatchNorm's running statistics are in a checkpoint too.
/// let state = graph.state();
/// let mean = state.iter().find(|tensor| tensor.name == "start_layer.1.running_mean").unwrap();
/// let StateKind::RunningMean(index) = mean.kind else { panic!("a mean is no {:?}", mean.kind) };
/// let statistics = &graph.statistics[index];
/// assert_eq!((statistics.name.as_str(), statistics.range.len()), ("start_layer.1", 8));
/// # Ok::<(), crescendo_network::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Graph {
    /// The shape of an image.
    pub input: Shape,
    /// The operations in order.
    pub nodes: Vec<GraphNode>,
    /// All parameters in the order of PyTorch's state.
    pub parameters: Vec<Parameter>,
    /// All running statistics in that order.
    pub statistics: Vec<Statistics>,
}

/// The most parameters of a network. Like the limits below, far more than any computer has room or time for, and little
/// enough that sums and sizes in bytes do not overflow.
const MOST_PARAMETERS: usize = 1 << 40;
/// The most products of an operation for one image.
const MOST_MACS: usize = 1 << 48;
/// The most numbers of a value for one image.
const MOST_NUMBERS: usize = 1 << 28;
/// The most rows and columns of zeros around the input of a convolution.
const MAX_PADDING: usize = 1 << 10;

impl Graph {
    /// Checks a network and works out its shapes and parameters.
    ///
    /// # Errors
    /// If shapes do not fit together, a number is out of range, an operation has the wrong number of inputs, an output
    /// is not read, two operations have the same name, or the last output is not a vector.
    pub fn new(network: &Network) -> Result<Graph, Error> {
        let mut graph = Graph {
            input: network.input,
            nodes: Vec::new(),
            parameters: Vec::new(),
            statistics: Vec::new(),
        };
        for node in &network.nodes {
            graph.push(node)?;
        }
        for (index, node) in network.nodes.iter().enumerate() {
            let used = network.nodes.iter().any(|other| other.inputs.contains(&Value(index + 1)));
            if !used && index + 1 < network.nodes.len() {
                return Err(Error(format!(
                    "{}: no operation reads its output: connect or remove it",
                    node.name
                )));
            }
            if network.nodes[..index].iter().any(|other| other.name == node.name) {
                return Err(Error(format!(
                    "{}: two operations have this name: rename one",
                    node.name
                )));
            }
        }
        if !matches!(graph.nodes.last().map(|node| node.output), Some(Shape::Vector { .. })) {
            return Err(Error("the network must end in a vector of logits".into()));
        }
        Ok(graph)
    }

    /// The shape of a value.
    ///
    /// # Panics
    /// If there is no such value.
    pub fn shape(&self, value: Value) -> Shape {
        if value.0 == 0 { self.input } else { self.nodes[value.0 - 1].output }
    }

    /// How many numbers all parameters have together.
    pub fn parameter_count(&self) -> usize {
        self.parameters.last().map_or(0, |p| p.range.end)
    }

    /// Where the weight and the bias of an operation lie in a flat buffer: next to each other.
    ///
    /// # Panics
    /// If there is no such operation, or it has no weight.
    pub fn parameter_range(&self, node: usize) -> Range<usize> {
        let weight = self.nodes[node].weight.expect("it has a weight");
        let last = self.nodes[node].bias.unwrap_or(weight);
        self.parameters[weight].range.start..self.parameters[last].range.end
    }

    /// How many channels all running statistics have together.
    pub fn statistic_count(&self) -> usize {
        self.statistics.last().map_or(0, |s| s.range.end)
    }

    /// Multiply-accumulate operations with parameters in the forward pass of one image.
    pub fn forward_macs(&self) -> u64 {
        self.nodes.iter().map(|node| node.macs).sum()
    }

    /// Floating-point operations to train on one image: a multiplication and an addition for each product,
    /// in the forward pass, the gradient of the inputs and the gradient of the weights.
    pub fn training_flops(&self) -> u64 {
        6 * self.forward_macs()
    }

    /// The number of classes: the length of the logits.
    pub fn classes(&self) -> usize {
        self.nodes.last().map_or(0, |node| node.output.len())
    }

    /// Checks that another graph is of the same network, for images of this or another size.
    ///
    /// # Errors
    /// If its operations or parameters differ.
    pub fn check_same_network(&self, other: &Graph) -> Result<(), EngineError> {
        let names = |graph: &Graph| -> Vec<String> {
            graph.nodes.iter().map(|node| node.name.clone()).collect()
        };
        if other.parameters == self.parameters && names(other) == names(self) {
            return Ok(());
        }
        Err(EngineError::Unsupported(
            "an engine cannot change to a graph with other operations or parameters".into(),
        ))
    }

    /// The tensors of a checkpoint in the order of PyTorch's state, layer by layer.
    pub fn state(&self) -> Vec<StateTensor> {
        let mut state = Vec::new();
        for node in &self.nodes {
            for index in node.parameters() {
                let Parameter { name, shape, .. } = self.parameters[index].clone();
                state.push(StateTensor { name, shape, kind: StateKind::Parameter(index) });
            }
            let Some(index) = node.statistics else { continue };
            let channels = vec![self.statistics[index].range.len()];
            for (name, shape, kind) in [
                ("running_mean", channels.clone(), StateKind::RunningMean(index)),
                ("running_var", channels, StateKind::RunningVariance(index)),
                ("num_batches_tracked", Vec::new(), StateKind::BatchesTracked(index)),
            ] {
                let name = format!("{}.{name}", node.name);
                state.push(StateTensor { name, shape, kind });
            }
        }
        state
    }

    fn push(&mut self, node: &Node) -> Result<(), Error> {
        let refuse = |problem: String| Error(format!("{}: {problem}", node.name));
        let expected = if node.operation == Operation::Add { 2 } else { 1 };
        if node.inputs.len() != expected || node.inputs.iter().any(|v| v.0 > self.nodes.len()) {
            let plural = if expected == 1 { "" } else { "s" };
            return Err(refuse(format!("needs {expected} input{plural} from earlier operations")));
        }
        let input = self.shape(node.inputs[0]);
        let maps = |input: Shape| match input {
            Shape::Maps { channels, height, width } => Ok((channels, height, width)),
            Shape::Vector { .. } => Err(refuse("needs maps, not a vector".into())),
        };
        let mut graph_node = GraphNode {
            name: node.name.clone(),
            operation: node.operation,
            inputs: node.inputs.clone(),
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
                if padding > MAX_PADDING {
                    return Err(refuse(format!("padding must be at most {MAX_PADDING}")));
                }
                if outputs == 0 || kernel == 0 || stride == 0 {
                    return Err(refuse("outputs, kernel and stride must be at least 1".into()));
                }
                if kernel > height.min(width) + 2 * padding {
                    return Err(refuse(format!("filters of {kernel} do not fit {input}")));
                }
                self.check_parameters(&[outputs, channels, kernel, kernel]).map_err(refuse)?;
                let patches = 2 * channels * kernel * kernel;
                let whitens = node.inputs[0] == Value(0) && padding == 0 && outputs == patches;
                if init == Init::Whitening && !whitens {
                    return Err(refuse(format!(
                        "whitening filters must read the images without padding and have {patches} \
                         outputs"
                    )));
                }
                let out = |side: usize| (side + 2 * padding - kernel) / stride + 1;
                let (height, width) = (out(height), out(width));
                graph_node.output = Shape::Maps { channels: outputs, height, width };
                let fan_in = channels * kernel * kernel;
                let shape = vec![outputs, channels, kernel, kernel];
                self.weight_and_bias(&mut graph_node, shape, fan_in, bias, init);
                let macs = (outputs * fan_in).checked_mul(height * width);
                let macs = macs.filter(|&macs| macs <= MOST_MACS);
                graph_node.macs =
                    macs.ok_or_else(|| refuse(format!("more than {MOST_MACS} products")))? as u64;
            }
            Operation::BatchNorm { eps, scale, new_weight } => {
                let (channels, ..) = maps(input)?;
                if !(eps > 0.0 && eps < 1.0) {
                    return Err(refuse(format!("eps must be above 0 and below 1, but is {eps}")));
                }
                if !(0.0..=1.0).contains(&new_weight) {
                    let problem = format!("new_weight must be from 0 to 1, but is {new_weight}");
                    return Err(refuse(problem));
                }
                let name = &node.name;
                let shape = vec![channels];
                graph_node.weight =
                    Some(self.parameter(name, "weight", shape.clone(), Role::NormWeight, scale));
                graph_node.bias = Some(self.parameter(name, "bias", shape, Role::NormBias, true));
                let start = self.statistic_count();
                graph_node.statistics = Some(self.statistics.len());
                self.statistics
                    .push(Statistics { name: node.name.clone(), range: start..start + channels });
            }
            Operation::Activation(Activation::LeakyRelu { slope })
                if !(0.0..1.0).contains(&slope) =>
            {
                let problem = format!("its slope must be at least 0 and below 1, but is {slope}");
                return Err(refuse(problem));
            }
            Operation::Activation(Activation::Scale { factor }) if !factor.is_finite() => {
                return Err(refuse(format!("its factor must be a number, but is {factor}")));
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
                let (height, width) = (height / size, width / size);
                graph_node.output = Shape::Maps { channels, height, width };
            }
            Operation::Flatten => {
                maps(input)?;
                graph_node.output = Shape::Vector { features: input.len() };
            }
            Operation::Linear { outputs, bias, init } => {
                let Shape::Vector { features } = input else {
                    return Err(refuse("needs a vector, not maps: flatten them first".into()));
                };
                if matches!(init, Init::Dirac | Init::Whitening) {
                    return Err(refuse("its init is for convolutions: use uniform or unit".into()));
                }
                if outputs == 0 {
                    return Err(refuse("outputs must be at least 1".into()));
                }
                self.check_parameters(&[outputs, features]).map_err(refuse)?;
                graph_node.output = Shape::Vector { features: outputs };
                let shape = vec![outputs, features];
                self.weight_and_bias(&mut graph_node, shape, features, bias, init);
                graph_node.macs = (outputs * features) as u64;
            }
        }
        if graph_node.output.len() > MOST_NUMBERS {
            return Err(refuse(format!("an output of more than {MOST_NUMBERS} numbers")));
        }
        self.nodes.push(graph_node);
        Ok(())
    }

    /// Whether a weight of this shape can be added: numbers that are computed from it do not overflow then.
    fn check_parameters(&self, shape: &[usize]) -> Result<(), String> {
        let count = shape.iter().try_fold(1usize, |count, &size| count.checked_mul(size));
        match count
            .filter(|&count| count <= MOST_PARAMETERS && self.parameter_count() <= MOST_PARAMETERS)
        {
            Some(_) => Ok(()),
            None => Err(format!("more than {MOST_PARAMETERS} parameters")),
        }
    }

    fn weight_and_bias(
        &mut self,
        node: &mut GraphNode,
        shape: Vec<usize>,
        fan_in: usize,
        bias: bool,
        init: Init,
    ) {
        let (name, outputs) = (&node.name, vec![shape[0]]);
        let (role, requires_grad) = (Role::Weight { fan_in, init }, init != Init::Whitening);
        node.weight = Some(self.parameter(name, "weight", shape, role, requires_grad));
        node.bias =
            bias.then(|| self.parameter(name, "bias", outputs, Role::Bias { fan_in }, true));
    }

    fn parameter(
        &mut self,
        layer: &str,
        name: &str,
        shape: Vec<usize>,
        role: Role,
        requires_grad: bool,
    ) -> usize {
        let start = self.parameter_count();
        let range = start..start + shape.iter().product::<usize>();
        let name = format!("{layer}.{name}");
        self.parameters.push(Parameter { name, shape, range, role, requires_grad });
        self.parameters.len() - 1
    }
}

impl GraphNode {
    /// Its weight and bias, as indices of [`Graph::parameters`].
    pub fn parameters(&self) -> impl Iterator<Item = usize> + use<> {
        [self.weight, self.bias].into_iter().flatten()
    }
}
