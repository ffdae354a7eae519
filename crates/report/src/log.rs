//! The files of a run that grow line by line: `log.txt`, `epochs.csv`, `decisions.csv` and
//! `steps.csv`; and `evaluation.json`, which has the latest evaluations.

use std::path::{Path, PathBuf};

use crescendo_training::Error;
use crescendo_training::events::{Decision, Epoch, Event, Marks, Observer, Step};

use crate::grown::Grown;
use crate::lines::line;
use crate::page::csv::quote;
use crate::page::evaluations::{Entry, Evaluations};

/// Writes a run's log and tables into its folder, from the moment that the run starts.
#[derive(Default)]
pub struct Log(Option<Files>);

struct Files {
    log: Grown,
    epochs: Grown,
    decisions: Grown,
    steps: Option<Grown>,
    folder: PathBuf,
}

const EPOCHS: &str = "epoch,updates,batch_size,learning_rate,train_loss,test_accuracy,seconds,\
                      images_per_second,validation_accuracy,train_accuracy,validation_loss,\
                      noise_scale\n";
const DECISIONS: &str = "epoch,updates,what,from,to,reason,metric,value,best,\
                         epochs_without_improvement,noise_scale\n";
const STEPS: &str = "step,epoch,batch_size,learning_rate,loss\n";

impl Files {
    /// Opens the files in a run's `folder`, cut back to `marks`.
    fn open(folder: &Path, marks: &Marks, steps: bool) -> Result<Self, Error> {
        let open = |name, header| Grown::open(folder, name, header, marks);
        Ok(Files {
            log: open("log.txt", "")?,
            epochs: open("epochs.csv", EPOCHS)?,
            decisions: open("decisions.csv", DECISIONS)?,
            steps: if steps { Some(open("steps.csv", STEPS)?) } else { None },
            folder: folder.to_owned(),
        })
    }

    fn event(&mut self, event: &Event) -> Result<(), Error> {
        match (event, &mut self.steps) {
            (Event::Epoch(epoch), _) => self.epochs.write(epoch_row(epoch))?,
            (Event::Decision(decision), _) => self.decisions.write(decision_row(decision))?,
            (Event::Step(step), Some(steps)) => steps.write(step_row(step))?,
            (Event::Evaluated { split, epoch, evaluation, classes }, _) => {
                // What cannot be read is only what was evaluated before.
                let mut all = Evaluations::read(&self.folder).unwrap_or_default();
                all.keep(&self.folder, *split, Entry::new(*epoch, evaluation, classes))?;
            }
            _ => {}
        }
        line(event).map_or(Ok(()), |line| self.log.write(format!("{line}\n")))
    }
}

impl Observer for Log {
    fn event(&mut self, event: &Event) -> Result<(), Error> {
        if let Event::Started { folder, marks, log_steps, .. } = event {
            self.0 = Some(Files::open(folder, marks, *log_steps)?);
        }
        self.0.as_mut().map_or(Ok(()), |files| files.event(event))
    }

    fn marks(&mut self) -> Result<Marks, Error> {
        let Some(Files { log, epochs, decisions, steps, .. }) = &mut self.0 else {
            return Ok(Marks::new());
        };
        let files = [Some(log), Some(epochs), Some(decisions), steps.as_mut()];
        files.into_iter().flatten().map(Grown::mark).collect()
    }
}

fn epoch_row(epoch: &Epoch) -> String {
    let accuracy = |value: Option<f64>| cell(value, 4);
    format!(
        "{},{},{},{},{:.6},{},{:.3},{:.1},{},{:.4},{},{}\n",
        epoch.epoch,
        epoch.updates,
        epoch.batch_size,
        epoch.learning_rate,
        epoch.train_loss,
        accuracy(epoch.test_accuracy),
        epoch.seconds,
        epoch.images_per_second,
        accuracy(epoch.validation_accuracy),
        epoch.train_accuracy,
        cell(epoch.validation_loss, 6),
        cell(epoch.noise_scale, 1),
    )
}

fn decision_row(decision: &Decision) -> String {
    let Decision { epoch, updates, from, to, metric, noise_scale, .. } = decision;
    let what = decision.what.name();
    let reason = quote(&decision.reason);
    let watched = match metric {
        Some(watched) => format!(
            "{},{},{},{}",
            watched.name,
            cell(Some(watched.value), 6),
            cell(Some(watched.best), 6),
            watched.epochs
        ),
        None => ",,,".to_owned(),
    };
    let noise_scale = cell(*noise_scale, 1);
    format!("{epoch},{updates},{what},{from},{to},{reason},{watched},{noise_scale}\n")
}

/// A number with so many digits; nothing for one that is not known or not finite.
fn cell(value: Option<f64>, digits: usize) -> String {
    let value = value.filter(|value| value.is_finite());
    value.map_or(String::new(), |value| format!("{value:.digits$}"))
}

fn step_row(step: &Step) -> String {
    let Step { update, epoch, batch_size, learning_rate, loss, .. } = step;
    format!("{update},{epoch},{batch_size},{learning_rate},{loss}\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crescendo_training::Evaluation;
    use crescendo_training::events::{DecisionKind, EvaluatedSplit, PlateauObservation};

    fn epoch(epoch: u32, test_accuracy: Option<f64>) -> Event {
        Event::Epoch(Epoch {
            epoch,
            updates: 400,
            batch_size: 125,
            learning_rate: 0.1,
            train_loss: 1.8525814,
            train_accuracy: 0.31257,
            validation_loss: None,
            validation_accuracy: None,
            test_accuracy,
            noise_scale: Some(812.34),
            seconds: 77.1419,
            images_per_second: 648.2,
        })
    }

    fn decision(metric: Option<PlateauObservation>) -> Event {
        Event::Decision(Decision {
            epoch: 2,
            updates: 400,
            what: DecisionKind::BatchSize,
            from: 125.0,
            to: 250.0,
            reason: "no \"progress\", for 3 epochs".to_owned(),
            metric,
            noise_scale: None,
        })
    }

    fn start(folder: &Path, marks: &Marks) -> Log {
        let mut log = Log::default();
        let (folder, description) = (folder.to_owned(), "a test".to_owned());
        let (resumed_at, marks, log_steps) = (None, marks.clone(), true);
        let started = Event::Started { folder, description, resumed_at, marks, log_steps };
        log.event(&started).unwrap();
        log
    }

    #[test]
    fn files_are_cut_back_to_the_marks() {
        let folder = tempfile::tempdir().unwrap();
        let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
        let start = |marks: &Marks| start(folder.path(), marks);
        let mut log = start(&Marks::new());
        log.event(&epoch(1, None)).unwrap();
        let marks = log.marks().unwrap();
        let tables = ["epochs.csv", "steps.csv", "decisions.csv"];
        let (before, lines) = (tables.map(read), read("log.txt"));
        log.event(&decision(None)).unwrap();
        log.event(&epoch(2, Some(0.9356))).unwrap();
        let row = "2,400,125,0.1,1.852581,0.9356,77.142,648.2,,0.3126,,812.3\n";
        assert!(read("epochs.csv").ends_with(row), "{}", read("epochs.csv"));
        assert_eq!(read("decisions.csv").lines().count(), 2);
        drop(log);
        let mut log = start(&marks);
        assert_eq!(tables.map(read), before);
        assert_eq!(lines, "Training a test\nEpoch 1 Loss 1.852581 Duration 77.142 seconds.\n");
        assert_eq!(read("log.txt"), format!("{lines}Training a test\n"));
        log.event(&epoch(2, None)).unwrap();
        assert_eq!(read("epochs.csv").lines().count(), 3);
    }

    #[test]
    fn decisions_are_rows_with_their_reasons() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = start(folder.path(), &Marks::new());
        let best = f64::INFINITY;
        let watched = PlateauObservation { name: "train_loss", value: 0.51, best, epochs: 3 };
        for metric in [None, Some(watched)] {
            log.event(&decision(metric)).unwrap();
        }
        let text = std::fs::read_to_string(folder.path().join("decisions.csv")).unwrap();
        let reason = "\"no \"\"progress\"\", for 3 epochs\"";
        let rows = [
            format!("2,400,batch_size,125,250,{reason},,,,,"),
            format!("2,400,batch_size,125,250,{reason},train_loss,0.510000,,3,"),
        ];
        assert_eq!(text.lines().skip(1).collect::<Vec<_>>(), rows);
    }

    #[test]
    fn a_damaged_evaluation_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("evaluation.json"), "{").unwrap();
        let mut log = start(folder.path(), &Marks::new());
        let evaluation =
            Evaluation { confusion: vec![vec![1]], loss: 0.5, ..Evaluation::default() };
        let (split, classes) = (EvaluatedSplit::Test, vec!["all".to_owned()]);
        log.event(&Event::Evaluated { split, epoch: 3, evaluation, classes }).unwrap();
        assert_eq!(Evaluations::read(folder.path()).unwrap().test.unwrap().epoch, 3);
    }
}
