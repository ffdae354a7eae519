//! A run for programs: every event as a line of JSON.

use std::path::Path;

use crescendo_training::Error;
use crescendo_training::events::{
    Decision, DecisionKind, Epoch, Event, Observer, PlateauObservation, Step,
};
use serde_json::{Value, json};

use crate::console::print;

/// Prints a run's events on the standard output, each as an object on a line of its own.
///
/// `event` says which one it is; what else there is depends on it. A number that is not known, or not
/// finite, is `null`; accuracies are shares from 0 to 1. Readers should pass over events and fields
/// that they do not know.
///
/// - `started`: `folder`, `description`, `resumed_at` (updates done before; `null` in a new run).
/// - `changed`, on resume: `key` of the recipe, `from`, `to` (its values as text).
/// - `note`: `text`, something about the recipe that a reader should know.
/// - `decision`: `epoch` (the first that it holds for), `updates` done before, `what` (`batch_size` or
///   `learning_rate`), `from`, `to`, `reason` (can be empty), `metric` (what a plateau watched: `name`,
///   `value`, `best`, and `epochs` since the best; or `null`), `noise_scale`.
/// - `in_parts`: `batch_size`, `part` (images computed at once), `ghost` (whether the recipe asks for
///   it).
/// - `step`, after every update: `update`, `epoch`, `epochs` of the run, `batch_size`,
///   `learning_rate`, `loss` of the batch, `epoch_loss` and `epoch_accuracy` so far, `images` done of
///   `epoch_images`, `later_images` (of later epochs, as many of this one's size as have their pixels), `seconds` of
///   training in this epoch.
/// - `epoch`: `epoch`, `updates`, `batch_size`, `learning_rate`, `train_loss`, `train_accuracy`,
///   `validation_loss`, `validation_accuracy`, `test_accuracy`, `noise_scale`, `seconds`,
///   `images_per_second`.
/// - `evaluated`: `split` (`validation` or `test`), `epoch`, `accuracy`, `loss`, `classes` (their
///   names), `confusion` (for each class, how many of its images got each answer).
/// - `checkpoint`: `file`.
/// - `interrupted`: `folder` (what to resume).
/// - `finished`: `folder`, `test_accuracy`, `already` (whether the run was done before).
///
/// The last line is `interrupted` or `finished`, unless the run fails.
#[derive(Clone, Copy, Debug, Default)]
pub struct Json;

impl Observer for Json {
    fn event(&mut self, event: &Event) -> Result<(), Error> {
        if let Some(object) = object(event) {
            print(&object.to_string());
        }
        Ok(())
    }
}

/// An event as an object, if it is for programs.
fn object(event: &Event) -> Option<Value> {
    Some(match event {
        Event::Started { folder, description, resumed_at, .. } => json!({
            "event": "started",
            "folder": text(folder),
            "description": description,
            "resumed_at": resumed_at,
        }),
        Event::Note(note) => json!({ "event": "note", "text": note }),
        Event::Changed { key, from, to } => {
            json!({ "event": "changed", "key": key, "from": from, "to": to })
        }
        Event::Decision(decision) => decided(decision),
        Event::MicroBatches { batch_size, micro_batch_size: part, ghost } => {
            json!({ "event": "in_parts", "batch_size": batch_size, "part": part, "ghost": ghost })
        }
        Event::Step(step) => self::step(step),
        Event::Epoch(epoch) => self::epoch(epoch),
        Event::Evaluating { .. } => return None,
        Event::Evaluated { split, epoch, evaluation, classes } => json!({
            "event": "evaluated",
            "split": split.name(),
            "epoch": epoch,
            "accuracy": evaluation.accuracy(),
            "loss": evaluation.loss,
            "views": evaluation.views,
            "classes": classes,
            "confusion": evaluation.confusion,
        }),
        Event::Checkpoint(path) => json!({ "event": "checkpoint", "file": text(path) }),
        Event::Interrupted { folder } => json!({ "event": "interrupted", "folder": text(folder) }),
        Event::Finished { folder, test_accuracy, already } => json!({
            "event": "finished",
            "folder": text(folder),
            "test_accuracy": test_accuracy,
            "already": already,
        }),
    })
}

fn decided(decision: &Decision) -> Value {
    let metric = |PlateauObservation { name, value, best, epochs }: &PlateauObservation| json!({ "name": name, "value": value, "best": best, "epochs": epochs });
    let number = |value: f64| match decision.what {
        DecisionKind::BatchSize | DecisionKind::ImageSize => json!(value as u64),
        DecisionKind::LearningRate => json!(value),
    };
    json!({
        "event": "decision",
        "epoch": decision.epoch,
        "updates": decision.updates,
        "what": decision.what.name(),
        "from": number(decision.from),
        "to": number(decision.to),
        "reason": decision.reason,
        "metric": decision.metric.as_ref().map(metric),
        "noise_scale": decision.noise_scale,
    })
}

fn step(step: &Step) -> Value {
    json!({
        "event": "step",
        "update": step.update,
        "epoch": step.epoch,
        "epochs": step.epochs,
        "batch_size": step.batch_size,
        "learning_rate": step.learning_rate,
        "loss": step.loss,
        "epoch_loss": step.epoch_loss,
        "epoch_accuracy": step.epoch_accuracy,
        "images": step.images,
        "epoch_images": step.epoch_images,
        "later_images": step.later_images,
        "seconds": step.seconds,
    })
}

fn epoch(epoch: &Epoch) -> Value {
    json!({
        "event": "epoch",
        "epoch": epoch.epoch,
        "updates": epoch.updates,
        "batch_size": epoch.batch_size,
        "learning_rate": epoch.learning_rate,
        "train_loss": epoch.train_loss,
        "train_accuracy": epoch.train_accuracy,
        "validation_loss": epoch.validation_loss,
        "validation_accuracy": epoch.validation_accuracy,
        "test_accuracy": epoch.test_accuracy,
        "noise_scale": epoch.noise_scale,
        "seconds": epoch.seconds,
        "images_per_second": epoch.images_per_second,
    })
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
mod tests {
    use crescendo_training::events::EvaluatedSplit;
    use crescendo_training::{Evaluation, Mistake};

    use super::*;

    /// What a reader finds in the line.
    fn read(event: &Event) -> Value {
        let line = object(event).unwrap().to_string();
        assert!(!line.contains('\n'), "{line}");
        serde_json::from_str(&line).unwrap()
    }

    #[test]
    fn decisions_have_numbers_of_their_kind() {
        let mut decision = Decision {
            epoch: 61,
            updates: 24_000,
            what: DecisionKind::BatchSize,
            from: 125.0,
            to: 250.0,
            reason: "\"quoted\"\nand on".to_owned(),
            metric: Some(PlateauObservation {
                name: "train_loss",
                value: 0.5,
                best: 0.25,
                epochs: 3,
            }),
            noise_scale: None,
        };
        let read_back = read(&Event::Decision(decision.clone()));
        assert_eq!(
            read_back,
            json!({
                "event": "decision", "epoch": 61, "updates": 24_000, "what": "batch_size",
                "from": 125, "to": 250, "reason": "\"quoted\"\nand on",
                "metric": { "name": "train_loss", "value": 0.5, "best": 0.25, "epochs": 3 },
                "noise_scale": null,
            })
        );
        decision.what = DecisionKind::LearningRate;
        assert_eq!(read(&Event::Decision(decision))["from"], json!(125.0));
    }

    #[test]
    fn numbers_that_are_none_are_null() {
        let step = Step {
            update: 1,
            epoch: 1,
            epochs: 2,
            batch_size: 125,
            learning_rate: f64::NAN,
            loss: f64::INFINITY,
            epoch_loss: f64::NEG_INFINITY,
            epoch_accuracy: 0.25,
            images: 125,
            epoch_images: 1000,
            later_images: u64::MAX,
            seconds: 1.0,
        };
        let read = read(&Event::Step(step));
        for key in ["learning_rate", "loss", "epoch_loss"] {
            assert_eq!(read[key], Value::Null, "{key}");
        }
        assert_eq!(
            (&read["epoch_accuracy"], &read["later_images"]),
            (&0.25.into(), &u64::MAX.into())
        );
    }

    #[test]
    fn an_evaluation_comes_without_its_images() {
        let mistake =
            Mistake { index: 7, label: 0, answer: 1, probability: 0.9, image: vec![0; 3072] };
        let evaluation = Evaluation {
            confusion: vec![vec![3, 1], vec![0, 4]],
            loss: 0.5,
            views: 2,
            mistakes: vec![mistake],
        };
        let classes = vec!["cat".to_owned(), "mouse".to_owned()];
        let split = EvaluatedSplit::Validation;
        assert_eq!(
            read(&Event::Evaluated { split, epoch: 2, evaluation, classes }),
            json!({
                "event": "evaluated", "split": "validation", "epoch": 2, "accuracy": 0.875,
                "loss": 0.5, "views": 2, "classes": ["cat", "mouse"],
                "confusion": [[3, 1], [0, 4]],
            })
        );
        let evaluating = Event::Evaluating { split, done: 1, total: 2 };
        assert!(object(&evaluating).is_none());
    }
}
