//! What a page shows of a run, read from the run's folder.

use std::fs;
use std::path::{Path, PathBuf};

use crescendo_training::{About, Error, Recipe, Record, read_record};

use super::csv::{Row, Table};
use super::evaluations::Evaluations;
use super::published;

/// A run, as far as its folder tells.
#[derive(Debug)]
pub struct RunData {
    /// What it is called beside other runs; the folder's name at first.
    pub label: String,
    /// Runs of one group have one colour.
    pub group: usize,
    pub(super) folder: PathBuf,
    pub(super) about: About,
    /// Epochs and updates that the recipe asks for; 0 updates for no end by them.
    pub(super) planned: (u32, u64),
    /// Whether it trains what the report did on what the report did, so that the report's numbers lie below.
    pub(super) is_published: bool,
    /// The text of `recipe.toml`.
    pub(super) recipe: String,
    pub(super) epochs: Vec<Epoch>,
    pub(super) decisions: Vec<Decision>,
    pub(super) evaluations: Evaluations,
}

pub(super) fn is_published(record: &Record) -> bool {
    let Record { recipe, run } = record;
    let report = || Recipe::load::<&str>("report", &[]);
    // The recipe is read last: a page is written after every epoch.
    published::RECIPES.contains(&&run.recipe[..])
        && run.data_name == published::DATA
        && report().is_ok_and(|report| recipe.network == report.network)
}

/// A row of `epochs.csv`; runs of older programs have fewer numbers.
#[derive(Debug, Default)]
pub(super) struct Epoch {
    pub epoch: u32,
    pub updates: Option<u64>,
    pub batch_size: Option<f64>,
    pub learning_rate: Option<f64>,
    pub train_loss: f64,
    pub train_accuracy: Option<f64>,
    pub validation_loss: Option<f64>,
    pub validation_accuracy: Option<f64>,
    pub test_accuracy: Option<f64>,
    pub noise_scale: Option<f64>,
    pub seconds: Option<f64>,
    pub images_per_second: Option<f64>,
}

/// A row of `decisions.csv`.
#[derive(Debug)]
pub(super) struct Decision {
    pub epoch: u32,
    pub updates: Option<u64>,
    pub what: String,
    pub from: f64,
    pub to: f64,
    /// Empty where it is not known.
    pub reason: String,
    /// The watched metric's name, value, and best value before.
    pub metric: Option<(String, f64, f64)>,
    pub epochs_without_improvement: Option<u64>,
    pub noise_scale: Option<f64>,
}

impl RunData {
    /// Reads what the run in `folder` has left so far.
    ///
    /// # Errors
    /// If it is no run's folder, or a file is damaged. Files that are not there are no error: a new
    /// run has none of them, and an old one not all.
    pub fn read(folder: &Path) -> Result<Self, Error> {
        let record = read_record(folder)?;
        let path = folder.join("recipe.toml");
        let recipe = fs::read_to_string(&path).map_err(|error| Error::io("read", &path, error))?;
        let epochs = rows(&folder.join("epochs.csv"), epoch)?;
        let mut decisions = rows(&folder.join("decisions.csv"), decision)?;
        if decisions.is_empty() {
            decisions = changes(&epochs);
        }
        let name = folder.file_name().unwrap_or(folder.as_os_str());
        Ok(RunData {
            label: name.to_string_lossy().into_owned(),
            group: 0,
            folder: folder.to_owned(),
            planned: (record.recipe.train.epochs, record.recipe.train.max_steps),
            is_published: is_published(&record),
            about: record.run,
            recipe,
            epochs,
            decisions,
            evaluations: Evaluations::read(folder)?,
        })
    }

    /// What is trained on what.
    pub(super) fn title(&self) -> String {
        let recipe = Path::new(&self.about.recipe);
        let name = recipe.file_name().unwrap_or(recipe.as_os_str()).to_string_lossy();
        format!("{name} on {}", self.about.data_name)
    }

    /// Whether all is done that the recipe asks for.
    pub(super) fn finished(&self) -> bool {
        let (epochs, updates) = self.planned;
        let enough = |last: &Epoch| {
            last.epoch >= epochs
                || (updates > 0 && last.updates.is_some_and(|done| done >= updates))
        };
        self.epochs.last().map_or(epochs == 0, enough)
    }

    /// The last value of a column, with its epoch.
    pub(super) fn last(&self, column: impl Fn(&Epoch) -> Option<f64>) -> Option<(u32, f64)> {
        self.epochs.iter().rev().find_map(|row| Some((row.epoch, column(row)?)))
    }

    /// All values of a column, with their epochs.
    pub(super) fn column(&self, column: impl Fn(&Epoch) -> Option<f64>) -> Vec<(u32, f64)> {
        self.epochs.iter().filter_map(|row| Some((row.epoch, column(row)?))).collect()
    }

    /// Seconds of training, if the table has them.
    pub(super) fn seconds(&self) -> Option<f64> {
        let seconds: Vec<f64> = self.epochs.iter().filter_map(|row| row.seconds).collect();
        (!seconds.is_empty()).then(|| seconds.iter().sum())
    }
}

fn rows<T>(path: &Path, read: impl Fn(&Row) -> Result<T, Error>) -> Result<Vec<T>, Error> {
    let Some(table) = Table::read(path)? else { return Ok(Vec::new()) };
    table.rows().map(|row| read(&row)).collect()
}

fn epoch(row: &Row) -> Result<Epoch, Error> {
    Ok(Epoch {
        epoch: row.epoch()?,
        updates: row.whole("updates")?,
        batch_size: row.number("batch_size")?,
        learning_rate: row.number("learning_rate")?,
        train_loss: row.required("train_loss")?,
        train_accuracy: row.number("train_accuracy")?,
        validation_loss: row.number("validation_loss")?,
        validation_accuracy: row.number("validation_accuracy")?,
        test_accuracy: row.number("test_accuracy")?,
        noise_scale: row.number("noise_scale")?,
        seconds: row.number("seconds")?,
        images_per_second: row.number("images_per_second")?,
    })
}

fn decision(row: &Row) -> Result<Decision, Error> {
    let metric = match (row.text("metric"), row.number("value")?, row.number("best")?) {
        (name, Some(value), Some(best)) => Some((name.to_owned(), value, best)),
        _ => None,
    };
    Ok(Decision {
        epoch: row.epoch()?,
        updates: row.whole("updates")?,
        what: row.text("what").to_owned(),
        from: row.required("from")?,
        to: row.required("to")?,
        reason: row.text("reason").to_owned(),
        metric,
        epochs_without_improvement: row.whole("epochs_without_improvement")?,
        noise_scale: row.number("noise_scale")?,
    })
}

/// What was decided in a run that wrote no decisions down: the batch sizes show it.
fn changes(epochs: &[Epoch]) -> Vec<Decision> {
    let change = |pair: &[Epoch]| {
        let (from, to) = (pair[0].batch_size?, pair[1].batch_size?);
        (from != to).then(|| Decision {
            epoch: pair[1].epoch,
            updates: pair[0].updates,
            what: "batch_size".to_owned(),
            from,
            to,
            reason: String::new(),
            metric: None,
            epochs_without_improvement: None,
            noise_scale: None,
        })
    };
    epochs.windows(2).filter_map(change).collect()
}
