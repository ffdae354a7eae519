//! The runs in a folder. Only small files are read, and nothing waits for a program that trains.

use std::cmp::Reverse;
use std::fs;
use std::path::{Path, PathBuf};

use crescendo::logging::best_accuracy;
use crescendo::network::DeviceKind;
use crescendo::training::events::EvaluatedSplit;
use crescendo::training::{Error, Overview, Progress};

use crate::cli::RunOrder;
use crate::commands::note;

/// A run, or all runs of a comparison.
pub struct Entry {
    /// The comparison's name.
    pub comparison: Option<String>,
    pub runs: Vec<ListedRun>,
}

/// A run as it is listed.
pub struct ListedRun {
    pub folder: PathBuf,
    /// The folder's name.
    pub name: String,
    pub state: State,
    pub epochs: u32,
    pub progress: Progress,
    /// The highest accuracy after any epoch, and on which images.
    pub accuracy: Option<(EvaluatedSplit, f64)>,
    pub device: DeviceKind,
    /// When it was created, in UTC; empty if that is not known.
    pub created: String,
    /// What it is of a comparison.
    pub arm: Option<ArmOf>,
}

/// A run's place in a comparison.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ArmOf {
    pub name: String,
    pub seed: u64,
    /// Its number among the runs of this arm and seed that other versions or devices have trained, from 1.
    pub number: u32,
}

/// How far a run is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// A program is at work in its folder.
    Training,
    Finished,
    Stopped,
    New,
}

impl State {
    pub fn name(self) -> &'static str {
        match self {
            State::Training => "training",
            State::Finished => "finished",
            State::Stopped => "stopped",
            State::New => "new",
        }
    }
}

impl Entry {
    fn name(&self) -> &str {
        let run = self.runs.first().map(|run| &*run.name);
        self.comparison.as_deref().or(run).unwrap_or_default()
    }
}

/// The runs and comparisons in a folder, or the one that it is. What cannot be read is named on the standard error
/// and left out.
///
/// # Errors
/// If the folder cannot be read.
pub fn find(folder: &Path) -> Result<Vec<Entry>, Error> {
    let inside = subfolders(folder)?;
    let own =
        if is_run(folder) || arms(folder).is_some() { vec![folder.to_owned()] } else { inside };
    Ok(own.iter().filter_map(|folder| entry(folder)).collect())
}

fn entry(folder: &Path) -> Option<Entry> {
    match arms(folder) {
        Some(runs) if !is_run(folder) => {
            let runs = runs.into_iter().filter_map(|(arm, folder)| read(&folder, Some(arm)));
            Some(Entry { comparison: Some(name(folder)), runs: runs.collect() })
        }
        _ => read(folder, None).map(|run| Entry { comparison: None, runs: vec![run] }),
    }
}

/// A run; if it cannot be read, the standard error says so.
fn read(folder: &Path, arm: Option<ArmOf>) -> Option<ListedRun> {
    let read = Overview::read(folder).and_then(|run| Ok((run, best_accuracy(folder)?)));
    let (Overview { record, progress, created, in_training, .. }, accuracy) = match read {
        Ok(read) => read,
        Err(error) => {
            note(format_args!("skipped: {error}"));
            return None;
        }
    };
    let state = match (in_training, progress.ended, progress.updates) {
        (true, ..) => State::Training,
        (_, true, _) => State::Finished,
        (.., 0) => State::New,
        _ => State::Stopped,
    };
    Some(ListedRun {
        folder: folder.to_owned(),
        name: name(folder),
        state,
        epochs: record.recipe.train.epochs,
        progress,
        accuracy,
        device: record.recipe.engine.device,
        created,
        arm,
    })
}

fn is_run(folder: &Path) -> bool {
    folder.join("recipe.toml").is_file()
}

/// The runs of the comparison in a folder, by arm and seed; `None` if there is no comparison.
fn arms(folder: &Path) -> Option<Vec<(ArmOf, PathBuf)>> {
    let mut runs = Vec::new();
    for arm in subfolders(folder).ok()? {
        for run in subfolders(&arm).unwrap_or_default() {
            if let Some((seed, number)) = place(&name(&run)).filter(|_| is_run(&run)) {
                runs.push((ArmOf { name: name(&arm), seed, number }, run));
            }
        }
    }
    runs.sort();
    (!runs.is_empty() || folder.join("results.csv").is_file()).then_some(runs)
}

/// Seed and number of a run in a folder of this name: `seed-0`, `seed-0-2`.
fn place(name: &str) -> Option<(u64, u32)> {
    let place = name.strip_prefix("seed-")?;
    match place.split_once('-') {
        None => Some((place.parse().ok()?, 1)),
        Some((seed, number)) => Some((seed.parse().ok()?, number.parse().ok()?)),
    }
}

/// The folders in a folder, by name. Those with a dot are being made by a program, or are none of ours.
fn subfolders(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let io = |error| Error::io("read", folder, error);
    let mut folders = Vec::new();
    for entry in fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        if !name(&path).starts_with('.') && path.is_dir() {
            folders.push(path);
        }
    }
    folders.sort();
    Ok(folders)
}

fn name(folder: &Path) -> String {
    let whole = folder.canonicalize();
    let name = folder.file_name().or_else(|| whole.as_ref().ok()?.file_name());
    name.unwrap_or(folder.as_os_str()).to_string_lossy().into_owned()
}

/// Sorts runs, and comparisons by the best of their runs.
pub fn sort(entries: &mut [Entry], order: RunOrder) {
    fn accuracy(run: &ListedRun) -> f64 {
        run.accuracy.map_or(-1.0, |(_, accuracy)| accuracy)
    }
    fn seconds(run: &ListedRun) -> f64 {
        run.progress.total_seconds()
    }
    for entry in entries.iter_mut() {
        let runs = &mut entry.runs;
        match order {
            RunOrder::Date | RunOrder::Name => runs.sort_by(|a, b| a.arm.cmp(&b.arm)),
            RunOrder::Accuracy => runs.sort_by(|a, b| accuracy(b).total_cmp(&accuracy(a))),
            RunOrder::Time => runs.sort_by(|a, b| seconds(a).total_cmp(&seconds(b))),
        }
    }
    entries.sort_by(|a, b| a.name().cmp(b.name()));
    let best = |entry: &Entry| entry.runs.iter().map(accuracy).fold(-1.0, f64::max);
    let least = |entry: &Entry| entry.runs.iter().map(seconds).fold(f64::INFINITY, f64::min);
    let newest = |entry: &Entry| entry.runs.iter().map(|run| &run.created).max().cloned();
    match order {
        RunOrder::Date => entries.sort_by_key(|entry| Reverse(newest(entry))),
        RunOrder::Accuracy => entries.sort_by(|a, b| best(b).total_cmp(&best(a))),
        RunOrder::Time => entries.sort_by(|a, b| least(a).total_cmp(&least(b))),
        RunOrder::Name => {}
    }
}
