//! The loss and the backward pass.

use std::ops::Range;
use std::time::Instant;

use crescendo_kernels::leaves::MOST_GROUPS;
use crescendo_kernels::loss::ClassWeights;
use crescendo_kernels::{
    LeafSum, activation, convolution, elementwise, linear, loss, max_pool, norm, pooling,
};
use crescendo_network::{EngineError, Loss};
use crescendo_plan::{Delivery, FusedStep, RequiredGradients, StepKind};

use super::{Mode, Operands, Pass};
use crate::algorithm::Layer;
use crate::buffers::ReadArena;
use crate::convert::function;

/// The losses of a part of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Losses {
    /// The sum over the images of each group.
    pub groups: [f64; MOST_GROUPS],
    /// Images whose largest logit was their label's.
    pub correct: usize,
}

impl Pass<'_> {
    /// Computes the losses of the images of a batch of so many, and the gradient of the batch's loss with respect to the
    /// logits, as far as it comes from `some` of the images.
    pub fn loss(
        &mut self,
        labels: &[u16],
        loss: &Loss,
        batch: usize,
        mean_weight: f64,
        some: Range<usize>,
    ) -> Losses {
        let (list, offset) = (self.grouping.leaves.list(), self.grouping.of_leaves().start);
        let Operands { view, arena, .. } = self.operands(0);
        let written = view.gradient_range(view.plan.gradients.logits());
        let (arena, [out, _]) = ReadArena::split(arena, [Some(written), None]);
        let out = out.expect("it is written");
        let logits = view.vector(&arena, view.plan.fused.logits());
        let classes = view.plan.graph.classes();
        let Loss { label_smoothing, class_weights } = loss;
        let weights = class_weights.as_deref();
        let weights = weights.map(|weights| ClassWeights { weights, mean: mean_weight });
        let mut losses =
            Losses { correct: loss::count_correct(logits, labels), ..Losses::default() };
        let mut sum = LeafSum::default();
        for (index, leaf) in list.iter().enumerate() {
            let images = leaf.images();
            let of = images.start * classes..images.end * classes;
            let (logits, out) = (&logits[of.clone()], &mut out[of]);
            let labels = &labels[images];
            let of_leaf =
                loss::cross_entropy(logits, labels, *label_smoothing, batch, weights, out);
            sum.add(of_leaf, leaf.joins());
            if list.get(index + 1).is_none_or(|next| next.group() != leaf.group()) {
                losses.groups[offset + leaf.group()] = sum.total();
            }
        }
        out[..some.start * classes].fill(0.0);
        out[some.end * classes..].fill(0.0);
        losses
    }

    /// Adds the gradients of what [`loss`](Self::loss) began. `last` says whether they are final afterwards.
    pub fn backward(&mut self, last: bool) -> Result<(), EngineError> {
        self.state.reported.fill(!last);
        for (index, step) in self.plan.fused.steps.iter().enumerate().rev() {
            let required = self.state.required[index];
            if !required.any() {
                continue;
            }
            self.use_tiles(index);
            let begin = Instant::now();
            match step.kind {
                StepKind::Linear | StepKind::Activation(_) => {
                    if self.count > 0 {
                        self.vector_backward(index, step, required);
                    }
                }
                _ => self.maps_backward(index, step, required)?,
            }
            if !matches!(step.kind, StepKind::Write) {
                self.finish(step.node)?;
            }
            self.count_seconds(index, true, begin.elapsed().as_secs_f64());
        }
        if self.count > 0 {
            self.tuning.end_pass();
        }
        // Those of frozen parameters, for which there is no backward.
        (0..self.plan.graph.nodes.len()).try_for_each(|node| self.finish(node))
    }

    /// Finishes the gradients of an operation's parameters, if they are not yet: adds those that are kept apart, and tells
    /// the communicator.
    fn finish(&mut self, node: usize) -> Result<(), EngineError> {
        let graph = &self.plan.graph;
        let Some(weight) = graph.nodes[node].weight else { return Ok(()) };
        if std::mem::replace(&mut self.state.reported[weight], true) {
            return Ok(());
        }
        let (range, gradients) = (graph.parameter_range(node), &mut self.state.gradients);
        gradients.add_groups(self.processor, range.clone(), &self.grouping);
        match &mut self.mode {
            Mode::Training { communicator, .. } => {
                communicator.gradients_final(range, gradients.of_batch())
            }
            Mode::Inference(_) => Ok(()),
        }
    }

    fn vector_backward(&mut self, index: usize, step: &FusedStep, required: RequiredGradients) {
        let (leaves, groups) = (self.grouping.leaves, self.grouping.of_leaves());
        let Operands { view, processor, model, gradients, arena, workspace, .. } =
            self.operands(index);
        let own = &view.plan.gradients.steps[index];
        let delivery = own.delivery.as_ref().filter(|_| required.input);
        let written = delivery.map(|delivery| view.gradient_range(delivery.gradient));
        let (arena, [dx, _]) = ReadArena::split(arena, [written, None]);
        let x = view.vector(&arena, step.input.main.tensor);
        let dy = arena.get(view.gradient_range(own.output));
        match (step.kind, view.plan.layers[index], dx) {
            (_, Some(Layer::Linear(layer)), dx) => {
                let graph = &view.plan.graph;
                let (weight, _) = model.parameters(graph, step.node);
                let range = graph.parameter_range(step.node);
                let [mut dweight, mut dbias] = gradients.split(range, weight.len());
                let dweight = required.weight.then_some(&mut dweight[groups.clone()]);
                let dbias = required.bias.then_some(&mut dbias[groups]);
                linear::backward(
                    processor, workspace, &layer, x, weight, dy, &leaves, dweight, dbias, dx,
                );
            }
            (StepKind::Activation(f), _, Some(dx)) => {
                elementwise::copy(&processor.pool, dy, dx);
                activation::backward(processor, function(f), x, dx);
            }
            _ => unreachable!("not a step on vectors"),
        }
    }

    fn maps_backward(
        &mut self,
        index: usize,
        step: &FusedStep,
        required: RequiredGradients,
    ) -> Result<(), EngineError> {
        let plan = self.plan;
        let delivery = plan.gradients.steps[index].delivery.as_ref();
        let delivery = delivery.filter(|_| required.input);
        if self.count > 0 {
            self.maps_gradients(index, step, required, delivery);
        }
        let Some(delivery) = delivery.filter(|delivery| delivery.last) else { return Ok(()) };
        let input = plan.gradients.gradients[delivery.gradient].input;
        for (which, term) in input.terms().enumerate() {
            if let Some(norm) = term.norm {
                let maps = self.operands(index).view.maps(term.tensor);
                self.finish_norm_backward(which, norm, maps)?;
                self.finish(self.state.norms[norm].node)?;
            }
        }
        Ok(())
    }

    fn maps_gradients(
        &mut self,
        index: usize,
        step: &FusedStep,
        required: RequiredGradients,
        delivery: Option<&Delivery>,
    ) {
        let (leaves, groups) = (self.grouping.leaves, self.grouping.of_leaves());
        let Operands { view, processor, model, gradients, arena, sums, workspace, .. } =
            self.operands(index);
        let written = delivery.map(|delivery| view.gradient_range(delivery.gradient));
        let (arena, [dx, _]) = ReadArena::split(arena, [written, None]);
        let epilogue = delivery
            .zip(dx)
            .map(|(delivery, dx)| view.gradient_epilogue(&arena, delivery, dx, sums));
        let gradient = || view.gradient_prologue(&arena, index);
        let input = || view.prologue(&arena, &step.backward_input(), None);
        match (step.kind, view.plan.layers[index], &epilogue) {
            (_, Some(Layer::Convolution(layer, algorithm)), epilogue) => {
                let graph = &view.plan.graph;
                let (weight, _) = model.parameters(graph, step.node);
                let range = graph.parameter_range(step.node);
                let [mut dweight, mut dbias] = gradients.split(range, weight.len());
                let gradient = gradient();
                convolution::backward(
                    processor,
                    workspace,
                    algorithm,
                    &layer,
                    &input(),
                    weight,
                    &gradient,
                    &leaves,
                    required.weight.then_some(&mut dweight[groups.clone()]),
                    epilogue.as_ref(),
                );
                if required.bias {
                    norm::bias_gradient(processor, &gradient, &leaves, &mut dbias[groups]);
                }
            }
            (_, _, None) => {}
            (StepKind::AveragePool(size), _, Some(epilogue)) => {
                pooling::average_backward(processor, size, &gradient(), epilogue);
            }
            (StepKind::MaxPool(size), _, Some(epilogue)) => {
                max_pool::backward(processor, size, &input(), &gradient(), epilogue);
            }
            (StepKind::Write, _, Some(epilogue)) => {
                pooling::materialise_backward(processor, &gradient(), epilogue);
            }
            (_, _, Some(epilogue)) => {
                let own = &view.plan.gradients.steps[index];
                let dy = arena.get(view.gradient_range(own.output));
                pooling::flatten_backward(processor, dy, epilogue);
            }
        }
    }
}
