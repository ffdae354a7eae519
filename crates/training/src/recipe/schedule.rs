//! The section `[schedule]`: how the learning rate changes.

use serde::{Deserialize, Serialize};

use super::PlateauConfig;

/// The section `[schedule]`. All its values are factors of `optimizer.learning_rate`.
///
/// See the example of [the module `recipe`](crate::recipe).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ScheduleConfig {
    /// What decides the learning rate.
    pub policy: ScheduleKind,
    /// Epochs of linear warm-up from zero.
    pub warmup: f64,
    /// The table of the policy `step`: `(first epoch, factor)`.
    pub steps: Vec<(u32, f64)>,
    /// The factor at the end of `cosine`, `linear` and `one_cycle`.
    pub last: f64,
    /// The factor at the beginning of `one_cycle`.
    pub first: f64,
    /// The fraction of the run after which `one_cycle` reaches the factor 1.
    pub peak: f64,
    /// What `plateau` follows. Unknown keys are refused where recipes are loaded, because serde cannot
    /// refuse them beside flattened ones.
    #[serde(flatten)]
    pub plateau: PlateauConfig,
    /// What the learning rate is divided by at a plateau.
    pub factor: f64,
    /// The smallest factor that plateaus lead to.
    pub least: f64,
}

/// Learning-rate schedules.
///
/// See the example of [the module `recipe`](crate::recipe).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ScheduleKind {
    /// 1.
    Constant,
    /// A table of epochs.
    Step,
    /// Half a cosine wave from 1 to `last`.
    Cosine,
    /// A straight line from 1 to `last`.
    Linear,
    /// A straight line from `first` to 1, and another one to `last`.
    OneCycle,
    /// Lower at every plateau of a metric, as PyTorch's `ReduceLROnPlateau`.
    Plateau,
}
