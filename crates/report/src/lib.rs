//! What a person sees of a run: its tables and log in the run's folder, lines and progress bars on
//! a terminal.
//!
//! Everything here is an [`Observer`](crescendo_training::events::Observer) or formats numbers that
//! others worked out; nothing here decides anything.
//!
//! # Example
//!
//! ```
//! use crescendo_report::{Console, Log, Observers};
//! use crescendo_training::events::{Event, Observer};
//!
//! # let folder = tempfile::tempdir().unwrap();
//! # let folder = folder.path();
//! let mut log = Log::open(folder, &Default::default(), false)?;
//! let mut console = Console::new();
//! let mut both = Observers(vec![&mut log, &mut console]);
//! both.event(&Event::BatchSizeChanged { from: 125, to: 250 })?;
//! let text = std::fs::read_to_string(folder.join("log.txt")).unwrap();
//! assert_eq!(text, "Increasing batch size from 125 to 250\n");
//! # Ok::<(), crescendo_training::Error>(())
//! ```

mod console;
mod evaluation;
mod lines;
mod log;

pub use console::{Console, bar};
pub use evaluation::Table;
pub use log::Log;

use crescendo_training::Error;
use crescendo_training::events::{Event, Marks, Observer};

/// Several observers as one.
pub struct Observers<'a>(pub Vec<&'a mut dyn Observer>);

impl Observer for Observers<'_> {
    fn event(&mut self, event: &Event) -> Result<(), Error> {
        self.0.iter_mut().try_for_each(|observer| observer.event(event))
    }

    fn marks(&mut self) -> Result<Marks, Error> {
        let mut marks = Marks::new();
        for observer in &mut self.0 {
            marks.extend(observer.marks()?);
        }
        Ok(marks)
    }
}
