//! The engine on this machine's processor.

mod pass;

use std::collections::HashMap;

use crescendo_kernels::norm::Moments;
use crescendo_kernels::{Pool, Workspace, WorkspaceSize, optimizer};

use crate::engine::{Batch, Communicator, Engine, Rule, Section, Tensor, Values};
use crate::plan::{Placement, Plan, Role, Source, StateTensor, Step};
use crate::{Decay, Error, Sgd};

use pass::Pass;

/// Computes on the processor, on a pool of threads of its own.
pub struct CpuEngine {
    plan: Plan,
    pool: Pool,
    state: State,
    training: Buffers,
    inference: Buffers,
}

/// What a network has learned, and what it learns with.
struct State {
    /// All parameters, their gradients and velocities: see [`crate::Parameter::range`].
    parameters: Vec<f32>,
    gradients: Vec<f32>,
    velocity: Vec<f32>,
    /// Running statistics: see [`crate::Statistics::range`].
    means: Vec<f32>,
    variances: Vec<f32>,
    batches_tracked: Vec<i64>,
    /// What the last batch said of each channel of each BatchNorm, for backward.
    moments: Vec<Moments>,
    /// How many numbers a channel, of all processes, each BatchNorm took those over.
    counts: Vec<f64>,
}

impl State {
    /// A step's weight and bias, and the gradients of both. In the flat buffers the bias follows
    /// its weight.
    fn parameters(&mut self, plan: &Plan, step: &Step) -> Parameters<'_> {
        let [weight, bias] = step.parameters.expect("only steps with parameters are asked");
        let (weight, bias) = (&plan.parameters[weight].range, &plan.parameters[bias].range);
        let both = weight.start..bias.end;
        let (weight, bias) = self.parameters[both.clone()].split_at(weight.len());
        let (dweight, dbias) = self.gradients[both].split_at_mut(weight.len());
        Parameters { weight, bias, dweight, dbias }
    }
}

/// See [`State::parameters`].
struct Parameters<'a> {
    weight: &'a [f32],
    bias: &'a [f32],
    dweight: &'a mut [f32],
    dbias: &'a mut [f32],
}

/// The tensors between operations, in the buffers that the plan decided on.
struct Buffers {
    /// One for each buffer of the placement; it is taken out while an operation writes it.
    data: Vec<Vec<f32>>,
    workspace: Workspace,
    /// Images that there is room for.
    capacity: usize,
}

impl Buffers {
    fn none(pool: &Pool) -> Self {
        Buffers { data: Vec::new(), workspace: Workspace::new(pool, []), capacity: 0 }
    }

    /// Makes room for `images`; what was there is given up first, so that both are never held.
    fn reserve(&mut self, plan: &Plan, placement: &Placement, pool: &Pool, images: usize) {
        if images <= self.capacity {
            return;
        }
        *self = Buffers::none(pool);
        self.data = placement.memory.buffers.iter().map(|size| vec![0.0; size * images]).collect();
        self.workspace = Workspace::new(pool, [workspace(plan, images, placement.trains())]);
        self.capacity = images;
    }
}

/// How many images inference takes at once, at most: enough for the kernels to be efficient.
const INFERENCE_IMAGES: usize = 100;

/// The working memory that serves all convolutions of a plan.
fn workspace(plan: &Plan, images: usize, backward: bool) -> WorkspaceSize {
    let sizes = plan.steps.iter().filter_map(|step| {
        let layer = step.convolution()?;
        Some(layer.workspace(step.input_map(images), backward))
    });
    sizes.fold(WorkspaceSize::default(), WorkspaceSize::max)
}

impl CpuEngine {
    /// An engine with `threads` threads. Parameters are zeros until they are
    /// imported: see [`Plan::initial`].
    pub fn new(plan: Plan, threads: usize) -> Self {
        let pool = Pool::new(threads);
        let (parameters, channels) = (plan.parameter_count(), plan.statistic_count());
        CpuEngine {
            state: State {
                parameters: vec![0.0; parameters],
                gradients: vec![0.0; parameters],
                velocity: vec![0.0; parameters],
                means: vec![0.0; channels],
                variances: vec![1.0; channels],
                batches_tracked: vec![0; plan.statistics.len()],
                moments: vec![Moments::default(); channels],
                counts: vec![0.0; plan.statistics.len()],
            },
            training: Buffers::none(&pool),
            inference: Buffers::none(&pool),
            plan,
            pool,
        }
    }

    /// Bytes that an engine for this plan holds when it trains with batches of `batch_size` and
    /// evaluates.
    pub fn memory(plan: &Plan, batch_size: usize, threads: usize) -> usize {
        let state = 4 * (3 * plan.parameter_count() + 2 * plan.statistic_count());
        let pass = |placement: &Placement, images| {
            let workspace = workspace(plan, images, placement.trains());
            4 * placement.memory.len() * images + workspace.bytes(threads)
        };
        state + pass(&plan.training, batch_size) + pass(&plan.inference, INFERENCE_IMAGES)
    }

    fn training_pass(&mut self, images: usize) -> Pass<'_> {
        self.training.reserve(&self.plan, &self.plan.training, &self.pool, images);
        Pass {
            plan: &self.plan,
            placement: &self.plan.training,
            pool: &self.pool,
            state: &mut self.state,
            buffers: &mut self.training,
            images,
        }
    }

    fn inference_pass(&mut self, images: usize) -> Pass<'_> {
        self.inference.reserve(&self.plan, &self.plan.inference, &self.pool, images);
        Pass {
            plan: &self.plan,
            placement: &self.plan.inference,
            pool: &self.pool,
            state: &mut self.state,
            buffers: &mut self.inference,
            images,
        }
    }

    /// One tensor of the state.
    fn view(&self, tensor: StateTensor) -> Tensor<'_> {
        let State { parameters, means, variances, batches_tracked, .. } = &self.state;
        let channels = |index: usize| self.plan.statistics[index].range.clone();
        let values = match tensor.source {
            Source::Parameter(index) => &parameters[self.plan.parameters[index].range.clone()],
            Source::RunningMean(index) => &means[channels(index)],
            Source::RunningVariance(index) => &variances[channels(index)],
            Source::BatchesTracked(index) => {
                let values = Values::I64(batches_tracked[index]);
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

    fn backward(&mut self, batch: Batch, weight: f64, communicator: &dyn Communicator) -> f64 {
        let count = batch.labels.len();
        assert_eq!(batch.images.len(), count * self.plan.input.len(), "one label an image");
        let mut pass = self.training_pass(count);
        pass.forward(batch.images, Some(communicator));
        pass.backward(batch.labels, weight, communicator)
    }

    fn reduce(&mut self, communicator: &dyn Communicator) {
        communicator.sum_f32(&mut self.state.gradients);
    }

    fn update(&mut self, rule: &Rule) {
        let State { parameters, gradients, velocity, .. } = &mut self.state;
        let Rule::Sgd { sgd, decay } = *rule;
        if decay == Decay::All {
            return optimizer::sgd(&self.pool, sgd, parameters, gradients, velocity);
        }
        for parameter in &self.plan.parameters {
            let decays = matches!(parameter.role, Role::Weight { .. });
            let weight_decay = if decays { sgd.weight_decay } else { 0.0 };
            let range = || parameter.range.clone();
            optimizer::sgd(
                &self.pool,
                Sgd { weight_decay, ..sgd },
                &mut parameters[range()],
                &mut gradients[range()],
                &mut velocity[range()],
            );
        }
    }

    fn logits(&mut self, images: &[f32]) -> Vec<f32> {
        let image = self.plan.input.len();
        let mut logits = Vec::with_capacity(images.len() / image * self.plan.classes());
        for images in images.chunks(image * INFERENCE_IMAGES) {
            let mut pass = self.inference_pass(images.len() / image);
            pass.forward(images, None);
            logits.extend_from_slice(pass.logits());
        }
        logits
    }

    fn export(&self, section: Section) -> Vec<Tensor<'_>> {
        match section {
            Section::Model => {
                self.plan.state().into_iter().map(|tensor| self.view(tensor)).collect()
            }
            Section::Gradients => self.views(&self.state.gradients).collect(),
            Section::Momentum => self.views(&self.state.velocity).collect(),
        }
    }

    fn import(&mut self, section: Section, tensors: &[Tensor]) -> Result<(), Error> {
        crate::engine::check(&self.export(section), tensors)?;
        let named: HashMap<&str, &Values> =
            tensors.iter().map(|tensor| (tensor.name.as_ref(), &tensor.values)).collect();
        let fill = |flat: &mut [f32], name: &str| {
            if let Some(Values::F32(values)) = named.get(name) {
                flat.copy_from_slice(values);
            }
        };
        let State { parameters, gradients, velocity, means, variances, batches_tracked, .. } =
            &mut self.state;
        if section != Section::Model {
            let flat = if section == Section::Gradients { gradients } else { velocity };
            for parameter in &self.plan.parameters {
                fill(&mut flat[parameter.range.clone()], &parameter.name);
            }
            return Ok(());
        }
        let channels = |index: usize| self.plan.statistics[index].range.clone();
        for StateTensor { name, source, .. } in self.plan.state() {
            match source {
                Source::Parameter(index) => {
                    fill(&mut parameters[self.plan.parameters[index].range.clone()], &name);
                }
                Source::RunningMean(index) => fill(&mut means[channels(index)], &name),
                Source::RunningVariance(index) => fill(&mut variances[channels(index)], &name),
                Source::BatchesTracked(index) => {
                    if let Some(Values::I64(count)) = named.get(name.as_str()) {
                        batches_tracked[index] = *count;
                    }
                }
            }
        }
        Ok(())
    }
}
