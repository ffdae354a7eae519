//! What each command does.

pub mod bench;
pub mod compare;
pub mod completions;
pub mod data;
pub mod evaluate;
pub mod plan;
pub mod predict;
pub mod recipes;
pub mod report;
pub mod train;

use std::io::{ErrorKind, Write, stdout};
use std::path::{Path, PathBuf};

use crescendo::data::{DataSet, ImageFolder, locate, open, shapes};
use crescendo::training::recipe::DataSource;
use crescendo::training::validation::MAX_THREADS;
use crescendo::training::{Error, Machine, Model, Recipe};

use crate::cli::{DataPath, Processor, Views};

/// Prints a line as `println!` does, but a full disk is an error and no panic.
macro_rules! say {
    ($($text:tt)*) => {
        $crate::commands::print(format_args!("{}\n", format_args!($($text)*)))
    };
}
pub(crate) use say;

/// Prints a text; see [`say`].
pub fn print(text: std::fmt::Arguments) -> Result<(), Error> {
    match stdout().write_fmt(text) {
        // A closed pipe is the reader's choice.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        outcome => outcome.map_err(|error| Error::io("write to", Path::new("the output"), error)),
    }
}

/// Where a data set is.
#[derive(Clone, Debug, PartialEq)]
pub enum Location {
    /// At this path, or `shapes` with or without sizes, or `images` with a share and a folder.
    Named(String),
    /// Wherever the program finds it by itself.
    Source(DataSource),
}

/// A data set, and how to say where it is from any folder.
pub struct Found {
    pub set: DataSet,
    pub location: String,
}

impl Location {
    /// What is named, or else the set that a recipe is for.
    pub fn new(named: Option<&str>, source: DataSource) -> Self {
        named.map_or(Location::Source(source), |name| Location::Named(name.to_owned()))
    }

    /// Reads, or makes, the data set.
    pub fn load(&self) -> Result<Found, Error> {
        let path = match self {
            Location::Source(DataSource::Shapes) => return Self::load_named(shapes::NAME),
            Location::Source(DataSource::Cifar10) => locate(None)?,
            Location::Named(name) => return Self::load_named(name),
        };
        Self::open(path)
    }

    /// Reads, or makes, what is called so.
    pub fn load_named(name: &str) -> Result<Found, Error> {
        if let Some(set) = shapes::parse(name) {
            return Ok(Found { set: set?, location: name.to_owned() });
        }
        if let Some(images) = ImageFolder::parse(name) {
            let images = images?;
            let folder = absolute(locate(Some(images.folder()))?);
            let images = ImageFolder::new(&folder, images.test_split())?;
            return Ok(Found { set: images.open()?, location: images.to_string() });
        }
        Self::open(locate(Some(Path::new(name)))?)
    }

    fn open(path: PathBuf) -> Result<Found, Error> {
        let path = absolute(path);
        Ok(Found { set: open(&path)?, location: path.display().to_string() })
    }
}

/// The same path, from any folder.
fn absolute(path: PathBuf) -> PathBuf {
    std::path::absolute(&path).unwrap_or(path)
}

/// The name of the data set at `path`, of which a share may be asked to be the test set.
pub fn named(path: &str, test_split: Option<f64>) -> Result<String, Error> {
    let Some(test_split) = test_split else { return Ok(path.to_owned()) };
    let folder = match ImageFolder::parse(path) {
        Some(images) => images?.folder().to_owned(),
        None => path.into(),
    };
    Ok(ImageFolder::new(&folder, test_split)?.to_string())
}

impl Views {
    /// Has a model answer by them.
    pub fn apply(&self, model: &mut Model) {
        self.flip.into_iter().for_each(|flip| model.set_flip(flip));
        self.shift.into_iter().for_each(|shift| model.set_shift(shift as usize));
    }
}

impl DataPath {
    /// The name of the data set, if one is given.
    pub fn named(&self) -> Result<Option<String>, Error> {
        self.path.as_deref().map(|path| named(path, self.test_split)).transpose()
    }
}

/// What to compute on, where the command line may say it.
pub fn machine(asked: &Processor) -> Result<Machine, Error> {
    if asked.threads.is_some_and(|threads| threads > MAX_THREADS) {
        return Err(Error::Recipe(format!("--threads must be at most {MAX_THREADS}")));
    }
    Recipe::load("report", &engine_keys(asked))?.machine()
}

/// What the command line says of the section `[engine]`.
pub fn engine_keys(asked: &Processor) -> Vec<String> {
    let threads = asked.threads.map(|threads| format!("engine.threads={threads}"));
    let isa = asked.isa.as_ref().map(|isa| format!("engine.isa={isa}"));
    threads.into_iter().chain(isa).collect()
}
