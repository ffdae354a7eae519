//! A run's folder: what it trains, how far it is, and the lock that keeps two programs apart.
//!
//! `recipe.toml` says what the run is; `state/` holds everything that going on needs. The folder is
//! made under a temporary name and renamed, so it is there with a state in it or not at all.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use crescendo_data::{DataSet, IMAGE_BYTES, Normalization, Split, hold_out};
use crescendo_network::{CpuEngine, Engine, Plan, Section, Tensor};
use serde::{Deserialize, Serialize};

use crate::checkpoint::Checkpoint;
use crate::events::Marks;
use crate::files::{sync_folder, write_atomically};
use crate::policy::{Chosen, Metrics};
use crate::tensors::{Metadata, TensorFile};
use crate::{Error, Machine, Recipe, machine, memory};

/// What `recipe.toml` in a run's folder says: the recipe with everything resolved, and a section
/// `[run]` about the data and the program.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Record {
    /// The recipe.
    #[serde(flatten)]
    pub recipe: Recipe,
    /// The section `[run]`.
    pub run: About,
}

/// What a run trains on, and which program does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct About {
    /// The recipe's name, or its file.
    pub recipe: String,
    /// The program's version.
    pub version: String,
    /// Where the data was found: a path, or `shapes`.
    pub data: String,
    /// What the data is called.
    pub data_name: String,
    /// See [`DataSet::fingerprint`].
    pub data_fingerprint: String,
    /// The classes' names.
    pub classes: Vec<String>,
    /// With which weights it began, if not with random ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init: Option<String>,
    /// Of which run it is a branch, and after which epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branch_of: Option<String>,
    /// How the images are normalised.
    pub normalization: Normalization,
}

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
    pub(crate) metrics: Metrics,
    /// What the policies have chosen.
    #[serde(default)]
    pub(crate) chosen: Chosen,
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
            return Err(taken(folder));
        }
        let plan = plan(recipe)?;
        let mut recipe = (*recipe).clone();
        // Results depend on it: a run goes on with what it began with.
        recipe.engine.isa = recipe.engine.isa.resolved()?;
        recipe.batch.memory_limit = memory::limit(&recipe);
        let mut notes = Vec::new();
        let images = data.train.len().saturating_sub(recipe.data.validation);
        if let Some(most) = recipe.batch.fit(images) {
            notes.push(format!(
                "{images} training images: batches have at most {most}, for batch.least_updates = {}.",
                recipe.batch.least_updates
            ));
        }
        let recipe = &recipe;
        check_fit(recipe, data, &plan, machine::memory_for_run(recipe.threads(), false))?;
        let normalization = match recipe.data.validation {
            0 => recipe.data.normalization(&data.train),
            // What is validated on has no say in the statistics.
            count => recipe.data.normalization(&hold_out(&data.train, count).0),
        };
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
        let initial = match start.init {
            Some(path) => {
                let mut model = Checkpoint::open(path)?.model()?;
                if let Some(classes) = renew_head(&plan, recipe.train.seed, &mut model) {
                    notes.push(format!(
                        "The checkpoint tells {classes} classes apart and {} has {}: the last layer \
                         starts anew.",
                        data.name,
                        data.classes.len()
                    ));
                }
                // An engine is asked whether they are the right tensors.
                let fit = engine(plan, recipe.machine()?).import(Section::Model, &model);
                fit.map_err(|error| {
                    Error::bad(path, format!("{error}: it holds another network"))
                        .advise("use a checkpoint of the network that the recipe describes")
                })?;
                model
            }
            None => {
                let mut state = plan.initial(recipe.train.seed);
                plan.whiten(&mut state, || first_images(&data.train, &normalization));
                state
            }
        };

        make(folder, |temporary| {
            for part in ["weights", "state"] {
                let io = |error| Error::io("create", folder, error);
                fs::create_dir_all(temporary.join(part)).map_err(io)?;
            }
            write_record(temporary, &record)?;
            let chosen = Chosen::new(recipe);
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
    /// recipe, under the name `recipe_name`. What has been written down so far is in both.
    ///
    /// # Errors
    /// If an epoch is half done, there is something at `folder`, or the system refuses.
    pub fn branch(&self, folder: &Path, recipe: &Recipe, recipe_name: &str) -> Result<(), Error> {
        let Progress { epoch, batch, .. } = self.progress;
        if batch > 0 || folder.exists() {
            let half = format!("{} is in the middle of epoch {epoch}", self.folder.display());
            return Err(if batch > 0 { Error::Refused(half) } else { taken(folder) });
        }
        let mut record = self.record.clone();
        let own = &self.record.recipe;
        record.recipe = recipe.clone();
        record.recipe.engine = own.engine.clone();
        record.recipe.batch.memory_limit = own.batch.memory_limit;
        record.run.recipe = recipe_name.into();
        let of = self.folder.display();
        record.run.branch_of = Some(format!("{of}, after epoch {}", epoch - 1));
        make(folder, |temporary| {
            copy(&self.folder, temporary)?;
            write_record(temporary, &record)
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
                progress.chosen = Chosen::new(&record.recipe);
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
        write_record(&self.folder, &self.record)
    }
}

/// Makes a folder that is there as `fill` leaves it, or not at all.
fn make(folder: &Path, fill: impl FnOnce(&Path) -> Result<(), Error>) -> Result<(), Error> {
    let parent = folder.parent().filter(|path| !path.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let temporary = parent.join(format!(".{name}.{}.tmp", std::process::id()));
    let made = (|| {
        fs::create_dir_all(&temporary).map_err(|error| Error::io("create", folder, error))?;
        fill(&temporary)?;
        sync_folder(&temporary).map_err(|error| Error::io("write", &temporary, error))?;
        fs::rename(&temporary, folder).map_err(|error| {
            if folder.exists() { taken(folder) } else { Error::io("create", folder, error) }
        })?;
        sync_folder(parent).map_err(|error| Error::io("write", parent, error))
    })();
    if made.is_err() {
        // It is nobody's yet.
        let _ = fs::remove_dir_all(&temporary);
    }
    made
}

/// Copies what is in a folder, and in those inside it, into one that is there.
fn copy(from: &Path, to: &Path) -> Result<(), Error> {
    let io = |error| Error::io("copy", from, error);
    for entry in fs::read_dir(from).map_err(io)? {
        let (path, target) =
            entry.map(|entry| (entry.path(), to.join(entry.file_name()))).map_err(io)?;
        if path.is_dir() {
            fs::create_dir_all(&target).map_err(io)?;
            copy(&path, &target)?;
        } else {
            fs::copy(&path, &target).and_then(|_| File::open(&target)?.sync_all()).map_err(io)?;
        }
    }
    Ok(())
}

/// What is said of a folder that `train` did not make.
pub(crate) const NO_RUN: &str = "is no run's folder: name one that `train` made";
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

fn record_path(folder: &Path) -> PathBuf {
    folder.join("recipe.toml")
}

/// What the run in `folder` is.
///
/// # Errors
/// If there is no run, or its `recipe.toml` is damaged.
pub fn read_record(folder: &Path) -> Result<Record, Error> {
    let path = record_path(folder);
    if !path.exists() {
        return Err(Error::bad(folder, NO_RUN));
    }
    let text = fs::read_to_string(&path).map_err(|error| Error::io("read", &path, error))?;
    let damaged = |problem: String| {
        let problem = format!("is damaged ({problem}): put it back as `train` wrote it");
        Error::bad(&path, problem)
    };
    #[derive(Deserialize)]
    struct Rest {
        run: About,
    }
    let rest: Rest =
        toml::from_str(&text).map_err(|error| damaged(crate::recipe::place(&text, &error)))?;
    let recipe = Recipe::saved(&text).map_err(|error| damaged(error.to_string()))?;
    Ok(Record { recipe, run: rest.run })
}

fn taken(folder: &Path) -> Error {
    Error::Refused(format!(
        "{} exists already, and nothing is overwritten: choose another folder with --out, or go on \
         with --resume {0}",
        folder.display()
    ))
}

fn write_record(folder: &Path, record: &Record) -> Result<(), Error> {
    let text = toml::to_string(record).expect("a record has only strings for keys");
    write_atomically(&record_path(folder), |file| file.write_all(text.as_bytes()))
}

/// Gives a model that tells another number of classes apart the last layer with which training begins
/// from nothing, and says how many they were. A model that differs in more stays as it is.
fn renew_head(plan: &Plan, seed: u64, model: &mut [Tensor<'static>]) -> Option<usize> {
    let head = plan.steps.iter().rfind(|step| step.weight.is_some())?;
    let mut new = plan.initial(seed);
    let mut places = Vec::new();
    for index in head.parameters() {
        let name = &plan.parameters[index].name;
        let find = |tensors: &[Tensor<'static>]| tensors.iter().position(|t| t.name == *name);
        places.push((find(model)?, find(&new)?));
    }
    let classes = *model[places[0].0].shape.first()?;
    // But for the classes, they are the same.
    let alike = places.iter().all(|&(old, new_at)| {
        let (old, new) = (&model[old].shape, &new[new_at].shape);
        old.first() == Some(&classes) && old[1..] == new[1..]
    });
    if !alike || classes == plan.classes() {
        return None;
    }
    for (old, new_at) in places {
        std::mem::swap(&mut model[old], &mut new[new_at]);
    }
    Some(classes)
}

/// The images that filters which whiten are computed from: the first ones, as the network sees them.
fn first_images(train: &Split, normalization: &Normalization) -> Vec<f32> {
    let mut images = vec![0.0; train.len().min(WHITENED_IMAGES) * IMAGE_BYTES];
    for (index, out) in images.chunks_exact_mut(IMAGE_BYTES).enumerate() {
        normalization.apply(train.image(index), out);
    }
    images
}

/// As many as airbench takes.
const WHITENED_IMAGES: usize = 5_000;

/// What computes.
pub(crate) fn engine(plan: Plan, machine: Machine) -> Box<dyn Engine> {
    Box::new(CpuEngine::new(plan, machine.threads, machine.isa))
}

/// The plan of a recipe's network.
///
/// # Errors
/// If the section `[network]` makes no sense.
pub fn plan(recipe: &Recipe) -> Result<Plan, Error> {
    let network = recipe.network.network();
    let plan = network.and_then(|network| Plan::new(&network, recipe.engine.compute()));
    plan.map_err(|error| Error::Recipe(error.to_string()))
}

/// Whether this recipe can train on this data.
///
/// # Errors
/// Says what does not fit.
pub fn check(recipe: &Recipe, data: &DataSet) -> Result<(), Error> {
    check_fit(recipe, data, &plan(recipe)?, None)
}

/// Whether this recipe can train on this data in so many bytes of memory, if that is known.
pub(crate) fn check_fit(
    recipe: &Recipe,
    data: &DataSet,
    plan: &Plan,
    available: Option<u64>,
) -> Result<(), Error> {
    let refuse = |problem: String| Err(Error::Refused(problem));
    if data.test.is_empty() && recipe.train.final_evaluation {
        let name = &data.name;
        return refuse(format!("{name} has no test images: set train.final_evaluation=false"));
    }
    let classes = data.classes.len();
    let mut labels = data.train.labels.iter().chain(&data.test.labels);
    if let Some(label) = labels.find(|&&label| usize::from(label) >= classes) {
        let name = &data.name;
        return refuse(format!("{name} has an image of class {label}, but only {classes} classes"));
    }
    if data.classes.len() != recipe.network.classes {
        let (classes, outputs) = (data.classes.len(), recipe.network.classes);
        return refuse(format!(
            "{} has {classes} classes, but network.classes is {outputs}: add --set \
             network.classes={classes}",
            data.name
        ));
    }
    let validation = recipe.data.validation;
    if validation >= data.train.len() {
        let images = data.train.len();
        return refuse(format!(
            "data.validation = {validation} leaves nothing to train on: there are {images} \
             training images"
        ));
    }
    let images = data.train.len() - validation;
    let Some(largest) = memory::largest_batch(recipe, images) else { return Ok(()) };
    if largest > images {
        return refuse(format!(
            "a batch of {largest} is larger than the {images} images to train on: lower it with \
             --set batch.steps=…, batch.size=… or batch.max=…"
        ));
    }
    memory::check(recipe, data, plan, largest, available)
}
