//! Our errors, and panics, as Python's exceptions.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crescendo::data;
use crescendo::network::EngineError;
use crescendo::training::Error;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

/// Calls `work` without Python's lock. Python gets an exception for its error, or for a panic.
pub fn detached<T: Send>(
    py: Python<'_>,
    work: impl FnOnce() -> Result<T, Error> + Send,
) -> PyResult<T> {
    match py.detach(|| catch_unwind(AssertUnwindSafe(work))) {
        Ok(outcome) => outcome.map_err(|error| exception(py, error)),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
            Err(PyRuntimeError::new_err(format!(
                "this is a bug in Crescendo, please report it: {text}"
            )))
        }
    }
}

/// The exception for an error: one that a callback raised is that one again.
pub fn exception(py: Python<'_>, error: Error) -> PyErr {
    let error = match error {
        Error::Observer(own) => match own.downcast::<PyErr>() {
            Ok(raised) => return *raised,
            Err(own) => Error::Observer(own),
        },
        other => other,
    };
    let (kind, code) = kind(&error);
    let made = py
        .import("crescendo._errors")
        .and_then(|module| module.call_method1("exception", (kind, error.to_string(), code)));
    made.map_or_else(|failed| failed, PyErr::from_value)
}

/// What kind of exception it is, and the system's number of an error of the system.
fn kind(error: &Error) -> (&'static str, Option<i32>) {
    let of_system = |source: &io::Error| ("system", source.raw_os_error());
    match error {
        Error::Io { source, .. } | Error::Data(data::Error::Io { source, .. }) => of_system(source),
        Error::Data(data::Error::NotFound(_)) => ("missing", None),
        Error::Data(data::Error::Download(_)) => ("system", None),
        Error::Diverged { .. } | Error::NotFinite | Error::Observer(_) => ("runtime", None),
        Error::Engine(EngineError::Unsupported(_) | EngineError::WrongTensors(_)) => {
            ("value", None)
        }
        Error::Engine(_) => ("runtime", None),
        _ => ("value", None),
    }
}
