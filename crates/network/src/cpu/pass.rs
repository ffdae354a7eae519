//! One batch through the network and back.

use crescendo_kernels::norm::{self, Moments};
use crescendo_kernels::{Pool, activation, convolution, elementwise, linear, loss, pooling};

use super::{Buffers, Parameters, State};
use crate::plan::{Placement, Plan, Step, Target};
use crate::{Communicator, Operation, Value};

/// What computing one batch needs.
pub(super) struct Pass<'a> {
    pub plan: &'a Plan,
    pub placement: &'a Placement,
    pub pool: &'a Pool,
    pub state: &'a mut State,
    pub buffers: &'a mut Buffers,
    pub images: usize,
}

impl Pass<'_> {
    /// Computes every step, in training with the batch's own statistics (over all processes of the
    /// communicator), else with the running ones.
    pub fn forward(&mut self, images: &[f32], training: Option<&dyn Communicator>) {
        let plan = self.plan;
        self.write(self.placement.values[0], images.len(), |pass, values| {
            let map = plan.steps[0].input_map(pass.images);
            pooling::unflatten(pass.pool, map, images, values);
        });
        for (index, step) in plan.steps.iter().enumerate() {
            let len = step.output.len() * self.images;
            self.write(self.placement.values[index + 1], len, |pass, output| {
                pass.step_forward(step, output, training);
            });
        }
    }

    /// The values of the last step, `[N, classes]`.
    pub fn logits(&self) -> &[f32] {
        self.value(Value(self.plan.steps.len()))
    }

    /// Adds `weight` times the gradient of the mean loss to the gradients; returns the loss.
    pub fn backward(
        &mut self,
        labels: &[u16],
        weight: f64,
        communicator: &dyn Communicator,
    ) -> f64 {
        let plan = self.plan;
        let logits = plan.steps.len();
        let mut loss = 0.0;
        self.write(self.gradient(logits), self.logits().len(), |pass, gradient| {
            loss = loss::cross_entropy(pass.logits(), labels, weight, gradient);
        });
        for (index, step) in plan.steps.iter().enumerate().rev() {
            for (&input, &target) in step.node.inputs.iter().zip(&self.placement.targets[index]) {
                let len = plan.shape(input).len() * self.images;
                let (Target::Write(buffer) | Target::Add { scratch: buffer, .. }) = target else {
                    self.step_backward(step, index, None, communicator);
                    continue;
                };
                self.write(buffer, len, |pass, gradient| {
                    pass.step_backward(step, index, Some(gradient), communicator);
                });
                if let Target::Add { scratch, total } = target {
                    self.write(total, len, |pass, total| {
                        elementwise::accumulate(
                            pass.pool,
                            &pass.buffers.data[scratch][..len],
                            total,
                        );
                    });
                }
            }
        }
        loss
    }

    fn step_forward(
        &mut self,
        step: &Step,
        output: &mut [f32],
        training: Option<&dyn Communicator>,
    ) {
        let (pool, map) = (self.pool, step.input_map(self.images));
        let input = &self.buffers.data[self.placement.values[step.node.inputs[0].0]];
        let input = &input[..step.input.len() * self.images];
        match step.node.operation {
            Operation::Convolution { .. } => {
                let layer = step.convolution().expect("the plan checked its input");
                let Parameters { weight, bias, .. } = self.state.parameters(self.plan, step);
                let workspace = &mut self.buffers.workspace;
                convolution::forward(pool, workspace, &layer, map, input, weight, bias, output);
            }
            Operation::BatchNorm { eps, new_weight } => {
                self.norm_forward(step, eps, new_weight, output, training);
            }
            Operation::Activation(f) => activation::forward(pool, f, input, output),
            Operation::Add => {
                elementwise::add(pool, input, self.value(step.node.inputs[1]), output);
            }
            Operation::AveragePool { size } => pooling::average(pool, size, map, input, output),
            Operation::Flatten => pooling::flatten(pool, map, input, output),
            Operation::Linear { .. } => {
                let layer = step.linear().expect("the plan checked its operation");
                let Parameters { weight, bias, .. } = self.state.parameters(self.plan, step);
                linear::forward(pool, &layer, input, weight, bias, output);
            }
        }
    }

    /// Adds to the gradients of the step's parameters, and writes that of an input where wanted.
    fn step_backward(
        &mut self,
        step: &Step,
        index: usize,
        dx: Option<&mut [f32]>,
        communicator: &dyn Communicator,
    ) {
        let (pool, map) = (self.pool, step.input_map(self.images));
        // Only the values that the plan keeps for this step's backward are still there.
        let input = &self.buffers.data[self.placement.values[step.node.inputs[0].0]];
        let input = || &input[..step.input.len() * self.images];
        let dy = &self.buffers.data[self.gradient(index + 1)][..step.output.len() * self.images];
        match (step.node.operation, dx) {
            (Operation::Convolution { .. }, dx) => {
                let layer = step.convolution().expect("the plan checked its input");
                let Parameters { weight, dweight, dbias, .. } =
                    self.state.parameters(self.plan, step);
                let workspace = &mut self.buffers.workspace;
                convolution::backward(
                    pool,
                    workspace,
                    &layer,
                    map,
                    input(),
                    weight,
                    dy,
                    dweight,
                    dbias,
                    dx,
                );
            }
            (Operation::BatchNorm { eps, .. }, dx) => {
                self.norm_backward(step, index, eps, dx, communicator);
            }
            (Operation::Linear { .. }, dx) => {
                let layer = step.linear().expect("the plan checked its operation");
                let Parameters { weight, dweight, dbias, .. } =
                    self.state.parameters(self.plan, step);
                linear::backward(pool, &layer, input(), weight, dy, dweight, dbias, dx);
            }
            (Operation::Activation(f), Some(dx)) => {
                let output = self.value(Value(index + 1));
                activation::backward(pool, f, output, dy, dx);
            }
            (Operation::Add, Some(dx)) => elementwise::copy(pool, dy, dx),
            (Operation::AveragePool { size }, Some(dx)) => {
                pooling::average_backward(pool, size, map, dy, dx);
            }
            (Operation::Flatten, Some(dx)) => pooling::unflatten(pool, map, dy, dx),
            (_, None) => {}
        }
    }

    fn norm_forward(
        &mut self,
        step: &Step,
        eps: f64,
        new_weight: f64,
        output: &mut [f32],
        training: Option<&dyn Communicator>,
    ) {
        let index = step.statistics.expect("BatchNorm has statistics");
        let range = self.plan.statistics[index].range.clone();
        let input = self.value(step.node.inputs[0]);
        let mut moments: Vec<Moments> = range
            .clone()
            .map(|i| Moments {
                mean: self.state.means[i].into(),
                variance: self.state.variances[i].into(),
            })
            .collect();
        if let Some(communicator) = training {
            // The sums of all channels, and how many numbers each is over.
            let mut sums = vec![0.0; 2 * range.len() + 1];
            let (channels, count) = sums.split_at_mut(2 * range.len());
            norm::sums(self.pool, input, channels);
            count[0] = (input.len() / range.len()) as f64;
            communicator.sum_f64(&mut sums);
            let count = sums[2 * range.len()];
            for (moments, sums) in moments.iter_mut().zip(sums.chunks_exact(2)) {
                *moments = Moments::new(sums[0], sums[1], count);
            }
            let state = &mut *self.state;
            let unbiased = count / (count - 1.0).max(1.0);
            for (i, moments) in range.clone().zip(&moments) {
                let blend = |old: f32, new: f64| {
                    ((1.0 - new_weight) * f64::from(old) + new_weight * new) as f32
                };
                state.means[i] = blend(state.means[i], moments.mean);
                state.variances[i] = blend(state.variances[i], moments.variance * unbiased);
            }
            state.batches_tracked[index] += 1;
            state.counts[index] = count;
            state.moments[range.clone()].copy_from_slice(&moments);
        }
        let Parameters { weight, bias, .. } = self.state.parameters(self.plan, step);
        let (mut scale, mut shift) = (Vec::new(), Vec::new());
        for ((moments, &weight), &bias) in moments.iter().zip(weight).zip(bias) {
            let factor = f64::from(weight) * moments.inverse_deviation(eps);
            scale.push(factor as f32);
            shift.push((f64::from(bias) - factor * moments.mean) as f32);
        }
        norm::scale_shift(self.pool, self.value(step.node.inputs[0]), &scale, &shift, output);
    }

    fn norm_backward(
        &mut self,
        step: &Step,
        index: usize,
        eps: f64,
        dx: Option<&mut [f32]>,
        communicator: &dyn Communicator,
    ) {
        let statistics = step.statistics.expect("BatchNorm has statistics");
        let range = self.plan.statistics[statistics].range.clone();
        let mut sums = vec![0.0; 2 * range.len()];
        let len = step.output.len() * self.images;
        let x = &self.buffers.data[self.placement.values[step.node.inputs[0].0]][..len];
        let dy = &self.buffers.data[self.gradient(index + 1)][..len];
        let moments = &self.state.moments[range.clone()];
        norm::backward_sums(self.pool, x, dy, moments, eps, &mut sums);
        let Parameters { dweight, dbias, .. } = self.state.parameters(self.plan, step);
        // Each process adds its own part here; `Engine::reduce` sums them.
        for ((dweight, dbias), sums) in dweight.iter_mut().zip(dbias).zip(sums.chunks_exact(2)) {
            *dbias += sums[0] as f32;
            *dweight += sums[1] as f32;
        }
        communicator.sum_f64(&mut sums);
        let Some(dx) = dx else { return };
        let moments = &self.state.moments[range];
        let [weight, _] = step.parameters.expect("BatchNorm has parameters");
        let weight = &self.state.parameters[self.plan.parameters[weight].range.clone()];
        let count = self.state.counts[statistics];
        norm::backward(self.pool, x, dy, moments, eps, weight, &sums, count, dx);
    }

    fn value(&self, value: Value) -> &[f32] {
        let len = self.plan.shape(value).len() * self.images;
        &self.buffers.data[self.placement.values[value.0]][..len]
    }

    /// The buffer of a value's gradient.
    fn gradient(&self, value: usize) -> usize {
        self.placement.gradients[value].expect("every value but the images has a gradient")
    }

    /// Takes a buffer out, so that `write` can fill its first `len` numbers from all the others.
    fn write(&mut self, buffer: usize, len: usize, write: impl FnOnce(&mut Self, &mut [f32])) {
        let mut data = std::mem::take(&mut self.buffers.data[buffer]);
        write(self, &mut data[..len]);
        self.buffers.data[buffer] = data;
    }
}
