//! The kinds of results: what those that are compared have in common.

use std::fmt;
use std::path::{Path, PathBuf};

use crescendo_data::ValidationChoice;
use crescendo_network::{DeviceKind, PrecisionKind};
use serde::{Deserialize, Serialize};

use super::Row;
use crate::held_out::new_choice;
use crate::record::{Record, read_record};
use crate::{Recipe, version};

/// What of a result is neither its recipe nor its seed, but has an effect on its digits. Differences are computed between
/// results of one kind alone.
///
/// # Example
///
/// ```
/// use crescendo_training::Recipe;
/// use crescendo_training::comparison::Kind;
///
/// let recipe = Recipe::load("quick", &["engine.device=cpu", "data.validation=100"])?;
/// let kind = Kind::new(&recipe).unwrap();
/// assert_eq!(
///     kind.to_string(),
///     format!("crescendo {} on cpu in f32, validation images from each class", kind.version)
/// );
/// # Ok::<(), crescendo_training::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Kind {
    /// The first version of the program whose results have the same digits.
    pub version: String,
    /// The device that trained.
    pub device: DeviceKind,
    /// Its precision, never `auto`.
    pub precision: PrecisionKind,
    /// How validation images were chosen from the training images.
    pub validation: ValidationChoice,
}

impl Kind {
    /// The kind of a new run of this recipe; `None` if its device is not decided yet.
    pub fn new(recipe: &Recipe) -> Option<Self> {
        let device = recipe.engine.device;
        (device != DeviceKind::Auto).then(|| Kind {
            version: version::same_results_since(version::OWN).into(),
            device,
            precision: recipe.engine.precision.on(device),
            validation: new_choice(recipe.data.validation),
        })
    }

    /// The kind of a result.
    pub fn of(row: &Row) -> Self {
        Kind {
            version: version::same_results_since(&row.version).into(),
            device: row.device,
            precision: row.precision,
            validation: row.validation,
        }
    }

    fn of_run(record: &Record) -> Self {
        let engine = &record.recipe.engine;
        Kind {
            version: version::same_results_since(&record.run.version).into(),
            device: engine.device,
            precision: engine.precision.on(engine.device),
            validation: record.run.validation,
        }
    }

    /// Whether results of the other kind may be compared with those of this one, where arms have a device or a precision
    /// of their own.
    pub(super) fn differs_by_engine_alone(&self, other: &Self) -> bool {
        (&self.version, self.validation) == (&other.version, other.validation)
    }

    /// The folder of an arm's run of this kind in a comparison's folder: the first that is free, or that has a run of
    /// this kind or what is no run.
    pub fn run_folder(&self, comparison: &Path, arm: &str, seed: u64) -> PathBuf {
        let folder = |number: usize| {
            comparison.join(arm).join(match number {
                1 => format!("seed-{seed}"),
                _ => format!("seed-{seed}-{number}"),
            })
        };
        let is_other =
            |folder: &Path| read_record(folder).is_ok_and(|record| Self::of_run(&record) != *self);
        let mut number = 1;
        while is_other(&folder(number)) {
            number += 1;
        }
        folder(number)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Kind { version, device, precision, validation } = self;
        write!(f, "crescendo {version} on {} in {}", device.name(), precision.name())?;
        match validation {
            ValidationChoice::Random => Ok(()),
            ValidationChoice::Stratified => f.write_str(", validation images from each class"),
        }
    }
}
