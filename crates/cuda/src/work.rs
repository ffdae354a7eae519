//! What an update must do at least: the one place that counts the bytes and the products of its steps.
//!
//! For each kernel that a step runs, forward or backward, every map that it reads or writes counts once, as it lies in
//! memory: channels are padded, numbers have the precision's size. Weights and their gradients count once in f32 for
//! each kernel. What a kernel reads again (the edges of tiles), packed weights, partial sums and the factors of BatchNorm
//! do not count: they are what a better kernel would avoid. Nor does it count that a map may still be in the cache.
//!
//! Products are those of convolutions and linear layers, without padding: as many for the gradient of the input as
//! forward, and as many for that of the weights.

use crescendo_network::{UpdateWork, Work};
use crescendo_plan::{Delivery, FusedInput, FusedStep, RequiredGradients, StepKind, TensorId};

use crate::plan::ExecutionPlan;
use crate::window::Layer;

/// The work of an update with so many images, where backward computes the gradients that are `required`. The optimizer
/// reads and writes parameters, momentum buffers and gradients; Muon's products do not count.
pub(crate) fn of_update(
    plan: &ExecutionPlan,
    required: &[RequiredGradients],
    requires_grad: &[bool],
    images: usize,
) -> UpdateWork {
    let count = Count { plan, images };
    let steps = plan.fused.steps.iter().enumerate();
    let trained = plan.graph.parameters.iter().zip(requires_grad).filter(|(_, trained)| **trained);
    let trained: usize = trained.map(|(parameter, _)| parameter.range.len()).sum();
    UpdateWork {
        steps: steps
            .map(|(index, step)| {
                [count.forward(index, step), count.backward(index, step, required[index])]
            })
            .collect(),
        // Each of the three is read and written.
        optimizer: Work { bytes: (6 * 4 * trained) as f64, flops: 0.0 },
    }
}

/// What a kernel reads or writes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Operand {
    Tensor(TensorId),
    Gradient(usize),
    /// What a gradient holds before the kernel adds to it: read apart from being written.
    Before(usize),
}

struct Count<'a> {
    plan: &'a ExecutionPlan,
    images: usize,
}

impl Count<'_> {
    fn forward(&self, index: usize, step: &FusedStep) -> Work {
        let layer = self.plan.layers[index];
        let mut bytes = 0;
        let mut input = step.input;
        if let Some(saved) = step.save_input
            && !layer.is_some_and(Layer::reads_all)
        {
            // Another kernel saves the input, and the step reads what that has written.
            bytes += self.kernel(terms(&input).chain([Operand::Tensor(saved)]));
            input = FusedInput::plain(saved);
        }
        let saved = step.save_input.filter(|_| !input.is_plain());
        let written = [Some(step.output), saved].into_iter().flatten().map(Operand::Tensor);
        bytes += self.kernel(terms(&input).chain(written)) + self.weights(layer);
        self.work(bytes, usize::from(layer.is_some()), step)
    }

    fn backward(&self, index: usize, step: &FusedStep, required: RequiredGradients) -> Work {
        let layer = self.plan.layers[index];
        let own = &self.plan.gradients.steps[index];
        let delivery = own.delivery.as_ref().filter(|_| required.input);
        // The gradient of the output, and the output itself if a BatchNorm follows.
        let normed = step.norm.map(|_| Operand::Tensor(step.output));
        let gradient = [Some(Operand::Gradient(own.output)), normed].into_iter().flatten();
        let (mut bytes, mut products) = (0, 0);
        if layer.is_some() && required.weight {
            // What the gradient of the weights holds is read, too.
            bytes += self.kernel(gradient.clone().chain(terms(&step.backward_input())));
            bytes += 2 * self.weights(layer);
            products += 1;
        }
        let bias = self.plan.graph.nodes[step.node].bias;
        if layer.is_some() && bias.is_some() && required.bias && step.norm.is_none() {
            bytes += self.kernel(gradient.clone());
        }
        if let Some(delivery) = delivery {
            let mut operands: Vec<Operand> = gradient.collect();
            if layer.is_none() {
                // A pooling looks for its maximum again; an activation's derivative is taken at its input.
                let again = matches!(step.kind, StepKind::MaxPool(_) | StepKind::Activation(_));
                operands.extend(terms(&step.backward_input()).filter(|_| again));
            }
            operands.extend(self.delivered(delivery));
            bytes += self.kernel(operands) + self.weights(layer);
            products += usize::from(layer.is_some());
        }
        self.work(bytes, products, step)
    }

    /// What a kernel reads and writes to deliver the gradient of its input.
    fn delivered(&self, delivery: &Delivery) -> Vec<Operand> {
        let gradients = &self.plan.gradients.gradients;
        let offsets = &self.plan.training.gradients;
        let mut operands = vec![Operand::Gradient(delivery.gradient)];
        // A part that lies where the sum will be is read there.
        let in_place = |&addend: &usize| offsets[addend] == offsets[delivery.gradient];
        if delivery.accumulate || delivery.addends.iter().any(in_place) {
            operands.push(Operand::Before(delivery.gradient));
        }
        let addends = delivery.addends.iter().filter(|addend| !in_place(addend));
        operands.extend(addends.map(|&addend| Operand::Gradient(addend)));
        if !delivery.last {
            return operands;
        }
        let gradient = &gradients[delivery.gradient];
        if gradient.input.activation.is_some() {
            match gradient.saved_output() {
                Some(saved) => operands.push(Operand::Tensor(saved)),
                None => operands.extend(terms(&gradient.input)),
            }
        }
        // For the sums of the BatchNorms before.
        let normed = gradient.input.terms().filter(|term| term.norm.is_some());
        operands.extend(normed.map(|term| Operand::Tensor(term.tensor)));
        operands
    }

    /// Bytes of one kernel's maps, each of which counts once.
    fn kernel(&self, operands: impl IntoIterator<Item = Operand>) -> usize {
        let mut seen = Vec::new();
        let mut bytes = 0;
        for operand in operands {
            if seen.contains(&operand) {
                continue;
            }
            seen.push(operand);
            let shape = match operand {
                Operand::Tensor(tensor) => self.plan.fused.tensors[tensor.0].shape,
                Operand::Gradient(gradient) | Operand::Before(gradient) => {
                    self.plan.gradients.gradients[gradient].shape
                }
            };
            bytes += self.images * self.plan.precision.size(shape);
        }
        bytes
    }

    /// Bytes of a layer's weights; none without a layer.
    fn weights(&self, layer: Option<Layer>) -> usize {
        layer.map_or(0, |layer| {
            4 * layer.kernel * layer.kernel * layer.input.channels * layer.output.channels
        })
    }

    /// So many bytes, and so many times the products of the step.
    fn work(&self, bytes: usize, products: usize, step: &FusedStep) -> Work {
        let macs = self.plan.graph.nodes[step.node].macs as f64;
        Work { bytes: bytes as f64, flops: 2.0 * macs * (products * self.images) as f64 }
    }
}

fn terms(input: &FusedInput) -> impl Iterator<Item = Operand> + use<> {
    input.terms().map(|term| Operand::Tensor(term.tensor))
}

#[cfg(test)]
mod tests {
    use crescendo_network::{Graph, NetworkConfig, Shape};

    use super::*;
    use crate::plan::Precision;
    use crate::planning_driver;

    #[test]
    fn the_work_of_the_papers_network_is_its_maps_and_products() {
        let images = Shape::Maps { channels: 3, height: 32, width: 32 };
        let graph = Graph::new(&NetworkConfig::paper().network(images).unwrap()).unwrap();
        let plan =
            ExecutionPlan::new(&graph, Precision::Bf16, planning_driver(None).chip()).unwrap();
        let requires_grad = vec![true; graph.parameters.len()];
        let required = RequiredGradients::new(&graph, &plan.fused, &requires_grad);
        let work = of_update(&plan, &required, &requires_grad, 125);
        assert_eq!(work.steps.len(), plan.fused.steps.len());
        assert_eq!(work.optimizer.bytes, 24.0 * 17_392_394.0);

        // Three times forward, but for the gradient of the images.
        let flops: f64 = work.steps.iter().flatten().map(|work| work.flops).sum();
        let first = 2.0 * graph.nodes[plan.fused.steps[0].node].macs as f64;
        assert_eq!(flops, 125.0 * (graph.training_flops() as f64 - first));

        // The second convolution of a block of 64 channels at 32x32 reads one map and writes one; backward the weights'
        // gradient reads the map, the gradient and the output, and the input's gradient the latter two and the map again,
        // for the activation and BatchNorm, and writes one.
        let map = (125 * 64 * 32 * 32 * 2) as f64;
        let weights = (64 * 64 * 9 * 4) as f64;
        let is_second = |step: &&FusedStep| {
            graph.nodes[step.node].name.ends_with("stack_layers.0.blocks.1.conv2")
        };
        let at = plan.fused.steps.iter().position(|step| is_second(&step)).unwrap();
        let [forward, backward] = work.steps[at];
        assert_eq!(forward.bytes, 2.0 * map + weights);
        assert_eq!(backward.bytes, 7.0 * map + 3.0 * weights);
        assert_eq!(backward.flops, 2.0 * forward.flops);
        assert_eq!(forward.flops, 125.0 * 2.0 * (64 * 64 * 9 * 32 * 32) as f64);
    }

    #[test]
    fn what_is_frozen_has_no_backward() {
        let images = Shape::Maps { channels: 3, height: 32, width: 32 };
        let graph = Graph::new(&NetworkConfig::paper().network(images).unwrap()).unwrap();
        let plan =
            ExecutionPlan::new(&graph, Precision::F32, planning_driver(None).chip()).unwrap();
        let requires_grad = vec![false; graph.parameters.len()];
        let required = RequiredGradients::new(&graph, &plan.fused, &requires_grad);
        let work = of_update(&plan, &required, &requires_grad, 8);
        assert!(
            work.steps
                .iter()
                .all(|[forward, backward]| { forward.bytes > 0.0 && *backward == Work::default() })
        );
        assert_eq!(work.optimizer, Work::default());
    }
}
