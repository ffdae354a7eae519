//! The keys that say when a metric has stopped improving. They stand both in `[batch]` and in
//! `[schedule]`.

use serde::{Deserialize, Serialize};

/// When a metric counts as having stopped improving: PyTorch's `ReduceLROnPlateau`, with an optional
/// moving average of the metric.
///
/// See the example of [the module `recipe`](crate::recipe).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PlateauConfig {
    /// The metric.
    pub metric: Metric,
    /// Epochs without improvement that are tolerated; one more is a plateau.
    pub patience: u32,
    /// How much better than the best value so far counts as an improvement: see [`ThresholdMode`].
    pub threshold: f64,
    /// What `threshold` is measured in.
    pub threshold_mode: ThresholdMode,
    /// The weight of the past in the moving average of the metric; 0 for the metric itself.
    pub smoothing: f64,
    /// Epochs after a plateau that are not counted. For the batch policy `noise_scale`: epochs after a
    /// change in which there is no other.
    pub cooldown: u32,
}

/// Metrics of an epoch that a policy can follow.
///
/// See the example of [the module `recipe`](crate::recipe).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Metric {
    /// The mean loss over the epoch's training images.
    TrainLoss,
    /// The mean loss over the validation images.
    ValidationLoss,
    /// The accuracy on the validation images.
    ValidationAccuracy,
}

impl Metric {
    /// Its name in recipes.
    pub fn name(self) -> &'static str {
        match self {
            Metric::TrainLoss => "train_loss",
            Metric::ValidationLoss => "validation_loss",
            Metric::ValidationAccuracy => "validation_accuracy",
        }
    }
}

/// What the threshold of an improvement is measured in.
///
/// See the example of [the module `recipe`](crate::recipe).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ThresholdMode {
    /// A fraction of the best value so far.
    Relative,
    /// The metric's own unit.
    Absolute,
}
