//! `epochs.csv`, `decisions.csv` and `steps.csv`.

use std::path::Path;

use crescendo_training::Error;
use crescendo_training::events::{Event, Marks, Observer};

use crate::append_log::AppendLog;
use crate::formats::tables::{
    DECISIONS_HEADER, EPOCHS_HEADER, STEPS_HEADER, decision_line, epoch_line, step_line,
};

/// Writes a run's epochs and decisions to `epochs.csv` and `decisions.csv` in its folder, and its
/// updates to `steps.csv` if the recipe sets `train.log_steps`.
///
/// See the example of [the crate](crate).
#[derive(Default)]
pub struct CsvLogger(Option<CsvFiles>);

struct CsvFiles {
    epochs: AppendLog,
    /// Columns of `epochs.csv`.
    columns: usize,
    decisions: AppendLog,
    steps: Option<AppendLog>,
}

impl CsvFiles {
    /// Opens the files in a run's `folder`, truncated to `marks`.
    fn open(folder: &Path, marks: &Marks, steps: bool) -> Result<Self, Error> {
        let open = |name, header| AppendLog::open(folder, name, header, marks);
        let epochs = open("epochs.csv", EPOCHS_HEADER)?;
        Ok(CsvFiles {
            columns: epochs.first_line()?.split(',').count(),
            epochs,
            decisions: open("decisions.csv", DECISIONS_HEADER)?,
            steps: if steps { Some(open("steps.csv", STEPS_HEADER)?) } else { None },
        })
    }

    fn event(&mut self, event: &Event) -> Result<(), Error> {
        match (event, &mut self.steps) {
            (Event::Epoch(epoch), _) => self.epochs.append(epoch_line(epoch, self.columns)),
            (Event::Decision(decision), _) => self.decisions.append(decision_line(decision)),
            (Event::Step(step), Some(steps)) => steps.append(step_line(step)),
            _ => Ok(()),
        }
    }
}

impl Observer for CsvLogger {
    fn event(&mut self, event: &Event) -> Result<(), Error> {
        if let Event::Started { folder, marks, log_steps, .. } = event {
            self.0 = Some(CsvFiles::open(folder, marks, *log_steps)?);
        }
        self.0.as_mut().map_or(Ok(()), |files| files.event(event))
    }

    fn marks(&mut self) -> Result<Marks, Error> {
        let Some(CsvFiles { epochs, decisions, steps, .. }) = &mut self.0 else {
            return Ok(Marks::new());
        };
        let files = [Some(epochs), Some(decisions), steps.as_mut()];
        files.into_iter().flatten().map(AppendLog::mark).collect()
    }
}
