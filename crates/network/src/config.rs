//! A network as a recipe describes it: the keys of the section `[network]`.

use crescendo_kernels::Activation;
use serde::{Deserialize, Serialize};

use crate::{Error, Network};

/// The section `[network]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The kind of network.
    pub family: Family,
    /// Residual blocks in each stack.
    pub blocks: Vec<usize>,
    /// Channels of each stack.
    pub widths: Vec<usize>,
    /// Classes to tell apart.
    pub classes: usize,
    /// The activation after every convolution and block.
    pub activation: ActivationKind,
    /// The slope of `leaky_relu` below zero.
    pub leaky_slope: f64,
    /// BatchNorm.
    pub norm: Norm,
    /// What follows the last stack.
    pub head: Head,
}

/// Kinds of networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// The report's: a start layer, stacks of standard residual blocks, a head.
    Resnet,
}

/// Activations between convolutions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ActivationKind {
    /// `x` where positive, `leaky_slope * x` elsewhere.
    LeakyRelu,
    /// `max(x, 0)`.
    Relu,
    /// `x` where positive, `exp(x) - 1` elsewhere.
    Elu,
    /// `x * Phi(x)`, with the normal distribution's `Phi` (not its approximation by tanh).
    Gelu,
    /// `x / (1 + exp(-x))`.
    Silu,
}

/// BatchNorm, `[network.norm]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Norm {
    /// Added to the variance.
    pub eps: f64,
    /// The momentum of the running statistics, in the convention named beside it.
    pub momentum: f64,
    /// What `momentum` multiplies.
    pub momentum_convention: MomentumConvention,
    /// Images that share statistics in training; 0 for all of a batch.
    pub ghost: usize,
}

/// Libraries disagree on what the momentum of running statistics multiplies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
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

/// The head, `[network.head]`: average pooling, flattening, one or two linear layers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// Rows and columns of the squares that are averaged.
    pub pool: usize,
    /// Features of the hidden linear layer; 0 for none.
    pub hidden: usize,
    /// The activation after the hidden layer.
    pub activation: HeadActivation,
}

/// Activations of the head's hidden layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HeadActivation {
    /// `1 / (1 + exp(-x))`.
    Sigmoid,
    /// The network's own.
    Same,
}

impl Config {
    /// The report's network: 17,392,394 parameters.
    pub fn report() -> Self {
        Config {
            family: Family::Resnet,
            blocks: vec![6, 6, 6],
            widths: vec![64, 128, 256],
            classes: 10,
            activation: ActivationKind::LeakyRelu,
            leaky_slope: 0.01,
            norm: Norm {
                eps: 1e-5,
                momentum: 0.997,
                momentum_convention: MomentumConvention::Pytorch,
                ghost: 0,
            },
            head: Head { pool: 2, hidden: 2048, activation: HeadActivation::Sigmoid },
        }
    }

    /// The network that these keys describe.
    ///
    /// # Errors
    /// If a key's value makes no sense; the sentence names the key.
    pub fn network(&self) -> Result<Network, Error> {
        self.check()?;
        Ok(match self.family {
            Family::Resnet => crate::resnet::network(self),
        })
    }

    /// The activation as the kernels know it.
    pub(crate) fn activation(&self) -> Activation {
        match self.activation {
            ActivationKind::LeakyRelu => Activation::LeakyRelu { slope: self.leaky_slope as f32 },
            ActivationKind::Relu => Activation::Relu,
            ActivationKind::Elu => Activation::Elu,
            ActivationKind::Gelu => Activation::Gelu,
            ActivationKind::Silu => Activation::Silu,
        }
    }

    fn check(&self) -> Result<(), Error> {
        let refuse = |key: &str, problem: String| Err(Error(format!("network.{key} {problem}")));
        if self.blocks.is_empty() || self.blocks.contains(&0) {
            return refuse("blocks", "needs at least one block in every stack".into());
        }
        if self.blocks.len() != self.widths.len() {
            let (blocks, widths) = (self.blocks.len(), self.widths.len());
            let problem = format!(
                "has {widths} entries but network.blocks has {blocks}: give one of each for every stack"
            );
            return refuse("widths", problem);
        }
        if self.widths.contains(&0) {
            return refuse("widths", "has a stack without channels".into());
        }
        if !(2..=65_536).contains(&self.classes) {
            return refuse("classes", format!("is {}: at least 2 and at most 65536", self.classes));
        }
        if !(0.0..1.0).contains(&self.leaky_slope) {
            return refuse("leaky_slope", format!("is {}: from 0 to below 1", self.leaky_slope));
        }
        if !(self.norm.eps > 0.0 && self.norm.eps < 1.0) {
            return refuse("norm.eps", format!("is {}: above 0 and below 1", self.norm.eps));
        }
        if !(0.0..=1.0).contains(&self.norm.momentum) {
            return refuse("norm.momentum", format!("is {}: from 0 to 1", self.norm.momentum));
        }
        let side = self.blocks[1..].iter().fold(crate::resnet::SIDE, |side, _| side.div_ceil(2));
        if !(1..=side).contains(&self.head.pool) {
            let problem =
                format!("is {}: the last stack's maps have {side}x{side} pixels", self.head.pool);
            return refuse("head.pool", problem);
        }
        Ok(())
    }
}
