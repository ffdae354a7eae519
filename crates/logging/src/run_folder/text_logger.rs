//! `log.txt`: the messages that a run prints on the terminal.

use crescendo_training::Error;
use crescendo_training::events::{Event, Marks, Observer};

use crate::append_log::AppendLog;
use crate::messages::message;

/// Writes a run's messages to `log.txt` in its folder.
///
/// See the example of [`Observers`](crate::Observers).
#[derive(Default)]
pub struct TextLogger(Option<AppendLog>);

impl Observer for TextLogger {
    fn event(&mut self, event: &Event) -> Result<(), Error> {
        if let Event::Started { folder, marks, .. } = event {
            self.0 = Some(AppendLog::open(folder, "log.txt", "", marks)?);
        }
        match (&mut self.0, message(event)) {
            (Some(log), Some(message)) => log.append(format!("{message}\n")),
            _ => Ok(()),
        }
    }

    fn marks(&mut self) -> Result<Marks, Error> {
        self.0.iter_mut().map(AppendLog::mark).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_truncated_to_its_mark_on_resume() {
        let folder = tempfile::tempdir().unwrap();
        let start = |resumed_at, marks: Marks| {
            let mut log = TextLogger::default();
            let (folder, description) = (folder.path().to_owned(), "a test".to_owned());
            let started =
                Event::Started { folder, description, resumed_at, marks, log_steps: false };
            log.event(&started).unwrap();
            log
        };
        let mut log = start(None, Marks::new());
        log.event(&Event::Note("kept".to_owned())).unwrap();
        let marks = log.marks().unwrap();
        log.event(&Event::Note("repeated".to_owned())).unwrap();
        drop(log);
        start(Some(3), marks);
        let text = std::fs::read_to_string(folder.path().join("log.txt")).unwrap();
        assert_eq!(text, "Training a test\nkept\nResuming after 3 updates: a test\n");
    }
}
