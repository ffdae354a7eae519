//! From a drawn sample to the input of a network.

use crate::ImageShape;
use crate::augmentation::{AugmentedSample, Border, crop_and_flip, cut_out, resize};
use crate::normalization::normalize;

/// How images become the input of a network once their samples are drawn: see [`AugmentedSample`].
///
/// # Example
///
/// ```
/// use crescendo_data::{
///     AugmentedSample, Border, ImagePreparation, LastBatch, Normalization, Sampling, Shuffle, shapes,
/// };
///
/// let train = shapes::generate(0, 10, 10).train;
/// let preparation = ImagePreparation {
///     border: Border::Grey(0),
///     // Bytes become numbers from 0 to 1.
///     statistics: Some([(0.0, 255.0); 3]),
///     cutout: 0,
///     image_size: 32,
/// };
/// // Moved to the right by two pixels and mirrored.
/// let sample = AugmentedSample::new(4, [0, -2], true, None);
/// let mut input = vec![0.0; 3 * 32 * 32];
/// preparation.apply(&sample, train.image(4), &mut input);
/// assert_eq!(input[31], 0.0);
/// assert_eq!(input[0], f32::from(train.image(4)[29]) / 255.0);
///
/// // That of a run.
/// let sampling = Sampling {
///     seed: 0,
///     shuffle: Shuffle::FileOrder,
///     last_batch: LastBatch::Drop,
///     augmentation: None,
///     normalization: Normalization::None,
///     image_size: 32,
/// };
/// assert_eq!(sampling.preparation(), preparation);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ImagePreparation {
    /// The pixels beyond an image's edge.
    pub border: Border,
    /// The mean and the standard deviation of each channel's bytes by which they are normalised; a deviation of 0 counts
    /// as 1. `None` for those of each image.
    pub statistics: Option<[(f64, f64); 3]>,
    /// The side of the square that is set to zero, in pixels; 0 for none.
    pub cutout: usize,
    /// Rows and columns of the input.
    pub image_size: usize,
}

impl ImagePreparation {
    /// Writes `image` as `sample` says to `out`, `[channels, image_size, image_size]`.
    ///
    /// # Panics
    /// If one of them has another size.
    pub fn apply(&self, sample: &AugmentedSample, image: &[u8], out: &mut [f32]) {
        const ELEMENTS: usize = ImageShape::CIFAR.elements();
        let (mut changed, mut full) = ([0; ELEMENTS], [0.0; ELEMENTS]);
        let is_resized = self.image_size != ImageShape::CIFAR.width;
        let normalized = if is_resized { &mut full } else { &mut *out };
        if (sample.top, sample.left, sample.flip) == (0, 0, false) {
            normalize(self.statistics, image, normalized);
        } else {
            crop_and_flip(self.border, sample, image, &mut changed);
            normalize(self.statistics, &changed, normalized);
        }
        cut_out(self.cutout, sample, normalized);
        if is_resized {
            resize(&full, self.image_size, out);
        }
    }
}
