//! The confusion matrix of an evaluation as text.

use std::fmt;

use crescendo_training::Evaluation;

/// Formats an evaluation with its class names: a row for each class, with its accuracy and the
/// number of its images that were predicted as each class.
///
/// # Example
///
/// ```
/// use crescendo_logging::ConfusionMatrix;
/// use crescendo_training::Evaluation;
///
/// let mut evaluation = Evaluation::default();
/// evaluation.confusion = vec![vec![8, 2], vec![1, 19]];
/// let classes = ["cat".to_owned(), "dog".to_owned()];
/// let table = ConfusionMatrix(&evaluation, &classes).to_string();
/// let rows: Vec<&str> = table.lines().skip(1).collect();
/// assert_eq!(rows, ["cat      0.8000     8    2", "dog      0.9500     1   19"]);
/// ```
pub struct ConfusionMatrix<'a>(pub &'a Evaluation, pub &'a [String]);

impl fmt::Display for ConfusionMatrix<'_> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let ConfusionMatrix(evaluation, classes) = self;
        let heading = "class";
        let names = classes.iter().map(|class| class.chars().count());
        let name = names.max().unwrap_or(0).max(heading.len());
        let count = evaluation.confusion.iter().flatten().max().unwrap_or(&0).to_string().len();
        let column = count.max(4);
        writeln!(f, "{heading:name$}  accuracy  predictions, in the order of the classes")?;
        let rows = classes.iter().zip(&evaluation.confusion).zip(evaluation.class_accuracies());
        for ((class, predictions), accuracy) in rows {
            let accuracy = accuracy.map_or("-".into(), |accuracy| format!("{accuracy:.4}"));
            write!(f, "{class:name$}  {accuracy:>8} ")?;
            for prediction in predictions {
                write!(f, " {prediction:>column$}")?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_row_for_each_class() {
        let mut evaluation = Evaluation::default();
        evaluation.confusion = vec![vec![3, 1], vec![0, 0]];
        let text = ConfusionMatrix(&evaluation, &["cat".into(), "mouse".into()]).to_string();
        assert_eq!(
            text,
            "class  accuracy  predictions, in the order of the classes\n\
             cat      0.7500     3    1\n\
             mouse         -     0    0\n"
        );
    }
}
