//! Loggers that write into a run's folder: `log.txt`, the CSV files and `evaluation.json`; and
//! [`RunFolderLogger`], which writes everything that belongs there.

mod csv_logger;
mod evaluation_logger;
#[cfg(test)]
mod tests;
mod text_logger;

pub use csv_logger::CsvLogger;
pub use evaluation_logger::EvaluationLogger;
pub use text_logger::TextLogger;

use crescendo_training::Error;
use crescendo_training::events::{Event, Marks, Observer};

use crate::{HtmlReport, Observers, TensorBoardLogger};

/// Writes all files of a run's folder: `log.txt`, the CSV files, `evaluation.json`, TensorBoard's
/// event file and `report.html`.
///
/// # Example
///
/// In the folder of a `run`:
///
/// ```
/// use crescendo_logging::RunFolderLogger;
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
/// run.train(&CpuDevices, &data, &mut RunFolderLogger::default(), &false.into())?;
/// for file in ["log.txt", "epochs.csv", "decisions.csv", "evaluation.json", "report.html"] {
///     assert!(folder.join(file).exists(), "{file}");
/// }
/// # Ok::<(), crescendo_training::Error>(())
/// ```
#[derive(Default)]
pub struct RunFolderLogger {
    text: TextLogger,
    csv: CsvLogger,
    evaluation: EvaluationLogger,
    tensorboard: TensorBoardLogger,
    report: HtmlReport,
}

impl RunFolderLogger {
    /// The report comes last: it reads what the others have written.
    fn observers(&mut self) -> Observers<'_> {
        Observers(vec![
            &mut self.text,
            &mut self.csv,
            &mut self.evaluation,
            &mut self.tensorboard,
            &mut self.report,
        ])
    }
}

impl Observer for RunFolderLogger {
    fn event(&mut self, event: &Event) -> Result<(), Error> {
        self.observers().event(event)
    }

    fn marks(&mut self) -> Result<Marks, Error> {
        self.observers().marks()
    }
}
