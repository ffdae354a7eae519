//! What the engine remembers from one batch to the next.

use std::ops::Range;

use crescendo_kernels::AlignedBuffer;
use crescendo_kernels::norm::BatchMoments;

use super::needs::Needs;
use crate::plan::{Plan, Source, Step};

/// The numbers of a model.
pub(super) struct Model {
    /// See [`crate::Parameter::range`].
    pub parameters: AlignedBuffer,
    /// Running statistics: see [`crate::Statistics::range`].
    pub means: Vec<f32>,
    pub variances: Vec<f32>,
}

impl Model {
    pub fn new(plan: &Plan) -> Model {
        let channels = plan.statistic_count();
        Model {
            parameters: AlignedBuffer::new(plan.parameter_count()),
            means: vec![0.0; channels],
            variances: vec![1.0; channels],
        }
    }

    /// All its numbers.
    pub fn parts(&mut self) -> [&mut [f32]; 3] {
        [self.parameters.as_mut_slice(), &mut self.means, &mut self.variances]
    }

    /// Those of one tensor of the state; a count is none of them.
    pub fn part(&self, plan: &Plan, source: Source) -> Option<&[f32]> {
        let (part, range) = place(plan, source)?;
        Some(&[self.parameters.as_slice(), &self.means, &self.variances][part][range])
    }

    /// The same, to be changed.
    pub fn part_mut(&mut self, plan: &Plan, source: Source) -> Option<&mut [f32]> {
        let (part, range) = place(plan, source)?;
        let parts: [&mut [f32]; 3] = self.parts();
        parts.into_iter().nth(part).map(|part| &mut part[range])
    }
}

/// In which of [`Model::parts`] a tensor of the state lies, and where.
fn place(plan: &Plan, source: Source) -> Option<(usize, Range<usize>)> {
    match source {
        Source::Parameter(index) => Some((0, plan.parameters[index].range.clone())),
        Source::RunningMean(index) => Some((1, plan.statistics[index].range.clone())),
        Source::RunningVariance(index) => Some((2, plan.statistics[index].range.clone())),
        Source::BatchesTracked(_) => None,
    }
}

/// What a network has learned, and what it learns with.
pub(super) struct State {
    pub model: Model,
    /// The average of models, once there is one.
    pub average: Option<Model>,
    /// All gradients and velocities, as parameters lie.
    pub gradients: AlignedBuffer,
    pub velocity: AlignedBuffer,
    /// The gradients when they were last measured; empty until then.
    pub measured: AlignedBuffer,
    /// Whether that was since the last update.
    pub was_measured: bool,
    pub batches_tracked: Vec<i64>,
    pub norms: Vec<NormState>,
    /// Another number after every change of what inference computes with.
    pub version: u64,
    /// Which of the plan's parameters are trained, and what follows for each fused step.
    pub trained: Vec<bool>,
    pub needs: Vec<Needs>,
    /// Seconds spent in each fused step, forward and backward, since they were last taken.
    pub seconds: Vec<[f64; 2]>,
}

/// What the last batch said of each channel of one BatchNorm. The `f32`s are filled up to whole
/// blocks of channels with zeros, as kernels want them.
pub(super) struct NormState {
    /// The BatchNorm, as an index of [`Plan::steps`].
    pub step: usize,
    pub moments: Vec<BatchMoments>,
    /// How many numbers a channel, of all processes, those are over.
    pub count: f64,
    pub mean: Vec<f32>,
    pub scale: Vec<f32>,
    pub shift: Vec<f32>,
    /// See [`crescendo_kernels::prologue::NormGradient`].
    pub abc: [Vec<f32>; 3],
    /// The running mean before the batch: what sums are taken around.
    pub shift_near_mean: Vec<f32>,
}

impl State {
    pub fn new(plan: &Plan) -> State {
        let parameters = plan.parameter_count();
        let norm = |(step, layer): (usize, &Step)| {
            let range = &plan.statistics[layer.statistics?].range;
            let zeros = vec![0.0; range.len().next_multiple_of(crescendo_kernels::LANES)];
            Some(NormState {
                step,
                moments: vec![BatchMoments::default(); range.len()],
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
            gradients: AlignedBuffer::new(parameters),
            velocity: AlignedBuffer::new(parameters),
            measured: AlignedBuffer::default(),
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
    pub fn range(&self, plan: &Plan, step: usize) -> Range<usize> {
        let weight = plan.steps[step].weight.expect("it has a weight");
        let last = plan.steps[step].bias.unwrap_or(weight);
        plan.parameters[weight].range.start..plan.parameters[last].range.end
    }

    /// The weight and the bias of a step of the network; no numbers where it has no bias.
    pub fn parameters(&self, plan: &Plan, step: usize) -> (&[f32], &[f32]) {
        let weight = plan.steps[step].weight.expect("it has a weight");
        let range = self.range(plan, step);
        self.model.parameters.as_slice()[range].split_at(plan.parameters[weight].range.len())
    }
}
