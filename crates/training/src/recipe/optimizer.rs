//! The section `[optimizer]`: how parameters are updated.

use serde::{Deserialize, Serialize};

/// The section `[optimizer]`.
///
/// See the example of [the module `recipe`](crate::recipe).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct OptimizerConfig {
    /// The optimizer.
    pub kind: OptimizerKind,
    /// The learning rate, before the factor of the section `[schedule]`.
    pub learning_rate: f64,
    /// What the learning rate refers to.
    pub per: LearningRatePer,
    /// The momentum: how much of the momentum buffer an update keeps.
    pub momentum: f64,
    /// Whether the momentum is Nesterov's.
    pub nesterov: bool,
    /// Weight decay, as an L2 penalty in the gradient. Muon has none.
    pub weight_decay: f64,
    /// Which parameters it applies to.
    pub decay: DecayedParameters,
    /// Parameter groups with settings of their own: a parameter belongs to the first group that matches its
    /// name.
    pub groups: Vec<ParameterGroup>,
    /// The average of the weights that is kept along the way.
    pub average: WeightAverage,
    /// Updates between its steps.
    pub average_every: u64,
    /// How much of the average a step keeps.
    pub average_decay: f64,
}

/// Averages of the weights along the way; evaluations and checkpoints use the average.
///
/// See the example of [the module `recipe`](crate::recipe).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum WeightAverage {
    /// None.
    None,
    /// An exponential moving average.
    Ema,
    /// Lookahead (Zhang et al. 2019, arXiv 1907.08610): the weights are set to the average at each step. In
    /// airbench's form (arXiv 2404.00498): `average_decay` is multiplied by the cube of the fraction of the
    /// run that is done.
    Lookahead,
}

/// Optimizers.
///
/// See the example of [the module `recipe`](crate::recipe).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum OptimizerKind {
    /// Stochastic gradient descent with momentum.
    Sgd,
    /// Muon: updates are orthogonalised. See [`crescendo_network::Muon`].
    Muon,
    /// None: the parameters are frozen.
    Fixed,
}

/// What a learning rate refers to.
///
/// See the example of [the module `recipe`](crate::recipe).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum LearningRatePer {
    /// The gradient of the batch's mean loss.
    Batch,
    /// The gradient of the sum of the images' losses: the learning rate is multiplied by the batch size.
    /// Muon's updates do not depend on it.
    Image,
}

/// Which parameters weight decay applies to.
///
/// See the example of [the module `recipe`](crate::recipe).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum DecayedParameters {
    /// All.
    All,
    /// Weights of convolutions and linear layers; not biases, not BatchNorm.
    Weights,
}

/// A parameter group; keys that it leaves out are those of the section.
///
/// See the example of [the module `recipe`](crate::recipe).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ParameterGroup {
    /// A pattern of parameter names; `*` stands for any text.
    pub parameters: String,
    /// The optimizer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<OptimizerKind>,
    /// The learning rate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub learning_rate: Option<f64>,
    /// The momentum.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub momentum: Option<f64>,
    /// Whether the momentum is Nesterov's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nesterov: Option<bool>,
    /// Weight decay.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight_decay: Option<f64>,
    /// Epochs after which the group is frozen; its learning-rate schedule ends with them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epochs: Option<u32>,
}

impl ParameterGroup {
    /// The parameters whose names match this pattern, with the keys of the section. Change its fields, or write
    /// `ParameterGroup { momentum: Some(0.5), ..ParameterGroup::new("*.bias") }`: later versions may have more.
    pub fn new(parameters: impl Into<String>) -> Self {
        ParameterGroup {
            parameters: parameters.into(),
            kind: None,
            learning_rate: None,
            momentum: None,
            nesterov: None,
            weight_decay: None,
            epochs: None,
        }
    }
}
