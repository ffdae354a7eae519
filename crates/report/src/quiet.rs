//! A run that says nothing until its end.

use crescendo_training::Error;
use crescendo_training::events::{Event, Observer};

use crate::console::print;
use crate::lines::line;

/// Prints a run's last lines on the standard output: its outcome, or how to go on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quiet;

impl Observer for Quiet {
    fn event(&mut self, event: &Event) -> Result<(), Error> {
        if let Event::Interrupted { .. } | Event::Finished { .. } = event {
            print(&line(event).unwrap_or_default());
        }
        Ok(())
    }
}
