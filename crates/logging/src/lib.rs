//! Logging of training runs: the files in a run's folder (text log, CSV files, TensorBoard events,
//! HTML report) and the output on the terminal.
//!
//! Every logger is an [`Observer`] of the run's events. Loggers only record and format; they never
//! influence a run.
//!
//! # Example
//!
//! ```
//! use crescendo_logging::usual_observers;
//! use crescendo_cpu::CpuDevices;
//! use crescendo_training::{Recipe, Run, Start};
//!
//! let data = crescendo_data::shapes::generate(0, 100, 50);
//! let changes = ["train.epochs=1", "network.widths=[4, 4, 4]"];
//! let recipe = Recipe::load("quick", &changes)?;
//! # let folder = tempfile::tempdir().unwrap();
//! let folder = folder.path().join("run");
//! let devices = &CpuDevices;
//! let start = Start::new(&recipe, &data, devices);
//! let mut run = Run::create(&folder, &start)?;
//! run.train(devices, &data, &mut usual_observers(), &false.into())?;
//! let table = std::fs::read_to_string(folder.join("epochs.csv")).unwrap();
//! assert!(table.starts_with("epoch,updates,batch_size,learning_rate,train_loss"));
//! assert!(folder.join("report.html").exists());
//! # Ok::<(), crescendo_training::Error>(())
//! ```

mod append_log;
mod comparison_table;
mod confusions;
mod formats;
mod messages;
pub mod report;
mod run_folder;
mod shell;
mod tensorboard;
mod terminal;

pub use comparison_table::ComparisonTable;
pub use formats::csv::quote as quote_csv;
pub use formats::tables::best_accuracy;
pub use messages::display_seconds;
pub use report::HtmlReport;
pub use run_folder::{CsvLogger, EvaluationLogger, RunFolderLogger, TextLogger};
pub use shell::command_line;
pub use tensorboard::TensorBoardLogger;
pub use terminal::{
    ClassTable, ConfusionMatrix, ConsoleProgress, ConsoleSummary, JsonEvents, event_object,
    progress_bar, terminal_columns,
};

use crescendo_training::Error;
use crescendo_training::events::{Event, Marks, Observer};

/// What most programs want: all files of a run's folder ([`RunFolderLogger`]), and progress on the terminal
/// ([`ConsoleProgress`]). With others in [`Observers`]:
///
/// ```
/// use crescendo_logging::{Observers, usual_observers};
/// use crescendo_training::events::{Event, Observer};
///
/// /// Counts the epochs.
/// struct Count(u32);
///
/// impl Observer for Count {
///     fn event(&mut self, event: &Event) -> Result<(), crescendo_training::Error> {
///         self.0 += u32::from(matches!(event, Event::Epoch(_)));
///         Ok(())
///     }
/// }
///
/// let (mut usual, mut count) = (usual_observers(), Count(0));
/// let mut observers = Observers(vec![&mut usual, &mut count]);
/// assert!(!observers.wants_stop());
/// ```
pub fn usual_observers() -> impl Observer {
    struct Usual(RunFolderLogger, ConsoleProgress);

    impl Observer for Usual {
        fn event(&mut self, event: &Event) -> Result<(), Error> {
            Observers(vec![&mut self.0, &mut self.1]).event(event)
        }

        fn marks(&mut self) -> Result<Marks, Error> {
            Observers(vec![&mut self.0, &mut self.1]).marks()
        }
    }

    Usual(RunFolderLogger::default(), ConsoleProgress::default())
}

/// Passes every event to several observers, in order.
///
/// # Example
///
/// In the folder of a `run`, and on the terminal:
///
/// ```
/// use crescendo_logging::{
///     ConsoleSummary, EvaluationLogger, JsonEvents, Observers, TensorBoardLogger, TextLogger,
/// };
/// # use crescendo_cpu::CpuDevices;
/// # use crescendo_data::shapes;
/// # use crescendo_training::{Recipe, Run, Start};
/// # let data = shapes::generate(0, 60, 20);
/// # let recipe = Recipe::load("quick", &["train.epochs=1", "network.widths=[4, 4, 4]"])?;
/// # let folder = tempfile::tempdir().unwrap();
/// # let folder = folder.path().join("first");
/// # let start = Start::new(&recipe, &data, &CpuDevices);
/// # let mut run = Run::create(&folder, &start)?;
///
/// let (mut text, mut tensorboard) = (TextLogger::default(), TensorBoardLogger::default());
/// let (mut evaluation, mut json, mut summary) = (EvaluationLogger::default(), JsonEvents, ConsoleSummary);
/// let mut all = Observers(vec![&mut text, &mut tensorboard, &mut evaluation]);
/// let wants_json = std::env::args().any(|argument| argument == "--json");
/// all.0.push(if wants_json { &mut json } else { &mut summary });
/// run.train(&CpuDevices, &data, &mut all, &false.into())?;
/// let log = std::fs::read_to_string(folder.join("log.txt")).unwrap();
/// assert!(log.starts_with("Training custom: ") && log.contains("\nEpoch 1 Loss "));
/// assert!(folder.join("events.out.tfevents.0.crescendo").exists());
/// let evaluation = std::fs::read_to_string(folder.join("evaluation.json")).unwrap();
/// assert!(evaluation.contains("\"confusion\""));
/// # Ok::<(), crescendo_training::Error>(())
/// ```
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_observer_that_wants_to_stop_is_enough() {
        struct Stops(bool);
        impl Observer for Stops {
            fn event(&mut self, _: &Event) -> Result<(), Error> {
                Err(Error::observer("no"))
            }

            fn wants_stop(&self) -> bool {
                self.0
            }
        }
        let (mut no, mut yes) = (Stops(false), Stops(true));
        assert!(!Observers(vec![&mut no]).wants_stop());
        assert!(Observers(vec![&mut no, &mut yes]).wants_stop());
        let error = Observers(vec![&mut (), &mut no]).event(&Event::Note(String::new()));
        assert_eq!(error.unwrap_err().to_string(), "no");
    }
}
