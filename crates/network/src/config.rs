//! A network as a recipe describes it: the keys of the section `[network]`.

use serde::{Deserialize, Serialize};

use crate::families::{airbench, resnet};
use crate::{Activation, Error, Init, Network, NetworkBuilder, Operation, Shape, Value};

/// The section `[network]` of a recipe. Every key is described in `recipes/report.toml`.
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
    /// Whether convolutions and the last layer have biases.
    pub bias: bool,
    /// How the filters of convolutions are initialised.
    pub init: Init,
    /// BatchNorm.
    pub norm: Norm,
    /// The classification head.
    pub head: Head,
}

/// Families of networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// The paper's: a start layer, stacks of standard residual blocks, a head.
    Resnet,
    /// Keller Jordan's airbench networks (arXiv 2404.00498): whitening filters, stacks of convolutions with
    /// max-pooling, a linear layer.
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
    /// `x * Phi(x)`, with the normal distribution's `Phi` (not its tanh approximation).
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HeadActivation {
    /// `1 / (1 + exp(-x))`.
    Sigmoid,
    /// The network's `activation`.
    Same,
}

impl NetworkConfig {
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
        }
    }

    /// The network that these keys describe, for images of the shape `input`.
    ///
    /// # Errors
    /// If the value of a key is invalid, with the key's name; or if the images are not square.
    pub fn network(&self, input: Shape) -> Result<Network, Error> {
        let (_, side) = square(input)?;
        self.network_resized(input, side)
    }

    /// The same network, with the same parameters, for images that are resized to `side` x `side` pixels: the
    /// head pools over smaller squares, to as many features as for images of the shape `input`.
    ///
    /// # Errors
    /// As [`network`](Self::network), or if no pool size gives as many features.
    pub fn network_resized(&self, input: Shape, side: usize) -> Result<Network, Error> {
        let (channels, full) = square(input)?;
        self.check(full)?;
        let last = self.last_side(side);
        let features = self.last_side(full) / self.head.pool;
        let pool = if side == full { self.head.pool } else { last / features };
        if pool == 0 || last / pool != features {
            return Err(Error(format!(
                "images of {side}x{side} pixels do not fit this network: its last maps would be \
                 {last}x{last}, and the head needs {features}x{features} squares of them"
            )));
        }
        let mut builder = NetworkBuilder::new(Shape::Maps { channels, height: side, width: side });
        match self.family {
            Family::Resnet => resnet::network(self, pool, &mut builder),
            Family::Airbench => airbench::network(self, channels, pool, &mut builder),
        }
        Ok(builder.finish())
    }

    /// Rows and columns of the last stack's maps, for images of `side` x `side` pixels.
    fn last_side(&self, side: usize) -> usize {
        match self.family {
            Family::Resnet => resnet::last_side(self, side),
            Family::Airbench => airbench::last_side(self, side),
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

    /// Checks the keys for images of `side` x `side` pixels.
    fn check(&self, side: usize) -> Result<(), Error> {
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
            Family::Airbench => airbench::check(self, side)?,
        }
        let side = self.last_side(side);
        if !(1..=side).contains(&self.head.pool) {
            let problem =
                format!("is {}: the last stack's maps have {side}x{side} pixels", self.head.pool);
            return refuse("head.pool", problem);
        }
        Ok(())
    }
}

/// Channels, and rows or columns, of square images.
fn square(input: Shape) -> Result<(usize, usize), Error> {
    match input {
        Shape::Maps { channels, height, width } if height == width => Ok((channels, height)),
        other => Err(Error(format!("images of the shape {other} are not square"))),
    }
}

/// An error about a key of the section.
pub(crate) fn refuse<T>(key: &str, problem: String) -> Result<T, Error> {
    Err(Error(format!("network.{key} {problem}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Graph;

    const SIDE: usize = 32;
    const IMAGES: Shape = Shape::Maps { channels: 3, height: SIDE, width: SIDE };

    fn airbench() -> NetworkConfig {
        let mut config =
            NetworkConfig { family: Family::Airbench, whitening: 2, ..NetworkConfig::paper() };
        (config.blocks, config.head.hidden, config.head.pool) = (vec![2, 3, 2], 0, 3);
        config
    }

    #[test]
    fn the_same_parameters_serve_smaller_images_where_the_head_can_pool_to_as_many_features() {
        let parameters = |config: &NetworkConfig, side: usize| {
            let network = config.network_resized(IMAGES, side)?;
            Ok::<_, Error>(Graph::new(&network)?.parameters)
        };
        let small = |pool: usize| {
            let mut config = NetworkConfig { widths: vec![4, 8, 8], ..NetworkConfig::paper() };
            (config.blocks, config.head.hidden, config.head.pool) = (vec![1; 3], 16, pool);
            config
        };
        for config in [small(2), airbench()] {
            assert_eq!(parameters(&config, SIDE).unwrap(), parameters(&config, 16).unwrap());
        }
        assert_eq!(
            small(3).network_resized(IMAGES, SIDE).unwrap(),
            small(3).network(IMAGES).unwrap()
        );
        assert_eq!(parameters(&airbench(), 24).unwrap(), parameters(&airbench(), SIDE).unwrap());
        let error = small(2).network_resized(IMAGES, 24).unwrap_err().to_string();
        assert!(error.contains("would be 6x6, and the head needs 4x4 squares"), "{error}");
        for side in 0..8 {
            for config in [small(2), airbench()] {
                let error = config.network_resized(IMAGES, side).unwrap_err().to_string();
                assert!(error.contains("do not fit this network"), "{error}");
            }
        }
    }

    #[test]
    fn keys_that_do_not_go_with_a_family_are_refused_by_name() {
        airbench().network(IMAGES).unwrap();
        type Change = fn(&mut NetworkConfig);
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
            let error = config.network(IMAGES).unwrap_err().to_string();
            assert!(error.contains(complaint), "{error}");
        }
        let error = NetworkConfig { whitening: 2, ..NetworkConfig::paper() }
            .network(IMAGES)
            .unwrap_err()
            .to_string();
        assert!(error.contains("network.whitening belongs to the family airbench"), "{error}");
    }
}
