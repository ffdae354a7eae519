//! One run of a comparison: an arm trained with one seed.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use crescendo::logging::{ConsoleProgress, Observers, RunFolderLogger};
use crescendo::network::{DeviceKind, Devices, EngineConfig};
use crescendo::training::comparison::{Arm, Comparison, Kind, Results, Row, shared_epochs};
use crescendo::training::events::Observer;
use crescendo::training::{
    Error, HeldOut, Model, Outcome, Progress, Recipe, Record, Run, Start, check, checkpoint,
    read_record, resolved,
};

use super::LoadedData;

/// An arm to be trained with one seed.
pub struct ArmRun {
    pub arm: String,
    pub recipe: Recipe,
    fingerprint: String,
    /// The run's folder.
    folder: PathBuf,
}

/// What all runs of a comparison have in common.
pub struct Context<'a> {
    /// The command line.
    pub command: &'a str,
    /// The comparison's folder.
    pub folder: &'a Path,
    pub comparison: &'a Comparison,
    pub data: &'a LoadedData,
    pub engine: EngineConfig,
    pub devices: &'a dyn Devices,
    /// Whether to show a progress bar.
    pub bar: bool,
    pub stop: &'a AtomicBool,
}

impl Context<'_> {
    fn train(&self, run: &mut Run, until: u32) -> Result<Outcome, Error> {
        let (mut folder, mut bar) = (RunFolderLogger::default(), ConsoleProgress::bar_only());
        let mut observers: Vec<&mut dyn Observer> = vec![&mut folder];
        if self.bar {
            observers.push(&mut bar);
        }
        run.train_until(until, self.devices, &self.data.set, &mut Observers(observers), self.stop)
    }
}

/// The runs that have no result of their present kind yet, ordered by seed, so that after an interruption most seeds have
/// results of all arms or of none.
///
/// # Errors
/// If a recipe cannot be trained on the data, or the results are of another recipe.
pub fn unfinished(
    comparison: &Comparison,
    folder: &Path,
    results: &Results,
    data: &LoadedData,
    devices: &dyn Devices,
) -> Result<Vec<ArmRun>, Error> {
    let data_fingerprint = data.set.fingerprint();
    let mut runs = Vec::new();
    for seed in &comparison.seeds {
        for Arm { name, recipe, .. } in &comparison.arms {
            let recipe = recipe.with(&format!("train.seed={seed}"))?;
            // The recipe as it is saved in the run's folder.
            let device = devices.open(&recipe.engine)?;
            let (saved, _) = resolved(&recipe, &*device, &data.set)?;
            let fingerprint = |device, precision| {
                let mut saved = saved.clone();
                (saved.engine.device, saved.engine.precision) = (device, precision);
                Results::fingerprint(&saved, &data_fingerprint, comparison.bn_images)
            };
            let kind = Kind::new(&saved).expect("an open device is one of a kind");
            if results.find(name, *seed, &kind, fingerprint)?.is_none() {
                // Here, so that all recipes are checked before the first is trained.
                check(&recipe, &*device, &data.set)?;
                let fingerprint = fingerprint(kind.device, kind.precision);
                let folder = kind.run_folder(folder, name, *seed);
                runs.push(ArmRun { arm: name.clone(), recipe, fingerprint, folder });
            }
        }
    }
    Ok(runs)
}

/// The later runs that share their first epochs with `runs[of]`, each with the number of those epochs,
/// in ascending order. A run branches off the earlier run that it shares most epochs with, or the first
/// of several such runs.
pub fn branches(runs: &[ArmRun], of: usize) -> Vec<(u32, &ArmRun)> {
    let shared = |one: &ArmRun, other: &ArmRun| shared_epochs(&one.recipe, &other.recipe);
    let is_trunk = |index: usize, epochs: u32| {
        let others = runs[..index].iter().enumerate();
        let mut others = others.map(|(at, other)| (shared(other, &runs[index]), at));
        others.all(|(count, at)| count < epochs || count == epochs && at >= of)
    };
    let mut branches: Vec<_> = (of + 1..runs.len())
        .map(|index| (shared(&runs[of], &runs[index]), index))
        .filter(|&(epochs, index)| epochs > 0 && is_trunk(index, epochs))
        .map(|(epochs, index)| (epochs, &runs[index]))
        .collect();
    branches.sort_by_key(|branch| branch.0);
    branches
}

/// What the first run of these arms is, if one exists already.
fn first_record(folder: &Path, arms: &[&Arm], seeds: &[u64]) -> Option<Record> {
    let mut runs = arms.iter().flat_map(|arm| {
        seeds.iter().map(|seed| folder.join(&arm.name).join(format!("seed-{seed}")))
    });
    runs.find_map(|run| read_record(&run).ok())
}

/// Gives every arm the device and the precision that it will have. Arms whose device is `auto` stay on the device of
/// their last result.
///
/// # Errors
/// If a device cannot be used.
pub fn choose_devices(
    comparison: &mut Comparison,
    folder: &Path,
    results: &Results,
    devices: &dyn Devices,
) -> Result<(), Error> {
    let is_auto = |arm: &&Arm| arm.recipe.engine.device == DeviceKind::Auto;
    let auto: Vec<&Arm> = comparison.arms.iter().filter(is_auto).collect();
    let first = || first_record(folder, &auto, &comparison.seeds);
    let last = results.device(|name| auto.iter().any(|arm| arm.name == name));
    let stays_on = last.or_else(|| first().map(|record| record.recipe.engine.device));
    for arm in &mut comparison.arms {
        let engine = &mut arm.recipe.engine;
        if engine.device == DeviceKind::Auto {
            engine.device = stays_on.unwrap_or_default();
        }
        let chosen = devices.open(engine)?.config();
        (engine.device, engine.precision) = (chosen.device, chosen.precision);
    }
    Ok(())
}

impl ArmRun {
    fn start<'a>(&'a self, data: &'a LoadedData, devices: &'a dyn Devices) -> Start<'a> {
        Start {
            recipe: &self.recipe,
            recipe_name: &self.arm,
            data: &data.set,
            data_location: &data.location,
            init: None,
            devices,
        }
    }

    /// Trains to the end, resuming what an earlier call left, and evaluates the outcome. On the way it
    /// creates the runs of `branches`, each as a copy of this one after their shared epochs. `None` if it
    /// was asked to stop.
    ///
    /// # Errors
    /// If the folder holds a run of another recipe or other data, or training fails.
    pub fn train(
        &self,
        branches: &[(u32, &ArmRun)],
        context: &Context,
    ) -> Result<Option<Row>, Error> {
        let Context { comparison, data, ref engine, devices, .. } = *context;
        let folder = &self.folder;
        let mut run = if folder.exists() {
            self.open(comparison)?
        } else {
            Run::create(folder, &self.start(data, devices))?
        };
        run.set_command(context.command)?;
        for &(epochs, branch) in branches {
            let to = &branch.folder;
            // A run that exists already is resumed in its own turn.
            if to.exists() {
                continue;
            }
            if run.progress().epoch <= epochs {
                context.train(&mut run, epochs)?;
            }
            if context.stop.load(Ordering::Relaxed) {
                return Ok(None);
            }
            let Progress { epoch, batch, ended, .. } = *run.progress();
            if (epoch, batch, ended) == (epochs + 1, 0, false) {
                let parent = to.parent().unwrap_or(context.folder);
                std::fs::create_dir_all(parent)
                    .map_err(|error| Error::io("create", parent, error))?;
                run.branch(to, &branch.start(data, devices))?;
            }
        }
        if context.train(&mut run, u32::MAX)? == Outcome::Interrupted {
            return Ok(None);
        }
        let last = checkpoint::list(folder)?.last().copied().unwrap_or_default();
        let EngineConfig { device, precision, .. } = run.record().recipe.engine;
        let engine = EngineConfig { device, precision, ..engine.clone() };
        let mut model = Model::open(&checkpoint::path(folder, last), None, devices, &engine)?;
        let (count, choice) = (self.recipe.data.validation, run.record().run.validation);
        let validation = HeldOut::new(&data.set, count, choice).validation;
        let evaluated = validation.as_deref().unwrap_or(&data.set.test);
        // Training ends with an evaluation on the test set, unless the recipe turns it off.
        let running = match run.progress().test_accuracy.filter(|_| validation.is_none()) {
            Some(accuracy) => accuracy,
            None => model.evaluate(evaluated, |_| ())?.accuracy(),
        };
        model.recompute_statistics(&data.set.train, comparison.bn_images)?;
        let precise = model.evaluate(evaluated, |_| ())?.accuracy();
        Ok(Some(Row {
            arm: self.arm.clone(),
            seed: self.recipe.train.seed,
            fingerprint: self.fingerprint.clone(),
            running,
            precise,
            train_loss: model.about.loss.unwrap_or_default(),
            updates: run.progress().updates,
            seconds: run.progress().total_seconds(),
            device,
            precision: precision.on(device),
            version: run.record().run.version.clone(),
            validation: choice,
        }))
    }

    fn open(&self, comparison: &Comparison) -> Result<Run, Error> {
        let run = Run::open(&self.folder)?;
        let record = run.record();
        let data = &record.run.data_fingerprint;
        if Results::fingerprint(&record.recipe, data, comparison.bn_images) != self.fingerprint {
            let problem = format!(
                "is a run of another recipe or other data than those of arm {} now: rename the changed arm, or choose \
                 another folder with --out",
                self.arm
            );
            return Err(Error::bad(&self.folder, problem));
        }
        Ok(run)
    }
}
