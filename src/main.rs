//! The program: the command line of the library.

mod cli;
mod commands;
mod npy;
mod signals;
mod usage;
mod values;

use std::process::ExitCode;

fn main() -> ExitCode {
    let success = |()| ExitCode::SUCCESS;
    let outcome = match usage::parse().command {
        cli::Command::Train(args) => commands::train::run(&args),
        cli::Command::Evaluate(args) => commands::evaluate::run(&args).map(success),
        cli::Command::Predict(args) => commands::predict::run(&args),
        cli::Command::Export(args) => commands::export::run(&args).map(success),
        cli::Command::Report(args) => commands::report::run(&args).map(success),
        cli::Command::Plan(args) => commands::plan::run(&args).map(success),
        cli::Command::Compare(args) => commands::compare::run(&args),
        cli::Command::Bench(args) => commands::bench::run(&args).map(success),
        cli::Command::Devices(args) => commands::devices::run(&args).map(success),
        cli::Command::Runs(args) => commands::runs::run(&args).map(success),
        cli::Command::Recipes(args) => commands::recipes::run(&args).map(success),
        cli::Command::Data(args) => commands::data::run(&args).map(success),
        cli::Command::Completions(args) => commands::completions::run(&args).map(success),
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            commands::note(format_args!("error: {error}"));
            // Wrong usage has the same code as a command line that cannot be parsed.
            if error.is_usage() { ExitCode::from(2) } else { ExitCode::FAILURE }
        }
    }
}
