//! Which weights a command uses, and what describes those of other programs.

use std::path::{Path, PathBuf};

use crescendo::data::DataSet;
use crescendo::training::{Error, External, Recipe, TrainedOn, checkpoint};

use super::{DataLocation, note};
use crate::values::Which;

/// The file of weights that is meant: of a run the best by validation accuracy, or else the latest.
pub fn best_or_latest(path: &Path) -> Result<PathBuf, Error> {
    if !path.is_dir() {
        return Ok(path.to_owned());
    }
    let best = Some(checkpoint::best_path(path)).filter(|path| path.is_file());
    let file = best.map_or_else(|| of_run(path, Which::Last), Ok)?;
    let about = checkpoint::about(&file)?;
    if let Some(epoch) = about.epoch.or(about.in_epoch) {
        note(format_args!("note: these are the weights of epoch {epoch}, in {}", file.display()));
    }
    Ok(file)
}

/// The file of one of a run's checkpoints.
pub fn of_run(run: &Path, which: Which) -> Result<PathBuf, Error> {
    match which {
        Which::Last => checkpoint::latest(run)?.ok_or_else(|| {
            Error::bad(run, "has no checkpoint yet: resume it with `train --resume`")
        }),
        Which::Best => Some(checkpoint::best_path(run)).filter(|path| path.is_file()).ok_or_else(|| {
            let problem = "has no best checkpoint: a run has one after the first evaluation on its \
                           validation images, if it has any (data.validation)";
            Error::bad(run, problem)
        }),
        Which::Epoch(epoch) => {
            let existing = checkpoint::list(run)?;
            if existing.contains(&epoch) {
                return Ok(checkpoint::path(run, epoch));
            }
            let existing: Vec<String> = existing.iter().map(u32::to_string).collect();
            let problem = match existing.is_empty() {
                true => "has no checkpoint yet: resume it with `train --resume`".to_owned(),
                false => format!("has no checkpoint {epoch}, only {}", existing.join(", ")),
            };
            Err(Error::bad(run, problem))
        }
    }
}

/// What `--recipe` and `--data` say of a file of another program.
pub struct Elsewhere {
    recipe: Recipe,
    trained_on: TrainedOn,
    data: Option<DataSet>,
}

impl Elsewhere {
    /// Reads them, if there is a recipe. The data set is read only if its name is given, or the recipe's file does not
    /// say what it is needed for.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn load(recipe: Option<&str>, data: Option<&str>) -> Result<Option<Self>, Error> {
        let Some(name) = recipe else { return Ok(None) };
        let recipe = Recipe::load::<&str>(name, &[])?;
        let trained_on = TrainedOn::load(name)?;
        let is_enough = data.is_none() && External::new(&recipe, &trained_on, None).is_ok();
        let data = match is_enough {
            true => None,
            false => Some(DataLocation::new(data, recipe.data.source).load()?.set),
        };
        Ok(Some(Elsewhere { recipe, trained_on, data }))
    }

    /// The description of the file.
    ///
    /// # Errors
    /// If something is not known.
    pub fn external(&self) -> Result<External<'_>, Error> {
        External::new(&self.recipe, &self.trained_on, self.data.as_ref())
    }
}
