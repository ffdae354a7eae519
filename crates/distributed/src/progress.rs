//! A thread that helps communication on while the engine computes.
//!
//! MPI moves bytes over a network only while the program calls it. An update of small batches has few calls between long
//! computations, during which sockets would be full or empty.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crescendo_network::EngineError;

/// How long the thread sleeps between two calls: a bucket at 2 Gbit/s. Calls that are more frequent slow the engine down
/// (docs/performance.md).
const PAUSE: Duration = Duration::from_micros(500);

/// Communication that needs calls to get on.
pub(crate) trait Work: Send + 'static {
    /// Whether there is any.
    fn is_open(&self) -> bool;

    /// Does what can be done without waiting.
    fn advance(&mut self) -> Result<(), EngineError>;
}

/// Some work and the thread that advances it, once there is any.
pub(crate) struct Progress<T: Work> {
    shared: Arc<Shared<T>>,
    thread: Option<JoinHandle<()>>,
}

struct Shared<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
}

struct State<T> {
    work: T,
    /// What went wrong in the thread.
    error: Option<EngineError>,
    has_ended: bool,
}

impl<T: Work> Progress<T> {
    pub fn new(work: T) -> Self {
        let state = Mutex::new(State { work, error: None, has_ended: false });
        Progress { shared: Arc::new(Shared { state, changed: Condvar::new() }), thread: None }
    }

    /// Does something with the work, while the thread waits. Returns an error of the thread before.
    pub fn with(
        &mut self,
        action: impl FnOnce(&mut T) -> Result<(), EngineError>,
    ) -> Result<(), EngineError> {
        let mut state = self.shared.lock();
        let outcome = state.error.take().map_or_else(|| action(&mut state.work), Err);
        // After an error the exchanges are not what the thread expects.
        state.has_ended |= outcome.is_err();
        let is_open = state.work.is_open();
        drop(state);
        outcome?;
        if !is_open {
            return Ok(());
        }
        self.shared.changed.notify_one();
        if self.thread.is_none() {
            let shared = self.shared.clone();
            let thread = thread::Builder::new().name("progress".into());
            let thread = thread.spawn(move || shared.advance()).map_err(|error| {
                EngineError::Communication(format!("cannot start a thread: {error}"))
            })?;
            self.thread = Some(thread);
        }
        Ok(())
    }
}

impl<T: Work> Drop for Progress<T> {
    fn drop(&mut self) {
        self.shared.lock().has_ended = true;
        self.shared.changed.notify_one();
        if let Some(thread) = self.thread.take() {
            // If it has panicked, that was said.
            let _ = thread.join();
        }
    }
}

impl<T: Work> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The thread: advances the work while there is any, until the end.
    fn advance(&self) {
        let mut state = self.lock();
        while !state.has_ended {
            if !state.work.is_open() || state.error.is_some() {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            state.error = state.work.advance().err();
            drop(state);
            thread::sleep(PAUSE);
            state = self.lock();
        }
    }
}
