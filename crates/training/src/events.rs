//! What happens in a run, for whoever writes it down or shows it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::{Error, Evaluation};

/// Something that happened in a run.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The run begins, or goes on.
    Started {
        /// Its folder.
        folder: PathBuf,
        /// What is trained on what, in a sentence.
        description: String,
        /// Updates done before, if it goes on.
        resumed_at: Option<u64>,
        /// How long each of the observer's files was when the state was saved: what was written
        /// after that will happen again, so it is cut off.
        marks: Marks,
        /// Whether every update gets a row in the tables.
        log_steps: bool,
    },
    /// A key of the recipe was changed on resume.
    Changed {
        /// The key.
        key: &'static str,
        /// Its value until now.
        from: String,
        /// Its value from now on.
        to: String,
    },
    /// Something about the recipe that a reader should know.
    Note(String),
    /// A policy chose another batch size or learning rate.
    Decision(Decision),
    /// Batches of this size are too large for the memory limit, or ghost batches are asked for: they are
    /// computed in parts, whose gradients are added up.
    InParts {
        /// Images an update takes.
        batch_size: usize,
        /// Images of a part: what BatchNorm takes its statistics over.
        part: usize,
        /// Whether the recipe asks for it with `network.norm.ghost`.
        ghost: bool,
    },
    /// An update is done.
    Step(Step),
    /// An epoch, or the part of it that the run ends with, is done.
    Epoch(Epoch),
    /// Some test or validation images are evaluated.
    Evaluating {
        /// Which images.
        split: EvaluatedSplit,
        /// Images done.
        done: usize,
        /// Images in all.
        total: usize,
    },
    /// An evaluation is done.
    Evaluated {
        /// Which images.
        split: EvaluatedSplit,
        /// After which epoch.
        epoch: u32,
        /// What came out.
        evaluation: Evaluation,
        /// The classes' names.
        classes: Vec<String>,
    },
    /// A checkpoint was written.
    Checkpoint(PathBuf),
    /// The run was asked to stop, and can be resumed.
    Interrupted {
        /// Its folder.
        folder: PathBuf,
    },
    /// The run is done.
    Finished {
        /// Its folder.
        folder: PathBuf,
        /// The share of right answers on the test set, unless `train.final_evaluation` is off.
        test_accuracy: Option<f64>,
        /// Whether it was done before.
        already: bool,
    },
}

/// What an evaluation is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EvaluatedSplit {
    /// Images held out from the training set.
    Validation,
    /// The test set.
    Test,
}

impl EvaluatedSplit {
    /// Its name for programs.
    pub fn name(self) -> &'static str {
        match self {
            EvaluatedSplit::Validation => "validation",
            EvaluatedSplit::Test => "test",
        }
    }
}

/// A policy's choice, from the epoch that begins.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// The first epoch that it holds for.
    pub epoch: u32,
    /// Updates done before.
    pub updates: u64,
    /// What is another one now.
    pub what: Decided,
    /// Its value until now.
    pub from: f64,
    /// Its value from now on.
    pub to: f64,
    /// Why, in words.
    pub reason: String,
    /// The watched metric, where a plateau decided: its name, its last value, the best one, and the
    /// epochs since that.
    pub metric: Option<Watched>,
    /// The measured gradient noise scale, in images, where it is known.
    pub noise_scale: Option<f64>,
}

/// What is decided when an epoch begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decided {
    /// Images an update takes.
    BatchSize,
    /// The step's length, or the factor that the schedule's is multiplied by.
    LearningRate,
    /// Pixels along each side of training images.
    Side,
}

impl Decided {
    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Decided::BatchSize => "batch_size",
            Decided::LearningRate => "learning_rate",
            Decided::Side => "side",
        }
    }
}

/// A metric as a plateau saw it.
#[derive(Clone, Debug, PartialEq)]
pub struct Watched {
    /// Its name in recipes, such as `train_loss`.
    pub name: &'static str,
    /// The last value, smoothed if the recipe asks for it.
    pub value: f64,
    /// The best value before.
    pub best: f64,
    /// Epochs without improvement.
    pub epochs: u32,
}

/// One update.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// Updates since the run's beginning, this one included.
    pub update: u64,
    /// The epoch, counted from 1.
    pub epoch: u32,
    /// Epochs of the run.
    pub epochs: u32,
    /// Images an update takes.
    pub batch_size: usize,
    /// The step's length.
    pub learning_rate: f64,
    /// The mean loss of this batch.
    pub loss: f64,
    /// The mean loss of the epoch's images so far.
    pub epoch_loss: f64,
    /// The share of right answers among them.
    pub epoch_accuracy: f64,
    /// Images of the epoch done.
    pub images: usize,
    /// Images of the epoch in all.
    pub epoch_images: usize,
    /// Images of the run's later epochs: as many of this epoch's size as have their pixels.
    pub later_images: u64,
    /// Seconds of training in this epoch.
    pub seconds: f64,
}

/// One epoch.
#[derive(Clone, Debug, PartialEq)]
pub struct Epoch {
    /// The epoch, counted from 1.
    pub epoch: u32,
    /// Updates since the run's beginning.
    pub updates: u64,
    /// Images an update took.
    pub batch_size: usize,
    /// The step's length.
    pub learning_rate: f64,
    /// The mean loss over the epoch's images, each as its batch saw it.
    pub train_loss: f64,
    /// The share of right answers, likewise.
    pub train_accuracy: f64,
    /// The mean loss on held-out images, where evaluated.
    pub validation_loss: Option<f64>,
    /// The share of right answers on held-out images, where evaluated.
    pub validation_accuracy: Option<f64>,
    /// The share of right answers on the test set, where evaluated.
    pub test_accuracy: Option<f64>,
    /// The gradient noise scale, in images, where it is measured and can be told.
    pub noise_scale: Option<f64>,
    /// Seconds of training, without evaluation.
    pub seconds: f64,
    /// Images trained on in a second.
    pub images_per_second: f64,
}

/// How long each of an observer's files is at a moment, so that they can be cut back to it.
pub type Marks = BTreeMap<String, u64>;

/// Writes down or shows what happens in a run.
pub trait Observer {
    /// Something happened.
    ///
    /// # Errors
    /// If it cannot be written down; the run stops then.
    fn event(&mut self, event: &Event) -> Result<(), Error>;

    /// Makes everything so far durable, and says how long each file is. The run's state keeps these
    /// numbers, so that on resume the files are cut back to the moment of the state.
    ///
    /// # Errors
    /// If that is not possible; the run stops then.
    fn marks(&mut self) -> Result<Marks, Error> {
        Ok(Marks::new())
    }
}

/// Looks at nothing.
impl Observer for () {
    fn event(&mut self, _: &Event) -> Result<(), Error> {
        Ok(())
    }
}
