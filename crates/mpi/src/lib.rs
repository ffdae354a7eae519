//! A run over the processes of an MPI job: the only place that knows MPI.
//!
//! `join` makes this process one of the job's ranks; the `Transport` that it returns is what `crescendo-distributed`
//! needs. The crate needs MPI 3.1 and is empty without its feature `mpi`.
#![cfg(feature = "mpi")]

mod library;
mod transport;

pub use library::{Job, join};
