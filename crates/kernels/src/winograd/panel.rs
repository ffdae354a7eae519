//! The GEMMs of one panel of packed weights: of all tiles in the domain with up to 64 columns, or some blocks of them.

use std::ops::Range;

use super::Geometry;
use super::domain::Domain;
use super::weights::gradient_stride;
use crate::MapShape;
use crate::micro_kernel::{FEW_ROWS, PANEL, Packing, PanelGemm, PanelGemmTn, Precision, ahead};
use crate::partition::{intersection, split_range};
use crate::prefetch::Prefetch;
use crate::simd::{Kernel, LANES, Segment, Simd};

/// Words that are multiplied in one go: a panel of 64 columns of so many fills 32 KiB.
const DEPTH: usize = 128;

/// The GEMM of one element of all tiles with a panel of packed weights, `c = a u`: `M` from `V`, or `dV`
/// from `dM`.
///
/// Whoever makes one promises that both domains have the element and their maps' blocks, that `packed`
/// are the weights of the element, and that no other thread is at these blocks of `c`.
pub(super) struct DomainGemm<'a, P> {
    pub a: Domain,
    pub a_shape: MapShape,
    pub packed: *const f32,
    pub c: Domain,
    pub c_shape: MapShape,
    pub element: usize,
    /// Which of them are the columns, all in one panel.
    pub blocks: Range<usize>,
    pub prefetch: &'a Prefetch,
    /// What is multiplied next, to be prefetched: as many numbers as there are weights. Where there are few tiles, all
    /// weights are prefetched anyway.
    pub next: Option<*const f32>,
    pub precision: P,
}

/// Blocks of a row that are multiplied in one go, at most: see [`DEPTH`].
const MOST_BLOCKS: usize = 2 * DEPTH / LANES;

impl<P: Precision> Kernel for DomainGemm<'_, P> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let blocks_at_once = P::K * DEPTH / LANES;
        let DomainGemm { a, a_shape, packed, c, c_shape, element, blocks, prefetch, .. } = self;
        let panel = blocks.start - blocks.start % (PANEL / LANES);
        let vectors = (c_shape.blocks() - panel).min(PANEL / LANES);
        let depth = a_shape.channels / P::K;
        let packed = packed.wrapping_add(panel * LANES * depth);
        if let Some(next) = self.next.filter(|_| a.rows > FEW_ROWS) {
            let steps = a.rows.div_ceil(6) * a_shape.blocks();
            prefetch.near(next, depth * blocks.len() * LANES, steps);
        }
        for (columns, at) in Packing::new::<S>(vectors, depth).tiles() {
            let tile = panel + columns.start / LANES..panel + columns.end / LANES;
            let some = intersection(&tile, &blocks);
            if some.is_empty() {
                continue;
            }
            let before = (some.start - tile.start) * LANES;
            for first in (0..a_shape.blocks()).step_by(blocks_at_once) {
                let count = blocks_at_once.min(a_shape.blocks() - first);
                let mut segments = [Segment { offset: 0, len: 0 }; MOST_BLOCKS];
                for (block, segment) in (first..first + count).zip(&mut segments) {
                    let len = a_shape.lanes(block) / P::K;
                    *segment = Segment { offset: block * a.block_stride, len };
                }
                // SAFETY: the promise above.
                unsafe {
                    let multiply = PanelGemm {
                        rows: a.rows,
                        vectors: some.len(),
                        a: a.at(element, 0, 0),
                        a_row: a.row_len,
                        segments: &segments[..count],
                        b: packed.add(at + first * P::BLOCK * columns.len() + before),
                        b_row: columns.len(),
                        // Packed weights are read from the first to the last.
                        b_ahead: ahead(a.rows, count * P::BLOCK * columns.len()),
                        c: c.at(element, some.start, 0),
                        c_row: c.row_len,
                        c_vector: c.block_stride,
                        accumulate: first > 0,
                        prefetch,
                    };
                    multiply.run(s, self.precision);
                }
            }
        }
    }
}

/// One element's gradient of the weights, `du = v^T dm`, for some of the input's channels and of the output's.
///
/// Whoever makes one promises that both domains have the element and their maps' blocks, that `du` has room for these
/// channels, and that no other thread is at them.
pub(super) struct DomainGemmTn<'a, P> {
    pub v: Domain,
    pub dm: Domain,
    pub input: MapShape,
    pub element: usize,
    /// Blocks of the input's channels, all in one panel.
    pub blocks: Range<usize>,
    /// Blocks of the output's channels.
    pub columns: Range<usize>,
    /// The sum of the first of them with the first column.
    pub du: *mut f32,
    /// Numbers from a channel of the input to the next.
    pub du_row: usize,
    pub accumulate: bool,
    pub prefetch: &'a Prefetch,
    /// What is needed next, to be prefetched, and how many numbers.
    pub next: (*const f32, usize),
    pub precision: P,
}

impl<'a, P: Precision> DomainGemmTn<'a, P> {
    /// For all columns, to the place in a sum of all elements and channels, `[element][input channel][output channel]`.
    /// `packed` are the weights of the element, which are multiplied with next.
    #[allow(clippy::too_many_arguments)]
    #[inline(always)]
    pub fn to_sum(
        geometry: &Geometry,
        v: Domain,
        dm: Domain,
        sum: *mut f32,
        element: usize,
        blocks: Range<usize>,
        packed: *const f32,
        prefetch: &'a Prefetch,
        precision: P,
    ) -> Self {
        let Geometry { input, output, .. } = *geometry;
        let du_row = output.padded_channels();
        let first = blocks.start * LANES;
        let at = element * gradient_stride(input.channels, du_row) + first * du_row;
        let depth = output.channels / P::K;
        let next = (packed.wrapping_add(first * depth), blocks.len() * LANES * depth);
        DomainGemmTn {
            v,
            dm,
            input,
            element,
            blocks,
            columns: 0..output.blocks(),
            du: sum.wrapping_add(at),
            du_row,
            accumulate: false,
            prefetch,
            next,
            precision,
        }
    }
}

impl<P: Precision> Kernel for DomainGemmTn<'_, P> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let DomainGemmTn { v, dm, input, element, blocks, columns, du, du_row, prefetch, .. } =
            self;
        let rows = blocks.len() * LANES;
        let vectors = columns.len().div_ceil(PANEL / LANES);
        let steps = rows.div_ceil(6) * vectors * v.rows.div_ceil(LANES);
        prefetch.near(self.next.0, self.next.1, steps);
        // So much of `dm` at once as stays in the first-level cache for all blocks of `v`.
        let chunks = v.rows.div_ceil(DEPTH);
        for (chunk, vector) in pairs(chunks, vectors) {
            let (some, vector) = (split_range(v.rows, chunks, chunk), vector * (PANEL / LANES));
            for block in blocks.clone() {
                // SAFETY: the promise above.
                unsafe {
                    let correlate = PanelGemmTn {
                        rows: input.lanes(block),
                        vectors: (columns.len() - vector).min(PANEL / LANES),
                        lines: 1,
                        len: some.len(),
                        a: v.at(element, block, some.start),
                        a_step: v.row_len,
                        a_line: 0,
                        b: dm.at(element, columns.start + vector, some.start),
                        b_step: dm.row_len,
                        b_line: 0,
                        b_vector: dm.block_stride,
                        c: du.add((block - blocks.start) * LANES * du_row + vector * LANES),
                        c_row: du_row,
                        accumulate: self.accumulate || chunk > 0,
                        prefetch,
                    };
                    correlate.run(s, self.precision);
                }
            }
        }
    }
}

/// All pairs of a number below `a` and one below `b`, the second changing faster.
fn pairs(a: usize, b: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..a).flat_map(move |i| (0..b).map(move |j| (i, j)))
}
