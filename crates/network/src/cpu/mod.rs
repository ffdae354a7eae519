//! The engine on this machine's processor.

mod buffers;
mod needs;
mod pass;
mod state;

use std::collections::HashMap;

use crescendo_kernels::{AlignedBuffer, Isa, Processor, ThreadPool, muon, optimizer};

use crate::Error;
use crate::engine::{Alone, Batch, Communicator, Engine, Outcome, Rule, Section, Tensor, Values};
use crate::plan::{Plan, Source, StateTensor};

use buffers::{Buffers, Sizes, filters};
use needs::Needs;
use pass::{Mode, Pass};
use state::{Model, State};

/// Computes on the processor, on a pool of threads of its own.
pub struct CpuEngine {
    plan: Plan,
    processor: Processor,
    state: State,
    buffers: Buffers,
    folded: Folded,
}

/// Numbers that a thread averages at a time.
const AVERAGED: usize = 65_536;

/// How many images inference takes at once, at most: enough for the kernels to be efficient.
const INFERENCE_IMAGES: usize = 64;

/// Every convolution's filters with its BatchNorm folded in: they serve inference until the state
/// changes.
#[derive(Default)]
struct Folded {
    /// Those of each fused step.
    filters: Vec<AlignedBuffer>,
    /// The [`State::version`] that they belong to.
    version: Option<u64>,
}

impl CpuEngine {
    /// An engine with `threads` threads, which use the instructions of `isa`. Parameters are zeros
    /// until they are imported: see [`Plan::initial`].
    pub fn new(plan: Plan, threads: usize, isa: Isa) -> Self {
        CpuEngine {
            state: State::new(&plan),
            buffers: Buffers::default(),
            folded: Folded::default(),
            processor: Processor { pool: ThreadPool::new(threads), isa },
            plan,
        }
    }

    /// Bytes that an engine for this plan holds when it trains with batches of `batch_size` and
    /// evaluates.
    pub fn memory(plan: &Plan, batch_size: usize, threads: usize) -> usize {
        // With the copy of the gradients that measuring takes.
        let state = 4 * (4 * plan.parameter_count() + 2 * plan.statistic_count());
        let training = Sizes::new(plan, &plan.training, batch_size);
        let inference = Sizes::new(plan, &plan.inference, INFERENCE_IMAGES);
        let folded = 4 * filters(plan).sum::<usize>();
        state + folded + training.max(inference).bytes(threads)
    }

    /// What it computes on.
    pub fn processor(&self) -> &Processor {
        &self.processor
    }

    /// Seconds spent in each fused step, forward and backward, since this was last asked.
    pub fn take_seconds(&mut self) -> Vec<[f64; 2]> {
        let fresh = vec![[0.0; 2]; self.state.seconds.len()];
        std::mem::replace(&mut self.state.seconds, fresh)
    }

    fn training_pass<'a>(
        &'a mut self,
        images: &'a [f32],
        count: usize,
        communicator: &'a dyn Communicator,
        new_weight: Option<f64>,
    ) -> Pass<'a> {
        assert_eq!(images.len(), count * self.plan.input.len(), "one label an image");
        let threads = self.processor.pool.threads();
        self.buffers.reserve(threads, Sizes::new(&self.plan, &self.plan.training, count));
        for (norm, statistics) in self.state.norms.iter_mut().zip(&self.plan.statistics) {
            let means = &self.state.model.means[statistics.range.clone()];
            norm.shift_near_mean[..means.len()].copy_from_slice(means);
        }
        self.state.version += 1;
        Pass {
            plan: &self.plan,
            placement: &self.plan.training,
            processor: &self.processor,
            state: &mut self.state,
            buffers: &mut self.buffers,
            images,
            count,
            mode: Mode::Training(communicator, new_weight),
        }
    }

    fn inference_pass<'a>(&'a mut self, images: &'a [f32], count: usize) -> Pass<'a> {
        let threads = self.processor.pool.threads();
        self.buffers.reserve(threads, Sizes::new(&self.plan, &self.plan.inference, count));
        if self.folded.filters.is_empty() {
            self.folded.filters = filters(&self.plan).map(AlignedBuffer::new).collect();
        }
        Pass {
            plan: &self.plan,
            placement: &self.plan.inference,
            processor: &self.processor,
            state: &mut self.state,
            buffers: &mut self.buffers,
            images,
            count,
            mode: Mode::Inference(&mut self.folded),
        }
    }

    /// One tensor of the state, with a model's numbers.
    fn view<'a>(
        &self,
        model: &'a Model,
        StateTensor { name, shape, source }: StateTensor,
    ) -> Tensor<'a> {
        let values = match (source, model.part(&self.plan, source)) {
            (_, Some(part)) => Values::F32(part.into()),
            (Source::BatchesTracked(index), None) => Values::I64(self.state.batches_tracked[index]),
            _ => unreachable!("all but a count is a part of a model"),
        };
        Tensor { name: name.into(), shape, values }
    }

    /// A model's numbers, without counts.
    fn numbers<'a>(&self, model: &'a Model) -> Vec<Tensor<'a>> {
        let counts = |tensor: &StateTensor| matches!(tensor.source, Source::BatchesTracked(_));
        let tensors = self.plan.state().into_iter().filter(|tensor| !counts(tensor));
        tensors.map(|tensor| self.view(model, tensor)).collect()
    }

    /// One flat buffer as named tensors.
    fn views<'a>(&'a self, flat: &'a [f32]) -> impl Iterator<Item = Tensor<'a>> {
        self.plan.parameters.iter().map(|parameter| {
            let values = &flat[parameter.range.clone()];
            Tensor::f32(parameter.name.as_str(), parameter.shape.clone(), values)
        })
    }
}

impl Engine for CpuEngine {
    fn plan(&self) -> &Plan {
        &self.plan
    }

    fn set_plan(&mut self, plan: Plan) {
        if plan == self.plan {
            return;
        }
        let same =
            plan.parameters == self.plan.parameters && plan.statistics == self.plan.statistics;
        assert!(same, "a plan of another network");
        self.state.needs = Needs::new(&plan, &self.state.trained);
        self.state.seconds = vec![[0.0; 2]; plan.fused.steps.len()];
        // Other sizes may take other methods, whose filters are packed otherwise.
        self.folded = Folded::default();
        self.plan = plan;
    }

    fn backward(&mut self, batch: Batch, weight: f64, communicator: &dyn Communicator) -> Outcome {
        let count = batch.labels.len();
        let mut pass = self.training_pass(batch.images, count, communicator, None);
        pass.forward();
        let outcome = pass.lose(batch, weight, 0..count);
        pass.backward();
        outcome
    }

    fn backward_in_halves(
        &mut self,
        batch: Batch,
        weight: f64,
        communicator: &dyn Communicator,
    ) -> (Outcome, [f64; 2]) {
        let count = batch.labels.len();
        assert!(count > 1, "a batch of one image has no halves");
        self.gradient_change();
        let mut squares = [0.0; 2];
        let mut outcome = None;
        // Backward overwrites what forward made, so forward is computed twice; the running statistics
        // learn of it once.
        let halves = [(0..count / 2, Some(0.0)), (count / 2..count, None)];
        for ((part, new_weight), square) in halves.into_iter().zip(&mut squares) {
            let mut pass = self.training_pass(batch.images, count, communicator, new_weight);
            pass.forward();
            outcome = Some(pass.lose(batch, weight, part.clone()));
            pass.backward();
            let to_mean = count as f64 / (part.len() as f64 * weight);
            *square = self.gradient_change() * to_mean * to_mean;
        }
        (outcome.expect("there are two halves"), squares)
    }

    fn gradient_change(&mut self) -> f64 {
        let State { gradients, measured, was_measured, .. } = &mut self.state;
        *was_measured = true;
        if measured.as_slice().is_empty() {
            *measured = AlignedBuffer::new(self.plan.parameter_count());
        }
        optimizer::squared_change(&self.processor, gradients.as_slice(), measured.as_mut_slice())
    }

    fn gradient_square(&self) -> f64 {
        optimizer::squared_norm(&self.processor, self.state.gradients.as_slice())
    }

    fn blend_statistics(&mut self, images: &[f32], share: f64) {
        let count = images.len() / self.plan.input.len();
        self.training_pass(images, count, &Alone, Some(share)).forward();
    }

    fn reduce(&mut self, communicator: &dyn Communicator) {
        communicator.sum_f32(self.state.gradients.as_mut_slice());
    }

    fn update(&mut self, rules: &[Rule]) {
        self.state.version += 1;
        let State { model, gradients, velocity, measured, was_measured, .. } = &mut self.state;
        // The gradients become zeros.
        if std::mem::take(was_measured) {
            measured.as_mut_slice().fill(0.0);
        }
        let (parameters, gradients) = (model.parameters.as_mut_slice(), gradients.as_mut_slice());
        let velocity = velocity.as_mut_slice();
        assert_eq!(rules.len(), self.plan.parameters.len(), "one rule for each parameter");
        let mut first = 0;
        while let Some(&rule) = rules.get(first) {
            // Neighbours with one rule are one piece of memory; Muon's are matrices of their own.
            let same = rules[first..].iter().take_while(|&&other| other == rule).count();
            let count = if matches!(rule, Rule::Muon(_)) { 1 } else { same };
            let of = &self.plan.parameters[first..first + count];
            let range = || of[0].range.start..of[count - 1].range.end;
            let (parameters, gradients) = (&mut parameters[range()], &mut gradients[range()]);
            let velocity = &mut velocity[range()];
            match rule {
                Rule::Sgd(sgd) => {
                    optimizer::sgd(&self.processor, sgd, parameters, gradients, velocity);
                }
                Rule::Muon(rule) => {
                    let rows = of[0].shape[0];
                    let workspace = &mut self.buffers.workspace;
                    muon::update(
                        &self.processor,
                        workspace,
                        rule,
                        rows,
                        parameters,
                        gradients,
                        velocity,
                    );
                }
                Rule::Fixed => gradients.fill(0.0),
            }
            first += count;
        }
    }

    fn average(&mut self, share: f64) {
        let State { model, average, .. } = &mut self.state;
        // The first average is the model.
        let share = if average.is_some() { share as f32 } else { 1.0 };
        let average = average.get_or_insert_with(|| Model::new(&self.plan));
        for (average, model) in average.parts().into_iter().zip(model.parts()) {
            self.processor.pool.chunks(average, AVERAGED, |piece, average| {
                for (average, &model) in average.iter_mut().zip(&model[piece * AVERAGED..]) {
                    // Exact where the share is 1.
                    *average = share.mul_add(model, (1.0 - share) * *average);
                }
            });
        }
    }

    fn swap_average(&mut self) {
        self.state.version += 1;
        if let Some(average) = &mut self.state.average {
            std::mem::swap(&mut self.state.model, average);
        }
    }

    fn set_trained(&mut self, trained: &[bool]) {
        let State { trained: before, needs, .. } = &mut self.state;
        if trained != before {
            *needs = Needs::new(&self.plan, trained);
            before.copy_from_slice(trained);
        }
    }

    fn logits(&mut self, images: &[f32]) -> Vec<f32> {
        let image = self.plan.input.len();
        let mut logits = Vec::with_capacity(images.len() / image * self.plan.classes());
        for images in images.chunks(image * INFERENCE_IMAGES) {
            let mut pass = self.inference_pass(images, images.len() / image);
            pass.forward();
            logits.extend_from_slice(pass.logits());
        }
        logits
    }

    fn export(&self, section: Section) -> Vec<Tensor<'_>> {
        match section {
            Section::Model => {
                let model = &self.state.model;
                self.plan.state().into_iter().map(|tensor| self.view(model, tensor)).collect()
            }
            Section::Average => {
                self.state.average.as_ref().map_or(Vec::new(), |average| self.numbers(average))
            }
            Section::Gradients => self.views(self.state.gradients.as_slice()).collect(),
            Section::Momentum => self.views(self.state.velocity.as_slice()).collect(),
        }
    }

    fn import(&mut self, section: Section, tensors: &[Tensor]) -> Result<(), Error> {
        let expected = match section {
            // There need not be one yet.
            Section::Average => self.numbers(&self.state.model),
            _ => self.export(section),
        };
        crate::engine::check(&expected, tensors)?;
        let named: HashMap<&str, &Values> =
            tensors.iter().map(|tensor| (tensor.name.as_ref(), &tensor.values)).collect();
        let fill = |flat: &mut [f32], name: &str| {
            if let Some(Values::F32(values)) = named.get(name) {
                flat.copy_from_slice(values);
            }
        };
        self.state.version += 1;
        let State { model, average, gradients, velocity, batches_tracked, .. } = &mut self.state;
        let model = match section {
            Section::Gradients | Section::Momentum => {
                let flat = if section == Section::Gradients { gradients } else { velocity };
                let flat = flat.as_mut_slice();
                for parameter in &self.plan.parameters {
                    fill(&mut flat[parameter.range.clone()], &parameter.name);
                }
                return Ok(());
            }
            Section::Average => average.get_or_insert_with(|| Model::new(&self.plan)),
            Section::Model => model,
        };
        for StateTensor { name, source, .. } in self.plan.state() {
            if let Some(part) = model.part_mut(&self.plan, source) {
                fill(part, &name);
            } else if let (Source::BatchesTracked(index), Some(Values::I64(count))) =
                (source, named.get(name.as_str()))
            {
                batches_tracked[index] = *count;
            }
        }
        Ok(())
    }
}
