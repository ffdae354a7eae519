//! The memory that passes work in: allocated once, used by training and inference in turn.

use std::ops::Range;

use crescendo_kernels::{AlignedBuffer, LANES, Leaves, MapShape, Workspace, WorkspaceSize, muon};
use crescendo_network::{EngineError, Role};

use crate::algorithm::Layer;
use crate::convert::map_shape;
use crate::memory_layout::MemoryLayout;
use crate::plan::{ExecutionPlan, FEW_IMAGES};

/// How many numbers of each kind a pass needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sizes {
    arena: usize,
    workspace: WorkspaceSize,
    /// In `f64`.
    sums: usize,
    /// In `f64`.
    by_leaf: usize,
    channels: usize,
    packed: usize,
}

impl Sizes {
    /// The sizes for a pass over the images of these leaves on so many threads.
    pub fn new(
        plan: &ExecutionPlan,
        memory: &MemoryLayout,
        leaves: &Leaves,
        threads: usize,
    ) -> Self {
        let images = leaves.images();
        let maps = || plan.fused.tensors.iter().filter_map(|t| map_shape(t.shape, images));
        let channels = maps().map(|maps| maps.padded_channels()).max().unwrap_or(0);
        Sizes {
            arena: memory.plan.len * images,
            workspace: workspace_size(plan, leaves, memory.plan.trains(), threads),
            sums: maps().map(sums_len).max().unwrap_or(0),
            by_leaf: leaves.list().len() * 2 * channels,
            channels,
            packed: packed_lens(&plan.layers).max().unwrap_or(0),
        }
    }

    /// The sizes that serve both.
    pub fn max(self, other: Sizes) -> Sizes {
        Sizes {
            arena: self.arena.max(other.arena),
            workspace: self.workspace.max(other.workspace),
            sums: self.sums.max(other.sums),
            by_leaf: self.by_leaf.max(other.by_leaf),
            channels: self.channels.max(other.channels),
            packed: self.packed.max(other.packed),
        }
    }

    /// Bytes of memory, with `threads` threads.
    pub fn bytes(self, threads: usize) -> usize {
        let doubles = 2 * self.sums + self.by_leaf + 2 * self.channels;
        let floats = self.arena + 2 * self.channels + self.packed;
        8 * doubles + 4 * floats + self.workspace.bytes(threads)
    }
}

/// The workspace that serves all steps of a plan.
fn workspace_size(
    plan: &ExecutionPlan,
    leaves: &Leaves,
    trains: bool,
    threads: usize,
) -> WorkspaceSize {
    let images = leaves.images();
    let steps = |layers| plan.fused.steps.iter().zip::<&[Option<Layer>]>(layers);
    // Inference on so few images takes either.
    let few = if trains || images > FEW_IMAGES { &[] } else { &*plan.few };
    let sizes = steps(&plan.layers).chain(steps(few)).map(|(step, layer)| match layer {
        Some(Layer::Convolution(layer, algorithm)) => {
            let input = map_shape(plan.fused.tensors[step.input.main.tensor.0].shape, images);
            let input = input.expect("a convolution reads maps");
            let size = |backward| layer.workspace_size(*algorithm, input, backward, threads);
            if trains { size(None).max(size(Some(leaves))) } else { size(None) }
        }
        Some(Layer::Linear(layer)) => layer.workspace_size(images),
        None => WorkspaceSize::default(),
    });
    let passes = sizes.fold(WorkspaceSize::default(), WorkspaceSize::max);
    if !trains {
        return passes;
    }
    // Whichever update rule a weight has.
    let matrices = plan.graph.parameters.iter().filter_map(|parameter| match parameter.role {
        Role::Weight { .. } => {
            let (rows, columns) = (parameter.shape[0], parameter.shape[1..].iter().product());
            Some(muon::workspace_size(rows, columns))
        }
        _ => None,
    });
    matrices.fold(passes, WorkspaceSize::max)
}

/// Numbers of the packed weights of each step.
pub(crate) fn packed_lens(layers: &[Option<Layer>]) -> impl Iterator<Item = usize> {
    layers.iter().map(|layer| match layer {
        Some(Layer::Convolution(layer, algorithm)) => layer.packed_len(*algorithm),
        _ => 0,
    })
}

/// Numbers of the sums of maps: see [`crescendo_kernels::epilogue::ChannelSums`].
pub(crate) fn sums_len(maps: MapShape) -> usize {
    maps.images * maps.blocks() * 2 * LANES
}

/// The memory of a pass.
#[derive(Default)]
pub(crate) struct Buffers {
    /// Tensors and gradients, as the memory plan lays them out.
    pub arena: AlignedBuffer,
    pub workspace: Workspace,
    /// Sums of a BatchNorm, and of the BatchNorm of a residual.
    pub sums: [Vec<f64>; 2],
    /// Their sums over the images of each leaf, and over all.
    pub by_leaf: Vec<f64>,
    pub totals: Vec<f64>,
    /// A convolution's bias, and the factors of a BatchNorm that is folded in, padded to whole blocks.
    pub bias: Vec<f32>,
    pub scale: Vec<f32>,
    /// In training, the packed weights of the current step.
    pub packed: AlignedBuffer,
    sizes: Sizes,
}

impl Buffers {
    /// Allocates memory for these sizes. The old memory is freed first, so that both are never held.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn reserve(&mut self, threads: usize, sizes: Sizes) -> Result<(), EngineError> {
        let sizes = sizes.max(self.sizes);
        if sizes == self.sizes {
            return Ok(());
        }
        *self = Buffers::default();
        let refused = || EngineError::OutOfMemory {
            what: "the feature maps of a batch",
            bytes: sizes.bytes(threads) as u64,
        };
        *self = Buffers {
            arena: AlignedBuffer::try_new(sizes.arena).ok_or_else(refused)?,
            workspace: Workspace::try_new(threads, sizes.workspace).ok_or_else(refused)?,
            sums: [vec![0.0; sizes.sums], vec![0.0; sizes.sums]],
            by_leaf: vec![0.0; sizes.by_leaf],
            totals: vec![0.0; 2 * sizes.channels],
            bias: vec![0.0; sizes.channels],
            scale: vec![0.0; sizes.channels],
            packed: AlignedBuffer::new(sizes.packed),
            sizes,
        };
        Ok(())
    }
}

/// The arena without the ranges that are being written.
#[derive(Clone, Copy)]
pub(crate) struct ReadArena<'a> {
    /// Where each piece starts, and its numbers.
    pieces: [(usize, &'a [f32]); 3],
}

impl<'a> ReadArena<'a> {
    /// The whole arena.
    pub fn all(arena: &'a [f32]) -> Self {
        ReadArena { pieces: [(0, arena), (0, &[]), (0, &[])] }
    }

    /// Splits off the ranges that are written.
    ///
    /// # Panics
    /// If they overlap: tensors that are live at the same time never do.
    pub fn split(
        arena: &'a mut [f32],
        written: [Option<Range<usize>>; 2],
    ) -> (Self, [Option<&'a mut [f32]>; 2]) {
        let mut pieces: [(usize, &[f32]); 3] = [(0, &[]); 3];
        let mut taken = [None, None];
        let start = |which: usize| written[which].as_ref().map_or(usize::MAX, |range| range.start);
        let order = if start(0) <= start(1) { [0, 1] } else { [1, 0] };
        let (mut rest, mut at) = (arena, 0);
        for (piece, which) in pieces.iter_mut().zip(order) {
            let Some(range) = written[which].clone() else { continue };
            let (before, after) = rest.split_at_mut(range.start - at);
            let (out, after) = after.split_at_mut(range.len());
            *piece = (at, before);
            taken[which] = Some(out);
            (rest, at) = (after, range.end);
        }
        pieces[2] = (at, rest);
        (ReadArena { pieces }, taken)
    }

    /// A range of the arena.
    ///
    /// # Panics
    /// If it is being written.
    pub fn get(&self, range: Range<usize>) -> &'a [f32] {
        let piece = self.pieces.iter().find_map(|&(start, numbers)| {
            let range = range.start.checked_sub(start)?..range.end - start;
            numbers.get(range)
        });
        piece.expect("a tensor is not read while it is written")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_ranges_are_not_read() {
        let mut arena: Vec<f32> = (0..10).map(|i| i as f32).collect();
        let (rest, [out, saved]) = ReadArena::split(&mut arena, [Some(6..8), Some(2..3)]);
        out.unwrap().fill(-1.0);
        assert_eq!(saved.unwrap(), [2.0]);
        assert_eq!(
            (rest.get(0..2), rest.get(3..6), rest.get(8..10)),
            (&[0.0, 1.0][..], &[3.0, 4.0, 5.0][..], &[8.0, 9.0][..])
        );
        assert!(std::panic::catch_unwind(|| rest.get(5..7).len()).is_err());
        let (rest, [out, saved]) = ReadArena::split(&mut arena, [None, Some(0..10)]);
        assert!(out.is_none() && saved.unwrap()[6..8] == [-1.0; 2] && rest.get(10..10).is_empty());
    }
}
