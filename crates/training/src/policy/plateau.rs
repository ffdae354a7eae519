//! Detects when a metric has stopped improving: PyTorch's `ReduceLROnPlateau`, with an optional moving
//! average.

use serde::{Deserialize, Serialize};

use super::{EpochMetrics, PlateauObservation};
use crate::recipe::{Metric, PlateauConfig, ThresholdMode};

impl EpochMetrics {
    fn get(&self, metric: Metric) -> Option<f64> {
        match metric {
            Metric::TrainLoss => Some(self.train_loss),
            Metric::ValidationLoss => self.validation_loss,
            Metric::ValidationAccuracy => self.validation_accuracy,
        }
    }
}

/// The state of a plateau detector. A part of the saved state.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct PlateauState {
    /// The best value so far.
    best: Option<f64>,
    /// The moving average.
    smoothed: Option<f64>,
    /// Epochs without improvement.
    epochs: u32,
    /// Epochs of cooldown that are left.
    cooldown: u32,
}

impl PlateauState {
    /// Adds an epoch, and says what was observed if the metric is on a plateau. An epoch without the metric
    /// changes nothing; a value that is not finite counts as no improvement.
    pub fn observe(
        &mut self,
        config: &PlateauConfig,
        metrics: &EpochMetrics,
    ) -> Option<PlateauObservation> {
        let value = metrics.get(config.metric)?;
        if value.is_finite() {
            let past = self.smoothed.unwrap_or(value);
            self.smoothed = Some(config.smoothing * past + (1.0 - config.smoothing) * value);
        }
        let best_before = self.best;
        match self.smoothed.filter(|_| value.is_finite()) {
            Some(smoothed) if self.best.is_none_or(|best| better(config, smoothed, best)) => {
                self.best = Some(smoothed);
                self.epochs = 0;
            }
            _ => self.epochs += 1,
        }
        if self.cooldown > 0 {
            self.cooldown -= 1;
            self.epochs = 0;
        }
        if self.epochs <= config.patience {
            return None;
        }
        let seen = PlateauObservation {
            name: config.metric.name(),
            value: self.smoothed.unwrap_or(f64::NAN),
            best: best_before.unwrap_or(f64::NAN),
            epochs: self.epochs,
        };
        self.epochs = 0;
        self.cooldown = config.cooldown;
        Some(seen)
    }
}

/// Whether larger values of the metric are better.
fn rises(metric: Metric) -> bool {
    metric == Metric::ValidationAccuracy
}

/// How much better than the best one the last value would have to be, and how much it was: `14 % better than the best
/// is asked for, 2 % was reached`. `None` if a number is not finite.
pub(super) fn shortfall(config: &PlateauConfig, seen: &PlateauObservation) -> Option<String> {
    let PlateauObservation { value, best, .. } = *seen;
    let rises = rises(config.metric);
    let relative = config.threshold_mode == ThresholdMode::Relative && best != 0.0;
    let (scale, unit) = if relative { (100.0 / best.abs(), " %") } else { (1.0, "") };
    let gain = scale * if rises { value - best } else { best - value };
    if !gain.is_finite() {
        return None;
    }
    let needed = if relative { 100.0 * config.threshold } else { config.threshold };
    let digits = |digits: usize| {
        let number = |value: f64| format!("{value:.digits$}");
        (number(gain.abs()), number(needed))
    };
    // Enough digits to tell the two apart, and the first from zero.
    let (found, enough) = (1..=9)
        .map(digits)
        .find(|(found, enough)| found != enough && found.bytes().any(|digit| digit > b'0'))
        .unwrap_or(digits(9));
    let plain = |number: String| number.trim_end_matches('0').trim_end_matches('.').to_owned();
    let (found, enough) = (plain(found), plain(enough));
    let asked = format!("{enough}{unit} better than the best is asked for");
    Some(match (config.threshold > 0.0, gain) {
        (false, 0.0) => "equal to the best".to_owned(),
        (false, gain) if gain > 0.0 => format!("{found}{unit} better than the best"),
        (false, _) => format!("{found}{unit} worse than the best"),
        (true, 0.0) => format!("{asked}, none was reached"),
        (true, gain) if gain > 0.0 => format!("{asked}, {found}{unit} was reached"),
        (true, _) => format!("{asked}, it was {found}{unit} worse"),
    })
}

fn better(config: &PlateauConfig, value: f64, best: f64) -> bool {
    let margin = match config.threshold_mode {
        ThresholdMode::Relative => config.threshold * best.abs(),
        ThresholdMode::Absolute => config.threshold,
    };
    if rises(config.metric) { value > best + margin } else { value < best - margin }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: PlateauConfig = PlateauConfig {
        metric: Metric::TrainLoss,
        patience: 1,
        threshold: 0.1,
        threshold_mode: ThresholdMode::Relative,
        smoothing: 0.0,
        cooldown: 0,
    };

    /// The epochs, from 1, at which there is a plateau.
    fn plateaus(config: &PlateauConfig, values: &[f64]) -> Vec<usize> {
        let mut plateau = PlateauState::default();
        let mut seen = Vec::new();
        for (i, &value) in values.iter().enumerate() {
            let metrics = EpochMetrics {
                train_loss: value,
                validation_accuracy: Some(value),
                ..EpochMetrics::default()
            };
            seen.extend(plateau.observe(config, &metrics).map(|_| i + 1));
        }
        seen
    }

    #[test]
    fn a_plateau_is_more_epochs_without_improvement_than_patience() {
        let losses = [1.0, 0.8, 0.79, 0.75, 0.73, 0.5, 0.5, 0.5];
        // 0.79, 0.75 and 0.73 are less than a tenth below 0.8.
        assert_eq!(plateaus(&CONFIG, &losses), [4, 8]);
        assert_eq!(plateaus(&PlateauConfig { patience: 0, ..CONFIG }, &losses), [3, 4, 5, 7, 8]);
        let absolute =
            PlateauConfig { threshold_mode: ThresholdMode::Absolute, threshold: 0.04, ..CONFIG };
        assert_eq!(plateaus(&absolute, &losses), [8]);
    }

    #[test]
    fn the_shortfall_has_the_numbers_that_decided() {
        let said = |config: &PlateauConfig, value: f64, best: f64| {
            let seen = PlateauObservation { name: "", value, best, epochs: 1 };
            shortfall(config, &seen).unwrap_or_default()
        };
        let strict = PlateauConfig { threshold: 0.2, ..CONFIG };
        let of_20 = |rest: &str| format!("20 % better than the best is asked for, {rest}");
        assert_eq!(said(&strict, 2.3141, 2.6908), of_20("14 % was reached"));
        assert_eq!(said(&strict, 2.0, 2.0), of_20("none was reached"));
        assert_eq!(said(&strict, 2.1, 2.0), of_20("it was 5 % worse"));
        assert_eq!(said(&strict, 0.80004, 1.0), of_20("19.996 % was reached"));
        assert_eq!(said(&strict, 0.99999, 1.0), of_20("0.001 % was reached"));
        assert_eq!(said(&strict, f64::NAN, 1.0), "");
        let any = PlateauConfig { threshold: 0.0, ..CONFIG };
        assert_eq!(said(&any, 1.1, 1.0), "10 % worse than the best");
        assert_eq!(said(&any, 1.0, 1.0), "equal to the best");
        let absolute =
            PlateauConfig { threshold_mode: ThresholdMode::Absolute, threshold: 0.04, ..CONFIG };
        let of_absolute = "0.04 better than the best is asked for, 0.03 was reached";
        assert_eq!(said(&absolute, 0.97, 1.0), of_absolute);
        let accuracy = PlateauConfig { metric: Metric::ValidationAccuracy, ..CONFIG };
        let of_10 = |rest: &str| format!("10 % better than the best is asked for, {rest}");
        assert_eq!(said(&accuracy, 0.51, 0.5), of_10("2 % was reached"));
        assert_eq!(said(&accuracy, 0.4, 0.5), of_10("it was 20 % worse"));
    }

    #[test]
    fn an_accuracy_improves_by_rising() {
        let config = PlateauConfig { metric: Metric::ValidationAccuracy, ..CONFIG };
        assert_eq!(plateaus(&config, &[0.5, 0.6, 0.7, 0.7, 0.7]), [5]);
    }

    #[test]
    fn cooldown_and_smoothing_delay_plateaus() {
        let flat = [1.0; 8];
        assert_eq!(plateaus(&CONFIG, &flat), [3, 5, 7]);
        assert_eq!(plateaus(&PlateauConfig { cooldown: 2, ..CONFIG }, &flat), [3, 7]);
        let noisy = [1.0, 0.5, 1.0, 1.0, 1.0, 1.0];
        assert_eq!(plateaus(&CONFIG, &noisy), [4, 6]);
        // The average falls to 0.75 and rises slowly: later than the best.
        assert_eq!(plateaus(&PlateauConfig { smoothing: 0.5, ..CONFIG }, &noisy), [4, 6]);
    }

    #[test]
    fn a_value_that_is_not_finite_is_no_improvement() {
        assert_eq!(plateaus(&CONFIG, &[f64::NAN; 4]), [2, 4]);
        assert_eq!(plateaus(&CONFIG, &[1.0, f64::NAN, f64::INFINITY, 0.5]), [3]);
        let unmeasured = PlateauConfig { metric: Metric::ValidationLoss, ..CONFIG };
        assert!(plateaus(&unmeasured, &[1.0; 9]).is_empty());
    }
}
