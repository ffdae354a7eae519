//! Checkpoints: the weights after an epoch, under PyTorch's names, with all that is needed to use
//! them.
//!
//! # Example
//!
//! ```
//! use crescendo_cpu::CpuDevices;
//! use crescendo_training::checkpoint::{self, About};
//! use crescendo_training::{Recipe, Run, Start};
//!
//! let changes = ["train.epochs=1", "network.widths=[4, 4, 4]", "data.validation=20", "train.evaluate_every=1"];
//! let recipe = Recipe::load("quick", &changes)?;
//! let data = crescendo_data::shapes::generate(0, 100, 50);
//! # let folder = tempfile::tempdir().unwrap();
//! # let folder = folder.path().join("run");
//! let start = Start::new(&recipe, &data, &CpuDevices);
//! Run::create(&folder, &start)?.train(&CpuDevices, &data, &mut (), &false.into())?;
//!
//! assert_eq!(checkpoint::list(&folder)?, [1]);
//! let latest = checkpoint::latest(&folder)?.expect("there is one");
//! assert_eq!(latest, checkpoint::path(&folder, 1));
//! let About { epoch, updates, .. } = checkpoint::about(&latest)?;
//! assert!(epoch == Some(1) && updates > 0);
//! // The same, under names that stay.
//! assert!(checkpoint::last_path(&folder).is_file() && checkpoint::best_path(&folder).is_file());
//! # Ok::<(), crescendo_training::Error>(())
//! ```

use std::fs;
use std::path::{Path, PathBuf};

use crescendo_data::{Normalization, Sizing, ValidationChoice, shapes};
use crescendo_network::{DeviceKind, Engine, IsaKind, PrecisionKind, Section, Tensor, TensorData};
use serde::Serialize;

use crate::record::{NO_RUN, Record, TrainedOn};
use crate::tensors::{Metadata, PartOfFile, TensorFile};
use crate::{Error, Recipe};

/// The folder of checkpoints in a run's folder.
const FOLDER: &str = "weights";

/// Where the weights of the best epoch lie in a run's folder, if it has validation images.
///
/// See the example of [the module `checkpoint`](crate::checkpoint).
pub fn best_path(run: &Path) -> PathBuf {
    run.join(FOLDER).join("best.safetensors")
}

/// Where the weights of the last checkpoint, or of the moment when the run was stopped, lie in a run's folder.
///
/// See the example of [the module `checkpoint`](crate::checkpoint).
pub fn last_path(run: &Path) -> PathBuf {
    run.join(FOLDER).join("last.safetensors")
}

/// The file with the latest weights in a run's folder: the checkpoint of an epoch, or [`last_path`] if training
/// went on after that; `None` if there is none.
///
/// See the example of [the module `checkpoint`](crate::checkpoint).
///
/// # Errors
/// If the folder or a file cannot be read.
pub fn latest(run: &Path) -> Result<Option<PathBuf>, Error> {
    let epoch = list(run)?.last().map(|&epoch| path(run, epoch));
    let last = Some(last_path(run)).filter(|path| path.is_file());
    let (Some(epoch), Some(last)) = (&epoch, &last) else { return Ok(epoch.or(last)) };
    let newer = about(last)?.updates > about(epoch)?.updates;
    Ok(Some(if newer { last } else { epoch }.clone()))
}

/// Of which moment of a run the weights in a file are.
///
/// See the example of [the module `checkpoint`](crate::checkpoint).
///
/// # Errors
/// If the file is missing, or what it says is damaged; the tensors are not read.
pub fn about(path: &Path) -> Result<About, Error> {
    let file = PartOfFile::open(path).map_err(|error| error.advise(ANOTHER))?;
    Ok(About::said_by(&file.metadata))
}

/// Where the checkpoint after `epoch` lies in a run's folder.
///
/// See the example of [the module `checkpoint`](crate::checkpoint).
pub fn path(run: &Path, epoch: u32) -> PathBuf {
    run.join(FOLDER).join(format!("epoch-{epoch:04}.safetensors"))
}

/// The epochs whose checkpoints lie in a run's folder, in rising order.
///
/// See the example of [the module `checkpoint`](crate::checkpoint).
///
/// # Errors
/// If the folder cannot be read.
pub fn list(run: &Path) -> Result<Vec<u32>, Error> {
    let folder = run.join(FOLDER);
    let mut epochs = Vec::new();
    if !folder.is_dir() {
        return Err(Error::bad(run, NO_RUN));
    }
    for entry in std::fs::read_dir(&folder).map_err(|error| Error::io("read", &folder, error))? {
        let name = entry.map_err(|error| Error::io("read", &folder, error))?.file_name();
        let name = name.to_string_lossy();
        let number = name.strip_prefix("epoch-").and_then(|name| name.strip_suffix(".safetensors"));
        // Files that are not named by `path` are ignored.
        let epoch = number.and_then(|number| number.parse().ok());
        epochs.extend(
            epoch.filter(|&epoch| path(run, epoch).file_name() == Some(name.as_ref().as_ref())),
        );
    }
    epochs.sort_unstable();
    Ok(epochs)
}

/// Of which moment of a run a checkpoint is.
///
/// See the example of [the module `checkpoint`](crate::checkpoint).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct About {
    /// The epoch after which the weights were saved; `None` if that was within an epoch, or the file does not say.
    pub epoch: Option<u32>,
    /// The epoch within which the weights were saved, when the run was stopped.
    pub in_epoch: Option<u32>,
    /// Updates since the beginning of the run; 0 if the file does not say.
    pub updates: u64,
    /// The mean training loss of the epoch.
    pub loss: Option<f64>,
}

impl About {
    fn said_by(metadata: &Metadata) -> Self {
        fn number<T: std::str::FromStr>(metadata: &Metadata, key: &str) -> Option<T> {
            metadata.get(key)?.parse().ok()
        }
        About {
            epoch: number(metadata, "epoch"),
            in_epoch: number(metadata, "in_epoch"),
            updates: number(metadata, "updates").unwrap_or_default(),
            loss: number(metadata, "loss"),
        }
    }
}

/// Writes the engine's model as a checkpoint to each of `paths`.
pub(crate) fn write(
    paths: &[PathBuf],
    record: &Record,
    engine: &mut dyn Engine,
    about: &About,
) -> Result<(), Error> {
    let run = &record.run;
    // A path means nothing elsewhere; how the generated set was made does.
    let data = if run.data_name == shapes::NAME { &run.data } else { &run.data_name };
    let described = Described {
        recipe: &record.recipe,
        version: &run.version,
        classes: &run.classes,
        normalization: &run.normalization,
        sizing: run.sizing,
        validation: run.validation,
        data: Some(data),
        about,
    };
    let model = engine.export(Section::Model)?;
    crate::tensors::write(paths, &model, described.metadata())
}

/// What a checkpoint says of its network.
pub(crate) struct Described<'a> {
    pub recipe: &'a Recipe,
    pub version: &'a str,
    pub classes: &'a [String],
    pub normalization: &'a Normalization,
    pub sizing: Sizing,
    pub validation: ValidationChoice,
    pub data: Option<&'a str>,
    pub about: &'a About,
}

impl Described<'_> {
    pub fn metadata(&self) -> Metadata {
        let Described { about, .. } = self;
        // Without what depends on the machine, so that equal weights give equal files.
        let mut recipe = self.recipe.clone();
        recipe.engine.threads = 0;
        recipe.engine.tiles = 0;
        recipe.engine.isa = IsaKind::Auto;
        recipe.engine.device = DeviceKind::Auto;
        recipe.engine.precision = PrecisionKind::Auto;
        recipe.batch.memory_limit = 0.0;
        // As JSON, which other programs read more easily.
        let operations = std::mem::take(&mut recipe.network.operations);
        let recipe = toml::to_string(&recipe).expect("a recipe has only strings for keys");
        let always = [
            ("format", "pt".to_owned()),
            ("version", self.version.to_owned()),
            ("recipe", recipe),
            ("classes", json(&self.classes)),
            ("normalization", json(self.normalization)),
            ("updates", about.updates.to_string()),
        ];
        let is_default = self.validation == ValidationChoice::default();
        let sometimes = [
            ("network", (!operations.is_empty()).then(|| json(&operations))),
            ("sizing", (self.sizing != Sizing::default()).then(|| json(&self.sizing))),
            ("validation", (!is_default).then(|| self.validation.name().to_owned())),
            ("data", self.data.map(str::to_owned)),
            ("epoch", about.epoch.map(|epoch| epoch.to_string())),
            ("in_epoch", about.in_epoch.map(|epoch| epoch.to_string())),
            ("loss", about.loss.map(|loss| loss.to_string())),
        ];
        let sometimes = sometimes.into_iter().filter_map(|(key, value)| Some((key, value?)));
        always.into_iter().chain(sometimes).map(|(key, value)| (key.to_owned(), value)).collect()
    }
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("only strings and finite numbers")
}

/// What PyTorch puts before the names of a wrapped network's tensors.
const WRAPPERS: [&str; 2] = ["module.", "_orig_mod."];

/// What to do about a file that does not describe its network.
pub(crate) const SAY: &str = "describe its network with --recipe";

/// What to do about a damaged file.
const ANOTHER: &str = "use another checkpoint";

/// A checkpoint's file in memory. A [`Model`](crate::Model) computes with what it holds.
///
/// See the examples of [`Model`](crate::Model) and [`TrainedNetwork`](crate::TrainedNetwork).
pub struct Checkpoint(TensorFile);

impl From<TensorFile> for Checkpoint {
    fn from(file: TensorFile) -> Self {
        Checkpoint(file)
    }
}

impl Checkpoint {
    /// Reads a file.
    ///
    /// # Errors
    /// If it is missing or damaged.
    pub fn open(path: &Path) -> Result<Self, Error> {
        Self::parse(path, fs::read(path).map_err(|error| Error::io("read", path, error))?)
    }

    /// The file at `path` with this content.
    ///
    /// # Errors
    /// If it is damaged.
    pub fn parse(path: &Path, bytes: Vec<u8>) -> Result<Self, Error> {
        let file = TensorFile::parse(path, bytes).map_err(|error| error.advise(ANOTHER))?;
        Ok(Checkpoint(file))
    }

    /// Where the file lies.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// What the weights were trained on: how the generated set was made, or what other data is called; `None` if
    /// the file does not say.
    pub fn data(&self) -> Option<&str> {
        self.0.metadata.get("data").map(String::as_str)
    }

    /// What the file says about the training data, besides the description of the network.
    ///
    /// # Errors
    /// If it says something that this version does not know.
    pub fn trained_on(&self) -> Result<TrainedOn, Error> {
        let data_name = self.data().map(str::to_owned);
        let is_said = self.0.metadata.contains_key("sizing");
        let sizing = is_said.then(|| self.sizing()).transpose()?;
        Ok(TrainedOn { data_name, sizing, ..TrainedOn::default() })
    }

    /// A note about a file without a checksum.
    pub(crate) fn note(&self) -> Option<String> {
        self.0.note()
    }

    /// The tensors under the names that the network has. PyTorch puts prefixes before them where a network is
    /// wrapped for several devices or compiled, and its counts of batches may be missing.
    pub(crate) fn model(&self) -> Result<Vec<Tensor<'static>>, Error> {
        let mut tensors = self.0.tensors("")?;
        while let Some(prefix) = WRAPPERS.iter().find(|prefix| {
            !tensors.is_empty() && tensors.iter().all(|tensor| tensor.name.starts_with(**prefix))
        }) {
            for tensor in &mut tensors {
                tensor.name = tensor.name[prefix.len()..].to_owned().into();
            }
        }
        let norms = tensors.iter().filter_map(|tensor| tensor.name.strip_suffix("running_var"));
        let counts = norms.map(|norm| format!("{norm}num_batches_tracked"));
        let missing = counts.filter(|count| tensors.iter().all(|tensor| tensor.name != *count));
        let missing: Vec<String> = missing.collect();
        tensors.extend(missing.into_iter().map(|name| {
            let (shape, data) = (Vec::new(), TensorData::I64(0));
            Tensor { name: name.into(), shape, data }
        }));
        Ok(tensors)
    }

    /// The recipe, normalisation and classes that the file itself gives.
    pub(crate) fn description(&self) -> Result<(Recipe, Normalization, Vec<String>), Error> {
        let description = || {
            let recipe = self.0.text("recipe")?;
            let recipe = match self.0.metadata.contains_key("network") {
                true => Recipe::saved_with(recipe, self.0.json("network")?),
                false => Recipe::saved(recipe),
            };
            let recipe =
                recipe.map_err(|error| self.0.bad(format!("has a bad recipe: {error}")))?;
            Ok((recipe, self.0.json("normalization")?, self.0.json("classes")?))
        };
        description().map_err(|error: Error| match self.0.newer() {
            Some(newer) => self.0.bad(newer),
            None => error.advise(SAY),
        })
    }

    /// How images are brought to size: resized, if the file does not say it.
    pub(crate) fn sizing(&self) -> Result<Sizing, Error> {
        match self.0.metadata.contains_key("sizing") {
            true => self.0.json("sizing"),
            false => Ok(Sizing::default()),
        }
    }

    /// How the validation images were chosen. Files that do not say it are of versions that chose at random.
    pub(crate) fn validation(&self) -> ValidationChoice {
        let stratified = ValidationChoice::Stratified;
        let is = |choice: ValidationChoice| {
            self.0.metadata.get("validation").is_some_and(|name| name == choice.name())
        };
        if is(stratified) { stratified } else { ValidationChoice::default() }
    }

    /// Of which moment of its run the file says that it is.
    pub fn about(&self) -> About {
        About::said_by(&self.0.metadata)
    }
}
