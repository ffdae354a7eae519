//! The engine on the processor.

use std::collections::VecDeque;
use std::ops::Range;

use crescendo_kernels::leaves::MOST_GROUPS;
use crescendo_kernels::loss::{self, ClassWeights};
use crescendo_kernels::muon::{self, MuonStep};
use crescendo_kernels::optimizer::{self, SgdStep};
use crescendo_kernels::{AlignedBuffer, Leaves, Processor, ThreadPool, peak};
use crescendo_network::{
    BatchPart, Communicator, Engine, EngineError, GradientNorms, Graph, Images, Loss, MicroBatch,
    Muon, Operation, Peaks, Rule, Section, Sgd, SingleProcess, Snapshot, StateKind, StateTensor,
    StepTime, Tensor, TensorData, UpdateResult, check_tensors,
};

use crate::buffers::{Buffers, Sizes, packed_lens};
use crate::gradient_sums::Grouping;
use crate::options::PlanOptions;
use crate::pass::{FoldedWeights, Losses, Mode, Pass};
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
    /// What the current update has so far.
    pending: Option<Pending>,
    /// Results that have not been read.
    results: VecDeque<UpdateResult>,
}

/// What parts of a batch have come to.
struct Pending {
    /// The last of them.
    part: BatchPart,
    grouping: Grouping,
    /// Whether the halves of the batch are measured.
    measure: bool,
    /// What the sum of the losses is divided by.
    divisor: f64,
    /// The sums of the losses of each group.
    losses: [f64; MOST_GROUPS],
    correct: usize,
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
            pending: None,
            results: VecDeque::new(),
        }
    }

    /// Bytes that an engine takes that trains with so many images of a micro-batch, keeps so many sums of gradients apart,
    /// and evaluates.
    pub fn memory(plan: &ExecutionPlan, images: usize, sums: usize, threads: usize) -> usize {
        // Parameters, momentum buffers, gradients, and those of a first half that is measured.
        let graph = &plan.graph;
        let state = 4 * ((3 + sums) * graph.parameter_count() + 2 * graph.statistic_count());
        let leaves = Grouping::new(&BatchPart::whole(images)).leaves;
        let training = Sizes::new(plan, &plan.training, &leaves, threads);
        let inference = Leaves::one(inference_images(threads));
        let inference = Sizes::new(plan, &plan.inference, &inference, threads);
        let folded = 4 * packed_lens(&plan.layers).sum::<usize>();
        state + folded + training.max(inference).bytes(threads)
    }

    fn plan(&self) -> &ExecutionPlan {
        &self.plans[self.current]
    }

    /// A forward pass in training over the images of some leaves of a micro-batch of so many, with the weight `new_weight`
    /// of the batch in the running statistics if it is not the operations'.
    fn training_pass<'a>(
        &'a mut self,
        images: &'a [f32],
        grouping: Grouping,
        micro_batch: usize,
        alone: Option<usize>,
        new_weight: Option<f64>,
    ) -> Result<(Pass<'a>, &'a Loss), EngineError> {
        let plan = &self.plans[self.current];
        let count = grouping.leaves.images();
        assert_eq!(images.len(), count * plan.graph.input.len(), "not the images of the part");
        let threads = self.processor.pool.threads();
        // What is summed over processes needs room also where there are no images.
        let leaves = if count > 0 { grouping.leaves } else { Leaves::one(1) };
        self.buffers.reserve(threads, Sizes::new(plan, &plan.training, &leaves, threads))?;
        for (norm, statistics) in self.state.norms.iter_mut().zip(&plan.graph.statistics) {
            let means = &self.state.model.means[statistics.range.clone()];
            norm.sum_offset[..means.len()].copy_from_slice(means);
        }
        self.state.version += 1;
        let communicator = &mut *self.communicator;
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
            grouping,
            mode: Mode::Training { communicator, micro_batch, alone, new_weight },
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
        let (threads, leaves) = (self.processor.pool.threads(), Leaves::one(count));
        self.buffers.reserve(threads, Sizes::new(plan, &plan.inference, &leaves, threads))?;
        if folded.packed.is_empty() {
            folded.packed = packed_lens(layers).map(AlignedBuffer::new).collect();
            folded.biases = vec![Vec::new(); layers.len()];
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
            grouping: Grouping::new(&BatchPart::whole(count)),
            mode: Mode::Inference(folded),
        };
        pass.forward()?;
        logits.copy_from_slice(pass.logits());
        Ok(())
    }

    /// Forward and backward for the loss of `some` of the images, normalised with the statistics of all of them.
    fn forward_and_backward(
        &mut self,
        batch: &MicroBatch,
        images: &[f32],
        some: Range<usize>,
        new_weight: Option<f64>,
        last: bool,
    ) -> Result<Losses, EngineError> {
        let MicroBatch { labels, part, mean_weight, .. } = *batch;
        let (grouping, alone) = (Grouping::new(&part), part.is_alone().then(|| part.index().0));
        let size = part.micro_batch();
        let (mut pass, loss) = self.training_pass(images, grouping, size, alone, new_weight)?;
        let losses = match labels {
            [] => Losses::default(),
            labels => pass.loss(labels, loss, part.batch(), mean_weight, some),
        };
        pass.backward(last)?;
        Ok(losses)
    }

    /// The result of the update whose parts have come, when its gradients were summed over all processes.
    fn result(&mut self) -> Result<UpdateResult, EngineError> {
        let mut result = UpdateResult::default();
        let Some(pending) = self.pending.take() else {
            self.communicator.sum_gradients(self.state.gradients.of_batch_mut())?;
            self.communicator.sum(&mut [0.0; 2])?;
            return Ok(result);
        };
        let Pending { part, grouping, measure, divisor, losses, correct } = pending;
        let gradients = &mut self.state.gradients;
        if measure {
            gradients.set_first_half_apart(&self.processor, &grouping);
            let all = gradients.of_batch().len();
            gradients.add_groups(&self.processor, 0..all, &grouping);
            self.communicator.sum_halves(gradients.halves())?;
            let [first, second, whole] = gradients.add_halves(&self.processor);
            let batch = part.batch() as f64;
            // Of the gradient of the batch's loss to that of the half's.
            let of =
                |images: usize, square: f64| (images, square * (batch / images as f64).powi(2));
            let [a, b] = part.halves();
            if a > 0 && b > 0 {
                let norms = result.norms.insert(GradientNorms::default());
                (norms.halves, norms.whole) = ([of(a, first), of(b, second)], whole);
            }
        } else {
            self.communicator.sum_gradients(gradients.of_batch_mut())?;
        }
        let mut sums = [grouping.total(&losses), correct as f64];
        self.communicator.sum(&mut sums)?;
        if part.is_alone() {
            self.blend_groups(&part)?;
        }
        (result.loss, result.correct) = (sums[0] / divisor, sums[1] as usize);
        result.images = part.batch();
        Ok(result)
    }

    /// Takes the statistics of all micro-batches into the running ones, in their order, where each process has those of its
    /// own.
    fn blend_groups(&mut self, part: &BatchPart) -> Result<(), EngineError> {
        let State { model, moments_of_groups: moments, batches_tracked, .. } = &mut self.state;
        self.communicator.sum(moments)?;
        let graph = &self.plans[self.current].graph;
        let channels = 2 * model.means.len();
        for group in moments.chunks_exact(channels.max(1)) {
            for node in &graph.nodes {
                let (Some(index), Operation::BatchNorm { new_weight, .. }) =
                    (node.statistics, node.operation)
                else {
                    continue;
                };
                batches_tracked[index] += 1;
                let blend = |old: &mut f32, new: f64| {
                    *old = ((1.0 - new_weight) * f64::from(*old) + new_weight * new) as f32;
                };
                for at in graph.statistics[index].range.clone() {
                    blend(&mut model.means[at], group[2 * at]);
                    blend(&mut model.variances[at], group[2 * at + 1]);
                }
            }
        }
        debug_assert_eq!(moments.len(), part.index().1 * channels);
        Ok(())
    }

    /// Applies the gradients, and clears them.
    fn apply(&mut self, rules: &[Rule]) {
        self.state.version += 1;
        let parameters_of = &self.plans[self.current].graph.parameters;
        let State { model, gradients, momentum, .. } = &mut self.state;
        let (parameters, gradients) = (model.parameters.as_mut_slice(), gradients.of_batch_mut());
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
    fn views<'a>(&'a self, flat: &'a [f32]) -> impl Iterator<Item = Tensor<'a>> + use<'a> {
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
            Section::Gradients => match self.state.gradients.added() {
                Some(added) => self.views(&added).map(owned).collect(),
                None => self.views(self.state.gradients.of_batch()).collect(),
            },
            Section::Momentum => self.views(self.state.momentum.as_slice()).collect(),
        }
    }
}

/// A tensor with numbers of its own.
fn owned<'a>(Tensor { name, shape, data }: Tensor) -> Tensor<'a> {
    let data = match data {
        TensorData::F32(values) => TensorData::F32(values.into_owned().into()),
        TensorData::I64(count) => TensorData::I64(count),
    };
    Tensor { name: name.into_owned().into(), shape, data }
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
        let MicroBatch { labels, part, mean_weight, measure, .. } = *batch;
        assert_eq!(labels.len(), part.images().len(), "not the labels of the part");
        let Images::Prepared(images) = batch.images else {
            return Err(EngineError::Unsupported(
                "the CPU engine takes images that are prepared ahead".into(),
            ));
        };
        let grouping = Grouping::new(&part);
        self.state.gradients.reserve(grouping.count());
        if part.is_alone() && self.pending.is_none() {
            let numbers = 2 * part.index().1 * self.graph().statistic_count();
            self.state.moments_of_groups.clear();
            self.state.moments_of_groups.resize(numbers, 0.0);
        }
        let mut some = 0..labels.len();
        if measure && part.is_only() {
            // Backward overwrites what forward computed, so forward is computed twice; the running statistics take in the
            // batch once.
            let first = part.first_half();
            some.start = first.end;
            self.forward_and_backward(batch, images, first, Some(0.0), false)?;
        }
        if measure && part.is_in_second_half() {
            self.state.gradients.set_first_half_apart(&self.processor, &grouping);
        }
        // Gradients of halves are summed by the update.
        let last = part.is_last() && !measure;
        let losses = self.forward_and_backward(batch, images, some, None, last)?;
        let weights = self.loss.class_weights.as_deref();
        let weights = weights.map(|weights| ClassWeights { weights, mean: mean_weight });
        let divisor = loss::divisor(part.batch(), weights);
        let pending = self.pending.get_or_insert_with(|| Pending {
            part,
            grouping: grouping.clone(),
            measure,
            divisor,
            losses: [0.0; MOST_GROUPS],
            correct: 0,
        });
        assert_eq!(pending.measure, measure, "all of a batch is measured, or nothing");
        (pending.part, pending.grouping) = (part, grouping);
        for (sum, loss) in pending.losses.iter_mut().zip(losses.groups) {
            *sum += loss;
        }
        pending.correct += losses.correct;
        Ok(())
    }

    fn update(&mut self, rules: &[Rule]) -> Result<(), EngineError> {
        if rules.iter().any(|rule| matches!(rule, Rule::Muon(_))) {
            // There need not have been a batch, as where the gradients were imported.
            let plan = &self.plans[self.current];
            let threads = self.processor.pool.threads();
            let sizes = Sizes::new(plan, &plan.training, &Leaves::one(1), threads);
            self.buffers.reserve(threads, sizes)?;
        }
        let result = self.result()?;
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

    fn blend_statistics(
        &mut self,
        images: &[f32],
        part: &BatchPart,
        weight: f64,
    ) -> Result<(), EngineError> {
        let grouping = Grouping::new(part);
        self.training_pass(images, grouping, part.micro_batch(), None, Some(weight))?;
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
                for (parameter, data) in graph.parameters.iter().zip(given) {
                    let (TensorData::F32(values), range) = (data, parameter.range.clone()) else {
                        continue;
                    };
                    match section {
                        Section::Gradients => gradients.replace(range, values),
                        _ => momentum.as_mut_slice()[range].copy_from_slice(values),
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
