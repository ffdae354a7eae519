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
    fit_batches(&mut recipe, images);
    phases(&recipe, images)
}

/// Lowers batch sizes so that an epoch of so many training images has `batch.least_updates` updates, and one at
/// least. Says so if that changes the recipe; a recipe whose batches fit stays as it is.
pub fn fit_batches(recipe: &mut Recipe, images: usize) -> Option<String> {
    let (least, ghost) = (recipe.batch.least_updates, recipe.network.norm.ghost);
    // Ghost batches must divide every batch.
    let in_ghosts =
        |most: usize| if (1..=most).contains(&ghost) { most - most % ghost } else { most };
    if let Some(most) = images.checked_div(least) {
        if !recipe.batch.lower_all(most.max(1)) {
            return None;
        }
        let most = in_ghosts(most.max(1));
        recipe.batch.lower_used(most);
        return Some(format!(
            "Batches have at most {}, so that an epoch of {images} has batch.least_updates = {least} updates.",
            images_text(most)
        ));
    }
    // Sizes that the run does not come to stay, so that it is the run that it was with any data.
    let largest = phases(recipe, images).iter().map(|phase| phase.batch_size).max()?;
    if images == 0 || largest <= images {
        return None;
    }
    let most = in_ghosts(images);
    recipe.batch.lower_used(most);
    let key = recipe.batch.largest_key();
    // No advice that leads to tiny batches.
    let advice = match (images / 8).min(20) {
        0 | 1 => String::new(),
        updates => format!(" For more, set batch.least_updates={updates}."),
    };
    Some(format!(
        "Batches have at most {}, because there are {images} to train on and {key} asks for {largest}: an epoch \
         can have a single update.{advice}",
        images_text(most)
    ))
}

fn images_text(count: usize) -> String {
    format!("{count} image{}", if count == 1 { "" } else { "s" })
}

/// The phases of a run whose batch sizes fit the data.
fn phases(recipe: &Recipe, images: usize) -> Vec<TrainingPhase> {
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
