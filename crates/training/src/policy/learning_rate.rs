//! Learning-rate schedules: the factor of `optimizer.learning_rate` at each moment of a run.

use std::f64::consts::PI;

use crate::Recipe;
use crate::recipe::{AfterMax, BatchPolicyKind, ScheduleConfig, ScheduleKind, value_at};

/// The factor of learning rates after `done` epochs, if the schedule has so many epochs, with what policies have
/// changed it by, for batches of this size.
pub(super) fn factor(
    recipe: &Recipe,
    by_policies: f64,
    batch_size: usize,
    done: f64,
    epochs: u32,
) -> f64 {
    let (schedule, batch) = (&recipe.schedule, &recipe.batch);
    let mut factor = schedule.factor_at(done, epochs) * by_policies;
    if batch.policy == BatchPolicyKind::FromLr && schedule.is_past_peak(done, epochs) {
        // The growth of the batch stands in for a part of the decay; the learning rate has the rest.
        if batch.after_max == AfterMax::Hold {
            factor = factor.max(batch.initial as f64 / batch.max as f64);
        }
        factor *= batch_size as f64 / batch.initial as f64;
    }
    factor
}

impl ScheduleConfig {
    /// The factor of `optimizer.learning_rate` after `done` epochs (with fractions) of a run of `epochs`.
    pub fn factor_at(&self, done: f64, epochs: u32) -> f64 {
        let epochs = f64::from(epochs);
        if done < self.warmup {
            return done / self.warmup;
        }
        let part = ((done - self.warmup) / (epochs - self.warmup)).clamp(0.0, 1.0);
        match self.policy {
            ScheduleKind::Constant | ScheduleKind::Plateau => 1.0,
            ScheduleKind::Step => value_at(&self.steps, done as u32 + 1).unwrap_or(1.0),
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

    /// Whether the factor does not rise any more from this moment on.
    pub(super) fn is_past_peak(&self, done: f64, epochs: u32) -> bool {
        let rises_until = match self.policy {
            ScheduleKind::OneCycle => self.warmup + self.peak * (f64::from(epochs) - self.warmup),
            _ => self.warmup,
        };
        done >= rises_until
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
    fn every_schedule_has_its_shape() {
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
}
