//! Comparisons: arms that differ in a few keys of a recipe, each trained with the same seeds.
//!
//! A seed decides initial weights, the order of images and augmentation. Arms are compared in pairs of runs
//! with the same seed, so that the effect of the seed cancels out.
//!
//! # Example
//!
//! ```
//! use crescendo_training::comparison::{
//!     Arm, ArmResults, BatchNormStatistics, Comparison, Difference, Results, Row, Spread, Verdict,
//! };
//!
//! let mut comparison = Comparison::load::<&str>("head", &[])?;
//! comparison.set_seeds(vec![1, 2]).unwrap();
//! let data = crescendo_data::shapes::generate(0, 100, 50);
//! let record = comparison.record(&data);
//! # let folder = tempfile::tempdir().unwrap();
//! # let file = folder.path().join("results.csv");
//! // The results of runs are rows of a file.
//! let mut results = Results::open(&file, record.evaluated_on)?;
//! for (arm, accuracy) in [(0, 0.8), (1, 0.9)] {
//!     let Arm { name, recipe, .. } = &comparison.arms[arm];
//!     for seed in [1, 2] {
//!         results.add(Row {
//!             arm: name.clone(),
//!             seed,
//!             fingerprint: Results::fingerprint(recipe, &data.fingerprint(), comparison.bn_images),
//!             running: accuracy + 0.01 * seed as f64,
//!             precise: accuracy,
//!             train_loss: 0.5,
//!             updates: 100,
//!             seconds: 1.0,
//!             device: crescendo_network::DeviceKind::Cpu,
//!             precision: crescendo_network::PrecisionKind::F32,
//!             version: "0.2.0".into(),
//!             validation: crescendo_data::ValidationChoice::Random,
//!         })?;
//!     }
//! }
//! let arms: Vec<ArmResults> = results.arms(&record);
//! let Spread { mean, .. } = arms[1].spread(BatchNormStatistics::Running).unwrap();
//! assert!((mean - 0.915).abs() < 1e-12);
//! // Differences in pairs of the same seed.
//! let difference: Difference = arms[1].difference(BatchNormStatistics::Precise).unwrap();
//! assert!((difference.mean - 0.1).abs() < 1e-12);
//! assert_eq!(difference.verdict(), Verdict::Above);
//! # Ok::<(), crescendo_training::Error>(())
//! ```

mod arm_results;
mod identical;
mod kind;
mod record;
mod results;
mod shared_epochs;
mod statistics;

use std::path::Path;

use crescendo_data::DataSet;
use serde::Deserialize;

use crate::held_out::validation_images;
use crate::loading::{BuiltIn, convert, syntax_problem};
use crate::validation::unused_keys;
use crate::{Error, Recipe, text_file};

pub use arm_results::{ApartResults, ArmResults};
pub use kind::Kind;
pub use record::{ArmRecord, ComparisonRecord};
pub use results::{BatchNormStatistics, Results, Row};
pub use shared_epochs::shared_epochs;
pub use statistics::{Difference, Spread, Verdict};

macro_rules! built_in {
    ($($name:literal),*) => {
        /// The built-in comparisons.
        pub const BUILT_IN: &[BuiltIn] = &[$(BuiltIn {
            name: $name,
            text: include_str!(concat!("../../comparisons/", $name, ".toml")),
        }),*];
    };
}
built_in!(
    "grow-or-decay",
    "grow-or-decay-paper",
    "beyond-1000",
    "beyond-1000-paper",
    "activations",
    "head",
    "width",
    "depth"
);

/// A comparison.
///
/// See the example of [the module `comparison`](crate::comparison).
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Comparison {
    /// Its built-in name, or the name of its file without the extension.
    pub name: String,
    /// What it asks, in a sentence.
    pub question: Option<String>,
    /// Where the question comes from.
    pub source: Option<String>,
    /// The arms, the base first.
    pub arms: Vec<Arm>,
    /// The seeds that each arm is trained with.
    pub seeds: Vec<u64>,
    /// The number of training images over which precise BatchNorm statistics are computed.
    pub bn_images: usize,
    /// The recipe of the arms that have none of their own, and what is changed in the recipes of all arms.
    recipe: String,
    set: Vec<String>,
}

/// One of the recipes that are compared.
///
/// See the example of [the module `comparison`](crate::comparison).
#[derive(Clone, Debug, PartialEq)]
pub struct Arm {
    /// Its name.
    pub name: String,
    /// Its recipe; each run of it gets one of the comparison's seeds.
    pub recipe: Recipe,
    /// The name of its recipe, if it is not the comparison's, and what it alone changes in it.
    own_recipe: Option<String>,
    set: Vec<String>,
    /// Keys that the user sets for this arm, and for all arms; a built-in comparison's own do not count.
    set_here: Vec<String>,
    set_everywhere: Vec<String>,
}

impl Arm {
    /// An arm whose keys all come from built-in recipes.
    pub fn new(name: &str, recipe: Recipe) -> Self {
        Arm {
            name: name.into(),
            recipe,
            own_recipe: None,
            set: Vec::new(),
            set_here: Vec::new(),
            set_everywhere: Vec::new(),
        }
    }
}

/// The content of a comparison's file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ComparisonFile {
    question: Option<String>,
    source: Option<String>,
    recipe: String,
    #[serde(default)]
    set: Vec<String>,
    base: String,
    seeds: Vec<u64>,
    #[serde(default = "default_bn_images")]
    bn_images: usize,
    arm: Vec<ArmTable>,
}

/// A table `[[arm]]` of a comparison's file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ArmTable {
    name: String,
    /// Its recipe, if it is not the comparison's.
    recipe: Option<String>,
    #[serde(default)]
    set: Vec<String>,
}

fn default_bn_images() -> usize {
    10_000
}

/// The built-in comparison of this name.
fn find(name: &str) -> Option<&'static BuiltIn> {
    BUILT_IN.iter().find(|comparison| comparison.name == name)
}

impl Comparison {
    /// The file of the built-in comparison of this name, or the one at this path.
    ///
    /// # Errors
    /// If there is no such comparison, or the file cannot be read.
    pub fn text(name_or_path: &str) -> Result<String, Error> {
        let path = Path::new(name_or_path);
        match find(name_or_path) {
            Some(comparison) => Ok(comparison.text.to_owned()),
            None if path.is_file() => text_file::read(path),
            None => {
                let names: Vec<_> = BUILT_IN.iter().map(|comparison| comparison.name).collect();
                Err(Error::Recipe(format!(
                    "there is no comparison {name_or_path}: give the path of a TOML file, or one of {}",
                    names.join(", ")
                )))
            }
        }
    }

    /// The built-in comparison of this name, or the comparison in the file of this path, with `changes` of
    /// the form `section.key=value` to every arm.
    ///
    /// # Errors
    /// If there is no such comparison, or it is invalid.
    pub fn load<S: AsRef<str>>(name_or_path: &str, changes: &[S]) -> Result<Self, Error> {
        let (built_in, text) = (find(name_or_path), Self::text(name_or_path)?);
        let path = Path::new(name_or_path);
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let name = built_in.map_or(name, |comparison| comparison.name.to_owned());
        let wrong = |problem: String| Error::Recipe(format!("{name_or_path}: {problem}"));
        let table = text
            .parse()
            .map_err(|error| wrong(format!("not valid TOML: {}", syntax_problem(&text, &error))))?;
        let text: ComparisonFile =
            convert(table).map_err(|error| wrong(format!("not a valid comparison: {error}")))?;
        check(&text).map_err(wrong)?;
        let mut arms = Vec::new();
        for arm in text.arm {
            let all: Vec<&str> = [&text.set, &arm.set]
                .into_iter()
                .flatten()
                .map(String::as_str)
                .chain(changes.iter().map(AsRef::as_ref))
                .collect();
            let of_arm = |error: Error| wrong(format!("arm {}: {error}", arm.name));
            let name = beside(path, arm.recipe.as_ref().unwrap_or(&text.recipe));
            let recipe = Recipe::load(&name, &all).map_err(of_arm)?;
            // Of a recipe's own file all arms have the keys, unless each has its own.
            let file = Recipe::set_keys::<&str>(&name, &[]).map_err(of_arm)?;
            let mine: Vec<&str> = match built_in {
                Some(_) => Vec::new(),
                None => text.set.iter().map(String::as_str).collect(),
            };
            let given: Vec<&str> = changes.iter().map(AsRef::as_ref).chain(mine).collect();
            let (mut set_everywhere, mut set_here) = (Recipe::changed_keys(&given)?, Vec::new());
            if built_in.is_none() {
                set_here = Recipe::changed_keys(&arm.set)?;
            }
            match &arm.recipe {
                Some(_) => set_here.extend(file),
                None => set_everywhere.extend(file),
            }
            // What is changed for every arm is not the arm's own.
            set_here.retain(|key| !set_everywhere.contains(key));
            arms.push(Arm {
                name: arm.name,
                recipe,
                own_recipe: arm.recipe,
                set: arm.set,
                set_here,
                set_everywhere,
            });
        }
        let data = |arm: &Arm| (arm.recipe.data.source, arm.recipe.data.validation);
        if let Some(other) = arms.iter().find(|arm| data(arm) != data(&arms[0])) {
            return Err(wrong(format!(
                "arms {} and {} differ in data.source or data.validation, which must be the same for all arms",
                arms[0].name, other.name
            )));
        }
        let changes = changes.iter().map(|change| change.as_ref().to_owned());
        let mut comparison = Comparison {
            name,
            question: text.question,
            source: text.source,
            arms,
            seeds: Vec::new(),
            bn_images: text.bn_images,
            recipe: text.recipe,
            set: text.set.into_iter().chain(changes).collect(),
        };
        comparison
            .set_base(&text.base)
            .and_then(|()| comparison.set_seeds(text.seeds))
            .map_err(wrong)?;
        Ok(comparison)
    }

    /// Warnings about keys that the user sets and that have no effect with so many training images: those of an
    /// arm, and those for all arms that have none in any of them.
    pub fn unused_keys(&self, images: usize) -> Vec<String> {
        let everywhere =
            self.arms.iter().map(|arm| unused_keys(&arm.recipe, &arm.set_everywhere, images));
        let common = everywhere.reduce(|mut common, of_arm| {
            common.retain(|warning| of_arm.contains(warning));
            common
        });
        let of_arm = |arm: &Arm| {
            let unused = unused_keys(&arm.recipe, &arm.set_here, images);
            unused
                .into_iter()
                .map(|warning| format!("arm {}: {warning}", arm.name))
                .collect::<Vec<_>>()
        };
        let own: Vec<String> = self.arms.iter().flat_map(of_arm).collect();
        common.into_iter().flatten().chain(own).collect()
    }

    /// Sets the number of classes of all arms' networks.
    ///
    /// # Errors
    /// If a network cannot have so many.
    pub fn set_classes(&mut self, classes: usize) -> Result<(), Error> {
        for arm in &mut self.arms {
            if arm.recipe.network.classes != classes {
                arm.recipe = arm.recipe.with(&format!("network.classes={classes}"))?;
            }
        }
        Ok(())
    }

    /// Sets the seeds.
    ///
    /// # Errors
    /// If there are none, or one of them occurs twice or is too large.
    pub fn set_seeds(&mut self, seeds: Vec<u64>) -> Result<(), String> {
        let twice = |(index, seed): (usize, &u64)| seeds[..index].contains(seed);
        if seeds.is_empty() || seeds.iter().enumerate().any(twice) {
            return Err("seeds must have at least one seed, and each seed once".into());
        }
        if seeds.iter().any(|&seed| i64::try_from(seed).is_err()) {
            return Err(format!("seeds must be at most {}", i64::MAX));
        }
        self.seeds = seeds;
        Ok(())
    }

    /// Makes the arm of this name the base, with which the others are compared.
    ///
    /// # Errors
    /// If there is no such arm.
    pub fn set_base(&mut self, base: &str) -> Result<(), String> {
        let Some(place) = self.arms.iter().position(|arm| arm.name == base) else {
            let names: Vec<&str> = self.arms.iter().map(|arm| arm.name.as_str()).collect();
            return Err(format!("base is {base:?}, but the arms are {}", names.join(", ")));
        };
        self.arms[..=place].rotate_right(1);
        Ok(())
    }
}

/// The number of validation images: if there are any, arms are evaluated on them, so that nothing is tuned on the test
/// set.
fn held_out_count(comparison: &Comparison, data: &DataSet) -> usize {
    validation_images(data, comparison.arms[0].recipe.data.validation)
}

/// The name or the path of an arm's recipe: paths are relative to the comparison's own folder.
fn beside(comparison: &Path, recipe: &str) -> String {
    let path = comparison.with_file_name(recipe);
    if path.is_file() { path.display().to_string() } else { recipe.to_owned() }
}

fn check(text: &ComparisonFile) -> Result<(), String> {
    let names: Vec<&str> = text.arm.iter().map(|arm| arm.name.as_str()).collect();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    for (index, name) in names.iter().enumerate() {
        if names[..index].contains(name) {
            return Err(format!("two arms have the name {name}: give each arm a name of its own"));
        }
        if name.is_empty() || name.starts_with('.') || !name.chars().all(plain) {
            return Err(format!(
                "the arm's name {name:?} is used for a folder: it must consist of letters, digits, -, _ and dots, and \
                 not begin with a dot"
            ));
        }
    }
    if text.bn_images == 0 {
        return Err("bn_images must be above 0".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Comparison, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mine.toml");
        std::fs::write(&path, text).unwrap();
        Comparison::load::<&str>(&path.display().to_string(), &[])
            .map_err(|error| error.to_string())
    }

    const GOOD: &str = "recipe = 'quick'\nbase = 'b'\nseeds = [0, 1]\nset = ['train.epochs=2']\n\
                        [[arm]]\nname = 'a'\nset = ['batch.policy=fixed']\n[[arm]]\nname = 'b'\n";

    #[test]
    fn the_base_comes_first() {
        let comparison = load(GOOD).unwrap();
        let names: Vec<&str> = comparison.arms.iter().map(|arm| arm.name.as_str()).collect();
        assert_eq!((comparison.name.as_str(), names), ("mine", vec!["b", "a"]));
        assert_eq!((comparison.question, comparison.source), (None, None));
        assert!(comparison.arms.iter().all(|arm| arm.recipe.train.epochs == 2));
    }

    #[test]
    fn what_is_invalid_is_named() {
        for (from, to, problem) in [
            ("'b'\n", "'a'\n", "two arms have the name a"),
            ("base = 'b'", "base = 'c'", "base is \"c\", but the arms are a, b"),
            ("[0, 1]", "[1, 1]", "each seed once"),
            ("[0, 1]", "[]", "at least one seed"),
            ("name = 'a'", "name = '../a'", "is used for a folder"),
            ("batch.policy=fixed", "batch.policy=fix", "arm a: "),
            ("quick", "quack", "quack"),
            ("seeds", "seed", "there is no key seed; the keys are question, source, recipe, set"),
            ("seeds = [0, 1]\n", "", "the key seeds is missing"),
            ("[0, 1]", "0", "seeds must be a list, but it is 0"),
            ("[0, 1]", "[0, -1]", "seeds, entry 2 must be a whole number from 0 to"),
            ("name = 'a'", "name = 1", "arm, entry 1: name must be text in quotes, but it is 1"),
            ("name = 'a'\n", "", "arm, entry 1: the key name is missing"),
            ("[[arm]]", "[[arm", "not valid TOML: line 5: "),
        ] {
            let text = GOOD.replace(from, to);
            assert!(load(&text).unwrap_err().contains(problem), "{problem}: {:?}", load(&text));
        }
    }

    #[test]
    fn the_built_in_comparisons_are_valid() {
        for built_in in BUILT_IN {
            let comparison = Comparison::load::<&str>(built_in.name, &[]).unwrap();
            assert!(comparison.arms.len() > 1 && comparison.seeds.len() > 2, "{}", built_in.name);
            assert!(!built_in.summary().is_empty());
            assert!(comparison.question.unwrap().ends_with('?'), "{}", built_in.name);
            assert!(!comparison.source.unwrap().is_empty(), "{}", built_in.name);
        }
    }
}
