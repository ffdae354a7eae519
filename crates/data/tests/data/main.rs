//! Data sets: reading, downloading, generating and augmenting them.

mod common;
mod fetch;
mod formats;
mod fuzz;
mod images;
mod own;
mod pytorch;
mod real;
mod shapes;
