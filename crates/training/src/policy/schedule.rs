//! Learning-rate schedules: the factor of `optimizer.learning_rate` at each moment of a run.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

use super::plateau::{Metric, ThresholdMode, Watch};
use crate::Error;
use crate::recipe::reached;

/// The section `[schedule]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// What decides the learning rate.
    pub policy: ScheduleKind,
    /// Epochs in which it rises from zero.
    pub warmup: f64,
    /// The table of the policy `step`: from which epoch on, which factor.
    pub steps: Vec<(u32, f64)>,
    /// The factor at the end of `cosine`, `linear` and `one_cycle`.
    pub last: f64,
    /// The factor at the beginning of `one_cycle`.
    pub first: f64,
    /// The share of the run after which `one_cycle` is at its peak.
    pub peak: f64,
    /// What `plateau` watches, and how: see [`Watch`].
    pub metric: Metric,
    /// See [`Watch`].
    pub patience: u32,
    /// See [`Watch`].
    pub threshold: f64,
    /// See [`Watch`].
    pub threshold_mode: ThresholdMode,
    /// See [`Watch`].
    pub smoothing: f64,
    /// See [`Watch`].
    pub cooldown: u32,
    /// What the learning rate is divided by at a plateau.
    pub factor: f64,
    /// The least factor of the learning rate that plateaus lead to.
    pub least: f64,
}

/// Learning-rate schedules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleKind {
    /// Always the same.
    Constant,
    /// By a table of epochs.
    Step,
    /// Half a wave from 1 to `last`.
    Cosine,
    /// A straight line from 1 to `last`.
    Linear,
    /// A straight line from `first` to 1 and another one to `last`.
    OneCycle,
    /// Lower at every plateau.
    Plateau,
}

impl Schedule {
    /// How `plateau` watches.
    pub fn watch(&self) -> Watch {
        Watch {
            metric: self.metric,
            patience: self.patience,
            threshold: self.threshold,
            threshold_mode: self.threshold_mode,
            smoothing: self.smoothing,
            cooldown: self.cooldown,
        }
    }

    /// The factor after so many epochs (with fractions) of a run of `epochs`.
    pub fn factor_at(&self, done: f64, epochs: u32) -> f64 {
        let epochs = f64::from(epochs);
        if done < self.warmup {
            return done / self.warmup;
        }
        let part = ((done - self.warmup) / (epochs - self.warmup)).clamp(0.0, 1.0);
        match self.policy {
            ScheduleKind::Constant | ScheduleKind::Plateau => 1.0,
            ScheduleKind::Step => reached(&self.steps, done as u32 + 1).unwrap_or(1.0),
            ScheduleKind::Cosine => self.last + (1.0 - self.last) * 0.5 * (1.0 + (PI * part).cos()),
            ScheduleKind::Linear => 1.0 + (self.last - 1.0) * part,
            ScheduleKind::OneCycle if part < self.peak => {
                self.first + (1.0 - self.first) * part / self.peak
            }
            ScheduleKind::OneCycle => {
                1.0 + (self.last - 1.0) * (part - self.peak) / (1.0 - self.peak)
            }
        }
    }

    /// Whether the factor has only fallen, or stayed, since this moment.
    pub(super) fn is_past_peak(&self, done: f64, epochs: u32) -> bool {
        let rises_until = match self.policy {
            ScheduleKind::OneCycle => self.warmup + self.peak * (f64::from(epochs) - self.warmup),
            _ => self.warmup,
        };
        done >= rises_until
    }

    pub(super) fn check(&self) -> Result<(), Error> {
        let table = self.steps.is_sorted_by(|a, b| a.0 < b.0);
        let checks = [
            (
                self.warmup >= 0.0 && self.warmup.is_finite(),
                "schedule.warmup must be a number of epochs from 0 on",
            ),
            (
                table && self.steps.iter().all(|step| step.0 > 0),
                "schedule.steps must name its epochs, from 1 on, in rising order, as in \
                 [[61, 0.1], [81, 0.01]]",
            ),
            (
                self.steps.iter().all(|step| step.1 > 0.0 && step.1 <= 1.0),
                "schedule.steps must have factors above 0 and at most 1",
            ),
            (
                (0.0..=1.0).contains(&self.last) && (0.0..=1.0).contains(&self.first),
                "schedule.first and schedule.last must be from 0 to 1",
            ),
            (self.peak > 0.0 && self.peak < 1.0, "schedule.peak must be between 0 and 1"),
            (
                self.factor > 1.0 && self.factor.is_finite(),
                "schedule.factor must be above 1: the learning rate is divided by it",
            ),
            ((0.0..=1.0).contains(&self.least), "schedule.least must be from 0 to 1"),
        ];
        match checks.into_iter().find(|(fine, _)| !fine) {
            Some((_, problem)) => Err(Error::Recipe(problem.into())),
            None => self.watch().check("schedule"),
        }
    }
}

impl Watch {
    /// Whether the keys of a section make sense.
    pub(super) fn check(&self, section: &str) -> Result<(), Error> {
        let problem = if !(self.threshold >= 0.0 && self.threshold.is_finite()) {
            "threshold must be a number from 0 on"
        } else if !(0.0..1.0).contains(&self.smoothing) {
            "smoothing must be from 0 to below 1"
        } else {
            return Ok(());
        };
        Err(Error::Recipe(format!("{section}.{problem}")))
    }
}

#[cfg(test)]
mod tests {
    use crate::Recipe;

    fn factors(changes: &[&str], moments: &[f64]) -> Vec<f64> {
        let recipe = Recipe::load("report", changes).unwrap();
        moments.iter().map(|&done| recipe.schedule.factor_at(done, recipe.train.epochs)).collect()
    }

    fn close(found: &[f64], expected: &[f64]) {
        let near = found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-9);
        assert!(near && found.len() == expected.len(), "{found:?} is not {expected:?}");
    }

    #[test]
    fn the_shapes_of_schedules() {
        let moments = [0.0, 5.0, 10.0];
        let run = |policy: &str| {
            factors(&["train.epochs=10", &format!("schedule.policy={policy}")], &moments)
        };
        close(&run("constant"), &[1.0, 1.0, 1.0]);
        close(&run("cosine"), &[1.0, 0.5, 0.0]);
        close(&run("linear"), &[1.0, 0.5, 0.0]);
        let step = ["schedule.policy=step", "schedule.steps=[[6, 0.1], [8, 0.01]]"];
        close(&factors(&step, &[0.0, 4.99, 5.0, 7.0, 80.0]), &[1.0, 1.0, 0.1, 0.01, 0.01]);
        let cycle = [
            "train.epochs=10",
            "schedule.policy=one_cycle",
            "schedule.peak=0.2",
            "schedule.first=0.5",
            "schedule.last=0.1",
        ];
        close(&factors(&cycle, &[0.0, 1.0, 2.0, 6.0, 10.0]), &[0.5, 0.75, 1.0, 0.55, 0.1]);
        let warm = ["train.epochs=10", "schedule.policy=linear", "schedule.warmup=2.0"];
        close(&factors(&warm, &[0.5, 2.0, 6.0]), &[0.25, 1.0, 0.5]);
    }

    #[test]
    fn keys_that_make_no_sense_are_named() {
        for (change, key) in [
            ("schedule.steps=[[5, 0.1], [3, 0.2]]", "schedule.steps"),
            ("schedule.steps=[[0, 0.1]]", "schedule.steps"),
            ("schedule.steps=[[2, 0.0]]", "schedule.steps"),
            ("schedule.peak=1.0", "schedule.peak"),
            ("schedule.factor=1.0", "schedule.factor"),
            ("schedule.smoothing=1.0", "schedule.smoothing"),
            ("schedule.threshold=nan", "schedule.threshold"),
            ("schedule.warmup=-1.0", "schedule.warmup"),
            ("schedule.metric=loss", "train_loss"),
        ] {
            let problem = Recipe::load("report", &[change]).unwrap_err().to_string();
            assert!(problem.contains(key), "{change}: {problem}");
        }
    }
}
