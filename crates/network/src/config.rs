//! A network as a recipe describes it: the keys of the section `[network]`.

use serde::{Deserialize, Serialize};

use crate::{Activation, Init, NetworkBuilder, Node, Operation, Value};

/// The section `[network]` of a recipe. Every key is described in the recipe `report`.
///
/// # Example
///
/// ```
/// use crescendo_network::{
///     ActivationKind, Family, Graph, Head, HeadActivation, MomentumConvention, NetworkConfig, Norm, Shape,
/// };
///
/// let images = Shape::Maps { channels: 3, height: 32, width: 32 };
/// let paper = NetworkConfig::paper();
/// let small = NetworkConfig {
///     family: Family::Resnet,
///     blocks: vec![1, 2],
///     widths: vec![8, 16],
///     activation: ActivationKind::Relu,
///     norm: Norm {
///         momentum: 0.9,
///         momentum_convention: MomentumConvention::Tensorflow,
///         ..paper.norm.clone()
///     },
///     head: Head { hidden: 32, activation: HeadActivation::Same, ..paper.head.clone() },
///     ..paper
/// };
/// assert!((small.norm.new_weight() - 0.1).abs() < 1e-9);
/// assert_eq!(small.summary(), "resnet, widths 8, 16, blocks 1, 2");
/// let graph = Graph::new(&small.network(images)?)?;
/// // The second stack halves the maps, and the head pools over squares of 2x2.
/// let hidden = graph.parameters.iter().find(|parameter| parameter.shape.len() == 2).unwrap();
/// assert_eq!((graph.classes(), &hidden.shape[..]), (10, &[32, 16 * 8 * 8][..]));
///
/// let uneven = NetworkConfig { widths: vec![8], ..small };
/// let error = uneven.network(images).unwrap_err();
/// assert_eq!(
///     error.to_string(),
///     "network.widths has 1 entries but network.blocks has 2: give one of each for every stack"
/// );
/// # Ok::<(), crescendo_network::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkConfig {
    /// The network's family.
    pub family: Family,
    /// In each stack: residual blocks (`resnet`) or convolutions (`airbench`).
    pub blocks: Vec<usize>,
    /// Channels of each stack.
    pub widths: Vec<usize>,
    /// Classes: the length of the logits.
    pub classes: usize,
    /// The activation after every convolution and block.
    pub activation: ActivationKind,
    /// The slope of `leaky_relu` below zero.
    pub leaky_slope: f64,
    /// Rows and columns of the whitening filters of `airbench`; 0 for `resnet`, which has none.
    pub whitening: usize,
    /// Whether convolutions and the last layer have biases. Whitening filters always have one.
    pub bias: bool,
    /// How the filters of convolutions are initialised.
    pub init: Init,
    /// BatchNorm.
    pub norm: Norm,
    /// The classification head.
    pub head: Head,
    /// The operations of the family `custom`; empty for all others, and not written then.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub operations: Vec<Node>,
}

/// Families of networks.
///
/// See the example of [`NetworkConfig`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// The paper's: a start layer, stacks of standard residual blocks, a head.
    Resnet,
    /// Keller Jordan's airbench networks (arXiv 2404.00498): whitening filters, stacks of convolutions with
    /// max-pooling, a linear layer.
    Airbench,
    /// Any network, as a list of operations.
    Custom,
}

/// Activations between convolutions.
///
/// See the example of [`NetworkConfig`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ActivationKind {
    /// `x` where positive, `leaky_slope * x` elsewhere.
    LeakyRelu,
    /// `max(x, 0)`.
    Relu,
    /// `x` where positive, `exp(x) - 1` elsewhere.
    Elu,
    /// `x * Phi(x)`, with the normal distribution's `Phi` (not its tanh approximation).
    Gelu,
    /// `x / (1 + exp(-x))`.
    Silu,
}

/// BatchNorm, `[network.norm]`.
///
/// See the example of [`NetworkConfig`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Norm {
    /// Added to the variance.
    pub eps: f64,
    /// The momentum of the running statistics, in the convention of `momentum_convention`.
    pub momentum: f64,
    /// What `momentum` multiplies.
    pub momentum_convention: MomentumConvention,
    /// Whether the weight is trained; otherwise it stays 1.
    pub scale: bool,
    /// Ghost BatchNorm (Hoffer et al. 2017, arXiv 1705.08741): how many images share statistics in
    /// training; 0 for the whole batch.
    pub ghost: usize,
}

/// What the momentum of running statistics multiplies: libraries disagree.
///
/// See the example of [`NetworkConfig`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum MomentumConvention {
    /// The new batch: `running = (1 - momentum) * running + momentum * batch`.
    Pytorch,
    /// The old value: `running = momentum * running + (1 - momentum) * batch`.
    Tensorflow,
}

impl Norm {
    /// The weight of the new batch, whatever the convention.
    pub fn new_weight(&self) -> f64 {
        match self.momentum_convention {
            MomentumConvention::Pytorch => self.momentum,
            MomentumConvention::Tensorflow => 1.0 - self.momentum,
        }
    }
}

/// The head, `[network.head]`: pooling, flattening, one or two linear layers.
///
/// See the example of [`NetworkConfig`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// Rows and columns of the squares of average pooling (`resnet`) or max-pooling (`airbench`).
    pub pool: usize,
    /// Features of the hidden linear layer; 0 for none.
    pub hidden: usize,
    /// The activation after the hidden layer.
    pub activation: HeadActivation,
    /// How the last layer's weight is initialised.
    pub init: Init,
    /// What the logits are multiplied by.
    pub scale: f64,
}

/// Activations of the head's hidden layer.
///
/// See the example of [`NetworkConfig`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum HeadActivation {
    /// `1 / (1 + exp(-x))`.
    Sigmoid,
    /// The network's `activation`.
    Same,
}

impl NetworkConfig {
    /// The network in a few words: `resnet, widths 16, 32, 64, blocks 9, 9, 9`.
    pub fn summary(&self) -> String {
        let list =
            |numbers: &[usize]| numbers.iter().map(usize::to_string).collect::<Vec<_>>().join(", ");
        let (widths, blocks) = (list(&self.widths), list(&self.blocks));
        match self.family {
            Family::Resnet => format!("resnet, widths {widths}, blocks {blocks}"),
            Family::Airbench => format!("airbench, widths {widths}, blocks {blocks}"),
            Family::Custom => format!("custom, {} operations", self.operations.len()),
        }
    }

    /// The paper's network: 17,392,394 parameters for images of 3x32x32.
    pub fn paper() -> Self {
        NetworkConfig {
            family: Family::Resnet,
            blocks: vec![6, 6, 6],
            widths: vec![64, 128, 256],
            classes: 10,
            activation: ActivationKind::LeakyRelu,
            leaky_slope: 0.01,
            whitening: 0,
            bias: true,
            init: Init::Uniform,
            norm: Norm {
                eps: 1e-5,
                momentum: 0.997,
                momentum_convention: MomentumConvention::Pytorch,
                scale: true,
                ghost: 0,
            },
            head: Head {
                pool: 2,
                hidden: 2048,
                activation: HeadActivation::Sigmoid,
                init: Init::Uniform,
                scale: 1.0,
            },
            operations: Vec::new(),
        }
    }

    /// The activation as an operation.
    pub(crate) fn activation(&self) -> Activation {
        match self.activation {
            ActivationKind::LeakyRelu => Activation::LeakyRelu { slope: self.leaky_slope as f32 },
            ActivationKind::Relu => Activation::Relu,
            ActivationKind::Elu => Activation::Elu,
            ActivationKind::Gelu => Activation::Gelu,
            ActivationKind::Silu => Activation::Silu,
        }
    }

    /// BatchNorm as an operation.
    pub(crate) fn batch_norm(&self) -> Operation {
        let Norm { eps, scale, .. } = self.norm;
        Operation::BatchNorm { eps, scale, new_weight: self.norm.new_weight() }
    }

    /// A convolution that keeps the maps' size, or divides it by `stride`.
    pub(crate) fn convolution(&self, outputs: usize, kernel: usize, stride: usize) -> Operation {
        let NetworkConfig { bias, init, .. } = *self;
        Operation::Convolution { outputs, kernel, stride, padding: kernel / 2, bias, init }
    }

    /// Adds the last layer, and the scaling of the logits if the factor is not 1, under these names.
    pub(crate) fn add_classifier(
        &self,
        builder: &mut NetworkBuilder,
        [layer, scaled]: [&str; 2],
        features: Value,
    ) {
        let Head { init, scale, .. } = self.head;
        let linear = Operation::Linear { outputs: self.classes, bias: self.bias, init };
        let logits = builder.add(layer, linear, [features]);
        let factor = scale as f32;
        if factor != 1.0 {
            builder.add(scaled, Operation::Activation(Activation::Scale { factor }), [logits]);
        }
    }
}
