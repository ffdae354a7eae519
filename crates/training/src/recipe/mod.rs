//! A recipe: everything that decides what a run does. See `recipes/report.toml` for every key.

mod optimizer;
mod resolve;
mod table;

use crescendo_data::{
    Augmentation, Border, Flip, ImageShape, LastBatch, Normalization, Sampling, Shuffle, Split,
};
use crescendo_network::{Compute, Config, ConvolutionChoice, Storage};
use serde::{Deserialize, Serialize};

use crate::policy::{Batch, Schedule};
use crate::{Error, IsaChoice, Machine};

pub(crate) use optimizer::At;
pub use optimizer::{Average, Decay, Group, Optimizer, OptimizerKind, Per};
pub(crate) use resolve::place;
pub use resolve::{BUILT_IN, BuiltIn};
pub(crate) use table::{reached, wrong_epochs};

/// The height and width of the images.
const SIDE: usize = ImageShape::CIFAR.width;
/// The most channels of a layer, or features.
const MOST_CHANNELS: usize = 65_536;
/// The most residual blocks of a network.
const MOST_BLOCKS: usize = 1_000;
/// The most epochs of a run.
const MOST_EPOCHS: u32 = 1_000_000;
/// The most pixels of a reflected border: all of an image's but those of its edge.
pub const MOST_SHIFT: usize = SIDE - 1;
/// The most threads: more than any machine has processors.
pub const MOST_THREADS: usize = 1_024;

/// All sections of a recipe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// The network.
    pub network: Config,
    /// What happens to images.
    pub data: Data,
    /// How parameters follow from gradients.
    pub optimizer: Optimizer,
    /// How the learning rate changes.
    pub schedule: Schedule,
    /// How many images an update takes.
    pub batch: Batch,
    /// How long, and what is kept.
    pub train: Train,
    /// What computes.
    pub engine: Engine,
}

/// The section `[data]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Data {
    /// What is trained on where nobody says otherwise.
    pub source: DataSource,
    /// Random changes to training images.
    pub augment: Augment,
    /// The border that augmentation puts around an image.
    pub border: Border,
    /// From bytes to numbers.
    pub normalize: Normalize,
    /// In which order an epoch sees the images.
    pub shuffle: Shuffle,
    /// What becomes of the images that do not fill a last batch.
    pub last_batch: LastBatch,
    /// From which epoch on training images are shrunk to how many pixels along each side; evaluations are
    /// of whole images.
    pub sides: Vec<(u32, usize)>,
    /// Training images held out to validate on.
    pub validation: usize,
    /// Whether an answer is the mean of those to an image and to its mirror image.
    pub test_flip: bool,
    /// Pixels; 0 for none. Half of an answer is then that to the image, and half the mean of those to it
    /// shifted up and left, and down and right, with its edges mirrored.
    pub test_shift: usize,
}

/// Data sets that the program finds, or makes, by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DataSource {
    /// CIFAR-10, where [`crescendo_data::find`] looks for it.
    #[serde(rename = "cifar-10")]
    Cifar10,
    /// The generated set.
    #[serde(rename = "shapes")]
    Shapes,
}

/// Whether and how training images are changed: a bool, or a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "data.augment is true, false, or { padding = N, flip = true|false|\"alternate\", \
                 cutout = N }"
)]
pub enum Augment {
    /// All or nothing: 4 pixels of padding, and flips.
    Switch(bool),
    /// In detail.
    Table(AugmentTable),
}

/// See [`Augment`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AugmentTable {
    /// Pixels of border on each side, from which a random crop is taken.
    pub padding: usize,
    /// Which images are flipped.
    pub flip: Flip,
    /// The side of the square that is cut out. Without one it is not written, so that a recipe has the
    /// text, and a comparison the fingerprint, that they had before there was one.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub cutout: usize,
}

fn is_zero(number: &usize) -> bool {
    *number == 0
}

/// See [`Normalization`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Normalize {
    /// By the image's own mean and deviation.
    PerImage,
    /// By the training set's.
    Dataset,
    /// Bytes / 255.
    None,
}

/// The section `[train]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Train {
    /// Passes over the training images.
    pub epochs: u32,
    /// Updates after which training ends; 0 for no such end.
    pub max_steps: u64,
    /// Decides initial weights, order and augmentation.
    pub seed: u64,
    /// The share of each label that the loss spreads evenly over all classes.
    pub label_smoothing: f64,
    /// Epochs between evaluations; 0 for none but the final one.
    pub evaluate_every: u32,
    /// Whether the test set is evaluated at the end.
    pub final_evaluation: bool,
    /// Epochs between checkpoints; 0 for none but the last.
    pub checkpoint_every: u32,
    /// Checkpoints to keep, the latest ones; 0 for all.
    pub keep: usize,
    /// Whether every update gets a row in `steps.csv`.
    pub log_steps: bool,
    /// Minutes between saves of the state within an epoch; 0 for saving after epochs only.
    pub save_every_minutes: f64,
}

/// The section `[engine]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Engine {
    /// Threads that compute; 0 for one on every processor.
    pub threads: usize,
    /// The instructions they use.
    pub isa: IsaChoice,
    /// How convolutions are computed.
    pub conv: ConvolutionChoice,
    /// How training keeps what backward needs.
    pub activations: Storage,
}

impl Engine {
    /// What the plan of a network needs to know.
    pub fn compute(&self) -> Compute {
        Compute { convolution: self.conv, activations: self.activations }
    }
}

impl Recipe {
    /// Whether all values make sense together.
    ///
    /// # Errors
    /// Names the key and what it may be.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let network = &self.network;
        let blocks =
            network.blocks.iter().fold(0, |sum: usize, &blocks| sum.saturating_add(blocks));
        let mut layers = network.widths.iter().chain([&network.head.hidden]);
        let augmentation = self.data.augmentation();
        let padding = augmentation.map_or(0, |augmentation| augmentation.padding);
        // The engine computes with 32 bits.
        let finite = |value: f64| (value as f32).is_finite() && value >= 0.0;
        let checks = [
            (
                blocks <= MOST_BLOCKS,
                format!("network.blocks must be at most {MOST_BLOCKS} together"),
            ),
            (
                layers.all(|&channels| channels <= MOST_CHANNELS),
                format!("network.widths and network.head.hidden must be at most {MOST_CHANNELS}"),
            ),
            (
                (0.0..1.0).contains(&self.train.label_smoothing),
                "train.label_smoothing must be from 0 to below 1".into(),
            ),
            (
                self.train.epochs <= MOST_EPOCHS,
                format!("train.epochs must be at most {MOST_EPOCHS}"),
            ),
            (
                finite(self.train.save_every_minutes),
                "train.save_every_minutes must be a number from 0 to 3e38".into(),
            ),
            (padding <= SIDE, format!("data.augment.padding must be at most {SIDE}")),
            (
                padding <= MOST_SHIFT || self.data.border != Border::Reflect,
                format!(
                    "data.augment.padding must be at most {MOST_SHIFT} where data.border reflects"
                ),
            ),
            (
                augmentation.is_none_or(|augmentation| augmentation.cutout <= SIDE),
                format!("data.augment.cutout must be at most {SIDE}"),
            ),
            (
                self.data.test_shift <= MOST_SHIFT,
                format!("data.test_shift must be at most {MOST_SHIFT}"),
            ),
            (
                self.engine.threads <= MOST_THREADS,
                format!("engine.threads must be at most {MOST_THREADS}"),
            ),
        ];
        if let Some((_, problem)) = checks.into_iter().find(|(fine, _)| !fine) {
            return Err(Error::Recipe(problem));
        }
        network.network().map_err(|error| Error::Recipe(error.to_string()))?;
        self.data.check_sides(network)?;
        self.optimizer.check(|| crate::run::plan(self))?;
        crate::policy::check(self)
    }

    /// How many threads compute on this machine.
    pub fn threads(&self) -> usize {
        crate::threads(self.engine.threads)
    }

    /// What computes on this machine.
    ///
    /// # Errors
    /// If the processor does not have the instructions.
    pub fn machine(&self) -> Result<Machine, Error> {
        Ok(Machine { threads: self.threads(), isa: self.engine.isa.isa()? })
    }

    /// How training images become batches, of whole images.
    pub fn sampling(&self, normalization: Normalization) -> Sampling {
        Sampling {
            image_size: SIDE,
            seed: self.train.seed,
            shuffle: self.data.shuffle,
            last_batch: self.data.last_batch,
            augmentation: self.data.augmentation(),
            normalization,
        }
    }
}

impl Data {
    /// Pixels along each side of the images that an epoch trains on.
    pub(crate) fn side(&self, epoch: u32) -> usize {
        reached(&self.sides, epoch).expect("a recipe's sides begin with epoch 1")
    }

    fn check_sides(&self, network: &Config) -> Result<(), Error> {
        let refuse = |problem: String| {
            Err(Error::Recipe(format!("data.sides {problem}, as in [[1, 16], [5, 32]]")))
        };
        if let Some(problem) = wrong_epochs(&self.sides) {
            return refuse(problem.into());
        }
        if self.sides.last().is_none_or(|side| side.1 != SIDE) {
            return refuse(format!("must end with {SIDE}, the side of what is evaluated"));
        }
        let goes = |side: &usize| network.network_for(*side).is_ok();
        if let Some((_, side)) = self.sides.iter().find(|(_, side)| *side > SIDE || !goes(side)) {
            let all: Vec<String> = (1..=SIDE).filter(goes).map(|side| side.to_string()).collect();
            let all = all.join(", ");
            return refuse(format!("has {side}, but this network's head can do with {all} pixels"));
        }
        Ok(())
    }

    fn augmentation(&self) -> Option<Augmentation> {
        let AugmentTable { padding, flip, cutout } = match self.augment {
            Augment::Switch(false) => return None,
            Augment::Switch(true) => {
                AugmentTable { padding: 4, flip: Flip::Random(true), cutout: 0 }
            }
            Augment::Table(table) => table,
        };
        Some(Augmentation { padding, border: self.border, flip, cutout })
    }

    /// The normalisation, with the statistics of `train` where it needs them.
    pub fn normalization(&self, train: &Split) -> Normalization {
        match self.normalize {
            Normalize::PerImage => Normalization::PerImage,
            Normalize::Dataset => Normalization::dataset(train),
            Normalize::None => Normalization::None,
        }
    }
}
