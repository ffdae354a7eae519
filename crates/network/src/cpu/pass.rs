//! One batch through the fused steps and back.

use std::ops::Range;
use std::time::Instant;

use crescendo_kernels::epilogue::{
    ActivationDerivative, BatchStatistics, DerivativeAt, Epilogue, GradientEpilogue,
    NormGradientSums,
};
use crescendo_kernels::norm::{self, BatchMoments};
use crescendo_kernels::prologue::{Affine, GradientPrologue, NormGradient, Prologue, Residual};
use crescendo_kernels::{
    ConvAlgorithm, Convolution, DisjointSlice, MapShape, MapsMut, MapsRef, Processor, activation,
    as_bf16, as_bf16_mut, convolution, elementwise, linear, loss, max_pool, pooling,
};

use super::Folded;
use super::buffers::{Buffers, Rest, sums_len};
use super::needs::Needs;
use super::state::State;
use crate::fusion::{Delivery, FusedStep, Normed, Reading, TensorId, Work};
use crate::placement::{Placement, numbers};
use crate::plan::{Plan, Storage};
use crate::{Batch, Communicator, Operation, Outcome};

/// What computing one batch needs.
pub(super) struct Pass<'a> {
    pub plan: &'a Plan,
    pub placement: &'a Placement,
    pub processor: &'a Processor,
    pub state: &'a mut State,
    pub buffers: &'a mut Buffers,
    /// `[N, C, H, W]`.
    pub images: &'a [f32],
    pub count: usize,
    pub mode: Mode<'a>,
}

/// Which statistics are used.
pub(super) enum Mode<'a> {
    /// The batch's own, over all processes of the communicator; the running ones learn of them, with
    /// this weight if it is not the operation's.
    Training(&'a dyn Communicator, Option<f64>),
    /// The running ones, folded into filters where they can be.
    Inference(&'a mut Folded),
}

impl Pass<'_> {
    /// Computes every step.
    pub fn forward(&mut self) {
        for (index, step) in self.plan.fused.steps.iter().enumerate() {
            let begin = Instant::now();
            match step.work {
                Work::Flatten | Work::Linear(_) | Work::Activation(_) => {
                    self.vector_forward(step);
                }
                _ => self.maps_forward(index, step),
            }
            self.state.seconds[index][0] += begin.elapsed().as_secs_f64();
        }
        if let Mode::Inference(folded) = &mut self.mode {
            folded.version = Some(self.state.version);
        }
    }

    /// The values of the last step, `[N, classes]`.
    pub fn logits(&self) -> &[f32] {
        let last = TensorId(self.plan.fused.tensors.len() - 1);
        self.vector(&Rest::all(self.buffers.arena.as_slice()), last)
    }

    /// Begins the way back: `weight` times the gradient of the mean loss, but only what the images in
    /// `part` add to it.
    pub fn lose(&mut self, batch: Batch, weight: f64, part: Range<usize>) -> Outcome {
        let logits = TensorId(self.plan.fused.tensors.len() - 1);
        let written = self.gradient_range(self.plan.fused.gradients.len() - 1);
        let mut arena = std::mem::take(&mut self.buffers.arena);
        let (rest, [out, _]) = Rest::split(arena.as_mut_slice(), [Some(written), None]);
        let out = out.expect("it is written");
        let (logits, classes) = (self.vector(&rest, logits), self.plan.classes());
        let loss =
            loss::cross_entropy(logits, batch.labels, batch.label_smoothing, weight, None, out);
        let correct = loss::count_correct(logits, batch.labels);
        out[..part.start * classes].fill(0.0);
        out[part.end * classes..].fill(0.0);
        self.buffers.arena = arena;
        Outcome { loss, correct }
    }

    /// Adds the gradients of what [`Self::lose`] began.
    pub fn backward(&mut self) {
        for (index, step) in self.plan.fused.steps.iter().enumerate().rev() {
            let needs = self.state.needs[index];
            if !needs.any() {
                continue;
            }
            let begin = Instant::now();
            match step.work {
                Work::Linear(_) | Work::Activation(_) => self.vector_backward(step, needs),
                _ => self.maps_backward(step, needs),
            }
            self.state.seconds[index][1] += begin.elapsed().as_secs_f64();
        }
    }

    /// The communicator, if this is training.
    fn communicator(&self) -> Option<&dyn Communicator> {
        match &self.mode {
            Mode::Training(communicator, _) => Some(*communicator),
            Mode::Inference(_) => None,
        }
    }

    fn maps_forward(&mut self, index: usize, step: &FusedStep) {
        let maps = self.maps(step.output);
        let trains = self.communicator().is_some();
        let folded = !trains && matches!(step.work, Work::Convolution(..));
        let bias = self.prepare_bias(step, folded);
        if let Work::Convolution(layer, method) = step.work {
            self.prepare_filters(index, step, &layer, method);
        }
        if let (false, false, Some(norm)) = (trains, folded, step.norm) {
            self.use_running_statistics(norm);
        }
        // What is borrowed apart from what `self` lends.
        let mut arena = std::mem::take(&mut self.buffers.arena);
        let mut sums = std::mem::take(&mut self.buffers.sums[0]);
        let mut workspace = std::mem::take(&mut self.buffers.workspace);
        {
            let written = [Some(step.output), step.keep].map(|tensor| Some(self.range(tensor?)));
            let (rest, [out, kept]) = Rest::split(arena.as_mut_slice(), written);
            let storage = self.placement.storage;
            let keep = kept.map(|kept| stored_mut(kept, storage));
            let source = self.source(&rest, &step.input, keep);
            let takes_sums = step.norm.filter(|_| trains);
            let sums = &mut sums[..sums_len(maps)];
            if takes_sums.is_some() {
                sums.fill(0.0);
            }
            let sink = Epilogue {
                shape: maps,
                bias: bias.then(|| &self.buffers.bias[..maps.padded_channels()]),
                out: stored_mut(out.expect("it is written"), storage),
                sums: takes_sums.map(|norm| BatchStatistics {
                    sums: DisjointSlice::new(sums),
                    shift: &self.state.norms[norm].shift_near_mean,
                }),
            };
            match step.work {
                Work::Convolution(layer, method) => {
                    let filters = match &self.mode {
                        Mode::Training(..) => &self.buffers.filters,
                        Mode::Inference(folded) => &folded.filters[index],
                    };
                    convolution::forward(
                        self.processor,
                        &mut workspace,
                        method,
                        &layer,
                        &source,
                        &filters.as_slice()[..layer.packed_len(method)],
                        &sink,
                    );
                }
                Work::AveragePool(size) => pooling::average(self.processor, size, &source, &sink),
                Work::MaxPool(size) => max_pool::forward(self.processor, size, &source, &sink),
                _ => pooling::materialise(self.processor, &source, &sink),
            }
        }
        self.buffers.arena = arena;
        self.buffers.sums[0] = sums;
        self.buffers.workspace = workspace;
        if let (true, Some(norm)) = (trains, step.norm) {
            self.finish_statistics(norm, maps);
        }
    }

    /// Fills in the bias that the step adds, a folded BatchNorm's with it; whether there is one.
    fn prepare_bias(&mut self, step: &FusedStep, folded: bool) -> bool {
        if !matches!(step.work, Work::Convolution(..)) {
            return false;
        }
        let (_, bias) = self.state.parameters(self.plan, step.step);
        let folds = folded && step.norm.is_some();
        if bias.is_empty() && !folds {
            return false;
        }
        self.buffers.bias.fill(0.0);
        self.buffers.bias[..bias.len()].copy_from_slice(bias);
        if let (true, Some(norm)) = (folded, step.norm) {
            self.use_running_statistics(norm);
            let affine = &self.state.norms[norm];
            let channels = affine.scale.iter().zip(&affine.shift);
            let both = self.buffers.bias.iter_mut().zip(&mut self.buffers.scale);
            for ((bias, factor), (&scale, &shift)) in both.zip(channels) {
                *bias = *bias * scale + shift;
                *factor = scale;
            }
        }
        true
    }

    /// Packs a convolution's weights; in inference with the factor of the BatchNorm behind it, which
    /// [`Self::prepare_bias`] found, and only if the state has changed since.
    fn prepare_filters(
        &mut self,
        index: usize,
        step: &FusedStep,
        layer: &Convolution,
        method: ConvAlgorithm,
    ) {
        let (weight, _) = self.state.parameters(self.plan, step.step);
        let (filters, scale) = match &mut self.mode {
            Mode::Training(..) => (&mut self.buffers.filters, None),
            Mode::Inference(folded) if folded.version == Some(self.state.version) => return,
            Mode::Inference(folded) => {
                let scale = step.norm.map(|_| self.buffers.scale.as_slice());
                (&mut folded.filters[index], scale)
            }
        };
        let filters = &mut filters.as_mut_slice()[..layer.packed_len(method)];
        convolution::pack_weights(self.processor, method, layer, weight, scale, filters);
    }

    /// A BatchNorm's factors from its running statistics.
    fn use_running_statistics(&mut self, norm: usize) {
        let range = self.plan.statistics[norm].range.clone();
        let (step, eps, _) = self.norm_step(norm);
        for (channel, at) in range.enumerate() {
            let moments = BatchMoments {
                mean: self.state.model.means[at].into(),
                variance: self.state.model.variances[at].into(),
            };
            self.set_affine(norm, step, channel, moments, eps);
        }
    }

    fn set_affine(
        &mut self,
        norm: usize,
        step: usize,
        channel: usize,
        moments: BatchMoments,
        eps: f64,
    ) {
        let (weight, bias) = self.state.parameters(self.plan, step);
        let (scale, shift) = moments.affine(eps, weight[channel], bias[channel]);
        let norm = &mut self.state.norms[norm];
        norm.scale[channel] = scale;
        norm.shift[channel] = shift;
    }

    /// The step of a BatchNorm, its epsilon, and the weight of a new batch.
    fn norm_step(&self, norm: usize) -> (usize, f64, f64) {
        let step = self.state.norms[norm].step;
        match self.plan.steps[step].node.operation {
            Operation::BatchNorm { eps, new_weight, .. } => (step, eps, new_weight),
            _ => unreachable!("statistics belong to a BatchNorm"),
        }
    }

    /// From the sums of the batch to its moments, the factors, and new running statistics.
    fn finish_statistics(&mut self, norm: usize, maps: MapShape) {
        let range = self.plan.statistics[norm].range.clone();
        let (step, eps, mut new_weight) = self.norm_step(norm);
        match self.mode {
            Mode::Training(_, Some(weight)) => new_weight = weight,
            _ => self.state.batches_tracked[norm] += 1,
        }
        // The sums of all channels, and how many numbers each is over.
        let mut totals = std::mem::take(&mut self.buffers.totals);
        let sums = &mut totals[..2 * range.len() + 1];
        let (channels, count) = sums.split_at_mut(2 * range.len());
        norm::sum_over_images(maps, &self.buffers.sums[0][..sums_len(maps)], channels);
        count[0] = (maps.images * maps.pixels()) as f64;
        if let Some(communicator) = self.communicator() {
            communicator.sum_f64(sums);
        }
        let count = sums[2 * range.len()];
        let unbiased = count / (count - 1.0).max(1.0);
        for ((channel, at), sums) in range.enumerate().zip(sums.chunks_exact(2)) {
            let shift = f64::from(self.state.norms[norm].shift_near_mean[channel]);
            let moments = BatchMoments::from_sums(sums[0], sums[1], count, shift);
            let blend = |old: f32, new: f64| {
                ((1.0 - new_weight) * f64::from(old) + new_weight * new) as f32
            };
            let state = &mut *self.state;
            state.model.means[at] = blend(state.model.means[at], moments.mean);
            state.model.variances[at] =
                blend(state.model.variances[at], moments.variance * unbiased);
            state.norms[norm].moments[channel] = moments;
            state.norms[norm].mean[channel] = moments.mean as f32;
            self.set_affine(norm, step, channel, moments, eps);
        }
        self.buffers.totals = totals;
        self.state.norms[norm].count = count;
    }

    fn vector_forward(&mut self, step: &FusedStep) {
        let mut arena = std::mem::take(&mut self.buffers.arena);
        let mut workspace = std::mem::take(&mut self.buffers.workspace);
        let written = [Some(self.range(step.output)), None];
        let (rest, [out, _]) = Rest::split(arena.as_mut_slice(), written);
        let out = out.expect("it is written");
        let input = step.input.main.tensor;
        match step.work {
            Work::Flatten => {
                pooling::flatten(self.processor, &self.source(&rest, &step.input, None), out);
            }
            Work::Linear(layer) => {
                let (weight, bias) = self.state.parameters(self.plan, step.step);
                let x = self.vector(&rest, input);
                let bias = (!bias.is_empty()).then_some(bias);
                linear::forward(self.processor, &mut workspace, &layer, x, weight, bias, out);
            }
            Work::Activation(f) => {
                activation::forward(self.processor, f, self.vector(&rest, input), out);
            }
            _ => unreachable!("not a step that makes vectors"),
        }
        self.buffers.workspace = workspace;
        self.buffers.arena = arena;
    }

    fn vector_backward(&mut self, step: &FusedStep, needs: Needs) {
        let mut arena = std::mem::take(&mut self.buffers.arena);
        let mut workspace = std::mem::take(&mut self.buffers.workspace);
        let mut gradients = std::mem::take(&mut self.state.gradients);
        let delivery = step.delivery.as_ref().filter(|_| needs.input);
        let written = delivery.map(|delivery| self.gradient_range(delivery.gradient));
        let (rest, [dx, _]) = Rest::split(arena.as_mut_slice(), [written, None]);
        let x = self.vector(&rest, step.input.main.tensor);
        let dy = rest.get(self.gradient_range(step.gradient));
        match (step.work, dx) {
            (Work::Linear(layer), dx) => {
                let (weight, _) = self.state.parameters(self.plan, step.step);
                let range = self.state.range(self.plan, step.step);
                let (dweight, dbias) = gradients.as_mut_slice()[range].split_at_mut(weight.len());
                let (dweight, dbias) =
                    (needs.weight.then_some(dweight), needs.bias.then_some(dbias));
                linear::backward(
                    self.processor,
                    &mut workspace,
                    &layer,
                    x,
                    weight,
                    dy,
                    dweight,
                    dbias,
                    dx,
                );
            }
            (Work::Activation(f), Some(dx)) => {
                elementwise::copy(&self.processor.pool, dy, dx);
                activation::backward(self.processor, f, x, dx);
            }
            _ => unreachable!("not a step on vectors"),
        }
        self.buffers.workspace = workspace;
        self.buffers.arena = arena;
        self.state.gradients = gradients;
    }

    fn maps_backward(&mut self, step: &FusedStep, needs: Needs) {
        let mut arena = std::mem::take(&mut self.buffers.arena);
        let mut workspace = std::mem::take(&mut self.buffers.workspace);
        let mut sums = std::mem::take(&mut self.buffers.sums);
        let mut gradients = std::mem::take(&mut self.state.gradients);
        let delivery = step.delivery.as_ref().filter(|_| needs.input);
        {
            let written = delivery.map(|delivery| self.gradient_range(delivery.gradient));
            let (rest, [dx, _]) = Rest::split(arena.as_mut_slice(), [written, None]);
            let [first, second] = &mut sums;
            let sink = delivery
                .zip(dx)
                .map(|(delivery, dx)| self.sink(&rest, delivery, dx, [first, second]));
            match (step.work, &sink) {
                (Work::Convolution(layer, method), sink) => {
                    let source = self.source(&rest, &step.input_again(), None);
                    let gradient = self.gradient(&rest, step);
                    let range = self.state.range(self.plan, step.step);
                    let (dweight, dbias) =
                        gradients.as_mut_slice()[range].split_at_mut(layer.weight_len());
                    let dweight = needs.weight.then_some(dweight);
                    convolution::backward(
                        self.processor,
                        &mut workspace,
                        method,
                        &layer,
                        &source,
                        self.state.parameters(self.plan, step.step).0,
                        &gradient,
                        dweight,
                        sink.as_ref(),
                    );
                    if needs.bias {
                        norm::bias_gradient(self.processor, &gradient, dbias);
                    }
                }
                (_, None) => {}
                (Work::AveragePool(size), Some(sink)) => {
                    let gradient = self.gradient(&rest, step);
                    pooling::average_backward(self.processor, size, &gradient, sink);
                }
                (Work::MaxPool(size), Some(sink)) => {
                    let source = self.source(&rest, &step.input_again(), None);
                    let gradient = self.gradient(&rest, step);
                    max_pool::backward(self.processor, size, &source, &gradient, sink);
                }
                (Work::Write, Some(sink)) => {
                    pooling::materialise_backward(
                        self.processor,
                        &self.gradient(&rest, step),
                        sink,
                    );
                }
                (_, Some(sink)) => {
                    let dy = rest.get(self.gradient_range(step.gradient));
                    pooling::flatten_backward(self.processor, dy, sink);
                }
            }
        }
        self.buffers.arena = arena;
        self.buffers.workspace = workspace;
        self.buffers.sums = sums;
        self.state.gradients = gradients;
        let Some(delivery) = delivery.filter(|delivery| delivery.last) else { return };
        let reading = self.plan.fused.gradients[delivery.gradient].reading;
        for (which, term) in reading.terms().enumerate() {
            if let Some(norm) = term.norm {
                self.finish_norm_backward(which, norm, self.maps(term.tensor));
            }
        }
    }

    /// Where a step's backward delivers the gradient of its input.
    fn sink<'s>(
        &'s self,
        rest: &Rest<'s>,
        delivery: &Delivery,
        dx: &'s mut [f32],
        sums: [&'s mut Vec<f64>; 2],
    ) -> GradientEpilogue<'s> {
        let gradient = &self.plan.fused.gradients[delivery.gradient];
        let reading = &gradient.reading;
        let maps = self.maps(reading.main.tensor);
        let in_place = |&addend: &usize| {
            self.placement.gradients[addend] == self.placement.gradients[delivery.gradient]
        };
        let accumulate = delivery.accumulate || delivery.addends.iter().any(in_place);
        let mut addends = delivery
            .addends
            .iter()
            .filter(|addend| !in_place(addend))
            .map(|&addend| rest.get(self.gradient_range(addend)));
        let mut sink = GradientEpilogue {
            accumulate,
            addends: [addends.next(), addends.next()],
            ..GradientEpilogue::plain(maps, DisjointSlice::new(dx))
        };
        if !delivery.last {
            return sink;
        }
        sink.derivative = reading.activation.map(|activation| ActivationDerivative {
            function: activation,
            at: match gradient.slope_from_kept() {
                Some(kept) => DerivativeAt::Output(self.stored(rest, kept)),
                None => {
                    let argument = Reading { activation: None, ..*reading };
                    DerivativeAt::Input(self.source(rest, &argument, None))
                }
            },
        });
        for ((slot, term), sums) in sink.norms.iter_mut().zip(reading.terms()).zip(sums) {
            let Some(norm) = term.norm else { continue };
            let sums = &mut sums[..sums_len(maps)];
            sums.fill(0.0);
            *slot = Some(NormGradientSums {
                value: self.stored(rest, term.tensor),
                mean: &self.state.norms[norm].mean,
                sums: DisjointSlice::new(sums),
            });
        }
        sink
    }

    /// From the sums of the gradient to BatchNorm's own gradients, and to the factors with which its
    /// input's gradient is computed.
    fn finish_norm_backward(&mut self, which: usize, norm: usize, maps: MapShape) {
        let (step, eps, _) = self.norm_step(norm);
        let mut totals = std::mem::take(&mut self.buffers.totals);
        let sums = &mut totals[..2 * maps.channels];
        norm::sum_over_images(maps, &self.buffers.sums[which][..sums_len(maps)], sums);
        // Each process adds its own part here; `Engine::reduce` sums them.
        let range = self.state.range(self.plan, step);
        let layer = &self.plan.steps[step];
        let trained = |parameter: Option<usize>| parameter.is_some_and(|p| self.state.trained[p]);
        let (scales, shifts) = (trained(layer.weight), trained(layer.bias));
        let gradients = &mut self.state.gradients.as_mut_slice()[range];
        for (channel, sums) in sums.chunks_exact(2).enumerate() {
            let moments = self.state.norms[norm].moments[channel];
            let backward = norm::NormBackward::from_sums(sums[0], sums[1], moments, eps);
            let (dweight, dbias) = gradients.split_at_mut(maps.channels);
            if scales {
                dweight[channel] += backward.dweight as f32;
            }
            if shifts {
                dbias[channel] += backward.dbias as f32;
            }
        }
        if let Some(communicator) = self.communicator() {
            communicator.sum_f64(sums);
        }
        for (channel, sums) in sums.chunks_exact(2).enumerate() {
            let moments = self.state.norms[norm].moments[channel];
            let count = self.state.norms[norm].count;
            let weight = self.state.parameters(self.plan, step).0[channel];
            let backward = norm::NormBackward::from_sums(sums[0], sums[1], moments, eps);
            let abc = backward.coefficients(moments, eps, weight, count);
            for (coefficients, value) in self.state.norms[norm].abc.iter_mut().zip(abc) {
                coefficients[channel] = value;
            }
        }
        self.buffers.totals = totals;
    }

    /// The gradient from which a step's backward begins.
    fn gradient<'s>(&'s self, rest: &Rest<'s>, step: &FusedStep) -> GradientPrologue<'s> {
        GradientPrologue {
            shape: self.maps(step.output),
            gradient: rest.get(self.gradient_range(step.gradient)),
            norm: step.norm.map(|norm| {
                let [a, b, c] = &self.state.norms[norm].abc;
                NormGradient { value: self.stored(rest, step.output), a, b, c }
            }),
        }
    }

    /// Maps as a step reads them.
    fn source<'s>(
        &'s self,
        rest: &Rest<'s>,
        reading: &Reading,
        keep: Option<MapsMut<'s>>,
    ) -> Prologue<'s> {
        let Reading { main, residual, activation } = *reading;
        Prologue {
            shape: self.maps(main.tensor),
            value: self.stored(rest, main.tensor),
            affine: self.affine(main),
            residual: residual.map(|term| Residual {
                value: self.stored(rest, term.tensor),
                affine: self.affine(term),
            }),
            activation,
            save: keep,
        }
    }

    fn affine(&self, term: Normed) -> Option<Affine<'_>> {
        let maker = self.plan.fused.maker(term.tensor);
        let folded = self.communicator().is_none()
            && maker.is_some_and(|maker| matches!(maker.work, Work::Convolution(..)));
        let norm = &self.state.norms[term.norm.filter(|_| !folded)?];
        Some(Affine { scale: &norm.scale, shift: &norm.shift })
    }

    fn stored<'s>(&'s self, rest: &Rest<'s>, tensor: TensorId) -> MapsRef<'s> {
        if tensor == TensorId(0) {
            return MapsRef::Nchw(self.images);
        }
        let numbers = rest.get(self.range(tensor));
        match self.placement.storage {
            Storage::F32 => MapsRef::F32(numbers),
            Storage::Bf16 => MapsRef::Bf16(as_bf16(numbers)),
        }
    }

    fn vector<'s>(&self, rest: &Rest<'s>, tensor: TensorId) -> &'s [f32] {
        rest.get(self.range(tensor))
    }

    fn maps(&self, tensor: TensorId) -> MapShape {
        let maps = self.plan.fused.tensors[tensor.0].shape.maps(self.count);
        maps.expect("only asked for maps")
    }

    /// Where a tensor lies in the arena.
    fn range(&self, tensor: TensorId) -> Range<usize> {
        let offset = self.placement.tensors[tensor.0].expect("the images lie outside");
        let shape = self.plan.fused.tensors[tensor.0].shape;
        offset * self.count..(offset + numbers(shape, self.placement.storage)) * self.count
    }

    fn gradient_range(&self, gradient: usize) -> Range<usize> {
        let offset = self.placement.gradients[gradient].expect("every gradient has a place");
        let shape = self.plan.fused.gradients[gradient].shape;
        offset * self.count..(offset + numbers(shape, Storage::F32)) * self.count
    }
}

fn stored_mut(numbers: &mut [f32], storage: Storage) -> MapsMut<'_> {
    match storage {
        Storage::F32 => MapsMut::f32(numbers),
        Storage::Bf16 => MapsMut::bf16(as_bf16_mut(numbers)),
    }
}
