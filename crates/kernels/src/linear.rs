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
//! use crescendo_kernels::loss::{ClassWeights, count_correct, cross_entropy, divisor};
//! use crescendo_kernels::optimizer::{SgdStep, sgd};
//! use crescendo_kernels::{Isa, Leaves, Processor, ThreadPool, Workspace};
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
//!     let sum = cross_entropy(&logits, &labels, 0.0, 2, Some(classes), &mut dlogits);
//!     losses.push(sum / divisor(2, Some(classes)));
//!     let (leaves, wanted) = (Leaves::one(2), &mut [&mut dweight[..]]);
//!     linear::backward(
//!         &processor, &mut workspace, &layer, &x, &weight, &dlogits, &leaves, Some(wanted), None, None,
//!     );
//!     // It sets the gradients to zero.
//!     sgd(&processor, rule, &mut weight, &mut dweight, &mut momentum);
//! }
//! assert!(losses.is_sorted_by(|a, b| a > b), "{losses:?}");
//! assert_eq!(count_correct(&logits, &labels), 2);
//! ```

use std::ops::Range;

use crate::gemm::{self, DEPTH, Rhs, gemm};
use crate::leaves::{self, GroupSlices, Leaf, LeafSum, Leaves};
use crate::micro_kernel::{F32, PANEL, PanelGemmTn};
use crate::partition::split_range;
use crate::prefetch::Prefetch;
use crate::simd::{Kernel, LANES, Simd};
use crate::workspace::{Workspace, WorkspaceSize};
use crate::{Processor, ThreadPool};

/// Blocks of outputs whose sums of leaves a task has at most: with those that wait they stay in a core's cache.
const SUM_BLOCKS: usize = 8;

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
        // The sums of leaves are as many rows.
        let sums = leaves::DEPTH * self.outputs.next_multiple_of(LANES).min(SUM_BLOCKS * LANES);
        gemm::workspace_size(images.max(sums))
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

/// The backward pass for `dy` `[images, outputs]`: adds to each of `dweight` and `dbias`, in the groups of the leaves, and
/// overwrites `dx`, each where it is wanted.
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
    leaves: &Leaves,
    dweight: Option<&mut [&mut [f32]]>,
    dbias: Option<&mut [&mut [f32]]>,
    dx: Option<&mut [f32]>,
) {
    let Linear { inputs, outputs } = *layer;
    let images = leaves.images();
    assert!(x.len() == images * inputs && dy.len() == images * outputs, "wrong lengths");
    assert_eq!(weight.len(), inputs * outputs, "wrong number of weights");
    let (groups, list) = (leaves.groups(), &leaves.list());
    if let Some(dbias) = dbias {
        let dbias = &GroupSlices::new(leaves, dbias, outputs);
        processor.pool.run(outputs.div_ceil(PANEL), ThreadPool::ELEMENT * dy.len(), |panel, _| {
            let first = panel * PANEL;
            let mut sums = [LeafSum::<f32>::default(); PANEL];
            for group in 0..groups {
                for leaf in list.iter().filter(|leaf| leaf.group() == group) {
                    let mut columns = [0.0f64; PANEL];
                    let images = leaf.images();
                    for dy in dy[images.start * outputs..images.end * outputs].chunks_exact(outputs)
                    {
                        for (sum, &dy) in columns.iter_mut().zip(&dy[first..]) {
                            *sum += f64::from(dy);
                        }
                    }
                    for (sum, column) in sums.iter_mut().zip(columns) {
                        sum.add(column as f32, leaf.joins());
                    }
                }
                // SAFETY: each task has a panel of its own.
                let dbias = unsafe { dbias.part(group, first, PANEL.min(outputs - first)) };
                for (dbias, sum) in dbias.iter_mut().zip(&mut sums) {
                    *dbias += sum.total();
                }
                sums = [LeafSum::default(); PANEL];
            }
        });
    }
    let (workers, _) = workspace.split();
    if let Some(dweight) = dweight {
        let dweight = &GroupSlices::new(leaves, dweight, weight.len());
        let (panels, blocks) = (inputs.div_ceil(PANEL), outputs.div_ceil(LANES));
        let slices = processor.pool.enough_tasks(panels, panels * blocks).div_ceil(panels);
        let slices = slices.max(blocks.div_ceil(SUM_BLOCKS));
        processor.pool.run(panels * slices, images * weight.len(), |index, worker| {
            let first = index / slices * PANEL;
            let blocks = split_range(blocks, slices, index % slices);
            let len = leaves::DEPTH * blocks.len() * LANES * PANEL;
            // SAFETY: a worker's memory is its own.
            let (packed, sums) = unsafe { workers.part(worker, DEPTH * PANEL, len) };
            let outputs = blocks.start * LANES..outputs.min(blocks.end * LANES);
            let weights = Weights { layer, x, dy, list, first, outputs, packed, sums, dweight };
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
    x: &'a [f32],
    dy: &'a [f32],
    list: &'a [Leaf],
    first: usize,
    outputs: Range<usize>,
    packed: *mut f32,
    /// The sums of leaves that wait for their neighbour, `[wait, output, 64]`.
    sums: *mut f32,
    dweight: &'a GroupSlices<'a>,
}

impl Kernel for Weights<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let len = self.outputs.len().next_multiple_of(LANES) * PANEL;
        let mut waiting = 0;
        for (index, leaf) in self.list.iter().enumerate() {
            let sum = self.sums.wrapping_add(waiting * len);
            waiting += 1;
            let images = leaf.images();
            for start in images.clone().step_by(DEPTH) {
                let depth = DEPTH.min(images.end - start);
                // SAFETY: the worker's memory was taken with these lengths.
                unsafe { self.correlate(s, start, depth, start > images.start, sum) };
            }
            for _ in 0..leaf.joins() {
                waiting -= 1;
                let sum = self.sums.wrapping_add((waiting - 1) * len);
                // SAFETY: both sums are this task's; sums are whole vectors.
                unsafe {
                    for at in (0..len).step_by(LANES) {
                        let (to, from) = (sum.add(at), sum.add(len + at));
                        s.store(to, s.add(s.load(to), s.load(from)));
                    }
                }
            }
            if self.list.get(index + 1).is_none_or(|next| next.group() != leaf.group()) {
                waiting = 0;
                self.deliver(leaf.group());
            }
        }
    }
}

impl Weights<'_> {
    /// Adds `depth` images from `start` on to a leaf's sum, or begins it with them.
    ///
    /// # Safety
    /// The images exist, and the worker's memory has room.
    #[inline(always)]
    unsafe fn correlate<S: Simd>(
        &self,
        s: S,
        start: usize,
        depth: usize,
        accumulate: bool,
        sum: *mut f32,
    ) {
        let Weights { x, dy, first, packed, .. } = *self;
        let Linear { inputs, outputs } = *self.layer;
        let width = PANEL.min(inputs - first);
        let vectors = width.div_ceil(LANES);
        // SAFETY: the caller's promise.
        unsafe {
            for k in 0..depth {
                let row = std::slice::from_raw_parts_mut(
                    packed.add(k * vectors * LANES),
                    vectors * LANES,
                );
                row[width..].fill(0.0);
                row[..width].copy_from_slice(&x[(start + k) * inputs + first..][..width]);
            }
            for output in self.outputs.clone().step_by(LANES) {
                let correlate = PanelGemmTn {
                    rows: LANES.min(self.outputs.end - output),
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
                    c: sum.add((output - self.outputs.start) * PANEL),
                    c_row: PANEL,
                    accumulate,
                    prefetch: &Prefetch::nothing(),
                };
                correlate.run(s, F32);
            }
        }
    }

    /// Adds the first sum to a group's gradient.
    #[inline(always)]
    fn deliver(&self, group: usize) {
        let Linear { inputs, .. } = *self.layer;
        let width = PANEL.min(inputs - self.first);
        for (row, output) in self.outputs.clone().enumerate() {
            // SAFETY: only this task is at these columns of these rows; the sum has this row.
            unsafe {
                let to = self.dweight.part(group, output * inputs + self.first, width);
                let from = std::slice::from_raw_parts(self.sums.add(row * PANEL), width);
                for (to, from) in to.iter_mut().zip(from) {
                    *to += from;
                }
            }
        }
    }
}
