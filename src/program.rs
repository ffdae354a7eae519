//! The program, for its own `main` and for the command of the Python package, and what the Python package shares with
//! it. It is no part of the library: it prints, and takes the process's signals.

use std::ffi::OsString;
use std::io::Write;
use std::iter;

use crescendo::logging::command_line;
use crescendo::training::Error;

use crate::cli::Command;
use crate::{commands, usage};

pub use crate::cli::SplitArgs;
pub use crate::commands::{LoadedData, weights_of_run};
pub use crate::new_run::{NewRun, RunData, resume};
pub use crate::values::{RequestedDevice, Which, requested_device};

/// Runs the command line in these arguments, the first of which is the program's name. Returns the exit code: 0 for
/// success, 1 for failure, 2 for wrong usage, and that of the signal if one has stopped the training.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> u8 {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let line = iter::once("crescendo".into()).chain(arguments.iter().skip(1).cloned());
    let line = command_line(line);
    let code =
        usage::parse(&arguments).map_or_else(|code| code, |cli| command(&cli.command, &line));
    // The output of a shared library is not flushed when the process ends.
    let _ = std::io::stdout().flush();
    code
}

/// Runs a command, which this command line gives.
fn command(command: &Command, line: &str) -> u8 {
    let success = |()| 0;
    let outcome = match command {
        Command::Train(args) => commands::train::run(args, line),
        Command::Evaluate(args) => commands::evaluate::run(args).map(success),
        Command::Predict(args) => commands::predict::run(args),
        Command::Export(args) => commands::export::run(args).map(success),
        Command::Report(args) => commands::report::run(args).map(success),
        Command::Plan(args) => commands::plan::run(args).map(success),
        Command::Compare(args) => commands::compare::run(args, line),
        Command::Bench(args) => commands::bench::run(args).map(success),
        Command::Devices(args) => commands::devices::run(args).map(success),
        Command::Runs(args) => commands::runs::run(args).map(success),
        Command::Recipes(args) => commands::recipes::run(args).map(success),
        Command::Data(args) => commands::data::run(args).map(success),
        Command::Completions(args) => commands::completions::run(args).map(success),
    };
    outcome.unwrap_or_else(|error| {
        commands::note(format_args!("error: {error}"));
        exit_code(&error)
    })
}

/// The exit code for an error: that of a command line that cannot be parsed, if the error is wrong usage, too.
pub(crate) fn exit_code(error: &Error) -> u8 {
    if error.is_usage() { 2 } else { 1 }
}
