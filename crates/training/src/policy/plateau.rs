//! When a metric has stopped improving.

use serde::{Deserialize, Serialize};

use crate::events::Watched;

/// What is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// The mean loss over the epoch's training images.
    TrainLoss,
    /// The mean loss on held-out images.
    ValidationLoss,
    /// The share of right answers on held-out images.
    ValidationAccuracy,
}

impl Metric {
    /// Its name in recipes.
    pub fn name(self) -> &'static str {
        match self {
            Metric::TrainLoss => "train_loss",
            Metric::ValidationLoss => "validation_loss",
            Metric::ValidationAccuracy => "validation_accuracy",
        }
    }

    fn rises(self) -> bool {
        self == Metric::ValidationAccuracy
    }
}

/// How much better counts as an improvement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ThresholdMode {
    /// By this share of the best value.
    Relative,
    /// By this much.
    Absolute,
}

/// How a metric is watched; as PyTorch's `ReduceLROnPlateau` does it, with smoothing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Watch {
    /// The metric.
    pub metric: Metric,
    /// Epochs without improvement that are waited; one more is a plateau.
    pub patience: u32,
    /// See [`ThresholdMode`].
    pub threshold: f64,
    /// See [`ThresholdMode`].
    pub threshold_mode: ThresholdMode,
    /// The weight of the past in the moving average that is watched; 0 for the metric itself.
    pub smoothing: f64,
    /// Epochs after a plateau that do not count.
    pub cooldown: u32,
}

/// An epoch's metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    pub(crate) train_loss: f64,
    pub(crate) validation_loss: Option<f64>,
    pub(crate) validation_accuracy: Option<f64>,
}

impl Metrics {
    fn get(&self, metric: Metric) -> Option<f64> {
        match metric {
            Metric::TrainLoss => Some(self.train_loss),
            Metric::ValidationLoss => self.validation_loss,
            Metric::ValidationAccuracy => self.validation_accuracy,
        }
    }
}

/// What is remembered of a watched metric.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Plateau {
    best: Option<f64>,
    smoothed: Option<f64>,
    /// Epochs without improvement.
    epochs: u32,
    /// Epochs that do not count yet.
    cooldown: u32,
}

impl Plateau {
    /// Takes in an epoch; what was seen, if it is a plateau. Epochs in which the metric was not
    /// measured change nothing, and what is no number is no improvement.
    pub fn observe(&mut self, watch: &Watch, metrics: &Metrics) -> Option<Watched> {
        let value = metrics.get(watch.metric)?;
        if value.is_finite() {
            let past = self.smoothed.unwrap_or(value);
            self.smoothed = Some(watch.smoothing * past + (1.0 - watch.smoothing) * value);
        }
        let best_before = self.best;
        match self.smoothed.filter(|_| value.is_finite()) {
            Some(smoothed) if self.best.is_none_or(|best| better(watch, smoothed, best)) => {
                self.best = Some(smoothed);
                self.epochs = 0;
            }
            _ => self.epochs += 1,
        }
        if self.cooldown > 0 {
            self.cooldown -= 1;
            self.epochs = 0;
        }
        if self.epochs <= watch.patience {
            return None;
        }
        let seen = Watched {
            name: watch.metric.name(),
            value: self.smoothed.unwrap_or(f64::NAN),
            best: best_before.unwrap_or(f64::NAN),
            epochs: self.epochs,
        };
        self.epochs = 0;
        self.cooldown = watch.cooldown;
        Some(seen)
    }
}

fn better(watch: &Watch, value: f64, best: f64) -> bool {
    let margin = match watch.threshold_mode {
        ThresholdMode::Relative => watch.threshold * best.abs(),
        ThresholdMode::Absolute => watch.threshold,
    };
    if watch.metric.rises() { value > best + margin } else { value < best - margin }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WATCH: Watch = Watch {
        metric: Metric::TrainLoss,
        patience: 1,
        threshold: 0.1,
        threshold_mode: ThresholdMode::Relative,
        smoothing: 0.0,
        cooldown: 0,
    };

    /// The epochs, from 1, at which there is a plateau.
    fn plateaus(watch: &Watch, values: &[f64]) -> Vec<usize> {
        let mut plateau = Plateau::default();
        let mut seen = Vec::new();
        for (i, &value) in values.iter().enumerate() {
            let metrics = Metrics {
                train_loss: value,
                validation_loss: None,
                validation_accuracy: Some(value),
            };
            seen.extend(plateau.observe(watch, &metrics).map(|_| i + 1));
        }
        seen
    }

    #[test]
    fn a_plateau_is_more_epochs_without_improvement_than_patience() {
        let losses = [1.0, 0.8, 0.79, 0.75, 0.73, 0.5, 0.5, 0.5];
        // 0.79, 0.75 and 0.73 are less than a tenth below 0.8.
        assert_eq!(plateaus(&WATCH, &losses), [4, 8]);
        assert_eq!(plateaus(&Watch { patience: 0, ..WATCH }, &losses), [3, 4, 5, 7, 8]);
        let absolute = Watch { threshold_mode: ThresholdMode::Absolute, threshold: 0.04, ..WATCH };
        assert_eq!(plateaus(&absolute, &losses), [8]);
    }

    #[test]
    fn an_accuracy_improves_upwards() {
        let watch = Watch { metric: Metric::ValidationAccuracy, ..WATCH };
        assert_eq!(plateaus(&watch, &[0.5, 0.6, 0.7, 0.7, 0.7]), [5]);
    }

    #[test]
    fn cooldown_and_smoothing_put_it_off() {
        let flat = [1.0; 8];
        assert_eq!(plateaus(&WATCH, &flat), [3, 5, 7]);
        assert_eq!(plateaus(&Watch { cooldown: 2, ..WATCH }, &flat), [3, 7]);
        let noisy = [1.0, 0.5, 1.0, 1.0, 1.0, 1.0];
        assert_eq!(plateaus(&WATCH, &noisy), [4, 6]);
        // The average falls to 0.75 and rises slowly: later than the best.
        assert_eq!(plateaus(&Watch { smoothing: 0.5, ..WATCH }, &noisy), [4, 6]);
    }

    #[test]
    fn what_is_no_number_is_no_improvement() {
        assert_eq!(plateaus(&WATCH, &[f64::NAN; 4]), [2, 4]);
        assert_eq!(plateaus(&WATCH, &[1.0, f64::NAN, f64::INFINITY, 0.5]), [3]);
        let unmeasured = Watch { metric: Metric::ValidationLoss, ..WATCH };
        assert!(plateaus(&unmeasured, &[1.0; 9]).is_empty());
    }
}
