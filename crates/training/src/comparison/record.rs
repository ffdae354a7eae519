//! `comparison.toml` in a comparison's folder: what is compared, on which data.

use std::path::Path;

use crescendo_data::DataSet;
use serde::{Deserialize, Serialize};

use super::{Comparison, Kind, held_out_count};
use crate::atomic_file::write_atomically;
use crate::events::EvaluatedSplit;
use crate::loading::{convert, syntax_problem};
use crate::{Error, text_file};

/// What a comparison's folder says about it beside its results. With the results and the folders of its runs this is
/// all that its page shows.
///
/// # Example
///
/// ```
/// use crescendo_training::comparison::{ArmRecord, Comparison, ComparisonRecord};
///
/// let comparison = Comparison::load("head", &["train.epochs=2"])?;
/// let record = comparison.record(&crescendo_data::shapes::generate(0, 100, 50));
/// assert!(record.question.as_ref().unwrap().starts_with("Are the paper's two linear layers"));
/// assert_eq!((&record.data[..], record.images), ("shapes", 50));
/// let ArmRecord { name, set, .. } = &record.arms[2];
/// assert_eq!((&name[..], &set[0][..]), ("one-layer", "network.head.hidden=0"));
/// # let folder = tempfile::tempdir().unwrap();
/// # let folder = folder.path();
/// record.write(folder)?;
/// assert_eq!(ComparisonRecord::read(folder)?, record);
/// # Ok::<(), crescendo_training::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct ComparisonRecord {
    /// The comparison's name.
    pub name: String,
    /// What it asks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub question: Option<String>,
    /// Where the question comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// What the data is called.
    pub data: String,
    /// The images that accuracies are measured on, and their number.
    pub evaluated_on: EvaluatedSplit,
    /// See `evaluated_on`.
    pub images: usize,
    /// The number of training images over which precise BatchNorm statistics are computed.
    pub bn_images: usize,
    /// The recipe of all arms that have none of their own.
    pub recipe: String,
    /// What is changed in the recipes of all arms, as `section.key=value`.
    pub set: Vec<String>,
    /// The seeds that each arm is trained with.
    pub seeds: Vec<u64>,
    /// The arms, the base first.
    #[serde(rename = "arm")]
    pub arms: Vec<ArmRecord>,
}

/// An arm, as a comparison's folder describes it.
///
/// See the example of [`ComparisonRecord`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct ArmRecord {
    /// Its name.
    pub name: String,
    /// Its recipe, if it is not the comparison's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recipe: Option<String>,
    /// What it alone changes, as `section.key=value`.
    pub set: Vec<String>,
    /// The present kind of its runs: that which `compare` has trained last. `None` if it is not known; then it is that of
    /// the arm's last result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<Kind>,
}

impl Comparison {
    /// What its folder says about it, if it is trained on this data by this program.
    pub fn record(&self, data: &DataSet) -> ComparisonRecord {
        let (evaluated_on, images) = match held_out_count(self, data) {
            0 => (EvaluatedSplit::Test, data.test.len()),
            count => (EvaluatedSplit::Validation, count),
        };
        let arms = self.arms.iter().map(|arm| ArmRecord {
            name: arm.name.clone(),
            recipe: arm.own_recipe.clone(),
            set: arm.set.clone(),
            kind: Kind::new(&arm.recipe),
        });
        ComparisonRecord {
            name: self.name.clone(),
            question: self.question.clone(),
            source: self.source.clone(),
            data: data.name.clone(),
            evaluated_on,
            images,
            bn_images: self.bn_images.min(data.train.len()),
            recipe: self.recipe.clone(),
            set: self.set.clone(),
            seeds: self.seeds.clone(),
            arms: arms.collect(),
        }
    }
}

impl ComparisonRecord {
    /// Its file in a comparison's folder.
    pub const FILE_NAME: &str = "comparison.toml";

    /// Reads it in a comparison's folder.
    ///
    /// # Errors
    /// If there is none, or it is damaged.
    pub fn read(folder: &Path) -> Result<Self, Error> {
        let path = folder.join(Self::FILE_NAME);
        if !path.exists() {
            let problem = "is not a comparison's folder, or one of an earlier version: for the latter, run the same \
                           `crescendo compare` again, which trains nothing twice";
            return Err(Error::bad(folder, problem));
        }
        let text = text_file::read(&path)?;
        let damaged = |problem: String| {
            let advice = "run the same `crescendo compare` again, which writes it anew";
            Error::bad(&path, format!("is damaged ({problem}): {advice}"))
        };
        let table = text.parse().map_err(|error| damaged(syntax_problem(&text, &error)))?;
        let record: Self = convert(table).map_err(|error| damaged(error.to_string()))?;
        match record.arms.is_empty() {
            true => Err(damaged("it has no arms".into())),
            false => Ok(record),
        }
    }

    /// Writes it in a comparison's folder.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&self, folder: &Path) -> Result<(), Error> {
        let text = toml::to_string(self).expect("its keys are plain strings");
        let text = format!("# What is compared here; written by `crescendo compare`.\n{text}");
        write_atomically(&folder.join(Self::FILE_NAME), |file| file.write_all(text.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_is_no_record_is_refused_with_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let read = || ComparisonRecord::read(folder.path()).unwrap_err().to_string();
        assert!(read().contains("is not a comparison's folder"), "{}", read());
        let data = crescendo_data::shapes::generate(0, 100, 50);
        let comparison = Comparison::load("width", &["data.validation=30"]).unwrap();
        let record = comparison.record(&data);
        assert_eq!((record.evaluated_on, record.images), (EvaluatedSplit::Validation, 30));
        assert_eq!(record.set.last().unwrap(), "data.validation=30");
        record.write(folder.path()).unwrap();
        let path = folder.path().join(ComparisonRecord::FILE_NAME);
        let text = fs::read_to_string(&path).unwrap();
        for (from, to, problem) in [
            ("images = 30", "images = -1", "images"),
            ("evaluated_on = \"validation\"", "evaluated_on = \"train\"", "evaluated_on"),
            ("name = \"width\"", "", "name"),
            ("[[arm]]", "[[arm", "not"),
            ("seeds", "seed", "seed"),
        ] {
            assert!(text.contains(from), "{text}");
            fs::write(&path, text.replacen(from, to, 1)).unwrap();
            assert!(read().contains("comparison.toml: is damaged"), "{}", read());
            assert!(problem == "not" || read().contains(problem), "{}", read());
        }
        fs::write(&path, text.split("[[arm]]").next().unwrap().to_owned() + "arm = []\n").unwrap();
        assert!(read().contains("it has no arms"), "{}", read());
    }
}
