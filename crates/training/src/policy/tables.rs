//! The batch policies that follow from the recipe alone: `fixed`, `steps` and `from_lr`.

use std::fmt::Display;

use super::{Choice, EpochStart, Policy};
use crate::recipe::{BatchConfig, BatchPolicyKind};
use crate::{Error, Recipe};

/// The batch size of an epoch; `None` if the policy depends on measurements.
pub(super) fn planned_size(recipe: &Recipe, epoch: u32) -> Option<usize> {
    let (batch, schedule) = (&recipe.batch, &recipe.schedule);
    match batch.policy {
        BatchPolicyKind::Fixed => Some(batch.size),
        BatchPolicyKind::Steps => Some(batch.by_table(epoch)),
        BatchPolicyKind::FromLr => {
            let (done, epochs) = (f64::from(epoch - 1), recipe.train.epochs);
            Some(if schedule.is_past_peak(done, epochs) {
                batch.for_rate(schedule.factor_at(done, epochs))
            } else {
                batch.initial
            })
        }
        BatchPolicyKind::Plateau | BatchPolicyKind::NoiseScale | BatchPolicyKind::Custom => None,
    }
}

/// `fixed`: one size for the whole run.
pub(super) struct Fixed<'a>(pub &'a BatchConfig);

impl Policy for Fixed<'_> {
    fn decide(&mut self, epoch: &EpochStart<'_>) -> Result<Choice, Error> {
        Ok(Choice { batch_size: self.0.size, ..epoch.current.clone() })
    }
}

/// `steps`: a table of epochs.
pub(super) struct Steps<'a>(pub &'a BatchConfig);

impl Policy for Steps<'_> {
    fn decide(&mut self, epoch: &EpochStart<'_>) -> Result<Choice, Error> {
        let mut choice = epoch.current.clone();
        let size = self.0.by_table(epoch.epoch);
        choice.grow_to(size, self.0.coupling);
        choice.reason = from_table("batch.steps", size, epoch.epoch);
        Ok(choice)
    }
}

/// The reason of what a table of epochs says, by the key of the table.
pub(super) fn from_table(key: &str, value: impl Display, epoch: u32) -> String {
    format!("table {key}: {value} from epoch {epoch}")
}

/// `from_lr`: larger where the schedule would lower the learning rate. What that does to the learning rate within an
/// epoch is [the schedule's](super::learning_rate::factor).
pub(super) struct FromLr<'a>(pub &'a Recipe);

impl Policy for FromLr<'_> {
    fn decide(&mut self, epoch: &EpochStart<'_>) -> Result<Choice, Error> {
        let size = planned_size(self.0, epoch.epoch);
        let factor = self.0.schedule.factor_at(f64::from(epoch.epoch - 1), epoch.epochs);
        Ok(Choice {
            batch_size: size.unwrap_or(epoch.current.batch_size),
            reason: format!(
                "schedule: a larger batch instead of multiplying the learning rate by {factor:.4}"
            ),
            ..epoch.current.clone()
        })
    }
}
