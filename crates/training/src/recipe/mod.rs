//! A recipe: everything that decides what a run does, as plain data. The recipe `report` (this crate's
//! `recipes/report.toml`) explains every key.
//!
//! A recipe is read by [`loading`](crate::loading), which also has [`validation`](crate::validation) check
//! it; [`policy`](crate::policy) derives from it what holds in each epoch.

mod batch;
mod data;
mod epoch_table;
mod optimizer;
mod plateau;
mod schedule;
mod train;

use crescendo_data::{ImageShape, Normalization, Sampling};
use crescendo_network::{EngineConfig, NetworkConfig};
use serde::{Deserialize, Serialize};

pub use batch::{AfterMax, BatchConfig, BatchPolicyKind, Coupling};
pub use data::{
    AugmentConfig, AugmentTable, ClassWeighting, ClassWeights, DataConfig, DataSource,
    NormalizeKind,
};
pub(crate) use epoch_table::{epochs_problem, value_at};
pub use optimizer::{
    DecayedParameters, LearningRatePer, OptimizerConfig, OptimizerKind, ParameterGroup,
    WeightAverage,
};
pub use plateau::{Metric, PlateauConfig, ThresholdMode};
pub use schedule::{ScheduleConfig, ScheduleKind};
pub use train::{SaveEvery, TrainConfig};

/// All sections of a recipe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// The network.
    pub network: NetworkConfig,
    /// What happens to images before the network sees them.
    pub data: DataConfig,
    /// How parameters are updated.
    pub optimizer: OptimizerConfig,
    /// How the learning rate changes.
    pub schedule: ScheduleConfig,
    /// How many images an update takes.
    pub batch: BatchConfig,
    /// How long the run is, and what it writes.
    pub train: TrainConfig,
    /// What computes, and how.
    pub engine: EngineConfig,
}

impl Recipe {
    /// How training images, at their full size, become batches.
    pub fn sampling(&self, normalization: Normalization) -> Sampling {
        Sampling {
            image_size: ImageShape::CIFAR.width,
            seed: self.train.seed,
            shuffle: self.data.shuffle,
            last_batch: self.data.last_batch,
            augmentation: self.data.augmentation(),
            normalization,
        }
    }
}
