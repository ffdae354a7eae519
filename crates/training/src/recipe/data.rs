//! The section `[data]`: what happens to images before the network sees them.

use crescendo_data::{
    Augmentation, Border, DamagedImages, Flip, LastBatch, Normalization, ReadOptions, Shuffle,
    Split,
};
use serde::{Deserialize, Serialize};

use super::epoch_table::value_at;

/// The section `[data]`.
///
/// See the example of [the module `recipe`](crate::recipe).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
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
    /// How much the images of each class count in the training loss.
    pub class_weights: ClassWeights,
    /// What happens to images that cannot be read.
    pub damaged: DamagedImages,
    /// How many training images are set aside as the validation set.
    pub validation: usize,
    /// Test-time augmentation: whether logits are the mean of those of an image and its mirror image.
    pub test_flip: bool,
    /// Test-time augmentation: pixels by which views of an image are shifted, 0 for none. The views shifted
    /// up and left, and down and right (edges mirrored), together count as much as the image itself.
    pub test_shift: usize,
}

/// Data sets that the program can find, or generate, by itself.
///
/// See the example of [the module `recipe`](crate::recipe).
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
///
/// See the example of [the module `recipe`](crate::recipe).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "true, false, or { padding = N, flip = true|false|\"alternate\", cutout = N }"
)]
#[non_exhaustive]
pub enum AugmentConfig {
    /// `true`: random crops from within a border of 4 pixels, and random flips. `false`: nothing.
    Switch(bool),
    /// Each step by itself.
    Table(AugmentTable),
}

/// The table form of [`AugmentConfig`]; by default it changes nothing. Later versions may have more fields, so write
/// `..AugmentTable::default()` behind yours.
///
/// See the example of [the module `recipe`](crate::recipe).
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

impl Default for AugmentTable {
    fn default() -> Self {
        AugmentTable { padding: 0, flip: Flip::Random(false), cutout: 0 }
    }
}

fn is_zero(number: &usize) -> bool {
    *number == 0
}

/// Weights of classes in the training loss, which is divided by their sum over the batch's images.
///
/// See the example of [the module `recipe`](crate::recipe).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "\"none\", \"balanced\", or a list of numbers, one for each class")]
#[non_exhaustive]
pub enum ClassWeights {
    /// By a rule.
    Rule(ClassWeighting),
    /// One for each class, in the order of the classes.
    List(Vec<f64>),
}

/// A rule for the weights of classes.
///
/// See the example of [the module `recipe`](crate::recipe).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ClassWeighting {
    /// All images count the same.
    None,
    /// All classes count the same: a class's weight is the mean number of images of a class, divided by its own.
    Balanced,
}

impl ClassWeights {
    /// The weights of `classes` classes for the training images with these labels; `None` if all images count the
    /// same.
    pub(crate) fn weights(&self, labels: &[u16], classes: usize) -> Option<Vec<f32>> {
        match self {
            ClassWeights::Rule(ClassWeighting::None) => None,
            ClassWeights::List(weights) => {
                Some(weights.iter().map(|&weight| weight as f32).collect())
            }
            ClassWeights::Rule(ClassWeighting::Balanced) => {
                let mut counts = vec![0_usize; classes];
                labels.iter().for_each(|&label| counts[usize::from(label)] += 1);
                let present = counts.iter().filter(|&&count| count > 0).count();
                let mean = labels.len() as f64 / present.max(1) as f64;
                // A class without images occurs in smoothed labels only.
                let weight = |count| if count > 0 { (mean / count as f64) as f32 } else { 1.0 };
                Some(counts.into_iter().map(weight).collect())
            }
        }
    }
}

/// See [`Normalization`].
///
/// See the example of [the module `recipe`](crate::recipe).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
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

    /// How a folder or an archive of images is read.
    pub fn read_options(&self) -> ReadOptions {
        ReadOptions { damaged: self.damaged, ..ReadOptions::default() }
    }

    /// The normalisation, if it needs no statistics of training images.
    pub fn normalization_without_images(&self) -> Option<Normalization> {
        (self.normalize != NormalizeKind::Dataset).then(|| self.normalization(&Split::default()))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn balanced_weights_give_every_class_the_same_sum() {
        let labels = [[0; 6].as_slice(), &[1; 3], &[3; 3]].concat();
        let balanced = ClassWeights::Rule(ClassWeighting::Balanced);
        let weights = balanced.weights(&labels, 4).unwrap();
        assert_eq!(weights, [4.0 / 6.0, 4.0 / 3.0, 1.0, 4.0 / 3.0]);
        // The mean weight of an image is 1.
        let sum: f32 = labels.iter().map(|&label| weights[usize::from(label)]).sum();
        assert!((sum - 12.0).abs() < 1e-5);
        assert_eq!(ClassWeights::List(vec![1.0, 2.5]).weights(&labels, 2).unwrap(), [1.0, 2.5]);
        assert_eq!(ClassWeights::Rule(ClassWeighting::None).weights(&labels, 4), None);
    }
}
