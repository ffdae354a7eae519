//! Checkpoints: the weights after an epoch, under PyTorch's names, with all that is needed to use
//! them.

use std::path::{Path, PathBuf};

use crescendo_data::{Normalization, Sizing, ValidationChoice, shapes};
use crescendo_network::{DeviceKind, Engine, IsaKind, Section, Tensor};
use serde::Serialize;

use crate::record::{NO_RUN, Record};
use crate::tensors::{Metadata, TensorFile};
use crate::{Error, Recipe};

/// The folder of checkpoints in a run's folder.
const FOLDER: &str = "weights";

/// Where the checkpoint after `epoch` lies in a run's folder.
pub fn path(run: &Path, epoch: u32) -> PathBuf {
    run.join(FOLDER).join(format!("epoch-{epoch:04}.safetensors"))
}

/// The epochs whose checkpoints lie in a run's folder, in rising order.
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

/// What the weights in a checkpoint's file were trained on: how the generated set was made, or what other
/// data is called; `None` where the file does not say.
///
/// # Errors
/// If the file is missing or damaged.
pub fn data(path: &Path) -> Result<Option<String>, Error> {
    Ok(Checkpoint::open(path)?.0.metadata.remove("data"))
}

/// How images are brought to the size that the network in a checkpoint's file takes.
///
/// # Errors
/// If the file is missing or damaged.
pub fn sizing(path: &Path) -> Result<Sizing, Error> {
    Checkpoint::open(path)?.sizing()
}

/// Writes the engine's model as the checkpoint after `epoch`.
pub(crate) fn write(
    run: &Path,
    record: &Record,
    engine: &mut dyn Engine,
    epoch: u32,
    updates: u64,
    loss: Option<f64>,
) -> Result<PathBuf, Error> {
    // Without what depends on the machine, so that equal weights give equal files.
    let mut recipe = record.recipe.clone();
    recipe.engine.threads = 0;
    recipe.engine.isa = IsaKind::Auto;
    recipe.engine.device = DeviceKind::Auto;
    recipe.batch.memory_limit = 0.0;
    // A path means nothing elsewhere; how the generated set was made does.
    let about = &record.run;
    let data = if about.data_name == shapes::NAME { &about.data } else { &about.data_name };
    let data = data.clone();
    let mut metadata = Metadata::from([
        ("format".into(), "pt".into()),
        ("version".into(), record.run.version.clone()),
        ("recipe".into(), toml::to_string(&recipe).expect("a recipe has only strings for keys")),
        ("classes".into(), json(&record.run.classes)),
        ("normalization".into(), json(&record.run.normalization)),
        ("data".into(), data),
        ("epoch".into(), epoch.to_string()),
        ("updates".into(), updates.to_string()),
    ]);
    if record.run.sizing != Sizing::default() {
        metadata.insert("sizing".into(), json(&record.run.sizing));
    }
    if record.run.validation != ValidationChoice::default() {
        metadata.insert("validation".into(), record.run.validation.name().into());
    }
    if let Some(loss) = loss {
        metadata.insert("loss".into(), loss.to_string());
    }
    let path = path(run, epoch);
    crate::tensors::write(&path, &engine.export(Section::Model)?, &metadata)?;
    Ok(path)
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("only strings and finite numbers")
}

/// What to do about a file that does not describe its network.
pub(crate) const SAY: &str = "describe its network with --recipe";

/// A checkpoint's file.
pub(crate) struct Checkpoint(TensorFile);

impl Checkpoint {
    pub fn open(path: &Path) -> Result<Self, Error> {
        let file =
            TensorFile::open(path).map_err(|error| error.advise("use another checkpoint"))?;
        Ok(Checkpoint(file))
    }

    pub fn model(&self) -> Result<Vec<Tensor<'static>>, Error> {
        self.0.tensors("")
    }

    /// The recipe, normalisation and classes that the file itself gives.
    pub fn description(&self) -> Result<(Recipe, Normalization, Vec<String>), Error> {
        let description = || {
            let recipe = Recipe::saved(self.0.text("recipe")?);
            let recipe =
                recipe.map_err(|error| self.0.bad(format!("has a bad recipe: {error}")))?;
            Ok((recipe, self.0.json("normalization")?, self.0.json("classes")?))
        };
        description().map_err(|error: Error| error.advise(SAY))
    }

    /// How images are brought to size: resized, if the file does not say it.
    pub fn sizing(&self) -> Result<Sizing, Error> {
        match self.0.metadata.contains_key("sizing") {
            true => self.0.json("sizing"),
            false => Ok(Sizing::default()),
        }
    }

    /// How the validation images were chosen. Files that do not say it are of versions that chose at random.
    pub fn validation(&self) -> ValidationChoice {
        let stratified = ValidationChoice::Stratified;
        let is = |choice: ValidationChoice| {
            self.0.metadata.get("validation").is_some_and(|name| name == choice.name())
        };
        if is(stratified) { stratified } else { ValidationChoice::default() }
    }

    pub fn epoch(&self) -> Option<u32> {
        self.0.metadata.get("epoch")?.parse().ok()
    }

    pub fn loss(&self) -> Option<f64> {
        self.0.metadata.get("loss")?.parse().ok()
    }
}
