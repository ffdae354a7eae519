//! The data set that a command works on.

use std::path::{Path, PathBuf};

use crescendo::data::{DataSet, ImageFolder, ReadOptions, locate, open_with, shapes};
use crescendo::training::recipe::DataSource;
use crescendo::training::{Error, Recipe, Start};

use super::note;
use crate::cli::{DataSetArgs, SplitArgs};

/// Where a data set is.
#[derive(Clone, Debug, PartialEq)]
pub enum DataLocation {
    /// A path, `shapes` with or without sizes (`shapes:500,100`), or an image folder with its test
    /// fraction (`images:0.2,flowers`).
    Named(String),
    /// The standard location of a recipe's data set.
    Standard(DataSource),
}

/// A data set in memory, and where it was read from.
pub struct LoadedData {
    /// The data set.
    pub set: DataSet,
    /// As in `DataLocation::Named`; valid in every working directory, unless the path is not UTF-8.
    pub location: String,
}

impl LoadedData {
    /// Sets `network.classes` of the recipe of this name to the number of classes in the data, unless the user has set
    /// it. Returns a note for the log if that changes the recipe.
    ///
    /// # Errors
    /// If a network cannot have so many.
    pub fn set_classes(
        &self,
        recipe: &mut Recipe,
        name: &str,
        changes: &[String],
    ) -> Result<Option<String>, Error> {
        let (before, classes) = (recipe.network.classes, self.set.classes.len());
        if before == classes || Recipe::sets_key(name, changes, "network.classes")? {
            return Ok(None);
        }
        *recipe = recipe.with(&format!("network.classes={classes}"))?;
        Ok(Some(format!(
            "network.classes is {classes}, not {before}: {} has {classes} classes",
            self.set.name
        )))
    }

    /// Prints the warnings about the data set.
    pub fn print_warnings(&self) {
        self.set.warnings.iter().for_each(|warning| note(format_args!("warning: {warning}")));
    }
}

impl DataLocation {
    /// The named location, or without one the standard location of `source`.
    pub fn new(name: Option<&str>, source: DataSource) -> Self {
        name.map_or(DataLocation::Standard(source), |name| DataLocation::Named(name.to_owned()))
    }

    /// Reads or generates the data set.
    ///
    /// # Errors
    /// If there is no data set, or it cannot be read.
    pub fn load(&self) -> Result<LoadedData, Error> {
        self.load_with(ReadOptions::default())
    }

    /// As [`load`](Self::load), with options for folders and archives of images.
    ///
    /// # Errors
    /// If there is no data set, or it cannot be read.
    pub fn load_with(&self, options: ReadOptions) -> Result<LoadedData, Error> {
        match self {
            DataLocation::Standard(DataSource::Shapes) => Self::named(shapes::NAME, options),
            DataLocation::Standard(DataSource::Cifar10) => Self::open(locate(None)?, options),
            DataLocation::Named(name) => Self::named(name, options),
        }
    }

    /// Reads or generates the data set of a [`DataLocation::Named`].
    ///
    /// # Errors
    /// If there is no data set, or it cannot be read.
    pub fn load_named(name: &str) -> Result<LoadedData, Error> {
        Self::named(name, ReadOptions::default())
    }

    fn named(name: &str, options: ReadOptions) -> Result<LoadedData, Error> {
        if name == Start::IN_MEMORY {
            return Err(Error::Refused(
                "the images of this run were arrays in memory, which only the program that made it has: name others \
                 with --data"
                    .into(),
            ));
        }
        if let Some(set) = shapes::parse(name) {
            return Ok(LoadedData { set: set?, location: name.to_owned() });
        }
        if let Some(images) = ImageFolder::parse(name) {
            let images = images?;
            let folder = absolute(locate(Some(images.folder()))?);
            let images = ImageFolder::new(&folder, images.test_split())?;
            return Ok(recorded(images.open_with(options)?, &folder, images.to_string()));
        }
        Self::open(locate(Some(Path::new(name)))?, options)
    }

    fn open(path: PathBuf, options: ReadOptions) -> Result<LoadedData, Error> {
        let path = absolute(path);
        Ok(recorded(open_with(&path, options)?, &path, path.display().to_string()))
    }
}

/// A data set with its location, and a warning if that is of no use later.
fn recorded(mut set: DataSet, path: &Path, location: String) -> LoadedData {
    if path.to_str().is_none() {
        set.warnings.push(format!(
            "the path of the data, {}, is not UTF-8 and cannot be recorded: to resume a run, give the data \
             with --data, by a link with another name",
            path.display()
        ));
    } else if path.is_relative() {
        set.warnings.push(format!(
            "the path of this folder is not UTF-8 and cannot be recorded: a run on {} can be resumed only \
             from here, or with --data",
            path.display()
        ));
    }
    LoadedData { set, location }
}

/// The same path from any working directory, if it can be recorded as text.
fn absolute(path: PathBuf) -> PathBuf {
    match std::path::absolute(&path) {
        Ok(absolute) if absolute.to_str().is_some() => absolute,
        _ => path,
    }
}

impl SplitArgs {
    /// The name of the data set at `path`, with the test fraction if one was given; see
    /// [`DataLocation::Named`].
    ///
    /// # Errors
    /// If `path` is itself a name with a test fraction that is not valid.
    pub fn name(&self, path: &str) -> Result<String, Error> {
        let Some(test_split) = self.test_split else { return Ok(path.to_owned()) };
        let folder = match ImageFolder::parse(path) {
            Some(images) => images?.folder().to_owned(),
            None => path.into(),
        };
        Ok(ImageFolder::new(&folder, test_split)?.to_string())
    }
}

impl DataSetArgs {
    /// The name of the data set, if one was given; see [`SplitArgs::name`].
    pub fn name(&self) -> Result<Option<String>, Error> {
        self.path.as_deref().map(|path| self.split.name(path)).transpose()
    }
}
