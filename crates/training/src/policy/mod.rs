//! Policies: what decides the batch size, the learning rate and the image size of each epoch.
//!
//! A [`Policy`] is asked when an epoch begins. It decides from the recipe, the metrics of the epochs before and what it
//! remembers, which is a part of a run's saved state. So a run that is stopped and resumed decides the same. The
//! policies of the sections `[batch]` and `[schedule]` are built in; [`Run::set_policy`](crate::Run::set_policy) takes
//! another one.

mod batch_size;
mod decision;
mod interface;
mod learning_rate;
mod noise_scale;
mod noise_scale_policy;
mod plateau;
mod plateau_policy;
mod state;
mod tables;
mod training_plan;
mod update_rules;

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::recipe::{BatchPolicyKind, ScheduleKind};
use crate::{Error, Recipe};

pub(crate) use batch_size::MAX_BATCH_SIZE;
pub use decision::{Decision, DecisionKind, PlateauObservation};
pub use interface::{Choice, EpochMetrics, EpochStart, Policy};
pub(crate) use noise_scale::{NoiseSample, NoiseScaleEstimate};
pub(crate) use state::{PolicyState, SoFar, no_policy};
pub use training_plan::{PhaseLength, TrainingPhase, fit_batches, training_plan};
pub(crate) use update_rules::{RunPosition, name_matches};

/// A policy, by the name under which its state is saved.
type Named<'a> = (&'static str, Box<dyn Policy + 'a>);

/// The batch policy of a recipe; `None` if it is `custom`.
fn batch_policy(recipe: &Recipe) -> Option<Named<'_>> {
    let batch = &recipe.batch;
    Some(match batch.policy {
        BatchPolicyKind::Fixed => ("batch.fixed", Box::new(tables::Fixed(batch))),
        BatchPolicyKind::Steps => ("batch.steps", Box::new(tables::Steps(batch))),
        BatchPolicyKind::FromLr => ("batch.from_lr", Box::new(tables::FromLr(recipe))),
        BatchPolicyKind::Plateau => {
            (BATCH_PLATEAU, Box::new(plateau_policy::BatchPlateau::new(recipe)))
        }
        BatchPolicyKind::NoiseScale => {
            (NOISE_SCALE, Box::new(noise_scale_policy::NoiseScalePolicy::new(batch)))
        }
        BatchPolicyKind::Custom => return None,
    })
}

/// The policy of the section `[schedule]`, if it decides when epochs begin.
fn schedule_policy(recipe: &Recipe) -> Option<Named<'_>> {
    (recipe.schedule.policy == ScheduleKind::Plateau).then(|| -> Named<'_> {
        (SCHEDULE_PLATEAU, Box::new(plateau_policy::SchedulePlateau::new(recipe)))
    })
}

const BATCH_PLATEAU: &str = "batch.plateau";
const NOISE_SCALE: &str = "batch.noise_scale";
const SCHEDULE_PLATEAU: &str = "schedule.plateau";
const CUSTOM: &str = "batch.custom";

/// The state of the built-in policy that these words name.
fn restored<T: DeserializeOwned>(policy: &str, state: &Value) -> Result<T, Error> {
    T::deserialize(state).map_err(|error| {
        Error::Refused(format!(
            "the saved state of {policy} is damaged ({error}): start a new run, with --init to start from a \
             checkpoint"
        ))
    })
}

/// The batch size, the schedule's factor and the image size of an epoch, as far as they follow from tables.
pub(crate) fn planned_epoch(recipe: &Recipe, epoch: u32) -> (Option<usize>, f64, usize) {
    // At the end of the epoch, when a warm-up that ends within it is over.
    let end = f64::from(epoch).next_down();
    let factor = recipe.schedule.factor_at(end, recipe.train.epochs);
    (tables::planned_size(recipe, epoch), factor, recipe.data.image_size(epoch))
}

#[cfg(test)]
mod tests;
