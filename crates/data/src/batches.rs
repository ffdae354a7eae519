//! The batches of an epoch: which images, in which order, changed how. Prepared by a thread of its
//! own, ahead of whoever trains on them.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use serde::{Deserialize, Serialize};

use crate::augment::{Augmentation, Normalization, shrink};
use crate::random::{permutation, source};
use crate::{CHANNELS, IMAGE_BYTES, SIDE, Split};

/// Normalised images and their labels.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// `[N, 3, side, side]`.
    pub images: Vec<f32>,
    /// The class of each.
    pub labels: Vec<u16>,
}

/// In which order an epoch sees the images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shuffle {
    /// In another random order every epoch.
    Epoch,
    /// As they lie in the files, the same every epoch.
    FileOrder,
}

/// What becomes of the images that do not fill a last batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LastBatch {
    /// They are left out of this epoch.
    Drop,
    /// They make a smaller batch.
    Keep,
}

/// How training images become batches.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Decides the order and the augmentation, together with the epoch and the image's index.
    pub seed: u64,
    /// The order.
    pub shuffle: Shuffle,
    /// The last batch.
    pub last_batch: LastBatch,
    /// Random changes, if any.
    pub augmentation: Option<Augmentation>,
    /// From bytes to numbers.
    pub normalization: Normalization,
    /// Pixels along each side, to which the normalised images are shrunk: from 1 to 32.
    pub side: usize,
}

impl Sampling {
    /// How many batches of `batch_size` an epoch over `images` images has.
    pub fn batches(&self, images: usize, batch_size: usize) -> usize {
        match self.last_batch {
            LastBatch::Drop => images / batch_size,
            LastBatch::Keep => images.div_ceil(batch_size),
        }
    }

    /// The order in which `epoch` sees `images` images.
    pub fn order(&self, epoch: u64, images: usize) -> Vec<u32> {
        match self.shuffle {
            Shuffle::Epoch => permutation(&mut source(b"shuffle-", self.seed, epoch, 0), images),
            Shuffle::FileOrder => (0..images as u32).collect(),
        }
    }

    /// Fills `batch` with the images of these `indices`, as `epoch` sees them.
    pub fn fill(&self, split: &Split, epoch: u64, indices: &[u32], batch: &mut Batch) {
        batch.labels.clear();
        let numbers = CHANNELS * self.side * self.side;
        batch.images.resize(indices.len() * numbers, 0.0);
        let (mut changed, mut full) = ([0; IMAGE_BYTES], [0.0; IMAGE_BYTES]);
        for (&index, small) in indices.iter().zip(batch.images.chunks_exact_mut(numbers)) {
            let image = split.image(index as usize);
            let out = if self.side == SIDE { &mut *small } else { &mut full };
            if let Some(augmentation) = &self.augmentation {
                let key = [self.seed, epoch, index.into()];
                augmentation.crop_and_flip(key, image, &mut changed);
                self.normalization.apply(&changed, out);
                augmentation.cut_out(key, out);
            } else {
                self.normalization.apply(image, out);
            }
            if self.side != SIDE {
                shrink(&full, self.side, small);
            }
            batch.labels.push(split.labels[index as usize]);
        }
    }

    /// Calls `consume` with the batches of `epoch` whose numbers are in `wanted`, in order, while a
    /// second thread prepares the next one; stops early when `consume` gives an error. Preparing costs
    /// so little that more than one batch ahead would only take memory: there are two at any time.
    ///
    /// # Errors
    /// The one that `consume` gave.
    pub fn epoch<E>(
        &self,
        split: &Split,
        epoch: u64,
        batch_size: usize,
        wanted: Range<usize>,
        mut consume: impl FnMut(&Batch) -> Result<(), E>,
    ) -> Result<(), E> {
        std::thread::scope(|scope| {
            let (ready, batches) = sync_channel(0);
            // Used batches go back, so that their memory is used again.
            let (done, used) = sync_channel(1);
            scope.spawn(move || self.prepare(split, epoch, batch_size, wanted, &ready, &used));
            for batch in batches {
                consume(&batch)?;
                // The other end may have prepared its last batch and gone.
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
        ready: &SyncSender<Batch>,
        used: &Receiver<Batch>,
    ) {
        let order = self.order(epoch, split.len());
        let end = wanted.end.min(self.batches(split.len(), batch_size));
        for indices in order.chunks(batch_size).take(end).skip(wanted.start) {
            let mut batch = used.try_recv().unwrap_or_default();
            self.fill(split, epoch, indices, &mut batch);
            if ready.send(batch).is_err() {
                return; // Nobody wants the rest.
            }
        }
    }
}

/// Takes `count` images out of `split`, at random but the same for every seed, and returns the
/// rest and them: what is trained on, and what it is validated on.
///
/// # Panics
/// If there are not more than `count` images.
pub fn hold_out(split: &Split, count: usize) -> (Split, Split) {
    assert!(count < split.len(), "nothing would be left to train on");
    let mut chosen = vec![false; split.len()];
    let order = permutation(&mut source(b"validate", 0, 0, 0), split.len());
    for &index in &order[..count] {
        chosen[index as usize] = true;
    }
    let (mut rest, mut held_out) = (Split::default(), Split::default());
    for (index, chosen) in chosen.into_iter().enumerate() {
        let to = if chosen { &mut held_out } else { &mut rest };
        to.push(split.image(index), split.labels[index]);
    }
    (rest, held_out)
}

/// What of a split is trained on where `count` images are held out.
pub fn without_held_out(split: &Split, count: usize) -> Cow<'_, Split> {
    match count {
        0 => Cow::Borrowed(split),
        count => Cow::Owned(hold_out(split, count).0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Border, Flip};

    fn split(images: usize) -> Split {
        let mut split = Split::default();
        for i in 0..images {
            let image: Vec<u8> = (0..IMAGE_BYTES).map(|p| (p * (i + 3) % 256) as u8).collect();
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
            side: SIDE,
        }
    }

    fn collect(sampling: &Sampling, epoch: u64, batch_size: usize, first: usize) -> Vec<Batch> {
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
        let pixels = |batches: &[Batch]| -> Vec<f32> {
            batches.iter().flat_map(|batch| batch.images.clone()).collect()
        };
        let whole = collect(&sampling, 3, 5, 0);
        assert_eq!(pixels(&whole), pixels(&collect(&sampling, 3, 7, 0)));
        assert_eq!(whole[2..], collect(&sampling, 3, 5, 2));
        assert_ne!(whole, collect(&sampling, 4, 5, 0), "another epoch, other crops");
        assert_ne!(whole, collect(&Sampling { seed: 6, ..sampling }, 3, 5, 0));
    }

    #[test]
    fn shrunk_images_are_those_of_the_same_crops() {
        let full = sampling(Shuffle::Epoch, LastBatch::Keep);
        let small = Sampling { side: 16, ..full };
        for (full, small) in collect(&full, 2, 5, 0).iter().zip(collect(&small, 2, 5, 0)) {
            assert_eq!(full.labels, small.labels);
            let mut shrunk = vec![0.0; CHANNELS * 16 * 16];
            let images = full.images.chunks(IMAGE_BYTES).zip(small.images.chunks(shrunk.len()));
            for (full, small) in images {
                shrink(full, 16, &mut shrunk);
                assert_eq!(shrunk, small);
            }
        }
    }

    #[test]
    fn a_hole_changes_nothing_around_it_and_is_zero_after_normalisation() {
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
    fn an_error_stops_the_epoch() {
        let mut count = 0;
        let outcome =
            sampling(Shuffle::Epoch, LastBatch::Keep).epoch(&split(23), 1, 1, 0..23, |_| {
                count += 1;
                if count == 3 { Err("enough") } else { Ok(()) }
            });
        assert_eq!((outcome, count), (Err("enough"), 3));
    }

    #[test]
    fn held_out_images_are_not_trained_on() {
        let (rest, held_out) = hold_out(&split(23), 6);
        assert_eq!((rest.len(), held_out.len()), (17, 6));
        let mut labels = [rest.labels, held_out.labels].concat();
        labels.sort_unstable();
        assert_eq!(labels, (0..23).collect::<Vec<_>>());
    }
}
