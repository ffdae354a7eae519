//! From the bytes of an image to the numbers that a network sees: augmentation, normalisation.

use serde::{Deserialize, Serialize};

use crate::random::{below, source};
use crate::{CHANNELS, IMAGE_BYTES, SIDE, Split, channel_statistics};

/// Random changes to training images: a border all around, a random crop back to 32x32, a horizontal
/// flip, a hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Augmentation {
    /// Pixels of border on each side: at most 32, and at most 31 where the border reflects.
    pub padding: usize,
    /// What the border shows.
    pub border: Border,
    /// Which images are flipped.
    pub flip: Flip,
    /// The side of the square that becomes zeros after normalisation, in pixels: at most 32, 0 for none.
    pub cutout: usize,
}

/// What lies beyond an image's edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    rename_all = "snake_case",
    expecting = "a number from 0 to 255, [red, green, blue], or \"reflect\""
)]
pub enum Border {
    /// The image mirrored at its edge, whose pixels are not repeated.
    Reflect,
    /// A grey.
    #[serde(untagged)]
    Grey(u8),
    /// Red, green, blue.
    #[serde(untagged)]
    Colour([u8; CHANNELS]),
}

/// Which images an epoch flips.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Flip {
    /// Every second image at random in the first epoch, and in each later one those that the epoch
    /// before did not: an image is seen from both sides equally often.
    Alternate,
    /// Every second image, at random, in every epoch; or none.
    #[serde(untagged)]
    Random(bool),
}

impl Augmentation {
    /// Writes into `out` how the image of this index is cropped and flipped in this epoch, of which the
    /// first is 1; both have [`IMAGE_BYTES`].
    pub(crate) fn crop_and_flip(
        &self,
        [seed, epoch, index]: [u64; 3],
        image: &[u8],
        out: &mut [u8],
    ) {
        let mut random = source(b"augment-", seed, epoch, index);
        let from = [(); 2].map(|()| {
            let offset = below(&mut random, 2 * self.padding as u32 + 1);
            offset as isize - self.padding as isize
        });
        let border = match self.border {
            Border::Reflect => None,
            Border::Grey(grey) => Some([grey; CHANNELS]),
            Border::Colour(colour) => Some(colour),
        };
        crop(image, from, border, out);
        let flip = match self.flip {
            Flip::Random(flip) => flip && below(&mut random, 2) == 1,
            Flip::Alternate => {
                let first = below(&mut source(b"flip----", seed, 0, index), 2) == 1;
                first == (epoch % 2 == 1)
            }
        };
        if flip {
            out.chunks_exact_mut(SIDE).for_each(<[u8]>::reverse);
        }
    }

    /// Sets a random square of the normalised image to zero. Its random numbers are its own, so that the
    /// crop and the flip are the same with it and without.
    pub(crate) fn cut_out(&self, [seed, epoch, index]: [u64; 3], image: &mut [f32]) {
        let mut random = source(b"cutout--", seed, epoch, index);
        let places = (SIDE - self.cutout + 1) as u32;
        let [top, left] = [(); 2].map(|()| below(&mut random, places) as usize);
        for channel in image.chunks_exact_mut(SIDE * SIDE) {
            for row in channel.chunks_exact_mut(SIDE).skip(top).take(self.cutout) {
                row[left..left + self.cutout].fill(0.0);
            }
        }
    }
}

/// Writes into `out` the normalised `image` (both `[3, 32, 32]`) moved by so many pixels down and to the
/// right, up and to the left where negative; what comes in is the image mirrored at its edge.
///
/// # Panics
/// If it moves by 32 pixels or more, or the lengths differ from [`IMAGE_BYTES`].
pub fn shift(image: &[f32], by: isize, out: &mut [f32]) {
    assert!(image.len() == IMAGE_BYTES && out.len() == IMAGE_BYTES, "not one image");
    assert!(by.unsigned_abs() < SIDE, "nothing of the image would be left");
    crop(image, [-by; 2], None, out);
}

/// Writes into `out` (`[3, side, side]`) the normalised `image` (`[3, 32, 32]`) shrunk: each pixel is the
/// mean of the area that it covers.
pub(crate) fn shrink(image: &[f32], side: usize, out: &mut [f32]) {
    // An image's side has SIDE * side parts: a pixel of the image covers `side` of them, one of `out` SIDE.
    let covered = |at: usize| {
        let (from, to) = (at * SIDE, (at + 1) * SIDE);
        (from / side..to.div_ceil(side)).map(move |pixel| {
            let parts = to.min((pixel + 1) * side) - from.max(pixel * side);
            (pixel, parts as f32 / SIDE as f32)
        })
    };
    for (image, out) in image.chunks_exact(SIDE * SIDE).zip(out.chunks_exact_mut(side * side)) {
        for (y, out) in out.chunks_exact_mut(side).enumerate() {
            for (x, out) in out.iter_mut().enumerate() {
                let row = |row: usize| -> f32 {
                    covered(x).map(|(column, weight)| weight * image[row * SIDE + column]).sum()
                };
                *out = covered(y).map(|(at, weight)| weight * row(at)).sum();
            }
        }
    }
}

/// Writes the 32x32 pixels into `out` that begin at this row and column of `image`, of which some may
/// lie beyond its edges: in a border of this colour, or in the image mirrored.
fn crop<T: Copy>(
    image: &[T],
    [top, left]: [isize; 2],
    border: Option<[T; CHANNELS]>,
    out: &mut [T],
) {
    let channels = image.chunks_exact(SIDE * SIDE).zip(out.chunks_exact_mut(SIDE * SIDE));
    for (channel, (image, out)) in channels.enumerate() {
        let border = border.map(|colour| colour[channel]);
        for (y, out) in (top..).zip(out.chunks_exact_mut(SIDE)) {
            for (x, out) in (left..).zip(out) {
                let inside = [mirrored(y), mirrored(x)];
                *out = match border {
                    Some(colour) if inside != [y, x] => colour,
                    _ => image[inside[0] as usize * SIDE + inside[1] as usize],
                };
            }
        }
    }
}

/// The row or column that one beyond the edge mirrors; those of the image are their own.
fn mirrored(at: isize) -> isize {
    let last = SIDE as isize - 1;
    last - (last - at.abs()).abs()
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

    fn gradient() -> Vec<u8> {
        (0..IMAGE_BYTES).map(|i| (i % 251) as u8).collect()
    }

    #[test]
    fn every_crop_and_flip_comes_from_the_bordered_image() {
        let (image, border) = (gradient(), [255, 0, 7]);
        let change = Augmentation {
            padding: 4,
            border: Border::Colour(border),
            flip: Flip::Random(true),
            cutout: 0,
        };
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
        let mut out = vec![0; IMAGE_BYTES];
        let crops: Vec<usize> = (0..3000)
            .map(|index| {
                change.crop_and_flip([1, 2, index], &image, &mut out);
                all.iter().position(|crop| *crop == out).expect("one of the 162 crops")
            })
            .collect();
        // In every version of the program.
        assert_eq!(crops[..8], [154, 145, 134, 119, 115, 59, 139, 10]);
        let mut seen = vec![0; all.len()];
        crops.iter().for_each(|&crop| seen[crop] += 1);
        assert!(seen.iter().all(|&count| count > 0), "all 9 x 9 offsets and both flips occur");
        let flipped: i32 = seen.iter().skip(1).step_by(2).sum();
        assert!((1350..1650).contains(&flipped), "half are flipped, not {flipped} of 3000");
    }

    #[test]
    fn an_image_is_flipped_in_every_second_epoch_when_flips_alternate() {
        let image = gradient();
        let crop = |flip: Flip, epoch: u64, index: u64| {
            let mut out = vec![0; IMAGE_BYTES];
            let change = Augmentation { padding: 4, border: Border::Reflect, flip, cutout: 0 };
            change.crop_and_flip([7, epoch, index], &image, &mut out);
            out
        };
        let flipped = |epoch: u64, index: u64| {
            let (never, alternate) =
                (crop(Flip::Random(false), epoch, index), crop(Flip::Alternate, epoch, index));
            let mut mirror = never.clone();
            mirror.chunks_exact_mut(SIDE).for_each(<[u8]>::reverse);
            assert!(alternate == never || alternate == mirror, "another crop");
            alternate == mirror
        };
        let mut first = 0;
        for index in 0..1000 {
            let begin = flipped(1, index);
            first += i32::from(begin);
            assert_eq!(
                [2, 3, 4, 5].map(|epoch| flipped(epoch, index)),
                [!begin, begin, !begin, begin]
            );
        }
        assert!((430..570).contains(&first), "half are flipped at first, not {first} of 1000");
    }

    #[test]
    fn a_reflected_border_does_not_repeat_the_edge() {
        let row: Vec<isize> = (-31..63).map(mirrored).collect();
        let expected = (0..32).rev().chain(1..32).chain((0..31).rev());
        assert_eq!(row, expected.collect::<Vec<_>>());
        let image: Vec<f32> = (0..IMAGE_BYTES).map(|i| i as f32).collect();
        let mut out = vec![0.0; IMAGE_BYTES];
        for by in [-31, -1, 0, 1, 31] {
            shift(&image, by, &mut out);
            for (at, &pixel) in out.iter().enumerate() {
                let (channel, y, x) = (at / 1024, at as isize / 32 % 32, at as isize % 32);
                let [y, x] = [y, x].map(|at| row[(31 + at - by) as usize] as usize);
                assert_eq!(pixel, image[channel * 1024 + y * 32 + x]);
            }
        }
    }

    #[test]
    fn a_shrunk_image_has_the_means_of_areas() {
        let image: Vec<f32> = gradient().into_iter().map(f32::from).collect();
        let shrunk = |side: usize| {
            let mut out = vec![f32::NAN; CHANNELS * side * side];
            shrink(&image, side, &mut out);
            out
        };
        assert_eq!(shrunk(SIDE), image);
        for (at, &mean) in shrunk(16).iter().enumerate() {
            let first = at / 256 * 1024 + at % 256 / 16 * 64 + at % 16 * 2;
            let sum: f32 = [0, 1, 32, 33].iter().map(|offset| image[first + offset]).sum();
            assert!((mean - sum / 4.0).abs() < 1e-3, "{at}: {mean}");
        }
        // Three pixels of 24 cover four of 32: the second has two thirds of the second, and of the third.
        let thirds = |at: usize| [[(0, 0.75), (1, 0.25)], [(1, 0.5), (2, 0.5)]][at];
        let small = shrunk(24);
        for (y, x) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            let of = |row: (usize, f32), column: (usize, f32)| {
                row.1 * column.1 * image[row.0 * SIDE + column.0]
            };
            let mean: f32 =
                thirds(y).iter().flat_map(|&row| thirds(x).map(|column| of(row, column))).sum();
            assert!((small[y * 24 + x] - mean).abs() < 1e-3);
        }
        for side in 1..=SIDE {
            let (small, n) = (shrunk(side), (side * side) as f32);
            for (small, full) in small.chunks(side * side).zip(image.chunks(SIDE * SIDE)) {
                let (small, full) =
                    (small.iter().sum::<f32>() / n, full.iter().sum::<f32>() / 1024.0);
                assert!((small - full).abs() < 0.01, "side {side}: {small} {full}");
            }
        }
    }

    #[test]
    fn a_square_anywhere_inside_is_cut_out() {
        let cut = |cutout: usize, index: u64| {
            let change = Augmentation {
                padding: 0,
                border: Border::Reflect,
                flip: Flip::Random(false),
                cutout,
            };
            let mut image = vec![1.0; IMAGE_BYTES];
            change.cut_out([3, 1, index], &mut image);
            image
        };
        let places = (0..3).flat_map(|top| (0..3).map(move |left| (top, left))).map(
            |(top, left)| -> Vec<f32> {
                let inside = |at: usize, from: usize| (from..from + 30).contains(&at);
                (0..IMAGE_BYTES)
                    .map(|at| !(inside(at / 32 % 32, top) && inside(at % 32, left)) as u8 as f32)
                    .collect()
            },
        );
        let mut seen = [0; 9];
        let places: Vec<_> = places.collect();
        for index in 0..300 {
            let image = cut(30, index);
            seen[places.iter().position(|place| *place == image).expect("one of the 9 places")] +=
                1;
        }
        assert!(seen.iter().all(|&count| count > 0), "not everywhere: {seen:?}");
        assert!(cut(32, 0).iter().all(|&x| x == 0.0));
        assert!(cut(0, 0).iter().all(|&x| x == 1.0));
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
