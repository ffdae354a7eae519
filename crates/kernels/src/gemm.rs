//! GEMM of matrices in row-major order.
//!
//! A task takes a panel of 64 columns of the result, or fewer for many threads. It packs 128 rows of the right-hand
//! matrix at a time (32 KiB: the first-level cache), and multiplies the rows of the left-hand matrix with them in place.

use std::ops::Range;

use crate::Processor;
use crate::disjoint_slice::DisjointSlice;
use crate::micro_kernel::{F32, PANEL, Packing, PanelGemm};
use crate::prefetch::Prefetch;
use crate::simd::{Kernel, LANES, Segment, Simd};
use crate::workspace::{Workers, WorkspaceSize};

/// Numbers of `k` that are packed and multiplied in one go.
pub(crate) const DEPTH: usize = 128;

/// The working memory of [`gemm()`] for results with this many rows.
pub(crate) fn workspace_size(rows: usize) -> WorkspaceSize {
    WorkspaceSize { worker: DEPTH * PANEL + rows * PANEL, shared: 0 }
}

/// The right-hand matrix `[depth, columns]`: a row-major matrix whose rows have `width` numbers, or its
/// transpose.
#[derive(Clone, Copy)]
pub(crate) struct Rhs<'a> {
    pub matrix: &'a [f32],
    pub width: usize,
    pub transposed: bool,
}

impl Rhs<'_> {
    /// Rows and columns.
    fn sides(&self) -> (usize, usize) {
        let height = self.matrix.len() / self.width;
        if self.transposed { (self.width, height) } else { (height, self.width) }
    }

    /// Fills `packed` with a panel of rows of `width` columns from `first` on, with zeros beyond the last. What
    /// comes after these rows is prefetched: runs so short are over before the processor's own prefetcher
    /// notices them.
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
        for (tile, at) in Packing::new::<S>(width / LANES, depth.len()).tiles() {
            let (width, first) = (tile.len(), first + tile.start);
            let filled = width.min(columns.saturating_sub(first));
            let packed = &mut packed[at..][..depth.len() * width];
            if self.transposed {
                let lines = self.matrix.chunks_exact(rows).skip(first).take(filled);
                for (column, row) in lines.enumerate() {
                    prefetch(s, &row[(depth.end).min(rows)..(depth.end + DEPTH).min(rows)]);
                    for (packed, &value) in packed.chunks_exact_mut(width).zip(&row[depth.clone()])
                    {
                        packed[column] = value;
                    }
                }
            } else {
                for (packed, k) in packed.chunks_exact_mut(width).zip(depth.clone()) {
                    if k + DEPTH < rows {
                        prefetch(s, &self.matrix[(k + DEPTH) * columns + first..][..filled]);
                    }
                    packed[..filled].copy_from_slice(&self.matrix[k * columns + first..][..filled]);
                }
            }
        }
    }
}

/// Prefetches the cache lines of `numbers`.
#[inline(always)]
pub(crate) fn prefetch<S: Simd>(s: S, numbers: &[f32]) {
    for line in numbers.chunks(LANES) {
        s.prefetch_l2(line.as_ptr());
    }
}

/// `c = a * rhs` for `a` `[rows, depth]` and `c` `[rows, columns]`: see [`workspace_size`].
pub(crate) fn gemm(
    processor: &Processor,
    workers: &Workers,
    rows: usize,
    a: &[f32],
    rhs: Rhs,
    c: &mut [f32],
) {
    let (depth, columns) = rhs.sides();
    assert!(a.len() == rows * depth && c.len() == rows * columns, "wrong lengths");
    let c = &DisjointSlice::new(c);
    // Narrower panels where threads would be without work.
    let mut panel = PANEL;
    while panel > LANES && processor.pool.are_too_few(columns.div_ceil(panel)) {
        panel /= 2;
    }
    processor.pool.run(columns.div_ceil(panel), rows * depth * columns, |index, worker| {
        let first = index * panel;
        let width = panel.min(columns - first);
        let vectors = width.div_ceil(LANES);
        // SAFETY: a worker's memory is its own.
        let (packed, out) = unsafe { workers.part(worker, DEPTH * PANEL, rows * PANEL) };
        for start in (0..depth).step_by(DEPTH) {
            let depth = DEPTH.min(depth - start);
            // SAFETY: the part has this length.
            let slice = unsafe { std::slice::from_raw_parts_mut(packed, depth * vectors * LANES) };
            processor.isa.run(PanelRows { a, rhs, start, rows, first, width, packed: slice, out });
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

/// The numbers of all rows of `a` from `start` on, times the rows of the right-hand matrix from `start` on,
/// its columns from `first` on: as many `k` as fill `packed`. Added to `out`, unless they are the first.
struct PanelRows<'a> {
    a: &'a [f32],
    rhs: Rhs<'a>,
    start: usize,
    rows: usize,
    first: usize,
    width: usize,
    packed: &'a mut [f32],
    out: *mut f32,
}

impl Kernel for PanelRows<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let PanelRows { a, rhs, start, rows, first, width, packed, out } = self;
        let (stride, _) = rhs.sides();
        let vectors = width.div_ceil(LANES);
        let depth = packed.len() / (vectors * LANES);
        rhs.pack(s, start..start + depth, first, vectors * LANES, packed);
        let mut segments = [Segment { offset: 0, len: 0 }; DEPTH / LANES];
        let count = depth.div_ceil(LANES);
        for (i, segment) in segments.iter_mut().enumerate().take(count) {
            *segment = Segment { offset: i * LANES, len: LANES.min(depth - i * LANES) };
        }
        for (columns, at) in Packing::new::<S>(vectors, depth).tiles() {
            // SAFETY: `a` has `rows` rows of `stride` numbers, of which `start + depth` are there;
            // packed rows and results were made for this shape.
            unsafe {
                let gemm = PanelGemm {
                    rows,
                    vectors: columns.len() / LANES,
                    a: a.as_ptr().add(start),
                    a_row: stride,
                    segments: &segments[..count],
                    b: packed.as_ptr().add(at),
                    b_row: columns.len(),
                    b_ahead: 0,
                    c: out.add(columns.start),
                    c_row: vectors * LANES,
                    c_vector: LANES,
                    accumulate: start > 0,
                    prefetch: &Prefetch::nothing(),
                };
                gemm.run(s, F32);
            }
        }
    }
}
