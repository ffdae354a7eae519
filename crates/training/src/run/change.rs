//! Changes of a run's recipe on resume.

use crescendo_network::{DeviceKind, Devices};

use super::{Progress, Run};
use crate::Error;

/// A key that was changed on resume.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Change {
    pub key: &'static str,
    pub from: String,
    pub to: String,
}

impl Run {
    /// Changes a key of the recipe: `train.epochs`, `train.log_steps`, `optimizer.learning_rate`,
    /// `engine.threads` or `engine.isa`. A run stays on the kind of device that it was created for. The number of
    /// threads and `log_steps` are saved only if another key changes too.
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
        recipe.engine = devices.open(&recipe.engine)?.config();
        let mut rest = recipe.clone();
        rest.train.epochs = old.train.epochs;
        rest.train.log_steps = old.train.log_steps;
        rest.optimizer.learning_rate = old.optimizer.learning_rate;
        rest.engine.threads = old.engine.threads;
        rest.engine.isa = old.engine.isa;
        if rest != *old {
            return Err(Error::Recipe(format!(
                "{change}: on resume only train.epochs, optimizer.learning_rate, engine.threads, \
                 engine.isa and train.log_steps can change, because the run so far was trained with \
                 the old value; start a new run instead, with --init to start from this one's weights"
            )));
        }
        let Progress { epoch, ended, .. } = self.progress;
        // An epoch that has begun is trained to its end.
        let least = if ended { epoch - 1 } else { epoch };
        if recipe.train.epochs < least {
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
        let (before, after) = (old.engine.isa, recipe.engine.isa);
        note("engine.isa", before.name().into(), after.name().into());
        let (before, after) = (&old.train, &recipe.train);
        note("train.epochs", before.epochs.to_string(), after.epochs.to_string());
        let (before, after) = (&old.optimizer, &recipe.optimizer);
        let (before, after) = (before.learning_rate.to_string(), after.learning_rate.to_string());
        note("optimizer.learning_rate", before, after);
        self.record.recipe = recipe;
        Ok(())
    }
}
