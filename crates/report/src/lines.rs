//! Events as lines of text, in the report's words where it has them.

use crescendo_training::events::Event;

/// The line of an event, if it is worth one.
pub(crate) fn line(event: &Event) -> Option<String> {
    Some(match event {
        Event::Started { description, resumed_at: None, .. } => format!("Training {description}"),
        Event::Started { description, resumed_at: Some(updates), .. } => {
            format!("Going on after {updates} updates: {description}")
        }
        Event::Changed { key, from, to } => format!("Changing {key} from {from} to {to}"),
        Event::Note(note) => note.clone(),
        Event::Decision(decision) => format!("{:?} {}", decision.what, decision.reason),
        Event::InParts { batch_size, part, .. } => format!("{batch_size} in parts of {part}"),
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
