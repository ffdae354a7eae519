//! Convolutions of 3x3 filters with stride 1 by Winograd's minimal filtering (Lavin and Gray,
//! arXiv 1509.09308), forward and backward.
//!
//! With `V`, `U` and `M` the input, the weights and the output in the transform domain:
//!
//! ```text
//! forward    M = V U                       a GEMM for each element of a tile
//! backward   dM = A dY A^T                 once, for both:
//!            dV = dM U^T  ->  dX           (overlapping tiles are added up)
//!            dU = V^T dM  ->  dW           (V is computed again from what forward read)
//! ```
//!
//! F(4x4) needs 2.25 multiplications an output where direct convolution needs 9: so few that the
//! transforms would cost as much as the GEMMs if they went through memory. They do not.
//!
//! A task takes a part of the batch, and takes group after group of it (some images, or a band of one)
//! through all stages, with the transform domain in its core's second-level cache. While it multiplies, it
//! prefetches what comes next: weights, sums, and the maps of the next group. Gradients of weights are
//! summed up over each leaf of the batch's tree in the domain, in as many partial sums as cost little, transformed back, and
//! added in the tree's order. Where leaves or their parts are too few tasks for the threads, all tiles go through one stage
//! after the other: see [`stages`].

mod backward;
mod forward;
mod panel;
mod schedule;
mod stages;
mod tile;
mod transform;
mod weights;

use std::marker::PhantomData;
use std::ops::Range;

use crate::conv_shape::Convolution;
use crate::disjoint_slice::DisjointSlice;
use crate::epilogue::{Epilogue, GradientEpilogue};
use crate::leaves::{Leaves, Parts};
use crate::micro_kernel::PANEL;
use crate::partition::{are_many, split_range};
use crate::prologue::{GradientPrologue, Prologue};
use crate::simd::LANES;
use crate::workspace::{Workspace, WorkspaceSize};
use crate::{MapShape, Processor, ThreadPool};

use backward::Backward;
use forward::Forward;
use schedule::{Schedule, wanted_parts};
use tile::{F2, F4, Tile};
use transform::Lines;
use weights::{Direction, Weights, gradient_stride, taps_len};

/// Which size of tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Size {
    Two,
    Four,
}

impl Size {
    pub fn outputs(self) -> usize {
        match self {
            Size::Two => F2::OUTPUTS,
            Size::Four => F4::OUTPUTS,
        }
    }

    pub fn elements(self) -> usize {
        match self {
            Size::Two => F2::ELEMENTS,
            Size::Four => F4::ELEMENTS,
        }
    }
}

/// The tiles of a convolution.
#[derive(Clone, Copy)]
struct Geometry {
    tile: Size,
    input: MapShape,
    output: MapShape,
    padding: usize,
    tiles_y: usize,
    tiles_x: usize,
}

impl Geometry {
    fn new(tile: Size, layer: &Convolution, input: MapShape) -> Self {
        assert!(layer.kernel == 3 && layer.stride == 1 && layer.padding <= 1, "not for Winograd");
        let output = layer.output_shape(input);
        Geometry {
            tile,
            input,
            output,
            padding: layer.padding,
            tiles_y: output.height.div_ceil(tile.outputs()),
            tiles_x: output.width.div_ceil(tile.outputs()),
        }
    }

    /// Tiles of an image.
    fn tiles(&self) -> usize {
        self.tiles_y * self.tiles_x
    }

    /// The work of a forward pass, or of one of the two gradients: see
    /// [`ThreadPool::run`](crate::ThreadPool::run).
    fn work(&self) -> usize {
        let tiles = self.input.images * self.tiles() * self.tile.elements();
        let multiplications = tiles * self.input.channels * self.output.padded_channels();
        multiplications + ThreadPool::ELEMENT * (self.input.len() + self.output.len())
    }

    /// About how many steps the GEMMs of so many tiles have: see [`Prefetch`](crate::prefetch::Prefetch).
    fn steps<T: Tile>(&self, tiles: usize, direction: Direction) -> usize {
        let (from, to) = match direction {
            Direction::Forward => (self.input, self.output),
            Direction::Backward => (self.output, self.input),
        };
        let multiply = tiles.div_ceil(6) * to.blocks().div_ceil(PANEL / LANES) * from.blocks();
        let correlate = match direction {
            Direction::Forward => 0,
            Direction::Backward => {
                let rows = to.padded_channels().div_ceil(6);
                rows * from.blocks().div_ceil(PANEL / LANES) * tiles.div_ceil(LANES)
            }
        };
        T::ELEMENTS * (multiply + correlate)
    }
}

/// Numbers from a matrix of the domain to the next, where each has so many: an odd number of cache lines,
/// so that what is written to all of them together does not fall into the same sets of the caches.
fn odd_cache_lines(numbers: usize) -> usize {
    (numbers.div_ceil(LANES) | 1) * LANES
}

/// The transform domain of a number of tiles: see [`transform`].
#[derive(Clone, Copy)]
struct Domain {
    start: *mut f32,
    /// Numbers from the matrix of an element to the next.
    element_stride: usize,
    /// Numbers from a block to the next.
    block_stride: usize,
    tiles: usize,
}

impl Domain {
    /// Numbers of one element's matrix.
    fn element_len(blocks: usize, tiles: usize) -> usize {
        odd_cache_lines(blocks * tiles * LANES)
    }

    /// # Safety
    /// The element, the block and the tile exist.
    #[inline(always)]
    unsafe fn at(self, element: usize, block: usize, tile: usize) -> *mut f32 {
        // SAFETY: the caller's promise.
        unsafe {
            let at = element * self.element_stride + block * self.block_stride + tile * LANES;
            self.start.add(at)
        }
    }

    /// A domain of its own, with tiles that follow each other.
    fn new(start: *mut f32, blocks: usize, tiles: usize) -> Self {
        let element_stride = Self::element_len(blocks, tiles);
        Domain { start, element_stride, block_stride: tiles * LANES, tiles }
    }

    /// Some of its tiles.
    fn part(self, tiles: Range<usize>) -> Self {
        let start = self.start.wrapping_add(tiles.start * LANES);
        Domain { start, tiles: tiles.len(), ..self }
    }
}
// SAFETY: a domain is a place in memory; its users say which thread may use it when.
unsafe impl Send for Domain {}
// SAFETY: as above.
unsafe impl Sync for Domain {}

/// The memory that a convolution works in, on so many threads.
pub(crate) fn workspace_size(
    size: Size,
    layer: &Convolution,
    input: MapShape,
    backward: Option<&Leaves>,
    threads: usize,
) -> WorkspaceSize {
    let geometry = Geometry::new(size, layer, input);
    let (output, scratch) = (geometry.output, Lines::scratch(&geometry));
    let direction = if backward.is_some() { Direction::Backward } else { Direction::Forward };
    let schedule = Schedule::new(&geometry, direction, Workspace::MOST_GROUP_TILES);
    let element_len = |blocks| Domain::element_len(blocks, schedule.tiles(&geometry));
    let by_stages = stages::domains(&geometry, threads);
    let Some(leaves) = backward else {
        // The output overwrites the input, one element behind it.
        let domain = (size.elements() + 1) * element_len(input.blocks().max(output.blocks()));
        return WorkspaceSize { worker: domain + scratch, shared: by_stages };
    };
    let domains = size.elements() * (element_len(input.blocks()) + element_len(output.blocks()));
    let weights = size.elements() * odd_cache_lines(output.channels * input.padded_channels());
    let sum = size.elements() * gradient_stride(input.channels, output.padded_channels());
    let taps = leaves.most() * taps_len(layer.inputs, layer.outputs);
    let wanted = wanted_parts(&geometry, leaves.whole());
    // A task for each leaf has the leaf's sums to itself; elsewhere they are shared.
    let (own, shared) = if takes_leaves(leaves.most(), threads) {
        (Parts::most_of_leaf(leaves, wanted) * sum, 0)
    } else {
        (0, Parts::most(leaves, wanted) * sum + by_stages)
    };
    WorkspaceSize { worker: domains + scratch + own, shared: weights + taps + shared }
}

/// Whether a task of backward takes a leaf: there is one for each thread at least, and few threads, whose sums stay in the
/// caches.
fn takes_leaves(leaves: usize, threads: usize) -> bool {
    !are_many(threads) && leaves >= threads
}

/// See [`Convolution::packed_len`].
pub(crate) fn packed_len(size: Size, layer: &Convolution) -> usize {
    size.elements() * odd_cache_lines(layer.inputs * layer.outputs.next_multiple_of(LANES))
}

/// See [`crate::convolution::pack_weights`].
pub(crate) fn pack_weights(
    processor: &Processor,
    size: Size,
    layer: &Convolution,
    weight: &[f32],
    scale: Option<&[f32]>,
    out: &mut [f32],
) {
    let Convolution { inputs, outputs, .. } = *layer;
    let weights = Weights { weight, inputs, outputs, scale, direction: Direction::Forward };
    match size {
        Size::Two => transform_weights(processor, weights, out, PhantomData::<F2>),
        Size::Four => transform_weights(processor, weights, out, PhantomData::<F4>),
    }
}

/// See [`crate::convolution::forward`].
pub(crate) fn forward(
    processor: &Processor,
    workspace: &mut Workspace,
    size: Size,
    layer: &Convolution,
    prologue: &Prologue,
    packed: &[f32],
    epilogue: &Epilogue,
) {
    let geometry = Geometry::new(size, layer, prologue.shape);
    match size {
        Size::Two => Forward { geometry, prologue, packed, epilogue, tile: PhantomData::<F2> }
            .run(processor, workspace),
        Size::Four => Forward { geometry, prologue, packed, epilogue, tile: PhantomData::<F4> }
            .run(processor, workspace),
    }
}

/// See [`crate::convolution::backward`].
#[allow(clippy::too_many_arguments)]
pub(crate) fn backward(
    processor: &Processor,
    workspace: &mut Workspace,
    size: Size,
    layer: &Convolution,
    prologue: &Prologue,
    weight: &[f32],
    gradient: &GradientPrologue,
    leaves: &Leaves,
    dweight: Option<&mut [&mut [f32]]>,
    epilogue: Option<&GradientEpilogue>,
) {
    let geometry = Geometry::new(size, layer, prologue.shape);
    let parts = &Parts::new(leaves, wanted_parts(&geometry, leaves.whole()));
    match size {
        Size::Two => {
            let tile = PhantomData::<F2>;
            Backward { geometry, prologue, gradient, leaves, parts, epilogue, tile }
                .run(processor, workspace, weight, dweight);
        }
        Size::Four => {
            let tile = PhantomData::<F4>;
            Backward { geometry, prologue, gradient, leaves, parts, epilogue, tile }
                .run(processor, workspace, weight, dweight);
        }
    }
}

/// Transforms and packs all weights into `out`, in tasks of some `k`.
fn transform_weights<T: Tile + Send + Sync>(
    processor: &Processor,
    weights: Weights,
    out: &mut [f32],
    tile: PhantomData<T>,
) {
    let depth = match weights.direction {
        Direction::Forward => weights.inputs,
        Direction::Backward => weights.outputs,
    };
    let tasks = processor.pool.tasks_of(depth, 8);
    let work = ThreadPool::ELEMENT * out.len();
    let out = &DisjointSlice::new(out);
    processor.pool.run(tasks, work, |task, _| {
        let k = split_range(depth, tasks, task);
        processor.isa.run(weights::Transform { weights, k, out, tile });
    });
}
