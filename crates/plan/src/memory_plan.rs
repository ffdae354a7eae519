//! The memory plan: where in one arena each tensor and each gradient lies.
//!
//! The forward of step `i` of `n` happens at moment `i`, the loss at `n`, the backward of step `i` at
//! `2n - i`. What backward reads is live until then; all other memory is reused.
//!
//! How numbers are laid out and stored is the engine's: it says how much memory a value takes, in units of its
//! choice, per image. Sizes are rounded up to multiples of 16 units.

use crescendo_network::Shape;

use crate::arena::{LiveRange, pack};
use crate::fusion::{FusedGraph, FusedStep, NormedTensor, StepKind, TensorId, TensorInfo};
use crate::gradients::{Delivery, GradientInfo, GradientPlan};

/// Offsets and sizes, in units of the engine's choice, per image; multiples of 16 units. Memory of what is no longer
/// read is used again.
///
/// # Example
///
/// ```
/// use crescendo_network::{Graph, NetworkConfig, Shape};
/// use crescendo_plan::{FusedGraph, GradientPlan, IMAGES, MemoryPlan};
///
/// let images = Shape::Maps { channels: 3, height: 32, width: 32 };
/// let graph = Graph::new(&NetworkConfig::paper().network(images)?)?;
/// let fused = FusedGraph::new(&graph)?;
/// let gradients = GradientPlan::new(&graph, &fused)?;
/// // In bytes: tensors in bf16 or f32, gradients in f32.
/// let bytes = |of_number: usize| {
///     MemoryPlan::training(&fused, &gradients, |shape| of_number * shape.len(), |shape| 4 * shape.len())
/// };
/// let (bf16, f32) = (bytes(2), bytes(4));
/// assert!(bf16.trains() && bf16.len < 6 * f32.len / 10);
/// assert_eq!(f32.tensors[IMAGES.0], None);
/// // Memory is used again: all tensors and gradients together are larger.
/// let tensors: usize = fused.tensors.iter().skip(1).map(|tensor| 4 * tensor.shape.len()).sum();
/// let all = tensors + gradients.gradients.iter().map(|g| 4 * g.shape.len()).sum::<usize>();
/// assert!(f32.len < 8 * all / 10, "{} of {all}", f32.len);
/// # Ok::<(), crescendo_network::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemoryPlan {
    /// The size of the arena.
    pub len: usize,
    /// The offset of each tensor; `None` for the images, which are not in the arena.
    pub tensors: Vec<Option<usize>>,
    /// The offset of each gradient; empty in inference. A gradient may share the memory of one of its
    /// addends: then that part is already there.
    pub gradients: Vec<Option<usize>>,
}

impl MemoryPlan {
    /// Whether it is for training.
    pub fn trains(&self) -> bool {
        !self.gradients.is_empty()
    }

    /// The plan of a forward pass alone. `size` says how many units a tensor takes for one image.
    pub fn inference(fused: &FusedGraph, size: impl Fn(Shape) -> usize) -> MemoryPlan {
        let (offsets, len) = pack(&forward_ranges(fused, size));
        MemoryPlan { len, tensors: with_images(&offsets), gradients: Vec::new() }
    }

    /// The plan of a forward and a backward pass. The functions say how many units a tensor and a gradient take
    /// for one image.
    pub fn training(
        fused: &FusedGraph,
        gradients: &GradientPlan,
        size_of_tensor: impl Fn(Shape) -> usize,
        size_of_gradient: impl Fn(Shape) -> usize,
    ) -> MemoryPlan {
        let n = fused.steps.len();
        let backward = |step: usize| 2 * n - step;
        let mut tensors = forward_ranges(fused, size_of_tensor);
        let mut extend = |tensor: TensorId, moment: usize| {
            if let Some(index) = tensor.0.checked_sub(1) {
                tensors[index].last = tensors[index].last.max(moment);
            }
        };
        for (index, (step, own)) in fused.steps.iter().zip(&gradients.steps).enumerate() {
            let delivery = own.delivery.as_ref();
            saved_for_backward(step, delivery, &gradients.gradients, &mut |tensor| {
                extend(tensor, backward(index));
            });
        }
        extend(fused.logits(), n);

        let (owners, own_ranges) = gradient_ranges(gradients, size_of_gradient, backward);
        let shares = |&gradient: &usize| owners[gradient] != gradient;
        let own: Vec<usize> = (0..owners.len()).filter(|gradient| !shares(gradient)).collect();
        let count = tensors.len();
        tensors.extend(own.iter().map(|&gradient| own_ranges[gradient]));
        let (offsets, len) = pack(&tensors);
        let mut of_gradient = vec![None; owners.len()];
        for (&gradient, &offset) in own.iter().zip(&offsets[count..]) {
            of_gradient[gradient] = Some(offset);
        }
        let gradients = owners.iter().map(|&owner| of_gradient[owner]).collect();
        MemoryPlan { len, tensors: with_images(&offsets[..count]), gradients }
    }
}

fn with_images(offsets: &[usize]) -> Vec<Option<usize>> {
    std::iter::once(None).chain(offsets.iter().copied().map(Some)).collect()
}

/// The live ranges of all tensors but the images, as far as the forward pass goes.
fn forward_ranges(fused: &FusedGraph, size: impl Fn(Shape) -> usize) -> Vec<LiveRange> {
    let range = |tensor: &TensorInfo| {
        let written = tensor.producer.expect("only the images have no producer");
        LiveRange { size: size(tensor.shape), first: written, last: written }
    };
    let mut ranges: Vec<LiveRange> = fused.tensors.iter().skip(1).map(range).collect();
    for (index, step) in fused.steps.iter().enumerate() {
        for NormedTensor { tensor, .. } in step.input.terms() {
            if let Some(tensor) = tensor.0.checked_sub(1) {
                ranges[tensor].last = ranges[tensor].last.max(index);
            }
        }
    }
    ranges.last_mut().expect("a network has logits").last = fused.steps.len();
    ranges
}

/// The live range of each gradient, and whose memory each uses: its own, or that of an addend which ends where
/// the sum begins. A gradient is live from its first part until the last backward that starts from it.
fn gradient_ranges(
    plan: &GradientPlan,
    size: impl Fn(Shape) -> usize,
    backward: impl Fn(usize) -> usize,
) -> (Vec<usize>, Vec<LiveRange>) {
    let n = plan.steps.len();
    let range =
        |gradient: &GradientInfo| LiveRange { size: size(gradient.shape), first: n, last: n };
    let mut ranges: Vec<LiveRange> = plan.gradients.iter().map(range).collect();
    for (index, step) in plan.steps.iter().enumerate() {
        let addends = step.delivery.iter().flat_map(|delivery| &delivery.addends);
        for &read in addends.chain([&step.output]) {
            ranges[read].last = ranges[read].last.max(backward(index));
        }
    }
    let deliveries = plan.steps.iter().enumerate().rev();
    let deliveries =
        deliveries.filter_map(|(index, step)| Some((index, step, step.delivery.as_ref()?)));
    for (index, _, delivery) in deliveries.clone() {
        if !delivery.accumulate {
            ranges[delivery.gradient].first = backward(index);
        }
    }
    let mut owners: Vec<usize> = (0..ranges.len()).collect();
    for (index, step, delivery) in deliveries.filter(|(.., d)| d.last && !d.accumulate) {
        let ends = |&&addend: &&usize| {
            ranges[owners[addend]].last == backward(index) && addend != step.output
        };
        if let Some(&addend) = delivery.addends.iter().find(ends) {
            let owner = owners[addend];
            owners[delivery.gradient] = owner;
            ranges[owner].last = ranges[owner].last.max(ranges[delivery.gradient].last);
        }
    }
    (owners, ranges)
}

/// Calls `save` with every tensor that a step's backward reads.
fn saved_for_backward(
    step: &FusedStep,
    delivery: Option<&Delivery>,
    gradients: &[GradientInfo],
    save: &mut impl FnMut(TensorId),
) {
    if step.norm.is_some() {
        save(step.output);
    }
    if !matches!(step.kind, StepKind::AveragePool(_) | StepKind::Write | StepKind::Flatten) {
        step.backward_input().terms().for_each(|term| save(term.tensor));
    }
    let Some(delivery) = delivery.filter(|delivery| delivery.last) else { return };
    let gradient = &gradients[delivery.gradient];
    let input = &gradient.input;
    if input.activation.is_some() {
        match gradient.saved_output() {
            Some(saved) => save(saved),
            None => input.terms().for_each(|term| save(term.tensor)),
        }
    }
    input.terms().filter(|term| term.norm.is_some()).for_each(|term| save(term.tensor));
}
