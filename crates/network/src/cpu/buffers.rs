//! The memory that passes work in: made once, for training and inference in turn.

use std::ops::Range;

use crescendo_kernels::{AlignedBuffer, LANES, MapShape, Workspace, WorkspaceSize, muon};

use crate::fusion::Work;
use crate::placement::Placement;
use crate::plan::{Plan, Role};

/// How many numbers of each kind passes need.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sizes {
    arena: usize,
    need: WorkspaceSize,
    /// In `f64`.
    sums: usize,
    channels: usize,
    filters: usize,
}

impl Sizes {
    /// What a pass over so many images needs.
    pub fn new(plan: &Plan, placement: &Placement, images: usize) -> Self {
        let maps = || plan.fused.tensors.iter().filter_map(|tensor| tensor.shape.maps(images));
        Sizes {
            arena: placement.len * images,
            need: need(plan, images, placement.trains()),
            sums: maps().map(sums_len).max().unwrap_or(0),
            channels: maps().map(|maps| maps.padded_channels()).max().unwrap_or(0),
            filters: filters(plan).max().unwrap_or(0),
        }
    }

    /// What serves both.
    pub fn max(self, other: Sizes) -> Sizes {
        Sizes {
            arena: self.arena.max(other.arena),
            need: self.need.max(other.need),
            sums: self.sums.max(other.sums),
            channels: self.channels.max(other.channels),
            filters: self.filters.max(other.filters),
        }
    }

    /// Bytes of memory, with `threads` threads.
    pub fn bytes(self, threads: usize) -> usize {
        let doubles = 2 * self.sums + 2 * self.channels + 1;
        let floats = self.arena + 2 * self.channels + self.filters;
        8 * doubles + 4 * floats + self.need.bytes(threads)
    }
}

/// The working memory that serves all steps of a plan.
fn need(plan: &Plan, images: usize, trains: bool) -> WorkspaceSize {
    let needs = plan.fused.steps.iter().map(|step| match step.work {
        Work::Convolution(layer, method) => {
            let input = plan.fused.tensors[step.input.main.tensor.0].shape.maps(images);
            let input = input.expect("the plan checked its input");
            let forward = layer.workspace_size(method, input, false);
            if trains { forward.max(layer.workspace_size(method, input, true)) } else { forward }
        }
        Work::Linear(layer) => layer.workspace_size(images),
        _ => WorkspaceSize::default(),
    });
    let forward_and_back = needs.fold(WorkspaceSize::default(), WorkspaceSize::max);
    if !trains {
        return forward_and_back;
    }
    // Whichever rule a weight follows.
    let matrices = plan.parameters.iter().filter_map(|parameter| match parameter.role {
        Role::Weight { .. } => {
            Some(muon::workspace_size(parameter.shape[0], parameter.shape[1..].iter().product()))
        }
        _ => None,
    });
    matrices.fold(forward_and_back, WorkspaceSize::max)
}

/// Numbers of the filters of each fused step.
pub(super) fn filters(plan: &Plan) -> impl Iterator<Item = usize> {
    plan.fused.steps.iter().map(|step| match step.work {
        Work::Convolution(layer, method) => layer.packed_len(method),
        _ => 0,
    })
}

/// Numbers of the sums of maps: see [`crescendo_kernels::epilogue::ChannelSums`].
pub(super) fn sums_len(maps: MapShape) -> usize {
    maps.images * maps.blocks() * 2 * LANES
}

/// The memory of a pass.
#[derive(Default)]
pub(super) struct Buffers {
    /// Tensors and gradients, where the placement says.
    pub arena: AlignedBuffer,
    pub workspace: Workspace,
    /// Sums of a BatchNorm, and of that of a residual.
    pub sums: [Vec<f64>; 2],
    pub totals: Vec<f64>,
    /// A convolution's bias, and the factor of a BatchNorm folded in, filled up to whole blocks.
    pub bias: Vec<f32>,
    pub scale: Vec<f32>,
    /// In training, the filters of the step at hand.
    pub filters: AlignedBuffer,
    sizes: Sizes,
}

impl Buffers {
    /// Makes room; what was there is given up first, so that both are never held.
    pub fn reserve(&mut self, threads: usize, sizes: Sizes) {
        let sizes = sizes.max(self.sizes);
        if sizes == self.sizes {
            return;
        }
        *self = Buffers::default();
        *self = Buffers {
            arena: AlignedBuffer::new(sizes.arena),
            workspace: Workspace::new(threads, sizes.need),
            sums: [vec![0.0; sizes.sums], vec![0.0; sizes.sums]],
            totals: vec![0.0; 2 * sizes.channels + 1],
            bias: vec![0.0; sizes.channels],
            scale: vec![0.0; sizes.channels],
            filters: AlignedBuffer::new(sizes.filters),
            sizes,
        };
    }
}

/// The arena but for what is being written.
#[derive(Clone, Copy)]
pub(super) struct Rest<'a> {
    /// Where each piece begins, and its numbers.
    pieces: [(usize, &'a [f32]); 3],
}

impl<'a> Rest<'a> {
    /// All of the arena.
    pub fn all(arena: &'a [f32]) -> Self {
        Rest { pieces: [(0, arena), (0, &[]), (0, &[])] }
    }

    /// Takes out what is written.
    ///
    /// # Panics
    /// If the two overlap: no two tensors that are alive together do.
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
        (Rest { pieces }, taken)
    }

    /// A part of it.
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
    fn what_is_written_is_taken_out_of_what_is_read() {
        let mut arena: Vec<f32> = (0..10).map(|i| i as f32).collect();
        let (rest, [out, kept]) = Rest::split(&mut arena, [Some(6..8), Some(2..3)]);
        out.unwrap().fill(-1.0);
        assert_eq!(kept.unwrap(), [2.0]);
        assert_eq!(
            (rest.get(0..2), rest.get(3..6), rest.get(8..10)),
            (&[0.0, 1.0][..], &[3.0, 4.0, 5.0][..], &[8.0, 9.0][..])
        );
        assert!(std::panic::catch_unwind(|| rest.get(5..7).len()).is_err());
        let (rest, [out, kept]) = Rest::split(&mut arena, [None, Some(0..10)]);
        assert!(out.is_none() && kept.unwrap()[6..8] == [-1.0; 2] && rest.get(10..10).is_empty());
    }
}
