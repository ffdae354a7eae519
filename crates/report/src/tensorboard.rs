//! A run as TensorBoard shows it: `tensorboard --logdir runs`.

use std::path::Path;

use crescendo_training::events::{Epoch, Event, Marks, Observer, Step};
use crescendo_training::{Error, read_record};

use crate::grown::Grown;
use crate::lines::line;
use crate::record::{self, Value};

/// Writes a run's curves, its recipe and its decisions into its folder, for TensorBoard.
///
/// A resume goes on with the same file, cut back to the saved state as the tables are, so that no point
/// is there twice.
#[derive(Default)]
pub struct TensorBoard(Option<Events>);

/// The file in a run's folder. TensorBoard looks for names with `tfevents`.
const FILE: &str = "events.out.tfevents.0.crescendo";

struct Events {
    file: Grown,
    /// Whether every update is a point.
    steps: bool,
    /// Updates done when the run began, or went on.
    updates: u64,
}

impl Events {
    /// Opens the file in a run's `folder`, cut back to `marks`.
    fn open(folder: &Path, marks: &Marks, steps: bool, updates: u64) -> Result<Self, Error> {
        let path = folder.join("recipe.toml");
        let recipe = std::fs::read_to_string(&path);
        let recipe = recipe.map_err(|error| Error::io("read", &path, error))?;
        // Indented, Markdown takes it for code.
        let recipe: String = recipe.lines().map(|line| format!("    {line}\n")).collect();
        let header =
            [record::version(), record::summary(0, [("recipe", Value::Text(recipe.clone()))])]
                .concat();
        let mut file = Grown::open(folder, FILE, header, marks)?;
        // A branch begins with the file, and the recipe, of another run.
        if updates > 0 && read_record(folder)?.run.branch_of.is_some() {
            file.write(record::summary(updates, [("recipe", Value::Text(recipe))]))?;
        }
        Ok(Events { file, steps, updates })
    }

    fn event(&mut self, event: &Event) -> Result<(), Error> {
        match event {
            Event::Epoch(epoch) => self.file.write(epoch_record(epoch)),
            Event::Step(step) if self.steps => self.file.write(step_record(step)),
            Event::Decision(decision) => {
                let tag = format!("decisions/{}", decision.what.name());
                self.text(decision.epoch.into(), &tag, event)
            }
            Event::Changed { key, .. } => self.text(self.updates, &format!("changes/{key}"), event),
            _ => Ok(()),
        }
    }

    /// Writes an event's line down.
    fn text(&mut self, step: u64, tag: &str, event: &Event) -> Result<(), Error> {
        let text = Value::Text(line(event).unwrap_or_default());
        self.file.write(record::summary(step, [(tag, text)]))
    }
}

impl Observer for TensorBoard {
    fn event(&mut self, event: &Event) -> Result<(), Error> {
        if let Event::Started { folder, marks, log_steps, resumed_at, .. } = event {
            self.0 = Some(Events::open(folder, marks, *log_steps, resumed_at.unwrap_or(0))?);
        }
        self.0.as_mut().map_or(Ok(()), |events| events.event(event))
    }

    fn marks(&mut self) -> Result<Marks, Error> {
        self.0.iter_mut().map(|events| events.file.mark()).collect()
    }
}

/// What is known after an epoch, by its number.
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

/// An update, by its number: a group of its own, whose axis counts updates and not epochs.
fn step_record(step: &Step) -> Vec<u8> {
    let values = [
        ("step/loss", step.loss),
        ("step/batch_size", step.batch_size as f64),
        ("step/learning_rate", step.learning_rate),
    ];
    record::summary(step.update, values.map(|(tag, value)| (tag, Value::Scalar(value))))
}
