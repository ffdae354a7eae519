//! The engine on the processor.

use std::collections::VecDeque;
use std::ops::Range;

use crescendo_kernels::muon::{self, MuonStep};
use crescendo_kernels::optimizer::{self, SgdStep};
use crescendo_kernels::{AlignedBuffer, Processor, ThreadPool, peak};
use crescendo_network::{
    Communicator, Engine, EngineError, Graph, Images, Loss, Measure, MicroBatch, Muon, Peaks, Rule,
    Section, Sgd, SingleProcess, Snapshot, StateKind, StateTensor, StepTime, Tensor, TensorData,
    UpdateResult, check_tensors,
};

use crate::buffers::{Buffers, Sizes, packed_lens};
use crate::options::PlanOptions;
use crate::pass::{BatchLoss, FoldedWeights, LossScale, Mode, Pass};
use crate::plan::{ExecutionPlan, FEW_IMAGES};
use crate::state::{Model, State};
use crate::tuning::Tuning;

/// Computes on the processor, with a thread pool of its own. It computes within each call, so results are
/// there as soon as an update returns.
pub(crate) struct CpuEngine {
    /// One for each image size so far.
    plans: Vec<ExecutionPlan>,
    /// The index of the plan in use.
    current: usize,
    options: PlanOptions,
    processor: Processor,
    communicator: Box<dyn Communicator>,
    loss: Loss,
    state: State,
    buffers: Buffers,
    /// For batches, and for few images.
    folded: [FoldedWeights; 2],
    /// Whether few images take algorithms of their own.
    favors_latency: bool,
    tuning: Tuning,
    /// The result of the current update so far.
    pending: UpdateResult,
    /// Results that have not been read.
    results: VecDeque<UpdateResult>,
}

/// Numbers that a thread averages at a time.
const AVERAGED: usize = 65_536;

/// How many images inference computes at once, at most, on so many threads: enough for the kernels to be efficient,
/// and to give work to all. Results do not depend on it.
fn inference_images(threads: usize) -> usize {
    (8 * threads).max(64)
}

impl CpuEngine {
    /// An engine for this plan, which was made with these options.
    pub fn new(
        plan: ExecutionPlan,
        options: PlanOptions,
        processor: Processor,
        tuning: Tuning,
    ) -> Self {
        CpuEngine {
            state: State::new(&plan),
            plans: vec![plan],
            current: 0,
            options,
            processor,
            communicator: Box::new(SingleProcess),
            loss: Loss::default(),
            buffers: Buffers::default(),
            folded: Default::default(),
            favors_latency: false,
            tuning,
            pending: UpdateResult::default(),
            results: VecDeque::new(),
        }
    }

    /// Bytes that an engine takes that trains with micro-batches of so many images and evaluates.
    pub fn memory(plan: &ExecutionPlan, micro_batch: usize, threads: usize) -> usize {
        // Parameters, gradients, momentum buffers, and the copy of the gradients that measuring takes.
        let graph = &plan.graph;
        let state = 4 * (4 * graph.parameter_count() + 2 * graph.statistic_count());
        let training = Sizes::new(plan, &plan.training, micro_batch, threads);
        let inference = Sizes::new(plan, &plan.inference, inference_images(threads), threads);
        let folded = 4 * packed_lens(&plan.layers).sum::<usize>();
        state + folded + training.max(inference).bytes(threads)
    }

    fn plan(&self) -> &ExecutionPlan {
        &self.plans[self.current]
    }

    /// A forward pass in training, with the weight `new_weight` of the batch in the running statistics if it
    /// is not the operations'.
    fn training_pass<'a>(
        &'a mut self,
        images: &'a [f32],
        count: usize,
        communicator: Option<&'a mut dyn Communicator>,
        new_weight: Option<f64>,
    ) -> Result<(Pass<'a>, &'a Loss), EngineError> {
        let plan = &self.plans[self.current];
        assert!(count > 0, "a batch without images");
        assert_eq!(images.len(), count * plan.graph.input.len(), "one label for each image");
        let threads = self.processor.pool.threads();
        self.buffers.reserve(threads, Sizes::new(plan, &plan.training, count, threads))?;
        for (norm, statistics) in self.state.norms.iter_mut().zip(&plan.graph.statistics) {
            let means = &self.state.model.means[statistics.range.clone()];
            norm.sum_offset[..means.len()].copy_from_slice(means);
        }
        self.state.version += 1;
        let communicator = communicator.unwrap_or(&mut *self.communicator);
        let mut pass = Pass {
            plan,
            layers: &plan.layers,
            memory: &plan.training,
            processor: &self.processor,
            state: &mut self.state,
            buffers: &mut self.buffers,
            tuning: &mut self.tuning,
            images,
            count,
            mode: Mode::Training { communicator, new_weight },
        };
        pass.forward()?;
        Ok((pass, &self.loss))
    }

    /// The logits of at most [`inference_images`] images, which are all or some of those of a call with `few`.
    fn infer(&mut self, images: &[f32], few: bool, logits: &mut [f32]) -> Result<(), EngineError> {
        let plan = &self.plans[self.current];
        let layers = if few { &plan.few } else { &plan.layers };
        let folded = &mut self.folded[usize::from(few)];
        let count = images.len() / plan.graph.input.len();
        let threads = self.processor.pool.threads();
        self.buffers.reserve(threads, Sizes::new(plan, &plan.inference, count, threads))?;
        if folded.packed.is_empty() {
            folded.packed = packed_lens(layers).map(AlignedBuffer::new).collect();
        }
        let mut pass = Pass {
            plan,
            layers,
            memory: &plan.inference,
            processor: &self.processor,
            state: &mut self.state,
            buffers: &mut self.buffers,
            tuning: &mut self.tuning,
            images,
            count,
            mode: Mode::Inference(folded),
        };
        pass.forward()?;
        logits.copy_from_slice(pass.logits());
        Ok(())
    }

    /// Forward and backward of the images in `part`, normalised with the statistics of all of them.
    fn forward_and_backward(
        &mut self,
        batch: &MicroBatch,
        part: Range<usize>,
        new_weight: Option<f64>,
        last: bool,
    ) -> Result<BatchLoss, EngineError> {
        let Images::Prepared(images) = batch.images else {
            return Err(EngineError::Unsupported(
                "the CPU engine takes images that are prepared ahead".into(),
            ));
        };
        let (mut pass, loss) = self.training_pass(images, batch.labels.len(), None, new_weight)?;
        let scale = LossScale { share: batch.share, mean_weight: batch.mean_weight };
        let loss = pass.loss(batch.labels, loss, scale, part);
        pass.backward(last)?;
        Ok(loss)
    }

    /// The squared norm of what was added to the gradients since this was last called, or since they were
    /// cleared.
    fn gradient_change(&mut self) -> f64 {
        let count = self.plan().graph.parameter_count();
        let State { gradients, measured, was_measured, .. } = &mut self.state;
        *was_measured = true;
        if measured.as_slice().is_empty() {
            *measured = AlignedBuffer::new(count);
        }
        optimizer::squared_change(&self.processor, gradients.as_slice(), measured.as_mut_slice())
    }

    /// Forward and backward for one half after the other; measures the gradient of each.
    fn accumulate_halves(&mut self, batch: &MicroBatch) -> Result<BatchLoss, EngineError> {
        let count = batch.labels.len();
        assert!(count > 1, "a batch of one image has no halves");
        self.gradient_change();
        let mut batch_loss = None;
        // Backward overwrites what forward computed, so forward is computed twice; the running statistics
        // take in the batch once.
        let halves = [(0..count / 2, Some(0.0), false), (count / 2..count, None, batch.last)];
        for (half, new_weight, last) in halves {
            let images = half.len();
            batch_loss = Some(self.forward_and_backward(batch, half, new_weight, last)?);
            let to_mean = count as f64 / (images as f64 * batch.share);
            let square = self.gradient_change() * to_mean * to_mean;
            self.measured_parts().push((images, square));
        }
        Ok(batch_loss.expect("there are two halves"))
    }

    fn measured_parts(&mut self) -> &mut Vec<(usize, f64)> {
        &mut self.pending.norms.get_or_insert_default().parts
    }

    /// Applies the gradients, and clears them.
    fn apply(&mut self, rules: &[Rule]) {
        self.state.version += 1;
        let parameters_of = &self.plans[self.current].graph.parameters;
        let State { model, gradients, momentum, measured, was_measured, .. } = &mut self.state;
        // The gradients become zeros.
        if std::mem::take(was_measured) {
            measured.as_mut_slice().fill(0.0);
        }
        let (parameters, gradients) = (model.parameters.as_mut_slice(), gradients.as_mut_slice());
        let momentum = momentum.as_mut_slice();
        assert_eq!(rules.len(), parameters_of.len(), "one rule for each parameter");
        let mut first = 0;
        while let Some(&rule) = rules.get(first) {
            // Neighbours with the same rule are one piece of memory; Muon's are matrices of their own.
            let same = rules[first..].iter().take_while(|&&other| other == rule).count();
            let count = if matches!(rule, Rule::Muon(_)) { 1 } else { same };
            let of = &parameters_of[first..first + count];
            let range = of[0].range.start..of[count - 1].range.end;
            let parameters = &mut parameters[range.clone()];
            let gradients = &mut gradients[range.clone()];
            let momentum_buffer = &mut momentum[range];
            match rule {
                Rule::Sgd(Sgd { learning_rate, momentum, nesterov, weight_decay }) => {
                    let step = SgdStep { learning_rate, momentum, nesterov, weight_decay };
                    optimizer::sgd(&self.processor, step, parameters, gradients, momentum_buffer);
                }
                Rule::Muon(Muon { learning_rate, momentum, nesterov, steps }) => {
                    let step = MuonStep { learning_rate, momentum, nesterov, steps };
                    muon::update(
                        &self.processor,
                        &mut self.buffers.workspace,
                        step,
                        of[0].shape[0],
                        parameters,
                        gradients,
                        momentum_buffer,
                    );
                }
                Rule::Frozen => gradients.fill(0.0),
            }
            first += count;
        }
    }

    /// One tensor of the state, with a model's numbers.
    fn view<'a>(
        &self,
        model: &'a Model,
        StateTensor { name, shape, kind, .. }: StateTensor,
    ) -> Tensor<'a> {
        let data = match (kind, model.tensor(&self.plan().graph, kind)) {
            (_, Some(numbers)) => TensorData::F32(numbers.into()),
            (StateKind::BatchesTracked(index), None) => {
                TensorData::I64(self.state.batches_tracked[index])
            }
            _ => unreachable!("only a count has no numbers"),
        };
        Tensor { name: name.into(), shape, data }
    }

    /// A model's tensors, without counts.
    fn numbers<'a>(&self, model: &'a Model) -> Vec<Tensor<'a>> {
        let tensors =
            self.plan().graph.state().into_iter().filter(|tensor| !tensor.kind.is_count());
        tensors.map(|tensor| self.view(model, tensor)).collect()
    }

    /// A flat buffer as named tensors.
    fn views<'a>(&'a self, flat: &'a [f32]) -> impl Iterator<Item = Tensor<'a>> {
        self.plan().graph.parameters.iter().map(|parameter| {
            let values = &flat[parameter.range.clone()];
            Tensor::f32(parameter.name.as_str(), parameter.shape.clone(), values)
        })
    }

    fn tensors(&self, section: Section) -> Vec<Tensor<'_>> {
        match section {
            Section::Model => {
                let (model, state) = (&self.state.model, self.plan().graph.state());
                state.into_iter().map(|tensor| self.view(model, tensor)).collect()
            }
            Section::Average => {
                self.state.average.as_ref().map_or(Vec::new(), |average| self.numbers(average))
            }
            Section::Gradients => self.views(self.state.gradients.as_slice()).collect(),
            Section::Momentum => self.views(self.state.momentum.as_slice()).collect(),
        }
    }
}

impl Engine for CpuEngine {
    fn graph(&self) -> &Graph {
        &self.plan().graph
    }

    fn set_graph(&mut self, graph: &Graph) -> Result<(), EngineError> {
        if graph == self.graph() {
            return Ok(());
        }
        self.graph().check_same_network(graph)?;
        self.current = match self.plans.iter().position(|plan| plan.graph == *graph) {
            Some(known) => known,
            None => {
                self.plans.push(ExecutionPlan::new(graph, self.options)?);
                self.plans.len() - 1
            }
        };
        self.tuning.restart();
        let plan = &self.plans[self.current];
        self.state.required = plan.required_gradients(&self.state.requires_grad);
        self.state.seconds = vec![[0.0; 2]; plan.fused.steps.len()];
        // Another image size may take other algorithms, whose weights are packed otherwise.
        self.folded = Default::default();
        Ok(())
    }

    fn set_loss(&mut self, loss: &Loss) -> Result<(), EngineError> {
        loss.check(self.graph().classes())?;
        self.loss = loss.clone();
        Ok(())
    }

    fn set_communicator(&mut self, communicator: Box<dyn Communicator>) {
        self.communicator = communicator;
    }

    fn set_requires_grad(&mut self, requires_grad: &[bool]) {
        if requires_grad != self.state.requires_grad {
            self.state.required = self.plan().required_gradients(requires_grad);
            self.state.requires_grad.copy_from_slice(requires_grad);
        }
    }

    fn accumulate(&mut self, batch: &MicroBatch) -> Result<(), EngineError> {
        let count = batch.labels.len();
        let loss = match batch.measure {
            Measure::Halves => self.accumulate_halves(batch)?,
            measure => {
                let loss = self.forward_and_backward(batch, 0..count, None, batch.last)?;
                if measure == Measure::MicroBatch {
                    let square = self.gradient_change() / (batch.share * batch.share);
                    self.measured_parts().push((count, square));
                }
                loss
            }
        };
        self.pending.loss += batch.share * loss.loss;
        self.pending.correct += loss.correct;
        self.pending.images += count;
        Ok(())
    }

    fn update(&mut self, rules: &[Rule]) -> Result<(), EngineError> {
        if rules.iter().any(|rule| matches!(rule, Rule::Muon(_))) {
            // There need not have been a batch, as where the gradients were imported.
            let plan = &self.plans[self.current];
            let threads = self.processor.pool.threads();
            let sizes = Sizes::new(plan, &plan.training, 1, threads);
            self.buffers.reserve(threads, sizes)?;
        }
        self.communicator.sum_gradients(self.state.gradients.as_mut_slice())?;
        let mut result = std::mem::take(&mut self.pending);
        if let Some(norms) = &mut result.norms {
            norms.whole = optimizer::squared_norm(&self.processor, self.state.gradients.as_slice());
        }
        self.apply(rules);
        self.results.push_back(result);
        Ok(())
    }

    fn next_result(&mut self, _: bool) -> Result<Option<UpdateResult>, EngineError> {
        Ok(self.results.pop_front())
    }

    fn update_average(&mut self, weight: f64) -> Result<(), EngineError> {
        let graph = &self.plans[self.current].graph;
        let State { model, average, .. } = &mut self.state;
        // The first average is the model.
        let weight = if average.is_some() { weight as f32 } else { 1.0 };
        let average = average.get_or_insert_with(|| Model::new(graph));
        for (average, model) in average.buffers().into_iter().zip(model.buffers()) {
            let work = ThreadPool::ELEMENT * average.len();
            self.processor.pool.chunks(average, AVERAGED, work, |piece, average| {
                for (average, &model) in average.iter_mut().zip(&model[piece * AVERAGED..]) {
                    // Exact if the weight is 1.
                    *average = weight.mul_add(model, (1.0 - weight) * *average);
                }
            });
        }
        Ok(())
    }

    fn swap_average(&mut self) -> Result<(), EngineError> {
        self.state.version += 1;
        if let Some(average) = &mut self.state.average {
            std::mem::swap(&mut self.state.model, average);
        }
        Ok(())
    }

    fn blend_statistics(&mut self, images: &[f32], weight: f64) -> Result<(), EngineError> {
        let count = images.len() / self.graph().input.len();
        self.training_pass(images, count, Some(&mut SingleProcess), Some(weight))?;
        Ok(())
    }

    fn favor_latency(&mut self) {
        self.favors_latency = true;
    }

    fn logits_into(&mut self, images: &[f32], logits: &mut [f32]) -> Result<(), EngineError> {
        let (image, classes) = (self.graph().input.len(), self.graph().classes());
        assert!(images.len().is_multiple_of(image), "not whole images");
        assert_eq!(logits.len(), images.len() / image * classes, "not one logit for each class");
        let most = inference_images(self.processor.pool.threads());
        let parts = images.chunks(image * most).zip(logits.chunks_mut(classes * most));
        // By the call, not by its parts: these depend on the number of threads.
        let few = self.favors_latency && images.len() <= image * FEW_IMAGES;
        for (images, logits) in parts {
            self.infer(images, few, logits)?;
        }
        Ok(())
    }

    fn export(&mut self, section: Section) -> Result<Vec<Tensor<'_>>, EngineError> {
        Ok(self.tensors(section))
    }

    fn import(&mut self, section: Section, tensors: &[Tensor]) -> Result<(), EngineError> {
        let expected = match section {
            // There need not be one yet.
            Section::Average => self.numbers(&self.state.model),
            _ => self.tensors(section),
        };
        let given = check_tensors(&expected, tensors)?.into_iter();
        self.state.version += 1;
        let graph = &self.plans[self.current].graph;
        let State { model, average, gradients, momentum, batches_tracked, .. } = &mut self.state;
        let model = match section {
            Section::Gradients | Section::Momentum => {
                let flat = if section == Section::Gradients { gradients } else { momentum };
                let flat = flat.as_mut_slice();
                for (parameter, data) in graph.parameters.iter().zip(given) {
                    if let TensorData::F32(values) = data {
                        flat[parameter.range.clone()].copy_from_slice(values);
                    }
                }
                return Ok(());
            }
            Section::Average => average.get_or_insert_with(|| Model::new(graph)),
            Section::Model => model,
        };
        let counts = section == Section::Model;
        let state = graph.state().into_iter().filter(|tensor| counts || !tensor.kind.is_count());
        for (tensor, data) in state.zip(given) {
            match (data, tensor.kind) {
                (TensorData::I64(count), StateKind::BatchesTracked(index)) => {
                    batches_tracked[index] = *count;
                }
                (TensorData::F32(values), kind) => {
                    let numbers = model.tensor_mut(graph, kind);
                    numbers.expect("only a count has no numbers").copy_from_slice(values);
                }
                _ => unreachable!("the types were checked"),
            }
        }
        Ok(())
    }

    fn snapshot(&mut self) -> Result<Snapshot<'_>, EngineError> {
        let sections = [Section::Model, Section::Momentum, Section::Average];
        let state = sections.map(|section| (section, self.tensors(section)));
        Ok(Snapshot::Borrowed(state.into()))
    }

    fn take_step_times(&mut self) -> Vec<StepTime> {
        let plan = &self.plans[self.current];
        let steps = plan.fused.steps.iter().zip(&plan.gradients.steps);
        let times = steps.zip(&mut self.state.seconds).map(|((step, gradients), seconds)| {
            let mut time = StepTime::default();
            time.node = step.node;
            [time.forward, time.backward] = std::mem::take(seconds);
            time.input_gradient = gradients.delivery.is_some();
            time
        });
        times.collect()
    }

    fn choices(&self) -> Option<String> {
        self.tuning.choice()
    }

    fn measure_peaks(&mut self) -> Result<Peaks, EngineError> {
        let mut peaks = Peaks::default();
        peaks.flops = peak::flops(&self.processor);
        Ok(peaks)
    }
}
