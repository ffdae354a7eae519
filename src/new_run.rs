//! How runs are started and resumed, by the program and by the Python package.

use std::iter;
use std::path::{Path, PathBuf};

use crescendo::data::ReadOptions;
use crescendo::network::Devices;
use crescendo::training::validation::unused_keys;
use crescendo::training::{Error, Recipe, Record, Run, Start};

use crate::commands::{DataLocation, LoadedData, refuse_custom_policy, unused_source};

/// The data that a run is asked to train on.
pub enum RunData {
    /// None in particular: the recipe's, or that of the run that is resumed.
    Usual,
    /// What this names: a path, `shapes`, or an image folder with its test fraction (`images:0.2,flowers`).
    Named(String),
    /// In memory.
    Loaded(Box<LoadedData>),
}

impl RunData {
    fn load(self, usual: DataLocation, options: ReadOptions) -> Result<LoadedData, Error> {
        match self {
            RunData::Usual => usual.load_with(options),
            RunData::Named(name) => DataLocation::Named(name).load_with(options),
            RunData::Loaded(data) => Ok(*data),
        }
    }

    fn is_named(&self) -> bool {
        !matches!(self, RunData::Usual)
    }
}

/// What a new run is made from, besides its data.
#[derive(Clone, Copy)]
pub struct NewRun<'a> {
    /// A built-in recipe, or the path of one.
    pub recipe: &'a str,
    /// Changes of its keys, of the form `section.key=value`.
    pub changes: &'a [String],
    /// The run's folder; without one, the first free one of `runs/<recipe>-1`, `runs/<recipe>-2`, …
    pub out: Option<&'a Path>,
    /// A checkpoint to start from.
    pub init: Option<&'a Path>,
    /// What opens the device.
    pub devices: &'a dyn Devices,
    /// Whether the caller sets a policy of its own.
    pub own_policy: bool,
}

impl NewRun<'_> {
    /// Creates the run, and reads its data.
    ///
    /// # Errors
    /// If the recipe is wrong, the data cannot be read, or the run cannot be created.
    pub fn create(&self, data: RunData) -> Result<(Run, LoadedData), Error> {
        let mut recipe = Recipe::load(self.recipe, self.changes)?;
        if !self.own_policy {
            refuse_custom_policy(&recipe)?;
        }
        let is_named = data.is_named();
        let usual = DataLocation::Standard(recipe.data.source);
        let data = data.load(usual, recipe.data.read_options())?;
        let note = data.set_classes(&mut recipe, self.recipe, self.changes)?;
        let folders: Box<dyn Iterator<Item = PathBuf>> = match self.out {
            Some(folder) => Box::new(iter::once(folder.to_owned())),
            None => Box::new(numbered_folders(self.recipe)),
        };
        let start = Start {
            recipe_name: self.recipe,
            data_location: &data.location,
            init: self.init,
            ..Start::new(&recipe, &data.set, self.devices)
        };
        let mut run = Run::create_first(folders, &start)?;
        note.into_iter().for_each(|note| run.note(note));
        let keys = Recipe::set_keys(self.recipe, self.changes)?;
        warn_of_unused_keys(&mut run, &keys, is_named, &data);
        Ok((run, data))
    }
}

/// Opens the run in `folder` to resume it, with these changes of its recipe's keys, and reads its data.
///
/// # Errors
/// If there is no run, a key cannot be changed so, or the data cannot be read.
pub fn resume(
    folder: &Path,
    mut changes: Vec<String>,
    data: RunData,
    devices: &dyn Devices,
) -> Result<(Run, LoadedData), Error> {
    let mut run = Run::open(folder)?;
    // The other keys of the engine are those of the device then.
    changes.sort_by_key(|change| !change.trim_start().starts_with("engine.device"));
    for change in &changes {
        run.change(change, devices)?;
    }
    let is_named = data.is_named();
    let Record { recipe, run: about, .. } = run.record();
    let options = ReadOptions { sizing: about.sizing, ..recipe.data.read_options() };
    let mut data = data.load(DataLocation::Named(about.data.clone()), options)?;
    data.set = data.set.matching(&about.data_fingerprint);
    let keys = Recipe::changed_keys(&changes)?;
    warn_of_unused_keys(&mut run, &keys, is_named, &data);
    Ok((run, data))
}

/// Notes a warning for each of the keys that the user sets, `keys`, that has no effect.
fn warn_of_unused_keys(run: &mut Run, keys: &[String], data_is_named: bool, data: &LoadedData) {
    let recipe = &run.record().recipe;
    let images = data.set.train.len().saturating_sub(recipe.data.validation);
    let mut unused = unused_keys(recipe, keys, images);
    unused.extend(unused_source(keys, data_is_named));
    unused.into_iter().for_each(|unused| run.note(format!("warning: {unused}")));
}

/// The folders `runs/<recipe>-1`, `runs/<recipe>-2`, …
fn numbered_folders(recipe: &str) -> impl Iterator<Item = PathBuf> {
    let name = Path::new(recipe).file_stem().unwrap_or_default().to_string_lossy().into_owned();
    (1..).map(move |n| Path::new("runs").join(format!("{name}-{n}")))
}
