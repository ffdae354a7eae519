//! Events of a run, and the trait of those that record or show them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use crate::policy::{Decision, DecisionKind, PlateauObservation};
use crate::{Error, Evaluation};

/// An event of a run.
///
/// See the example of [`Observer`].
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// The run begins, or is resumed.
    Started {
        /// Its folder.
        folder: PathBuf,
        /// The recipe, the data and what computes, in one line.
        description: String,
        /// Updates done before, if it is resumed.
        resumed_at: Option<u64>,
        /// How long each of the observer's files was when the state was saved. What was written after
        /// that will happen again, so observers cut it off.
        marks: Marks,
        /// Whether every update gets a row in the tables.
        log_steps: bool,
    },
    /// A key of the recipe was changed on resume.
    Changed {
        /// The key.
        key: &'static str,
        /// The value until now.
        from: String,
        /// The value from now on.
        to: String,
    },
    /// Something about the run that a user should know, in a sentence.
    Note(String),
    /// A policy changed the batch size, the learning rate or the image size.
    Decision(Decision),
    /// Batches of this size are computed as micro-batches with gradient accumulation, because they do not fit
    /// in the memory limit or the recipe asks for ghost batches.
    MicroBatches {
        /// Images an update takes.
        batch_size: usize,
        /// Images of a micro-batch, over which BatchNorm takes its statistics.
        micro_batch_size: usize,
        /// Whether the recipe asks for ghost batches (`network.norm.ghost`; Hoffer et al. 2017, arXiv
        /// 1705.08741).
        ghost: bool,
    },
    /// An update is done.
    Step(Step),
    /// An epoch is done; the last one may be cut short by `train.max_steps`.
    Epoch(Epoch),
    /// An evaluation has come this far.
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
        /// The result.
        evaluation: Evaluation,
        /// The classes' names.
        classes: Vec<String>,
    },
    /// A checkpoint was written.
    Checkpoint(PathBuf),
    /// The run was asked to stop. It can be resumed.
    Interrupted {
        /// Its folder.
        folder: PathBuf,
        /// Whether only the program that trains it can resume it, because its policy or its data are that program's
        /// own.
        own: bool,
    },
    /// The run is done.
    Finished {
        /// Its folder.
        folder: PathBuf,
        /// The accuracy on the test set, from 0 to 1; `None` if `train.final_evaluation` is off.
        test_accuracy: Option<f64>,
        /// Its best weights by validation accuracy, or its last ones if there are no validation images.
        weights: Option<PathBuf>,
        /// Whether the run was finished before, so that nothing was trained.
        already: bool,
    },
}

/// The images of an evaluation.
///
/// See the example of [`Observer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum EvaluatedSplit {
    /// The validation set.
    Validation,
    /// The test set.
    Test,
}

impl EvaluatedSplit {
    /// Its name in events and tables.
    pub fn name(self) -> &'static str {
        match self {
            EvaluatedSplit::Validation => "validation",
            EvaluatedSplit::Test => "test",
        }
    }
}

/// One update.
///
/// See the example of [`Observer`].
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Step {
    /// Updates since the beginning of the run, including this one.
    pub update: u64,
    /// The epoch, counted from 1.
    pub epoch: u32,
    /// Epochs of the run.
    pub epochs: u32,
    /// Images an update takes.
    pub batch_size: usize,
    /// The learning rate.
    pub learning_rate: f64,
    /// The mean loss over the batch.
    pub loss: f64,
    /// The mean loss over the epoch's images so far.
    pub epoch_loss: f64,
    /// The accuracy on them, from 0 to 1.
    pub epoch_accuracy: f64,
    /// Images of the epoch that are done.
    pub images: usize,
    /// Images of the epoch in all.
    pub epoch_images: usize,
    /// Images of the epochs after this one, weighted by their number of pixels relative to this epoch's images.
    /// For the time that is left.
    pub later_images: u64,
    /// Seconds of training in this epoch.
    pub seconds: f64,
}

/// One epoch.
///
/// See the example of [`Observer`].
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Epoch {
    /// The epoch, counted from 1.
    pub epoch: u32,
    /// Updates since the beginning of the run.
    pub updates: u64,
    /// Images an update took.
    pub batch_size: usize,
    /// The learning rate.
    pub learning_rate: f64,
    /// The mean loss over the epoch's images, each as computed in its update.
    pub train_loss: f64,
    /// The accuracy on them, from 0 to 1.
    pub train_accuracy: f64,
    /// The mean loss over the validation images, if they were evaluated.
    pub validation_loss: Option<f64>,
    /// The accuracy on the validation images, from 0 to 1, if they were evaluated.
    pub validation_accuracy: Option<f64>,
    /// The mean loss over the test set, if it was evaluated.
    pub test_loss: Option<f64>,
    /// The accuracy on the test set, from 0 to 1, if it was evaluated.
    pub test_accuracy: Option<f64>,
    /// The gradient noise scale in images, if it is known.
    pub noise_scale: Option<f64>,
    /// Seconds of training, without evaluation.
    pub seconds: f64,
    /// Training images a second.
    pub images_per_second: f64,
}

/// The length in bytes of each of an observer's files at some moment, by name, so that the files can be cut
/// back to it.
///
/// # Example
///
/// ```
/// use std::fs::OpenOptions;
/// use std::io::Write;
///
/// use crescendo_cpu::CpuDevices;
/// use crescendo_training::events::{Event, Marks, Observer};
/// use crescendo_training::{Error, Recipe, Run, Start};
///
/// const NAME: &str = "losses.txt";
///
/// /// Writes the loss of each update into a file of the run's folder. A run that is killed and resumed does some updates
/// /// again; the file has each once.
/// #[derive(Default)]
/// struct Losses(Option<std::fs::File>);
///
/// impl Observer for Losses {
///     fn event(&mut self, event: &Event) -> Result<(), Error> {
///         match event {
///             Event::Started { folder, marks, .. } => {
///                 let path = folder.join(NAME);
///                 let open = OpenOptions::new().append(true).create(true).open(&path);
///                 let file = open.map_err(|error| Error::io("write", &path, error))?;
///                 // Nothing at first; later, what was there when the state was saved.
///                 let length = marks.get(NAME).copied().unwrap_or(0);
///                 file.set_len(length).map_err(|error| Error::io("write", &path, error))?;
///                 self.0 = Some(file);
///             }
///             Event::Step(step) => {
///                 let file = self.0.as_mut().expect("a run begins with Event::Started");
///                 writeln!(file, "{}", step.loss).map_err(Error::observer)?;
///             }
///             _ => {}
///         }
///         Ok(())
///     }
///
///     fn marks(&mut self) -> Result<Marks, Error> {
///         let Some(file) = &self.0 else { return Ok(Marks::new()) };
///         file.sync_all().map_err(Error::observer)?;
///         let about = file.metadata().map_err(Error::observer)?;
///         Ok(Marks::from([(NAME.to_owned(), about.len())]))
///     }
/// }
///
/// let data = crescendo_data::shapes::generate(0, 100, 50);
/// let recipe = Recipe::load("quick", &["train.epochs=2", "network.widths=[4, 4, 4]"])?;
/// # let folder = tempfile::tempdir().unwrap();
/// # let folder = folder.path().join("run");
/// let mut run = Run::create(&folder, &Start::new(&recipe, &data, &CpuDevices))?;
/// run.train_until(1, &CpuDevices, &data, &mut Losses::default(), &false.into())?;
/// // Updates that no saved state knows.
/// let mut file = OpenOptions::new().append(true).open(folder.join(NAME)).unwrap();
/// writeln!(file, "lost").unwrap();
/// drop(run);
///
/// let mut run = Run::open(&folder)?;
/// run.train(&CpuDevices, &data, &mut Losses::default(), &false.into())?;
/// let losses = std::fs::read_to_string(folder.join(NAME)).unwrap();
/// assert_eq!(losses.lines().count() as u64, run.progress().updates);
/// assert!(!losses.contains("lost"));
/// # Ok::<(), crescendo_training::Error>(())
/// ```
pub type Marks = BTreeMap<String, u64>;

/// Records or shows the events of a run, and may stop it. What it remembers is not saved with the run: if it needs that
/// when the run is resumed, it keeps a file of its own, as the example of [`Marks`] does.
///
/// # Example
///
/// ```
/// use crescendo_training::Error;
/// use crescendo_training::events::{Epoch, EvaluatedSplit, Event, Observer, Step};
///
/// /// Stops a run as soon as an epoch's training loss is low enough, or nothing but noise.
/// struct UntilLoss {
///     enough: f64,
///     reached: bool,
/// }
///
/// impl Observer for UntilLoss {
///     fn event(&mut self, event: &Event) -> Result<(), Error> {
///         match event {
///             Event::Epoch(Epoch { train_loss, .. }) => self.reached |= *train_loss < self.enough,
///             Event::Step(Step { loss, .. }) => self.reached |= *loss > 100.0,
///             Event::Evaluated { split: EvaluatedSplit::Test, evaluation, .. } => {
///                 println!("test accuracy {:.4}", evaluation.accuracy());
///             }
///             // There may be other events in a later version.
///             _ => {}
///         }
///         Ok(())
///     }
///
///     fn wants_stop(&self) -> bool {
///         self.reached
///     }
/// }
/// ```
pub trait Observer {
    /// Called for every event, in order.
    ///
    /// # Errors
    /// If the event cannot be recorded; the run then stops. [`Error::observer`] takes any error.
    fn event(&mut self, event: &Event) -> Result<(), Error>;

    /// Syncs all files to disk and returns their lengths. These are saved with the run's state, so that on
    /// resume the files can be cut back to the moment of the state.
    ///
    /// # Errors
    /// If the files cannot be synced; the run then stops.
    fn marks(&mut self) -> Result<Marks, Error> {
        Ok(Marks::new())
    }

    /// Whether training is to stop. Asked before each update; the run then ends as if it were interrupted: its state is
    /// saved and it can be resumed.
    fn wants_stop(&self) -> bool {
        false
    }
}

/// Ignores all events.
impl Observer for () {
    fn event(&mut self, _: &Event) -> Result<(), Error> {
        Ok(())
    }
}
