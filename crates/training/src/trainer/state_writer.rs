//! Saving the state without stopping the training: a thread waits for the engine's copy and writes it.

use std::path::Path;
use std::thread::JoinHandle;

use crescendo_network::{EngineError, State};

use crate::Error;
use crate::events::Marks;
use crate::record::Record;
use crate::run::{Progress, saved_state};

/// What waits for an engine's copy of its state.
pub(super) type StateCopy = Box<dyn FnOnce() -> Result<State<'static>, EngineError> + Send>;

/// Writes states one after the other, in the order in which they were given.
#[derive(Default)]
pub(super) struct StateWriter {
    thread: Option<JoinHandle<Result<(), Error>>>,
}

impl StateWriter {
    /// Starts to write a copy, with the progress and the marks of the same moment, when the previous one has
    /// been written.
    ///
    /// # Errors
    /// If the previous one could not be written.
    pub fn write(
        &mut self,
        folder: &Path,
        record: &Record,
        copy: StateCopy,
        progress: &Progress,
        marks: &Marks,
    ) -> Result<(), Error> {
        self.wait()?;
        let (folder, record) = (folder.to_owned(), record.clone());
        let (progress, marks) = (progress.clone(), marks.clone());
        self.thread = Some(std::thread::spawn(move || {
            let state = copy()?;
            check_finite(&state, &progress)?;
            saved_state::write(&folder, &record, state, &progress, &marks)
        }));
        Ok(())
    }

    /// Waits until everything is written.
    ///
    /// # Errors
    /// If it could not be written.
    pub fn wait(&mut self) -> Result<(), Error> {
        match self.thread.take().map(JoinHandle::join) {
            None => Ok(()),
            Some(Ok(outcome)) => outcome,
            Some(Err(panic)) => std::panic::resume_unwind(panic),
        }
    }
}

impl Drop for StateWriter {
    fn drop(&mut self) {
        // What is being written when an error ends the training is still the last good state. The thread's own
        // error or panic must not hide the first one.
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Weights that are not finite must not replace good ones: a loss shows them one update later.
pub(super) fn check_finite(state: &State, progress: &Progress) -> Result<(), Error> {
    let mut tensors = state.iter().flat_map(|(_, tensors)| tensors);
    let finite = |values: &[f32]| values.iter().all(|value| value.is_finite());
    if tensors.all(|tensor| tensor.values().is_none_or(finite)) {
        return Ok(());
    }
    let Progress { updates, epoch, .. } = *progress;
    Err(Error::Diverged { update: updates, epoch, hopeless: false, cause: None })
}
