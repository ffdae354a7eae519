//! What a network is: a list of operations, each reading values that earlier ones produced.

use serde::{Deserialize, Serialize};

use crate::written::WrittenNode;

/// The shape of a value for one image. A batch of `n` images has `n` of them.
///
/// # Example
///
/// ```
/// use crescendo_network::Shape;
///
/// let images = Shape::Maps { channels: 3, height: 32, width: 32 };
/// assert_eq!((images.len(), images.maps()), (3072, Some([3, 32, 32])));
/// let logits = Shape::Vector { features: 10 };
/// assert_eq!((logits.len(), logits.maps()), (10, None));
/// assert_eq!(format!("from {images} to {logits}"), "from 3x32x32 to 10");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Feature maps.
    Maps {
        /// How many maps.
        channels: usize,
        /// Rows of each.
        height: usize,
        /// Columns of each.
        width: usize,
    },
    /// A vector of features.
    Vector {
        /// Its length.
        features: usize,
    },
}

impl Shape {
    /// How many numbers it has.
    pub fn len(self) -> usize {
        match self {
            Shape::Maps { channels, height, width } => channels * height * width,
            Shape::Vector { features } => features,
        }
    }

    /// Whether it has no numbers.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// Channels, height and width; `None` for a vector.
    pub fn maps(self) -> Option<[usize; 3]> {
        match self {
            Shape::Maps { channels, height, width } => Some([channels, height, width]),
            Shape::Vector { .. } => None,
        }
    }
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            Shape::Maps { channels, height, width } => write!(f, "{channels}x{height}x{width}"),
            Shape::Vector { features } => write!(f, "{features}"),
        }
    }
}

/// An element-wise function.
///
/// See the example of [`NetworkBuilder`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Activation {
    /// `max(x, 0)`.
    Relu,
    /// `x` where positive, `slope * x` elsewhere.
    LeakyRelu {
        /// At least 0 and below 1.
        slope: f32,
    },
    /// `x` where positive, `exp(x) - 1` elsewhere (arXiv 1511.07289).
    Elu,
    /// `1 / (1 + exp(-x))`.
    Sigmoid,
    /// `x / (1 + exp(-x))` (arXiv 1702.03118).
    Silu,
    /// `x * Phi(x)` with the normal distribution's `Phi` (arXiv 1606.08415), not its tanh approximation.
    Gelu,
    /// `factor * x`: scales the logits.
    Scale {
        /// Any finite number.
        factor: f32,
    },
}

impl Activation {
    /// Whether the derivative is a function of the function's output, so that its input need not be saved.
    pub fn derivative_from_output(self) -> bool {
        !matches!(self, Activation::Silu | Activation::Gelu)
    }
}

/// What an operation computes. The sizes of its input are not repeated here: they follow from the
/// operations before it.
///
/// See the example of [`NetworkBuilder`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Operation {
    /// A convolution with square filters (cross-correlation, as in PyTorch).
    Convolution {
        /// Output channels.
        outputs: usize,
        /// Rows and columns of a filter.
        kernel: usize,
        /// Pixels between neighbouring outputs.
        stride: usize,
        /// Rows and columns of zeros around the input.
        padding: usize,
        /// Whether a bias is added.
        bias: bool,
        /// How the filters are initialised.
        init: Init,
    },
    /// BatchNorm (arXiv 1502.03167) with weight and bias.
    BatchNorm {
        /// Added to the variance.
        eps: f64,
        /// Whether the weight is trained; otherwise it stays 1.
        scale: bool,
        /// The weight of the new batch in the running statistics:
        /// `running = (1 - new_weight) * running + new_weight * batch`.
        new_weight: f64,
    },
    /// An element-wise function.
    Activation(Activation),
    /// The sum of two values of the same shape.
    Add,
    /// Average pooling over squares that do not overlap.
    AveragePool {
        /// Rows and columns of a square, and the stride.
        size: usize,
    },
    /// Max-pooling over squares that do not overlap.
    MaxPool {
        /// Rows and columns of a square, and the stride.
        size: usize,
    },
    /// From maps to a vector, channel by channel.
    Flatten,
    /// A linear layer.
    Linear {
        /// Output features.
        outputs: usize,
        /// Whether a bias is added.
        bias: bool,
        /// How the weight is initialised.
        init: Init,
    },
}

/// How a weight is initialised. Biases are always uniform within `1 / sqrt(fan_in)`.
///
/// See the example of [`NetworkBuilder`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Init {
    /// Uniform within `1 / sqrt(fan_in)`: PyTorch's default (`kaiming_uniform` with `a = sqrt(5)`).
    Uniform,
    /// Filter `i` is 1 at the centre of input channel `i`, as PyTorch's `dirac_`; filters beyond the
    /// number of input channels are uniform.
    Dirac,
    /// Uniform, then scaled to a standard deviation of 1.
    Unit,
    /// Frozen filters that whiten the patches of the training images: see
    /// [`Graph::whiten`](crate::Graph::whiten). Uniform until they are computed.
    #[serde(skip)]
    Whitening,
}

/// A value: the images, or the output of an operation. `Value(0)` is the images, and `Value(i + 1)` is the
/// output of operation `i` of the list.
///
/// See the example of [`NetworkBuilder`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Value(pub usize);

/// One operation of a network.
///
/// Written in a recipe or a checkpoint it is one table, with the keys of its kind of operation and no others:
///
/// ```
/// use crescendo_network::{Node, Operation, Value};
///
/// let text = r#"{ "name": "pool", "operation": "max_pool", "size": 2, "inputs": [3] }"#;
/// let node: Node = serde_json::from_str(text)?;
/// let operation = Operation::MaxPool { size: 2 };
/// assert_eq!(node, Node { name: "pool".into(), operation, inputs: vec![Value(3)] });
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "WrittenNode", into = "WrittenNode")]
pub struct Node {
    /// The name under which its parameters are saved, such as `start_layer.0`; for an operation without
    /// parameters, a name for display.
    pub name: String,
    /// What it computes.
    pub operation: Operation,
    /// What it reads: two values for [`Operation::Add`], one for all others.
    pub inputs: Vec<Value>,
}

/// The description of a network: the shape of an image, and the operations in the order in which they are
/// computed. The last one produces the logits. [`Graph::new`](crate::Graph::new) checks it and works out
/// shapes and parameters.
///
/// # Example
///
/// ```
/// use crescendo_network::{Graph, Init, Network, Node, Operation, Shape, Value};
///
/// let node = |name: &str, operation, input| {
///     Node { name: name.into(), operation, inputs: vec![Value(input)] }
/// };
/// let mut network = Network {
///     input: Shape::Maps { channels: 3, height: 8, width: 8 },
///     nodes: vec![
///         node("pool", Operation::AveragePool { size: 4 }, 0),
///         node("flatten", Operation::Flatten, 1),
///         node("logits", Operation::Linear { outputs: 2, bias: true, init: Init::Uniform }, 2),
///     ],
/// };
/// assert_eq!(Graph::new(&network)?.parameter_count(), 2 * (3 * 2 * 2) + 2);
///
/// network.nodes[2].inputs = vec![Value(1)];
/// let error = Graph::new(&network).unwrap_err();
/// assert_eq!(error.to_string(), "logits: needs a vector, not maps: flatten them first");
/// # Ok::<(), crescendo_network::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Network {
    /// The shape of an image.
    pub input: Shape,
    /// The operations.
    pub nodes: Vec<Node>,
}

/// Builds a [`Network`], one operation after another.
///
/// # Example
///
/// ```
/// use crescendo_network::{Activation, Graph, Init, NetworkBuilder, Operation, Shape};
///
/// let mut builder = NetworkBuilder::new(Shape::Maps { channels: 1, height: 28, width: 28 });
/// let images = builder.images();
/// let convolution = Operation::Convolution {
///     outputs: 8,
///     kernel: 3,
///     stride: 1,
///     padding: 1,
///     bias: false,
///     init: Init::Uniform,
/// };
/// let batch_norm = Operation::BatchNorm { eps: 1e-5, scale: true, new_weight: 0.1 };
/// let relu = Operation::Activation(Activation::Relu);
/// let start = builder.add("conv1", convolution, [images]);
/// // A residual block.
/// let x = builder.add("bn", batch_norm, [start]);
/// let x = builder.add("relu1", relu, [x]);
/// let x = builder.add("conv2", convolution, [x]);
/// let x = builder.add("sum", Operation::Add, [x, start]);
/// let x = builder.add("relu2", relu, [x]);
/// let x = builder.add("pool", Operation::MaxPool { size: 7 }, [x]);
/// let x = builder.add("flatten", Operation::Flatten, [x]);
/// builder.add("logits", Operation::Linear { outputs: 10, bias: true, init: Init::Uniform }, [x]);
/// let graph = Graph::new(&builder.finish())?;
/// let (convolutions, norm, linear) = (8 * 9 + 8 * 8 * 9, 2 * 8, 8 * 4 * 4 * 10 + 10);
/// assert_eq!(graph.parameter_count(), convolutions + norm + linear);
/// # Ok::<(), crescendo_network::Error>(())
/// ```
pub struct NetworkBuilder(Network);

impl NetworkBuilder {
    /// An empty network for images of this shape.
    pub fn new(input: Shape) -> Self {
        NetworkBuilder(Network { input, nodes: Vec::new() })
    }

    /// The images.
    pub fn images(&self) -> Value {
        Value(0)
    }

    /// Adds an operation and returns its output.
    pub fn add(
        &mut self,
        name: impl Into<String>,
        operation: Operation,
        inputs: impl Into<Vec<Value>>,
    ) -> Value {
        self.0.nodes.push(Node { name: name.into(), operation, inputs: inputs.into() });
        Value(self.0.nodes.len())
    }

    /// The finished description.
    pub fn finish(self) -> Network {
        self.0
    }
}
