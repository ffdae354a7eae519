//! The section `[batch]`: how many images an update takes.

use serde::{Deserialize, Serialize};

use super::PlateauConfig;

/// The section `[batch]`.
///
/// See the example of [the module `recipe`](crate::recipe).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct BatchConfig {
    /// What decides the batch size.
    pub policy: BatchPolicyKind,
    /// The size of the policy `fixed`.
    pub size: usize,
    /// The table of the policy `steps`: `(first epoch, size)`.
    pub steps: Vec<(u32, usize)>,
    /// The fewest updates of an epoch: with less data, sizes shrink until there are as many. 0 for sizes as
    /// they are.
    pub least_updates: usize,
    /// The first size of `plateau`, `noise_scale` and `from_lr`, and what `custom` begins with.
    pub initial: usize,
    /// The largest size of the first three.
    pub max: usize,
    /// What `plateau` and `noise_scale` multiply the size by.
    pub factor: f64,
    /// What `plateau` follows. Unknown keys are refused where recipes are loaded, because serde cannot
    /// refuse them beside flattened ones.
    #[serde(flatten)]
    pub plateau: PlateauConfig,
    /// The multiple of the gradient noise scale that `noise_scale` keeps the size near.
    pub noise_multiple: f64,
    /// The factor by which the size must be too small, or too large, before `noise_scale` changes it.
    pub hysteresis: f64,
    /// What the learning rate does when the size grows.
    pub coupling: Coupling,
    /// What happens when the size would grow beyond `max`.
    pub after_max: AfterMax,
    /// Updates between measurements of the gradient noise scale; 0 for none.
    pub noise_every: u64,
    /// GiB of memory that a run may take; larger batches are computed as micro-batches. 0 for a fixed
    /// fraction of the machine's memory, which is then recorded in the run.
    pub memory_limit: f64,
}

/// Batch policies.
///
/// See the example of [the module `recipe`](crate::recipe).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum BatchPolicyKind {
    /// One size for the whole run.
    Fixed,
    /// A table of epochs, as in the paper and in Smith et al. 2017 (arXiv 1711.00489).
    Steps,
    /// Larger when a metric stops improving.
    Plateau,
    /// Near a multiple of the gradient noise scale (McCandlish et al. 2018, arXiv 1812.06162).
    NoiseScale,
    /// Larger where the section `[schedule]` would lower the learning rate (Smith et al. 2017).
    FromLr,
    /// A rule of the program: see [`Policy`](crate::policy::Policy).
    Custom,
}

/// What the learning rate does when the batch grows.
///
/// See the example of [the module `recipe`](crate::recipe).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Coupling {
    /// Nothing.
    Constant,
    /// It is multiplied by the square root of the batch's growth.
    Sqrt,
    /// It is multiplied by the batch's growth.
    Linear,
}

/// What happens when the batch would grow beyond its maximum.
///
/// See the example of [the module `recipe`](crate::recipe).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum AfterMax {
    /// Nothing.
    Hold,
    /// The learning rate is lowered instead.
    Decay,
}
