//! The engine on a GPU.

mod processes;
mod uploads;

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use crescendo_network::{
    BatchPart, Communicator, DeviceData, Engine, EngineError, GradientNorms, Graph, Loss,
    MicroBatch, Peaks, Rule, Section, Snapshot, StepTime, Tensor, TensorData, UpdateResult,
    UpdateWork,
};
use crescendo_plan::RequiredGradients;

use crate::data::ResidentData;
use crate::driver::{Buffer, Download, Driver, Launch};
use crate::params::{Batch, ResultHead};
use crate::pass::{Action, Context, Pass, Purpose, RuleGroup, rule_groups, update};
use crate::peak;
use crate::plan::ExecutionPlan;
use crate::sequence::{Sequence, Sequences};
use crate::state::State;
use crate::work;
use crate::workspace::{Sizes, Workspace};

/// Images that inference computes at once, at most.
const INFERENCE_IMAGES: usize = 512;

/// Updates whose results may be waited for; then the oldest is read first.
const MOST_RESULTS: usize = 256;

/// One pass of so many is timed.
const TIMED_PASSES: u64 = 64;

/// Computes on a GPU. Calls queue launches and return.
pub(crate) struct CudaEngine {
    driver: Arc<dyn Driver>,
    /// One for each image size so far.
    plans: Vec<ExecutionPlan>,
    /// For each plan the largest number of images for which there is room, in inference and in training.
    reserved: Vec<[usize; 2]>,
    /// The index of the plan in use.
    current: usize,
    requires_grad: Vec<bool>,
    required: Vec<RequiredGradients>,
    loss: Loss,
    /// Of a run with several processes.
    communicator: Option<Box<dyn Communicator>>,
    /// All gradients, for the communicator.
    host_gradients: Vec<f32>,
    state: State,
    /// Whether the packed weights are the model's.
    is_packed: bool,
    data: Option<ResidentData>,
    space: Workspace,
    sequences: Sequences<Key>,
    /// A pass whose images have come. An update that follows at once runs with it as one graph.
    queued: Option<PassKey>,
    /// What the current update has so far.
    pending: Pending,
    /// Updates that are not read: with what the host knows of them, and their downloads.
    results: VecDeque<(Pending, Box<dyn Download>)>,
    read: VecDeque<UpdateResult>,
    /// Seconds in each step, forward and backward, since they were last taken.
    seconds: Vec<[f64; 2]>,
    /// Passes since step times were last taken, and how many of them were timed.
    passes: u64,
    timed: u64,
}

/// What is run again and again.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Key {
    Pass(PassKey),
    /// With the pass before it, if nothing comes between them.
    Update(Option<PassKey>, Vec<RuleGroup>),
    /// Exchanges the gradients of the batch's halves.
    ExchangeHalves,
    /// Measures and adds them.
    AddHalves,
    ClearResult,
    Blend,
    Exchange,
}

/// A pass, and what is done before it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct PassKey {
    /// By its index.
    plan: usize,
    count: usize,
    purpose: Purpose,
    /// What the images are prepared from; they may lie there from the pass before.
    source: Option<Source>,
    /// Whether the weights have changed since they were packed.
    pack: bool,
    /// Whether the update begins with it, and its result with zeros.
    first: bool,
    /// Whether its statistics are those of this process's images.
    alone: bool,
}

/// What was brought to the device to prepare images from.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Source {
    /// Images `[N, C, H, W]`, normalised.
    Images,
    /// Parameters of samples of the data set.
    Samples,
}

/// What the host knows of an update.
#[derive(Clone, Debug, Default)]
struct Pending {
    /// Whether a part has come.
    begun: bool,
    /// Images of the batch, in all processes.
    images: usize,
    /// The images of the batch's halves, if they are measured.
    halves: Option<[usize; 2]>,
    /// Loss and counts in all processes, if there are several.
    summed: Option<[f64; 2]>,
    /// Of micro-batches that each are one process's, if there are several.
    alone: Option<Alone>,
}

/// The running statistics before the first micro-batch of an update, and which of so many are this process's.
#[derive(Clone, Debug)]
struct Alone {
    statistics: Vec<f32>,
    own: Range<usize>,
    all: usize,
}

impl CudaEngine {
    pub fn new(driver: Arc<dyn Driver>, plan: ExecutionPlan) -> Result<Self, EngineError> {
        let graph = &plan.graph;
        let requires_grad: Vec<bool> = graph.parameters.iter().map(|p| p.requires_grad).collect();
        Ok(CudaEngine {
            state: State::new(&driver, &plan)?,
            is_packed: false,
            data: None,
            space: Workspace::new(&driver)?,
            required: RequiredGradients::new(graph, &plan.fused, &requires_grad),
            requires_grad,
            loss: Loss::default(),
            communicator: None,
            host_gradients: Vec::new(),
            sequences: Sequences::new(),
            queued: None,
            pending: Pending::default(),
            results: VecDeque::new(),
            read: VecDeque::new(),
            seconds: vec![[0.0; 2]; plan.fused.steps.len()],
            passes: 0,
            timed: 0,
            plans: vec![plan],
            reserved: vec![[0; 2]],
            current: 0,
            driver,
        })
    }

    /// Bytes that an engine takes that trains with micro-batches of so many images and evaluates.
    pub fn memory(plan: &ExecutionPlan, micro_batch: usize) -> usize {
        let training = Sizes::new(plan, &plan.training, micro_batch);
        let inference = Sizes::new(plan, &plan.inference, INFERENCE_IMAGES);
        State::size(plan) + training.max(inference).total()
    }

    fn plan(&self) -> &ExecutionPlan {
        &self.plans[self.current]
    }

    /// Makes room for a pass. Sizes take long to work out, and grow with the number of images.
    fn reserve(&mut self, images: usize, trains: bool) -> Result<(), EngineError> {
        let most = &mut self.reserved[self.current][usize::from(trains)];
        if images <= *most {
            return Ok(());
        }
        let plan = &self.plans[self.current];
        let memory = if trains { &plan.training } else { &plan.inference };
        let sizes = Sizes::new(plan, memory, images);
        if !self.space.has(sizes) {
            // They name addresses that become invalid.
            self.sequences.clear();
            self.space.reserve(&self.driver, sizes)?;
        }
        *most = images;
        Ok(())
    }

    /// Runs launches, which are made the first time.
    fn run(
        &mut self,
        key: Key,
        launches: impl FnOnce(&Self) -> Vec<Launch>,
    ) -> Result<(), EngineError> {
        let mut sequence = match self.sequences.take(&key) {
            Some(sequence) => sequence,
            None => {
                let launches = launches(self).into_iter().map(Action::from);
                Sequence::new(&*self.driver, launches.collect())?
            }
        };
        sequence.run(None, |_| Ok(()))?;
        self.sequences.keep(key, sequence);
        Ok(())
    }

    /// A pass over images that have come; the `first` of its update or not.
    fn pass(
        &mut self,
        count: usize,
        purpose: Purpose,
        source: Option<Source>,
        first: bool,
    ) -> PassKey {
        PassKey {
            plan: self.current,
            count,
            purpose,
            source,
            pack: !std::mem::replace(&mut self.is_packed, true),
            first,
            alone: false,
        }
    }

    /// Runs the pass that is queued. If this fails it stays queued, and a later call fails as well.
    fn flush(&mut self) -> Result<(), EngineError> {
        if let Some(pass) = self.queued {
            self.run_pass(Key::Pass(pass), pass)?;
            self.queued = None;
        }
        Ok(())
    }

    /// Runs a pass, and the update that the key may have behind it.
    fn run_pass(&mut self, key: Key, pass: PassKey) -> Result<(), EngineError> {
        let known = self.sequences.take(&key);
        // The first run is slower than the others, and is timed only if nothing else was.
        let is_first = known.is_none() && self.timed > 0;
        let mut sequence = match known {
            Some(sequence) => sequence,
            None => Sequence::new(&*self.driver, self.actions(&key, pass))?,
        };
        // Some passes are timed, launch by launch: too few to slow training down.
        let trains = pass.purpose != Purpose::Inference;
        let timed = trains && !is_first && self.passes.is_multiple_of(TIMED_PASSES);
        self.passes += u64::from(trains);
        self.timed += u64::from(timed);
        let seconds = timed.then_some(&mut self.seconds);
        let (driver, state) = (&self.driver, &self.state);
        let (communicator, gradients) = (&mut self.communicator, &mut self.host_gradients);
        sequence.run(seconds, |host| {
            let communicator = communicator.as_mut().expect("a run with several processes");
            host.run(&**driver, state, gradients, &mut **communicator)
        })?;
        self.sequences.keep(key, sequence);
        Ok(())
    }

    /// What a pass does, and the update that the key may have behind it.
    fn actions(&self, key: &Key, pass: PassKey) -> Vec<Action> {
        let mut before = Vec::new();
        if pass.first {
            before.push(self.clear_result());
        }
        match pass.source {
            Some(Source::Images) => before.push(self.lay_out_images(pass.count)),
            Some(Source::Samples) => {
                let data = self.data.as_ref().expect("there is a data set");
                let (input, maps) = (self.graph().input, self.input_maps());
                before.push(data.prepare(self.space.uploaded(), pass.count, input, maps));
            }
            None => {}
        }
        if pass.pack {
            before.push(update::pack(&self.state));
        }
        let mut actions: Vec<Action> = before.into_iter().map(Action::from).collect();
        let context = Context {
            plan: &self.plans[pass.plan],
            state: &self.state,
            space: &self.space,
            required: &self.required,
            requires_grad: &self.requires_grad,
            label_smoothing: self.loss.label_smoothing,
            processes: self.communicator.is_some(),
            alone: pass.alone,
        };
        actions.extend(Pass::actions(context, pass.count, pass.purpose));
        if let Key::Update(_, groups) = key {
            let launches = update::update(self.graph(), &self.state, &self.space, groups);
            actions.extend(launches.into_iter().map(Action::from));
        }
        actions
    }

    /// Sets the update's result to zeros.
    fn clear_result(&self) -> Launch {
        update::clear(self.state.result.address, size_of::<ResultHead>() / 4)
    }

    /// Prepares forward and backward of the images in `some`, normalised with the statistics of all of them.
    fn training_pass(
        &mut self,
        batch: &MicroBatch,
        some: Range<usize>,
        statistics_weight: f64,
        purpose: Purpose,
        source: Option<Source>,
    ) -> Result<PassKey, EngineError> {
        let count = batch.labels.len();
        self.upload_batch(Batch {
            share: count as f64 / batch.part.batch() as f64,
            mean_weight: batch.mean_weight,
            statistics_weight,
            images: count as i64,
            first: some.start as i64,
            end: some.end as i64,
        })?;
        let first = !std::mem::replace(&mut self.pending.begun, true);
        let alone = batch.part.is_alone();
        Ok(PassKey { alone, ..self.pass(count, purpose, source, first) })
    }

    /// Reads the oldest result that has not been read.
    fn read_oldest(&mut self, wait: bool) -> Result<bool, EngineError> {
        let Some((_, download)) = self.results.front_mut() else { return Ok(false) };
        let Some(bytes) = download.bytes(wait)? else { return Ok(false) };
        let (pending, _) = self.results.pop_front().expect("there is a front");
        let (head, squares) = bytes.split_at(size_of::<ResultHead>());
        let head: ResultHead = bytemuck::pod_read_unaligned(head);
        let mut squares = squares.chunks_exact(8).map(bytemuck::pod_read_unaligned::<f64>);
        let mut result = UpdateResult::default();
        [result.loss, _] = pending.summed.unwrap_or([head.loss, 0.0]);
        result.correct = pending.summed.map_or(head.correct as usize, |sums| sums[1] as usize);
        result.images = pending.images;
        if let Some([first, second]) = pending.halves.filter(|halves| !halves.contains(&0)) {
            // From the gradient of the batch's loss to that of a half's.
            let mut of = |images: usize| {
                let factor = pending.images as f64 / images as f64;
                (images, factor * factor * squares.next().unwrap_or(f64::NAN))
            };
            let norms = result.norms.insert(GradientNorms::default());
            (norms.halves, norms.whole) = ([of(first), of(second)], head.whole);
        }
        self.read.push_back(result);
        Ok(true)
    }
}

impl Engine for CudaEngine {
    fn graph(&self) -> &Graph {
        &self.plan().graph
    }

    fn set_graph(&mut self, graph: &Graph) -> Result<(), EngineError> {
        if graph == self.graph() {
            return Ok(());
        }
        self.graph().check_same_network(graph)?;
        self.flush()?;
        self.current = match self.plans.iter().position(|plan| plan.graph == *graph) {
            Some(known) => known,
            None => {
                self.plans.push(ExecutionPlan::new(
                    graph,
                    self.plan().precision,
                    self.plan().chip,
                )?);
                self.reserved.push([0; 2]);
                self.plans.len() - 1
            }
        };
        let plan = &self.plans[self.current];
        self.required = RequiredGradients::new(graph, &plan.fused, &self.requires_grad);
        self.seconds = vec![[0.0; 2]; plan.fused.steps.len()];
        Ok(())
    }

    fn set_loss(&mut self, loss: &Loss) -> Result<(), EngineError> {
        loss.check(self.graph().classes())?;
        self.flush()?;
        let weights = loss.class_weights.as_deref().unwrap_or_default();
        self.state.class_weights = Buffer::new(&self.driver, 4 * weights.len())?;
        self.driver.upload(self.state.class_weights.address, bytemuck::cast_slice(weights))?;
        self.loss = loss.clone();
        self.sequences.clear();
        Ok(())
    }

    fn set_communicator(&mut self, communicator: Box<dyn Communicator>) {
        // If this fails, a later call will, too.
        let _ = self.flush();
        self.communicator = Some(communicator);
        self.host_gradients = vec![0.0; self.graph().parameter_count()];
        self.sequences.clear();
    }

    fn set_requires_grad(&mut self, requires_grad: &[bool]) {
        if requires_grad != self.requires_grad {
            // If this fails, a later call will, too.
            let _ = self.flush();
            let plan = &self.plans[self.current];
            self.required = RequiredGradients::new(&plan.graph, &plan.fused, requires_grad);
            self.requires_grad.copy_from_slice(requires_grad);
            self.sequences.clear();
            self.take_step_times();
        }
    }

    fn load_data(&mut self, data: &DeviceData) -> Result<bool, EngineError> {
        self.flush()?;
        // What is there is given back first.
        self.data = None;
        self.sequences.clear();
        self.data = ResidentData::new(&self.driver, data)?;
        Ok(self.data.is_some())
    }

    fn accumulate(&mut self, batch: &MicroBatch) -> Result<(), EngineError> {
        self.flush()?;
        let source = self.upload_micro_batch(batch)?;
        // Who sums gradients over processes wants to know when they are final; those of halves are summed at the end.
        let last = (batch.part.is_last() && !batch.measure) || self.communicator.is_none();
        let training = Purpose::Training { last };
        if batch.part.is_alone() && self.communicator.is_some() {
            self.note_alone(&batch.part)?;
        }
        if batch.measure {
            self.accumulate_halves(batch, training, source)?;
        } else {
            let all = 0..batch.labels.len();
            self.queued = Some(self.training_pass(batch, all, -1.0, training, source)?);
        }
        self.state.batches_tracked.iter_mut().for_each(|batches| *batches += 1);
        self.pending.images = batch.part.batch();
        Ok(())
    }

    fn update(&mut self, rules: &[Rule]) -> Result<(), EngineError> {
        assert_eq!(rules.len(), self.graph().parameters.len(), "one rule for each parameter");
        if self.communicator.is_some() || self.pending.halves.is_some() {
            self.flush()?;
        }
        // There need not have been a batch, as where the gradients were imported.
        self.reserve(1, true)?;
        self.sum_over_processes()?;
        let pending = std::mem::take(&mut self.pending);
        if !pending.begun {
            self.run(Key::ClearResult, |engine| vec![engine.clear_result()])?;
        }
        if pending.halves.is_some() {
            self.run(Key::AddHalves, |engine| {
                let second = engine.state.second_half.as_ref().expect("it is measured");
                update::add_halves(engine.graph(), &engine.state, second)
            })?;
        }
        let (groups, settings) = rule_groups(rules);
        self.driver.upload(self.state.rules.address, bytemuck::cast_slice(&settings))?;
        match self.queued.take() {
            Some(pass) => self.run_pass(Key::Update(Some(pass), groups), pass)?,
            None => self.run(Key::Update(None, groups.clone()), |engine| {
                update::update(engine.graph(), &engine.state, &engine.space, &groups)
            })?,
        }
        self.is_packed = false;
        let len = size_of::<ResultHead>() + 8 * 2;
        let download = self.driver.begin_download(self.state.result.address, len)?;
        self.results.push_back((pending, download));
        if self.results.len() > MOST_RESULTS {
            self.read_oldest(true)?;
        }
        Ok(())
    }

    fn next_result(&mut self, wait: bool) -> Result<Option<UpdateResult>, EngineError> {
        if self.read.is_empty() {
            self.read_oldest(wait)?;
        }
        Ok(self.read.pop_front())
    }

    fn update_average(&mut self, weight: f64) -> Result<(), EngineError> {
        self.flush()?;
        // The first average is the model.
        let weight = if self.state.average.is_some() { weight as f32 } else { 1.0 };
        self.state.make_average(&self.driver)?;
        self.driver.upload(self.state.average_weight.address, bytemuck::bytes_of(&weight))?;
        self.run(Key::Blend, |engine| {
            let average = engine.state.average.as_ref().expect("there is one").address;
            vec![update::blend(&engine.state, average)]
        })
    }

    fn swap_average(&mut self) -> Result<(), EngineError> {
        if self.state.average.is_none() {
            return Ok(());
        }
        self.flush()?;
        self.is_packed = false;
        self.run(Key::Exchange, |engine| {
            let average = engine.state.average.as_ref().expect("there is one").address;
            vec![update::exchange(&engine.state, average)]
        })
    }

    fn blend_statistics(
        &mut self,
        images: &[f32],
        part: &BatchPart,
        weight: f64,
    ) -> Result<(), EngineError> {
        let count = part.images().len();
        assert_eq!(images.len(), count * self.graph().input.len(), "not the images of the part");
        self.flush()?;
        self.reserve(count.max(1), true)?;
        let source = if count == 0 { None } else { self.upload_images(images)? };
        self.upload_batch(Batch {
            statistics_weight: weight,
            images: count as i64,
            ..Batch::default()
        })?;
        let pass = self.pass(count, Purpose::Statistics, source, false);
        self.run_pass(Key::Pass(pass), pass)
    }

    fn logits_into(&mut self, images: &[f32], logits: &mut [f32]) -> Result<(), EngineError> {
        let (image, classes) = (self.graph().input.len(), self.graph().classes());
        assert!(images.len().is_multiple_of(image), "not whole images");
        assert_eq!(logits.len(), images.len() / image * classes, "not one logit for each class");
        self.flush()?;
        let padded = classes.next_multiple_of(16);
        let parts = images.chunks(image * INFERENCE_IMAGES);
        for (images, logits) in parts.zip(logits.chunks_mut(classes * INFERENCE_IMAGES)) {
            let count = images.len() / image;
            self.reserve(count, false)?;
            let source = self.upload_images(images)?;
            let pass = self.pass(count, Purpose::Inference, source, false);
            self.run_pass(Key::Pass(pass), pass)?;
            let plan = self.plan();
            let offset = plan.inference.tensors[plan.fused.logits().0].unwrap_or(0) * count;
            let mut rows = vec![0.0f32; count * padded];
            let address = self.space.arena() + offset as u64;
            self.driver.download(address, bytemuck::cast_slice_mut(&mut rows))?;
            let rows = rows.chunks_exact(padded).zip(logits.chunks_exact_mut(classes));
            rows.for_each(|(row, logits)| logits.copy_from_slice(&row[..classes]));
        }
        Ok(())
    }

    fn export(&mut self, section: Section) -> Result<Vec<Tensor<'_>>, EngineError> {
        self.flush()?;
        let mut tensors = self.state.export(&*self.driver, self.graph(), section)?;
        let second = self.state.second_half.as_ref().filter(|_| self.pending.halves.is_some());
        if let (Section::Gradients, Some(second)) = (section, second) {
            let mut numbers = vec![0.0f32; self.graph().parameter_count()];
            let address = second.gradients.address;
            self.driver.download(address, bytemuck::cast_slice_mut(&mut numbers))?;
            for (tensor, parameter) in tensors.iter_mut().zip(&self.graph().parameters) {
                let TensorData::F32(sums) = &mut tensor.data else { continue };
                let sums = sums.to_mut().iter_mut().zip(&numbers[parameter.range.clone()]);
                sums.for_each(|(sum, second)| *sum += second);
            }
        }
        Ok(tensors)
    }

    fn import(&mut self, section: Section, tensors: &[Tensor]) -> Result<(), EngineError> {
        self.flush()?;
        self.is_packed &= section != Section::Model;
        let graph = &self.plans[self.current].graph;
        self.state.import(&self.driver, graph, section, tensors)
    }

    fn snapshot(&mut self) -> Result<Snapshot<'_>, EngineError> {
        self.flush()?;
        self.state.snapshot(&*self.driver, self.graph())
    }

    fn take_step_times(&mut self) -> Vec<StepTime> {
        let plan = &self.plans[self.current];
        let all = std::mem::take(&mut self.passes) as f64;
        let factor = all / std::mem::take(&mut self.timed).max(1) as f64;
        let steps = plan.fused.steps.iter().zip(&plan.gradients.steps);
        let times = steps.zip(&mut self.seconds).map(|((step, gradients), seconds)| {
            let mut time = StepTime::default();
            time.node = step.node;
            [time.forward, time.backward] = std::mem::take(seconds).map(|seconds| factor * seconds);
            time.input_gradient = gradients.delivery.is_some();
            time
        });
        times.collect()
    }

    fn work(&self, images: usize) -> Option<UpdateWork> {
        Some(work::of_update(self.plan(), &self.required, &self.requires_grad, images))
    }

    fn measure_peaks(&mut self) -> Result<Peaks, EngineError> {
        peak::measure(&*self.driver, self.plan().precision)
    }
}
