//! The files of a run that grow line by line: `log.txt`, `epochs.csv` and `steps.csv`.

use std::path::Path;

use crescendo_training::Error;
use crescendo_training::events::{Epoch, Event, Marks, Observer, Step};

use crate::grown::Grown;
use crate::lines::line;

/// Writes a run's log and tables into its folder, from the moment that the run starts.
#[derive(Default)]
pub struct Log(Option<Files>);

struct Files {
    log: Grown,
    epochs: Grown,
    steps: Option<Grown>,
}

const EPOCHS: &str = "epoch,updates,batch_size,learning_rate,train_loss,test_accuracy,seconds,\
                      images_per_second,validation_accuracy\n";
const STEPS: &str = "step,epoch,batch_size,learning_rate,loss\n";

impl Files {
    /// Opens the files in a run's `folder`, cut back to `marks`.
    fn open(folder: &Path, marks: &Marks, steps: bool) -> Result<Self, Error> {
        let open = |name, header| Grown::open(folder, name, header, marks);
        Ok(Files {
            log: open("log.txt", "")?,
            epochs: open("epochs.csv", EPOCHS)?,
            steps: if steps { Some(open("steps.csv", STEPS)?) } else { None },
        })
    }

    fn event(&mut self, event: &Event) -> Result<(), Error> {
        match (event, &mut self.steps) {
            (Event::Epoch(epoch), _) => self.epochs.write(epoch_row(epoch))?,
            (Event::Step(step), Some(steps)) => steps.write(step_row(step))?,
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
        let Some(Files { log, epochs, steps }) = &mut self.0 else { return Ok(Marks::new()) };
        [Some(log), Some(epochs), steps.as_mut()].into_iter().flatten().map(Grown::mark).collect()
    }
}

fn epoch_row(epoch: &Epoch) -> String {
    let accuracy = |value: Option<f64>| value.map_or(String::new(), |value| format!("{value:.4}"));
    format!(
        "{},{},{},{},{:.6},{},{:.3},{:.1},{}\n",
        epoch.epoch,
        epoch.updates,
        epoch.batch_size,
        epoch.learning_rate,
        epoch.train_loss,
        accuracy(epoch.test_accuracy),
        epoch.seconds,
        epoch.images_per_second,
        accuracy(epoch.validation_accuracy),
    )
}

fn step_row(step: &Step) -> String {
    let Step { update, epoch, batch_size, learning_rate, loss, .. } = step;
    format!("{update},{epoch},{batch_size},{learning_rate},{loss}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epoch(epoch: u32, test_accuracy: Option<f64>) -> Event {
        Event::Epoch(Epoch {
            epoch,
            updates: 400,
            batch_size: 125,
            learning_rate: 0.1,
            train_loss: 1.8525814,
            train_accuracy: 0.4,
            validation_loss: None,
            validation_accuracy: None,
            noise_scale: None,
            test_accuracy,
            seconds: 77.1419,
            images_per_second: 648.2,
        })
    }

    #[test]
    fn files_are_cut_back_to_the_marks() {
        let folder = tempfile::tempdir().unwrap();
        let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
        let start = |marks: &Marks| {
            let mut log = Log::default();
            let (folder, description) = (folder.path().to_owned(), "a test".to_owned());
            let (resumed_at, marks, log_steps) = (None, marks.clone(), true);
            let started = Event::Started { folder, description, resumed_at, marks, log_steps };
            log.event(&started).unwrap();
            log
        };
        let mut log = start(&Marks::new());
        log.event(&epoch(1, None)).unwrap();
        let marks = log.marks().unwrap();
        let [epochs, steps, lines] = ["epochs.csv", "steps.csv", "log.txt"].map(read);
        log.event(&epoch(2, Some(0.9356))).unwrap();
        assert!(read("epochs.csv").ends_with("2,400,125,0.1,1.852581,0.9356,77.142,648.2,\n"));
        drop(log);
        let mut log = start(&marks);
        assert_eq!([read("epochs.csv"), read("steps.csv")], [epochs, steps]);
        assert_eq!(lines, "Training a test\nEpoch 1 Loss 1.852581 Duration 77.142 seconds.\n");
        assert_eq!(read("log.txt"), format!("{lines}Training a test\n"));
        log.event(&epoch(2, None)).unwrap();
        assert_eq!(read("epochs.csv").lines().count(), 3);
    }
}
