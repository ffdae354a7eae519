//! From bytes to numbers of similar size: normalisation.

use serde::{Deserialize, Serialize};

use crate::{ImageShape, Split, channel_statistics};

const SHAPE: ImageShape = ImageShape::CIFAR;

/// How the bytes of an image are normalised.
///
/// # Example
///
/// ```
/// use crescendo_data::{ImageShape, Normalization, shapes};
///
/// let train = shapes::generate(0, 100, 10).train;
/// let normalization = Normalization::dataset(&train);
/// let mut normalized = vec![0.0; train.pixels.len()];
/// let elements = ImageShape::CIFAR.elements();
/// for (image, out) in train.pixels.chunks(elements).zip(normalized.chunks_mut(elements)) {
///     normalization.apply(image, out);
/// }
/// // All images together have a mean of 0.
/// let sum: f64 = normalized.iter().map(|&value| f64::from(value)).sum();
/// assert!((sum / normalized.len() as f64).abs() < 1e-6);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Normalization {
    /// Per image and channel: subtract the mean and divide by the population standard deviation (by 1
    /// where that is 0). Mean and deviation are those of the augmented image, its border included.
    PerImage,
    /// `byte / 255`, minus the channel's mean, divided by its standard deviation in the training set (by
    /// 1/255 where that is 0).
    Dataset {
        /// The means of red, green and blue.
        mean: [f64; 3],
        /// The standard deviations of red, green and blue.
        deviation: [f64; 3],
    },
    /// `byte / 255`.
    None,
}

impl Normalization {
    /// [`Normalization::Dataset`] with the statistics of the training images `train`.
    pub fn dataset(train: &Split) -> Self {
        let (mean, deviation) = channel_statistics(train);
        Normalization::Dataset { mean, deviation }
    }

    /// The byte of each channel that becomes 0 in this image.
    pub(crate) fn zero(&self, image: &[u8]) -> [f64; 3] {
        match self {
            Normalization::PerImage => std::array::from_fn(|channel| {
                let plane = &image[channel * SHAPE.plane()..][..SHAPE.plane()];
                plane.iter().map(|&x| f64::from(x)).sum::<f64>() / SHAPE.plane() as f64
            }),
            Normalization::Dataset { mean, .. } => mean.map(|mean| 255.0 * mean),
            Normalization::None => [0.0; 3],
        }
    }

    /// The mean and the standard deviation of each channel's bytes; `None` for those of each image.
    pub(crate) fn statistics(&self) -> Option<[(f64, f64); 3]> {
        match self {
            Normalization::PerImage => None,
            Normalization::Dataset { mean, deviation } => Some(std::array::from_fn(|channel| {
                (255.0 * mean[channel], 255.0 * deviation[channel])
            })),
            Normalization::None => Some([(0.0, 255.0); 3]),
        }
    }

    /// Writes the normalised values of `image` to `out`, in the same order.
    ///
    /// # Panics
    /// If either is not one image, of [`ImageShape::CIFAR`]'s number of elements.
    pub fn apply(&self, image: &[u8], out: &mut [f32]) {
        normalize(self.statistics(), image, out);
    }
}

/// Writes the values of `image`, normalised by these means and standard deviations or, without them, its own, to `out`.
pub(crate) fn normalize(statistics: Option<[(f64, f64); 3]>, image: &[u8], out: &mut [f32]) {
    const ELEMENTS: usize = SHAPE.elements();
    const PIXELS: usize = SHAPE.plane();
    assert!(image.len() == ELEMENTS && out.len() == ELEMENTS, "not one image");
    let channels = image.chunks_exact(PIXELS).zip(out.chunks_exact_mut(PIXELS));
    for (channel, (image, out)) in channels.enumerate() {
        let (mean, deviation) = match statistics {
            Some(channels) => channels[channel],
            None => {
                let sum: u32 = image.iter().map(|&x| u32::from(x)).sum();
                let squares: u32 = image.iter().map(|&x| u32::from(x) * u32::from(x)).sum();
                // In integers, so that the variance of a constant channel is exactly 0.
                let n = PIXELS as u64;
                let variance = n * u64::from(squares) - u64::from(sum) * u64::from(sum);
                (f64::from(sum) / n as f64, (variance as f64).sqrt() / n as f64)
            }
        };
        let scale = if deviation > 0.0 { 1.0 / deviation } else { 1.0 };
        for (out, &pixel) in out.iter_mut().zip(image) {
            *out = ((f64::from(pixel) - mean) * scale) as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ELEMENTS: usize = SHAPE.elements();

    fn gradient() -> Vec<u8> {
        (0..ELEMENTS).map(|i| (i % 251) as u8).collect()
    }

    #[test]
    fn per_image_normalisation_has_mean_0_and_deviation_1_in_every_channel() {
        let mut out = vec![0.0; ELEMENTS];
        Normalization::PerImage.apply(&gradient(), &mut out);
        for channel in out.chunks(SHAPE.plane()) {
            let mean: f32 = channel.iter().sum::<f32>() / 1024.0;
            let square: f32 = channel.iter().map(|x| x * x).sum::<f32>() / 1024.0;
            assert!(mean.abs() < 1e-5 && (square - 1.0).abs() < 1e-5, "{mean} {square}");
        }
    }

    #[test]
    fn a_constant_channel_becomes_zeros() {
        let mut out = vec![f32::NAN; ELEMENTS];
        Normalization::PerImage.apply(&[200; ELEMENTS], &mut out);
        assert!(out.iter().all(|&x| x == 0.0));
        let constant = Normalization::Dataset { mean: [0.5; 3], deviation: [0.0; 3] };
        constant.apply(&[200; ELEMENTS], &mut out);
        assert!(out.iter().all(|x| x.is_finite()));
    }

    #[test]
    fn none_scales_bytes_to_one() {
        let mut out = vec![0.0; ELEMENTS];
        Normalization::None.apply(&[255; ELEMENTS], &mut out);
        assert!(out.iter().all(|&x| x == 1.0));
    }
}
