//! Python's signals, such as that of Ctrl-C, while Rust computes.

use std::time::{Duration, Instant};

use pyo3::prelude::*;

/// How often Python is asked. A person does not notice it, and neither does the speed.
const INTERVAL: Duration = Duration::from_millis(50);

/// When Python was asked last.
pub struct Signals(Instant);

impl Signals {
    pub fn new() -> Self {
        Signals(Instant::now())
    }

    /// Whether it is time to ask again.
    pub fn are_due(&mut self) -> bool {
        let due = self.0.elapsed() >= INTERVAL;
        if due {
            self.0 = Instant::now();
        }
        due
    }

    /// Runs the handlers of the signals that have arrived, if it is time to.
    ///
    /// # Errors
    /// What a handler raises: `KeyboardInterrupt`.
    pub fn check(&mut self) -> PyResult<()> {
        if self.are_due() { Python::attach(|py| py.check_signals()) } else { Ok(()) }
    }
}
