//! From the bytes of an image to the numbers that a network sees: augmentation, normalisation.

use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::random::below;
use crate::{CHANNELS, IMAGE_BYTES, SIDE, Split, channel_statistics};

/// Random changes to training images, on their bytes: a border all around, a random crop back to
/// 32x32, a horizontal flip.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Augmentation {
    /// Pixels of border on each side.
    pub padding: usize,
    /// The border's colour: red, green, blue.
    pub border: [u8; 3],
    /// Whether every second image, at random, is flipped.
    pub flip: bool,
}

impl Augmentation {
    /// Writes a random change of `image` into `out`; both have [`IMAGE_BYTES`].
    pub(crate) fn apply(&self, random: &mut ChaCha8Rng, image: &[u8], out: &mut [u8]) {
        let offsets = 2 * self.padding as u32 + 1;
        let [top, left] = [(); 2].map(|()| below(random, offsets) as usize);
        let flip = self.flip && below(random, 2) == 1;
        let channels = image.chunks_exact(SIDE * SIDE).zip(out.chunks_exact_mut(SIDE * SIDE));
        for ((image, out), border) in channels.zip(self.border) {
            for (row, out) in out.chunks_exact_mut(SIDE).enumerate() {
                // The crop's row and column in the image: outside of it lies the border.
                match (row + top).checked_sub(self.padding).filter(|&row| row < SIDE) {
                    None => out.fill(border),
                    Some(row) => {
                        for (column, out) in out.iter_mut().enumerate() {
                            let column = (column + left).checked_sub(self.padding);
                            let pixel = column.filter(|&column| column < SIDE);
                            *out = pixel.map_or(border, |column| image[row * SIDE + column]);
                        }
                    }
                }
                if flip {
                    out.reverse();
                }
            }
        }
    }
}

/// How bytes become numbers of about the same size.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Normalization {
    /// Each channel of each image: minus its mean, over its population standard deviation (over 1
    /// where that is 0).
    PerImage,
    /// Bytes / 255, minus the channel's mean, over its standard deviation in the training set.
    Dataset {
        /// Means of red, green, blue.
        mean: [f64; 3],
        /// Standard deviations of red, green, blue.
        deviation: [f64; 3],
    },
    /// Bytes / 255.
    None,
}

impl Normalization {
    /// With the statistics of `split`, the training images.
    pub fn dataset(split: &Split) -> Self {
        let (mean, deviation) = channel_statistics(split);
        Normalization::Dataset { mean, deviation }
    }

    /// The numbers of `image` ([`IMAGE_BYTES`] bytes), in the same order.
    ///
    /// # Panics
    /// If the lengths differ from [`IMAGE_BYTES`].
    pub fn apply(&self, image: &[u8], out: &mut [f32]) {
        assert!(image.len() == IMAGE_BYTES && out.len() == IMAGE_BYTES, "not one image");
        const PIXELS: usize = IMAGE_BYTES / CHANNELS;
        let channels = image.chunks_exact(PIXELS).zip(out.chunks_exact_mut(PIXELS));
        for (channel, (image, out)) in channels.enumerate() {
            let (mean, deviation) = match self {
                Normalization::PerImage => {
                    let sum: u32 = image.iter().map(|&x| u32::from(x)).sum();
                    let squares: u32 = image.iter().map(|&x| u32::from(x) * u32::from(x)).sum();
                    // Whole numbers up to here: a constant channel has a variance of exactly 0.
                    let n = PIXELS as u64;
                    let variance = n * u64::from(squares) - u64::from(sum) * u64::from(sum);
                    (f64::from(sum) / n as f64, (variance as f64).sqrt() / n as f64)
                }
                Normalization::Dataset { mean, deviation } => {
                    (255.0 * mean[channel], 255.0 * deviation[channel])
                }
                Normalization::None => (0.0, 255.0),
            };
            let scale = if deviation > 0.0 { 1.0 / deviation } else { 1.0 };
            for (out, &pixel) in out.iter_mut().zip(image) {
                *out = ((f64::from(pixel) - mean) * scale) as f32;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::source;

    fn gradient() -> Vec<u8> {
        (0..IMAGE_BYTES).map(|i| (i % 251) as u8).collect()
    }

    #[test]
    fn every_crop_and_flip_comes_from_the_bordered_image() {
        let (image, border) = (gradient(), [255, 0, 7]);
        let change = Augmentation { padding: 4, border, flip: true };
        let bordered = |channel: usize, row: usize, column: usize| {
            let inside = (4..4 + SIDE).contains(&row) && (4..4 + SIDE).contains(&column);
            if inside {
                image[channel * SIDE * SIDE + (row - 4) * SIDE + column - 4]
            } else {
                border[channel]
            }
        };
        let crop = |top: usize, left: usize, flip: bool| -> Vec<u8> {
            let pixels = (0..CHANNELS)
                .flat_map(|c| (0..SIDE).flat_map(move |y| (0..SIDE).map(move |x| (c, y, x))));
            pixels
                .map(|(c, y, x)| {
                    bordered(c, y + top, if flip { left + SIDE - 1 - x } else { left + x })
                })
                .collect()
        };
        let all: Vec<Vec<u8>> = (0..9)
            .flat_map(|top| (0..9).flat_map(move |left| [(top, left, false), (top, left, true)]))
            .map(|(top, left, flip)| crop(top, left, flip))
            .collect();
        let mut seen = vec![0; all.len()];
        for index in 0..3000 {
            let mut out = vec![0; IMAGE_BYTES];
            change.apply(&mut source(b"augment-", 1, 2, index), &image, &mut out);
            seen[all.iter().position(|crop| *crop == out).expect("one of the 162 crops")] += 1;
        }
        assert!(seen.iter().all(|&count| count > 0), "all 9 x 9 offsets and both flips occur");
        let flipped: i32 = seen.iter().skip(1).step_by(2).sum();
        assert!((1350..1650).contains(&flipped), "half are flipped, not {flipped} of 3000");
    }

    #[test]
    fn per_image_normalisation_has_mean_0_and_deviation_1_in_every_channel() {
        let mut out = vec![0.0; IMAGE_BYTES];
        Normalization::PerImage.apply(&gradient(), &mut out);
        for channel in out.chunks(SIDE * SIDE) {
            let mean: f32 = channel.iter().sum::<f32>() / 1024.0;
            let square: f32 = channel.iter().map(|x| x * x).sum::<f32>() / 1024.0;
            assert!(mean.abs() < 1e-5 && (square - 1.0).abs() < 1e-5, "{mean} {square}");
        }
    }

    #[test]
    fn a_constant_channel_becomes_zeros() {
        let mut out = vec![f32::NAN; IMAGE_BYTES];
        Normalization::PerImage.apply(&[200; IMAGE_BYTES], &mut out);
        assert!(out.iter().all(|&x| x == 0.0));
        let constant = Normalization::Dataset { mean: [0.5; 3], deviation: [0.0; 3] };
        constant.apply(&[200; IMAGE_BYTES], &mut out);
        assert!(out.iter().all(|x| x.is_finite()));
    }

    #[test]
    fn none_scales_bytes_to_one() {
        let mut out = vec![0.0; IMAGE_BYTES];
        Normalization::None.apply(&[255; IMAGE_BYTES], &mut out);
        assert!(out.iter().all(|&x| x == 1.0));
    }
}
