//! What a report shows of a run, read from the run's folder.

use std::fs;
use std::path::{Path, PathBuf};

use crescendo_training::{
    Error, FirstFilters, Overview, Recipe, Record, RunFacts, TrainingSamples, read_record,
};

use super::{links, paper};
use crate::formats::evaluation_json::EvaluationFile;
use crate::formats::tables::{DecisionRow, EpochRow, read_decisions, read_epochs};

/// A run as its folder describes it.
///
/// # Example
///
/// Of a `run` that was trained:
///
/// ```
/// use crescendo_logging::RunFolderLogger;
/// use crescendo_logging::report::{RunData, render, write};
/// # use crescendo_cpu::CpuDevices;
/// # use crescendo_data::shapes;
/// # use crescendo_training::{Recipe, Run, Start};
/// # let data = shapes::generate(0, 60, 20);
/// # let recipe = Recipe::load("quick", &["train.epochs=1", "network.widths=[4, 4, 4]"])?;
/// # let folder = tempfile::tempdir().unwrap();
/// # let folder = folder.path().join("first");
/// # let start = Start::new(&recipe, &data, &CpuDevices);
/// # let mut run = Run::create(&folder, &start)?;
///
/// run.train(&CpuDevices, &data, &mut RunFolderLogger::default(), &false.into())?;
/// let (mut first, mut second) = (RunData::read(&folder)?, RunData::read(&folder)?);
/// assert_eq!(first.label, "first");
/// (first.label, second.label) = ("a run".into(), "the same".into());
/// // Curves of another colour.
/// second.group = 1;
/// let both = folder.join("both.html");
/// write(&both, &render(&[first, second]))?;
/// let html = std::fs::read_to_string(&both).unwrap();
/// assert!(html.contains("a run") && html.contains("the same"));
/// # Ok::<(), crescendo_training::Error>(())
/// ```
#[derive(Debug)]
pub struct RunData {
    /// The run's name in a report of several runs. Default: the folder's name.
    pub label: String,
    /// Runs of the same group have the same colour.
    pub group: usize,
    pub(super) folder: PathBuf,
    /// Where the run's files are, as seen from the report: a prefix of links. `None` if they cannot be linked.
    pub(super) links: Option<String>,
    /// What the run is.
    pub(super) record: Record,
    /// Whether it trains the paper's network on the paper's data, so that the paper's numbers are
    /// drawn too.
    pub(super) follows_paper: bool,
    /// Whether its last saved state is that of its end; it may have stopped early.
    pub(super) ended: bool,
    /// The text of `recipe.toml`.
    pub(super) recipe: String,
    /// When, where and on what it began; runs of earlier versions do not say it.
    pub(super) facts: Option<RunFacts>,
    /// Some training images; runs of earlier versions have none.
    pub(super) samples: Option<TrainingSamples>,
    pub(super) filters: Option<FirstFilters>,
    pub(super) epochs: Vec<EpochRow>,
    pub(super) decisions: Vec<DecisionRow>,
    pub(super) evaluations: EvaluationFile,
}

/// Whether a run trains the paper's network on the paper's data by one of its recipes.
pub(super) fn follows_paper(record: &Record) -> bool {
    let Record { recipe, run, .. } = record;
    let paper = || Recipe::load::<&str>("report", &[]);
    // The recipe is loaded only if the rest agrees: a report is written after every epoch.
    paper::RECIPES.contains(&&run.recipe[..])
        && run.data_name == paper::DATA
        && paper().is_ok_and(|paper| recipe.network == paper.network)
}

impl RunData {
    /// Reads the folder of a run, finished or not.
    ///
    /// # Errors
    /// If `folder` is not a run's folder, or a file in it is damaged. Missing files are no error: a
    /// new run has none of them, a run of an earlier version not all.
    pub fn read(folder: &Path) -> Result<Self, Error> {
        let record = read_record(folder)?;
        let path = folder.join("recipe.toml");
        let recipe = fs::read_to_string(&path).map_err(|error| Error::io("read", &path, error))?;
        let epochs = read_epochs(&folder.join("epochs.csv"))?;
        let mut decisions = read_decisions(&folder.join("decisions.csv"))?;
        if decisions.is_empty() {
            decisions = batch_size_changes(&epochs);
        }
        let name = folder.file_name().unwrap_or(folder.as_os_str());
        Ok(RunData {
            label: name.to_string_lossy().into_owned(),
            group: 0,
            folder: folder.to_owned(),
            links: Some(String::new()),
            ended: Overview::read(folder).is_ok_and(|overview| overview.progress.ended),
            follows_paper: follows_paper(&record),
            record,
            recipe,
            facts: RunFacts::read(folder)?,
            samples: TrainingSamples::read(folder)?,
            // A report does without them.
            filters: FirstFilters::read(folder).ok().flatten(),
            epochs,
            decisions,
            evaluations: EvaluationFile::read(folder)?,
        })
    }

    /// The accuracies on the test images and on the validation images with the weights after an epoch, from 0 to 1, as
    /// far as the run measured them.
    pub fn accuracies(&self, epoch: u32) -> [Option<f64>; 2] {
        let row = self.epochs.iter().find(|row| row.epoch == epoch);
        let EvaluationFile { test, validation } = &self.evaluations;
        let evaluated = [test, validation].map(|record| {
            let record = record.as_ref().filter(|record| record.epoch == epoch);
            record.map(|record| record.accuracy)
        });
        let [test, validation] = evaluated;
        [
            test.or(row.and_then(|row| row.test_accuracy)),
            validation.or(row.and_then(|row| row.validation_accuracy)),
        ]
    }

    /// Has the report's links lead from `page`, where it will be written, to the run's files. Without it the report is
    /// to lie in the run's folder. Links are left out if there is no way from one to the other.
    pub fn link_from(&mut self, page: &Path) {
        self.links = links::between(page, &self.folder);
    }

    /// Epochs and updates that the recipe asks for; 0 updates means no limit.
    pub(super) fn planned(&self) -> (u32, u64) {
        let train = &self.record.recipe.train;
        (train.epochs, train.max_steps)
    }

    /// The recipe and the data set.
    pub(super) fn title(&self) -> String {
        let recipe = Path::new(&self.record.run.recipe);
        let name = recipe.file_name().unwrap_or(recipe.as_os_str()).to_string_lossy();
        format!("{name} on {}", self.record.run.data_name)
    }

    /// Whether the run has ended, or done all epochs or updates that the recipe asks for.
    pub(super) fn finished(&self) -> bool {
        if self.ended {
            return true;
        }
        let (epochs, updates) = self.planned();
        let enough = |last: &EpochRow| {
            last.epoch >= epochs
                || (updates > 0 && last.updates.is_some_and(|done| done >= updates))
        };
        self.epochs.last().map_or(epochs == 0, enough)
    }

    /// The run's progress in words.
    pub(super) fn state(&self) -> String {
        let last = self.epochs.last().map_or(0, |row| row.epoch);
        match self.finished() {
            true => format!("{last} epochs"),
            false => format!("epoch {last} of {}", self.planned().0),
        }
    }

    /// The last value of a column and its epoch.
    pub(super) fn last(&self, column: impl Fn(&EpochRow) -> Option<f64>) -> Option<(u32, f64)> {
        self.epochs.iter().rev().find_map(|row| Some((row.epoch, column(row)?)))
    }

    /// All values of a column and their epochs.
    pub(super) fn column(&self, column: impl Fn(&EpochRow) -> Option<f64>) -> Vec<(u32, f64)> {
        self.epochs.iter().filter_map(|row| Some((row.epoch, column(row)?))).collect()
    }

    /// Seconds of training in all, if `epochs.csv` has them.
    pub(super) fn seconds(&self) -> Option<f64> {
        let seconds: Vec<f64> = self.epochs.iter().filter_map(|row| row.seconds).collect();
        (!seconds.is_empty()).then(|| seconds.iter().sum())
    }
}

/// The decisions of a run without `decisions.csv`: where the batch size changes.
fn batch_size_changes(epochs: &[EpochRow]) -> Vec<DecisionRow> {
    let change = |pair: &[EpochRow]| {
        let (from, to) = (pair[0].batch_size?, pair[1].batch_size?);
        (from != to).then(|| DecisionRow {
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
