//! Events as lines of JSON, for programs.

use std::path::Path;

use crescendo_training::Error;
use crescendo_training::events::{
    Decision, DecisionKind, Epoch, Event, Observer, PlateauObservation, Step,
};
use serde_json::{Value, json};

use super::print_line;

/// Prints a run's events on the standard output as JSON Lines: one object per line.
///
/// The key `event` names the kind of event, which determines the other keys. A number that is
/// unknown or not finite is `null`; accuracies are between 0 and 1. Readers should ignore events
/// and keys that they do not know.
///
/// - `started`: `folder`, `description`, `resumed_at` (updates done before the resume; `null` for a
///   new run).
/// - `changed`, on resume: `key` of the recipe, its values `from` and `to` (as text).
/// - `note`: `text`, a remark about the recipe.
/// - `decision`: `epoch` (the first one with the new value), `updates` done before, `what`
///   (`batch_size`, `learning_rate` or `side`, the image size), `from`, `to`, `reason` (may be
///   empty), `metric` (what a plateau policy monitored: `name`, `value`, `best`, and `epochs` since
///   the best; or `null`), `noise_scale`.
/// - `in_parts` (gradient accumulation): `batch_size`, `part` (images of a micro-batch), `ghost`
///   (whether the recipe asks for it with `network.norm.ghost`).
/// - `step`, after every update: `update`, `epoch`, `epochs` of the run, `batch_size`,
///   `learning_rate`, `loss` of the batch, `epoch_loss` and `epoch_accuracy` so far, `images` done
///   of `epoch_images`, `later_images` (of later epochs, converted to this epoch's image size by
///   their number of pixels), `seconds` of training in this epoch.
/// - `epoch`: `epoch`, `updates`, `batch_size`, `learning_rate`, `train_loss`, `train_accuracy`,
///   `validation_loss`, `validation_accuracy`, `test_loss`, `test_accuracy`, `noise_scale`, `seconds`,
///   `images_per_second`.
/// - `evaluated`: `split` (`validation` or `test`), `epoch`, `accuracy`, `balanced_accuracy`,
///   `top5_accuracy` (`null` with ten classes or fewer), `loss`, `calibration_error`, `views` (views of
///   each image whose predictions were averaged), `classes` (their names), `confusion` (the
///   confusion matrix: a row for each class, with the number of its images predicted as each
///   class).
/// - `checkpoint`: `file`.
/// - `interrupted`: `folder` (the run to resume).
/// - `finished`: `folder`, `test_accuracy`, `already` (whether the run was finished before).
///
/// The last line is `interrupted` or `finished`, unless the run fails.
///
/// See the example of [`Observers`](crate::Observers).
#[derive(Clone, Copy, Debug, Default)]
pub struct JsonEvents;

impl Observer for JsonEvents {
    fn event(&mut self, event: &Event) -> Result<(), Error> {
        if let Some(object) = event_object(event) {
            print_line(&object.to_string());
        }
        Ok(())
    }
}

/// An event as the JSON object that [`JsonEvents`] prints; `None` for the progress of an evaluation.
///
/// # Example
///
/// ```
/// use crescendo_logging::event_object;
/// use crescendo_training::events::Event;
///
/// let object = event_object(&Event::Note("the data has two classes".into())).unwrap();
/// assert_eq!((&object["event"], &object["text"]), (&"note".into(), &"the data has two classes".into()));
/// ```
pub fn event_object(event: &Event) -> Option<Value> {
    Some(match event {
        Event::Started { folder, description, resumed_at, .. } => json!({
            "event": "started",
            "folder": path_text(folder),
            "description": description,
            "resumed_at": resumed_at,
        }),
        Event::Note(note) => json!({ "event": "note", "text": note }),
        Event::Changed { key, from, to } => {
            json!({ "event": "changed", "key": key, "from": from, "to": to })
        }
        Event::Decision(decision) => decision_object(decision),
        Event::MicroBatches { batch_size, micro_batch_size: part, ghost } => {
            json!({ "event": "in_parts", "batch_size": batch_size, "part": part, "ghost": ghost })
        }
        Event::Step(step) => step_object(step),
        Event::Epoch(epoch) => epoch_object(epoch),
        Event::Evaluated { split, epoch, evaluation, classes } => json!({
            "event": "evaluated",
            "split": split.name(),
            "epoch": epoch,
            "accuracy": evaluation.accuracy(),
            "balanced_accuracy": evaluation.balanced_accuracy(),
            "top5_accuracy": evaluation.top5_accuracy(),
            "loss": evaluation.loss,
            "calibration_error": evaluation.calibration_error(),
            "views": evaluation.views,
            "classes": classes,
            "confusion": evaluation.confusion,
        }),
        Event::Checkpoint(path) => json!({ "event": "checkpoint", "file": path_text(path) }),
        Event::Interrupted { folder, .. } => {
            json!({ "event": "interrupted", "folder": path_text(folder) })
        }
        Event::Finished { folder, test_accuracy, already, .. } => json!({
            "event": "finished",
            "folder": path_text(folder),
            "test_accuracy": test_accuracy,
            "already": already,
        }),
        // Among them Evaluating.
        _ => return None,
    })
}

fn decision_object(decision: &Decision) -> Value {
    let metric = |metric: &PlateauObservation| {
        let PlateauObservation { name, value, best, epochs, .. } = metric;
        json!({ "name": name, "value": value, "best": best, "epochs": epochs })
    };
    let number = |value: f64| match decision.what {
        DecisionKind::BatchSize | DecisionKind::ImageSize => json!(value as u64),
        _ => json!(value),
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

fn step_object(step: &Step) -> Value {
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

fn epoch_object(epoch: &Epoch) -> Value {
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
        "test_loss": epoch.test_loss,
        "test_accuracy": epoch.test_accuracy,
        "noise_scale": epoch.noise_scale,
        "seconds": epoch.seconds,
        "images_per_second": epoch.images_per_second,
    })
}

fn path_text(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
mod tests {
    use crescendo_training::events::EvaluatedSplit;
    use crescendo_training::{Evaluation, Misclassified};

    use super::*;

    /// The event's line, parsed again.
    fn read(event: &Event) -> Value {
        let line = event_object(event).unwrap().to_string();
        assert!(!line.contains('\n'), "{line}");
        serde_json::from_str(&line).unwrap()
    }

    #[test]
    fn decisions_have_numbers_of_the_right_kind() {
        let mut decision = Decision::new(61, 24_000, DecisionKind::BatchSize, [125.0, 250.0]);
        decision.reason = "\"quoted\"\nand on".to_owned();
        decision.metric = Some(PlateauObservation::new("train_loss", 0.5, 0.25, 3));
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
    fn numbers_that_are_not_finite_are_null() {
        let mut step = Step::default();
        step.update = 1;
        step.epoch = 1;
        step.epochs = 2;
        step.batch_size = 125;
        step.learning_rate = f64::NAN;
        step.loss = f64::INFINITY;
        step.epoch_loss = f64::NEG_INFINITY;
        step.epoch_accuracy = 0.25;
        step.images = 125;
        step.epoch_images = 1000;
        step.later_images = u64::MAX;
        step.seconds = 1.0;
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
    fn an_evaluation_has_no_images() {
        let mut image = Misclassified::default();
        image.index = 7;
        image.label = 0;
        image.prediction = 1;
        image.probability = 0.9;
        image.image = vec![0; 3072];
        let mut evaluation = Evaluation::default();
        evaluation.confusion = vec![vec![3, 1], vec![0, 4]];
        evaluation.loss = 0.5;
        evaluation.views = 2;
        evaluation.misclassified = vec![image];
        let classes = vec!["cat".to_owned(), "mouse".to_owned()];
        let split = EvaluatedSplit::Validation;
        assert_eq!(
            read(&Event::Evaluated { split, epoch: 2, evaluation, classes }),
            json!({
                "event": "evaluated", "split": "validation", "epoch": 2, "accuracy": 0.875, "balanced_accuracy": 0.875,
                "top5_accuracy": null, "loss": 0.5, "calibration_error": 0.0, "views": 2, "classes": ["cat", "mouse"],
                "confusion": [[3, 1], [0, 4]],
            })
        );
        let evaluating = Event::Evaluating { split, done: 1, total: 2 };
        assert!(event_object(&evaluating).is_none());
    }
}
