//! A pass: the launches that compute a batch, forward and backward. They are the same for every batch of a size; what
//! differs lies in the device's memory.

mod backward;
mod forward;
pub(crate) mod muon;
pub(crate) mod update;
mod view;

use std::ops::Range;

use crescendo_network::Graph;
use crescendo_plan::{MemoryPlan, RequiredGradients};

use crate::driver::Launch;
use crate::plan::{ExecutionPlan, Precision};
use crate::state::State;
use crate::window::THREADS;
use crate::workspace::Workspace;

pub(crate) use update::{RuleGroup, rule_groups};

/// What an engine does, in order.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Action {
    /// Runs a kernel, in a step of the plan and a direction.
    Launch { launch: Launch, step: Option<usize>, backward: bool },
    /// Does this on the host, in a run with several processes.
    Host(HostAction),
}

impl From<Launch> for Action {
    /// Outside of all steps.
    fn from(launch: Launch) -> Action {
        Action::Launch { launch, step: None, backward: false }
    }
}

/// What the host does between launches.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum HostAction {
    /// The communicator sums a BatchNorm's totals of forward over all processes.
    SumStatistics(usize),
    /// The same of backward.
    SumGradients(usize),
    /// The communicator is told that the gradients of this range are final.
    Final(Range<usize>),
}

/// What a pass is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Purpose {
    /// Gradients, loss and counts; `last` of its batch.
    Training { last: bool },
    /// As training, but loss and counts are not added to the result, because the same images come again.
    FirstHalf,
    /// Forward alone, with the batch's statistics.
    Statistics,
    /// Logits, with the running statistics.
    Inference,
}

/// Makes the launches of a pass.
pub(crate) struct Pass<'a> {
    plan: &'a ExecutionPlan,
    memory: &'a MemoryPlan,
    state: &'a State,
    space: &'a Workspace,
    required: &'a [RequiredGradients],
    requires_grad: &'a [bool],
    label_smoothing: f64,
    count: usize,
    purpose: Purpose,
    /// Whether gradients go over several processes, and whether BatchNorm's sums do.
    processes: bool,
    sums_norms: bool,
    actions: Vec<Action>,
    /// The step and the direction of the launches that come.
    step: Option<usize>,
    backward: bool,
    /// Which parameters' gradients have been reported as final.
    reported: Vec<bool>,
}

/// What passes are made from.
#[derive(Clone, Copy)]
pub(crate) struct Context<'a> {
    pub plan: &'a ExecutionPlan,
    pub state: &'a State,
    pub space: &'a Workspace,
    pub required: &'a [RequiredGradients],
    pub requires_grad: &'a [bool],
    pub label_smoothing: f64,
    pub processes: bool,
    /// Whether statistics are those of this process's images.
    pub alone: bool,
}

impl<'a> Pass<'a> {
    /// The actions of a pass over `count` images, which lie in the workspace as maps.
    pub fn actions(context: Context<'a>, count: usize, purpose: Purpose) -> Vec<Action> {
        let Context { plan, state, space, required, requires_grad, label_smoothing, .. } = context;
        let trains = matches!(purpose, Purpose::Training { .. } | Purpose::FirstHalf);
        let inference = purpose == Purpose::Inference;
        let processes = context.processes && !inference;
        let mut pass = Pass {
            plan,
            memory: if inference { &plan.inference } else { &plan.training },
            state,
            space,
            required,
            requires_grad,
            label_smoothing,
            count,
            purpose,
            processes,
            sums_norms: processes && !context.alone,
            actions: Vec::new(),
            step: None,
            backward: false,
            reported: vec![
                purpose != Purpose::Training { last: true };
                plan.graph.parameters.len()
            ],
        };
        pass.forward();
        if trains {
            pass.loss();
            pass.backward();
        }
        pass.actions
    }

    fn trains(&self) -> bool {
        self.purpose != Purpose::Inference
    }

    fn graph(&self) -> &'a Graph {
        &self.plan.graph
    }

    fn launch<P: bytemuck::Pod>(
        &mut self,
        kernel: &'static str,
        grid: [usize; 3],
        shared: usize,
        params: &P,
    ) {
        self.push(launch(kernel, grid, shared, params));
    }

    fn push(&mut self, launch: Launch) {
        self.actions.push(Action::Launch { launch, step: self.step, backward: self.backward });
    }

    /// Launches a kernel of BatchNorm with the parameters of its phases, between which `sum` adds the totals of all
    /// processes.
    fn norm_launches<P: bytemuck::Pod>(
        &mut self,
        kernel: &'static str,
        channels: usize,
        sum: HostAction,
        params: impl Fn(i64) -> P,
    ) {
        let launch = |pass: &mut Self, phase| {
            pass.launch(kernel, [channels, 1, 1], SUMS_BYTES, &params(phase))
        };
        if self.sums_norms {
            launch(self, SUM);
            self.actions.push(Action::Host(sum));
            launch(self, FINISH);
        } else {
            launch(self, BOTH);
        }
    }

    /// The kernel of this precision.
    fn kernel(&self, f32: &'static str, bf16: &'static str) -> &'static str {
        match self.plan.precision {
            Precision::F32 => f32,
            Precision::Bf16 => bf16,
        }
    }
}

/// Phases of the kernels of BatchNorm, as `norm.cu` has them.
const BOTH: i64 = 0;
const SUM: i64 = 1;
const FINISH: i64 = 2;

/// A launch of blocks of [`THREADS`] threads.
pub(crate) fn launch<P: bytemuck::Pod>(
    kernel: &'static str,
    grid: [usize; 3],
    shared: usize,
    params: &P,
) -> Launch {
    Launch {
        kernel,
        grid: grid.map(|blocks| blocks as u32),
        threads: THREADS,
        shared: shared as u32,
        params: bytemuck::bytes_of(params).to_vec(),
    }
}

/// Blocks for a kernel whose threads have a number each, at most so many that each has a few.
pub(crate) fn blocks(numbers: usize) -> usize {
    numbers.div_ceil(THREADS as usize).clamp(1, 1024)
}

/// Shared memory for sums of a block in f64, two for each thread.
pub(crate) const SUMS_BYTES: usize = 2 * 8 * THREADS as usize;
