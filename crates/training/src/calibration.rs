//! Calibration: whether predictions are as often right as their probabilities say.

/// Images whose predictions have similar confidence.
///
/// See the example of [`Model`](crate::Model).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct CalibrationBin {
    /// The number of images.
    pub images: u64,
    /// How many of them are classified correctly.
    pub correct: u64,
    /// The sum of their confidences, the probabilities of the predicted classes.
    pub confidence_sum: f64,
}

/// The number of bins, that of Guo et al. (2017, arXiv 1706.04599).
const BINS: usize = 15;

impl CalibrationBin {
    /// Bins without images.
    pub(crate) fn empty() -> Vec<Self> {
        vec![CalibrationBin::default(); BINS]
    }

    /// Adds an image to the bin of its confidence: of `n` bins, number `m` has what is above `m / n`, up to
    /// `(m + 1) / n`.
    pub(crate) fn add(bins: &mut [Self], confidence: f64, is_correct: bool) {
        let count = bins.len();
        let at = (1..count).position(|end| confidence <= end as f64 / count as f64);
        if let Some(bin) = bins.get_mut(at.unwrap_or(count.saturating_sub(1))) {
            bin.images += 1;
            bin.correct += u64::from(is_correct);
            bin.confidence_sum += confidence;
        }
    }

    /// The mean confidence; `None` without images.
    pub fn confidence(&self) -> Option<f64> {
        (self.images > 0).then(|| self.confidence_sum / self.images as f64)
    }

    /// The share of images that are classified correctly; `None` without images.
    pub fn accuracy(&self) -> Option<f64> {
        (self.images > 0).then(|| self.correct as f64 / self.images as f64)
    }

    /// The expected calibration error: the difference between accuracy and confidence, on average over all images.
    pub(crate) fn error(bins: &[Self]) -> f64 {
        let images: u64 = bins.iter().map(|bin| bin.images).sum();
        // The difference of the sums is that of the means, times the number of images.
        let gap = |bin: &Self| (bin.correct as f64 - bin.confidence_sum).abs();
        bins.iter().map(gap).sum::<f64>() / images.max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bin_has_its_upper_end() {
        let mut bins = CalibrationBin::empty();
        for confidence in [0.0, 1.0 / 15.0, 0.0667, 0.2, 0.8, 0.801, 1.0] {
            CalibrationBin::add(&mut bins, confidence, true);
        }
        let images: Vec<u64> = bins.iter().map(|bin| bin.images).collect();
        assert_eq!(images, [2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0, 1]);
    }

    #[test]
    fn the_error_is_that_of_equation_3() {
        // Confidences of 0.9 (three of four right) and 0.5 (one of two right) and 1 (both wrong).
        let images = [(0.9, 4, 3), (0.5, 2, 1), (1.0, 2, 0)];
        let mut bins = CalibrationBin::empty();
        for (confidence, count, correct) in images {
            (0..count).for_each(|i| CalibrationBin::add(&mut bins, confidence, i < correct));
        }
        // 4/8 |3/4 - 0.9| + 2/8 |1/2 - 0.5| + 2/8 |0 - 1| = 0.075 + 0 + 0.25.
        assert!((CalibrationBin::error(&bins) - 0.325).abs() < 1e-12);
        assert_eq!((bins[13].accuracy(), bins[13].confidence()), (Some(0.75), Some(0.9)));
        assert_eq!((bins[0].accuracy(), bins[0].confidence()), (None, None));
        assert_eq!(CalibrationBin::error(&CalibrationBin::empty()), 0.0);
        assert_eq!(CalibrationBin::error(&[]), 0.0);
    }

    #[test]
    fn images_of_a_bin_that_err_both_ways_cancel_out() {
        let mut bins = CalibrationBin::empty();
        // The mean confidence is 0.7, and 7 of 10 are right.
        for index in 0..10 {
            let confidence = if index % 2 == 0 { 0.68 } else { 0.72 };
            CalibrationBin::add(&mut bins, confidence, index < 7);
        }
        assert_eq!(bins[10].images, 10);
        assert!(CalibrationBin::error(&bins) < 1e-12);
    }
}
