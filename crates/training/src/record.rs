//! `recipe.toml` in a run's folder: what the run is.

use std::path::{Path, PathBuf};

use crescendo_data::{Normalization, Sizing, ValidationChoice};
use crescendo_network::DeviceKind;
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use crate::atomic_file::write_atomically;
use crate::loading::{BUILT_IN, convert, syntax_problem};
use crate::{Error, Recipe, text_file, version};

/// What `recipe.toml` in a run's folder says: the recipe with everything resolved, and a section
/// `[run]` about the data and the program.
///
/// See the example of [`Run`](crate::Run).
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Record {
    /// The recipe.
    #[serde(flatten)]
    pub recipe: Recipe,
    /// The section `[run]`.
    pub run: About,
}

/// What a run trains on, and which program does.
///
/// See the example of [`Run`](crate::Run).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
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

/// What is known of the data that a network was trained on: from a run, from the section `[run]` of a recipe's file,
/// or from a checkpoint.
///
/// See the example of [`Model`](crate::Model).
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainedOn {
    /// See [`About::data`].
    pub data: Option<String>,
    /// See [`About::data_name`].
    pub data_name: Option<String>,
    /// See [`About::data_fingerprint`].
    pub data_fingerprint: Option<String>,
    /// See [`About::classes`].
    pub classes: Option<Vec<String>>,
    /// See [`About::sizing`].
    pub sizing: Option<Sizing>,
    /// See [`About::normalization`].
    pub normalization: Option<Normalization>,
}

impl From<&About> for TrainedOn {
    fn from(about: &About) -> Self {
        TrainedOn {
            data: Some(about.data.clone()),
            data_name: Some(about.data_name.clone()),
            data_fingerprint: Some(about.data_fingerprint.clone()),
            classes: Some(about.classes.clone()),
            sizing: Some(about.sizing),
            normalization: Some(about.normalization),
        }
    }
}

impl TrainedOn {
    /// What the section `[run]` in the file of a recipe says; nothing if `recipe` is the name of a built-in one.
    ///
    /// # Errors
    /// If the file cannot be read, or its section `[run]` has an unknown key or an invalid value.
    pub fn load(recipe: &str) -> Result<Self, Error> {
        let path = Path::new(recipe);
        if BUILT_IN.iter().any(|built_in| built_in.name == recipe) {
            return Ok(Self::default());
        }
        let text = text_file::read(path)?;
        let bad = |problem: String| Error::Recipe(format!("{recipe}: {problem}"));
        let mut table: Table = text.parse().map_err(|error| bad(syntax_problem(&text, &error)))?;
        let Some(mut run) = table.remove("run") else { return Ok(Self::default()) };
        if let Some(run) = run.as_table_mut() {
            // What else a run's `recipe.toml` has.
            for key in ["recipe", "version", "init", "branch_of", "validation"] {
                run.remove(key);
            }
        }
        let section = Table::from_iter([("run".to_owned(), run)]);
        #[derive(Deserialize)]
        struct Section {
            run: TrainedOn,
        }
        let section: Section = convert(section).map_err(|error| bad(error.to_string()))?;
        Ok(section.run)
    }
}

/// What is said of a folder that `train` did not make.
pub(crate) const NO_RUN: &str = "is not a run folder: give one that `crescendo train` created";

fn record_path(folder: &Path) -> PathBuf {
    folder.join("recipe.toml")
}

/// What the run in `folder` is.
///
/// See the example of [`Run`](crate::Run).
///
/// # Errors
/// If there is no run, or its `recipe.toml` is damaged.
pub fn read_record(folder: &Path) -> Result<Record, Error> {
    let path = record_path(folder);
    if !path.exists() {
        return Err(Error::bad(folder, NO_RUN));
    }
    let text = text_file::read(&path)?;
    parse(&text).map_err(|problem| Error::bad(&path, problem))
}

/// The record in the text of a `recipe.toml`, or what is wrong with it.
pub(crate) fn parse(text: &str) -> Result<Record, String> {
    let damaged = |problem: String| {
        format!(
            "is damaged or was edited ({problem}): undo the edit, restore it from a backup, or start a new \
             run with --init"
        )
    };
    #[derive(Deserialize)]
    struct Rest {
        run: About,
    }
    let table: Table = text.parse().map_err(|error| damaged(syntax_problem(text, &error)))?;
    let run = table.get("run").and_then(Value::as_table);
    let version = run.and_then(|run| run.get("version")).and_then(Value::as_str);
    // A newer version may have keys that this one does not know.
    let newer = version.and_then(version::newer);
    let damaged = |problem: String| newer.clone().unwrap_or_else(|| damaged(problem));
    let given: Vec<String> = run.into_iter().flat_map(|run| run.keys().cloned()).collect();
    let rest: Rest = convert(table).map_err(|error| damaged(error.to_string()))?;
    let known = Table::try_from(&rest.run).expect("the section has only strings for keys");
    if let Some(unknown) = given.iter().find(|key| !known.contains_key(*key)) {
        return Err(damaged(format!("there is no key run.{unknown}")));
    }
    let mut recipe = Recipe::saved(text).map_err(|error| damaged(error.to_string()))?;
    // Before there was a choice, every run was one of the CPU.
    if recipe.engine.device == DeviceKind::Auto {
        recipe.engine.device = DeviceKind::Cpu;
    }
    Ok(Record { recipe, run: rest.run })
}

/// Writes it, or writes it again.
pub(crate) fn write(folder: &Path, record: &Record) -> Result<(), Error> {
    write_atomically(&record_path(folder), |file| file.write_all(text(record).as_bytes()))
}

/// The text of `recipe.toml`.
pub(crate) fn text(record: &Record) -> String {
    toml::to_string(record).expect("a record has only strings for keys")
}
