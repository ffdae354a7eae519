//! What a network is: a list of operations, each on values that earlier ones made.

use crescendo_kernels::{ActivationFunction as Activation, MapShape};
use serde::{Deserialize, Serialize};

/// The shape of one image's value; a batch has as many.
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
    /// Numbers in it.
    pub fn len(self) -> usize {
        match self {
            Shape::Maps { channels, height, width } => channels * height * width,
            Shape::Vector { features } => features,
        }
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// A batch of it, as the kernels know maps; `None` for a vector.
    pub fn maps(self, images: usize) -> Option<MapShape> {
        match self {
            Shape::Maps { channels, height, width } => {
                Some(MapShape { images, channels, height, width })
            }
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

/// What an operation computes. Sizes of its input are not repeated here: they follow from the list.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Operation {
    /// A convolution with square filters.
    Convolution {
        /// Channels that come out.
        outputs: usize,
        /// Rows and columns of a filter.
        kernel: usize,
        /// Pixels between neighbouring outputs.
        stride: usize,
        /// Zeros around the input.
        padding: usize,
        /// Whether a bias is added.
        bias: bool,
        /// What the filters are before training.
        init: Init,
    },
    /// BatchNorm with weight and bias.
    BatchNorm {
        /// Added to the variance.
        eps: f64,
        /// Whether the weight is trained; else it stays 1.
        scale: bool,
        /// The weight of the new batch in the running statistics:
        /// `running = (1 - new_weight) * running + new_weight * batch`.
        new_weight: f64,
    },
    /// A function of each number.
    Activation(Activation),
    /// The sum of two values of one shape.
    Add,
    /// The mean over squares of pixels.
    AveragePool {
        /// Rows and columns of a square; also the distance between them.
        size: usize,
    },
    /// The largest number of squares of pixels.
    MaxPool {
        /// Rows and columns of a square; also the distance between them.
        size: usize,
    },
    /// From maps to a vector, channel by channel.
    Flatten,
    /// A linear layer.
    Linear {
        /// Features that come out.
        outputs: usize,
        /// Whether a bias is added.
        bias: bool,
        /// What the weight is before training.
        init: Init,
    },
}

/// What a weight is before training. Biases always are uniform within `1 / sqrt(fan_in)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Init {
    /// Uniform within `1 / sqrt(fan_in)`: PyTorch's own (`kaiming_uniform` with `a = sqrt(5)`).
    Uniform,
    /// The first filters pass their channel of the input on, as PyTorch's `dirac`; those beyond the
    /// input's channels are uniform.
    Dirac,
    /// Uniform, then brought to a standard deviation of 1.
    Unit,
    /// Filters that whiten the images' patches, which stay as they are: see
    /// [`Plan::whiten`](crate::Plan::whiten). Uniform until they are computed.
    #[serde(skip)]
    Whitening,
}

/// A value: the images that go in, or what an operation makes. `Value(0)` is the images, and
/// `Value(i + 1)` is made by operation `i` of the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Value(pub usize);

/// One operation of a network.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// The name under which its parameters are saved, such as `start_layer.0`; for an operation
    /// without parameters, a name for people.
    pub name: String,
    /// What it computes.
    pub operation: Operation,
    /// What it computes it from: two values for [`Operation::Add`], one for all others.
    pub inputs: Vec<Value>,
}

/// A network: the shape of an image, and the operations in the order of their computation. The
/// last one makes the logits.
#[derive(Clone, Debug, PartialEq)]
pub struct Network {
    /// The shape of an image.
    pub input: Shape,
    /// The operations.
    pub nodes: Vec<Node>,
}

/// Writes a network's list, operation after operation.
pub struct Builder(Network);

impl Builder {
    /// The images' shape first.
    pub fn new(input: Shape) -> Self {
        Builder(Network { input, nodes: Vec::new() })
    }

    /// The images.
    pub fn images(&self) -> Value {
        Value(0)
    }

    /// Adds an operation, and returns the value it makes.
    pub fn add(
        &mut self,
        name: impl Into<String>,
        operation: Operation,
        inputs: impl Into<Vec<Value>>,
    ) -> Value {
        self.0.nodes.push(Node { name: name.into(), operation, inputs: inputs.into() });
        Value(self.0.nodes.len())
    }

    /// The finished list.
    pub fn finish(self) -> Network {
        self.0
    }
}
