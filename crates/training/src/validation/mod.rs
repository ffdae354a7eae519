//! Whether the values of a recipe are valid, each by itself and together.
//!
//! Types are checked before, where a recipe is [loaded](crate::loading). Whether a recipe fits a data set
//! and a machine is checked when a run is made.

mod batch;
mod data;
mod optimizer;
mod schedule;
#[cfg(test)]
mod tests;
mod unused_keys;

use crescendo_data::ImageShape;

pub use unused_keys::unused_keys;
pub(crate) use unused_keys::{Unused, measures, unused};

use crate::recipe::{
    BatchPolicyKind, Coupling, LearningRatePer, Metric, PlateauConfig, SaveEvery, ScheduleKind,
};
use crate::{Error, Recipe};

/// The largest number of channels of a layer, or of features.
const MAX_CHANNELS: usize = 65_536;
/// The largest number of residual blocks of a network.
const MAX_BLOCKS: usize = 1_000;
/// The largest number of epochs of a run.
pub const MAX_EPOCHS: u32 = 1_000_000;
/// The widest border that can be made of the image itself, and the largest shift of a view: a reflection
/// does not repeat the pixels at the edge.
pub const MAX_SHIFT: usize = IMAGE_SIZE - 1;
/// The height and width of images.
const IMAGE_SIZE: usize = ImageShape::CIFAR.width;
/// The largest number of threads: more than any machine has processors.
pub const MAX_THREADS: usize = 1_024;

impl Recipe {
    /// Whether all values are valid, each by itself and together.
    ///
    /// # Errors
    /// Names the key, and says what it may be.
    pub(crate) fn validate(&self) -> Result<(), Error> {
        let network = &self.network;
        let blocks =
            network.blocks.iter().fold(0, |sum: usize, &blocks| sum.saturating_add(blocks));
        let mut layers = network.widths.iter().chain([&network.head.hidden]);
        first_problem([
            (
                blocks <= MAX_BLOCKS,
                format!("network.blocks must be at most {MAX_BLOCKS} in all stacks together"),
            ),
            (
                layers.all(|&channels| channels <= MAX_CHANNELS),
                format!("network.widths and network.head.hidden must be at most {MAX_CHANNELS}"),
            ),
            (
                (0.0..1.0).contains(&self.train.label_smoothing),
                "train.label_smoothing must be at least 0 and below 1".into(),
            ),
            (self.train.epochs <= MAX_EPOCHS, format!("train.epochs must be at most {MAX_EPOCHS}")),
            (
                match self.train.save_every_minutes {
                    SaveEvery::Auto => true,
                    SaveEvery::Minutes(minutes) => is_finite_f32(minutes),
                },
                "train.save_every_minutes must be \"auto\" or a number from 0 to 3e38".into(),
            ),
            (
                self.engine.threads <= MAX_THREADS,
                format!("engine.threads must be at most {MAX_THREADS}"),
            ),
            (
                self.engine.tiles == 0 || (16..=128).contains(&self.engine.tiles),
                "engine.tiles must be from 16 to 128, or 0".into(),
            ),
        ])?;
        data::check_augmentation(&self.data)?;
        network
            .network(crate::graph::input_shape())
            .map_err(|error| Error::Recipe(error.to_string()))?;
        data::check_sides(&self.data, network)?;
        data::check_class_weights(&self.data)?;
        optimizer::check(&self.optimizer, || crate::graph(self))?;
        batch::check(self)?;
        schedule::check(&self.schedule)?;
        self.check_policies()
    }

    /// Whether the policies' keys go with those of other sections.
    fn check_policies(&self) -> Result<(), Error> {
        let batch = &self.batch;
        let coupled =
            batch.policy == BatchPolicyKind::FromLr || batch.coupling != Coupling::Constant;
        if self.optimizer.per == LearningRatePer::Image && coupled {
            return Err(Error::Recipe(
                "optimizer.per = image already multiplies learning rates by the batch size: set \
                 batch.coupling = constant, and a batch.policy other than from_lr"
                    .into(),
            ));
        }
        let followed = [
            (batch.policy == BatchPolicyKind::Plateau, "batch", &batch.plateau),
            (self.schedule.policy == ScheduleKind::Plateau, "schedule", &self.schedule.plateau),
        ];
        for (_, section, plateau) in followed.into_iter().filter(|followed| followed.0) {
            if plateau.metric == Metric::TrainLoss {
                continue;
            }
            let name = plateau.metric.name();
            // Whether there are validation images is checked when the data is known.
            if self.train.evaluate_every == 0 {
                let too = match self.data.validation {
                    0 => {
                        ", and data.validation, for example to 5000, unless the data has validation images of \
                         its own"
                    }
                    _ => "",
                };
                return Err(Error::Recipe(format!(
                    "{section}.metric is {name}, but it is never measured: set train.evaluate_every, for \
                     example to 1{too}"
                )));
            }
        }
        Ok(())
    }
}

/// The error of the first check that fails, of pairs of whether a value is valid, and what to say if not.
fn first_problem<const N: usize>(checks: [(bool, String); N]) -> Result<(), Error> {
    match checks.into_iter().find(|(valid, _)| !valid) {
        Some((_, problem)) => Err(Error::Recipe(problem)),
        None => Ok(()),
    }
}

/// Whether a number is at least 0 and finite as an `f32`, in which engines compute.
fn is_finite_f32(value: f64) -> bool {
    (value as f32).is_finite() && value >= 0.0
}

/// Whether the plateau keys of a section are valid.
fn check_plateau(section: &str, plateau: &PlateauConfig) -> Result<(), Error> {
    first_problem([
        (
            plateau.threshold >= 0.0 && plateau.threshold.is_finite(),
            format!("{section}.threshold must be a number, 0 or more"),
        ),
        (
            (0.0..1.0).contains(&plateau.smoothing),
            format!("{section}.smoothing must be at least 0 and below 1"),
        ),
    ])
}
