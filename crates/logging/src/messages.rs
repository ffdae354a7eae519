//! Events as text, for the terminal, `log.txt` and TensorBoard; and how numbers are written for
//! people.
//!
//! The lines about epochs, checkpoints, batch sizes and the test accuracy are those of the paper's
//! program (course report CSCE 636, Anmol Anand); scripts parse them.

use std::time::Duration;

use crescendo_training::events::{Decision, DecisionKind, Event};

use crate::report;
use crate::shell::shell_word;

/// The message of an event, in one or more lines; `None` for an event without a message.
pub(crate) fn message(event: &Event) -> Option<String> {
    Some(match event {
        Event::Started { description, resumed_at: None, .. } => format!("Training {description}"),
        Event::Started { description, resumed_at: Some(updates), .. } => {
            format!("Resuming after {updates} updates: {description}")
        }
        Event::Changed { key: "engine.device", from, to } => format!(
            "Changing engine.device from {from} to {to}: the weights and the order of the images stay the \
             same, and numbers are rounded in another way"
        ),
        Event::Changed { key, from, to } => format!("Changing {key} from {from} to {to}"),
        Event::Note(note) => note.clone(),
        Event::Decision(decision) => decision_message(decision),
        Event::MicroBatches { batch_size, micro_batch_size: part, ghost } => {
            let why = if *ghost { "" } else { " (whole batches do not fit in batch.memory_limit)" };
            format!(
                "Batches of {batch_size} are computed in micro-batches of {part} with gradient \
                 accumulation: BatchNorm's statistics are those of each micro-batch{why}"
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
        Event::Interrupted { own: true, .. } => {
            "Stopped; the state is saved. The program that made this run resumes it: its policy or its data are that \
             program's own."
                .to_owned()
        }
        Event::Interrupted { folder, own: false } => format!(
            "Stopped; the state is saved. Resume with: crescendo train --resume {}",
            shell_word(folder)
        ),
        Event::Finished { folder, weights, .. } => {
            let mut lines = outcome(event)?;
            let report = folder.join(report::FILE_NAME);
            if report.is_file() {
                lines += &format!("\nReport: {}", report.display());
            }
            if let Some(weights) = weights {
                lines += &format!(
                    "\nWeights: {}\nClassify images with: crescendo predict {} IMAGE.png",
                    weights.display(),
                    shell_word(folder)
                );
            }
            lines
        }
        // Among them Step, Evaluating and Evaluated.
        _ => return None,
    })
}

/// The outcome of a run as an event tells it, in few lines: its result, or how to resume it.
pub(crate) fn outcome(event: &Event) -> Option<String> {
    let Event::Finished { folder, test_accuracy, already, .. } = event else {
        return matches!(event, Event::Interrupted { .. }).then(|| message(event)).flatten();
    };
    let already = match already {
        true => "This run is already finished; --epochs N trains it for N epochs in total.\n",
        false => "",
    };
    let accuracy = test_accuracy.map(|accuracy| format!("Test accuracy: {accuracy:.4}\n"));
    Some(format!("{already}{}Run: {}", accuracy.unwrap_or_default(), folder.display()))
}

/// A decision with its reason, if there is one.
fn decision_message(decision: &Decision) -> String {
    let Decision { what, from, to, reason, .. } = decision;
    let (verb, what) = match (what, to > from) {
        (DecisionKind::BatchSize, true) => ("Increasing", "batch size"),
        (DecisionKind::BatchSize, false) => ("Decreasing", "batch size"),
        (DecisionKind::LearningRate, true) => ("Raising", "learning rate"),
        (DecisionKind::LearningRate, false) => ("Lowering", "learning rate"),
        (DecisionKind::ImageSize, true) => ("Increasing", "image size"),
        (DecisionKind::ImageSize, false) => ("Decreasing", "image size"),
        _ => ("Changing", what.name()),
    };
    let reason = if reason.is_empty() { String::new() } else { format!(" ({reason})") };
    format!("{verb} {what} from {} to {}{reason}", display_value(*from), display_value(*to))
}

/// The value without rounding errors in its last digits, such as those of 0.1 * 0.1.
pub(crate) fn display_value(value: f64) -> f64 {
    format!("{value:.8e}").parse().unwrap_or(value)
}

/// A duration for people: seconds, minutes or hours.
///
/// # Example
///
/// ```
/// use crescendo_logging::display_seconds;
///
/// assert_eq!([3.9, 75.0, 3725.0].map(display_seconds), ["3 s", "1:15 min", "1:02 h"]);
/// ```
pub fn display_seconds(seconds: f64) -> String {
    let seconds = Duration::try_from_secs_f64(seconds).unwrap_or_default().as_secs();
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds} s"),
        (0, minutes, seconds) => format!("{minutes}:{seconds:02} min"),
        (hours, minutes, _) => format!("{hours}:{minutes:02} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decision(what: DecisionKind, from: f64, to: f64, reason: &str) -> Option<String> {
        let mut decision = Decision::new(61, 24_000, what, [from, to]);
        decision.reason = reason.to_owned();
        message(&Event::Decision(decision))
    }

    #[test]
    fn decisions_are_messages_in_the_papers_words() {
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
                "table data.sides: 32 from epoch 2",
                "Increasing image size from 16 to 32 (table data.sides: 32 from epoch 2)",
            ),
            (DecisionKind::LearningRate, 0.01, 0.1, "", "Raising learning rate from 0.01 to 0.1"),
            (
                DecisionKind::LearningRate,
                0.1,
                0.1 * 0.1,
                "train_loss stopped improving",
                "Lowering learning rate from 0.1 to 0.01 (train_loss stopped improving)",
            ),
        ] {
            assert_eq!(decision(what, from, to, reason).as_deref(), Some(expected));
        }
    }

    #[test]
    fn the_last_lines_can_be_pasted() {
        let folder = tempfile::tempdir().unwrap();
        let run = folder.path().join("my run");
        std::fs::create_dir(&run).unwrap();
        let finished = Event::Finished {
            folder: run.clone(),
            test_accuracy: Some(0.5),
            weights: Some(run.join("weights/best.safetensors")),
            already: false,
        };
        let (shown, quoted) = (run.display(), shell_word(&run));
        let expected = |report: &str| {
            format!(
                "Test accuracy: 0.5000\nRun: {shown}\n{report}Weights: {}\n\
                 Classify images with: crescendo predict {quoted} IMAGE.png",
                run.join("weights/best.safetensors").display()
            )
        };
        assert_eq!(message(&finished), Some(expected("")));
        std::fs::write(run.join("report.html"), "").unwrap();
        let report = format!("Report: {}\n", run.join("report.html").display());
        assert_eq!(message(&finished), Some(expected(&report)));
        assert_eq!(outcome(&finished), Some(format!("Test accuracy: 0.5000\nRun: {shown}")));

        let stopped = |own| Event::Interrupted { folder: run.clone(), own };
        let line = message(&stopped(false)).unwrap();
        assert!(line.ends_with(&format!("crescendo train --resume {quoted}")), "{line}");
        assert_eq!(outcome(&stopped(false)), Some(line));
        let line = message(&stopped(true)).unwrap();
        assert!(line.contains("The program that made this run resumes it"), "{line}");
        assert!(!line.contains("--resume"), "{line}");
    }

    #[test]
    fn durations_have_two_units_at_most() {
        let times = [3.9, 75.0, 3725.0, f64::NAN].map(display_seconds);
        assert_eq!(times, ["3 s", "1:15 min", "1:02 h", "0 s"]);
    }

    #[test]
    fn gradient_accumulation_is_explained() {
        let micro_batches = |ghost| {
            message(&Event::MicroBatches { batch_size: 8000, micro_batch_size: 2000, ghost })
                .unwrap()
        };
        let asked = micro_batches(true);
        assert_eq!(
            asked,
            "Batches of 8000 are computed in micro-batches of 2000 with gradient accumulation: \
             BatchNorm's statistics are those of each micro-batch"
        );
        assert_eq!(
            micro_batches(false),
            asked + " (whole batches do not fit in batch.memory_limit)"
        );
    }
}
