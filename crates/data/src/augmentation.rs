//! Random changes to training images: crop, horizontal flip and cutout. What is random is drawn first
//! (an [`AugmentedSample`]) and then applied, so that an engine may apply it on its device.

use serde::{Deserialize, Serialize};

use crate::ImageShape;
use crate::rng::{below, stream};

const SHAPE: ImageShape = ImageShape::CIFAR;

/// Random changes to training images: a border around the image and a random crop of the original size
/// from it, a random horizontal flip, and cutout.
///
/// # Example
///
/// ```
/// use crescendo_data::{Augmentation, Border, Flip, LastBatch, Normalization, Sampling, Shuffle};
///
/// let sampling = Sampling {
///     seed: 7,
///     shuffle: Shuffle::Epoch,
///     last_batch: LastBatch::Drop,
///     augmentation: Some(Augmentation {
///         padding: 4,
///         border: Border::Reflect,
///         flip: Flip::Alternate,
///         cutout: 8,
///     }),
///     normalization: Normalization::PerImage,
///     image_size: 32,
/// };
/// let draw = |epoch| sampling.augmented_samples(epoch, &[0, 1, 2]);
/// for (first, second) in draw(1).zip(draw(2)) {
///     assert!(first.top.abs() <= 4 && first.left.abs() <= 4);
///     let (row, column) = first.cutout.unwrap();
///     assert!(row <= 32 - 8 && column <= 32 - 8);
///     // Each image is flipped in every second epoch.
///     assert_ne!(first.flip, second.flip);
/// }
/// // What is drawn for an image does not depend on the others.
/// assert_eq!(draw(1).last(), sampling.augmented_samples(1, &[2]).next());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Augmentation {
    /// The width of the border in pixels, on each side: at most the image's size, and less than that
    /// with [`Border::Reflect`].
    pub padding: usize,
    /// The pixels of the border.
    pub border: Border,
    /// Which images are flipped.
    pub flip: Flip,
    /// The side of the square that is set to zero after normalisation, in pixels: at most the image's
    /// size; 0 for no cutout. Unlike in DeVries and Taylor 2017 (arXiv 1708.04552), the whole square lies
    /// within the image.
    pub cutout: usize,
}

/// The pixels beyond an image's edge.
///
/// See the example of [`Augmentation`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    rename_all = "snake_case",
    expecting = "a number from 0 to 255, [red, green, blue] or \"reflect\""
)]
pub enum Border {
    /// The image mirrored at its edge; the edge pixels themselves are not repeated.
    Reflect,
    /// A shade of grey.
    #[serde(untagged)]
    Grey(u8),
    /// Red, green and blue.
    #[serde(untagged)]
    Colour([u8; 3]),
}

/// Which images are flipped horizontally in an epoch.
///
/// See the example of [`Augmentation`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Flip {
    /// Each image with probability 1/2 in the first epoch, then in every second epoch: those that were
    /// flipped in one epoch are not flipped in the next. This is the alternating flip of airbench (Jordan
    /// 2024, arXiv 2404.00498).
    Alternate,
    /// `true`: each image with probability 1/2 in every epoch; `false`: none.
    #[serde(untagged)]
    Random(bool),
}

/// The augmentation of one image in one epoch: which crop, whether it is flipped, where the square of
/// cutout lies. [`Sampling::augmented_samples`](crate::Sampling::augmented_samples) draws it.
///
/// Together with the [`Sampling`](crate::Sampling) it defines the values of the image in a batch. With
/// the fields named here and those of [`Augmentation`], for channel `c`, row `y` and column `x`, all from
/// 0, the steps are:
///
/// 1. crop: `a[c][y][x] = image[c][y + top][x + left]`, where a row or column outside of the image is
///    what [`Border`] says: a constant, or the pixel that is mirrored there (row `-1` is row `1`, and
///    row `height` is row `height - 2`);
/// 2. flip, if `flip`: `b[c][y][x] = a[c][y][width - 1 - x]`;
/// 3. [normalisation](crate::Normalization) of `b`;
/// 4. cutout, if there is a `cutout` of `(row, column)`: the values of all channels in the rows
///    `row .. row + Augmentation::cutout` and the columns `column .. column + Augmentation::cutout` are
///    set to 0;
/// 5. if `Sampling::image_size` is smaller than the image: each pixel is the mean of the area that it
///    covers.
///
/// See the example of [`Augmentation`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AugmentedSample {
    /// The image's index in its split.
    pub index: u32,
    /// The row of the image at which the crop begins: from `-padding` to `padding`.
    pub top: i16,
    /// The column of the image at which the crop begins: from `-padding` to `padding`.
    pub left: i16,
    /// Whether the crop is flipped horizontally.
    pub flip: bool,
    /// The first row and the first column of the square of cutout, in the flipped crop; `None` without
    /// cutout.
    pub cutout: Option<(u16, u16)>,
}

impl AugmentedSample {
    /// The image `index` of its split, cropped at this row and column, flipped or not, with this square of cutout.
    pub fn new(index: u32, [top, left]: [i16; 2], flip: bool, cutout: Option<(u16, u16)>) -> Self {
        AugmentedSample { index, top, left, flip, cutout }
    }

    /// An image without any augmentation.
    pub(crate) fn unchanged(index: u32) -> Self {
        AugmentedSample { index, top: 0, left: 0, flip: false, cutout: None }
    }
}

impl Augmentation {
    /// Draws how the image `index` is augmented in `epoch`, counted from 1. The crop and a random flip
    /// are drawn from one stream; alternating flips and cutout have streams of their own, so that the
    /// crops are the same with and without them.
    pub(crate) fn draw(&self, seed: u64, epoch: u64, index: u32) -> AugmentedSample {
        let stream = |purpose, epoch| stream(purpose, seed, epoch, index.into());
        let mut rng = stream(b"augment-", epoch);
        let [top, left] = [(); 2].map(|()| {
            let offset = below(&mut rng, 2 * self.padding as u32 + 1);
            offset as i16 - self.padding as i16
        });
        let flip = match self.flip {
            Flip::Random(flip) => flip && below(&mut rng, 2) == 1,
            Flip::Alternate => {
                let first = below(&mut stream(b"flip----", 0), 2) == 1;
                first == (epoch % 2 == 1)
            }
        };
        let cutout = (self.cutout > 0).then(|| {
            let mut rng = stream(b"cutout--", epoch);
            let mut place = |size: usize| below(&mut rng, (size - self.cutout + 1) as u32) as u16;
            (place(SHAPE.height), place(SHAPE.width))
        });
        AugmentedSample { index, top, left, flip, cutout }
    }
}

/// Writes the crop of `image` to `out`, flipped if the sample is. Both have the image's number of bytes.
pub(crate) fn crop_and_flip(
    border: Border,
    sample: &AugmentedSample,
    image: &[u8],
    out: &mut [u8],
) {
    let border = match border {
        Border::Reflect => None,
        Border::Grey(grey) => Some([grey; SHAPE.channels]),
        Border::Colour(colour) => Some(colour),
    };
    crop(image, [sample.top.into(), sample.left.into()], border, out);
    if sample.flip {
        out.chunks_exact_mut(SHAPE.width).for_each(<[u8]>::reverse);
    }
}

/// Sets the sample's square of `size` rows and columns of the normalised `image` to zero, if it has one.
pub(crate) fn cut_out(size: usize, sample: &AugmentedSample, image: &mut [f32]) {
    let Some((row, column)) = sample.cutout else { return };
    let (row, column) = (usize::from(row), usize::from(column));
    for channel in image.chunks_exact_mut(SHAPE.plane()) {
        for row in channel.chunks_exact_mut(SHAPE.width).skip(row).take(size) {
            row[column..column + size].fill(0.0);
        }
    }
}

/// Writes the normalised `image` to `out`, moved down and to the right by `by` pixels (up and to the left
/// if negative), as the shifted views of test-time augmentation are. The pixels that come in are those of
/// the image mirrored at its edge.
///
/// # Panics
/// If `by` is not less than the image's size in either direction, or if `image` or `out` is not one image
/// of [`ImageShape::CIFAR`]'s number of elements.
pub fn shift(image: &[f32], by: isize, out: &mut [f32]) {
    const ELEMENTS: usize = SHAPE.elements();
    assert!(image.len() == ELEMENTS && out.len() == ELEMENTS, "not one image");
    let size = SHAPE.height.min(SHAPE.width);
    assert!(by.unsigned_abs() < size, "a shift must be smaller than the image");
    crop(image, [-by; 2], None, out);
}

/// Writes the normalised `image` to `out` (`[channels, size, size]`), resized so that each pixel is the
/// mean of the area that it covers.
pub(crate) fn resize(image: &[f32], size: usize, out: &mut [f32]) {
    const { assert!(SHAPE.height == SHAPE.width, "images are square") };
    const FULL: usize = SHAPE.width;
    // The side is divided into FULL * size parts: a pixel of the image covers `size` of them, and a pixel
    // of `out` covers FULL.
    let covered = |at: usize| {
        let (from, to) = (at * FULL, (at + 1) * FULL);
        (from / size..to.div_ceil(size)).map(move |pixel| {
            let parts = to.min((pixel + 1) * size) - from.max(pixel * size);
            (pixel, parts as f32 / FULL as f32)
        })
    };
    for (image, out) in image.chunks_exact(SHAPE.plane()).zip(out.chunks_exact_mut(size * size)) {
        for (y, out) in out.chunks_exact_mut(size).enumerate() {
            for (x, out) in out.iter_mut().enumerate() {
                let row = |row: usize| -> f32 {
                    covered(x).map(|(column, weight)| weight * image[row * FULL + column]).sum()
                };
                *out = covered(y).map(|(at, weight)| weight * row(at)).sum();
            }
        }
    }
}

/// Writes the image of the same size to `out` that begins at this row and column of `image`. Pixels
/// beyond the edges have the colour `border`, or are mirrored if there is none.
fn crop<T: Copy>(
    image: &[T],
    [top, left]: [isize; 2],
    border: Option<[T; SHAPE.channels]>,
    out: &mut [T],
) {
    let channels = image.chunks_exact(SHAPE.plane()).zip(out.chunks_exact_mut(SHAPE.plane()));
    for (channel, (image, out)) in channels.enumerate() {
        let border = border.map(|colour| colour[channel]);
        for (y, out) in (top..).zip(out.chunks_exact_mut(SHAPE.width)) {
            for (x, out) in (left..).zip(out) {
                let inside = [mirrored(y, SHAPE.height), mirrored(x, SHAPE.width)];
                *out = match border {
                    Some(colour) if inside != [y, x] => colour,
                    _ => image[inside[0] as usize * SHAPE.width + inside[1] as usize],
                };
            }
        }
    }
}

/// The row or column inside of an image of this size that is mirrored at `at`; `at` itself if it is
/// inside.
#[inline]
fn mirrored(at: isize, size: usize) -> isize {
    let last = size as isize - 1;
    last - (last - at.abs()).abs()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ELEMENTS: usize = SHAPE.elements();
    const SIDE: usize = SHAPE.width;

    fn gradient() -> Vec<u8> {
        (0..ELEMENTS).map(|i| (i % 251) as u8).collect()
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
            let pixels = (0..SHAPE.channels)
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
        let mut out = vec![0; ELEMENTS];
        let crops: Vec<usize> = (0..3000)
            .map(|index| {
                let sample = change.draw(1, 2, index);
                crop_and_flip(change.border, &sample, &image, &mut out);
                let [row, column] = [sample.top, sample.left].map(|at| (at + 4) as usize);
                let drawn = (9 * row + column) * 2 + usize::from(sample.flip);
                assert_eq!(out, all[drawn], "not as drawn: {sample:?}");
                all.iter().position(|crop| *crop == out).expect("one of the 162 crops")
            })
            .collect();
        // These are the same in every version of the program.
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
        let crop = |flip: Flip, epoch: u64, index: u32| {
            let mut out = vec![0; ELEMENTS];
            let change = Augmentation { padding: 4, border: Border::Reflect, flip, cutout: 0 };
            crop_and_flip(change.border, &change.draw(7, epoch, index), &image, &mut out);
            out
        };
        let flipped = |epoch: u64, index: u32| {
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
        let row: Vec<isize> = (-31..63).map(|at| mirrored(at, SIDE)).collect();
        let expected = (0..32).rev().chain(1..32).chain((0..31).rev());
        assert_eq!(row, expected.collect::<Vec<_>>());
        let image: Vec<f32> = (0..ELEMENTS).map(|i| i as f32).collect();
        let mut out = vec![0.0; ELEMENTS];
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
    fn a_resized_image_has_the_means_of_areas() {
        let image: Vec<f32> = gradient().into_iter().map(f32::from).collect();
        let resized = |side: usize| {
            let mut out = vec![f32::NAN; SHAPE.channels * side * side];
            resize(&image, side, &mut out);
            out
        };
        assert_eq!(resized(SIDE), image);
        for (at, &mean) in resized(16).iter().enumerate() {
            let first = at / 256 * 1024 + at % 256 / 16 * 64 + at % 16 * 2;
            let sum: f32 = [0, 1, 32, 33].iter().map(|offset| image[first + offset]).sum();
            assert!((mean - sum / 4.0).abs() < 1e-3, "{at}: {mean}");
        }
        // Three pixels of 24 cover four of 32: the second has two thirds of the second, and of the third.
        let thirds = |at: usize| [[(0, 0.75), (1, 0.25)], [(1, 0.5), (2, 0.5)]][at];
        let small = resized(24);
        for (y, x) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            let of = |row: (usize, f32), column: (usize, f32)| {
                row.1 * column.1 * image[row.0 * SIDE + column.0]
            };
            let mean: f32 =
                thirds(y).iter().flat_map(|&row| thirds(x).map(|column| of(row, column))).sum();
            assert!((small[y * 24 + x] - mean).abs() < 1e-3);
        }
        for side in 1..=SIDE {
            let (small, n) = (resized(side), (side * side) as f32);
            for (small, full) in small.chunks(side * side).zip(image.chunks(SIDE * SIDE)) {
                let (small, full) =
                    (small.iter().sum::<f32>() / n, full.iter().sum::<f32>() / 1024.0);
                assert!((small - full).abs() < 0.01, "side {side}: {small} {full}");
            }
        }
    }

    #[test]
    fn a_square_anywhere_inside_is_cut_out() {
        let cut = |cutout: usize, index: u32| {
            let change = Augmentation {
                padding: 0,
                border: Border::Reflect,
                flip: Flip::Random(false),
                cutout,
            };
            let mut image = vec![1.0; ELEMENTS];
            cut_out(change.cutout, &change.draw(3, 1, index), &mut image);
            image
        };
        let places = (0..3).flat_map(|top| (0..3).map(move |left| (top, left))).map(
            |(top, left)| -> Vec<f32> {
                let inside = |at: usize, from: usize| (from..from + 30).contains(&at);
                (0..ELEMENTS)
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
}
