//! What the engine keeps from one batch to the next.

use std::ops::Range;

use crescendo_kernels::norm::BatchMoments;
use crescendo_kernels::{AlignedBuffer, LANES};
use crescendo_network::{Graph, GraphNode, StateKind};
use crescendo_plan::RequiredGradients;

use crate::gradient_sums::GradientSums;
use crate::plan::ExecutionPlan;

/// The numbers of a model.
pub(crate) struct Model {
    /// See [`crescendo_network::Parameter::range`].
    pub parameters: AlignedBuffer,
    /// Running statistics: see [`crescendo_network::Statistics::range`].
    pub means: Vec<f32>,
    pub variances: Vec<f32>,
}

impl Model {
    pub fn new(graph: &Graph) -> Model {
        let channels = graph.statistic_count();
        Model {
            parameters: AlignedBuffer::new(graph.parameter_count()),
            means: vec![0.0; channels],
            variances: vec![1.0; channels],
        }
    }

    /// All its numbers.
    pub fn buffers(&mut self) -> [&mut [f32]; 3] {
        [self.parameters.as_mut_slice(), &mut self.means, &mut self.variances]
    }

    /// The numbers of one tensor of the state; `None` for a count.
    pub fn tensor(&self, graph: &Graph, kind: StateKind) -> Option<&[f32]> {
        let (buffer, range) = location(graph, kind)?;
        Some(&[self.parameters.as_slice(), &self.means, &self.variances][buffer][range])
    }

    /// As [`tensor`](Self::tensor), mutable.
    pub fn tensor_mut(&mut self, graph: &Graph, kind: StateKind) -> Option<&mut [f32]> {
        let (buffer, range) = location(graph, kind)?;
        let buffers: [&mut [f32]; 3] = self.buffers();
        buffers.into_iter().nth(buffer).map(|numbers| &mut numbers[range])
    }

    /// The weight and the bias of an operation; the bias is empty if there is none.
    pub fn parameters(&self, graph: &Graph, node: usize) -> (&[f32], &[f32]) {
        let weight = graph.nodes[node].weight.expect("it has a weight");
        let numbers = &self.parameters.as_slice()[graph.parameter_range(node)];
        numbers.split_at(graph.parameters[weight].range.len())
    }
}

/// In which of [`Model::buffers`] a tensor of the state lies, and where.
fn location(graph: &Graph, kind: StateKind) -> Option<(usize, Range<usize>)> {
    match kind {
        StateKind::Parameter(index) => Some((0, graph.parameters[index].range.clone())),
        StateKind::RunningMean(index) => Some((1, graph.statistics[index].range.clone())),
        StateKind::RunningVariance(index) => Some((2, graph.statistics[index].range.clone())),
        StateKind::BatchesTracked(_) => None,
    }
}

/// The model, the optimizer's state, and what passes leave behind.
pub(crate) struct State {
    pub model: Model,
    /// The average of the model, once there is one.
    pub average: Option<Model>,
    pub gradients: GradientSums,
    /// The momentum buffers, laid out as the parameters.
    pub momentum: AlignedBuffer,
    pub batches_tracked: Vec<i64>,
    /// Mean and unbiased variance of each BatchNorm's channels in each micro-batch of an update, `[micro-batches, channels,
    /// 2]`, if micro-batches are computed by one process each. Those of other processes are zeros.
    pub moments_of_groups: Vec<f64>,
    pub norms: Vec<NormState>,
    /// Changes with everything that inference depends on.
    pub version: u64,
    /// Which of the graph's parameters are trained, and what each step's backward computes.
    pub requires_grad: Vec<bool>,
    pub required: Vec<RequiredGradients>,
    /// Which parameters' gradients have been reported as final in this backward pass.
    pub reported: Vec<bool>,
    /// Seconds spent in each step, forward and backward, since they were last taken.
    pub seconds: Vec<[f64; 2]>,
}

/// What the last batch gave for each channel of a BatchNorm. The `f32`s are padded with zeros to whole
/// blocks of channels, as kernels take them.
pub(crate) struct NormState {
    /// The operation, as an index of [`Graph::nodes`].
    pub node: usize,
    pub moments: Vec<BatchMoments>,
    /// Numbers in each channel, in all processes.
    pub count: f64,
    pub mean: Vec<f32>,
    pub scale: Vec<f32>,
    pub shift: Vec<f32>,
    /// See [`crescendo_kernels::prologue::NormGradient`].
    pub abc: [Vec<f32>; 3],
    /// The running mean before the batch. Sums are taken of differences to it, for accuracy.
    pub sum_offset: Vec<f32>,
}

impl State {
    pub fn new(plan: &ExecutionPlan) -> State {
        let graph = &plan.graph;
        let parameters = graph.parameter_count();
        let norm = |(node, layer): (usize, &GraphNode)| {
            let range = &graph.statistics[layer.statistics?].range;
            let zeros = vec![0.0; range.len().next_multiple_of(LANES)];
            Some(NormState {
                node,
                moments: vec![BatchMoments::default(); range.len()],
                count: 0.0,
                mean: zeros.clone(),
                scale: zeros.clone(),
                shift: zeros.clone(),
                abc: [zeros.clone(), zeros.clone(), zeros.clone()],
                sum_offset: zeros,
            })
        };
        let requires_grad: Vec<bool> = graph.parameters.iter().map(|p| p.requires_grad).collect();
        State {
            model: Model::new(graph),
            average: None,
            gradients: GradientSums::new(parameters),
            momentum: AlignedBuffer::new(parameters),
            batches_tracked: vec![0; graph.statistics.len()],
            moments_of_groups: Vec::new(),
            norms: graph.nodes.iter().enumerate().filter_map(norm).collect(),
            version: 0,
            required: plan.required_gradients(&requires_grad),
            reported: vec![false; requires_grad.len()],
            requires_grad,
            seconds: vec![[0.0; 2]; plan.fused.steps.len()],
        }
    }
}
