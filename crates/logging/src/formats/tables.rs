//! `epochs.csv`, `decisions.csv` and `steps.csv`: their columns, how rows are written, and how they
//! are read again.

use std::path::Path;

use crescendo_training::Error;
use crescendo_training::events::{Decision, Epoch, EvaluatedSplit, Step};

use super::csv::{CsvRow, CsvTable, quote};

/// The header of `epochs.csv`.
pub const EPOCHS_HEADER: &str = "epoch,updates,batch_size,learning_rate,train_loss,test_accuracy,\
                                 seconds,images_per_second,validation_accuracy,train_accuracy,\
                                 validation_loss,noise_scale,test_loss\n";
/// The header of `decisions.csv`.
pub const DECISIONS_HEADER: &str = "epoch,updates,what,from,to,reason,metric,value,best,\
                                    epochs_without_improvement,noise_scale\n";
/// The header of `steps.csv`.
pub const STEPS_HEADER: &str = "step,epoch,batch_size,learning_rate,loss\n";

/// A row of `epochs.csv` as it is read; files of earlier versions have fewer columns.
#[derive(Debug, Default)]
pub struct EpochRow {
    pub epoch: u32,
    pub updates: Option<u64>,
    pub batch_size: Option<f64>,
    pub learning_rate: Option<f64>,
    pub train_loss: f64,
    pub train_accuracy: Option<f64>,
    pub validation_loss: Option<f64>,
    pub validation_accuracy: Option<f64>,
    pub test_loss: Option<f64>,
    pub test_accuracy: Option<f64>,
    pub noise_scale: Option<f64>,
    pub seconds: Option<f64>,
    pub images_per_second: Option<f64>,
}

/// A row of `decisions.csv` as it is read.
#[derive(Debug)]
pub struct DecisionRow {
    pub epoch: u32,
    pub updates: Option<u64>,
    pub what: String,
    pub from: f64,
    pub to: f64,
    /// Empty if it is not known.
    pub reason: String,
    /// The monitored metric's name, value, and best value before.
    pub metric: Option<(String, f64, f64)>,
    pub epochs_without_improvement: Option<u64>,
    pub noise_scale: Option<f64>,
}

/// A line of `epochs.csv` with this many columns, as its header has: a file of an earlier version keeps its own.
pub fn epoch_line(epoch: &Epoch, columns: usize) -> String {
    let accuracy = |value: Option<f64>| cell(value, 4);
    let cells = [
        epoch.epoch.to_string(),
        epoch.updates.to_string(),
        epoch.batch_size.to_string(),
        epoch.learning_rate.to_string(),
        format!("{:.6}", epoch.train_loss),
        accuracy(epoch.test_accuracy),
        format!("{:.3}", epoch.seconds),
        format!("{:.1}", epoch.images_per_second),
        accuracy(epoch.validation_accuracy),
        format!("{:.4}", epoch.train_accuracy),
        cell(epoch.validation_loss, 6),
        cell(epoch.noise_scale, 1),
        cell(epoch.test_loss, 6),
    ];
    format!("{}\n", cells[..columns.min(cells.len())].join(","))
}

/// A line of `decisions.csv`.
pub fn decision_line(decision: &Decision) -> String {
    let Decision { epoch, updates, from, to, metric, noise_scale, .. } = decision;
    let what = decision.what.name();
    let reason = quote(&decision.reason);
    let metric = match metric {
        Some(metric) => format!(
            "{},{},{},{}",
            metric.name,
            cell(Some(metric.value), 6),
            cell(Some(metric.best), 6),
            metric.epochs
        ),
        None => ",,,".to_owned(),
    };
    let noise_scale = cell(*noise_scale, 1);
    format!("{epoch},{updates},{what},{from},{to},{reason},{metric},{noise_scale}\n")
}

/// A line of `steps.csv`.
pub fn step_line(step: &Step) -> String {
    let Step { update, epoch, batch_size, learning_rate, loss, .. } = step;
    format!("{update},{epoch},{batch_size},{learning_rate},{loss}\n")
}

/// A number with this many decimals; empty if it is unknown or not finite.
fn cell(value: Option<f64>, decimals: usize) -> String {
    let value = value.filter(|value| value.is_finite());
    value.map_or(String::new(), |value| format!("{value:.decimals$}"))
}

/// The rows of `epochs.csv` at `path`; none if there is no file.
///
/// # Errors
/// If the file cannot be read or is damaged.
pub fn read_epochs(path: &Path) -> Result<Vec<EpochRow>, Error> {
    read(path, epoch_row)
}

/// The highest accuracy that a run in this folder had after any epoch, from 0 to 1, and on which images: on the
/// validation images if it was evaluated on any, otherwise on the test set. `None` if it was on neither.
///
/// # Errors
/// If `epochs.csv` cannot be read or is damaged.
///
/// # Example
///
/// ```
/// use crescendo_logging::best_accuracy;
/// use crescendo_training::events::EvaluatedSplit;
///
/// # let folder = tempfile::tempdir()?;
/// # let run = folder.path();
/// let table = "epoch,train_loss,test_accuracy\n1,1.9,0.41\n2,1.5,0.52\n3,1.4,0.5\n";
/// std::fs::write(run.join("epochs.csv"), table)?;
/// assert_eq!(best_accuracy(run)?, Some((EvaluatedSplit::Test, 0.52)));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn best_accuracy(run: &Path) -> Result<Option<(EvaluatedSplit, f64)>, Error> {
    let epochs = read_epochs(&run.join("epochs.csv"))?;
    let best = |split, of: fn(&EpochRow) -> Option<f64>| {
        epochs.iter().filter_map(of).max_by(f64::total_cmp).map(|accuracy| (split, accuracy))
    };
    let validation = best(EvaluatedSplit::Validation, |row| row.validation_accuracy);
    Ok(validation.or_else(|| best(EvaluatedSplit::Test, |row| row.test_accuracy)))
}

/// The rows of `decisions.csv` at `path`; none if there is no file.
///
/// # Errors
/// If the file cannot be read or is damaged.
pub fn read_decisions(path: &Path) -> Result<Vec<DecisionRow>, Error> {
    read(path, decision_row)
}

fn read<T>(path: &Path, row: impl Fn(&CsvRow) -> Result<T, Error>) -> Result<Vec<T>, Error> {
    let Some(table) = CsvTable::read(path)? else { return Ok(Vec::new()) };
    table.rows().map(|cells| row(&cells)).collect()
}

fn epoch_row(row: &CsvRow) -> Result<EpochRow, Error> {
    Ok(EpochRow {
        epoch: row.epoch()?,
        updates: row.integer("updates")?,
        batch_size: row.number("batch_size")?,
        learning_rate: row.number("learning_rate")?,
        train_loss: row.required("train_loss")?,
        train_accuracy: row.number("train_accuracy")?,
        validation_loss: row.number("validation_loss")?,
        validation_accuracy: row.number("validation_accuracy")?,
        test_loss: row.number("test_loss")?,
        test_accuracy: row.number("test_accuracy")?,
        noise_scale: row.number("noise_scale")?,
        seconds: row.number("seconds")?,
        images_per_second: row.number("images_per_second")?,
    })
}

fn decision_row(row: &CsvRow) -> Result<DecisionRow, Error> {
    let metric = match (row.text("metric"), row.number("value")?, row.number("best")?) {
        (name, Some(value), Some(best)) => Some((name.to_owned(), value, best)),
        _ => None,
    };
    Ok(DecisionRow {
        epoch: row.epoch()?,
        updates: row.integer("updates")?,
        what: row.text("what").to_owned(),
        from: row.required("from")?,
        to: row.required("to")?,
        reason: row.text("reason").to_owned(),
        metric,
        epochs_without_improvement: row.integer("epochs_without_improvement")?,
        noise_scale: row.number("noise_scale")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn validation_images_decide_what_the_best_accuracy_is_of() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(best_accuracy(folder.path()).unwrap(), None);
        let write = |rows: &str| {
            let text = format!("epoch,train_loss,test_accuracy,validation_accuracy\n{rows}");
            std::fs::write(folder.path().join("epochs.csv"), text).unwrap();
            best_accuracy(folder.path()).unwrap()
        };
        assert_eq!(write("1,2,,\n"), None);
        assert_eq!(write("1,2,0.5,\n2,1,0.75,\n3,1,0.7,\n"), Some((EvaluatedSplit::Test, 0.75)));
        let validated = write("1,2,,0.25\n2,1,,0.5\n3,1,0.75,0.375\n");
        assert_eq!(validated, Some((EvaluatedSplit::Validation, 0.5)));
    }
}
