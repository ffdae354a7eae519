//! The section `[train]`: how long a run is, and what it writes.

use serde::{Deserialize, Serialize};

/// The section `[train]`.
///
/// See the example of [the module `recipe`](crate::recipe).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct TrainConfig {
    /// Passes over the training images.
    pub epochs: u32,
    /// Updates after which training ends; 0 for no limit.
    pub max_steps: u64,
    /// Seed of the initial weights, of the order of images and of augmentation.
    pub seed: u64,
    /// The fraction of each label that is spread evenly over all classes.
    pub label_smoothing: f64,
    /// Epochs between evaluations; 0 for the final one only.
    pub evaluate_every: u32,
    /// Whether the test set is evaluated at the end.
    pub final_evaluation: bool,
    /// Epochs between checkpoints; 0 for the last one only.
    pub checkpoint_every: u32,
    /// How many checkpoints are kept, the latest ones; 0 for all.
    pub keep: usize,
    /// Evaluations on the validation images in a row, without a new best accuracy, after which training stops; 0
    /// for never.
    pub stop_after: u32,
    /// Whether every update gets a row in `steps.csv`.
    pub log_steps: bool,
    /// Minutes between saves of the state.
    pub save_every_minutes: SaveEvery,
}

/// Minutes between saves of the state: `"auto"` or a number.
///
/// See the example of [the module `recipe`](crate::recipe).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", expecting = "\"auto\" or a number of minutes")]
#[non_exhaustive]
pub enum SaveEvery {
    /// What is right for the device.
    Auto,
    /// So many; 0 for saving after epochs only.
    #[serde(untagged)]
    Minutes(f64),
}
