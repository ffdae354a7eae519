//! The program: the command line of the library.

mod cli;
mod commands;
mod npy;
mod usage;
mod values;

use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    let outcome = match usage::parse().command {
        cli::Command::Train(args) => commands::train::run(&args),
        cli::Command::Evaluate(args) => commands::evaluate::run(&args),
        cli::Command::Predict(args) => commands::predict::run(&args),
        cli::Command::Report(args) => commands::report::run(&args),
        cli::Command::Plan(args) => commands::plan::run(&args),
        cli::Command::Compare(args) => commands::compare::run(&args),
        cli::Command::Bench(args) => commands::bench::run(&args),
        cli::Command::Recipes(args) => commands::recipes::run(&args),
        cli::Command::Data(args) => commands::data::run(&args),
        cli::Command::Completions(args) => commands::completions::run(&args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // If this cannot be written either, the exit code still tells of the error.
            let _ = writeln!(std::io::stderr(), "error: {error}");
            // Wrong usage has the same code as a command line that cannot be parsed.
            if error.is_usage() { ExitCode::from(2) } else { ExitCode::FAILURE }
        }
    }
}
