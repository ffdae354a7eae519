//! A recipe: everything that decides what a run does, as plain data. The recipe `report` (this crate's
//! `recipes/report.toml`) explains every key.
//!
//! A recipe is read by [`loading`](crate::loading), which also has [`validation`](crate::validation) check
//! it; [`policy`](crate::policy) derives from it what holds in each epoch.
//!
//! # Example
//!
//! ```
//! use crescendo_training::Recipe;
//! use crescendo_training::recipe::{
//!     AfterMax, AugmentConfig, AugmentTable, BatchConfig, BatchPolicyKind, ClassWeighting,
//!     ClassWeights, Coupling, DataConfig, DataSource, DecayedParameters, LearningRatePer, Metric,
//!     NormalizeKind, OptimizerConfig, OptimizerKind, ParameterGroup, PlateauConfig, SaveEvery,
//!     ScheduleConfig, ScheduleKind, ThresholdMode, TrainConfig, WeightAverage,
//! };
//!
//! let recipe = Recipe::builder("quick")?
//!     .data(|data: &mut DataConfig| {
//!         data.source = DataSource::Shapes;
//!         let augment = AugmentTable { padding: 2, cutout: 8, ..AugmentTable::default() };
//!         data.augment = AugmentConfig::Table(augment);
//!         data.normalize = NormalizeKind::Dataset;
//!         data.class_weights = ClassWeights::Rule(ClassWeighting::Balanced);
//!         data.validation = 100;
//!     })
//!     .batch(|batch: &mut BatchConfig| {
//!         batch.policy = BatchPolicyKind::Plateau;
//!         (batch.initial, batch.max) = (50, 400);
//!         let plateau: &mut PlateauConfig = &mut batch.plateau;
//!         (plateau.metric, plateau.patience) = (Metric::ValidationAccuracy, 1);
//!         (plateau.threshold, plateau.threshold_mode) = (0.01, ThresholdMode::Absolute);
//!         (batch.coupling, batch.after_max) = (Coupling::Constant, AfterMax::Decay);
//!     })
//!     .optimizer(|optimizer: &mut OptimizerConfig| {
//!         (optimizer.kind, optimizer.per) = (OptimizerKind::Sgd, LearningRatePer::Batch);
//!         optimizer.decay = DecayedParameters::Weights;
//!         optimizer.average = WeightAverage::Ema;
//!         let biases = ParameterGroup::new("*.bias");
//!         optimizer.groups = vec![ParameterGroup { learning_rate: Some(0.2), ..biases }];
//!     })
//!     .train(|train: &mut TrainConfig| {
//!         train.evaluate_every = 1;
//!         train.save_every_minutes = SaveEvery::Minutes(2.0);
//!     })
//!     .build()?;
//! assert_eq!(recipe.table()["batch"]["policy"].as_str(), Some("plateau"));
//!
//! // A table of batch sizes, and a learning rate that changes all the time.
//! let recipe = Recipe::builder("quick")?
//!     .network(|network| network.widths = vec![8, 16, 32])
//!     .schedule(|schedule: &mut ScheduleConfig| {
//!         schedule.policy = ScheduleKind::Cosine;
//!         (schedule.warmup, schedule.last) = (1.0, 0.05);
//!     })
//!     .build()?;
//! assert_eq!(recipe.table()["schedule"]["policy"].as_str(), Some("cosine"));
//! # Ok::<(), crescendo_training::Error>(())
//! ```

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
///
/// See the examples of [the module `recipe`](self), [`Recipe::load`] and [`Recipe::builder`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
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
