//! An arm with a seed: trained to its end, and what comes out.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use crescendo::data::split_validation;
use crescendo::logging::{ConsoleProgress, Observers, RunFolderLogger};
use crescendo::training::comparison::{Arm, Comparison, Results, Row, shared_epochs};
use crescendo::training::events::Observer;
use crescendo::training::{
    Error, Machine, Model, Outcome, Progress, Recipe, Run, Start, check, checkpoint, resolved,
};

use super::Found;

/// An arm with a seed, to be trained.
pub struct Trial {
    pub arm: String,
    pub recipe: Recipe,
    fingerprint: String,
}

/// What all trials of a comparison have in common.
pub struct Setting<'a> {
    /// The comparison's folder.
    pub folder: &'a Path,
    pub comparison: &'a Comparison,
    pub data: &'a Found,
    pub machine: Machine,
    /// Whether a bar shows how far a run is.
    pub bar: bool,
    pub stop: &'a AtomicBool,
}

impl Setting<'_> {
    fn train(&self, run: &mut Run, until: u32) -> Result<Outcome, Error> {
        let (mut folder, mut bar) = (RunFolderLogger::default(), ConsoleProgress::bar_only());
        let mut observers: Vec<&mut dyn Observer> = vec![&mut folder];
        if self.bar {
            observers.push(&mut bar);
        }
        run.train_until(until, &self.data.set, &mut Observers(observers), self.stop)
    }
}

/// What there is no result of yet, seed after seed, so that an early end leaves whole pairs.
pub fn missing(
    comparison: &Comparison,
    results: &Results,
    data: &Found,
) -> Result<Vec<Trial>, Error> {
    let fingerprint_of_data = data.set.fingerprint();
    let mut trials = Vec::new();
    for seed in &comparison.seeds {
        for Arm { name, recipe } in &comparison.arms {
            let recipe = recipe.with(&format!("train.seed={seed}"))?;
            // As its run keeps it.
            let (kept, _) = resolved(&recipe, &data.set)?;
            let fingerprint =
                Results::fingerprint(&kept, &fingerprint_of_data, comparison.bn_images);
            if results.find(name, *seed, &fingerprint)?.is_none() {
                // All of them before the first is trained.
                check(&recipe, &data.set)?;
                trials.push(Trial { arm: name.clone(), recipe, fingerprint });
            }
        }
    }
    Ok(trials)
}

/// The trials that begin as `trials[of]` does, each with the epoch after which it goes its own way, in
/// rising order. A trial is a branch of the one before it that it is like for longest.
pub fn branches(trials: &[Trial], of: usize) -> Vec<(u32, &Trial)> {
    let alike = |one: &Trial, other: &Trial| shared_epochs(&one.recipe, &other.recipe);
    let is_trunk = |index: usize, epochs: u32| {
        let others = trials[..index].iter().enumerate();
        let mut others = others.map(|(at, other)| (alike(other, &trials[index]), at));
        others.all(|(like, at)| like < epochs || like == epochs && at >= of)
    };
    let mut branches: Vec<_> = (of + 1..trials.len())
        .map(|index| (alike(&trials[of], &trials[index]), index))
        .filter(|&(epochs, index)| epochs > 0 && is_trunk(index, epochs))
        .map(|(epochs, index)| (epochs, &trials[index]))
        .collect();
    branches.sort_by_key(|branch| branch.0);
    branches
}

impl Trial {
    /// Its run's folder.
    fn folder(&self, comparison: &Path) -> PathBuf {
        comparison.join(&self.arm).join(format!("seed-{}", self.recipe.train.seed))
    }

    fn start<'a>(&'a self, data: &'a Found) -> Start<'a> {
        Start {
            recipe: &self.recipe,
            recipe_name: &self.arm,
            data: &data.set,
            data_location: &data.location,
            init: None,
        }
    }

    /// Trains to the end, from wherever an earlier call came to, and on the way makes the runs that begin
    /// as this one does; `None` if it was asked to stop.
    pub fn run(&self, branches: &[(u32, &Trial)], setting: &Setting) -> Result<Option<Row>, Error> {
        let Setting { comparison, data, machine, .. } = *setting;
        let folder = self.folder(setting.folder);
        let mut run = if folder.exists() {
            self.open(&folder, comparison)?
        } else {
            Run::create(&folder, &self.start(data))?
        };
        for &(epochs, branch) in branches {
            let to = branch.folder(setting.folder);
            // One that has begun already goes on by itself.
            if to.exists() {
                continue;
            }
            if run.progress().epoch <= epochs {
                setting.train(&mut run, epochs)?;
            }
            if setting.stop.load(Ordering::Relaxed) {
                return Ok(None);
            }
            let Progress { epoch, batch, ended, .. } = *run.progress();
            if (epoch, batch, ended) == (epochs + 1, 0, false) {
                let parent = to.parent().unwrap_or(setting.folder);
                std::fs::create_dir_all(parent)
                    .map_err(|error| Error::io("create", parent, error))?;
                run.branch(&to, &branch.start(data))?;
            }
        }
        if setting.train(&mut run, u32::MAX)? == Outcome::Interrupted {
            return Ok(None);
        }
        let last = checkpoint::list(&folder)?.last().copied().unwrap_or_default();
        let mut model = Model::open(&checkpoint::path(&folder, last), None, machine)?;
        let count = self.recipe.data.validation;
        let held_out = (count > 0).then(|| split_validation(&data.set.train, count).1);
        let judged = held_out.as_ref().unwrap_or(&data.set.test);
        // Training ended with the evaluation of the test set, unless the recipe leaves it out.
        let running = match run.progress().test_accuracy.filter(|_| held_out.is_none()) {
            Some(accuracy) => accuracy,
            None => model.evaluate(judged, |_| ()).accuracy(),
        };
        model.recompute_statistics(&data.set.train, comparison.bn_images);
        let precise = model.evaluate(judged, |_| ()).accuracy();
        Ok(Some(Row {
            arm: self.arm.clone(),
            seed: self.recipe.train.seed,
            fingerprint: self.fingerprint.clone(),
            running,
            precise,
            train_loss: model.loss.unwrap_or_default(),
            updates: run.progress().updates,
            seconds: run.progress().total_seconds(),
        }))
    }

    fn open(&self, folder: &Path, comparison: &Comparison) -> Result<Run, Error> {
        let run = Run::open(folder)?;
        let record = run.record();
        let data = &record.run.data_fingerprint;
        if Results::fingerprint(&record.recipe, data, comparison.bn_images) != self.fingerprint {
            let problem = format!(
                "is a run of another recipe or other data than arm {} is now: give the changed arm \
                 another name, or compare in another folder with --out",
                self.arm
            );
            return Err(Error::bad(folder, problem));
        }
        Ok(run)
    }
}
