//! What a policy is: it chooses the batch size and a factor of the learning rate of each epoch, from what has
//! happened so far.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::PlateauObservation;
use crate::Error;
use crate::recipe::Coupling;

/// A rule that chooses the batch size, and a factor of the learning rate, of each epoch. The built-in policies are
/// written with it; [`Run::set_policy`](crate::Run::set_policy) takes one of your own, for a recipe with
/// `batch.policy = "custom"`.
///
/// A run that is stopped and resumed must choose the same. So a choice may depend on the [`EpochStart`] and on the
/// policy's own state, but not on times, random numbers or anything else. A policy whose state changes from epoch to
/// epoch implements [`state`](Self::state) and [`restore`](Self::restore).
///
/// # Example
///
/// ```
/// use crescendo_training::Error;
/// use crescendo_training::policy::{Choice, EpochStart, Policy};
///
/// /// Doubles the batch whenever the training accuracy of an epoch is less than one point better.
/// struct DoubleWhenSlow;
///
/// impl Policy for DoubleWhenSlow {
///     fn decide(&mut self, epoch: &EpochStart<'_>) -> Result<Choice, Error> {
///         let mut choice = epoch.current.clone();
///         if let [.., before, last] = epoch.history {
///             let gain = last.train_accuracy - before.train_accuracy;
///             if gain < 0.01 {
///                 choice.batch_size *= 2;
///                 choice.reason = format!("the training accuracy rose by {gain:.4}");
///             }
///         }
///         Ok(choice)
///     }
/// }
/// ```
pub trait Policy: Send {
    /// Chooses for an epoch. Asked once at the beginning of each, the first included; a change of the batch size or the
    /// factor is logged with its reason.
    ///
    /// # Errors
    /// If it cannot choose; the run then stops.
    fn decide(&mut self, epoch: &EpochStart<'_>) -> Result<Choice, Error>;

    /// What the policy must remember until the next epoch. It is saved with the run. `null` if it remembers nothing.
    fn state(&self) -> Value {
        Value::Null
    }

    /// Takes over a state that [`state`](Self::state) returned. Called before each choice, unless there is no state yet
    /// or it was `null`.
    ///
    /// # Errors
    /// If it is no state of this policy.
    fn restore(&mut self, state: &Value) -> Result<(), Error> {
        let _ = state;
        Ok(())
    }
}

impl fmt::Debug for dyn Policy {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("Policy")
    }
}

/// What a policy chooses from: all that is known when an epoch begins.
///
/// See the example of [`Policy`].
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct EpochStart<'a> {
    /// The epoch that begins, counted from 1.
    pub epoch: u32,
    /// Epochs of the run.
    pub epochs: u32,
    /// Updates done so far.
    pub updates: u64,
    /// Images that are trained on in an epoch.
    pub training_images: usize,
    /// Pixels along each side of the epoch's training images, by `data.sides`.
    pub image_size: usize,
    /// The same of the epoch before. If it differs, earlier measurements say nothing about this epoch.
    pub last_image_size: usize,
    /// The metrics of the epochs so far, the first one first.
    pub history: &'a [EpochMetrics],
    /// The gradient noise scale in images, if it is known: see `batch.noise_every`.
    pub noise_scale: Option<f64>,
    /// What has been chosen for the epoch before; at the beginning, `batch.initial` and a factor of 1. With
    /// `schedule.policy = "plateau"`, its factor is part of this one.
    pub current: Choice,
}

/// What a policy chooses for an epoch.
///
/// See the example of [`Policy`].
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Choice {
    /// Images an update takes, at least 1. More than there are training images, or than leave an epoch
    /// `batch.least_updates` updates, are lowered to these; more than fit in memory are refused.
    pub batch_size: usize,
    /// What the recipe's learning rates, with their schedule, are multiplied by: finite and above 0.
    pub learning_rate_factor: f64,
    /// Why, in words, if it differs from the current choice.
    pub reason: String,
    /// The metric that the policy followed, if it waits for a plateau.
    pub metric: Option<PlateauObservation>,
}

impl Choice {
    /// A choice, with its reason.
    pub fn new(batch_size: usize, learning_rate_factor: f64, reason: impl Into<String>) -> Self {
        Choice { batch_size, learning_rate_factor, reason: reason.into(), metric: None }
    }

    /// Changes the batch size, and the learning rate with it.
    pub(super) fn grow_to(&mut self, batch_size: usize, coupling: Coupling) {
        let growth = batch_size as f64 / self.batch_size as f64;
        self.learning_rate_factor *= coupling.factor(growth);
        self.batch_size = batch_size;
    }

    /// Whether it changes nothing.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.batch_size == other.batch_size
            && self.learning_rate_factor == other.learning_rate_factor
    }
}

/// The metrics of an epoch, a row of [`EpochStart::history`].
///
/// See the example of [`Policy`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct EpochMetrics {
    /// The epoch, counted from 1.
    pub epoch: u32,
    /// Updates since the beginning of the run.
    pub updates: u64,
    /// Images an update took.
    pub batch_size: usize,
    /// The learning rate of the last update.
    pub learning_rate: f64,
    /// The mean loss over the epoch's images, each as computed in its update.
    pub train_loss: f64,
    /// The accuracy on them, from 0 to 1.
    pub train_accuracy: f64,
    /// The mean loss over the validation images, if they were evaluated.
    pub validation_loss: Option<f64>,
    /// The accuracy on the validation images, from 0 to 1, if they were evaluated.
    pub validation_accuracy: Option<f64>,
    /// The accuracy on the test set, from 0 to 1, if it was evaluated.
    pub test_accuracy: Option<f64>,
    /// The gradient noise scale in images at the end of the epoch, if it is known.
    pub noise_scale: Option<f64>,
}
