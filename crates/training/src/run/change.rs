//! Changes of a run's recipe on resume.

use crescendo_data::DataSet;
use crescendo_network::{DeviceKind, Devices, EngineConfig, IsaKind, PrecisionKind};

use serde::Serialize;
use toml::{Table, Value};

use super::{Progress, Run};
use crate::policy::SoFar;
use crate::recipe::{BatchPolicyKind, ScheduleKind};
use crate::record::Record;
use crate::{Error, Recipe, memory};

/// A key that was changed on resume.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Change {
    pub key: &'static str,
    pub from: String,
    pub to: String,
}

/// Why other keys cannot change.
const CHANGEABLE: &str = "on resume only train.epochs, optimizer.learning_rate, train.stop_after, \
    train.log_steps, engine.device, engine.precision, engine.threads, engine.tiles and engine.isa can change, because the run so far was trained with the old value; start a new run \
    instead, with --init to start from this one's weights";

/// The first key that differs and cannot change.
fn fixed_key(old: &Recipe, new: &Recipe) -> Option<String> {
    let mut rest = new.clone();
    rest.train.epochs = old.train.epochs;
    rest.train.log_steps = old.train.log_steps;
    rest.train.stop_after = old.train.stop_after;
    rest.optimizer.learning_rate = old.optimizer.learning_rate;
    rest.engine.threads = old.engine.threads;
    rest.engine.isa = old.engine.isa;
    rest.engine.tiles = old.engine.tiles;
    if rest.engine.device != old.engine.device {
        // Another device can have less memory.
        rest.batch.memory_limit = old.batch.memory_limit;
    }
    rest.engine.device = old.engine.device;
    rest.engine.precision = old.engine.precision;
    different_key(old, &rest)
}

/// The whole name of the first key that differs.
fn different_key(old: &impl Serialize, new: &impl Serialize) -> Option<String> {
    fn find(old: &Table, new: &Table) -> Option<String> {
        let keys = old.keys().chain(new.keys());
        let mut different = keys.filter(|key| old.get(*key) != new.get(*key));
        let key = different.next()?;
        let inner =
            old.get(key).and_then(Value::as_table).zip(new.get(key).and_then(Value::as_table));
        let inner = inner.and_then(|(old, new)| find(old, new));
        Some(inner.map_or(key.clone(), |inner| format!("{key}.{inner}")))
    }
    find(&Table::try_from(old).expect(TABLE), &Table::try_from(new).expect(TABLE))
}

/// Why recipes and records can be converted.
const TABLE: &str = "it has only strings for keys";

impl Run {
    /// Changes a key of the recipe: `train.epochs`, `train.stop_after`, `train.log_steps`,
    /// `optimizer.learning_rate`, `engine.device`, `engine.precision`, `engine.threads`, `engine.tiles` or
    /// `engine.isa`. With the device `auto` a run stays on the kind of device that it has. On another one it has the
    /// precision that is `auto` there, until that is changed too, and a lower memory limit if there is less memory.
    /// The numbers of threads and tiles and `log_steps` are saved only if another key changes too.
    ///
    /// # Errors
    /// If `change` (of the form `section.key=value`) is of another key or has an invalid value, or the device
    /// cannot be used.
    pub fn change(&mut self, change: &str, devices: &dyn Devices) -> Result<(), Error> {
        let mut recipe = self.record.recipe.with(change)?;
        let old = &self.record.recipe;
        if recipe.engine.device == DeviceKind::Auto {
            recipe.engine.device = old.engine.device;
        }
        let moves = recipe.engine.device != old.engine.device;
        if moves {
            recipe.engine.precision = PrecisionKind::Auto;
        }
        let device = devices.open(&recipe.engine)?;
        recipe.engine = device.config();
        if moves {
            let limit = memory::default_limit(device.memory().total);
            recipe.batch.memory_limit = old.batch.memory_limit.min(limit);
        }
        if let Some(key) = fixed_key(old, &recipe) {
            return Err(Error::Recipe(format!("{change} changes {key}: {CHANGEABLE}")));
        }
        self.accept(recipe)
    }

    /// Takes over edits of `recipe.toml` since the state was saved, when it was as `saved` says.
    pub(super) fn accept_edits(&mut self, saved: Record) -> Result<(), Error> {
        let mut edited = std::mem::replace(&mut self.record, saved);
        let saved = &self.record;
        // More epochs can have come to batches that were lowered to fit the data, just before the run was killed.
        // Training lowers them again.
        let (old, new) = (&saved.recipe, &mut edited.recipe);
        if new.train.epochs > old.train.epochs && new.batch.is_lowered_from(&old.batch) {
            new.batch = old.batch.clone();
        }
        let refuse = |key: String| {
            let problem = format!(
                "{key} was edited since the run was last saved: {CHANGEABLE}; or undo the edit"
            );
            Err(Error::bad(&self.folder.join("recipe.toml"), problem))
        };
        if let Some(key) = fixed_key(&saved.recipe, &edited.recipe) {
            return refuse(key);
        }
        let mut run = edited.run.clone();
        // The data may have been moved.
        run.data.clone_from(&saved.run.data);
        if let Some(key) = different_key(&saved.run, &run) {
            return refuse(format!("run.{key}"));
        }
        self.record.run.data = edited.run.data;
        self.accept(edited.recipe)
    }

    /// Takes over a recipe that differs in nothing but keys that can change.
    fn accept(&mut self, recipe: Recipe) -> Result<(), Error> {
        let old = &self.record.recipe;
        let Progress { epoch, ended, .. } = self.progress;
        // An epoch that has begun is trained to its end.
        let least = if ended { epoch - 1 } else { epoch };
        if recipe.train.epochs != old.train.epochs && recipe.train.epochs < least {
            return Err(Error::Recipe(format!(
                "train.epochs={} is too small: this run has already reached epoch {least}",
                recipe.train.epochs
            )));
        }
        let mut note = |key, from: String, to: String| {
            if from != to {
                self.changes.push(Change { key, from, to });
            }
        };
        let (before, after) = (&old.engine, &recipe.engine);
        note("engine.device", before.device.name().into(), after.device.name().into());
        let precision = |engine: &EngineConfig| engine.precision.on(engine.device).name().into();
        note("engine.precision", precision(before), precision(after));
        // A run that was created on another device has none yet.
        if before.isa != IsaKind::Auto {
            note("engine.isa", before.isa.name().into(), after.isa.name().into());
        }
        let (before, after) = (old.batch.memory_limit, recipe.batch.memory_limit);
        note("batch.memory_limit", before.to_string(), after.to_string());
        let (before, after) = (&old.train, &recipe.train);
        note("train.epochs", before.epochs.to_string(), after.epochs.to_string());
        note("train.stop_after", before.stop_after.to_string(), after.stop_after.to_string());
        let (before, after) = (&old.optimizer, &recipe.optimizer);
        let (before, after) = (before.learning_rate.to_string(), after.learning_rate.to_string());
        note("optimizer.learning_rate", before, after);
        let old = std::mem::replace(&mut self.record.recipe, recipe);
        self.before.get_or_insert_with(|| Box::new(old));
        Ok(())
    }

    /// How the learning rate jumps because a schedule that is spread over all epochs has got another number of
    /// them: from the last update to the next one.
    pub(crate) fn rate_change(&mut self, data: &DataSet) -> Option<String> {
        let (old, new) = (&*self.before.take()?, &self.record.recipe);
        let (schedule, [before, after]) = (&new.schedule, [old, new].map(|it| it.train.epochs));
        let spread = match schedule.policy {
            ScheduleKind::Cosine => "cosine",
            ScheduleKind::Linear => "linear",
            ScheduleKind::OneCycle => "one_cycle",
            ScheduleKind::Constant | ScheduleKind::Step | ScheduleKind::Plateau => return None,
        };
        let Progress { epoch, batch, updates, history, chosen, .. } = &self.progress;
        if before == after || *updates == 0 || *epoch > after {
            return None;
        }
        let images = data.train.len().saturating_sub(new.data.validation);
        let sampling = new.sampling(self.record.run.normalization);
        // As the training loop has it: the middle of an update.
        let position = |epoch: u32, batch: usize, batch_size: usize| {
            let batches = sampling.batches(images, batch_size).max(1);
            let batch = batch.min(batches - 1);
            f64::from(epoch - 1) + (batch as f64 + 0.5) / batches as f64
        };
        let last = match *batch {
            0 => position(epoch - 1, usize::MAX, chosen.batch_size),
            done => position(*epoch, done - 1, chosen.batch_size),
        };
        let from = chosen.learning_rate(old, last);
        let mut next = chosen.clone();
        // A policy of another program is not asked twice.
        if *batch == 0 && new.batch.policy != BatchPolicyKind::Custom {
            let so_far = SoFar { updates: *updates, images, history };
            next.enter(new, None, *epoch, so_far).ok()?;
        }
        let to = next.learning_rate(new, position(*epoch, *batch, next.batch_size));
        // A schedule's own steps from update to update are no jumps.
        if (to - from).abs() <= 0.02 * from.max(to) {
            return None;
        }
        Some(format!(
            "schedule.policy is {spread}, which is now spread over {after} epochs instead of {before}: the \
             learning rate jumps from {} at the last update to {} at the next one.",
            digits(from),
            digits(to)
        ))
    }
}

/// A number with three significant digits.
fn digits(value: f64) -> f64 {
    format!("{value:.2e}").parse().unwrap_or(value)
}
