//! Whether the section `[batch]` is valid.

use super::check_plateau;
use crate::policy::MAX_BATCH_SIZE;
use crate::recipe::{BatchConfig, BatchPolicyKind, ScheduleKind, epochs_problem};
use crate::{Error, Recipe};

/// Whether the section is valid, together with the keys of other sections that its policy depends on.
pub(super) fn check(recipe: &Recipe) -> Result<(), Error> {
    let batch = &recipe.batch;
    let refuse = |problem: String| Err(Error::Recipe(problem));
    if !(batch.memory_limit >= 0.0 && batch.memory_limit.is_finite()) {
        return refuse("batch.memory_limit must be a number of GiB, or 0 for the default".into());
    }
    if !(1..=MAX_BATCH_SIZE).contains(&batch.size) {
        return refuse(format!("batch.size must be from 1 to {MAX_BATCH_SIZE}"));
    }
    match batch.policy {
        BatchPolicyKind::Fixed => return check_ghost(recipe, &[batch.size]),
        BatchPolicyKind::Steps => {
            check_steps(batch)?;
            let sizes: Vec<usize> = batch.steps.iter().map(|step| step.1).collect();
            return check_ghost(recipe, &sizes);
        }
        BatchPolicyKind::Plateau
        | BatchPolicyKind::NoiseScale
        | BatchPolicyKind::FromLr
        | BatchPolicyKind::Custom => {}
    }
    if !(1..=MAX_BATCH_SIZE).contains(&batch.initial) {
        return refuse(format!("batch.initial must be from 1 to {MAX_BATCH_SIZE}"));
    }
    if batch.policy == BatchPolicyKind::Custom {
        return check_ghost(recipe, &[batch.initial]);
    }
    if batch.max < batch.initial || batch.max > MAX_BATCH_SIZE {
        let initial = batch.initial;
        return refuse(format!(
            "batch.max must be from batch.initial = {initial} to {MAX_BATCH_SIZE}, but it is {}",
            batch.max
        ));
    }
    if batch.policy != BatchPolicyKind::FromLr && !(batch.factor > 1.0 && batch.factor.is_finite())
    {
        return refuse(format!(
            "batch.factor must be above 1, or the batch would never grow, but it is {}",
            batch.factor
        ));
    }
    check_plateau("batch", &batch.plateau)?;
    let schedule = recipe.schedule.policy;
    match batch.policy {
        BatchPolicyKind::NoiseScale => {
            if batch.noise_every == 0 {
                return refuse(
                    "batch.policy = noise_scale needs measurements: set batch.noise_every above 0"
                        .into(),
                );
            }
            if !(batch.noise_multiple > 0.0 && batch.noise_multiple.is_finite()) {
                return refuse("batch.noise_multiple must be above 0".into());
            }
            // Otherwise a size could be too large as soon as it has grown.
            if batch.hysteresis.is_nan() || batch.hysteresis * batch.hysteresis < batch.factor {
                return refuse(format!(
                    "batch.hysteresis must be at least the square root of batch.factor = {}",
                    batch.factor
                ));
            }
        }
        BatchPolicyKind::FromLr
            if matches!(schedule, ScheduleKind::Constant | ScheduleKind::Plateau) =>
        {
            return refuse(
                "batch.policy = from_lr needs a schedule that lowers the learning rate: set \
                 schedule.policy to step, cosine, linear or one_cycle"
                    .into(),
            );
        }
        _ => {}
    }
    match batch.policy {
        // All sizes are multiples of the first, up to the largest.
        BatchPolicyKind::FromLr => check_ghost(recipe, &[batch.initial, batch.max]),
        _ => check_ghost(recipe, &batch.reachable()),
    }
}

/// Whether ghost batches divide all batch sizes: BatchNorm takes its statistics over batches of equal size.
fn check_ghost(recipe: &Recipe, sizes: &[usize]) -> Result<(), Error> {
    let ghost = recipe.network.norm.ghost;
    match sizes.iter().find(|&&size| ghost > 0 && size % ghost != 0) {
        Some(size) => Err(Error::Recipe(format!(
            "network.norm.ghost = {ghost} does not divide the batch size {size}: choose a divisor of \
             every batch size, or 0 for statistics over the whole batch"
        ))),
        None => Ok(()),
    }
}

fn check_steps(batch: &BatchConfig) -> Result<(), Error> {
    let problem = if let Some(problem) = epochs_problem(&batch.steps) {
        problem
    } else if batch.steps.iter().any(|step| step.1 == 0) {
        "must not have a batch of 0 images"
    } else if batch.steps.iter().any(|step| step.1 > MAX_BATCH_SIZE) {
        "must not have a batch of more than a million images"
    } else {
        return Ok(());
    };
    Err(Error::Recipe(format!("batch.steps {problem}, for example [[1, 125], [61, 250]]")))
}
