//! TensorBoard event files. Show them with `tensorboard --logdir runs`.

mod record;

use std::path::Path;

use crescendo_training::events::{Epoch, Event, Marks, Observer, Step};
use crescendo_training::{Error, read_record};

use self::record::Value;
use crate::append_log::AppendLog;
use crate::messages::message;

/// Writes a run's metrics, recipe and decisions to a TensorBoard event file in its folder.
///
/// A resumed run appends to the same file, truncated to the saved state as the CSV files are, so no
/// point appears twice.
///
/// See the example of [`Observers`](crate::Observers).
#[derive(Default)]
pub struct TensorBoardLogger(Option<EventFile>);

/// The name of the event file. TensorBoard looks for names that contain `tfevents`.
const FILE_NAME: &str = "events.out.tfevents.0.crescendo";

struct EventFile {
    file: AppendLog,
    /// Whether every update is a point.
    steps: bool,
    /// Updates done when the run was started or resumed.
    updates: u64,
}

impl EventFile {
    /// Opens the file in a run's `folder`, truncated to `marks`.
    fn open(folder: &Path, marks: &Marks, steps: bool, updates: u64) -> Result<Self, Error> {
        let path = folder.join("recipe.toml");
        let recipe = std::fs::read_to_string(&path);
        let recipe = recipe.map_err(|error| Error::io("read", &path, error))?;
        // Markdown shows indented text as code.
        let recipe: String = recipe.lines().map(|line| format!("    {line}\n")).collect();
        let header =
            [record::version(), record::summary(0, [("recipe", Value::Text(recipe.clone()))])]
                .concat();
        let mut file = AppendLog::open(folder, FILE_NAME, header, marks)?;
        // A branch begins with a copy of another run's file, which has that run's recipe.
        if updates > 0 && read_record(folder)?.run.branch_of.is_some() {
            file.append(record::summary(updates, [("recipe", Value::Text(recipe))]))?;
        }
        Ok(EventFile { file, steps, updates })
    }

    fn event(&mut self, event: &Event) -> Result<(), Error> {
        match event {
            Event::Epoch(epoch) => self.file.append(epoch_record(epoch)),
            Event::Step(step) if self.steps => self.file.append(step_record(step)),
            Event::Decision(decision) => {
                let tag = format!("decisions/{}", decision.what.name());
                self.text(decision.epoch.into(), &tag, event)
            }
            Event::Changed { key, .. } => self.text(self.updates, &format!("changes/{key}"), event),
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

/// The metrics of an epoch; the step is the epoch's number.
fn epoch_record(epoch: &Epoch) -> Vec<u8> {
    let values = [
        ("loss/train", Some(epoch.train_loss)),
        ("loss/validation", epoch.validation_loss),
        ("accuracy/train", Some(epoch.train_accuracy)),
        ("accuracy/validation", epoch.validation_accuracy),
        ("accuracy/test", epoch.test_accuracy),
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
