//! Policies: what decides the batch size and the learning rate of each epoch.
//!
//! Both are chosen when an epoch begins, from the recipe, the last epoch's metrics and what the policy
//! remembers of earlier ones ([`Chosen`], a part of the saved state). So a run that is stopped and
//! resumed chooses the same.

mod batch;
mod noise;
mod outlook;
mod plateau;
mod schedule;

use serde::{Deserialize, Serialize};

use crate::events::{Decided, Decision, Watched};
use crate::recipe::Per;
use crate::{Error, Recipe};

pub use batch::{AfterMax, Batch, Coupling, PolicyKind};
pub(crate) use noise::{Measured, NoiseScale};
pub use outlook::{Phase, Share, outlook};
use plateau::Plateau;
pub use plateau::{Metric, Metrics, ThresholdMode, Watch};
pub use schedule::{Schedule, ScheduleKind};

/// What policies have chosen, and what they remember.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Chosen {
    /// The epoch that it is for.
    pub(crate) epoch: u32,
    /// Images an update takes.
    pub(crate) batch_size: usize,
    /// The learning rate's factor, beside the schedule's.
    rate_factor: f64,
    batch_plateau: Plateau,
    rate_plateau: Plateau,
    /// Epochs until the noise scale may decide again.
    cooldown: u32,
    pub(crate) noise: NoiseScale,
}

impl Chosen {
    /// What a run begins with.
    pub(crate) fn new(recipe: &Recipe) -> Self {
        let mut chosen = Chosen {
            epoch: 1,
            batch_size: 0,
            rate_factor: 1.0,
            batch_plateau: Plateau::default(),
            rate_plateau: Plateau::default(),
            cooldown: 0,
            noise: NoiseScale::default(),
        };
        chosen.batch_size = chosen.planned(recipe, 1).unwrap_or(recipe.batch.initial);
        chosen
    }

    /// The learning rate after so many epochs (with fractions).
    pub(crate) fn learning_rate(&self, recipe: &Recipe, done: f64) -> f64 {
        recipe.optimizer.learning_rate * self.factor(recipe, done, recipe.train.epochs)
    }

    /// The factor of learning rates whose schedule has so many epochs.
    pub(crate) fn factor(&self, recipe: &Recipe, done: f64, epochs: u32) -> f64 {
        let (schedule, batch) = (&recipe.schedule, &recipe.batch);
        let mut factor = schedule.factor_at(done, epochs) * self.rate_factor;
        if batch.policy == PolicyKind::FromLr && schedule.is_past_peak(done, epochs) {
            // The batch has taken its share of the fall; what is left, and only that, is the rate's.
            if batch.after_max == AfterMax::Hold {
                factor = factor.max(batch.initial as f64 / batch.max as f64);
            }
            factor *= self.batch_size as f64 / batch.initial as f64;
        }
        factor
    }

    /// Chooses for `epoch`, which begins after `updates` updates; `last` are the metrics of the epoch
    /// before. Asked again for the same epoch, nothing changes.
    pub(crate) fn enter(
        &mut self,
        recipe: &Recipe,
        epoch: u32,
        updates: u64,
        last: &Metrics,
    ) -> Vec<Decision> {
        if epoch <= self.epoch {
            return Vec::new();
        }
        self.epoch = epoch;
        let before = self.clone();
        let batch = &recipe.batch;
        let noise_scale = self.noise.value();
        let decision = |what, from, to, reason: String, metric: Option<Watched>| Decision {
            epoch,
            updates,
            what,
            from,
            to,
            reason,
            metric,
            noise_scale,
        };
        let mut decisions = Vec::new();

        let (mut reason, mut metric) = (String::new(), None);
        match batch.policy {
            PolicyKind::Fixed => {}
            PolicyKind::Steps => {
                self.batch_size = batch.by_table(epoch);
                reason = "by batch.steps".into();
            }
            PolicyKind::FromLr => {
                self.batch_size = self.planned(recipe, epoch).expect("it is planned");
                let factor = recipe.schedule.factor_at(f64::from(epoch - 1), recipe.train.epochs);
                reason = format!("instead of the learning rate times {factor:.4}");
            }
            PolicyKind::Plateau => {
                if let Some(seen) = self.batch_plateau.observe(&batch.watch(), last) {
                    reason = plateau_reason(recipe, &seen);
                    metric = Some(seen);
                    self.grow(batch);
                }
            }
            PolicyKind::NoiseScale => {
                self.follow(batch);
                reason = noise_scale.map_or(String::new(), |scale| {
                    format!("the gradient noise scale is {scale:.0} images")
                });
            }
        }
        if self.batch_size != before.batch_size {
            let (from, to) = (before.batch_size as f64, self.batch_size as f64);
            decisions.push(decision(Decided::BatchSize, from, to, reason.clone(), metric.clone()));
            if batch.policy != PolicyKind::FromLr {
                self.rate_factor *= batch.coupling.factor(to / from);
            }
        } else if self.rate_factor != before.rate_factor {
            reason += ", and batch.max is reached";
        }

        let schedule = &recipe.schedule;
        if schedule.policy == ScheduleKind::Plateau
            && let Some(seen) = self.rate_plateau.observe(&schedule.watch(), last)
        {
            let least = schedule.least.min(self.rate_factor);
            self.rate_factor = (self.rate_factor / schedule.factor).max(least);
            reason = plateau_reason(recipe, &seen);
            metric = Some(seen);
        }
        // Smooth schedules change the rate all the time; what is written down is what is decided.
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
                decisions.push(decision(Decided::LearningRate, from, to, reason, metric));
            }
        }
        let [from, to] = [epoch - 1, epoch].map(|epoch| recipe.data.side(epoch) as f64);
        if from != to {
            decisions.push(decision(Decided::Side, from, to, "by data.sides".into(), None));
            // What was measured on other images says nothing of these.
            self.noise = NoiseScale::default();
            (self.batch_plateau, self.rate_plateau) = Default::default();
        }
        decisions
    }

    /// The size that a policy without measurements has for `epoch`.
    fn planned(&self, recipe: &Recipe, epoch: u32) -> Option<usize> {
        let (batch, schedule) = (&recipe.batch, &recipe.schedule);
        match batch.policy {
            PolicyKind::Fixed => Some(batch.size),
            PolicyKind::Steps => Some(batch.by_table(epoch)),
            PolicyKind::FromLr => {
                let (done, epochs) = (f64::from(epoch - 1), recipe.train.epochs);
                Some(if schedule.is_past_peak(done, epochs) {
                    batch.for_rate(schedule.factor_at(done, epochs))
                } else {
                    batch.initial
                })
            }
            PolicyKind::Plateau | PolicyKind::NoiseScale => None,
        }
    }

    /// One step larger, or where that is not possible, what comes after.
    fn grow(&mut self, batch: &Batch) {
        if self.batch_size < batch.max {
            self.batch_size = batch.larger(self.batch_size);
        } else if batch.after_max == AfterMax::Decay {
            self.rate_factor /= batch.factor;
        }
    }

    /// Towards the multiple of the noise scale.
    fn follow(&mut self, batch: &Batch) {
        self.cooldown = self.cooldown.saturating_sub(1);
        let Some(scale) = self.noise.value().filter(|_| self.cooldown == 0) else { return };
        let before = self.clone();
        let target = batch.noise_multiple * scale;
        let too_small = |size: f64| target >= batch.hysteresis * size;
        let too_large = |size: f64| target * batch.hysteresis <= size;
        // At the largest size a lower rate is as a larger batch.
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
            self.cooldown = batch.cooldown + 1;
        }
    }
}

/// The batch size, the learning rate's factor and the images' side of an epoch by tables alone.
pub(crate) fn planned_epoch(recipe: &Recipe, epoch: u32) -> (Option<usize>, f64, usize) {
    let chosen = Chosen::new(recipe);
    // At its end, where a warm-up that ends in it is over.
    let end = f64::from(epoch).next_down();
    let factor = recipe.schedule.factor_at(end, recipe.train.epochs);
    (chosen.planned(recipe, epoch), factor, recipe.data.side(epoch))
}

fn plateau_reason(recipe: &Recipe, seen: &Watched) -> String {
    let Watched { name, value, best, epochs } = seen;
    let every_epoch = *name == Metric::TrainLoss.name() || recipe.train.evaluate_every == 1;
    let counted = if every_epoch { "epochs" } else { "evaluations" };
    format!("{name} {value:.4}, best {best:.4}: no improvement in {epochs} {counted}")
}

/// Whether the keys of both policies make sense, together and with the rest of the recipe.
pub(crate) fn check(recipe: &Recipe) -> Result<(), Error> {
    batch::check(recipe)?;
    recipe.schedule.check()?;
    let batch = &recipe.batch;
    let coupled = batch.policy == PolicyKind::FromLr || batch.coupling != Coupling::Constant;
    if recipe.optimizer.per == Per::Image && coupled {
        return Err(Error::Recipe(
            "optimizer.per = image lets learning rates grow with the batch already: leave \
             batch.coupling = constant, and choose another batch.policy than from_lr"
                .into(),
        ));
    }
    let watched = [
        (recipe.batch.policy == PolicyKind::Plateau, "batch.metric", recipe.batch.metric),
        (
            recipe.schedule.policy == ScheduleKind::Plateau,
            "schedule.metric",
            recipe.schedule.metric,
        ),
    ];
    for (_, key, metric) in watched.into_iter().filter(|watched| watched.0) {
        let name = metric.name();
        if metric != Metric::TrainLoss && recipe.data.validation == 0 {
            return Err(Error::Recipe(format!(
                "{key} is {name}, but no images are held out: set data.validation, such as to 5000"
            )));
        }
        if metric != Metric::TrainLoss && recipe.train.evaluate_every == 0 {
            return Err(Error::Recipe(format!(
                "{key} is {name}, but it is never measured: set train.evaluate_every, such as to 1"
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
