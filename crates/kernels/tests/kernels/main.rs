//! Each kernel against the naive f64 reference, on every instruction set that this processor has.

mod common;
mod convolution;
mod fusion;
mod max_pool;
mod muon;
mod others;
