//! A pass: one batch through the steps of a plan, forward and backward.

mod backward;
mod forward;
mod statistics;
mod view;

use crescendo_kernels::{AlignedBuffer, Processor, Workspace};
use crescendo_network::Communicator;

use crate::algorithm::Layer;
use crate::buffers::Buffers;
use crate::gradient_sums::{GradientSums, Grouping};
use crate::memory_layout::MemoryLayout;
use crate::plan::ExecutionPlan;
use crate::state::{Model, State};
use crate::tuning::Tuning;
pub(crate) use backward::Losses;
use view::View;

/// What a pass computes with.
pub(crate) struct Pass<'a> {
    pub plan: &'a ExecutionPlan,
    /// The plan's for a batch, or for few images.
    pub layers: &'a [Option<Layer>],
    pub memory: &'a MemoryLayout,
    pub processor: &'a Processor,
    pub state: &'a mut State,
    pub buffers: &'a mut Buffers,
    pub tuning: &'a mut Tuning,
    /// `[N, C, H, W]`.
    pub images: &'a [f32],
    pub count: usize,
    /// Which images of the batch they are.
    pub grouping: Grouping,
    pub mode: Mode<'a>,
}

/// Which BatchNorm statistics a pass uses.
pub(crate) enum Mode<'a> {
    /// The batch's own, over all processes of the communicator.
    Training {
        communicator: &'a mut dyn Communicator,
        /// Images of the micro-batch, in all processes.
        micro_batch: usize,
        /// The index of a micro-batch that is this process's alone.
        alone: Option<usize>,
        /// The weight of the batch in the running statistics, if it is not the operation's.
        new_weight: Option<f64>,
    },
    /// The running ones, folded into the packed weights of convolutions.
    Inference(&'a mut FoldedWeights),
}

/// The packed weights and the biases of every convolution with its BatchNorm folded in. They serve inference
/// until the state changes.
#[derive(Default)]
pub(crate) struct FoldedWeights {
    /// Those of each step.
    pub packed: Vec<AlignedBuffer>,
    /// The same, with room for the most channels; empty where nothing is added.
    pub biases: Vec<Vec<f32>>,
    /// The [`State::version`] that they belong to.
    pub version: Option<u64>,
}

/// Disjoint borrows of what a step works with.
struct Operands<'p> {
    view: View<'p>,
    processor: &'p Processor,
    model: &'p Model,
    gradients: &'p mut GradientSums,
    arena: &'p mut [f32],
    sums: &'p mut [Vec<f64>; 2],
    workspace: &'p mut Workspace,
    bias: &'p [f32],
    packed: &'p AlignedBuffer,
}

impl Pass<'_> {
    fn trains(&self) -> bool {
        matches!(self.mode, Mode::Training { .. })
    }

    /// Whether this is inference with a state of which everything was folded before.
    fn is_folded(&self) -> bool {
        matches!(&self.mode, Mode::Inference(folded) if folded.version == Some(self.state.version))
    }

    /// Before a step: how many tiles its convolution works on at a time.
    fn use_tiles(&mut self, step: usize) {
        self.buffers.workspace.set_group_tiles(self.tuning.tiles_of(step));
    }

    /// Counts the seconds of a step, forward or backward.
    fn count_seconds(&mut self, step: usize, backward: bool, seconds: f64) {
        self.state.seconds[step][usize::from(backward)] += seconds;
        self.processor.pool.end_step(step, backward);
        let winograd = matches!(
            self.layers[step],
            Some(Layer::Convolution(_, algorithm)) if algorithm.is_winograd()
        );
        if winograd && self.trains() {
            self.tuning.add(step, seconds);
        }
    }

    /// The operands of the step of this index.
    fn operands(&mut self, step: usize) -> Operands<'_> {
        let folded = !self.trains();
        let Buffers { arena, workspace, sums, bias, packed, .. } = &mut *self.buffers;
        let State { model, gradients, norms, .. } = &mut *self.state;
        let (packed, bias) = match &self.mode {
            Mode::Training { .. } => (&*packed, &*bias),
            Mode::Inference(folded) => (&folded.packed[step], &folded.biases[step]),
        };
        Operands {
            view: View {
                plan: self.plan,
                memory: self.memory,
                images: self.images,
                count: self.count,
                norms,
                folded,
            },
            processor: self.processor,
            model,
            gradients,
            arena: arena.as_mut_slice(),
            sums,
            workspace,
            bias,
            packed,
        }
    }
}
