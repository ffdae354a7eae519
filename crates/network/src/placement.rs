//! Where in memory each tensor and each gradient lies.
//!
//! Forward of fused step `i` of `n` happens at moment `i`, the loss at `n`, backward of step `i` at
//! `2n - i`. What backward reads is kept until then; everything else makes room.

use crate::fusion::{FusedStep, GradientInfo, Normed, TensorId, Work};
use crate::memory::{Life, place};
use crate::plan::{Plan, Storage};
use crate::{Shape, Value};

/// What lies where, in numbers of 4 bytes an image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// How much there is in all.
    pub len: usize,
    /// The offset of each tensor; the images lie outside.
    pub tensors: Vec<Option<usize>>,
    /// How the maps among them are stored.
    pub storage: Storage,
    /// The offset of each gradient; none in inference. Where an addend's place is the gradient's own,
    /// the addend is a part that is there already.
    pub gradients: Vec<Option<usize>>,
}

impl Placement {
    /// Whether there is a place for gradients.
    pub fn trains(&self) -> bool {
        !self.gradients.is_empty()
    }

    pub(crate) fn inference(plan: &Plan) -> Placement {
        let lives = forward_lives(plan, Storage::F32);
        let (offsets, len) = place(&lives);
        let mut tensors: Vec<Option<usize>> = offsets.into_iter().map(Some).collect();
        tensors.insert(0, None);
        Placement { len, tensors, storage: Storage::F32, gradients: Vec::new() }
    }

    pub(crate) fn training(plan: &Plan) -> Placement {
        let storage = plan.compute.activations;
        let mut lives = forward_lives(plan, storage);
        let fused = &plan.fused;
        let n = fused.steps.len();
        let backward = |step: usize| 2 * n - step;
        let mut keep = |tensor: TensorId, moment: usize| {
            if let Some(index) = tensor.0.checked_sub(1) {
                lives[index].last = lives[index].last.max(moment);
            }
        };
        for (index, step) in fused.steps.iter().enumerate() {
            kept_for_backward(step, &fused.gradients, &mut |tensor| keep(tensor, backward(index)));
        }
        keep(TensorId(fused.tensors.len() - 1), n);

        // A gradient lives from its first part until the last backward that begins with it.
        let tensors = lives.len();
        let size = |gradient: &GradientInfo| numbers(gradient.shape, Storage::F32);
        let mut gradients: Vec<Life> = fused
            .gradients
            .iter()
            .map(|gradient| Life { size: size(gradient), first: n, last: n })
            .collect();
        for (index, step) in fused.steps.iter().enumerate() {
            let last = &mut gradients[step.gradient].last;
            *last = (*last).max(backward(index));
            let Some(delivery) = &step.delivery else { continue };
            for &addend in &delivery.addends {
                gradients[addend].last = gradients[addend].last.max(backward(index));
            }
        }
        for (index, step) in fused.steps.iter().enumerate().rev() {
            let Some(delivery) = &step.delivery else { continue };
            if !delivery.accumulate {
                gradients[delivery.gradient].first = backward(index);
            }
        }
        // Where an addend ends as the sum begins, the sum is made in its place.
        let mut same_as: Vec<usize> = (0..gradients.len()).collect();
        for (index, step) in fused.steps.iter().enumerate().rev() {
            let Some(delivery) = step.delivery.as_ref().filter(|d| d.last && !d.accumulate) else {
                continue;
            };
            let ends = |&&addend: &&usize| {
                gradients[same_as[addend]].last == backward(index) && addend != step.gradient
            };
            if let Some(&addend) = delivery.addends.iter().find(ends) {
                let place = same_as[addend];
                same_as[delivery.gradient] = place;
                gradients[place].last =
                    gradients[place].last.max(gradients[delivery.gradient].last);
            }
        }
        let own: Vec<usize> = (0..gradients.len()).filter(|&g| same_as[g] == g).collect();
        lives.extend(own.iter().map(|&gradient| gradients[gradient]));
        let (offsets, len) = place(&lives);
        let mut of_gradient = vec![None; gradients.len()];
        for (&gradient, &offset) in own.iter().zip(&offsets[tensors..]) {
            of_gradient[gradient] = Some(offset);
        }
        let gradients = same_as.iter().map(|&gradient| of_gradient[gradient]).collect();
        let mut tensors: Vec<Option<usize>> =
            offsets[..tensors].iter().copied().map(Some).collect();
        tensors.insert(0, None);
        Placement { len, tensors, storage, gradients }
    }
}

/// Numbers of 4 bytes that one image's value takes.
pub(crate) fn numbers(shape: Shape, storage: Storage) -> usize {
    match (shape.maps(1), storage) {
        (Some(maps), Storage::F32) => maps.len(),
        (Some(maps), Storage::Bf16) => maps.len() / 2,
        (None, _) => shape.len(),
    }
}

/// The lives of all tensors but the images, as far as the forward pass goes.
fn forward_lives(plan: &Plan, storage: Storage) -> Vec<Life> {
    let fused = &plan.fused;
    let mut lives: Vec<Life> = fused
        .tensors
        .iter()
        .skip(1)
        .map(|tensor| {
            debug_assert_ne!(tensor.value, Value(0));
            let made = tensor.maker.expect("only the images are nobody's");
            Life { size: numbers(tensor.shape, storage), first: made, last: made }
        })
        .collect();
    for (index, step) in fused.steps.iter().enumerate() {
        for Normed { tensor, .. } in step.input.terms() {
            if let Some(tensor) = tensor.0.checked_sub(1) {
                lives[tensor].last = lives[tensor].last.max(index);
            }
        }
    }
    lives.last_mut().expect("a network has logits").last = fused.steps.len();
    lives
}

/// Calls `keep` with every tensor that a step's backward reads.
fn kept_for_backward(
    step: &FusedStep,
    gradients: &[GradientInfo],
    keep: &mut impl FnMut(TensorId),
) {
    if step.norm.is_some() {
        keep(step.output);
    }
    if !matches!(step.work, Work::AveragePool(_) | Work::Write | Work::Flatten) {
        step.input_again().terms().for_each(|term| keep(term.tensor));
    }
    let Some(delivery) = step.delivery.as_ref().filter(|delivery| delivery.last) else { return };
    let gradient = &gradients[delivery.gradient];
    let reading = &gradient.reading;
    if reading.activation.is_some() {
        // The slope is taken from what was kept, or else from what lies before the activation.
        match gradient.slope_from_kept() {
            Some(kept) => keep(kept),
            None => reading.terms().for_each(|term| keep(term.tensor)),
        }
    }
    reading.terms().filter(|term| term.norm.is_some()).for_each(|term| keep(term.tensor));
}
