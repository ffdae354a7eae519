//! `state/state.safetensors` in a run's folder: everything that resuming needs.

use std::path::{Path, PathBuf};

use crescendo_network::{Engine, EngineError, Section, State, Tensor};

use super::{Progress, Run};
use crate::Error;
use crate::events::Marks;
use crate::policy::PolicyState;
use crate::record::Record;
use crate::tensors::{self, Metadata, TensorFile};

/// What to do about a state that cannot be read.
const LOST: &str = "this run cannot be resumed, but its checkpoints are not lost: start a new run, with \
                    --init to start from one of them";

/// The prefix of a section's tensors.
fn prefix(section: Section) -> &'static str {
    match section {
        Section::Model => "model/",
        Section::Momentum => "momentum/",
        Section::Average => "average/",
        Section::Gradients => "gradients/",
    }
}

fn path(folder: &Path) -> PathBuf {
    folder.join("state").join("state.safetensors")
}

/// Writes an engine's state, with the progress and the marks of the same moment.
pub(crate) fn write(
    folder: &Path,
    state: State,
    progress: &Progress,
    marks: &Marks,
) -> Result<(), Error> {
    let mut all = Vec::new();
    for (section, tensors) in state {
        all.extend(tensors.into_iter().map(|tensor| Tensor {
            name: format!("{}{}", prefix(section), tensor.name).into(),
            ..tensor
        }));
    }
    let json = |text: serde_json::Result<String>| text.expect("only strings and finite numbers");
    let metadata = Metadata::from([
        ("progress".into(), json(serde_json::to_string(progress))),
        ("marks".into(), json(serde_json::to_string(marks))),
    ]);
    tensors::write(&path(folder), &all, &metadata)
}

/// Writes the state before the first update.
pub(super) fn write_initial(
    folder: &Path,
    model: Vec<Tensor>,
    progress: &Progress,
    marks: &Marks,
) -> Result<(), Error> {
    write(folder, vec![(Section::Model, model)], progress, marks)
}

/// Reads the progress and the marks.
pub(super) fn read(folder: &Path, record: &Record) -> Result<(Progress, Marks), Error> {
    let state = || {
        let state = TensorFile::open(&path(folder))?;
        let mut progress: Progress = state.json("progress")?;
        if progress.epoch == 0 {
            return Err(state.bad("has a damaged progress in its metadata".into()));
        }
        if progress.chosen.batch_size == 0 {
            // The state of an older program, which saved no policy state.
            progress.chosen = PolicyState::new(&record.recipe);
            if progress.batch > 0 {
                let Progress { epoch, updates, ref metrics, .. } = progress;
                progress.chosen.enter(&record.recipe, epoch, updates, metrics);
            }
        }
        Ok((progress, state.json("marks")?))
    };
    state().map_err(|error: Error| error.advise(LOST))
}

impl Run {
    /// Loads the saved state into an engine.
    pub(crate) fn restore(&self, engine: &mut dyn Engine) -> Result<(), Error> {
        let path = path(&self.folder);
        let file = TensorFile::open(&path)?;
        for section in [Section::Model, Section::Momentum, Section::Average] {
            let tensors = file.tensors(prefix(section))?;
            // Before the first update there are no momentum buffers, which start as zeros, and there need
            // not be an average.
            if tensors.is_empty() && section != Section::Model {
                continue;
            }
            engine.import(section, &tensors).map_err(|error| match error {
                EngineError::WrongTensors(problem) => {
                    let problem = format!("{problem}: it is damaged, or recipe.toml was changed");
                    Error::bad(&path, problem).advise(LOST)
                }
                other => other.into(),
            })?;
        }
        Ok(())
    }
}
