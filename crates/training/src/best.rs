//! The best epoch so far by its validation images, and early stopping.

use serde::{Deserialize, Serialize};

use crate::Evaluation;

/// The best epoch so far: of those with the highest validation accuracy, the one with the lowest validation
/// loss, and of those the first.
///
/// See the example of [`Run`](crate::Run).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct BestEpoch {
    /// The epoch, counted from 1.
    pub epoch: u32,
    /// The validation accuracy after it, from 0 to 1.
    pub accuracy: f64,
    /// The validation loss after it.
    pub loss: f64,
    /// The last epoch that was evaluated.
    latest: u32,
    /// How many evaluations after the best one did not improve on it.
    without_improvement: u32,
}

impl BestEpoch {
    /// Takes the evaluation after `epoch` into account; an epoch that was taken already changes nothing. Returns
    /// the best epoch, and whether it is this one.
    pub(crate) fn update(
        best: Option<BestEpoch>,
        epoch: u32,
        evaluation: &Evaluation,
    ) -> (BestEpoch, bool) {
        let (accuracy, loss) = (evaluation.accuracy(), evaluation.loss);
        match best {
            Some(best) if epoch <= best.latest => (best, best.epoch == epoch),
            Some(best) if (accuracy, -loss) <= (best.accuracy, -best.loss) => {
                let without_improvement = best.without_improvement + 1;
                (BestEpoch { latest: epoch, without_improvement, ..best }, false)
            }
            _ => {
                let latest = epoch;
                (BestEpoch { epoch, accuracy, loss, latest, without_improvement: 0 }, true)
            }
        }
    }

    /// Whether training should stop if it does after `stop_after` evaluations without improvement; 0 for never.
    pub(crate) fn stops(&self, stop_after: u32) -> bool {
        stop_after > 0 && self.without_improvement >= stop_after
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accuracy_decides_then_loss_then_the_earlier_epoch() {
        let evaluation = |correct: u64, loss: f64| Evaluation {
            confusion: vec![vec![correct, 10 - correct], vec![0, 0]],
            loss,
            ..Evaluation::default()
        };
        let steps = [
            (1, 5, 1.0, 1, 0),
            (2, 6, 2.0, 2, 0),
            (3, 6, 2.0, 2, 1),
            // An epoch that is evaluated again after a crash is not counted twice.
            (3, 6, 2.0, 2, 1),
            (4, 5, 0.1, 2, 2),
            (5, 6, 1.5, 5, 0),
            (6, 6, 1.6, 5, 1),
        ];
        let mut best = None;
        for (epoch, correct, loss, expected, without_improvement) in steps {
            let (new, is_best) = BestEpoch::update(best, epoch, &evaluation(correct, loss));
            assert_eq!((new.epoch, new.without_improvement), (expected, without_improvement));
            assert_eq!(is_best, expected == epoch);
            for stop_after in 0..4 {
                let stops = stop_after > 0 && without_improvement >= stop_after;
                assert_eq!(new.stops(stop_after), stops);
            }
            best = Some(new);
        }
    }
}
