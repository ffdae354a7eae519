//! What a person sees of a run: its tables, log, curves and page in the run's folder, lines and progress
//! bars on a terminal; and what a program does.
//!
//! Everything here is an [`Observer`] or formats numbers that
//! others worked out; nothing here decides anything.
//!
//! # Example
//!
//! ```
//! use crescendo_report::{Console, Log, Observers};
//! use crescendo_training::{Recipe, Run, Start};
//!
//! let data = crescendo_data::shapes::generate(0, 100, 50);
//! let changes = ["train.epochs=1", "network.widths=[4, 4, 4]"];
//! let recipe = Recipe::load("quick", &changes)?;
//! # let folder = tempfile::tempdir().unwrap();
//! let folder = folder.path().join("run");
//! let (recipe_name, data_location) = ("quick", "shapes:100,50");
//! let start = Start { recipe: &recipe, recipe_name, data: &data, data_location, init: None };
//! let mut run = Run::create(&folder, &start)?;
//! let (mut log, mut console) = (Log::default(), Console::default());
//! run.train(&data, &mut Observers(vec![&mut log, &mut console]), &false.into())?;
//! let table = std::fs::read_to_string(folder.join("epochs.csv")).unwrap();
//! assert!(table.starts_with("epoch,updates,batch_size,learning_rate,train_loss"));
//! # Ok::<(), crescendo_training::Error>(())
//! ```

mod console;
mod evaluation;
mod grown;
mod json;
mod lines;
mod log;
pub mod page;
mod quiet;
mod record;
mod tensorboard;

pub use console::{Console, bar};
pub use evaluation::Table;
pub use json::Json;
pub use log::Log;
pub use page::Page;
pub use quiet::Quiet;
pub use tensorboard::TensorBoard;

use crescendo_training::Error;
use crescendo_training::events::{Event, Marks, Observer};

/// Everything that is written into a run's folder.
#[derive(Default)]
pub struct Folder {
    log: Log,
    board: TensorBoard,
    page: Page,
}

impl Folder {
    /// The page behind the log, whose tables it shows.
    fn observers(&mut self) -> Observers<'_> {
        Observers(vec![&mut self.log, &mut self.board, &mut self.page])
    }
}

impl Observer for Folder {
    fn event(&mut self, event: &Event) -> Result<(), Error> {
        self.observers().event(event)
    }

    fn marks(&mut self) -> Result<Marks, Error> {
        self.observers().marks()
    }
}

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
