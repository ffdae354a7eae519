//! The section `[data]`: what happens to images before the network sees them.

use crescendo_data::{Augmentation, Border, Flip, LastBatch, Normalization, Shuffle, Split};
use serde::{Deserialize, Serialize};

use super::epoch_table::value_at;

/// The section `[data]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// The data set, unless the command line names another one.
    pub source: DataSource,
    /// Random changes to training images.
    pub augment: AugmentConfig,
    /// What lies beyond an image's edge when it is cropped.
    pub border: Border,
    /// How bytes become numbers.
    pub normalize: NormalizeKind,
    /// The order of the images in an epoch.
    pub shuffle: Shuffle,
    /// What happens to images that do not fill the last batch.
    pub last_batch: LastBatch,
    /// Progressive resizing: `(first epoch, pixels along each side)` of training images. Evaluations use
    /// whole images.
    pub sides: Vec<(u32, usize)>,
    /// How many training images are set aside as the validation set.
    pub validation: usize,
    /// Test-time augmentation: whether logits are the mean of those of an image and its mirror image.
    pub test_flip: bool,
    /// Test-time augmentation: pixels by which views of an image are shifted, 0 for none. The views shifted
    /// up and left, and down and right (edges mirrored), together count as much as the image itself.
    pub test_shift: usize,
}

/// Data sets that the program can find, or generate, by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DataSource {
    /// CIFAR-10, where [`crescendo_data::locate`] looks for it.
    #[serde(rename = "cifar-10")]
    Cifar10,
    /// The generated data set.
    #[serde(rename = "shapes")]
    Shapes,
}

/// How training images are augmented: a boolean, or a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "true, false, or { padding = N, flip = true|false|\"alternate\", cutout = N }"
)]
pub enum AugmentConfig {
    /// `true`: random crops from within a border of 4 pixels, and random flips. `false`: nothing.
    Switch(bool),
    /// Each step by itself.
    Table(AugmentTable),
}

/// The table form of [`AugmentConfig`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AugmentTable {
    /// Pixels of border on each side, from which a random crop is taken.
    pub padding: usize,
    /// Which images are flipped horizontally.
    pub flip: Flip,
    /// Cutout (DeVries and Taylor 2017, arXiv 1708.04552): the side of the square, in pixels; 0 for none,
    /// which is not written, so that recipes without it keep the text, and comparisons the fingerprint,
    /// that they had before the key existed.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub cutout: usize,
}

fn is_zero(number: &usize) -> bool {
    *number == 0
}

/// See [`Normalization`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NormalizeKind {
    /// By each image's own mean and standard deviation.
    PerImage,
    /// By those of the training set, for each channel.
    Dataset,
    /// Bytes divided by 255.
    None,
}

impl DataConfig {
    /// Pixels along each side of the images of an epoch.
    ///
    /// # Panics
    /// If the table has no row for epoch 1; a valid recipe has one.
    pub(crate) fn image_size(&self, epoch: u32) -> usize {
        value_at(&self.sides, epoch).expect("a recipe's sides begin with epoch 1")
    }

    /// The augmentation of training images, if there is any.
    pub(crate) fn augmentation(&self) -> Option<Augmentation> {
        let AugmentTable { padding, flip, cutout } = match self.augment {
            AugmentConfig::Switch(false) => return None,
            AugmentConfig::Switch(true) => {
                AugmentTable { padding: 4, flip: Flip::Random(true), cutout: 0 }
            }
            AugmentConfig::Table(table) => table,
        };
        Some(Augmentation { padding, border: self.border, flip, cutout })
    }

    /// The normalisation, with the statistics of `train` if it needs them.
    pub fn normalization(&self, train: &Split) -> Normalization {
        match self.normalize {
            NormalizeKind::PerImage => Normalization::PerImage,
            NormalizeKind::Dataset => Normalization::dataset(train),
            NormalizeKind::None => Normalization::None,
        }
    }
}
