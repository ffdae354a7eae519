//! The data set that a command works on.

use std::path::{Path, PathBuf};

use crescendo::data::{DataSet, ImageFolder, ReadOptions, locate, open_with, shapes};
use crescendo::training::Error;
use crescendo::training::recipe::DataSource;

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
    pub set: DataSet,
    /// As in [`DataLocation::Named`]; valid in every working directory.
    pub location: String,
}

impl LoadedData {
    /// Prints the warnings about the data set.
    pub fn print_warnings(&self) {
        self.set.warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
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
        if let Some(set) = shapes::parse(name) {
            return Ok(LoadedData { set: set?, location: name.to_owned() });
        }
        if let Some(images) = ImageFolder::parse(name) {
            let images = images?;
            let folder = absolute(locate(Some(images.folder()))?);
            let images = ImageFolder::new(&folder, images.test_split())?;
            return Ok(LoadedData {
                set: images.open_with(options)?,
                location: images.to_string(),
            });
        }
        Self::open(locate(Some(Path::new(name)))?, options)
    }

    fn open(path: PathBuf, options: ReadOptions) -> Result<LoadedData, Error> {
        let path = absolute(path);
        Ok(LoadedData { set: open_with(&path, options)?, location: path.display().to_string() })
    }
}

fn absolute(path: PathBuf) -> PathBuf {
    std::path::absolute(&path).unwrap_or(path)
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
