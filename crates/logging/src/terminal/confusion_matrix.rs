//! The confusion matrix of an evaluation as text.

use std::fmt::{self, Write};

use crescendo_training::Evaluation;

use super::terminal_columns;
use crate::confusions::{MAX_MATRIX_CLASSES, most_frequent, shortened};

/// Formats the confusion matrix of an evaluation with its class names: a row for each class, a column for each
/// prediction.
///
/// It takes as many columns as the width of the format says, or else as many as the terminal has. Names are shortened
/// to fit; if the matrix does not fit even so, it comes in several parts. Of more than twenty classes there is a list
/// of the most frequent confusions instead.
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
/// let matrix = format!("{:80}", ConfusionMatrix(&evaluation, &classes));
/// let rows: Vec<&str> = matrix.lines().collect();
/// assert_eq!(rows, ["true  predicted", "      cat  dog", "cat     8    2", "dog     1   19"]);
/// ```
pub struct ConfusionMatrix<'a>(pub &'a Evaluation, pub &'a [String]);

/// Formats what an evaluation says of each class: the number of its images, precision and recall. Its width is that of
/// the format or the terminal, as that of [`ConfusionMatrix`].
///
/// # Example
///
/// ```
/// use crescendo_logging::ClassTable;
/// use crescendo_training::Evaluation;
///
/// let mut evaluation = Evaluation::default();
/// evaluation.confusion = vec![vec![8, 2], vec![0, 20]];
/// let classes = ["cat".to_owned(), "dog".to_owned()];
/// let table = format!("{:80}", ClassTable(&evaluation, &classes));
/// let rows: Vec<&str> = table.lines().skip(1).collect();
/// assert_eq!(rows, ["cat        10     1.0000  0.8000", "dog        20     0.9091  1.0000"]);
/// ```
pub struct ClassTable<'a>(pub &'a Evaluation, pub &'a [String]);

/// Between two columns.
const GAP: usize = 2;
/// The longest name at the beginning of a row, if the width allows it.
const MAX_NAME: usize = 24;
/// The width of a column if the names of all do not fit beside each other.
const USUAL_CELL: usize = 8;
const MIN_CELL: usize = 3;

impl fmt::Display for ConfusionMatrix<'_> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let ConfusionMatrix(evaluation, classes) = self;
        let width = f.width().unwrap_or_else(terminal_columns);
        if classes.len() > MAX_MATRIX_CLASSES {
            return confusions(f, evaluation, classes, width);
        }
        let rows = shortened(classes, MAX_NAME.min(width / 4));
        let name = widest(&rows).max("true".len());
        let room = width.saturating_sub(name);
        let count = evaluation.confusion.iter().flatten().max().unwrap_or(&0).to_string().len();
        let (least, most) = (count.max(MIN_CELL), count.max(widest(classes)).max(MIN_CELL));
        let fitting = (room / classes.len().max(1)).saturating_sub(GAP);
        // In several parts, if even short names do not fit.
        let cell =
            if fitting >= least { fitting.min(most) } else { most.min(USUAL_CELL).max(least) };
        let headings = shortened(classes, cell);
        let part = (room / (cell + GAP)).max(1);
        for first in (0..classes.len()).step_by(part) {
            if first > 0 {
                writeln!(f)?;
            }
            let part = first..classes.len().min(first + part);
            writeln!(f, "{:name$}  predicted", "true")?;
            line(f, "", name, cell, &headings[part.clone()])?;
            for (row, counts) in rows.iter().zip(&evaluation.confusion) {
                line(f, row, name, cell, &counts[part.clone()])?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for ClassTable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let ClassTable(evaluation, classes) = self;
        let width = f.width().unwrap_or_else(terminal_columns);
        let heading = "  images  precision  recall";
        let rows = shortened(classes, width.saturating_sub(heading.len()).max(MIN_CELL));
        let name = widest(&rows).max("class".len());
        writeln!(f, "{:name$}{heading}", "class")?;
        for (class, score) in rows.iter().zip(evaluation.class_scores()) {
            let share =
                |share: Option<f64>| share.map_or("-".into(), |share| format!("{share:.4}"));
            let (precision, recall) = (share(score.precision), share(score.recall));
            writeln!(f, "{class:name$}  {:>6}  {precision:>9}  {recall:>6}", score.images)?;
        }
        Ok(())
    }
}

/// The most frequent confusions.
fn confusions(
    f: &mut fmt::Formatter,
    evaluation: &Evaluation,
    classes: &[String],
    width: usize,
) -> fmt::Result {
    let names = shortened(classes, width.saturating_sub("images".len() + 2 * GAP) / 2);
    let all = most_frequent(&evaluation.confusion);
    let label = all.iter().map(|one| names[one.label].chars().count()).max().unwrap_or(0).max(4);
    writeln!(f, "images  {:label$}  predicted", "true")?;
    for one in all {
        writeln!(f, "{:>6}  {:label$}  {}", one.images, names[one.label], names[one.prediction])?;
    }
    Ok(())
}

/// A line of a matrix, without spaces at its end.
fn line(
    f: &mut fmt::Formatter,
    name: &str,
    width: usize,
    cell: usize,
    cells: &[impl fmt::Display],
) -> fmt::Result {
    let mut line = format!("{name:width$}");
    for value in cells {
        write!(line, "  {value:>cell$}")?;
    }
    writeln!(f, "{}", line.trim_end())
}

fn widest(names: &[String]) -> usize {
    names.iter().map(|name| name.chars().count()).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| name.to_string()).collect()
    }

    fn evaluation(confusion: Vec<Vec<u64>>) -> Evaluation {
        let mut evaluation = Evaluation::default();
        evaluation.confusion = confusion;
        evaluation
    }

    #[test]
    fn columns_have_names_that_fit() {
        let classes = names(&["airplane", "automobile", "bird"]);
        let confusion = vec![vec![970, 20, 10], vec![0, 1000, 0], vec![1, 2, 3]];
        let evaluation = evaluation(confusion);
        assert_eq!(
            format!("{:80}", ConfusionMatrix(&evaluation, &classes)),
            "true        predicted\n\
             \x20             airplane  automobile        bird\n\
             airplane           970          20          10\n\
             automobile           0        1000           0\n\
             bird                 1           2           3\n"
        );
        assert_eq!(
            format!("{:28}", ConfusionMatrix(&evaluation, &classes)),
            "true     predicted\n\
             \x20        airp…  auto…   bird\n\
             airpla…    970     20     10\n\
             automo…      0   1000      0\n\
             bird         1      2      3\n"
        );
    }

    #[test]
    fn every_line_fits_in_60_to_200_columns() {
        for classes in [2, 10, 20, 21, 200] {
            let long: Vec<String> =
                (0..classes).map(|class| format!("a long name of the class {class}")).collect();
            let evaluation = evaluation(vec![vec![123_456; classes]; classes]);
            for width in 60..=200 {
                let matrix = format!("{:width$}", ConfusionMatrix(&evaluation, &long));
                let table = format!("{:width$}", ClassTable(&evaluation, &long));
                for line in matrix.lines().chain(table.lines()) {
                    assert!(line.chars().count() <= width, "{width}: {line}");
                }
                // All classes are there, each by a name of its own, in one part or several.
                let headings = matrix.lines().filter(|line| line.starts_with("true"));
                assert_eq!(headings.count() > 0, classes <= MAX_MATRIX_CLASSES);
                let last = format!("{}", classes - 1);
                assert!(table.lines().last().unwrap().contains(&last), "{table}");
                if classes <= MAX_MATRIX_CLASSES {
                    assert_eq!(matrix.matches("123456").count(), classes * classes);
                }
            }
        }
    }

    #[test]
    fn classes_without_images_or_predictions_have_no_share() {
        let evaluation = evaluation(vec![vec![3, 1], vec![0, 0]]);
        let table = format!("{:60}", ClassTable(&evaluation, &names(&["cat", "mouse"])));
        assert_eq!(
            table,
            "class  images  precision  recall\n\
             cat         4     1.0000  0.7500\n\
             mouse       0     0.0000       -\n"
        );
    }

    #[test]
    fn many_classes_have_a_list_of_confusions() {
        let classes: Vec<String> = (0..30).map(|class| format!("class {class}")).collect();
        let mut confusion = vec![vec![0; 30]; 30];
        (confusion[3][4], confusion[25][6], confusion[7][7]) = (7, 9, 50);
        assert_eq!(
            format!("{:60}", ConfusionMatrix(&evaluation(confusion), &classes)),
            "images  true      predicted\n     \
             9  class 25  class 6\n     \
             7  class 3   class 4\n"
        );
    }
}
