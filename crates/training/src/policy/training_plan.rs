//! The training plan: the phases of a run, worked out before it begins.

use std::collections::BTreeSet;

use crescendo_data::Normalization;

use super::{DecisionKind, PolicyState};
use crate::Recipe;
use crate::recipe::BatchPolicyKind;

/// Consecutive epochs with one batch size and one image size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrainingPhase {
    /// Images an update takes.
    pub batch_size: usize,
    /// Pixels along each side of the training images.
    pub image_size: usize,
    /// How long the phase is; `None` if that depends on measurements.
    pub length: Option<PhaseLength>,
}

/// How long a phase of a run is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PhaseLength {
    /// Epochs; the last of them may be cut short by `train.max_steps`.
    pub epochs: u32,
    /// Updates in all of them.
    pub updates: u64,
    /// Images trained on in all of them.
    pub images: u64,
}

/// The phases of a run over `images` training images, until its epochs or its updates end. If the batch size
/// depends on measurements: every combination of a batch size and an image size that the run can come to.
pub fn training_plan(recipe: &Recipe, images: usize) -> Vec<TrainingPhase> {
    let mut recipe = recipe.clone();
    recipe.batch.shrink_to_data(images);
    let recipe = &recipe;
    if matches!(recipe.batch.policy, BatchPolicyKind::Plateau | BatchPolicyKind::NoiseScale) {
        let sizes = recipe.batch.reachable();
        let image_sizes = BTreeSet::from_iter(recipe.data.sides.iter().map(|row| row.1));
        let of_size = |batch_size| {
            let phase = move |&image_size| TrainingPhase { batch_size, image_size, length: None };
            image_sizes.iter().map(phase)
        };
        return sizes.into_iter().flat_map(of_size).collect();
    }
    let sampling = recipe.sampling(Normalization::None);
    let limit = if recipe.train.max_steps == 0 { u64::MAX } else { recipe.train.max_steps };
    let mut left = limit;
    let mut phases: Vec<TrainingPhase> = Vec::new();
    let mut state = PolicyState::new(recipe);
    for epoch in 1..=recipe.train.epochs {
        if left == 0 {
            break;
        }
        let decisions = state.enter(recipe, epoch, 0, &Default::default());
        let batch_size = state.batch_size;
        let updates = left.min(sampling.batches(images, batch_size) as u64);
        left -= updates;
        let trained = (images as u64).min(updates * batch_size as u64);
        let image_size = recipe.data.image_size(epoch);
        if phases.last().is_none_or(|last| last.image_size != image_size)
            || decisions.iter().any(|decision| decision.what == DecisionKind::BatchSize)
        {
            phases.push(TrainingPhase { batch_size, image_size, length: Some(Default::default()) });
        }
        let length = phases.last_mut().and_then(|phase| phase.length.as_mut());
        let length = length.expect("the first epoch begins a phase");
        length.epochs += 1;
        length.updates += updates;
        length.images += trained;
    }
    phases
}
