//! The last lines of a run, for `--quiet`.

use crescendo_training::Error;
use crescendo_training::events::{Event, Observer};

use super::print_line;
use crate::messages::outcome;

/// Prints only a run's last lines on the standard output: its result, or how to resume it.
///
/// See the example of [`Observers`](crate::Observers).
#[derive(Clone, Copy, Debug, Default)]
pub struct ConsoleSummary;

impl Observer for ConsoleSummary {
    fn event(&mut self, event: &Event) -> Result<(), Error> {
        if let Some(outcome) = outcome(event) {
            print_line(&outcome);
        }
        Ok(())
    }
}
