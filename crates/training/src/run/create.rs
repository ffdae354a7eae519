//! Creating runs.

use std::path::{Path, PathBuf};
use std::{fs, iter};

use crescendo_data::DataSet;
use crescendo_network::{Device, Devices};

use super::{Progress, Run, fit, folder, initial, saved_state};
use crate::held_out::new_choice;
use crate::policy::{PolicyState, fit_batches};
use crate::record::{self, About, Record};
use crate::{Error, HeldOut, Recipe, RunFacts, TrainingSamples, graph, memory, version};

/// What a new run is created from.
///
/// # Example
///
/// ```
/// use crescendo_cpu::CpuDevices;
/// use crescendo_training::{Recipe, Run, Start};
///
/// let data = crescendo_data::shapes::generate(0, 100, 50);
/// let recipe = Recipe::load("quick", &["network.widths=[4, 4, 4]"])?;
/// # let folder = tempfile::tempdir().unwrap();
/// # let (folder, again) = (folder.path().join("run"), folder.path().join("again"));
/// Run::create(&folder, &Start::new(&recipe, &data, &CpuDevices))?;
/// // The name is shown, and the `crescendo` program finds the data by its location.
/// let start = Start {
///     recipe_name: "small",
///     data_location: "shapes:100,50",
///     ..Start::new(&recipe, &data, &CpuDevices)
/// };
/// assert_eq!(Run::create(&again, &start)?.record().run.recipe, "small");
/// # Ok::<(), crescendo_training::Error>(())
/// ```
#[derive(Clone, Copy)]
pub struct Start<'a> {
    /// The recipe.
    pub recipe: &'a Recipe,
    /// The recipe's name, or its file.
    pub recipe_name: &'a str,
    /// The data set.
    pub data: &'a DataSet,
    /// Where the data set was found, so that the program's `train --resume` and `evaluate` find it again.
    pub data_location: &'a str,
    /// A checkpoint to start from, instead of random weights.
    pub init: Option<&'a Path>,
    /// What opens the device that trains.
    pub devices: &'a dyn Devices,
}

impl<'a> Start<'a> {
    /// The location of data that a program has only in memory.
    pub const IN_MEMORY: &'static str = "arrays in memory";

    /// From random weights; the recipe's name is `custom`, and the data's location [`IN_MEMORY`](Self::IN_MEMORY).
    pub fn new(recipe: &'a Recipe, data: &'a DataSet, devices: &'a dyn Devices) -> Self {
        let (recipe_name, data_location) = ("custom", Self::IN_MEMORY);
        Start { recipe, recipe_name, data, data_location, init: None, devices }
    }
}

impl Run {
    /// Creates a run in the new folder `folder`, with the state before the first update.
    ///
    /// # Errors
    /// If `folder` exists, recipe and data do not fit together, the device cannot be used or has too little
    /// memory, or the system refuses.
    pub fn create(folder: &Path, start: &Start) -> Result<Self, Error> {
        Self::create_first([folder.to_owned()], start)
    }

    /// The same in the first of some folders that does not exist, also if other programs create folders there
    /// at the same time.
    ///
    /// # Errors
    /// As [`create`](Self::create).
    pub fn create_first(
        folders: impl IntoIterator<Item = PathBuf>,
        start: &Start,
    ) -> Result<Self, Error> {
        let Start { data, devices, .. } = *start;
        let mut folders = folders.into_iter();
        let mut last = PathBuf::new();
        let free = folders.find(|folder| {
            last.clone_from(folder);
            !folder.exists()
        });
        let folder = free.ok_or_else(|| folder::taken(&last))?;
        let device = devices.open(&start.recipe.engine)?;
        let (recipe, note) = resolved(start.recipe, &*device, data)?;
        let mut notes = Vec::from_iter(note);
        let available = memory::available(device.memory(), false);
        fit::check_fit(&recipe, &*device, data, available)?;
        // Statistics are those of the images that are trained on.
        let validation = new_choice(recipe.data.validation);
        let train = HeldOut::new(data, recipe.data.validation, validation).train;
        let normalization = recipe.data.normalization(&train);
        let (initial, more) = initial::state(&recipe, &*device, start, &train, &normalization)?;
        notes.extend(more);
        let parameters = graph(&recipe)?.parameter_count();
        let facts = RunFacts::new(device.description(), parameters, data, &recipe);
        let samples = TrainingSamples::new(&recipe, normalization, &train);
        let record = Record {
            run: About {
                recipe: start.recipe_name.into(),
                version: version::OWN.into(),
                data: start.data_location.into(),
                data_name: data.name.clone(),
                data_fingerprint: data.fingerprint(),
                classes: data.classes.clone(),
                init: start.init.map(|path| path.display().to_string()),
                branch_of: None,
                validation,
                sizing: data.sizing,
                normalization,
            },
            recipe,
        };
        let folder = folder::make(folder, &mut folders, |temporary| {
            for part in ["weights", "state"] {
                let io = |error| Error::io("create", temporary, error);
                fs::create_dir_all(temporary.join(part)).map_err(io)?;
            }
            record::write(temporary, &record)?;
            facts.write(temporary)?;
            samples.write(temporary)?;
            let chosen = PolicyState::new(&record.recipe);
            let progress = Progress { epoch: 1, chosen, ..Progress::default() };
            saved_state::write_initial(temporary, &record, initial, &progress)
        })?;
        let mut run = Self::open(&folder).inspect_err(|error| {
            // It is of no use to the user, unless another program is using it already.
            if !matches!(error, Error::Refused(_)) {
                let _ = fs::remove_dir_all(&folder);
            }
        })?;
        run.notes.extend(notes);
        Ok(run)
    }

    /// Creates a run in the new folder `folder` that continues this run's saved state with another recipe, on
    /// the same data; `start.init` is ignored. What has been logged so far is in both.
    ///
    /// # Errors
    /// If an epoch is half done or the run has ended, the data differs, `folder` exists, or the system
    /// refuses.
    pub fn branch(&self, folder: &Path, start: &Start) -> Result<(), Error> {
        let Start { data, recipe_name, .. } = start;
        let Progress { epoch, batch, ended, .. } = self.progress;
        if folder.exists() {
            return Err(folder::taken(folder));
        }
        let refuse = |problem: String| {
            let folder = self.folder.display();
            Err(Error::Refused(format!("the run in {folder} cannot be branched: {problem}")))
        };
        if ended {
            return refuse("it has ended".into());
        }
        if batch > 0 {
            return refuse(format!("it is in the middle of epoch {epoch}"));
        }
        if data.fingerprint() != self.record.run.data_fingerprint {
            return refuse("it trains on other data".into());
        }
        let mut record = self.record.clone();
        // The branch continues on the device, and under the memory limit, of this run.
        let own = &self.record.recipe;
        let mut recipe = start.recipe.clone();
        recipe.engine = own.engine.clone();
        recipe.batch.memory_limit = own.batch.memory_limit;
        let device = start.devices.open(&recipe.engine)?;
        record.recipe = resolved(&recipe, &*device, data)?.0;
        record.recipe.engine = own.engine.clone();
        record.run.recipe = (*recipe_name).into();
        let of = self.folder.display();
        record.run.branch_of = Some(format!("{of}, after epoch {}", epoch - 1));
        folder::make(folder.to_owned(), &mut iter::empty(), |temporary| {
            folder::copy(&self.folder, temporary)?;
            record::write(temporary, &record)?;
            RunFacts::renew(temporary)?;
            saved_state::set_record(temporary, &record)
        })?;
        Ok(())
    }
}

/// A recipe as a run on this device and data keeps it, with a note about what was changed to fit the data.
///
/// See the example of [`check`](crate::check).
///
/// # Errors
/// If batch sizes that fit the data do not go with other keys.
pub fn resolved(
    recipe: &Recipe,
    device: &dyn Device,
    data: &DataSet,
) -> Result<(Recipe, Option<String>), Error> {
    let mut recipe = recipe.clone();
    // Results depend on these: a resumed run keeps them.
    recipe.engine = device.config();
    recipe.batch.memory_limit = memory::limit(&recipe, device);
    let images = data.train.len().saturating_sub(recipe.data.validation);
    let note = fit_batches(&mut recipe, images);
    recipe.validate()?;
    Ok((recipe, note))
}
