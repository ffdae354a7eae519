//! Batch policies: how many images an update takes.

use serde::{Deserialize, Serialize};

use super::plateau::{Metric, ThresholdMode, Watch};
use super::schedule::ScheduleKind;
use crate::recipe::{reached, wrong_epochs};
use crate::{Error, Recipe};

/// The section `[batch]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Batch {
    /// What decides the batch size.
    pub policy: PolicyKind,
    /// The size of the policy `fixed`.
    pub size: usize,
    /// The table of the policy `steps`: from which epoch on, which size.
    pub steps: Vec<(u32, usize)>,
    /// Updates that an epoch has at least: sizes are smaller where the data is. 0 for sizes as they are.
    pub least_updates: usize,
    /// The first size of `plateau`, `noise_scale` and `from_lr`.
    pub initial: usize,
    /// Their largest size.
    pub max: usize,
    /// What `plateau` and `noise_scale` multiply the size by.
    pub factor: f64,
    /// What `plateau` watches, and how: see [`Watch`].
    pub metric: Metric,
    /// See [`Watch`].
    pub patience: u32,
    /// See [`Watch`].
    pub threshold: f64,
    /// See [`Watch`].
    pub threshold_mode: ThresholdMode,
    /// See [`Watch`].
    pub smoothing: f64,
    /// Epochs after a change that do not count (`plateau`), or in which there is no other
    /// (`noise_scale`).
    pub cooldown: u32,
    /// The multiple of the gradient noise scale that `noise_scale` keeps the size near.
    pub noise_multiple: f64,
    /// How many times too small, or too large, the size must be for `noise_scale` to change it.
    pub hysteresis: f64,
    /// What the learning rate does when the size grows.
    pub coupling: Coupling,
    /// What happens where the size would grow beyond `max`.
    pub after_max: AfterMax,
    /// Updates between measurements of the gradient noise scale; 0 for none.
    pub noise_every: u64,
    /// GiB of memory that a run may take; larger batches are computed in parts. 0 for a share of the
    /// machine's memory, which a run then keeps.
    pub memory_limit: f64,
}

/// Batch policies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PolicyKind {
    /// Always the same.
    Fixed,
    /// By a table of epochs.
    Steps,
    /// Larger when a metric stops improving.
    Plateau,
    /// Near a multiple of the gradient noise scale.
    NoiseScale,
    /// Larger where the section `[schedule]` would have the learning rate lower.
    FromLr,
}

/// What the learning rate does when the batch grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Coupling {
    /// Nothing.
    Constant,
    /// It grows by the square root of the batch's growth.
    Sqrt,
    /// It grows as the batch does.
    Linear,
}

impl Coupling {
    /// The learning rate's factor when the batch size is multiplied by `growth`.
    pub(super) fn factor(self, growth: f64) -> f64 {
        match self {
            Coupling::Constant => 1.0,
            Coupling::Sqrt => growth.sqrt(),
            Coupling::Linear => growth,
        }
    }
}

/// What happens where the batch would grow beyond its maximum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AfterMax {
    /// Nothing.
    Hold,
    /// The learning rate falls instead.
    Decay,
}

/// The most images of a batch.
const MOST: usize = 1_000_000;

impl Batch {
    /// How `plateau` watches.
    pub fn watch(&self) -> Watch {
        Watch {
            metric: self.metric,
            patience: self.patience,
            threshold: self.threshold,
            threshold_mode: self.threshold_mode,
            smoothing: self.smoothing,
            cooldown: self.cooldown,
        }
    }

    /// Makes sizes small enough for [`Self::least_updates`] with so many training images; the largest
    /// that they can be, where that changed any.
    pub(crate) fn fit(&mut self, images: usize) -> Option<usize> {
        let most = images.checked_div(self.least_updates)?.max(1);
        let mut changed = false;
        let steps = self.steps.iter_mut().map(|step| &mut step.1);
        for size in steps.chain([&mut self.size, &mut self.initial, &mut self.max]) {
            changed |= *size > most;
            *size = most.min(*size);
        }
        changed.then_some(most)
    }

    /// The size by the table of the policy `steps`.
    pub(super) fn by_table(&self, epoch: u32) -> usize {
        reached(&self.steps, epoch).expect("a recipe's steps begin with epoch 1")
    }

    /// The next larger size.
    pub(super) fn larger(&self, size: usize) -> usize {
        let larger = (size as f64 * self.factor).round() as usize;
        larger.max(size + 1).min(self.max)
    }

    /// The next smaller size.
    pub(super) fn smaller(&self, size: usize) -> usize {
        self.reachable().into_iter().rfind(|&smaller| smaller < size).unwrap_or(self.initial)
    }

    /// The size with the noise of a learning rate lowered to this factor: a multiple of the first.
    pub(super) fn for_rate(&self, factor: f64) -> usize {
        // A little more, since factors such as 0.1 are not exact.
        let multiple = (1.0 / factor * (1.0 + 1e-9)).min(MOST as f64) as usize;
        self.initial.saturating_mul(multiple.max(1)).min(self.max)
    }

    /// Sizes from the first to the largest that a policy of measurements can come to.
    pub(super) fn reachable(&self) -> Vec<usize> {
        let next = |&size: &usize| (size < self.max).then(|| self.larger(size));
        std::iter::successors(Some(self.initial), next).collect()
    }
}

/// Whether the keys of the section make sense, with the others of the recipe.
pub(super) fn check(recipe: &Recipe) -> Result<(), Error> {
    let batch = &recipe.batch;
    let refuse = |problem: String| Err(Error::Recipe(problem));
    if !(batch.memory_limit >= 0.0 && batch.memory_limit.is_finite()) {
        return refuse("batch.memory_limit must be a number of GiB, or 0".into());
    }
    if !(1..=MOST).contains(&batch.size) {
        return refuse(format!("batch.size must be from 1 to {MOST}"));
    }
    match batch.policy {
        PolicyKind::Fixed => return check_ghost(recipe, &[batch.size]),
        PolicyKind::Steps => {
            check_steps(batch)?;
            let sizes: Vec<usize> = batch.steps.iter().map(|step| step.1).collect();
            return check_ghost(recipe, &sizes);
        }
        PolicyKind::Plateau | PolicyKind::NoiseScale | PolicyKind::FromLr => {}
    }
    if !(1..=MOST).contains(&batch.initial) {
        return refuse(format!("batch.initial must be from 1 to {MOST}"));
    }
    if batch.max < batch.initial || batch.max > MOST {
        let initial = batch.initial;
        return refuse(format!(
            "batch.max must be from batch.initial = {initial} to {MOST}, but it is {}",
            batch.max
        ));
    }
    if batch.policy != PolicyKind::FromLr && !(batch.factor > 1.0 && batch.factor.is_finite()) {
        return refuse(format!(
            "batch.factor must be above 1, or the batch would never grow, but it is {}",
            batch.factor
        ));
    }
    batch.watch().check("batch")?;
    let schedule = recipe.schedule.policy;
    match batch.policy {
        PolicyKind::NoiseScale => {
            if batch.noise_every == 0 {
                return refuse("batch.policy = noise_scale needs batch.noise_every above 0".into());
            }
            if !(batch.noise_multiple > 0.0 && batch.noise_multiple.is_finite()) {
                return refuse("batch.noise_multiple must be above 0".into());
            }
            // Else a size that just grew could be too large at once.
            if batch.hysteresis.is_nan() || batch.hysteresis * batch.hysteresis < batch.factor {
                return refuse(format!(
                    "batch.hysteresis must be at least the square root of batch.factor = {}",
                    batch.factor
                ));
            }
        }
        PolicyKind::FromLr
            if matches!(schedule, ScheduleKind::Constant | ScheduleKind::Plateau) =>
        {
            return refuse(
                "batch.policy = from_lr needs a learning rate that falls by a plan: set \
                 schedule.policy to step, cosine, linear or one_cycle"
                    .into(),
            );
        }
        _ => {}
    }
    match batch.policy {
        // Multiples of the first, up to the largest.
        PolicyKind::FromLr => check_ghost(recipe, &[batch.initial, batch.max]),
        _ => check_ghost(recipe, &batch.reachable()),
    }
}

fn check_ghost(recipe: &Recipe, sizes: &[usize]) -> Result<(), Error> {
    let ghost = recipe.network.norm.ghost;
    match sizes.iter().find(|&&size| ghost > 0 && size % ghost != 0) {
        Some(size) => Err(Error::Recipe(format!(
            "network.norm.ghost = {ghost} does not divide the batch of {size}: choose a divisor of \
             every batch size, or 0 for statistics over the whole batch"
        ))),
        None => Ok(()),
    }
}

fn check_steps(batch: &Batch) -> Result<(), Error> {
    let problem = if let Some(problem) = wrong_epochs(&batch.steps) {
        problem
    } else if batch.steps.iter().any(|step| step.1 == 0) {
        "has a batch of no images"
    } else if batch.steps.iter().any(|step| step.1 > MOST) {
        "has a batch of more than a million images"
    } else {
        return Ok(());
    };
    Err(Error::Recipe(format!("batch.steps {problem}, as in [[1, 125], [61, 250]]")))
}
