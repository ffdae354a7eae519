//! `recipe.toml` in a run's folder: what the run is.

use std::fs;
use std::path::{Path, PathBuf};

use crescendo_data::{Normalization, Sizing, ValidationChoice};
use crescendo_network::DeviceKind;
use serde::{Deserialize, Serialize};

use crate::atomic_file::write_atomically;
use crate::loading::{convert, syntax_problem};
use crate::{Error, Recipe};

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
    /// See [`DataSet::fingerprint`](crescendo_data::DataSet::fingerprint).
    pub data_fingerprint: String,
    /// The classes' names.
    pub classes: Vec<String>,
    /// With which weights it began, if not with random ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init: Option<String>,
    /// Of which run it is a branch, and after which epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branch_of: Option<String>,
    /// How validation images were chosen from the training images. Runs of versions that did not record it chose
    /// them at random.
    #[serde(default, skip_serializing_if = "is_default")]
    pub validation: ValidationChoice,
    /// How the images were brought to size.
    #[serde(default, skip_serializing_if = "is_default")]
    pub sizing: Sizing,
    /// How the images are normalised.
    pub normalization: Normalization,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// What is said of a folder that `train` did not make.
pub(crate) const NO_RUN: &str = "is not a run folder: give one that `crescendo train` created";

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
        let problem = format!(
            "is damaged ({problem}): restore it from a backup, or start a new run with --init"
        );
        Error::bad(&path, problem)
    };
    #[derive(Deserialize)]
    struct Rest {
        run: About,
    }
    let table = text.parse().map_err(|error| damaged(syntax_problem(&text, &error)))?;
    let rest: Rest = convert(table).map_err(|error| damaged(error.to_string()))?;
    let mut recipe = Recipe::saved(&text).map_err(|error| damaged(error.to_string()))?;
    // Before there was a choice, every run was one of the CPU.
    if recipe.engine.device == DeviceKind::Auto {
        recipe.engine.device = DeviceKind::Cpu;
    }
    Ok(Record { recipe, run: rest.run })
}

/// Writes it, or writes it again.
pub(crate) fn write(folder: &Path, record: &Record) -> Result<(), Error> {
    let text = toml::to_string(record).expect("a record has only strings for keys");
    write_atomically(&record_path(folder), |file| file.write_all(text.as_bytes()))
}
