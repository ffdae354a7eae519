//! The engine on this machine's processor.

mod buffers;
mod needs;
mod pass;

use std::collections::HashMap;
use std::ops::Range;

use crescendo_kernels::norm::Moments;
use crescendo_kernels::{Buffer, Isa, Pool, Processor, muon, optimizer};

use crate::Error;
use crate::engine::{Alone, Batch, Communicator, Engine, Outcome, Rule, Section, Tensor, Values};
use crate::plan::{Plan, Source, StateTensor, Step};

use buffers::{Buffers, Sizes, filters};
use needs::Needs;
use pass::{Mode, Pass};

/// Computes on the processor, on a pool of threads of its own.
pub struct CpuEngine {
    plan: Plan,
    processor: Processor,
    state: State,
    buffers: Buffers,
    folded: Folded,
}

/// The numbers of a model.
struct Model {
    /// See [`crate::Parameter::range`].
    parameters: Buffer,
    /// Running statistics: see [`crate::Statistics::range`].
    means: Vec<f32>,
    variances: Vec<f32>,
}

impl Model {
    fn new(plan: &Plan) -> Model {
        let channels = plan.statistic_count();
        Model {
            parameters: Buffer::new(plan.parameter_count()),
            means: vec![0.0; channels],
            variances: vec![1.0; channels],
        }
    }

    /// All its numbers.
    fn parts(&mut self) -> [&mut [f32]; 3] {
        [self.parameters.as_mut_slice(), &mut self.means, &mut self.variances]
    }

    /// Those of one tensor of the state; a count is none of them.
    fn part(&mut self, plan: &Plan, source: Source) -> Option<&mut [f32]> {
        let channels = |index: usize| plan.statistics[index].range.clone();
        match source {
            Source::Parameter(index) => {
                Some(&mut self.parameters.as_mut_slice()[plan.parameters[index].range.clone()])
            }
            Source::RunningMean(index) => Some(&mut self.means[channels(index)]),
            Source::RunningVariance(index) => Some(&mut self.variances[channels(index)]),
            Source::BatchesTracked(_) => None,
        }
    }
}

/// What a network has learned, and what it learns with.
struct State {
    model: Model,
    /// The average of models, once there is one.
    average: Option<Model>,
    /// All gradients and velocities, as parameters lie.
    gradients: Buffer,
    velocity: Buffer,
    /// The gradients when they were last measured; empty until then.
    measured: Buffer,
    /// Whether that was since the last update.
    was_measured: bool,
    batches_tracked: Vec<i64>,
    norms: Vec<NormState>,
    /// Another number after every change of what inference computes with.
    version: u64,
    /// Which of the plan's parameters are trained, and what follows for each fused step.
    trained: Vec<bool>,
    needs: Vec<Needs>,
    /// Seconds spent in each fused step, forward and backward, since they were last taken.
    seconds: Vec<[f64; 2]>,
}

/// What the last batch said of each channel of one BatchNorm. The `f32`s are filled up to whole
/// blocks of channels with zeros, as kernels want them.
struct NormState {
    /// The BatchNorm, as an index of [`Plan::steps`].
    step: usize,
    moments: Vec<Moments>,
    /// How many numbers a channel, of all processes, those are over.
    count: f64,
    mean: Vec<f32>,
    scale: Vec<f32>,
    shift: Vec<f32>,
    /// See [`crescendo_kernels::source::NormGradient`].
    abc: [Vec<f32>; 3],
    /// The running mean before the batch: what sums are taken around.
    shift_near_mean: Vec<f32>,
}

impl State {
    fn new(plan: &Plan) -> State {
        let parameters = plan.parameter_count();
        let norm = |(step, layer): (usize, &Step)| {
            let range = &plan.statistics[layer.statistics?].range;
            let zeros = vec![0.0; range.len().next_multiple_of(crescendo_kernels::LANES)];
            Some(NormState {
                step,
                moments: vec![Moments::default(); range.len()],
                count: 0.0,
                mean: zeros.clone(),
                scale: zeros.clone(),
                shift: zeros.clone(),
                abc: [zeros.clone(), zeros.clone(), zeros.clone()],
                shift_near_mean: zeros,
            })
        };
        let trained: Vec<bool> = plan.parameters.iter().map(|p| p.trained).collect();
        State {
            model: Model::new(plan),
            average: None,
            gradients: Buffer::new(parameters),
            velocity: Buffer::new(parameters),
            measured: Buffer::default(),
            was_measured: false,
            batches_tracked: vec![0; plan.statistics.len()],
            norms: plan.steps.iter().enumerate().filter_map(norm).collect(),
            version: 0,
            needs: Needs::new(plan, &trained),
            trained,
            seconds: vec![[0.0; 2]; plan.fused.steps.len()],
        }
    }

    /// Where the weight and the bias of a step of the network lie in the flat buffers: one after the
    /// other.
    fn range(&self, plan: &Plan, step: usize) -> Range<usize> {
        let weight = plan.steps[step].weight.expect("it has a weight");
        let last = plan.steps[step].bias.unwrap_or(weight);
        plan.parameters[weight].range.start..plan.parameters[last].range.end
    }

    /// The weight and the bias of a step of the network; no numbers where it has no bias.
    fn parameters(&self, plan: &Plan, step: usize) -> (&[f32], &[f32]) {
        let weight = plan.steps[step].weight.expect("it has a weight");
        let range = self.range(plan, step);
        self.model.parameters.as_slice()[range].split_at(plan.parameters[weight].range.len())
    }
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
    filters: Vec<Buffer>,
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
            processor: Processor { pool: Pool::new(threads), isa },
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
            self.folded.filters = filters(&self.plan).map(Buffer::new).collect();
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
    fn view<'a>(&self, model: &'a Model, tensor: StateTensor) -> Tensor<'a> {
        let Model { parameters, means, variances } = model;
        let channels = |index: usize| self.plan.statistics[index].range.clone();
        let values = match tensor.source {
            Source::Parameter(index) => {
                &parameters.as_slice()[self.plan.parameters[index].range.clone()]
            }
            Source::RunningMean(index) => &means[channels(index)],
            Source::RunningVariance(index) => &variances[channels(index)],
            Source::BatchesTracked(index) => {
                let values = Values::I64(self.state.batches_tracked[index]);
                return Tensor { name: tensor.name.into(), shape: tensor.shape, values };
            }
        };
        Tensor::f32(tensor.name, tensor.shape, values)
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
            *measured = Buffer::new(self.plan.parameter_count());
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
                let numbers =
                    |tensor: &StateTensor| !matches!(tensor.source, Source::BatchesTracked(_));
                let average = self.state.average.iter();
                average
                    .flat_map(|model| {
                        let tensors = self.plan.state().into_iter().filter(numbers);
                        tensors.map(|tensor| self.view(model, tensor))
                    })
                    .collect()
            }
            Section::Gradients => self.views(self.state.gradients.as_slice()).collect(),
            Section::Momentum => self.views(self.state.velocity.as_slice()).collect(),
        }
    }

    fn import(&mut self, section: Section, tensors: &[Tensor]) -> Result<(), Error> {
        if section == Section::Average && self.state.average.is_none() {
            self.state.average = Some(Model::new(&self.plan));
        }
        crate::engine::check(&self.export(section), tensors)?;
        let named: HashMap<&str, &Values> =
            tensors.iter().map(|tensor| (tensor.name.as_ref(), &tensor.values)).collect();
        let fill = |flat: &mut [f32], name: &str| {
            if let Some(Values::F32(values)) = named.get(name) {
                flat.copy_from_slice(values);
            }
        };
        self.state.version += 1;
        let State { model, average, gradients, velocity, batches_tracked, .. } = &mut self.state;
        let model = match (section, average) {
            (Section::Gradients, _) | (Section::Momentum, _) => {
                let flat = if section == Section::Gradients { gradients } else { velocity };
                let flat = flat.as_mut_slice();
                for parameter in &self.plan.parameters {
                    fill(&mut flat[parameter.range.clone()], &parameter.name);
                }
                return Ok(());
            }
            (Section::Average, Some(average)) => average,
            _ => model,
        };
        for StateTensor { name, source, .. } in self.plan.state() {
            if let Some(part) = model.part(&self.plan, source) {
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
