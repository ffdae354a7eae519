//! Batch policies: how many images an update takes.

use crescendo_data::Normalization;

use crate::recipe::{Batch, PolicyKind};
use crate::{Error, Recipe};

/// The batch size of `epoch`, counted from 1.
pub fn batch_size(batch: &Batch, epoch: u32) -> usize {
    match batch.policy {
        PolicyKind::Fixed => batch.size,
        PolicyKind::Steps => {
            let reached = batch.steps.iter().take_while(|step| step.0 <= epoch);
            reached.last().expect("a recipe's steps begin with epoch 1").1
        }
    }
}

/// Epochs that follow each other with one batch size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Phase {
    /// Images an update takes.
    pub batch_size: usize,
    /// Epochs, the last of which may end early by `train.max_steps`.
    pub epochs: u32,
    /// Updates in all of them.
    pub updates: u64,
    /// Images trained on in all of them.
    pub images: u64,
}

/// What a run over `images` training images comes to, until its epochs or its updates end.
pub fn schedule(recipe: &Recipe, images: usize) -> Vec<Phase> {
    let sampling = recipe.sampling(Normalization::None);
    let limit = if recipe.train.max_steps == 0 { u64::MAX } else { recipe.train.max_steps };
    let mut left = limit;
    let mut phases: Vec<Phase> = Vec::new();
    for epoch in 1..=recipe.train.epochs {
        if left == 0 {
            break;
        }
        let batch_size = batch_size(&recipe.batch, epoch);
        let updates = left.min(sampling.batches(images, batch_size) as u64);
        left -= updates;
        let trained = (images as u64).min(updates * batch_size as u64);
        match phases.last_mut().filter(|phase| phase.batch_size == batch_size) {
            Some(phase) => {
                phase.epochs += 1;
                phase.updates += updates;
                phase.images += trained;
            }
            None => phases.push(Phase { batch_size, epochs: 1, updates, images: trained }),
        }
    }
    phases
}

/// The most images of a batch.
const MOST: usize = 1_000_000;

/// Whether the policy's keys make sense.
pub(crate) fn check(batch: &Batch) -> Result<(), Error> {
    if !(1..=MOST).contains(&batch.size) {
        return Err(Error::Recipe(format!("batch.size must be from 1 to {MOST}")));
    }
    if batch.policy == PolicyKind::Fixed {
        return Ok(());
    }
    let problem = if batch.steps.first().is_none_or(|step| step.0 != 1) {
        "must begin with epoch 1"
    } else if !batch.steps.is_sorted_by(|a, b| a.0 < b.0) {
        "must name its epochs in rising order"
    } else if batch.steps.iter().any(|step| step.1 == 0) {
        "has a batch of no images"
    } else if batch.steps.iter().any(|step| step.1 > MOST) {
        "has a batch of more than a million images"
    } else {
        return Ok(());
    };
    Err(Error::Recipe(format!("batch.steps {problem}, as in [[1, 125], [61, 250]]")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reports_schedule() {
        let recipe = Recipe::load::<&str>("report", &[]).unwrap();
        for (epoch, size) in [(1, 125), (60, 125), (61, 250), (70, 250), (71, 500), (90, 1000)] {
            assert_eq!(batch_size(&recipe.batch, epoch), size, "epoch {epoch}");
        }
        let phase = |batch_size, epochs, updates| Phase {
            batch_size,
            epochs,
            updates,
            images: 50_000 * u64::from(epochs),
        };
        let expected = [
            phase(125, 60, 24_000),
            phase(250, 10, 2_000),
            phase(500, 10, 1_000),
            phase(1000, 10, 500),
        ];
        assert_eq!(schedule(&recipe, 50_000), expected);
    }

    #[test]
    fn updates_can_end_a_schedule() {
        let changes = ["train.max_steps=7", "batch.steps=[[1, 30], [2, 50], [3, 90]]"];
        let recipe = Recipe::load("report", &changes).unwrap();
        let phases = schedule(&recipe, 100);
        let sizes: Vec<_> =
            phases.iter().map(|p| (p.batch_size, p.epochs, p.updates, p.images)).collect();
        assert_eq!(sizes, [(30, 1, 3, 90), (50, 1, 2, 100), (90, 2, 2, 180)]);
        assert_eq!(batch_size(&Batch { policy: PolicyKind::Fixed, ..recipe.batch }, 90), 125);
    }
}
