//! What a run comes to, worked out beforehand.

use std::collections::BTreeSet;

use crescendo_data::Normalization;

use super::{Chosen, PolicyKind};
use crate::Recipe;
use crate::events::Decided;

/// Epochs that follow each other with one batch size, and one size of images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Phase {
    /// Images an update takes.
    pub batch_size: usize,
    /// Pixels along each side of an image.
    pub side: usize,
    /// How much of the run; `None` where measurements decide.
    pub share: Option<Share>,
}

/// A share of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// Epochs, the last of which may end early by `train.max_steps`.
    pub epochs: u32,
    /// Updates in all of them.
    pub updates: u64,
    /// Images trained on in all of them.
    pub images: u64,
}

/// What a run over `images` training images comes to, until its epochs or its updates end. Where
/// measurements decide, all sizes that it can come to, with all sizes of images.
pub fn outlook(recipe: &Recipe, images: usize) -> Vec<Phase> {
    let mut recipe = recipe.clone();
    recipe.batch.fit(images);
    let recipe = &recipe;
    if matches!(recipe.batch.policy, PolicyKind::Plateau | PolicyKind::NoiseScale) {
        let sizes = recipe.batch.reachable();
        let sides = BTreeSet::from_iter(recipe.data.sides.iter().map(|side| side.1));
        let of_size =
            |batch_size| sides.iter().map(move |&side| Phase { batch_size, side, share: None });
        return sizes.into_iter().flat_map(of_size).collect();
    }
    let sampling = recipe.sampling(Normalization::None);
    let limit = if recipe.train.max_steps == 0 { u64::MAX } else { recipe.train.max_steps };
    let mut left = limit;
    let mut phases: Vec<Phase> = Vec::new();
    let mut chosen = Chosen::new(recipe);
    for epoch in 1..=recipe.train.epochs {
        if left == 0 {
            break;
        }
        let decisions = chosen.enter(recipe, epoch, 0, &Default::default());
        let batch_size = chosen.batch_size;
        let updates = left.min(sampling.batches(images, batch_size) as u64);
        left -= updates;
        let trained = (images as u64).min(updates * batch_size as u64);
        let side = recipe.data.side(epoch);
        if phases.last().is_none_or(|last| last.side != side)
            || decisions.iter().any(|one| one.what == Decided::BatchSize)
        {
            phases.push(Phase { batch_size, side, share: Some(Share::default()) });
        }
        let share = phases.last_mut().and_then(|phase| phase.share.as_mut()).expect("just made");
        share.epochs += 1;
        share.updates += updates;
        share.images += trained;
    }
    phases
}
