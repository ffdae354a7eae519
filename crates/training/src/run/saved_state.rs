//! `state/state.safetensors` in a run's folder: everything that resuming needs. The save before it is kept
//! beside it.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crescendo_network::{Engine, EngineError, Section, State, Tensor};

use super::{Progress, Run};
use crate::events::Marks;
use crate::policy::{PolicyState, SoFar};
use crate::record::{self, Record};
use crate::tensors::{self, Metadata, PartOfFile, TensorFile};
use crate::{Error, version};

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

/// The file of the run in `folder`.
pub(crate) fn path(folder: &Path) -> PathBuf {
    folder.join("state").join("state.safetensors")
}

fn previous_path(folder: &Path) -> PathBuf {
    folder.join("state").join("previous.safetensors")
}

/// Writes an engine's state, with the progress and the marks of the same moment, and keeps the previous save.
pub(crate) fn write(
    folder: &Path,
    record: &Record,
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
        ("record".into(), record::text(record)),
        ("version".into(), version::OWN.into()),
    ]);
    tensors::replace(&path(folder), &previous_path(folder), &all, metadata)
}

/// Writes the state before the first update.
pub(super) fn write_initial(
    folder: &Path,
    record: &Record,
    model: Vec<Tensor>,
    progress: &Progress,
) -> Result<(), Error> {
    write(folder, record, vec![(Section::Model, model)], progress, &Marks::new())
}

/// Makes the saved state one of a run with another recipe.
pub(super) fn set_record(folder: &Path, record: &Record) -> Result<(), Error> {
    let file = TensorFile::open(&path(folder))?;
    let mut metadata = file.metadata.clone();
    metadata.insert("record".into(), record::text(record));
    tensors::write(&[path(folder)], &file.tensors("")?, metadata)?;
    // It is of the other recipe.
    match fs::remove_file(previous_path(folder)) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(Error::io("remove", &previous_path(folder), error))
        }
        _ => Ok(()),
    }
}

/// What was saved besides the tensors.
pub(super) struct SavedState {
    pub progress: Progress,
    pub marks: Marks,
    /// What `recipe.toml` was; `None` if an older program saved the state.
    pub record: Option<Record>,
    /// What a user should know about it.
    pub notes: Vec<String>,
}

/// Reads the state, or the previous one if it is damaged. That one takes its place then, and the damaged file
/// is kept.
pub(super) fn read(folder: &Path, record: &Record) -> Result<SavedState, Error> {
    let (state, previous) = (path(folder), previous_path(folder));
    let problem = match read_file(&state, record) {
        Err(Error::Bad { problem, .. }) => problem,
        Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {
            "is missing".to_owned()
        }
        outcome => return outcome,
    };
    let Ok(mut saved) = read_file(&previous, record) else {
        return Err(Error::bad(&state, problem).advise(LOST));
    };
    let io = |error| Error::io("replace", &state, error);
    let mut kept = String::new();
    if state.exists() {
        let damaged = state.with_file_name("damaged.safetensors");
        fs::rename(&state, &damaged).map_err(io)?;
        kept = format!(" The damaged file is kept as {}.", damaged.display());
    }
    fs::rename(&previous, &state).map_err(io)?;
    saved.notes.push(format!(
        "The state's last save cannot be used: {} {problem}. The previous save, after update {}, takes its \
         place.{kept}",
        state.display(),
        saved.progress.updates
    ));
    Ok(saved)
}

/// How far the run was at the last save.
pub(super) fn read_progress(folder: &Path) -> Result<Progress, Error> {
    let read = |path: PathBuf| {
        let progress = PartOfFile::open(&path)?.json("progress")?;
        checked(&path, progress)
    };
    match read(path(folder)) {
        Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {
            // A save can be under way.
            read(previous_path(folder))
        }
        progress => progress,
    }
}

fn checked(path: &Path, progress: Progress) -> Result<Progress, Error> {
    match progress.epoch {
        0 => Err(Error::bad(path, "has a damaged progress in its metadata")),
        _ => Ok(progress),
    }
}

fn read_file(path: &Path, record: &Record) -> Result<SavedState, Error> {
    let state = TensorFile::open(path)?;
    if let Some(newer) = state.newer() {
        return Err(Error::Refused(format!("{}: {newer}", path.display())));
    }
    let mut progress = checked(path, state.json("progress")?)?;
    // The state of an older program, with the metrics of the last epoch.
    progress.history.extend(progress.metrics.take().filter(|_| progress.epoch > 1));
    if progress.chosen.batch_size == 0 {
        // The state of a still older program, which saved no policy state.
        progress.chosen = PolicyState::new(&record.recipe);
        if progress.batch > 0 {
            let Progress { epoch, updates, ref history, .. } = progress;
            let so_far = SoFar { updates, history, ..SoFar::default() };
            progress.chosen.enter(&record.recipe, None, epoch, so_far)?;
        }
    }
    let saved = state.metadata.get("record").map(|text| record::parse(text)).transpose();
    let saved = saved.map_err(|problem| state.bad(format!("has a record that {problem}")))?;
    let version = state.metadata.get("version").unwrap_or(&record.run.version);
    let notes = version::older(version).into_iter().chain(state.note()).collect();
    Ok(SavedState { progress, marks: state.json("marks")?, record: saved, notes })
}

impl Run {
    /// Takes over the progress that was saved last.
    pub(crate) fn reload(&mut self) -> Result<(), Error> {
        let SavedState { progress, marks, notes, .. } = read(&self.folder, &self.record)?;
        (self.progress, self.marks) = (progress, marks);
        self.notes.extend(notes);
        Ok(())
    }

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
