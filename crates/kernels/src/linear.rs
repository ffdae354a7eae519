//! Linear layers on vectors: `y = x * weight^T + bias`, weights `[outputs, inputs]` as in PyTorch.
//!
//! A task takes 64 columns of a result. It packs what it needs of one factor, 128 rows at a time
//! (32 KiB: the first-level cache), and multiplies the other factor's rows with it, where they lie.

use std::ops::Range;

use crate::Processor;
use crate::ahead::Ahead;
use crate::product::{Correlate, Multiply, PANEL, Segment};
use crate::shared::Shared;
use crate::simd::{Kernel, LANES, Simd};
use crate::workspace::{Need, Workspace};

/// `k` that are packed and multiplied in one go.
const DEPTH: usize = 128;

/// A linear layer's shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Linear {
    /// Features that go in.
    pub inputs: usize,
    /// Features that come out.
    pub outputs: usize,
}

impl Linear {
    /// The working memory that it needs for a batch.
    pub fn need(&self, images: usize) -> Need {
        Need { worker: DEPTH * PANEL + images.max(LANES) * PANEL, shared: 0 }
    }
}

/// `x` is `[N, inputs]`, `y` is `[N, outputs]`, `bias` is `[outputs]`.
pub fn forward(
    processor: &Processor,
    workspace: &mut Workspace,
    layer: &Linear,
    x: &[f32],
    weight: &[f32],
    bias: &[f32],
    y: &mut [f32],
) {
    let Linear { inputs, outputs } = *layer;
    let images = y.len() / outputs;
    assert!(x.len() == images * inputs && y.len() == images * outputs, "wrong lengths");
    assert!(weight.len() == inputs * outputs && bias.len() == outputs, "wrong parameters");
    let factor = Factor { weight, inputs, transposed: true };
    rows_times_factor(processor, workspace, images, x, factor, y);
    for y in y.chunks_exact_mut(outputs) {
        for (y, bias) in y.iter_mut().zip(bias) {
            *y += bias;
        }
    }
}

/// The gradients for `dy` `[N, outputs]`: adds to `dweight` and `dbias`, overwrites `dx`
/// where it is wanted.
#[allow(clippy::too_many_arguments)]
pub fn backward(
    processor: &Processor,
    workspace: &mut Workspace,
    layer: &Linear,
    x: &[f32],
    weight: &[f32],
    dy: &[f32],
    dweight: &mut [f32],
    dbias: &mut [f32],
    dx: Option<&mut [f32]>,
) {
    let Linear { inputs, outputs } = *layer;
    let images = dy.len() / outputs;
    assert!(x.len() == images * inputs && dy.len() == images * outputs, "wrong lengths");
    assert!(weight.len() == inputs * outputs && dweight.len() == weight.len(), "wrong parameters");
    assert_eq!(dbias.len(), outputs, "wrong number of biases");
    processor.pool.chunks(dbias, PANEL, |panel, dbias| {
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
    {
        let (workers, _) = workspace.split();
        let dweight = &Shared::new(dweight);
        processor.pool.run(inputs.div_ceil(PANEL), |panel, worker| {
            // SAFETY: a worker's memory is its own.
            let (packed, out) = unsafe { workers.part(worker, DEPTH * PANEL, LANES * PANEL) };
            let first = panel * PANEL;
            processor.isa.run(Weights { layer, images, x, dy, first, packed, out, dweight });
        });
    }
    let Some(dx) = dx else { return };
    assert_eq!(dx.len(), x.len(), "dx has the wrong length");
    let factor = Factor { weight, inputs, transposed: false };
    rows_times_factor(processor, workspace, images, dy, factor, dx);
}

/// The second factor `[depth, columns]` of a product: weights `[outputs, inputs]`, or transposed.
#[derive(Clone, Copy)]
struct Factor<'a> {
    weight: &'a [f32],
    inputs: usize,
    transposed: bool,
}

impl Factor<'_> {
    /// Rows and columns.
    fn sides(&self) -> (usize, usize) {
        let outputs = self.weight.len() / self.inputs;
        if self.transposed { (self.inputs, outputs) } else { (outputs, self.inputs) }
    }

    /// Fills `packed` with rows of `width` columns from `first` on, with zeros beyond the last. What
    /// comes after these rows is asked for: runs so short are over before the processor foresees them.
    #[inline(always)]
    fn pack<S: Simd>(
        &self,
        s: S,
        depth: Range<usize>,
        first: usize,
        width: usize,
        packed: &mut [f32],
    ) {
        let (rows, columns) = self.sides();
        packed.fill(0.0);
        let filled = width.min(columns - first);
        if self.transposed {
            for (column, row) in self.weight.chunks_exact(rows).skip(first).take(filled).enumerate()
            {
                ask(s, &row[(depth.end).min(rows)..(depth.end + DEPTH).min(rows)]);
                for (packed, &value) in packed.chunks_exact_mut(width).zip(&row[depth.clone()]) {
                    packed[column] = value;
                }
            }
        } else {
            for (packed, k) in packed.chunks_exact_mut(width).zip(depth) {
                if k + DEPTH < rows {
                    ask(s, &self.weight[(k + DEPTH) * columns + first..][..filled]);
                }
                packed[..filled].copy_from_slice(&self.weight[k * columns + first..][..filled]);
            }
        }
    }
}

/// Asks for the cache lines of `numbers`.
#[inline(always)]
fn ask<S: Simd>(s: S, numbers: &[f32]) {
    for line in numbers.chunks(LANES) {
        s.prefetch(line.as_ptr());
    }
}

/// `c = a * factor` with `a` `[rows, depth]` and `c` `[rows, columns]`.
fn rows_times_factor(
    processor: &Processor,
    workspace: &mut Workspace,
    rows: usize,
    a: &[f32],
    factor: Factor,
    c: &mut [f32],
) {
    let (depth, columns) = factor.sides();
    let (workers, _) = workspace.split();
    let c = &Shared::new(c);
    processor.pool.run(columns.div_ceil(PANEL), |panel, worker| {
        let first = panel * PANEL;
        let width = PANEL.min(columns - first);
        let vectors = width.div_ceil(LANES);
        // SAFETY: a worker's memory is its own.
        let (packed, out) = unsafe { workers.part(worker, DEPTH * PANEL, rows * PANEL) };
        for start in (0..depth).step_by(DEPTH) {
            let depth = DEPTH.min(depth - start);
            // SAFETY: the part was asked for with this length.
            let slice = unsafe { std::slice::from_raw_parts_mut(packed, depth * vectors * LANES) };
            processor.isa.run(Rows { a, factor, start, rows, first, packed: slice, out });
        }
        for row in 0..rows {
            // SAFETY: each task writes its own columns; the results lie one row after another.
            unsafe {
                let to = c.part(row * columns + first, width);
                let from = out.add(row * vectors * LANES);
                to.copy_from_slice(std::slice::from_raw_parts(from, width));
            }
        }
    });
}

/// Numbers of the rows of `a` from `start` on times as many rows of the factor, its columns from `first`
/// on: as many of both as fill `packed`. Added to `out`, unless they are the first.
struct Rows<'a> {
    a: &'a [f32],
    factor: Factor<'a>,
    start: usize,
    rows: usize,
    first: usize,
    packed: &'a mut [f32],
    out: *mut f32,
}

impl Kernel for Rows<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Rows { a, factor, start, rows, first, packed, out } = self;
        let (stride, columns) = factor.sides();
        let vectors = PANEL.min(columns - first).div_ceil(LANES);
        let depth = packed.len() / (vectors * LANES);
        factor.pack(s, start..start + depth, first, vectors * LANES, packed);
        let mut segments = [Segment { offset: 0, len: 0 }; DEPTH / LANES];
        let count = depth.div_ceil(LANES);
        for (i, segment) in segments.iter_mut().enumerate().take(count) {
            *segment = Segment { offset: i * LANES, len: LANES.min(depth - i * LANES) };
        }
        // SAFETY: `a` has `rows` rows of `stride` numbers, of which `start + depth` are there;
        // packed rows and results were made for this shape.
        unsafe {
            let product = Multiply {
                rows,
                vectors,
                a: a.as_ptr().add(start),
                a_row: stride,
                segments: &segments[..count],
                b: packed.as_ptr(),
                c: out,
                c_row: vectors * LANES,
                c_vector: LANES,
                accumulate: start > 0,
                ahead: &Ahead::nothing(),
            };
            product.run(s);
        }
    }
}

/// 64 columns of the weights' gradient, `dy^T x`.
struct Weights<'a> {
    layer: &'a Linear,
    images: usize,
    x: &'a [f32],
    dy: &'a [f32],
    first: usize,
    packed: *mut f32,
    out: *mut f32,
    dweight: &'a Shared<'a, f32>,
}

impl Kernel for Weights<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Weights { layer, images, x, dy, first, packed, out, dweight } = self;
        let Linear { inputs, outputs } = *layer;
        let width = PANEL.min(inputs - first);
        let vectors = width.div_ceil(LANES);
        for start in (0..images).step_by(DEPTH) {
            let depth = DEPTH.min(images - start);
            // SAFETY: the worker's memory was asked for with these lengths; `dy` has `depth` rows from
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
                for output in (0..outputs).step_by(LANES) {
                    let rows = LANES.min(outputs - output);
                    for row in 0..rows {
                        ask(s, dweight.part((output + row) * inputs + first, width));
                    }
                    let correlate = Correlate {
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
                        ahead: &Ahead::nothing(),
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
