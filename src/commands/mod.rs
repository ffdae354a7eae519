//! What each command does.

pub mod completions;
pub mod data;
pub mod evaluate;
pub mod plan;
pub mod predict;
pub mod recipes;
pub mod train;

use std::io::{ErrorKind, Write, stdout};
use std::path::Path;

use crescendo::data::{DataSet, find, open, shapes};
use crescendo::training::Error;
use crescendo::training::recipe::{DataSource, MOST_THREADS};

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

/// A data set, and how to say where it is from anywhere.
pub struct Found {
    pub set: DataSet,
    pub location: String,
}

/// The data set at `location`: a path, or `shapes` with or without sizes.
pub fn load(location: &str) -> Result<Found, Error> {
    if let Some(set) = shapes::parse(location) {
        return Ok(Found { set: set?, location: location.to_owned() });
    }
    found(Some(Path::new(location)))
}

/// The data set that a recipe is for, where nobody named one.
pub fn load_source(source: DataSource) -> Result<Found, Error> {
    match source {
        DataSource::Shapes => load("shapes"),
        DataSource::Cifar10 => found(None),
    }
}

fn found(path: Option<&Path>) -> Result<Found, Error> {
    let path = find(path)?;
    let absolute = std::path::absolute(&path).unwrap_or(path);
    Ok(Found { set: open(&absolute)?, location: absolute.display().to_string() })
}

/// Threads to compute with, where the command line may name a number.
pub fn threads(asked: Option<usize>) -> Result<usize, Error> {
    match asked {
        None | Some(0) => Ok(std::thread::available_parallelism().map_or(1, usize::from)),
        Some(threads) if threads <= MOST_THREADS => Ok(threads),
        Some(_) => Err(Error::Recipe(format!("--threads must be at most {MOST_THREADS}"))),
    }
}
