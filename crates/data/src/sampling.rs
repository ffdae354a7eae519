//! The batches of an epoch: which images, in which order, augmented how.

use std::ops::Range;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use serde::{Deserialize, Serialize};

use crate::augmentation::{Augmentation, AugmentedSample, Border, crop_and_flip, cut_out, resize};
use crate::preparation::ImagePreparation;
use crate::rng::{permutation, stream};
use crate::{ImageShape, Normalization, Split};

/// A batch of normalised images and their labels.
///
/// See the example of [`Sampling`].
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct ImageBatch {
    /// `[N, channels, image_size, image_size]`, the values of each image as [`ImageShape`] orders them.
    pub images: Vec<f32>,
    /// The class of each image: `[N]`.
    pub labels: Vec<u16>,
}

/// The order of the images in an epoch.
///
/// See the example of [`Sampling`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Shuffle {
    /// A new random order in every epoch.
    Epoch,
    /// The order of the files in every epoch.
    FileOrder,
}

/// What happens to the images that do not fill the last batch.
///
/// See the example of [`Sampling`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum LastBatch {
    /// They are left out of the epoch.
    Drop,
    /// They form a smaller batch.
    Keep,
}

/// How training images become batches.
///
/// A thread may prepare them ahead ([`epoch`](Self::epoch)). An engine that keeps the images in the
/// memory of its device needs only [`order`](Self::order) and
/// [`augmented_samples`](Self::augmented_samples), a few bytes for each image, and makes the batches there.
///
/// # Example
///
/// ```
/// use crescendo_data::{ImageBatch, LastBatch, Normalization, Sampling, Shuffle, shapes};
///
/// let train = shapes::generate(0, 50, 10).train;
/// let sampling = Sampling {
///     seed: 0,
///     shuffle: Shuffle::FileOrder,
///     last_batch: LastBatch::Drop,
///     augmentation: None,
///     normalization: Normalization::None,
///     image_size: 16,
/// };
/// assert_eq!(sampling.batches(train.len(), 20), 2);
/// assert_eq!(sampling.order(1, 4), [0, 1, 2, 3]);
/// let mut batch = ImageBatch::default();
/// sampling.fill(&train, 1, &[3, 8], &mut batch);
/// assert_eq!(batch.labels, [train.labels[3], train.labels[8]]);
/// assert_eq!(batch.images.len(), 2 * 3 * 16 * 16);
/// // The first pixel is the mean of four.
/// let mean = [0, 1, 32, 33].iter().map(|&at| f32::from(train.image(3)[at])).sum::<f32>() / (4.0 * 255.0);
/// assert!((batch.images[0] - mean).abs() < 1e-6);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// The seed of all random numbers. Each is a function of the seed, the epoch and the image's index.
    pub seed: u64,
    /// The order of the images.
    pub shuffle: Shuffle,
    /// What happens to the images that do not fill the last batch.
    pub last_batch: LastBatch,
    /// Random changes to each image, if any.
    pub augmentation: Option<Augmentation>,
    /// How bytes are normalised.
    pub normalization: Normalization,
    /// The height and width in pixels to which normalised images are reduced, from 1 to that of the data
    /// set's images (progressive resizing).
    pub image_size: usize,
}

impl Sampling {
    /// The number of batches of `batch_size` in an epoch of `images` images.
    pub fn batches(&self, images: usize, batch_size: usize) -> usize {
        match self.last_batch {
            LastBatch::Drop => images / batch_size,
            LastBatch::Keep => images.div_ceil(batch_size),
        }
    }

    /// The indices of `images` images in the order of `epoch`.
    pub fn order(&self, epoch: u64, images: usize) -> Vec<u32> {
        match self.shuffle {
            Shuffle::Epoch => permutation(&mut stream(b"shuffle-", self.seed, epoch, 0), images),
            Shuffle::FileOrder => (0..images as u32).collect(),
        }
    }

    /// How `epoch`, counted from 1, augments the images `indices` of its split, in this order.
    pub fn augmented_samples(
        &self,
        epoch: u64,
        indices: &[u32],
    ) -> impl Iterator<Item = AugmentedSample> {
        indices.iter().map(move |&index| match &self.augmentation {
            Some(augmentation) => augmentation.draw(self.seed, epoch, index),
            None => AugmentedSample::unchanged(index),
        })
    }

    /// How the images are prepared.
    pub fn preparation(&self) -> ImagePreparation {
        let augmentation = self.augmentation;
        ImagePreparation {
            // Without augmentation no image is cropped.
            border: augmentation.map_or(Border::Grey(0), |augmentation| augmentation.border),
            statistics: self.normalization.statistics(),
            cutout: augmentation.map_or(0, |augmentation| augmentation.cutout),
            image_size: self.image_size,
        }
    }

    /// Replaces the content of `batch` with the images `indices` of `split`, augmented as `epoch` does,
    /// normalised and resized, and with their labels.
    ///
    /// # Panics
    /// If an index is not below the number of images.
    pub fn fill(&self, split: &Split, epoch: u64, indices: &[u32], batch: &mut ImageBatch) {
        batch.labels.clear();
        let elements = ImageShape::CIFAR.channels * self.image_size * self.image_size;
        batch.images.resize(indices.len() * elements, 0.0);
        let preparation = self.preparation();
        let samples = self.augmented_samples(epoch, indices);
        for (sample, out) in samples.zip(batch.images.chunks_exact_mut(elements)) {
            preparation.apply(&sample, split.image(sample.index as usize), out);
            batch.labels.push(split.labels[sample.index as usize]);
        }
    }

    /// The images `indices` of `split` as [`fill`](Self::fill) makes them, but for the normalisation: each as bytes,
    /// with `image_size` rows and columns. Cutout's square, which is 0 after normalisation, has the colour that becomes 0.
    ///
    /// # Panics
    /// If an index is not below the number of images.
    pub fn preview(&self, split: &Split, epoch: u64, indices: &[u32]) -> Vec<Vec<u8>> {
        const SHAPE: ImageShape = ImageShape::CIFAR;
        let preview = |sample: AugmentedSample| {
            let image = split.image(sample.index as usize);
            let mut bytes = image.to_vec();
            if let Some(augmentation) = &self.augmentation {
                crop_and_flip(augmentation.border, &sample, image, &mut bytes);
            }
            let zero = self.normalization.zero(&bytes);
            let at = |channel: usize| zero[channel] as f32;
            let channels = bytes.chunks_exact(SHAPE.plane()).enumerate();
            let mut full: Vec<f32> = channels
                .flat_map(|(channel, plane)| plane.iter().map(move |&x| f32::from(x) - at(channel)))
                .collect();
            if let Some(augmentation) = &self.augmentation {
                cut_out(augmentation.cutout, &sample, &mut full);
            }
            let plane = self.image_size * self.image_size;
            let mut resized = vec![0.0; SHAPE.channels * plane];
            resize(&full, self.image_size, &mut resized);
            let pixel = |(index, value): (usize, &f32)| (value + at(index / plane)).round() as u8;
            resized.iter().enumerate().map(pixel).collect()
        };
        self.augmented_samples(epoch, indices).map(preview).collect()
    }

    /// Calls `consume` with the batches of `epoch` whose numbers, counted from 0, are in `wanted`, in
    /// order. A second thread prepares the next batch meanwhile, so that two batches are in memory.
    /// Batches that do not exist are ignored.
    ///
    /// # Errors
    /// Stops at the first error of `consume` and returns it.
    pub fn epoch<E>(
        &self,
        split: &Split,
        epoch: u64,
        batch_size: usize,
        wanted: Range<usize>,
        mut consume: impl FnMut(&ImageBatch) -> Result<(), E>,
    ) -> Result<(), E> {
        std::thread::scope(|scope| {
            let (ready, batches) = sync_channel(0);
            // Used batches are sent back, so that their memory is reused.
            let (done, used) = sync_channel(1);
            scope.spawn(move || self.prepare(split, epoch, batch_size, wanted, &ready, &used));
            for batch in batches {
                consume(&batch)?;
                // Fails once the other thread has prepared its last batch.
                let _ = done.try_send(batch);
            }
            Ok(())
        })
    }

    fn prepare(
        &self,
        split: &Split,
        epoch: u64,
        batch_size: usize,
        wanted: Range<usize>,
        ready: &SyncSender<ImageBatch>,
        used: &Receiver<ImageBatch>,
    ) {
        let order = self.order(epoch, split.len());
        let end = wanted.end.min(self.batches(split.len(), batch_size));
        for indices in order.chunks(batch_size).take(end).skip(wanted.start) {
            let mut batch = used.try_recv().unwrap_or_default();
            self.fill(split, epoch, indices, &mut batch);
            if ready.send(batch).is_err() {
                return; // `consume` has failed.
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Flip;

    const SHAPE: ImageShape = ImageShape::CIFAR;
    const ELEMENTS: usize = SHAPE.elements();
    const SIDE: usize = SHAPE.width;

    fn split(images: usize) -> Split {
        let mut split = Split::default();
        for i in 0..images {
            let image: Vec<u8> = (0..ELEMENTS).map(|p| (p * (i + 3) % 256) as u8).collect();
            split.push(&image, i as u16);
        }
        split
    }

    fn sampling(shuffle: Shuffle, last_batch: LastBatch) -> Sampling {
        Sampling {
            seed: 5,
            shuffle,
            last_batch,
            augmentation: Some(Augmentation {
                padding: 4,
                border: Border::Grey(255),
                flip: Flip::Random(true),
                cutout: 0,
            }),
            normalization: Normalization::PerImage,
            image_size: SIDE,
        }
    }

    fn collect(
        sampling: &Sampling,
        epoch: u64,
        batch_size: usize,
        first: usize,
    ) -> Vec<ImageBatch> {
        let mut batches = Vec::new();
        let outcome: Result<(), ()> =
            sampling.epoch(&split(23), epoch, batch_size, first..usize::MAX, |batch| {
                batches.push(batch.clone());
                Ok(())
            });
        outcome.unwrap();
        batches
    }

    #[test]
    fn an_epoch_sees_every_image_once() {
        for shuffle in [Shuffle::Epoch, Shuffle::FileOrder] {
            let batches = collect(&sampling(shuffle, LastBatch::Keep), 1, 5, 0);
            assert_eq!(batches.iter().map(|b| b.labels.len()).collect::<Vec<_>>(), [5, 5, 5, 5, 3]);
            let mut labels: Vec<u16> = batches.iter().flat_map(|b| b.labels.clone()).collect();
            assert_eq!(labels.is_sorted(), shuffle == Shuffle::FileOrder);
            labels.sort_unstable();
            assert_eq!(labels, (0..23).collect::<Vec<_>>());
        }
        assert_eq!(collect(&sampling(Shuffle::Epoch, LastBatch::Drop), 1, 5, 0).len(), 4);
    }

    #[test]
    fn an_image_looks_the_same_in_any_batch_size_and_from_any_start() {
        let sampling = sampling(Shuffle::Epoch, LastBatch::Keep);
        let pixels = |batches: &[ImageBatch]| -> Vec<f32> {
            batches.iter().flat_map(|batch| batch.images.clone()).collect()
        };
        let whole = collect(&sampling, 3, 5, 0);
        assert_eq!(pixels(&whole), pixels(&collect(&sampling, 3, 7, 0)));
        assert_eq!(whole[2..], collect(&sampling, 3, 5, 2));
        assert_ne!(whole, collect(&sampling, 4, 5, 0), "every epoch has other crops");
        assert_ne!(whole, collect(&Sampling { seed: 6, ..sampling }, 3, 5, 0));
    }

    #[test]
    fn resized_images_are_those_of_the_same_crops() {
        let full = sampling(Shuffle::Epoch, LastBatch::Keep);
        let small = Sampling { image_size: 16, ..full };
        for (full, small) in collect(&full, 2, 5, 0).iter().zip(collect(&small, 2, 5, 0)) {
            assert_eq!(full.labels, small.labels);
            let mut resized = vec![0.0; SHAPE.channels * 16 * 16];
            let images = full.images.chunks(ELEMENTS).zip(small.images.chunks(resized.len()));
            for (full, small) in images {
                resize(full, 16, &mut resized);
                assert_eq!(resized, small);
            }
        }
    }

    #[test]
    fn cutout_changes_nothing_around_it_and_is_zero_after_normalisation() {
        let whole = sampling(Shuffle::FileOrder, LastBatch::Keep);
        let augmentation = whole.augmentation.map(|change| Augmentation { cutout: 12, ..change });
        let cut = Sampling { augmentation, ..whole };
        for (whole, cut) in collect(&whole, 2, 1, 0).iter().zip(collect(&cut, 2, 1, 0)) {
            let differ = |(whole, cut): (&f32, f32)| {
                assert!(cut == *whole || cut == 0.0);
                cut != *whole
            };
            let pixels = whole.images.iter().zip(cut.images);
            let holes = pixels.filter(|&(whole, _)| *whole != 0.0).map(differ);
            assert_eq!(holes.filter(|&hole| hole).count(), 3 * 12 * 12);
        }
    }

    #[test]
    fn a_preview_is_the_batch_without_its_normalisation() {
        let split = split(5);
        let normalization =
            Normalization::Dataset { mean: [0.2, 0.5, 0.4], deviation: [0.1, 0.2, 0.3] };
        for (cutout, image_size) in [(0, 32), (12, 32), (12, 24)] {
            let whole = sampling(Shuffle::FileOrder, LastBatch::Keep);
            let augmentation = whole.augmentation.map(|change| Augmentation { cutout, ..change });
            let sampling = Sampling { augmentation, normalization, image_size, ..whole };
            let mut batch = ImageBatch::default();
            sampling.fill(&split, 2, &[4, 1], &mut batch);
            let previews = sampling.preview(&split, 2, &[4, 1]);
            let Normalization::Dataset { mean, deviation } = normalization else { unreachable!() };
            let elements = 3 * image_size * image_size;
            for (image, preview) in batch.images.chunks_exact(elements).zip(previews) {
                for (index, (value, byte)) in image.iter().zip(preview).enumerate() {
                    let channel = index / (image_size * image_size);
                    let expected = 255.0 * (f64::from(*value) * deviation[channel] + mean[channel]);
                    assert!((expected - f64::from(byte)).abs() < 0.501, "{expected} {byte}");
                }
            }
        }
        // The square of cutout has the image's own mean, if that is what is subtracted.
        let whole = sampling(Shuffle::FileOrder, LastBatch::Keep);
        let augmentation = Some(Augmentation {
            padding: 0,
            border: Border::Reflect,
            flip: Flip::Random(false),
            cutout: SHAPE.width,
        });
        let normalization = Normalization::PerImage;
        let preview = Sampling { augmentation, normalization, ..whole }.preview(&split, 1, &[3]);
        let plane = &split.image(3)[..SHAPE.plane()];
        let mean = plane.iter().map(|&x| f64::from(x)).sum::<f64>() / SHAPE.plane() as f64;
        assert!(preview[0][..SHAPE.plane()].iter().all(|&x| (f64::from(x) - mean).abs() < 0.501));
    }

    #[test]
    fn an_error_stops_the_epoch() {
        let mut count = 0;
        let outcome =
            sampling(Shuffle::Epoch, LastBatch::Keep).epoch(&split(23), 1, 1, 0..23, |_| {
                count += 1;
                if count == 3 { Err("enough") } else { Ok(()) }
            });
        assert_eq!((outcome, count), (Err("enough"), 3));
    }

    /// The image of a sample as the documentation of [`AugmentedSample`] defines it, at full size.
    fn defined(sampling: &Sampling, split: &Split, sample: &AugmentedSample) -> Vec<f32> {
        let augmentation = sampling.augmentation.expect("images are augmented");
        let image = split.image(sample.index as usize);
        let positions = || {
            let rows = (0..SHAPE.channels).flat_map(|c| (0..SHAPE.height).map(move |y| (c, y)));
            rows.flat_map(|(c, y)| (0..SHAPE.width).map(move |x| (c, y, x)))
        };
        let bordered = |c: usize, y: isize, x: isize| {
            let [height, width] = [SHAPE.height as isize, SHAPE.width as isize];
            let is_inside = (0..height).contains(&y) && (0..width).contains(&x);
            let mirror = |at: isize, size: isize| match at {
                ..0 => -at,
                at if at >= size => 2 * (size - 1) - at,
                at => at,
            };
            match augmentation.border {
                Border::Grey(grey) if !is_inside => grey,
                Border::Colour(colour) if !is_inside => colour[c],
                _ => {
                    let (y, x) = (mirror(y, height) as usize, mirror(x, width) as usize);
                    image[(c * SHAPE.height + y) * SHAPE.width + x]
                }
            }
        };
        let crop = |(c, y, x): (usize, usize, usize)| {
            let x = if sample.flip { SHAPE.width - 1 - x } else { x };
            bordered(c, y as isize + sample.top as isize, x as isize + sample.left as isize)
        };
        let bytes: Vec<u8> = positions().map(crop).collect();
        let mut normalised = vec![0.0; ELEMENTS];
        sampling.normalization.apply(&bytes, &mut normalised);
        if let Some((row, column)) = sample.cutout {
            let size = augmentation.cutout;
            let covers =
                |at: usize, first: u16| (first.into()..usize::from(first) + size).contains(&at);
            for (value, (_, y, x)) in normalised.iter_mut().zip(positions()) {
                if covers(y, row) && covers(x, column) {
                    *value = 0.0;
                }
            }
        }
        normalised
    }

    #[test]
    fn a_batch_is_what_its_samples_define() {
        let split = split(23);
        let indices: Vec<u32> = (0..23).rev().collect();
        let borders = [Border::Reflect, Border::Grey(255), Border::Colour([1, 200, 30])];
        let flips = [Flip::Random(true), Flip::Random(false), Flip::Alternate];
        for (border, flip) in borders.into_iter().flat_map(|b| flips.map(|flip| (b, flip))) {
            for (padding, cutout) in [(0, 0), (4, 0), (2, 12), (31, 32)] {
                let sampling = Sampling {
                    augmentation: Some(Augmentation { padding, border, flip, cutout }),
                    ..sampling(Shuffle::Epoch, LastBatch::Keep)
                };
                let mut batch = ImageBatch::default();
                sampling.fill(&split, 2, &indices, &mut batch);
                let samples: Vec<_> = sampling.augmented_samples(2, &indices).collect();
                assert!(samples.iter().map(|sample| sample.index).eq(indices.iter().copied()));
                for (sample, image) in samples.iter().zip(batch.images.chunks_exact(ELEMENTS)) {
                    assert!(image == defined(&sampling, &split, sample), "{sample:?} {border:?}");
                    assert_eq!(sample.cutout.is_some(), cutout > 0);
                }
            }
        }
    }

    #[test]
    fn samples_are_the_same_in_every_version_of_the_program() {
        let sampling = Sampling {
            augmentation: Some(Augmentation {
                padding: 4,
                border: Border::Reflect,
                flip: Flip::Alternate,
                cutout: 12,
            }),
            ..sampling(Shuffle::Epoch, LastBatch::Keep)
        };
        let samples = sampling.augmented_samples(3, &[0, 7, 49_999]);
        let drawn = samples.map(|s| (s.index, s.top, s.left, s.flip, s.cutout));
        assert_eq!(
            drawn.collect::<Vec<_>>(),
            [
                (0, 0, 3, true, Some((9, 8))),
                (7, -1, 1, true, Some((11, 11))),
                (49_999, -3, 4, false, Some((0, 2))),
            ]
        );
        let plain = Sampling { augmentation: None, ..sampling };
        let sample = plain.augmented_samples(3, &[7]).next();
        assert_eq!(sample, Some(AugmentedSample::unchanged(7)));
    }
}
