//! What of the Python package `crescendo` is in Rust: its command, training, and models. Everything that Python can do
//! as well is in `python/crescendo`, which alone calls this module.

mod errors;
mod images;
mod network;
mod signals;
mod training;

use std::ffi::OsString;

use pyo3::prelude::*;

#[pymodule]
mod _crescendo {
    #[pymodule_export]
    use super::main;
    #[pymodule_export]
    use super::network::{Network, weights};
    #[pymodule_export]
    use super::training::train;

    #[pymodule_export]
    const VERSION: &str = env!("CARGO_PKG_VERSION");
}

/// Runs the command line in these arguments, the first of which is the program's name. Returns the exit code. It takes
/// the process's signals, once.
#[pyfunction]
fn main(py: Python<'_>, arguments: Vec<OsString>) -> u8 {
    py.detach(|| crescendo::program::run(arguments))
}
