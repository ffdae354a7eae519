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
mod domain;
mod forward;
mod panel;
mod schedule;
mod stages;
mod tile;
mod transform;
mod weights;

use std::marker::PhantomData;

use crate::conv_shape::Convolution;
use crate::disjoint_slice::DisjointSlice;
use crate::epilogue::{Epilogue, GradientEpilogue};
use crate::leaves::{Leaves, Parts};
use crate::micro_kernel::{Bf16, F32, PANEL, Precision};
use crate::partition::{are_many, split_range};
use crate::prologue::{GradientPrologue, Prologue};
use crate::simd::LANES;
use crate::workspace::{Workspace, WorkspaceSize};
use crate::{MapShape, Processor, ThreadPool};

use backward::Backward;
use domain::{BackwardDomains, ForwardDomains, Order, len_of};
use forward::Forward;
use schedule::{Schedule, wanted_parts};
use tile::{F2, F4, Tile};
use transform::Lines;
use weights::{Direction, Weights, gradient_stride, taps_len};

/// Which tiles, and in which precision they are multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Variant {
    Two,
    Four,
    FourBf16,
}

/// `$body` with `$tile` standing for the tiles of `$variant`.
macro_rules! with_tile {
    ($variant:expr, $tile:ident => $body:expr) => {
        match $variant {
            Variant::Two => {
                type $tile = F2;
                $body
            }
            Variant::Four => {
                type $tile = F4<F32>;
                $body
            }
            Variant::FourBf16 => {
                type $tile = F4<Bf16>;
                $body
            }
        }
    };
}

impl Variant {
    pub fn outputs(self) -> usize {
        with_tile!(self, T => T::OUTPUTS)
    }

    pub fn elements(self) -> usize {
        with_tile!(self, T => T::ELEMENTS)
    }
}

/// The tiles of a convolution.
#[derive(Clone, Copy)]
struct Geometry {
    tile: Variant,
    input: MapShape,
    output: MapShape,
    padding: usize,
    tiles_y: usize,
    tiles_x: usize,
}

impl Geometry {
    fn new(tile: Variant, layer: &Convolution, input: MapShape) -> Self {
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
                let vectors = from.blocks().div_ceil(PANEL / LANES);
                rows * vectors * tiles.div_ceil(LANES * T::Precision::K)
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

/// The memory that a convolution works in, on so many threads.
pub(crate) fn workspace_size(
    variant: Variant,
    layer: &Convolution,
    input: MapShape,
    backward: Option<&Leaves>,
    threads: usize,
) -> WorkspaceSize {
    let geometry = &Geometry::new(variant, layer, input);
    with_tile!(variant, T => match backward {
        None => forward_size::<T>(geometry, threads),
        Some(leaves) => backward_size::<T>(geometry, layer, leaves, threads),
    })
}

/// The most rows of tiles that a worker has in its domains.
fn most_rows(geometry: &Geometry, direction: Direction) -> usize {
    Schedule::new(geometry, direction, Workspace::MOST_GROUP_TILES).rows(geometry)
}

fn forward_size<T: Tile>(geometry: &Geometry, threads: usize) -> WorkspaceSize {
    let rows = most_rows(geometry, Direction::Forward);
    let domains = len_of(|start| ForwardDomains::new::<T>(geometry, rows, Order::InTurn, start));
    WorkspaceSize {
        worker: domains + Lines::scratch(geometry),
        shared: stages::domains_len::<T>(geometry, threads),
    }
}

fn backward_size<T: Tile>(
    geometry: &Geometry,
    layer: &Convolution,
    leaves: &Leaves,
    threads: usize,
) -> WorkspaceSize {
    let Geometry { input, output, .. } = *geometry;
    let rows = most_rows(geometry, Direction::Backward);
    let domains = len_of(|start| BackwardDomains::new::<T>(geometry, rows, Order::InTurn, start));
    let weights =
        T::ELEMENTS * weights::packed_stride::<T::Precision>(output.channels, input.channels);
    let sum = T::ELEMENTS * gradient_stride(input.channels, output.padded_channels());
    let taps = leaves.most() * taps_len(layer.inputs, layer.outputs);
    let wanted = wanted_parts(geometry, leaves.whole());
    // A task for each leaf has the leaf's sums to itself; elsewhere they are shared.
    let (own, shared) = if takes_leaves(leaves.most(), threads) {
        (Parts::most_of_leaf(leaves, wanted) * sum, 0)
    } else {
        let by_stages = stages::domains_len::<T>(geometry, threads);
        (0, Parts::most(leaves, wanted) * sum + by_stages)
    };
    WorkspaceSize {
        worker: domains + Lines::scratch(geometry) + own,
        shared: weights + taps + shared,
    }
}

/// Whether a task of backward takes a leaf: there is one for each thread at least, and few threads, whose sums stay in the
/// caches.
fn takes_leaves(leaves: usize, threads: usize) -> bool {
    !are_many(threads) && leaves >= threads
}

/// See [`Convolution::packed_len`].
pub(crate) fn packed_len(variant: Variant, layer: &Convolution) -> usize {
    with_tile!(variant, T => {
        T::ELEMENTS * weights::packed_stride::<<T as Tile>::Precision>(layer.inputs, layer.outputs)
    })
}

/// See [`crate::convolution::pack_weights`].
pub(crate) fn pack_weights(
    processor: &Processor,
    variant: Variant,
    layer: &Convolution,
    weight: &[f32],
    scale: Option<&[f32]>,
    out: &mut [f32],
) {
    let Convolution { inputs, outputs, .. } = *layer;
    let weights = Weights { weight, inputs, outputs, scale, direction: Direction::Forward };
    with_tile!(variant, T => transform_weights::<T>(processor, weights, out));
}

/// See [`crate::convolution::forward`].
pub(crate) fn forward(
    processor: &Processor,
    workspace: &mut Workspace,
    variant: Variant,
    layer: &Convolution,
    prologue: &Prologue,
    packed: &[f32],
    epilogue: &Epilogue,
) {
    let geometry = Geometry::new(variant, layer, prologue.shape);
    with_tile!(variant, T => {
        Forward { geometry, prologue, packed, epilogue, tile: PhantomData::<T> }
            .run(processor, workspace)
    });
}

/// See [`crate::convolution::backward`].
#[allow(clippy::too_many_arguments)]
pub(crate) fn backward(
    processor: &Processor,
    workspace: &mut Workspace,
    variant: Variant,
    layer: &Convolution,
    prologue: &Prologue,
    weight: &[f32],
    gradient: &GradientPrologue,
    leaves: &Leaves,
    dweight: Option<&mut [&mut [f32]]>,
    epilogue: Option<&GradientEpilogue>,
) {
    let geometry = Geometry::new(variant, layer, prologue.shape);
    let parts = &Parts::new(leaves, wanted_parts(&geometry, leaves.whole()));
    with_tile!(variant, T => {
        let tile = PhantomData::<T>;
        Backward { geometry, prologue, gradient, leaves, parts, epilogue, tile }
            .run(processor, workspace, weight, dweight)
    });
}

/// Transforms and packs all weights into `out`, in tasks of some words.
fn transform_weights<T: Tile>(processor: &Processor, weights: Weights, out: &mut [f32]) {
    let depth = match weights.direction {
        Direction::Forward => weights.inputs,
        Direction::Backward => weights.outputs,
    };
    let words = depth / T::Precision::K;
    let tasks = processor.pool.tasks_of(words, 8 / T::Precision::K);
    let work = ThreadPool::ELEMENT * out.len();
    let out = &DisjointSlice::new(out);
    processor.pool.run(tasks, work, |task, _| {
        let words = split_range(words, tasks, task);
        let transform = weights::Transform { weights, words, out, tile: PhantomData::<T> };
        T::Precision::run(processor.isa, transform);
    });
}
