//! `evaluation.json`: the latest evaluations, for the report.

use std::path::PathBuf;

use crescendo_training::Error;
use crescendo_training::events::{Event, Observer};

use crate::formats::evaluation_json::{EvaluationFile, EvaluationRecord};

/// Keeps the latest evaluation of each split in `evaluation.json` in a run's folder.
///
/// See the example of [`Observers`](crate::Observers).
#[derive(Default)]
pub struct EvaluationLogger(Option<PathBuf>);

impl Observer for EvaluationLogger {
    fn event(&mut self, event: &Event) -> Result<(), Error> {
        match (event, &self.0) {
            (Event::Started { folder, .. }, _) => self.0 = Some(folder.clone()),
            (Event::Evaluated { split, epoch, evaluation, classes }, Some(folder)) => {
                // A damaged file is replaced: only the other split's earlier evaluation is lost.
                let mut file = EvaluationFile::read(folder).unwrap_or_default();
                let record = EvaluationRecord::new(*epoch, evaluation, classes);
                file.update(folder, *split, record)?;
            }
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crescendo_training::Evaluation;
    use crescendo_training::events::{EvaluatedSplit, Marks};

    #[test]
    fn a_damaged_evaluation_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("evaluation.json"), "{").unwrap();
        let mut logger = EvaluationLogger::default();
        let started = Event::Started {
            folder: folder.path().to_owned(),
            description: String::new(),
            resumed_at: None,
            marks: Marks::new(),
            log_steps: false,
        };
        logger.event(&started).unwrap();
        let mut evaluation = Evaluation::default();
        (evaluation.confusion, evaluation.loss) = (vec![vec![1]], 0.5);
        let (split, classes) = (EvaluatedSplit::Test, vec!["all".to_owned()]);
        logger.event(&Event::Evaluated { split, epoch: 3, evaluation, classes }).unwrap();
        assert_eq!(EvaluationFile::read(folder.path()).unwrap().test.unwrap().epoch, 3);
    }
}
