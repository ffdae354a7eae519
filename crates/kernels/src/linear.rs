//! Linear layers on vectors: `y = x * weight^T + bias`, with weights `[outputs, inputs]` as in PyTorch.
//!
//! Forward and the input's gradient are GEMMs; the weights' gradient is cut up in the same way.
//!
//! # Example
//!
//! Two images of two features, and three updates of a layer without bias:
//!
//! ```
//! use crescendo_kernels::linear::{self, Linear};
//! use crescendo_kernels::loss::{ClassWeights, count_correct, cross_entropy};
//! use crescendo_kernels::optimizer::{SgdStep, sgd};
//! use crescendo_kernels::{Isa, Processor, ThreadPool, Workspace};
//!
//! let processor = Processor { pool: ThreadPool::new(1), isa: Isa::best() };
//! let layer = Linear { inputs: 2, outputs: 2 };
//! let mut workspace = Workspace::new(1, layer.workspace_size(2));
//! let (x, labels) = ([1.0, 0.2, 0.1, 1.0], [0, 1]);
//! // Images of the second class count three times.
//! let classes = ClassWeights::new(&[1.0, 3.0], &labels);
//! let rule = SgdStep { learning_rate: 0.5, momentum: 0.9, ..SgdStep::default() };
//! let (mut weight, mut dweight, mut momentum) = ([0.0; 4], [0.0; 4], [0.0; 4]);
//! let (mut logits, mut dlogits) = ([0.0; 4], [0.0; 4]);
//! let mut losses = Vec::new();
//! for _ in 0..3 {
//!     linear::forward(&processor, &mut workspace, &layer, &x, &weight, None, &mut logits);
//!     losses.push(cross_entropy(&logits, &labels, 0.0, 1.0, Some(classes), &mut dlogits));
//!     let wanted = Some(&mut dweight[..]);
//!     linear::backward(
//!         &processor, &mut workspace, &layer, &x, &weight, &dlogits, wanted, None, None,
//!     );
//!     // It sets the gradients to zero.
//!     sgd(&processor, rule, &mut weight, &mut dweight, &mut momentum);
//! }
//! assert!(losses.is_sorted_by(|a, b| a > b), "{losses:?}");
//! assert_eq!(count_correct(&logits, &labels), 2);
//! ```

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
///
/// See the example of [the module `linear`](crate::linear).
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
