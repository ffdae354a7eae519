//! A run's folder: what it trains, how far it is, and the lock that keeps two programs apart.
//!
//! `recipe.toml` says what the run is; `state/` holds everything that going on needs. The folder is
//! made under a temporary name and renamed, so it is there with a state in it or not at all.

mod fit;
mod folder;
mod initial;

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use crescendo_data::{DataSet, without_validation};
use crescendo_network::{Engine, Section};
use serde::{Deserialize, Serialize};

use crate::events::Marks;
use crate::policy::{EpochMetrics, PolicyState};
use crate::record::{self, About, Record, read_record};
use crate::tensors::{Metadata, TensorFile};
use crate::{Error, Recipe, machine, memory, plan};

pub use fit::check;
pub(crate) use fit::{check_fit, engine};

/// How far a run is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// The epoch that is being trained, counted from 1.
    pub epoch: u32,
    /// Its batches that are done.
    pub batch: usize,
    /// Updates since the beginning.
    pub updates: u64,
    /// The sum, over the epoch's images so far, of their batches' mean losses.
    pub(crate) loss_sum: f64,
    /// The epoch's images so far.
    pub(crate) images: usize,
    /// Those of them that were classified rightly.
    #[serde(default)]
    pub(crate) correct: usize,
    /// Seconds of training in this epoch so far.
    pub(crate) seconds: f64,
    /// Seconds of training in the epochs before.
    #[serde(default)]
    pub(crate) earlier_seconds: f64,
    /// The final accuracy on the test set, once it is known.
    pub test_accuracy: Option<f64>,
    /// Whether everything that ends a run has been done.
    pub ended: bool,
    /// The last epoch's metrics.
    #[serde(default)]
    pub(crate) metrics: EpochMetrics,
    /// The policies' state.
    #[serde(default)]
    pub(crate) chosen: PolicyState,
}

impl Progress {
    /// Seconds of training since the beginning, without evaluation.
    pub fn total_seconds(&self) -> f64 {
        self.earlier_seconds + self.seconds
    }
}

/// A run's folder, locked.
#[derive(Debug)]
pub struct Run {
    pub(crate) folder: PathBuf,
    pub(crate) record: Record,
    pub(crate) progress: Progress,
    pub(crate) marks: Marks,
    pub(crate) changes: Vec<Change>,
    /// What a reader should know, for the log.
    pub(crate) notes: Vec<String>,
    _lock: File,
}

/// A key that was changed on resume.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Change {
    pub key: &'static str,
    pub from: String,
    pub to: String,
}

/// What a new run is made from.
#[derive(Clone, Copy, Debug)]
pub struct Start<'a> {
    /// The recipe.
    pub recipe: &'a Recipe,
    /// Its name, or its file.
    pub recipe_name: &'a str,
    /// The data set.
    pub data: &'a DataSet,
    /// Where it was found, so that `resume` and `evaluate` find it again.
    pub data_location: &'a str,
    /// A checkpoint to begin with, instead of random weights.
    pub init: Option<&'a Path>,
}

impl Run {
    /// Makes a run in the new folder `folder`, with the state before the first update in it.
    ///
    /// # Errors
    /// If there is something at `folder`, recipe and data do not fit together, the machine has too
    /// little memory, or the system refuses.
    pub fn create(folder: &Path, start: &Start) -> Result<Self, Error> {
        let Start { recipe, data, .. } = start;
        if folder.exists() {
            return Err(folder::taken(folder));
        }
        let plan = plan(recipe)?;
        let (recipe, note) = resolved(recipe, data)?;
        let mut notes = Vec::from_iter(note);
        let recipe = &recipe;
        check_fit(recipe, data, machine::memory_for_run(recipe.threads(), false))?;
        // What is validated on has no say in statistics.
        let train = without_validation(&data.train, recipe.data.validation);
        let normalization = recipe.data.normalization(&train);
        let record = Record {
            recipe: recipe.clone(),
            run: About {
                recipe: start.recipe_name.into(),
                version: env!("CARGO_PKG_VERSION").into(),
                data: start.data_location.into(),
                data_name: data.name.clone(),
                data_fingerprint: data.fingerprint(),
                classes: data.classes.clone(),
                init: start.init.map(|path| path.display().to_string()),
                branch_of: None,
                normalization,
            },
        };
        let (initial, renewed) =
            initial::state(plan, &record.recipe, start, &train, &normalization)?;
        notes.extend(renewed);
        folder::make(folder, |temporary| {
            for part in ["weights", "state"] {
                let io = |error| Error::io("create", folder, error);
                fs::create_dir_all(temporary.join(part)).map_err(io)?;
            }
            record::write(temporary, &record)?;
            let chosen = PolicyState::new(recipe);
            let progress = Progress { epoch: 1, chosen, ..Progress::default() };
            let metadata = metadata(&progress, &Marks::new());
            let tensors: Vec<_> = initial
                .into_iter()
                .map(|tensor| crescendo_network::Tensor {
                    name: format!("{MODEL}{}", tensor.name).into(),
                    ..tensor
                })
                .collect();
            crate::tensors::write(&state_path(temporary), &tensors, &metadata)
        })?;
        Ok(Run { notes, ..Self::open(folder)? })
    }

    /// Makes a run in the new folder `folder` that goes on from this one's saved state with another
    /// recipe, on the same data; `start.init` means nothing here. What has been written down so far is in
    /// both.
    ///
    /// # Errors
    /// If an epoch is half done or the run has ended, the data is another, there is something at `folder`,
    /// or the system refuses.
    pub fn branch(&self, folder: &Path, start: &Start) -> Result<(), Error> {
        let Start { recipe, data, recipe_name, .. } = start;
        let Progress { epoch, batch, ended, .. } = self.progress;
        if folder.exists() {
            return Err(folder::taken(folder));
        }
        if batch > 0 || ended || data.fingerprint() != self.record.run.data_fingerprint {
            return Err(Error::Refused(format!(
                "the run in {} is no beginning of another one: it has ended, is in the middle of epoch \
                 {epoch}, or trains on other data",
                self.folder.display()
            )));
        }
        let mut record = self.record.clone();
        record.recipe = resolved(recipe, data)?.0;
        let own = &self.record.recipe;
        record.recipe.engine = own.engine.clone();
        record.recipe.batch.memory_limit = own.batch.memory_limit;
        record.run.recipe = (*recipe_name).into();
        let of = self.folder.display();
        record.run.branch_of = Some(format!("{of}, after epoch {}", epoch - 1));
        folder::make(folder, |temporary| {
            folder::copy(&self.folder, temporary)?;
            record::write(temporary, &record)
        })
    }

    /// Opens a run that is there, to go on with it.
    ///
    /// # Errors
    /// If `folder` holds no run, another program is working on it, or a file is damaged.
    pub fn open(folder: &Path) -> Result<Self, Error> {
        let record = read_record(folder)?;
        let path = folder.join("state").join("lock");
        let lock = File::create(&path).map_err(|error| Error::io("write", &path, error))?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::Error(error) => Error::io("lock", &path, error),
            TryLockError::WouldBlock => Error::Refused(format!(
                "another program is training in {}: wait for it, or stop it first",
                folder.display()
            )),
        })?;
        let state = || {
            let state = TensorFile::open(&state_path(folder))?;
            let mut progress: Progress = state.json("progress")?;
            if progress.epoch == 0 {
                return Err(state.bad("has a damaged progress in its metadata".into()));
            }
            if progress.chosen.batch_size == 0 {
                // An older program's state: its policies remember nothing.
                progress.chosen = PolicyState::new(&record.recipe);
                if progress.batch > 0 {
                    let Progress { epoch, updates, ref metrics, .. } = progress;
                    progress.chosen.enter(&record.recipe, epoch, updates, metrics);
                }
            }
            Ok((progress, state.json("marks")?))
        };
        let (progress, marks) = state().map_err(|error: Error| error.advise(LOST))?;
        let folder = folder.to_owned();
        Ok(Run {
            folder,
            record,
            progress,
            marks,
            changes: Vec::new(),
            notes: Vec::new(),
            _lock: lock,
        })
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What it is.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// How far it is.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Adds a line to the log, for when training begins.
    pub fn note(&mut self, note: String) {
        self.notes.push(note);
    }

    /// Changes what may change when a run goes on: `train.epochs`, `optimizer.learning_rate`,
    /// `engine.threads`, `engine.isa` and `train.log_steps`.
    ///
    /// # Errors
    /// If `change` (of the form `section.key=value`) is of another key or makes no sense.
    pub fn change(&mut self, change: &str) -> Result<(), Error> {
        let recipe = self.record.recipe.with(change)?;
        let old = &self.record.recipe;
        let mut rest = recipe.clone();
        rest.train.epochs = old.train.epochs;
        rest.train.log_steps = old.train.log_steps;
        rest.optimizer.learning_rate = old.optimizer.learning_rate;
        rest.engine.threads = old.engine.threads;
        rest.engine.isa = old.engine.isa;
        if rest != *old {
            return Err(Error::Recipe(format!(
                "{change}: on resume only train.epochs, optimizer.learning_rate, engine.threads, \
                 engine.isa and train.log_steps can change, because the rest of the run was made \
                 with the old value; start a new run instead, with --init to begin with this one's weights"
            )));
        }
        let Progress { epoch, ended, .. } = self.progress;
        // An epoch that the state has come to is trained to its end.
        let least = if ended { epoch - 1 } else { epoch };
        if recipe.train.epochs < least {
            return Err(Error::Recipe(format!(
                "train.epochs={} is too small: this run has come to epoch {least} already",
                recipe.train.epochs
            )));
        }
        let mut note = |key, from: String, to: String| {
            if from != to {
                self.changes.push(Change { key, from, to });
            }
        };
        let (before, after) = (old.engine.isa, recipe.engine.isa.resolved()?);
        note("engine.isa", before.name().into(), after.name().into());
        let (before, after) = (&old.train, &recipe.train);
        note("train.epochs", before.epochs.to_string(), after.epochs.to_string());
        let (before, after) = (&old.optimizer, &recipe.optimizer);
        let (before, after) = (before.learning_rate.to_string(), after.learning_rate.to_string());
        note("optimizer.learning_rate", before, after);
        self.record.recipe = recipe;
        Ok(())
    }

    /// Saves how far the run is, with all that going on needs.
    pub(crate) fn save(&mut self, engine: &dyn Engine, marks: Marks) -> Result<(), Error> {
        let mut tensors = Vec::new();
        let sections =
            [(MODEL, Section::Model), (MOMENTUM, Section::Momentum), (AVERAGE, Section::Average)];
        for (prefix, section) in sections {
            for mut tensor in engine.export(section) {
                tensor.name = format!("{prefix}{}", tensor.name).into();
                tensors.push(tensor);
            }
        }
        let metadata = metadata(&self.progress, &marks);
        crate::tensors::write(&state_path(&self.folder), &tensors, &metadata)?;
        self.marks = marks;
        Ok(())
    }

    /// Puts the saved state into an engine.
    pub(crate) fn restore(&self, engine: &mut dyn Engine) -> Result<(), Error> {
        let path = state_path(&self.folder);
        let file = TensorFile::open(&path)?;
        let bad = |error: crescendo_network::Error| {
            let problem = format!("{error}: it is damaged, or recipe.toml was changed");
            Error::bad(&path, problem).advise(LOST)
        };
        engine.import(Section::Model, &file.tensors(MODEL)?).map_err(bad)?;
        let momentum = file.tensors(MOMENTUM)?;
        // Before the first update there is none, and an engine begins with zeros.
        if !momentum.is_empty() {
            engine.import(Section::Momentum, &momentum).map_err(bad)?;
        }
        let average = file.tensors(AVERAGE)?;
        if !average.is_empty() {
            engine.import(Section::Average, &average).map_err(bad)?;
        }
        Ok(())
    }

    /// Writes `recipe.toml` again, after a change.
    pub(crate) fn write_record(&self) -> Result<(), Error> {
        record::write(&self.folder, &self.record)
    }
}

/// A recipe as a run of it on this data keeps it, and what a reader should know of that.
///
/// # Errors
/// If batches that are made to fit the data make no sense with the rest.
pub fn resolved(recipe: &Recipe, data: &DataSet) -> Result<(Recipe, Option<String>), Error> {
    let mut recipe = recipe.clone();
    // Results depend on it: a run goes on with what it began with.
    recipe.engine.isa = recipe.engine.isa.resolved()?;
    recipe.batch.memory_limit = memory::limit(&recipe);
    let images = data.train.len().saturating_sub(recipe.data.validation);
    let note = recipe.batch.shrink_to_data(images).map(|most| {
        format!(
            "{images} training images: batches have at most {most}, for batch.least_updates = {}.",
            recipe.batch.least_updates
        )
    });
    recipe.validate()?;
    Ok((recipe, note))
}

/// What to do about a state that cannot be read.
const LOST: &str = "this run cannot go on, but its checkpoints are not lost: start a new run, with \
                    --init to begin with one of them";

/// Prefixes of the state's tensors.
const MODEL: &str = "model/";
const MOMENTUM: &str = "momentum/";
const AVERAGE: &str = "average/";

fn metadata(progress: &Progress, marks: &Marks) -> Metadata {
    let json = |text: serde_json::Result<String>| text.expect("only strings and finite numbers");
    Metadata::from([
        ("progress".into(), json(serde_json::to_string(progress))),
        ("marks".into(), json(serde_json::to_string(marks))),
    ])
}

fn state_path(folder: &Path) -> PathBuf {
    folder.join("state").join("state.safetensors")
}

#[cfg(test)]
mod tests;
