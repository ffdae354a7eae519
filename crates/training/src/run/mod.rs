//! A run's folder: its recipe, its progress, and a lock that keeps two programs apart.
//!
//! `recipe.toml` says what the run is; `state/` holds everything that resuming needs. The folder is created
//! under a temporary name and renamed, so it exists with a state in it or not at all.

mod change;
mod create;
mod fit;
mod folder;
mod initial;
mod overview;
pub(crate) mod saved_state;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use crescendo_data::file_system::{Lock, sync_folder, try_lock};
use serde::{Deserialize, Serialize};

use crate::best::BestEpoch;
use crate::events::Marks;
use crate::policy::{EpochMetrics, Policy, PolicyState};
use crate::recipe::BatchPolicyKind;
use crate::record::{self, Record, read_record};
use crate::{Error, Recipe, RunFacts, version};
use saved_state::SavedState;

pub(crate) use change::Change;
pub use create::{Start, resolved};
pub(crate) use fit::check_fit;
pub use fit::{check, check_metrics};
pub use overview::Overview;

/// How far a run is.
///
/// See the example of [`Run`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Progress {
    /// The epoch that is being trained, counted from 1.
    pub epoch: u32,
    /// Batches of the epoch that are done.
    pub batch: usize,
    /// Updates since the beginning.
    pub updates: u64,
    /// The sum, over the epoch's images so far, of their batches' mean losses.
    pub(crate) loss_sum: f64,
    /// The epoch's images so far.
    pub(crate) images: usize,
    /// Images of the epoch so far that were classified correctly.
    #[serde(default)]
    pub(crate) correct: usize,
    /// Seconds of training in this epoch so far.
    pub(crate) seconds: f64,
    /// Seconds of training in the epochs before.
    #[serde(default)]
    pub(crate) earlier_seconds: f64,
    /// The final accuracy on the test set, once it has been measured.
    pub test_accuracy: Option<f64>,
    /// Whether the run has ended: its final evaluation and checkpoint are done.
    pub ended: bool,
    /// The best epoch so far by its validation images, if there are any and an epoch was evaluated.
    #[serde(default)]
    pub best: Option<BestEpoch>,
    /// The metrics of the epochs so far: all of them for the policy `custom`, the last one for others.
    #[serde(default)]
    pub(crate) history: Vec<EpochMetrics>,
    /// What older versions saved instead: those of the last epoch.
    #[serde(default, skip_serializing)]
    pub(crate) metrics: Option<EpochMetrics>,
    /// The policies' state.
    #[serde(default)]
    pub(crate) chosen: PolicyState,
}

impl Progress {
    /// Takes an epoch's metrics into the history.
    pub(crate) fn add_metrics(&mut self, recipe: &Recipe, metrics: EpochMetrics) {
        if recipe.batch.policy != BatchPolicyKind::Custom {
            self.history.clear();
        }
        self.history.push(metrics);
    }

    /// Whether the run has stopped, or is to stop, early.
    pub(crate) fn stops_early(&self, stop_after: u32) -> bool {
        self.best.is_some_and(|best| best.stops(stop_after))
    }

    /// Seconds of training since the beginning, without evaluation.
    pub fn total_seconds(&self) -> f64 {
        self.earlier_seconds + self.seconds
    }
}

/// The file that is locked while a program has the run open.
fn lock_path(folder: &Path) -> PathBuf {
    folder.join("state").join("lock")
}

/// A run's folder, locked.
///
/// # Example
///
/// ```
/// use crescendo_cpu::CpuDevices;
/// use crescendo_training::{HeldOut, Outcome, Recipe, Run, Start, checkpoint, read_record};
///
/// let changes = ["train.epochs=2", "network.widths=[4, 4, 4]", "data.validation=40", "train.evaluate_every=1"];
/// let recipe = Recipe::load("quick", &changes)?;
/// let data = crescendo_data::shapes::generate(0, 200, 100);
/// # let folder = tempfile::tempdir().unwrap();
/// # let folder = folder.path().join("run");
/// let devices = &CpuDevices;
/// let start = Start::new(&recipe, &data, devices);
/// let mut run = Run::create(&folder, &start)?;
/// // Only the first epoch; the folder can be opened again for the rest.
/// let outcome = run.train_until(1, devices, &data, &mut (), &false.into())?;
/// assert_eq!((outcome, run.progress().epoch), (Outcome::Interrupted, 2));
/// drop(run);
///
/// let mut run = Run::open(&folder)?;
/// run.train(devices, &data, &mut (), &false.into())?;
/// let best = run.progress().best.expect("there are validation images");
/// assert!((1..=2).contains(&best.epoch));
/// let held_out = HeldOut::new(&data, 40, run.record().run.validation);
/// assert_eq!(held_out.train.len(), 160);
///
/// // What lies in the folder says what it is.
/// let record = read_record(&folder)?;
/// assert_eq!((record.run.data_name.as_str(), record.recipe.train.epochs), ("shapes", 2));
/// let last = checkpoint::latest(&folder)?.expect("there is a checkpoint");
/// assert_eq!(checkpoint::about(&last)?.epoch, Some(2));
/// # Ok::<(), crescendo_training::Error>(())
/// ```
#[derive(Debug)]
pub struct Run {
    pub(crate) folder: PathBuf,
    pub(crate) record: Record,
    pub(crate) progress: Progress,
    pub(crate) marks: Marks,
    pub(crate) changes: Vec<Change>,
    /// The recipe before the first of them.
    before: Option<Box<Recipe>>,
    /// Notes for the log.
    pub(crate) notes: Vec<String>,
    /// The policy of a recipe with `batch.policy = custom`.
    pub(crate) policy: Option<Box<dyn Policy>>,
    _lock: File,
}

impl Run {
    /// Opens an existing run to resume it.
    ///
    /// # Errors
    /// If `folder` holds no run or one of a newer version, another program is working on it, a file is damaged,
    /// or `recipe.toml` was edited in a key that cannot [change](Self::change).
    pub fn open(folder: &Path) -> Result<Self, Error> {
        Self::open_on(folder, try_lock, sync_folder)
    }

    /// The same on a file system that locks files and syncs folders in this way.
    fn open_on(
        folder: &Path,
        try_lock: impl Fn(&File) -> io::Result<Lock>,
        sync_folder: impl Fn(&Path) -> io::Result<bool>,
    ) -> Result<Self, Error> {
        let record = read_record(folder)?;
        if let Some(newer) = version::newer(&record.run.version) {
            return Err(Error::Refused(format!("{}: {newer}", folder.display())));
        }
        let mut notes = Vec::new();
        let path = lock_path(folder);
        let lock = File::create(&path).map_err(|error| Error::io("write", &path, error))?;
        match try_lock(&lock).map_err(|error| Error::io("lock", &path, error))? {
            Lock::Held => {}
            Lock::Taken => {
                return Err(Error::Refused(format!(
                    "another program is training in {}: wait for it, or stop it first",
                    folder.display()
                )));
            }
            Lock::Unsupported => notes.push(
                "Warning: this file system cannot lock files: take care that no other program trains in \
                 this run's folder at the same time."
                    .into(),
            ),
        }
        if !sync_folder(folder).map_err(|error| Error::io("write", folder, error))? {
            notes.push(
                "Warning: this file system cannot sync folders: after a power cut the latest files of \
                 this run may be missing."
                    .into(),
            );
        }
        let saved = saved_state::read(folder, &record)?;
        notes.extend(saved.notes);
        let SavedState { progress, marks, .. } = saved;
        let (folder, changes, before) = (folder.to_owned(), Vec::new(), None);
        let mut run = Run {
            folder,
            record,
            progress,
            marks,
            changes,
            before,
            notes,
            policy: None,
            _lock: lock,
        };
        if let Some(saved) = saved.record {
            run.accept_edits(saved)?;
        }
        Ok(run)
    }

    /// The run's folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What the run is.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// How far the run is.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Sets the policy that chooses batch sizes and learning rates of a recipe with `batch.policy = custom`. A run
    /// that is opened to resume it needs the same one again.
    ///
    /// # Errors
    /// If the run's recipe has another policy.
    pub fn set_policy(&mut self, policy: impl Policy + 'static) -> Result<(), Error> {
        if self.record.recipe.batch.policy != BatchPolicyKind::Custom {
            return Err(Error::Refused(format!(
                "the run in {} has a policy of its own: only a recipe with batch.policy = custom takes another one",
                self.folder.display()
            )));
        }
        self.policy = Some(Box::new(policy));
        Ok(())
    }

    /// Adds a note that is logged when training starts.
    pub fn note(&mut self, note: String) {
        self.notes.push(note);
    }

    /// Records the command line that created the run, quoted for a shell, unless there is one. It is shown in reports.
    ///
    /// # Errors
    /// If `run.json` in the run's folder cannot be written.
    pub fn set_command(&self, command: &str) -> Result<(), Error> {
        // The run works without the file, so a damaged one is left for reports to name.
        match RunFacts::read(&self.folder).ok().flatten() {
            Some(facts @ RunFacts { command: None, .. }) => {
                RunFacts { command: Some(command.to_owned()), ..facts }.write(&self.folder)
            }
            _ => Ok(()),
        }
    }

    /// Writes `recipe.toml` again after a change.
    pub(crate) fn write_record(&self) -> Result<(), Error> {
        record::write(&self.folder, &self.record)
    }
}

#[cfg(test)]
mod own_tests;
#[cfg(test)]
mod tests;
