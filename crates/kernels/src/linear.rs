//! Linear layers on vectors: `y = x * weight^T + bias`, with weights `[outputs, inputs]` as in PyTorch.
//!
//! Forward and the input's gradient are GEMMs; the weights' gradient is cut up in the same way.

use std::ops::Range;

use crate::disjoint_slice::DisjointSlice;
use crate::gemm::{self, DEPTH, Rhs, gemm, prefetch};
use crate::micro_kernel::{PANEL, PanelGemmTn};
use crate::prefetch::Prefetch;
use crate::simd::{Kernel, LANES, Simd};
use crate::thread_pool::split_range;
use crate::workspace::{Workspace, WorkspaceSize};
use crate::{Processor, ThreadPool};

/// A linear layer's shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Linear {
    /// Features that go in.
    pub inputs: usize,
    /// Features that come out.
    pub outputs: usize,
}

impl Linear {
    /// The working memory that forward and backward need for a batch.
    pub fn workspace_size(&self, images: usize) -> WorkspaceSize {
        gemm::workspace_size(images.max(LANES))
    }
}

/// Writes `y` `[images, outputs]` for `x` `[images, inputs]` and `bias` `[outputs]`, zero where there is
/// none.
///
/// # Panics
/// If lengths do not fit, or the workspace is too small.
pub fn forward(
    processor: &Processor,
    workspace: &mut Workspace,
    layer: &Linear,
    x: &[f32],
    weight: &[f32],
    bias: Option<&[f32]>,
    y: &mut [f32],
) {
    let Linear { inputs, outputs } = *layer;
    let images = y.len() / outputs;
    assert!(x.len() == images * inputs && y.len() == images * outputs, "wrong lengths");
    assert_eq!(weight.len(), inputs * outputs, "wrong number of weights");
    assert!(bias.is_none_or(|bias| bias.len() == outputs), "wrong number of biases");
    let rhs = Rhs { matrix: weight, width: inputs, transposed: true };
    gemm(processor, &workspace.split().0, images, x, rhs, y);
    let Some(bias) = bias else { return };
    for y in y.chunks_exact_mut(outputs) {
        for (y, bias) in y.iter_mut().zip(bias) {
            *y += bias;
        }
    }
}

/// The backward pass for `dy` `[images, outputs]`: adds to `dweight` and `dbias` and overwrites `dx`,
/// each where it is wanted.
///
/// # Panics
/// If lengths do not fit, or the workspace is too small.
#[allow(clippy::too_many_arguments)]
pub fn backward(
    processor: &Processor,
    workspace: &mut Workspace,
    layer: &Linear,
    x: &[f32],
    weight: &[f32],
    dy: &[f32],
    dweight: Option<&mut [f32]>,
    dbias: Option<&mut [f32]>,
    dx: Option<&mut [f32]>,
) {
    let Linear { inputs, outputs } = *layer;
    let images = dy.len() / outputs;
    assert!(x.len() == images * inputs && dy.len() == images * outputs, "wrong lengths");
    assert_eq!(weight.len(), inputs * outputs, "wrong number of weights");
    if let Some(dbias) = dbias {
        assert_eq!(dbias.len(), outputs, "wrong number of biases");
        processor.pool.chunks(dbias, PANEL, ThreadPool::ELEMENT * dy.len(), |panel, dbias| {
            let mut sums = [0.0f64; PANEL];
            for dy in dy.chunks_exact(outputs) {
                for (sum, &dy) in sums.iter_mut().zip(&dy[panel * PANEL..]) {
                    *sum += f64::from(dy);
                }
            }
            for (dbias, sum) in dbias.iter_mut().zip(sums) {
                *dbias += sum as f32;
            }
        });
    }
    let (workers, _) = workspace.split();
    if let Some(dweight) = dweight {
        assert_eq!(dweight.len(), weight.len(), "wrong number of weights");
        let dweight = &DisjointSlice::new(dweight);
        let (panels, blocks) = (inputs.div_ceil(PANEL), outputs.div_ceil(LANES));
        let slices = processor.pool.enough_tasks(panels, panels * blocks).div_ceil(panels);
        processor.pool.run(panels * slices, images * weight.len(), |index, worker| {
            // SAFETY: a worker's memory is its own.
            let (packed, out) = unsafe { workers.part(worker, DEPTH * PANEL, LANES * PANEL) };
            let first = index / slices * PANEL;
            let blocks = split_range(blocks, slices, index % slices);
            let outputs = blocks.start * LANES..outputs.min(blocks.end * LANES);
            let weights = Weights { layer, images, x, dy, first, outputs, packed, out, dweight };
            processor.isa.run(weights);
        });
    }
    let Some(dx) = dx else { return };
    assert_eq!(dx.len(), x.len(), "dx has the wrong length");
    let rhs = Rhs { matrix: weight, width: inputs, transposed: false };
    gemm(processor, &workers, images, dy, rhs, dx);
}

/// 64 columns of some rows of the weights' gradient, `dy^T x`.
struct Weights<'a> {
    layer: &'a Linear,
    images: usize,
    x: &'a [f32],
    dy: &'a [f32],
    first: usize,
    outputs: Range<usize>,
    packed: *mut f32,
    out: *mut f32,
    dweight: &'a DisjointSlice<'a, f32>,
}

impl Kernel for Weights<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Weights { layer, images, x, dy, first, outputs: some, packed, out, dweight } = self;
        let Linear { inputs, outputs } = *layer;
        let width = PANEL.min(inputs - first);
        let vectors = width.div_ceil(LANES);
        for start in (0..images).step_by(DEPTH) {
            let depth = DEPTH.min(images - start);
            // SAFETY: the worker's memory was taken with these lengths; `dy` has `depth` rows from
            // `start` on; only this task is at these columns of the gradient.
            unsafe {
                for k in 0..depth {
                    let row = std::slice::from_raw_parts_mut(
                        packed.add(k * vectors * LANES),
                        vectors * LANES,
                    );
                    row[width..].fill(0.0);
                    row[..width].copy_from_slice(&x[(start + k) * inputs + first..][..width]);
                }
                for output in some.clone().step_by(LANES) {
                    let rows = LANES.min(some.end - output);
                    for row in 0..rows {
                        prefetch(s, dweight.part((output + row) * inputs + first, width));
                    }
                    let correlate = PanelGemmTn {
                        rows,
                        vectors,
                        lines: 1,
                        len: depth,
                        a: dy.as_ptr().add(start * outputs + output),
                        a_step: outputs,
                        a_line: 0,
                        b: packed,
                        b_step: vectors * LANES,
                        b_line: 0,
                        b_vector: LANES,
                        c: out,
                        c_row: PANEL,
                        accumulate: false,
                        prefetch: &Prefetch::nothing(),
                    };
                    correlate.run(s);
                    for row in 0..rows {
                        let to = dweight.part((output + row) * inputs + first, width);
                        let from = std::slice::from_raw_parts(out.add(row * PANEL), width);
                        for (to, from) in to.iter_mut().zip(from) {
                            *to += from;
                        }
                    }
                }
            }
        }
    }
}
