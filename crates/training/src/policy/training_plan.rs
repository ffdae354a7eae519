//! The training plan: the phases of a run, worked out before it begins.

use std::collections::BTreeSet;

use crescendo_data::Normalization;

use super::MAX_BATCH_SIZE;
use super::tables::planned_size;
use crate::Recipe;
use crate::recipe::BatchPolicyKind;

/// Consecutive epochs with one batch size and one image size.
///
/// See the example of [`training_plan`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TrainingPhase {
    /// Images an update takes.
    pub batch_size: usize,
    /// Pixels along each side of the training images.
    pub image_size: usize,
    /// How long the phase is; `None` if that depends on measurements.
    pub length: Option<PhaseLength>,
}

/// How long a phase of a run is.
///
/// See the example of [`training_plan`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PhaseLength {
    /// Epochs; the last of them may be cut short by `train.max_steps`.
    pub epochs: u32,
    /// Updates in all of them.
    pub updates: u64,
    /// Images trained on in all of them.
    pub images: u64,
}

/// The phases of a run over `images` training images, until its epochs or its updates end. If the batch size
/// depends on measurements: every combination of a batch size and an image size that the run can come to; of the first
/// batch size alone for the policy `custom`, whose others are not known.
///
/// # Example
///
/// ```
/// use crescendo_training::Recipe;
/// use crescendo_training::policy::training_plan;
///
/// let changes = ["batch.steps=[[1, 50], [3, 100]]", "train.epochs=4"];
/// let phases = training_plan(&Recipe::load("quick", &changes)?, 1000);
/// assert_eq!((phases[1].batch_size, phases[1].image_size), (100, 32));
/// let length = phases[1].length.unwrap();
/// assert_eq!((length.epochs, length.updates, length.images), (2, 20, 2000));
/// # Ok::<(), crescendo_training::Error>(())
/// ```
pub fn training_plan(recipe: &Recipe, images: usize) -> Vec<TrainingPhase> {
    let mut recipe = recipe.clone();
    fit_batches(&mut recipe, images);
    phases(&recipe, images)
}

/// The largest batch of an epoch of so many training images: all of them, or as few as leave `batch.least_updates`
/// updates.
pub(super) fn largest_batch(recipe: &Recipe, images: usize) -> usize {
    let (least, ghost) = (recipe.batch.least_updates, recipe.network.norm.ghost);
    let most = images.checked_div(least).unwrap_or(images).clamp(1, MAX_BATCH_SIZE);
    // Ghost batches must divide every batch.
    if (1..=most).contains(&ghost) { most - most % ghost } else { most }
}

/// Lowers batch sizes so that an epoch of so many training images has `batch.least_updates` updates, and one at
/// least. Says so if that changes the recipe; a recipe whose batches fit stays as it is.
///
/// # Example
///
/// ```
/// use crescendo_training::Recipe;
/// use crescendo_training::policy::fit_batches;
///
/// let mut recipe = Recipe::load("quick", &["batch.policy=fixed", "batch.size=500"])?;
/// let note = fit_batches(&mut recipe, 60).expect("60 images are no batch of 500");
/// assert!(recipe.batch.size <= 60, "{note}");
/// assert_eq!(fit_batches(&mut recipe, 60), None);
/// # Ok::<(), crescendo_training::Error>(())
/// ```
pub fn fit_batches(recipe: &mut Recipe, images: usize) -> Option<String> {
    let least = recipe.batch.least_updates;
    if let Some(most) = images.checked_div(least) {
        if !recipe.batch.lower_all(most.max(1)) {
            return None;
        }
        let most = largest_batch(recipe, images);
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
    let most = largest_batch(recipe, images);
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
    let measured = match recipe.batch.policy {
        BatchPolicyKind::Plateau | BatchPolicyKind::NoiseScale => Some(recipe.batch.reachable()),
        // The others are not known before they are chosen.
        BatchPolicyKind::Custom => Some(vec![recipe.batch.initial]),
        BatchPolicyKind::Fixed | BatchPolicyKind::Steps | BatchPolicyKind::FromLr => None,
    };
    if let Some(sizes) = measured {
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
    for epoch in 1..=recipe.train.epochs {
        if left == 0 {
            break;
        }
        let batch_size = planned_size(recipe, epoch).expect("the size follows from tables");
        let updates = left.min(sampling.batches(images, batch_size) as u64);
        left -= updates;
        let trained = (images as u64).min(updates * batch_size as u64);
        let image_size = recipe.data.image_size(epoch);
        let sizes = (batch_size, image_size);
        if phases.last().is_none_or(|last| (last.batch_size, last.image_size) != sizes) {
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
