//! TensorBoard event files. Show them with `tensorboard --logdir runs`.

mod canvas;
mod hparams;
mod pictures;
mod record;

use std::path::Path;

use crescendo_training::events::{Epoch, EvaluatedSplit, Event, Marks, Observer, Step};
use crescendo_training::{Error, Evaluation, read_record, write_atomically};

use self::hparams::hyperparameters;
use self::record::Value;
use crate::append_log::AppendLog;
use crate::formats::tables::{EpochRow, read_epochs};
use crate::messages::message;

/// Writes a run's metrics, decisions and pictures of its evaluations to a TensorBoard event file in its folder, and its
/// recipe and hyperparameters to another.
///
/// A resumed run appends to the same file, truncated to the saved state as the CSV files are, so no
/// point appears twice. The best accuracies go on from those in `epochs.csv`, which
/// [`CsvLogger`](crate::CsvLogger) writes.
///
/// See the example of [`Observers`](crate::Observers).
#[derive(Default)]
pub struct TensorBoardLogger(Option<EventFile>);

/// The name of the event file. TensorBoard looks for names that contain `tfevents`.
const FILE_NAME: &str = "events.out.tfevents.0.crescendo";
/// The name of the file with what a run is, which is written anew when the run goes on: a branch begins with a copy of
/// another run's folder, but has a recipe of its own. TensorBoard follows the last file by name, so this one comes
/// before the other.
const ABOUT_NAME: &str = "events.out.tfevents.0.about";

struct EventFile {
    file: AppendLog,
    /// Whether every update is a point.
    steps: bool,
    /// Updates done when the run was started or resumed.
    updates: u64,
    /// The best accuracies so far on the validation and the test images.
    best: [Option<f64>; 2],
}

impl EventFile {
    /// Opens the file in a run's `folder`, truncated to `marks`, and writes the file about the run.
    fn open(folder: &Path, marks: &Marks, steps: bool, updates: u64) -> Result<Self, Error> {
        write_about(folder)?;
        let file = AppendLog::open(folder, FILE_NAME, record::version(), marks)?;
        let mut best = [None; 2];
        if updates > 0 {
            // A table that cannot be read is the report's to complain of.
            let rows = read_epochs(&folder.join("epochs.csv")).unwrap_or_default();
            let done = |row: &&EpochRow| row.updates.is_some_and(|done| done <= updates);
            for row in rows.iter().filter(done) {
                best = better(best, [row.validation_accuracy, row.test_accuracy]);
            }
        }
        Ok(EventFile { file, steps, updates, best })
    }

    fn event(&mut self, event: &Event) -> Result<(), Error> {
        match event {
            Event::Epoch(epoch) => {
                self.best = better(self.best, [epoch.validation_accuracy, epoch.test_accuracy]);
                self.file.append(epoch_record(epoch, self.best))
            }
            Event::Step(step) if self.steps => self.file.append(step_record(step)),
            Event::Evaluated { split, epoch, evaluation, classes } => {
                self.file.append(pictures_record(*split, *epoch, evaluation, classes))
            }
            Event::Decision(decision) => {
                let tag = format!("decisions/{}", decision.what.name());
                self.text(decision.epoch.into(), &tag, event)
            }
            Event::Changed { key, .. } => self.text(self.updates, &format!("changes/{key}"), event),
            Event::Finished { .. } => {
                let end = [("_hparams_/session_end_info", Value::SessionEnd)];
                self.file.append(record::summary(0, end))
            }
            _ => Ok(()),
        }
    }

    /// Writes an event's message under a tag.
    fn text(&mut self, step: u64, tag: &str, event: &Event) -> Result<(), Error> {
        let text = Value::Text(message(event).unwrap_or_default());
        self.file.append(record::summary(step, [(tag, text)]))
    }
}

impl Observer for TensorBoardLogger {
    fn event(&mut self, event: &Event) -> Result<(), Error> {
        if let Event::Started { folder, marks, log_steps, resumed_at, .. } = event {
            self.0 = Some(EventFile::open(folder, marks, *log_steps, resumed_at.unwrap_or(0))?);
        }
        self.0.as_mut().map_or(Ok(()), |file| file.event(event))
    }

    fn marks(&mut self) -> Result<Marks, Error> {
        self.0.iter_mut().map(|file| file.file.mark()).collect()
    }
}

/// Writes the file with a run's recipe and hyperparameters.
fn write_about(folder: &Path) -> Result<(), Error> {
    let path = folder.join("recipe.toml");
    let recipe = std::fs::read_to_string(&path);
    let recipe = recipe.map_err(|error| Error::io("read", &path, error))?;
    // Markdown shows indented text as code.
    let recipe: String = recipe.lines().map(|line| format!("    {line}\n")).collect();
    let values = [
        ("recipe", Value::Text(recipe)),
        (
            "_hparams_/session_start_info",
            Value::SessionStart(hyperparameters(&read_record(folder)?)?),
        ),
    ];
    let content = [record::version(), record::summary(0, values)].concat();
    write_atomically(&folder.join(ABOUT_NAME), |file| file.write_all(&content))
}

/// The better ones of accuracies that may be unknown.
fn better(best: [Option<f64>; 2], new: [Option<f64>; 2]) -> [Option<f64>; 2] {
    [0, 1].map(|split| match (best[split], new[split]) {
        (Some(best), Some(new)) => Some(best.max(new)),
        (best, new) => best.or(new),
    })
}

/// The metrics of an epoch; the step is the epoch's number. The `best` accuracies so far are repeated after every
/// evaluation, because the table of hyperparameters shows the last value of a metric.
fn epoch_record(epoch: &Epoch, best: [Option<f64>; 2]) -> Vec<u8> {
    let values = [
        ("loss/train", Some(epoch.train_loss)),
        ("loss/validation", epoch.validation_loss),
        ("loss/test", epoch.test_loss),
        ("accuracy/train", Some(epoch.train_accuracy)),
        ("accuracy/validation", epoch.validation_accuracy),
        ("accuracy/test", epoch.test_accuracy),
        ("accuracy/best_validation", epoch.validation_accuracy.and(best[0])),
        ("accuracy/best_test", epoch.test_accuracy.and(best[1])),
        ("batch_size", Some(epoch.batch_size as f64)),
        ("learning_rate", Some(epoch.learning_rate)),
        ("noise_scale", epoch.noise_scale),
        ("images_per_second", Some(epoch.images_per_second)),
    ];
    let known = values.into_iter().filter_map(|(tag, value)| Some((tag, Value::Scalar(value?))));
    record::summary(epoch.epoch.into(), known)
}

/// The metrics of an update, in a group of their own because the step is the update's number.
fn step_record(step: &Step) -> Vec<u8> {
    let values = [
        ("step/loss", step.loss),
        ("step/batch_size", step.batch_size as f64),
        ("step/learning_rate", step.learning_rate),
    ];
    record::summary(step.update, values.map(|(tag, value)| (tag, Value::Scalar(value))))
}

/// The pictures of an evaluation; the step is the epoch's number.
fn pictures_record(
    split: EvaluatedSplit,
    epoch: u32,
    evaluation: &Evaluation,
    classes: &[String],
) -> Vec<u8> {
    let [matrix, mistakes] =
        ["confusion_matrix", "worst_mistakes"].map(|tag| format!("{tag}/{}", split.name()));
    let pictures = [
        (&matrix[..], Some(pictures::confusion_matrix(evaluation, classes))),
        (&mistakes[..], pictures::mistakes(evaluation, classes)),
    ];
    let pictures = pictures.into_iter();
    let drawn = pictures.filter_map(|(tag, picture)| Some((tag, Value::Picture(picture?))));
    record::summary(epoch.into(), drawn)
}
