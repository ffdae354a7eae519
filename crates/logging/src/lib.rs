//! Logging of training runs: the files in a run's folder (text log, CSV files, TensorBoard events,
//! HTML report) and the output on the terminal.
//!
//! Every logger is an [`Observer`] of the run's events. Loggers only record and format; they never
//! influence a run.
//!
//! # Example
//!
//! ```
//! use crescendo_logging::{ConsoleProgress, CsvLogger, Observers};
//! use crescendo_cpu::CpuDevices;
//! use crescendo_training::{Recipe, Run, Start};
//!
//! let data = crescendo_data::shapes::generate(0, 100, 50);
//! let changes = ["train.epochs=1", "network.widths=[4, 4, 4]"];
//! let recipe = Recipe::load("quick", &changes)?;
//! # let folder = tempfile::tempdir().unwrap();
//! let folder = folder.path().join("run");
//! let (recipe_name, data_location) = ("quick", "shapes:100,50");
//! let (init, devices) = (None, &CpuDevices);
//! let start = Start { recipe: &recipe, recipe_name, data: &data, data_location, init, devices };
//! let mut run = Run::create(&folder, &start)?;
//! let (mut csv, mut console) = (CsvLogger::default(), ConsoleProgress::default());
//! run.train(devices, &data, &mut Observers(vec![&mut csv, &mut console]), &false.into())?;
//! let table = std::fs::read_to_string(folder.join("epochs.csv")).unwrap();
//! assert!(table.starts_with("epoch,updates,batch_size,learning_rate,train_loss"));
//! # Ok::<(), crescendo_training::Error>(())
//! ```

mod append_log;
mod formats;
mod messages;
pub mod report;
mod run_folder;
mod tensorboard;
mod terminal;

pub use formats::csv::quote as quote_csv;
pub use report::HtmlReport;
pub use run_folder::{CsvLogger, EvaluationLogger, RunFolderLogger, TextLogger};
pub use tensorboard::TensorBoardLogger;
pub use terminal::{ConfusionMatrix, ConsoleProgress, ConsoleSummary, JsonEvents, progress_bar};

use crescendo_training::Error;
use crescendo_training::events::{Event, Marks, Observer};

/// Passes every event to several observers, in order.
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

    fn wants_stop(&self) -> bool {
        self.0.iter().any(|observer| observer.wants_stop())
    }
}
