//! One batch through the fused steps and back.

use std::time::Instant;

use crescendo_kernels::norm::{self, Moments};
use crescendo_kernels::sink::{
    GradientSink, NormSums, OutputSums, Sink, Slope, SlopeAt, StoredMut,
};
use crescendo_kernels::source::{Affine, GradientSource, NormGradient, Residual, Source, Stored};
use crescendo_kernels::{
    Buffer, Convolution, LANES, Maps, Method, Processor, Shared, activation, convolution,
    elementwise, linear, loss, pooling,
};

use super::{Buffers, State};
use crate::fusion::{Delivery, FusedStep, Normed, Reading, TensorId, Work};
use crate::placement::Placement;
use crate::plan::{Plan, Storage};
use crate::{Communicator, Operation};

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
    /// In training the batch's own statistics are used, over all processes of the communicator;
    /// otherwise the running ones, folded into the weights where they can be.
    pub training: Option<&'a dyn Communicator>,
}

impl Pass<'_> {
    /// Computes every step.
    pub fn forward(&mut self) {
        for (index, step) in self.plan.fused.steps.iter().enumerate() {
            let begin = Instant::now();
            match step.work {
                Work::Convolution(..) | Work::AveragePool(_) | Work::Write => {
                    self.maps_forward(index, step);
                }
                Work::Flatten | Work::Linear(_) | Work::Activation(_) => {
                    self.vector_forward(step);
                }
            }
            self.state.seconds[index][0] += begin.elapsed().as_secs_f64();
        }
        self.buffers.version = self.training.is_none().then_some(self.state.version);
    }

    /// The values of the last step, `[N, classes]`.
    pub fn logits(&self) -> &[f32] {
        self.vector(TensorId(self.plan.fused.tensors.len() - 1))
    }

    /// Adds `weight` times the gradient of the mean loss to the gradients; returns the loss.
    pub fn backward(&mut self, labels: &[u16], weight: f64) -> f64 {
        let logits = self.plan.fused.gradients.len() - 1;
        let len = self.logits().len();
        let mut gradient = self.take_gradient(logits);
        let out = &mut gradient.as_mut_slice()[..len];
        let loss = loss::cross_entropy(self.logits(), labels, weight, out);
        self.put_gradient(logits, gradient);
        for (index, step) in self.plan.fused.steps.iter().enumerate().rev() {
            let begin = Instant::now();
            match step.work {
                Work::Convolution(..) | Work::AveragePool(_) | Work::Write | Work::Flatten => {
                    self.maps_backward(step);
                }
                Work::Linear(_) | Work::Activation(_) => self.vector_backward(step),
            }
            self.state.seconds[index][1] += begin.elapsed().as_secs_f64();
        }
        loss
    }

    fn maps_forward(&mut self, index: usize, step: &FusedStep) {
        let maps = self.maps(step.output);
        let folded = self.training.is_none() && matches!(step.work, Work::Convolution(..));
        let bias = self.prepare_bias(step, folded);
        let filters = if self.training.is_some() { 0 } else { index };
        if let Work::Convolution(layer, method) = step.work {
            self.prepare_filters(filters, step, &layer, method);
        }
        if let (None, false, Some(norm)) = (self.training, folded, step.norm) {
            self.use_running_statistics(norm);
        }
        let mut out = self.take_tensor(step.output);
        let mut kept = step.keep.map(|keep| self.take_tensor(keep));
        let storage = self.placement.storage;
        {
            // What is borrowed apart from what `self` lends: the sums and the workspace.
            let mut sums = std::mem::take(&mut self.buffers.sums[0]);
            let mut workspace = std::mem::take(&mut self.buffers.workspace);
            let sums_len = sums_len(maps);
            let takes_sums = step.norm.filter(|_| self.training.is_some());
            if takes_sums.is_some() {
                sums[..sums_len].fill(0.0);
            }
            let source_maps = self.maps(step.input.main.tensor);
            let keep = kept.as_mut().map(|kept| stored_mut(kept, storage, source_maps));
            let source = self.source(&step.input, keep);
            let sink = Sink {
                maps,
                bias: bias.then(|| &self.buffers.bias[..maps.padded_channels()]),
                out: stored_mut(&mut out, storage, maps),
                sums: takes_sums.map(|norm| OutputSums {
                    sums: Shared::new(&mut sums[..sums_len]),
                    shift: &self.state.norms[norm].shift_near_mean,
                }),
            };
            match step.work {
                Work::Convolution(layer, method) => {
                    let filters = &self.buffers.filters[filters];
                    convolution::forward(
                        self.processor,
                        &mut workspace,
                        method,
                        &layer,
                        &source,
                        &filters.as_slice()[..layer.filters(method)],
                        &sink,
                    );
                }
                Work::AveragePool(size) => pooling::average(self.processor, size, &source, &sink),
                _ => pooling::write(self.processor, &source, &sink),
            }
            self.buffers.sums[0] = sums;
            self.buffers.workspace = workspace;
        }
        self.put_tensor(step.output, out);
        if let (Some(keep), Some(kept)) = (step.keep, kept) {
            self.put_tensor(keep, kept);
        }
        if let (Some(communicator), Some(norm)) = (self.training, step.norm) {
            self.finish_statistics(norm, maps, communicator);
        }
    }

    /// Fills in the bias that the step adds, a folded BatchNorm's with it; whether there is one.
    fn prepare_bias(&mut self, step: &FusedStep, folded: bool) -> bool {
        if !matches!(step.work, Work::Convolution(..)) {
            return false;
        }
        let (_, bias) = self.state.parameters(self.plan, step.step);
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

    /// Packs a convolution's weights, unless the filters are those already; in inference with the factor
    /// of the BatchNorm behind it, which [`Self::prepare_bias`] found.
    fn prepare_filters(
        &mut self,
        at: usize,
        step: &FusedStep,
        layer: &Convolution,
        method: Method,
    ) {
        if self.buffers.version == Some(self.state.version) {
            return;
        }
        let (weight, _) = self.state.parameters(self.plan, step.step);
        let folded = self.training.is_none() && step.norm.is_some();
        let filters = &mut self.buffers.filters[at].as_mut_slice()[..layer.filters(method)];
        let scale = folded.then_some(self.buffers.scale.as_slice());
        convolution::pack(self.processor, method, layer, weight, scale, filters);
    }

    /// A BatchNorm's factors from its running statistics.
    fn use_running_statistics(&mut self, norm: usize) {
        let range = self.plan.statistics[norm].range.clone();
        let (step, eps, _) = self.norm_step(norm);
        for (channel, at) in range.enumerate() {
            let moments = Moments {
                mean: self.state.means[at].into(),
                variance: self.state.variances[at].into(),
            };
            self.set_affine(norm, step, channel, moments, eps);
        }
    }

    fn set_affine(&mut self, norm: usize, step: usize, channel: usize, moments: Moments, eps: f64) {
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
            Operation::BatchNorm { eps, new_weight } => (step, eps, new_weight),
            _ => unreachable!("statistics belong to a BatchNorm"),
        }
    }

    /// From the sums of the batch to its moments, the factors, and new running statistics.
    fn finish_statistics(&mut self, norm: usize, maps: Maps, communicator: &dyn Communicator) {
        let range = self.plan.statistics[norm].range.clone();
        let (step, eps, new_weight) = self.norm_step(norm);
        // The sums of all channels, and how many numbers each is over.
        let mut totals = std::mem::take(&mut self.buffers.totals);
        let sums = &mut totals[..2 * range.len() + 1];
        let (channels, count) = sums.split_at_mut(2 * range.len());
        norm::total(maps, &self.buffers.sums[0][..sums_len(maps)], channels);
        count[0] = (maps.images * maps.pixels()) as f64;
        communicator.sum_f64(sums);
        let count = sums[2 * range.len()];
        let unbiased = count / (count - 1.0).max(1.0);
        for ((channel, at), sums) in range.enumerate().zip(sums.chunks_exact(2)) {
            let shift = f64::from(self.state.norms[norm].shift_near_mean[channel]);
            let moments = Moments::new(sums[0], sums[1], count, shift);
            let blend = |old: f32, new: f64| {
                ((1.0 - new_weight) * f64::from(old) + new_weight * new) as f32
            };
            let state = &mut *self.state;
            state.means[at] = blend(state.means[at], moments.mean);
            state.variances[at] = blend(state.variances[at], moments.variance * unbiased);
            state.norms[norm].moments[channel] = moments;
            state.norms[norm].mean[channel] = moments.mean as f32;
            self.set_affine(norm, step, channel, moments, eps);
        }
        self.buffers.totals = totals;
        self.state.batches_tracked[norm] += 1;
        self.state.norms[norm].count = count;
    }

    fn vector_forward(&mut self, step: &FusedStep) {
        let mut out = self.take_tensor(step.output);
        let mut workspace = std::mem::take(&mut self.buffers.workspace);
        let values = &mut out.as_mut_slice()[..self.vector_len(step.output)];
        let input = step.input.main.tensor;
        match step.work {
            Work::Flatten => {
                pooling::flatten(self.processor, &self.source(&step.input, None), values);
            }
            Work::Linear(layer) => {
                let (weight, bias) = self.state.parameters(self.plan, step.step);
                let x = self.vector(input);
                linear::forward(self.processor, &mut workspace, &layer, x, weight, bias, values);
            }
            Work::Activation(f) => {
                activation::forward(self.processor, f, self.vector(input), values);
            }
            _ => unreachable!("not a step that makes vectors"),
        }
        self.buffers.workspace = workspace;
        self.put_tensor(step.output, out);
    }

    fn vector_backward(&mut self, step: &FusedStep) {
        let delivery = step.delivery.as_ref();
        let mut dx = delivery.map(|delivery| self.take_gradient(delivery.gradient));
        let mut workspace = std::mem::take(&mut self.buffers.workspace);
        let mut gradients = std::mem::take(&mut self.state.gradients);
        let input = step.input.main.tensor;
        let len = self.vector_len(input);
        let dx_values = dx.as_mut().map(|dx| &mut dx.as_mut_slice()[..len]);
        let dy = &self.buffers.data[self.gradient_place(step.gradient)];
        let dy = &dy.as_slice()[..self.vector_len(step.output)];
        match (step.work, dx_values) {
            (Work::Linear(layer), dx) => {
                let (weight, _) = self.state.parameters(self.plan, step.step);
                let range = self.state.range(self.plan, step.step);
                let (dweight, dbias) = gradients.as_mut_slice()[range].split_at_mut(weight.len());
                let x = self.vector(input);
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
                activation::backward(self.processor, f, self.vector(input), dx);
            }
            _ => unreachable!("not a step on vectors"),
        }
        self.buffers.workspace = workspace;
        self.state.gradients = gradients;
        if let (Some(delivery), Some(dx)) = (delivery, dx) {
            self.put_gradient(delivery.gradient, dx);
        }
    }

    fn maps_backward(&mut self, step: &FusedStep) {
        let delivery = step.delivery.as_ref();
        let mut dx = delivery.map(|delivery| self.take_gradient(delivery.gradient));
        let mut workspace = std::mem::take(&mut self.buffers.workspace);
        let mut sums = std::mem::take(&mut self.buffers.sums);
        let mut gradients = std::mem::take(&mut self.state.gradients);
        {
            let [first, second] = &mut sums;
            let sink = match (delivery, dx.as_mut()) {
                (Some(delivery), Some(dx)) => Some(self.sink(delivery, dx, [first, second])),
                _ => None,
            };
            match (step.work, &sink) {
                (Work::Convolution(layer, method), sink) => {
                    let source = self.source(&step.input_again(), None);
                    let gradient = self.gradient(step);
                    let range = self.state.range(self.plan, step.step);
                    let (dweight, dbias) =
                        gradients.as_mut_slice()[range].split_at_mut(layer.weights());
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
                    norm::bias_gradient(self.processor, &gradient, dbias);
                }
                (_, None) => {}
                (Work::AveragePool(size), Some(sink)) => {
                    pooling::average_backward(self.processor, size, &self.gradient(step), sink);
                }
                (Work::Write, Some(sink)) => {
                    pooling::write_backward(self.processor, &self.gradient(step), sink);
                }
                (_, Some(sink)) => {
                    let dy = &self.buffers.data[self.gradient_place(step.gradient)];
                    let dy = &dy.as_slice()[..self.vector_len(step.output)];
                    pooling::flatten_backward(self.processor, dy, sink);
                }
            }
        }
        self.buffers.workspace = workspace;
        self.buffers.sums = sums;
        self.state.gradients = gradients;
        let (Some(delivery), Some(dx)) = (delivery, dx) else { return };
        self.put_gradient(delivery.gradient, dx);
        if delivery.last {
            let reading = self.plan.fused.gradients[delivery.gradient].reading;
            for (which, term) in reading.terms().enumerate() {
                if let Some(norm) = term.norm {
                    self.finish_norm_backward(which, norm, self.maps(term.tensor));
                }
            }
        }
    }

    /// Where a step's backward delivers the gradient of its input.
    fn sink<'s>(
        &'s self,
        delivery: &Delivery,
        dx: &'s mut Buffer,
        sums: [&'s mut Vec<f64>; 2],
    ) -> GradientSink<'s> {
        let gradient = &self.plan.fused.gradients[delivery.gradient];
        let reading = &gradient.reading;
        let maps = self.maps(reading.main.tensor);
        let in_place = |&addend: &usize| {
            self.placement.gradients[addend] == self.placement.gradients[delivery.gradient]
        };
        let accumulate = delivery.accumulate || delivery.addends.iter().any(in_place);
        let mut addends =
            delivery.addends.iter().filter(|addend| !in_place(addend)).map(|&addend| {
                &self.buffers.data[self.gradient_place(addend)].as_slice()[..maps.len()]
            });
        let mut sink = GradientSink {
            accumulate,
            addends: [addends.next(), addends.next()],
            ..GradientSink::plain(maps, Shared::new(&mut dx.as_mut_slice()[..maps.len()]))
        };
        if !delivery.last {
            return sink;
        }
        sink.slope = reading.activation.map(|activation| Slope {
            activation,
            at: match gradient.slope_from_kept() {
                Some(kept) => SlopeAt::Value(self.stored(kept)),
                None => {
                    let argument = Reading { activation: None, ..*reading };
                    SlopeAt::Argument(self.source(&argument, None))
                }
            },
        });
        for ((slot, term), sums) in sink.norms.iter_mut().zip(reading.terms()).zip(sums) {
            let Some(norm) = term.norm else { continue };
            let sums = &mut sums[..sums_len(maps)];
            sums.fill(0.0);
            *slot = Some(NormSums {
                value: self.stored(term.tensor),
                mean: &self.state.norms[norm].mean,
                sums: Shared::new(sums),
            });
        }
        sink
    }

    /// From the sums of the gradient to BatchNorm's own gradients, and to the factors with which its
    /// input's gradient is computed.
    fn finish_norm_backward(&mut self, which: usize, norm: usize, maps: Maps) {
        let (step, eps, _) = self.norm_step(norm);
        let mut totals = std::mem::take(&mut self.buffers.totals);
        let sums = &mut totals[..2 * maps.channels];
        norm::total(maps, &self.buffers.sums[which][..sums_len(maps)], sums);
        // Each process adds its own part here; `Engine::reduce` sums them.
        let range = self.state.range(self.plan, step);
        let gradients = &mut self.state.gradients.as_mut_slice()[range];
        for (channel, sums) in sums.chunks_exact(2).enumerate() {
            let moments = self.state.norms[norm].moments[channel];
            let backward = norm::Backward::new(sums[0], sums[1], moments, eps);
            let (dweight, dbias) = gradients.split_at_mut(maps.channels);
            dweight[channel] += backward.dweight as f32;
            dbias[channel] += backward.dbias as f32;
        }
        if let Some(communicator) = self.training {
            communicator.sum_f64(sums);
        }
        for (channel, sums) in sums.chunks_exact(2).enumerate() {
            let moments = self.state.norms[norm].moments[channel];
            let count = self.state.norms[norm].count;
            let weight = self.state.parameters(self.plan, step).0[channel];
            let backward = norm::Backward::new(sums[0], sums[1], moments, eps);
            let abc = backward.coefficients(moments, eps, weight, count);
            for (coefficients, value) in self.state.norms[norm].abc.iter_mut().zip(abc) {
                coefficients[channel] = value;
            }
        }
        self.buffers.totals = totals;
    }

    /// The gradient from which a step's backward begins.
    fn gradient(&self, step: &FusedStep) -> GradientSource<'_> {
        let maps = self.maps(step.output);
        let gradient = &self.buffers.data[self.gradient_place(step.gradient)];
        GradientSource {
            maps,
            gradient: &gradient.as_slice()[..maps.len()],
            norm: step.norm.map(|norm| {
                let [a, b, c] = &self.state.norms[norm].abc;
                NormGradient { value: self.stored(step.output), a, b, c }
            }),
        }
    }

    /// Maps as a step reads them.
    fn source<'s>(&'s self, reading: &Reading, keep: Option<StoredMut<'s>>) -> Source<'s> {
        let Reading { main, residual, activation } = *reading;
        Source {
            maps: self.maps(main.tensor),
            value: self.stored(main.tensor),
            affine: self.affine(main),
            residual: residual.map(|term| Residual {
                value: self.stored(term.tensor),
                affine: self.affine(term),
            }),
            activation,
            keep,
        }
    }

    fn affine(&self, term: Normed) -> Option<Affine<'_>> {
        let maker = self.plan.fused.maker(term.tensor);
        let folded = self.training.is_none()
            && maker.is_some_and(|maker| matches!(maker.work, Work::Convolution(..)));
        let norm = &self.state.norms[term.norm.filter(|_| !folded)?];
        Some(Affine { scale: &norm.scale, shift: &norm.shift })
    }

    fn stored(&self, tensor: TensorId) -> Stored<'_> {
        if tensor == TensorId(0) {
            return Stored::Planes(self.images);
        }
        let (data, len) = (&self.buffers.data[self.place(tensor)], self.maps(tensor).len());
        match self.placement.storage {
            Storage::F32 => Stored::F32(&data.as_slice()[..len]),
            Storage::Bf16 => Stored::Bf16(&data.as_halves()[..len]),
        }
    }

    fn vector(&self, tensor: TensorId) -> &[f32] {
        &self.buffers.data[self.place(tensor)].as_slice()[..self.vector_len(tensor)]
    }

    fn vector_len(&self, tensor: TensorId) -> usize {
        self.plan.fused.tensors[tensor.0].shape.len() * self.count
    }

    fn maps(&self, tensor: TensorId) -> Maps {
        let maps = self.plan.fused.tensors[tensor.0].shape.maps(self.count);
        maps.expect("only asked for maps")
    }

    fn place(&self, tensor: TensorId) -> usize {
        self.placement.tensors[tensor.0].expect("the images lie outside")
    }

    fn gradient_place(&self, gradient: usize) -> usize {
        self.placement.gradients[gradient].expect("every gradient has a place")
    }

    /// Takes a buffer out, so that it can be filled from all the others.
    fn take_tensor(&mut self, tensor: TensorId) -> Buffer {
        let place = self.place(tensor);
        std::mem::take(&mut self.buffers.data[place])
    }

    fn put_tensor(&mut self, tensor: TensorId, buffer: Buffer) {
        let place = self.place(tensor);
        self.buffers.data[place] = buffer;
    }

    fn take_gradient(&mut self, gradient: usize) -> Buffer {
        let place = self.gradient_place(gradient);
        std::mem::take(&mut self.buffers.data[place])
    }

    fn put_gradient(&mut self, gradient: usize, buffer: Buffer) {
        let place = self.gradient_place(gradient);
        self.buffers.data[place] = buffer;
    }
}

fn stored_mut(buffer: &mut Buffer, storage: Storage, maps: Maps) -> StoredMut<'_> {
    match storage {
        Storage::F32 => StoredMut::f32(&mut buffer.as_mut_slice()[..maps.len()]),
        Storage::Bf16 => StoredMut::bf16(&mut buffer.as_mut_halves()[..maps.len()]),
    }
}

/// Numbers of the sums of maps: see [`crescendo_kernels::sink::Sums`].
pub(super) fn sums_len(maps: Maps) -> usize {
    maps.images * maps.blocks() * 2 * LANES
}
