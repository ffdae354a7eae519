//! The `crescendo` program.
fn main() {}
