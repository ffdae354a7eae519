//! The policies `plateau` of the sections `[batch]` and `[schedule]`: they wait until a metric stops improving.

use serde_json::{Value, json};

use super::plateau::{PlateauState, shortfall};
use super::{Choice, EpochStart, PlateauObservation, Policy, restored};
use crate::recipe::{AfterMax, Metric, PlateauConfig};
use crate::{Error, Recipe};

/// `batch.policy = plateau`: a larger batch at each plateau.
pub(super) struct BatchPlateau<'a> {
    recipe: &'a Recipe,
    state: PlateauState,
}

impl<'a> BatchPlateau<'a> {
    pub fn new(recipe: &'a Recipe) -> Self {
        BatchPlateau { recipe, state: PlateauState::default() }
    }
}

impl Policy for BatchPlateau<'_> {
    fn decide(&mut self, epoch: &EpochStart<'_>) -> Result<Choice, Error> {
        let batch = &self.recipe.batch;
        let mut choice = epoch.current.clone();
        if let Some(seen) = observe(&mut self.state, &batch.plateau, epoch) {
            choice.reason = reason(self.recipe, &batch.plateau, &seen);
            choice.metric = Some(seen);
            if choice.batch_size < batch.max {
                choice.grow_to(batch.larger(choice.batch_size), batch.coupling);
            } else if batch.after_max == AfterMax::Decay {
                choice.learning_rate_factor /= batch.factor;
                choice.reason += ", and batch.max is reached";
            }
        }
        Ok(choice)
    }

    fn state(&self) -> Value {
        json!(self.state)
    }

    fn restore(&mut self, state: &Value) -> Result<(), Error> {
        self.state = restored("batch.policy = plateau", state)?;
        Ok(())
    }
}

/// `schedule.policy = plateau`: a lower learning rate at each plateau.
pub(super) struct SchedulePlateau<'a> {
    recipe: &'a Recipe,
    state: PlateauState,
}

impl<'a> SchedulePlateau<'a> {
    pub fn new(recipe: &'a Recipe) -> Self {
        SchedulePlateau { recipe, state: PlateauState::default() }
    }
}

impl Policy for SchedulePlateau<'_> {
    fn decide(&mut self, epoch: &EpochStart<'_>) -> Result<Choice, Error> {
        let schedule = &self.recipe.schedule;
        let mut choice = epoch.current.clone();
        if let Some(seen) = observe(&mut self.state, &schedule.plateau, epoch) {
            let least = schedule.least.min(choice.learning_rate_factor);
            choice.learning_rate_factor =
                (choice.learning_rate_factor / schedule.factor).max(least);
            choice.reason = reason(self.recipe, &schedule.plateau, &seen);
            choice.metric = Some(seen);
        }
        Ok(choice)
    }

    fn state(&self) -> Value {
        json!(self.state)
    }

    fn restore(&mut self, state: &Value) -> Result<(), Error> {
        self.state = restored("schedule.policy = plateau", state)?;
        Ok(())
    }
}

/// Adds the metrics of the last epoch, and says what was observed if the metric is on a plateau.
fn observe(
    state: &mut PlateauState,
    config: &PlateauConfig,
    epoch: &EpochStart<'_>,
) -> Option<PlateauObservation> {
    let seen = epoch.history.last().and_then(|last| state.observe(config, last));
    if epoch.image_size != epoch.last_image_size {
        // Measurements on images of another size say nothing about these.
        *state = PlateauState::default();
    }
    seen
}

fn reason(recipe: &Recipe, config: &PlateauConfig, seen: &PlateauObservation) -> String {
    let PlateauObservation { name, epochs, .. } = seen;
    let every_epoch = *name == Metric::TrainLoss.name() || recipe.train.evaluate_every == 1;
    let counted = match (every_epoch, epochs) {
        (true, 1) => "epoch",
        (true, _) => "epochs",
        (false, 1) => "evaluation",
        (false, _) => "evaluations",
    };
    let words = name.replace('_', " ");
    match shortfall(config, seen) {
        Some(why) => format!("plateau of the {words}: {why} for {epochs} {counted}"),
        None => format!("plateau: no better {words} in {epochs} {counted}"),
    }
}
