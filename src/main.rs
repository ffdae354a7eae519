//! The program: see [`crescendo::program`].

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(crescendo::program::run(std::env::args_os()))
}
