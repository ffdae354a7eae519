//! A network as a recipe describes it: the keys of the section `[network]`.

use crescendo_kernels::ActivationFunction as Activation;
use serde::{Deserialize, Serialize};

use crate::{Builder, Error, Init, Network, Operation, Shape, Value, airbench, resnet};

/// Pixels along each side of an image.
pub(crate) const SIDE: usize = 32;
/// Channels of an image.
pub(crate) const COLOURS: usize = 3;

/// The section `[network]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The kind of network.
    pub family: Family,
    /// In each stack: residual blocks (`resnet`), or convolutions (`airbench`).
    pub blocks: Vec<usize>,
    /// Channels of each stack.
    pub widths: Vec<usize>,
    /// Classes to tell apart.
    pub classes: usize,
    /// The activation after every convolution and block.
    pub activation: ActivationKind,
    /// The slope of `leaky_relu` below zero.
    pub leaky_slope: f64,
    /// Rows and columns of the whitening filters of `airbench`; 0 for `resnet`, which has none.
    pub whitening: usize,
    /// Whether convolutions and the last layer have biases.
    pub bias: bool,
    /// What the filters of convolutions are before training.
    pub init: Init,
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
    /// Keller Jordan's fast networks (arXiv 2404.00498): whitening, stacks of convolutions, each begun by
    /// max-pooling.
    Airbench,
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
    /// Whether there is a weight that is trained; else it stays 1.
    pub scale: bool,
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

/// The head, `[network.head]`: pooling, flattening, one or two linear layers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// Rows and columns of the squares that are averaged (`resnet`), or of which the largest number is
    /// taken (`airbench`).
    pub pool: usize,
    /// Features of the hidden linear layer; 0 for none.
    pub hidden: usize,
    /// The activation after the hidden layer.
    pub activation: HeadActivation,
    /// What the last layer's weight is before training.
    pub init: Init,
    /// What the logits are multiplied by.
    pub scale: f64,
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
        }
    }

    /// The network that these keys describe.
    ///
    /// # Errors
    /// If a key's value makes no sense; the sentence names the key.
    pub fn network(&self) -> Result<Network, Error> {
        self.network_for(SIDE)
    }

    /// The same network, with the same parameters, for images with `side` pixels along each side: the head
    /// pools over smaller squares, to as many features.
    ///
    /// # Errors
    /// If a key's value makes no sense, or there are no such squares.
    pub fn network_for(&self, side: usize) -> Result<Network, Error> {
        self.check()?;
        let last = self.last_side(side);
        let features = self.last_side(SIDE) / self.head.pool;
        let pool = if side == SIDE { self.head.pool } else { last / features };
        if pool == 0 || last / pool != features {
            return Err(Error(format!(
                "images of {side}x{side} pixels do not go with this network: their last maps have \
                 {last}x{last}, and the head needs {features}x{features} squares of them"
            )));
        }
        let mut builder =
            Builder::new(Shape::Maps { channels: COLOURS, height: side, width: side });
        match self.family {
            Family::Resnet => resnet::network(self, pool, &mut builder),
            Family::Airbench => airbench::network(self, pool, &mut builder),
        }
        Ok(builder.finish())
    }

    /// Rows and columns of the last stack's maps, for images with `side`.
    fn last_side(&self, side: usize) -> usize {
        match self.family {
            Family::Resnet => resnet::last_side(self, side),
            Family::Airbench => airbench::last_side(self, side),
        }
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

    /// BatchNorm as the list of operations has it.
    pub(crate) fn batch_norm(&self) -> Operation {
        let Norm { eps, scale, .. } = self.norm;
        Operation::BatchNorm { eps, scale, new_weight: self.norm.new_weight() }
    }

    /// A convolution that keeps the maps' size, or divides it by `stride`.
    pub(crate) fn convolution(&self, outputs: usize, kernel: usize, stride: usize) -> Operation {
        let Config { bias, init, .. } = *self;
        Operation::Convolution { outputs, kernel, stride, padding: kernel / 2, bias, init }
    }

    /// Adds the last layer, and the factor of the logits if it is not 1, under these names.
    pub(crate) fn add_classifier(
        &self,
        builder: &mut Builder,
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

    fn check(&self) -> Result<(), Error> {
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
        if !(self.head.scale > 0.0 && self.head.scale <= 1e6) {
            let problem = format!("is {}: above 0 and at most 1e6", self.head.scale);
            return refuse("head.scale", problem);
        }
        if self.head.init == Init::Dirac {
            let problem = "is dirac, which is for convolutions: uniform or unit";
            return refuse("head.init", problem.into());
        }
        match self.family {
            Family::Resnet => resnet::check(self)?,
            Family::Airbench => airbench::check(self)?,
        }
        let side = self.last_side(SIDE);
        if !(1..=side).contains(&self.head.pool) {
            let problem =
                format!("is {}: the last stack's maps have {side}x{side} pixels", self.head.pool);
            return refuse("head.pool", problem);
        }
        Ok(())
    }
}

/// Says what is wrong with a key of the section.
pub(crate) fn refuse<T>(key: &str, problem: String) -> Result<T, Error> {
    Err(Error(format!("network.{key} {problem}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Compute, Plan};

    fn airbench() -> Config {
        let mut config = Config { family: Family::Airbench, whitening: 2, ..Config::report() };
        (config.blocks, config.head.hidden, config.head.pool) = (vec![2, 3, 2], 0, 3);
        config
    }

    #[test]
    fn the_same_parameters_serve_smaller_images_where_the_head_can_pool_to_as_many_features() {
        let parameters = |config: &Config, side: usize| {
            let network = config.network_for(side)?;
            Ok::<_, Error>(Plan::new(&network, Compute::default())?.parameters)
        };
        let small = |pool: usize| {
            let mut config = Config { widths: vec![4, 8, 8], ..Config::report() };
            (config.blocks, config.head.hidden, config.head.pool) = (vec![1; 3], 16, pool);
            config
        };
        for config in [small(2), airbench()] {
            assert_eq!(parameters(&config, SIDE).unwrap(), parameters(&config, 16).unwrap());
        }
        assert_eq!(small(3).network_for(SIDE).unwrap(), small(3).network().unwrap());
        assert_eq!(parameters(&airbench(), 24).unwrap(), parameters(&airbench(), SIDE).unwrap());
        let error = small(2).network_for(24).unwrap_err().to_string();
        assert!(error.contains("have 6x6, and the head needs 4x4 squares"), "{error}");
        for side in 0..8 {
            for config in [small(2), airbench()] {
                let error = config.network_for(side).unwrap_err().to_string();
                assert!(error.contains("do not go with this network"), "{error}");
            }
        }
    }

    #[test]
    fn keys_that_do_not_go_with_a_family_are_refused_by_name() {
        airbench().network().unwrap();
        type Change = fn(&mut Config);
        let changes: [(&str, Change); 7] = [
            ("network.whitening is 0: from 1 to 4", |config| config.whitening = 0),
            ("network.blocks has 2 or 3 convolutions", |config| config.blocks[1] = 4),
            ("network.head.hidden is 0 for airbench", |config| config.head.hidden = 9),
            ("network.head.pool is 4: the last stack's maps have 3x3", |config| {
                config.head.pool = 4
            }),
            ("network.head.scale is 0", |config| config.head.scale = 0.0),
            ("network.head.init is dirac", |config| config.head.init = Init::Dirac),
            ("network.blocks has 5 stacks", |config| {
                (config.blocks, config.widths) = (vec![2; 5], vec![4; 5]);
            }),
        ];
        for (complaint, change) in changes {
            let mut config = airbench();
            change(&mut config);
            let error = config.network().unwrap_err().to_string();
            assert!(error.contains(complaint), "{error}");
        }
        let error = Config { whitening: 2, ..Config::report() }.network().unwrap_err().to_string();
        assert!(error.contains("network.whitening belongs to the family airbench"), "{error}");
    }
}
