//! The batch policy `noise_scale`: the size follows a multiple of the gradient noise scale.

use serde_json::{Value, json};

use super::{Choice, EpochStart, Policy, restored};
use crate::Error;
use crate::recipe::{AfterMax, BatchConfig};

pub(super) struct NoiseScalePolicy<'a> {
    batch: &'a BatchConfig,
    /// Epochs before it may decide again.
    cooldown: u32,
}

impl<'a> NoiseScalePolicy<'a> {
    pub fn new(batch: &'a BatchConfig) -> Self {
        NoiseScalePolicy { batch, cooldown: 0 }
    }
}

impl Policy for NoiseScalePolicy<'_> {
    /// Moves the batch size towards the multiple of the gradient noise scale.
    fn decide(&mut self, epoch: &EpochStart<'_>) -> Result<Choice, Error> {
        let batch = self.batch;
        let mut choice = epoch.current.clone();
        self.cooldown = self.cooldown.saturating_sub(1);
        let Some(scale) = epoch.noise_scale.filter(|_| self.cooldown == 0) else {
            return Ok(choice);
        };
        let target = batch.noise_multiple * scale;
        let too_small = |size: f64| target >= batch.hysteresis * size;
        let too_large = |size: f64| target * batch.hysteresis <= size;
        let Choice { batch_size: size, learning_rate_factor: factor, .. } = &mut choice;
        // At the largest size, a lower learning rate has the effect of a larger batch.
        let undecayed = batch.coupling.factor(*size as f64 / batch.initial as f64);
        let as_large = *size as f64 * undecayed / *factor;
        if *size == batch.max && batch.after_max == AfterMax::Decay {
            if too_small(as_large) {
                *factor /= batch.factor;
            } else if *factor < undecayed && too_large(as_large) {
                *factor = (*factor * batch.factor).min(undecayed);
            }
        }
        choice.reason = format!("gradient noise scale: {scale:.0} images");
        if choice.learning_rate_factor == epoch.current.learning_rate_factor {
            let mut size = choice.batch_size;
            while size < batch.max && too_small(size as f64) {
                size = batch.larger(size);
            }
            while size > batch.initial && too_large(size as f64) {
                size = batch.smaller(size);
            }
            choice.grow_to(size, batch.coupling);
        } else {
            choice.reason += ", and batch.max is reached";
        }
        if !choice.is_same(&epoch.current) {
            self.cooldown = batch.plateau.cooldown + 1;
        }
        Ok(choice)
    }

    fn state(&self) -> Value {
        json!({ "cooldown": self.cooldown })
    }

    fn restore(&mut self, state: &Value) -> Result<(), Error> {
        self.cooldown = restored("batch.policy = noise_scale", &state["cooldown"])?;
        Ok(())
    }
}
