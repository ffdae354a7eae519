//! The gradient noise scale: the batch size beyond which averaging over more images hardly helps.
//!
//! It is `tr(Sigma) / |G|^2` (McCandlish et al. 2018, arXiv 1812.06162, the "simple" noise scale), where `G`
//! is the mean gradient over all images and `Sigma` the covariance of the gradients of single images. The
//! squared norm of a batch's gradient is `|G|^2 + tr(Sigma) / b` in expectation, with `b` images in the
//! batch, so batches of two sizes give both (appendix A.1 there). It is not the noise scale of SGD,
//! `lr * N / (B (1 - m))` (Smith et al. 2017, arXiv 1711.00489).

use serde::{Deserialize, Serialize};

/// The weight of the past in the moving averages, for each measurement.
const SMOOTHING: f64 = 0.9;

/// Squared norms of the gradients of parts of a batch (micro-batches or halves), and of the whole batch.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct NoiseSample {
    /// Images of a part: the harmonic mean over the parts.
    pub part: f64,
    /// The squared norm of a part's mean gradient: the mean over the parts.
    pub part_square: f64,
    /// Images of the batch.
    pub whole: f64,
    /// The squared norm of the batch's mean gradient.
    pub whole_square: f64,
}

impl NoiseSample {
    /// From `(images, squared norm)` of each part.
    pub fn of(parts: &[(f64, f64)], whole: f64, whole_square: f64) -> Self {
        let count = parts.len() as f64;
        NoiseSample {
            // The expected squared norm is linear in the inverse of the number of images.
            part: count / parts.iter().map(|part| 1.0 / part.0).sum::<f64>(),
            part_square: parts.iter().map(|part| part.1).sum::<f64>() / count,
            whole,
            whole_square,
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
        let NoiseSample { part, part_square, whole, whole_square } = *norms;
        let trace = (part_square - whole_square) / (1.0 / part - 1.0 / whole);
        let square = (whole * whole_square - part * part_square) / (whole - part);
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
            let part = whole / 2.0;
            let (part_square, whole_square) = (expected(part), expected(whole));
            noise.observe(&NoiseSample { part, part_square, whole, whole_square });
        }
        // Parts may have different sizes.
        let parts = [32.0, 32.0, 1.0].map(|images| (images, expected(images)));
        noise.observe(&NoiseSample::of(&parts, 65.0, expected(65.0)));
        assert!((noise.value().unwrap() - 25.0).abs() < 1e-9);
    }

    #[test]
    fn there_is_no_estimate_while_noise_hides_the_gradient() {
        let mut noise = NoiseScaleEstimate::default();
        // The gradients of the parts happen to point away from one another.
        noise.observe(&NoiseSample {
            part: 50.0,
            part_square: 9.0,
            whole: 100.0,
            whole_square: 4.0,
        });
        assert_eq!(noise.value(), None);
        noise.observe(&NoiseSample {
            part: 50.0,
            part_square: f64::NAN,
            whole: 100.0,
            whole_square: 4.0,
        });
        noise.observe(&NoiseSample {
            part: 50.0,
            part_square: 9.0,
            whole: 100.0,
            whole_square: 8.0,
        });
        assert!(noise.value().is_some());
    }
}
