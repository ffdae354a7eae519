//! Policies: what decides the batch size, the learning rate and the image size of each epoch.
//!
//! Decisions are made when an epoch begins, from the recipe, the metrics of the epoch before and the policies'
//! state ([`PolicyState`], a part of a run's saved state). So a run that is stopped and resumed decides the
//! same.

mod batch_size;
mod decision;
mod learning_rate;
mod noise_scale;
mod plateau;
mod training_plan;
mod update_rules;

use serde::{Deserialize, Serialize};

use crate::Recipe;
use crate::recipe::{AfterMax, BatchConfig, BatchPolicyKind, Metric, PlateauConfig, ScheduleKind};

pub(crate) use batch_size::MAX_BATCH_SIZE;
pub use decision::{Decision, DecisionKind, PlateauObservation};
pub(crate) use noise_scale::{NoiseSample, NoiseScaleEstimate};
pub use plateau::EpochMetrics;
use plateau::PlateauState;
pub use training_plan::{PhaseLength, TrainingPhase, fit_batches, training_plan};
pub(crate) use update_rules::{RunPosition, name_matches};

/// What the policies have chosen, and the state from which they decide next. A part of the saved state.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PolicyState {
    /// The epoch that the choice is for.
    pub(crate) epoch: u32,
    /// Images an update takes.
    pub(crate) batch_size: usize,
    /// The factor by which policies have changed the learning rate; the schedule's comes on top.
    rate_factor: f64,
    batch_plateau: PlateauState,
    rate_plateau: PlateauState,
    /// Epochs before the policy `noise_scale` may decide again.
    cooldown: u32,
    pub(crate) noise: NoiseScaleEstimate,
}

impl PolicyState {
    /// The state at the beginning of a run.
    pub(crate) fn new(recipe: &Recipe) -> Self {
        let mut state = PolicyState {
            epoch: 1,
            batch_size: 0,
            rate_factor: 1.0,
            batch_plateau: PlateauState::default(),
            rate_plateau: PlateauState::default(),
            cooldown: 0,
            noise: NoiseScaleEstimate::default(),
        };
        state.batch_size = state.planned(recipe, 1).unwrap_or(recipe.batch.initial);
        state
    }

    /// The learning rate after `done` epochs (with fractions).
    pub(crate) fn learning_rate(&self, recipe: &Recipe, done: f64) -> f64 {
        recipe.optimizer.learning_rate
            * self.learning_rate_factor(recipe, done, recipe.train.epochs)
    }

    /// The factor of learning rates after `done` epochs, if the schedule has so many epochs.
    pub(crate) fn learning_rate_factor(&self, recipe: &Recipe, done: f64, epochs: u32) -> f64 {
        let (schedule, batch) = (&recipe.schedule, &recipe.batch);
        let mut factor = schedule.factor_at(done, epochs) * self.rate_factor;
        if batch.policy == BatchPolicyKind::FromLr && schedule.is_past_peak(done, epochs) {
            // The growth of the batch stands in for a part of the decay; the learning rate has the rest.
            if batch.after_max == AfterMax::Hold {
                factor = factor.max(batch.initial as f64 / batch.max as f64);
            }
            factor *= self.batch_size as f64 / batch.initial as f64;
        }
        factor
    }

    /// Decides for `epoch`, which begins after `updates` updates; `last` are the metrics of the epoch before.
    /// Called again for the same epoch, it changes nothing.
    pub(crate) fn enter(
        &mut self,
        recipe: &Recipe,
        epoch: u32,
        updates: u64,
        last: &EpochMetrics,
    ) -> Vec<Decision> {
        if epoch <= self.epoch {
            return Vec::new();
        }
        self.epoch = epoch;
        let before = self.clone();
        let batch = &recipe.batch;
        let noise_scale = self.noise.value();
        let decision = |what, from, to, reason: String, metric: Option<PlateauObservation>| {
            Decision { epoch, updates, what, from, to, reason, metric, noise_scale }
        };
        let mut decisions = Vec::new();

        let (mut reason, mut metric) = (String::new(), None);
        match batch.policy {
            BatchPolicyKind::Fixed => {}
            BatchPolicyKind::Steps => {
                self.batch_size = batch.by_table(epoch);
                reason = "by batch.steps".into();
            }
            BatchPolicyKind::FromLr => {
                self.batch_size =
                    self.planned(recipe, epoch).expect("from_lr makes no measurements");
                let factor = recipe.schedule.factor_at(f64::from(epoch - 1), recipe.train.epochs);
                reason = format!("instead of multiplying the learning rate by {factor:.4}");
            }
            BatchPolicyKind::Plateau => {
                if let Some(seen) = self.batch_plateau.observe(&batch.plateau, last) {
                    reason = plateau_reason(recipe, &batch.plateau, &seen);
                    metric = Some(seen);
                    self.grow(batch);
                }
            }
            BatchPolicyKind::NoiseScale => {
                self.follow_noise_scale(batch);
                reason = noise_scale.map_or(String::new(), |scale| {
                    format!("the gradient noise scale is {scale:.0} images")
                });
            }
        }
        if self.batch_size != before.batch_size {
            let (from, to) = (before.batch_size as f64, self.batch_size as f64);
            decisions.push(decision(
                DecisionKind::BatchSize,
                from,
                to,
                reason.clone(),
                metric.clone(),
            ));
            if batch.policy != BatchPolicyKind::FromLr {
                self.rate_factor *= batch.coupling.factor(to / from);
            }
        } else if self.rate_factor != before.rate_factor {
            reason += ", and batch.max is reached";
        }

        let schedule = &recipe.schedule;
        if schedule.policy == ScheduleKind::Plateau
            && let Some(seen) = self.rate_plateau.observe(&schedule.plateau, last)
        {
            let least = schedule.least.min(self.rate_factor);
            self.rate_factor = (self.rate_factor / schedule.factor).max(least);
            reason = plateau_reason(recipe, &schedule.plateau, &seen);
            metric = Some(seen);
        }
        // Smooth schedules change the learning rate all the time; only steps and policies' changes are recorded.
        let table = schedule.policy == ScheduleKind::Step;
        if self.rate_factor != before.rate_factor || table {
            let now = f64::from(epoch - 1);
            let past = if table { now - 1.0 } else { now };
            let [past, now] = [past, now].map(|done| done.max(schedule.warmup));
            let (from, to) = (before.learning_rate(recipe, past), self.learning_rate(recipe, now));
            if (from - to).abs() > 1e-9 * from {
                if self.rate_factor == before.rate_factor {
                    reason = "by schedule.steps".into();
                }
                decisions.push(decision(DecisionKind::LearningRate, from, to, reason, metric));
            }
        }
        let [from, to] = [epoch - 1, epoch].map(|epoch| recipe.data.image_size(epoch) as f64);
        if from != to {
            decisions.push(decision(
                DecisionKind::ImageSize,
                from,
                to,
                "by data.sides".into(),
                None,
            ));
            // Measurements on images of another size say nothing about these.
            self.noise = NoiseScaleEstimate::default();
            (self.batch_plateau, self.rate_plateau) = Default::default();
        }
        decisions
    }

    /// The batch size of an epoch; `None` if the policy depends on measurements.
    fn planned(&self, recipe: &Recipe, epoch: u32) -> Option<usize> {
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
            BatchPolicyKind::Plateau | BatchPolicyKind::NoiseScale => None,
        }
    }

    /// Grows the batch by one step; at its maximum, does what `after_max` says.
    fn grow(&mut self, batch: &BatchConfig) {
        if self.batch_size < batch.max {
            self.batch_size = batch.larger(self.batch_size);
        } else if batch.after_max == AfterMax::Decay {
            self.rate_factor /= batch.factor;
        }
    }

    /// Moves the batch size towards the multiple of the gradient noise scale.
    fn follow_noise_scale(&mut self, batch: &BatchConfig) {
        self.cooldown = self.cooldown.saturating_sub(1);
        let Some(scale) = self.noise.value().filter(|_| self.cooldown == 0) else { return };
        let before = self.clone();
        let target = batch.noise_multiple * scale;
        let too_small = |size: f64| target >= batch.hysteresis * size;
        let too_large = |size: f64| target * batch.hysteresis <= size;
        // At the largest size, a lower learning rate has the effect of a larger batch.
        let undecayed = batch.coupling.factor(self.batch_size as f64 / batch.initial as f64);
        let as_large = self.batch_size as f64 * undecayed / self.rate_factor;
        if self.batch_size == batch.max && batch.after_max == AfterMax::Decay {
            if too_small(as_large) {
                self.rate_factor /= batch.factor;
            } else if self.rate_factor < undecayed && too_large(as_large) {
                self.rate_factor = (self.rate_factor * batch.factor).min(undecayed);
            }
        }
        if self.rate_factor == before.rate_factor {
            while self.batch_size < batch.max && too_small(self.batch_size as f64) {
                self.batch_size = batch.larger(self.batch_size);
            }
            while self.batch_size > batch.initial && too_large(self.batch_size as f64) {
                self.batch_size = batch.smaller(self.batch_size);
            }
        }
        if self != &before {
            self.cooldown = batch.plateau.cooldown + 1;
        }
    }
}

/// The batch size, the schedule's factor and the image size of an epoch, as far as they follow from tables.
pub(crate) fn planned_epoch(recipe: &Recipe, epoch: u32) -> (Option<usize>, f64, usize) {
    let state = PolicyState::new(recipe);
    // At the end of the epoch, when a warm-up that ends within it is over.
    let end = f64::from(epoch).next_down();
    let factor = recipe.schedule.factor_at(end, recipe.train.epochs);
    (state.planned(recipe, epoch), factor, recipe.data.image_size(epoch))
}

fn plateau_reason(recipe: &Recipe, config: &PlateauConfig, seen: &PlateauObservation) -> String {
    let PlateauObservation { name, value, best, epochs } = seen;
    let every_epoch = *name == Metric::TrainLoss.name() || recipe.train.evaluate_every == 1;
    let counted = match (every_epoch, epochs) {
        (true, 1) => "epoch",
        (true, _) => "epochs",
        (false, 1) => "evaluation",
        (false, _) => "evaluations",
    };
    let why = plateau::shortfall(config, seen).map_or(String::new(), |why| format!(" ({why})"));
    format!("{name} {value:.4}, best {best:.4}: no improvement in {epochs} {counted}{why}")
}

#[cfg(test)]
mod tests;
