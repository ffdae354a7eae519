//! Output on the terminal: progress bars and messages, JSON events, or only a summary.

mod confusion_matrix;
mod console;
mod json_events;
mod summary;

pub use confusion_matrix::{ClassTable, ConfusionMatrix};
pub use console::{ConsoleProgress, progress_bar};
pub use json_events::{JsonEvents, event_object};
pub use summary::ConsoleSummary;

use std::io::{Write, stdout};

use ::console::Term;

/// The width of the terminal; 80 columns if the output is no terminal.
///
/// ```
/// assert!(crescendo_logging::terminal_columns() > 0);
/// ```
pub fn terminal_columns() -> usize {
    Term::stdout().size().1.into()
}

/// Prints a line on the standard output.
fn print_line(line: &str) {
    // A reader that closed the pipe must not stop a run that takes hours.
    let _ = writeln!(stdout(), "{line}");
}
