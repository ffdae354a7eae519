//! The gradient noise scale: from which batch size on averaging more images hardly helps.
//!
//! `tr(Sigma) / |G|^2` (McCandlish et al. 2018, arXiv 1812.06162), where `G` is the mean gradient over
//! all images and `Sigma` the covariance of single images' gradients. A batch of `b` images has a
//! gradient of the expected square `|G|^2 + tr(Sigma) / b`, so two sizes of batches tell both. Not to be
//! confused with the noise of SGD, `lr * N / (B (1 - m))`.

use serde::{Deserialize, Serialize};

/// The weight of the past in the moving averages, a measurement.
const SMOOTHING: f64 = 0.9;

/// Squared norms of gradients, from parts of a batch and from all of it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Measured {
    /// Images of each part; their harmonic mean.
    pub part: f64,
    /// The mean over the parts of the squared norm of a part's mean gradient.
    pub part_square: f64,
    /// Images of the batch.
    pub whole: f64,
    /// The squared norm of the batch's mean gradient.
    pub whole_square: f64,
}

impl Measured {
    /// From each part's images and its squared norm.
    pub fn of(parts: &[(f64, f64)], whole: f64, whole_square: f64) -> Self {
        let count = parts.len() as f64;
        Measured {
            // A part's square is expected to grow with the inverse of its images.
            part: count / parts.iter().map(|part| 1.0 / part.0).sum::<f64>(),
            part_square: parts.iter().map(|part| part.1).sum::<f64>() / count,
            whole,
            whole_square,
        }
    }
}

/// Both quantities, each smoothed before one is divided by the other.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct NoiseScale {
    trace: f64,
    square: f64,
    /// How much of a full average there is yet.
    weight: f64,
}

impl NoiseScale {
    pub fn observe(&mut self, measured: &Measured) {
        let Measured { part, part_square, whole, whole_square } = *measured;
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

    /// In images; `None` while nothing is known, or the noise hides the gradient.
    pub fn value(&self) -> Option<f64> {
        (self.weight > 0.0 && self.square > 0.0 && self.trace > 0.0)
            .then(|| self.trace / self.square)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_sizes_of_batches_tell_noise_and_gradient_apart() {
        // |G|^2 = 4, tr(Sigma) = 100.
        let expected = |images: f64| 4.0 + 100.0 / images;
        let mut noise = NoiseScale::default();
        assert_eq!(noise.value(), None);
        for whole in [100.0, 400.0] {
            let part = whole / 2.0;
            let (part_square, whole_square) = (expected(part), expected(whole));
            noise.observe(&Measured { part, part_square, whole, whole_square });
        }
        // Parts need not be of one size.
        let parts = [32.0, 32.0, 1.0].map(|images| (images, expected(images)));
        noise.observe(&Measured::of(&parts, 65.0, expected(65.0)));
        assert!((noise.value().unwrap() - 25.0).abs() < 1e-9);
    }

    #[test]
    fn where_noise_hides_the_gradient_there_is_no_scale() {
        let mut noise = NoiseScale::default();
        // By chance the parts' gradients pointed away from one another.
        noise.observe(&Measured { part: 50.0, part_square: 9.0, whole: 100.0, whole_square: 4.0 });
        assert_eq!(noise.value(), None);
        noise.observe(&Measured {
            part: 50.0,
            part_square: f64::NAN,
            whole: 100.0,
            whole_square: 4.0,
        });
        noise.observe(&Measured { part: 50.0, part_square: 9.0, whole: 100.0, whole_square: 8.0 });
        assert!(noise.value().is_some());
    }
}
