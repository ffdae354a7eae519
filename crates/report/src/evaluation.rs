//! An evaluation as a table: accuracy of each class, and which classes are taken for which.

use std::fmt;

use crescendo_training::Evaluation;

/// Displays an evaluation, with these names of classes.
pub struct Table<'a>(pub &'a Evaluation, pub &'a [String]);

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Table(evaluation, classes) = self;
        let name = classes.iter().map(|class| class.chars().count()).max().unwrap_or(0);
        let count = evaluation.confusion.iter().flatten().max().unwrap_or(&0).to_string().len();
        let column = count.max(4);
        writeln!(f, "{:name$}  accuracy  answers, in the order of the classes", "class")?;
        let rows = classes.iter().zip(&evaluation.confusion).zip(evaluation.class_accuracies());
        for ((class, answers), accuracy) in rows {
            let accuracy = accuracy.map_or("-".into(), |accuracy| format!("{accuracy:.4}"));
            write!(f, "{class:name$}  {accuracy:>8} ")?;
            for answer in answers {
                write!(f, " {answer:>column$}")?;
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
    fn a_row_for_each_class() {
        let confusion = vec![vec![3, 1], vec![0, 0]];
        let evaluation = Evaluation { confusion, ..Evaluation::default() };
        let table = Table(&evaluation, &["cat".into(), "mouse".into()]).to_string();
        assert_eq!(
            table,
            "class  accuracy  answers, in the order of the classes\n\
             cat      0.7500     3    1\n\
             mouse         -     0    0\n"
        );
    }
}
