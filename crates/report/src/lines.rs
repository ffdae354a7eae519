//! Events as lines of text, in the report's words where it has them.

use crescendo_training::events::{Decision, DecisionKind, Event};

/// The line of an event, if it is worth one.
pub(crate) fn line(event: &Event) -> Option<String> {
    Some(match event {
        Event::Started { description, resumed_at: None, .. } => format!("Training {description}"),
        Event::Started { description, resumed_at: Some(updates), .. } => {
            format!("Going on after {updates} updates: {description}")
        }
        Event::Changed { key, from, to } => format!("Changing {key} from {from} to {to}"),
        Event::Note(note) => note.clone(),
        Event::Decision(decision) => decided(decision),
        Event::MicroBatches { batch_size, micro_batch_size: part, ghost } => {
            let why = if *ghost { "" } else { " (they do not fit in batch.memory_limit)" };
            format!(
                "Batches of {batch_size} are computed in parts of {part}: BatchNorm takes its \
                 statistics over each part{why}"
            )
        }
        Event::Epoch(epoch) => {
            let mut line = format!(
                "Epoch {} Loss {:.6} Duration {:.3} seconds.",
                epoch.epoch, epoch.train_loss, epoch.seconds
            );
            let accuracies =
                [("Validation", epoch.validation_accuracy), ("Test", epoch.test_accuracy)];
            for (name, accuracy) in accuracies {
                if let Some(accuracy) = accuracy {
                    line +=
                        &format!("\n{name} accuracy after epoch {}: {accuracy:.4}", epoch.epoch);
                }
            }
            line
        }
        Event::Checkpoint(_) => "Checkpoint has been created.".to_owned(),
        Event::Interrupted { folder } => format!(
            "Stopped, and everything is saved. Go on with: crescendo train --resume {}",
            folder.display()
        ),
        Event::Finished { folder, test_accuracy, already } => {
            let folder = folder.display();
            let accuracy = match test_accuracy {
                Some(accuracy) => format!("Test accuracy: {accuracy:.4}\n"),
                None => String::new(),
            };
            if *already {
                format!(
                    "This run is finished already; --epochs N trains on.\n{accuracy}Run: {folder}"
                )
            } else {
                format!("{accuracy}Run: {folder}")
            }
        }
        Event::Step(_) | Event::Evaluating { .. } | Event::Evaluated { .. } => return None,
    })
}

/// A decision, and its reason if there is one.
fn decided(decision: &Decision) -> String {
    let Decision { what, from, to, reason, .. } = decision;
    let (verb, what) = match (what, to > from) {
        (DecisionKind::BatchSize, true) => ("Increasing", "batch size"),
        (DecisionKind::BatchSize, false) => ("Decreasing", "batch size"),
        (DecisionKind::LearningRate, true) => ("Raising", "learning rate"),
        (DecisionKind::LearningRate, false) => ("Lowering", "learning rate"),
        (DecisionKind::ImageSize, true) => ("Enlarging", "images' side"),
        (DecisionKind::ImageSize, false) => ("Shrinking", "images' side"),
    };
    let reason = if reason.is_empty() { String::new() } else { format!(" ({reason})") };
    format!("{verb} {what} from {} to {}{reason}", rounded(*from), rounded(*to))
}

/// Without the last digits, which only say that 0.1 * 0.1 is no binary number.
pub(crate) fn rounded(value: f64) -> f64 {
    format!("{value:.8e}").parse().unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decision(what: DecisionKind, from: f64, to: f64, reason: &str) -> Option<String> {
        let (metric, noise_scale, reason) = (None, None, reason.to_owned());
        let decision =
            Decision { epoch: 61, updates: 24_000, what, from, to, reason, metric, noise_scale };
        line(&Event::Decision(decision))
    }

    #[test]
    fn decisions_are_lines_in_the_reports_words() {
        for (what, from, to, reason, expected) in [
            (DecisionKind::BatchSize, 125.0, 250.0, "", "Increasing batch size from 125 to 250"),
            (
                DecisionKind::BatchSize,
                1e6,
                125.0,
                "why",
                "Decreasing batch size from 1000000 to 125 (why)",
            ),
            (
                DecisionKind::ImageSize,
                16.0,
                32.0,
                "by data.sides",
                "Enlarging images' side from 16 to 32 (by data.sides)",
            ),
            (DecisionKind::LearningRate, 0.01, 0.1, "", "Raising learning rate from 0.01 to 0.1"),
            (
                DecisionKind::LearningRate,
                0.1,
                0.1 * 0.1,
                "train_loss stands still",
                "Lowering learning rate from 0.1 to 0.01 (train_loss stands still)",
            ),
        ] {
            assert_eq!(decision(what, from, to, reason).as_deref(), Some(expected));
        }
    }

    #[test]
    fn parts_are_explained() {
        let parts = |ghost| {
            line(&Event::MicroBatches { batch_size: 8000, micro_batch_size: 2000, ghost }).unwrap()
        };
        let asked = parts(true);
        assert_eq!(
            asked,
            "Batches of 8000 are computed in parts of 2000: BatchNorm takes its statistics over \
             each part"
        );
        assert_eq!(parts(false), asked + " (they do not fit in batch.memory_limit)");
    }
}
