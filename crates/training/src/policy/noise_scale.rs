//! The gradient noise scale: the batch size beyond which averaging over more images hardly helps.
//!
//! It is `tr(Sigma) / |G|^2` (McCandlish et al. 2018, arXiv 1812.06162, the "simple" noise scale), where `G`
//! is the mean gradient over all images and `Sigma` the covariance of the gradients of single images. The
//! squared norm of a batch's gradient is `|G|^2 + tr(Sigma) / b` in expectation, with `b` images in the
//! batch, so a batch and its halves give both (appendix A.1 there). It is not the noise scale of SGD,
//! `lr * N / (B (1 - m))` (Smith et al. 2017, arXiv 1711.00489).

use crescendo_network::GradientNorms;
use serde::{Deserialize, Serialize};

/// The weight of the past in the moving averages, for each measurement.
const SMOOTHING: f64 = 0.9;

/// Squared norms of the gradients of the halves of a batch, and of the whole batch.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct NoiseSample {
    /// Images of a half: the harmonic mean of both.
    pub half: f64,
    /// The squared norm of a half's mean gradient: the mean of both.
    pub half_square: f64,
    /// Images of the batch.
    pub whole: f64,
    /// The squared norm of the batch's mean gradient.
    pub whole_square: f64,
}

impl NoiseSample {
    /// From what an engine has measured.
    pub fn of(norms: &GradientNorms) -> Self {
        let [(first, first_square), (second, second_square)] = norms.halves;
        NoiseSample {
            // The expected squared norm is linear in the inverse of the number of images.
            half: 2.0 / (1.0 / first as f64 + 1.0 / second as f64),
            half_square: (first_square + second_square) / 2.0,
            whole: (first + second) as f64,
            whole_square: norms.whole,
        }
    }
}

/// Moving averages of `tr(Sigma)` and `|G|^2`, each smoothed before one is divided by the other. A part of
/// the saved state.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct NoiseScaleEstimate {
    /// Of `tr(Sigma)`, not yet divided by `weight`.
    trace: f64,
    /// Of `|G|^2`, likewise.
    square: f64,
    /// The sum of the weights so far, which approaches 1.
    weight: f64,
}

impl NoiseScaleEstimate {
    /// Adds a measurement; one that is not finite is ignored.
    pub fn observe(&mut self, norms: &NoiseSample) {
        let NoiseSample { half, half_square, whole, whole_square } = *norms;
        let trace = (half_square - whole_square) / (1.0 / half - 1.0 / whole);
        let square = (whole * whole_square - half * half_square) / (whole - half);
        if !(trace.is_finite() && square.is_finite()) {
            return;
        }
        let blend = |past: &mut f64, new| *past = SMOOTHING * *past + (1.0 - SMOOTHING) * new;
        blend(&mut self.trace, trace);
        blend(&mut self.square, square);
        blend(&mut self.weight, 1.0);
    }

    /// The noise scale in images; `None` before the first measurement, and while an average is not positive
    /// because noise hides the gradient.
    pub fn value(&self) -> Option<f64> {
        (self.weight > 0.0 && self.square > 0.0 && self.trace > 0.0)
            .then(|| self.trace / self.square)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_batch_sizes_give_noise_and_gradient() {
        // |G|^2 = 4, tr(Sigma) = 100.
        let expected = |images: f64| 4.0 + 100.0 / images;
        let mut noise = NoiseScaleEstimate::default();
        assert_eq!(noise.value(), None);
        for whole in [100.0, 400.0] {
            let half = whole / 2.0;
            let (half_square, whole_square) = (expected(half), expected(whole));
            noise.observe(&NoiseSample { half, half_square, whole, whole_square });
        }
        // Halves may have different sizes.
        let mut norms = GradientNorms::default();
        norms.halves = [(32, expected(32.0)), (33, expected(33.0))];
        norms.whole = expected(65.0);
        noise.observe(&NoiseSample::of(&norms));
        assert!((noise.value().unwrap() - 25.0).abs() < 1e-9);
    }

    #[test]
    fn there_is_no_estimate_while_noise_hides_the_gradient() {
        let mut noise = NoiseScaleEstimate::default();
        // The gradients of the parts happen to point away from one another.
        noise.observe(&NoiseSample {
            half: 50.0,
            half_square: 9.0,
            whole: 100.0,
            whole_square: 4.0,
        });
        assert_eq!(noise.value(), None);
        noise.observe(&NoiseSample {
            half: 50.0,
            half_square: f64::NAN,
            whole: 100.0,
            whole_square: 4.0,
        });
        noise.observe(&NoiseSample {
            half: 50.0,
            half_square: 9.0,
            whole: 100.0,
            whole_square: 8.0,
        });
        assert!(noise.value().is_some());
    }
}
