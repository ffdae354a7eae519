//! The GEMM of some rows with a packed panel.

use std::marker::PhantomData;

use super::{Precision, STEP, dispatch, load_tile, steps, store_tile, tiles_of_rows};
use crate::prefetch::{Cursor, Prefetch};
use crate::simd::{GemmTile, Kernel, LANES, Segment, Simd};

/// `c (+)= a * b` for `rows` rows and the columns of one register tile.
pub(crate) struct PanelGemm<'a> {
    pub rows: usize,
    /// Vectors of columns: those of a tile of the panel's [`Packing`], or some of them.
    pub vectors: usize,
    pub a: *const f32,
    /// Numbers from a row of `a` to the next.
    pub a_row: usize,
    pub segments: &'a [Segment],
    /// Where the tile's row of the first `k` lies in the packed panel.
    pub b: *const f32,
    /// Numbers from a row of `b` to the next.
    pub b_row: usize,
    /// Numbers from what is read of `b` to what is prefetched of it meanwhile; 0 for nothing: see [`ahead`].
    pub b_ahead: usize,
    pub c: *mut f32,
    /// Numbers from a row of `c` to the next.
    pub c_row: usize,
    /// Numbers from a vector of `c` to the next.
    pub c_vector: usize,
    /// Whether to add to what is in `c`.
    pub accumulate: bool,
    /// What is prefetched meanwhile, a step for each segment of a register tile of [`PANEL`] columns.
    pub prefetch: &'a Prefetch,
}

/// Multiplying so few rows takes less time than reading `b` from beyond the second-level cache.
pub(crate) const FEW_ROWS: usize = 32;

/// How many numbers ahead to prefetch `b`, where `rows` rows of `a` are multiplied with `len` numbers of it before the next
/// ones: where there are few rows, by `len`; else not at all.
#[inline(always)]
pub(crate) fn ahead(rows: usize, len: usize) -> usize {
    if rows <= FEW_ROWS { len } else { 0 }
}

impl PanelGemm<'_> {
    /// # Safety
    /// Every number that the description reaches lies in memory that may be read (`a`, `b`) or
    /// written (`c`), and nobody else is at `c`.
    #[inline(always)]
    pub(crate) unsafe fn run<S: Simd, P: Precision>(&self, s: S, _: P) {
        let width = self.vectors;
        // Where register tiles are one vector wide, they have all columns of a packed tile; others may have some of them.
        let is_whole = S::ROWS[1] == 0 || self.b_row == width * LANES;
        let is_usual = P::K == 1
            && is_whole
            && self.b_ahead == 0
            && !self.segments.is_empty()
            && self.segments.iter().all(|segment| segment.len == LANES);
        for (row, rows, count) in tiles_of_rows(self.rows, S::ROWS[width - 1]) {
            let tiles =
                Tiles { gemm: self, row, count, is_whole, is_usual, precision: PhantomData::<P> };
            dispatch!(s, RegisterTiles, rows, width, tiles);
        }
    }
}

/// Some register tiles of a GEMM, one below the other.
struct Tiles<'a, P> {
    gemm: &'a PanelGemm<'a>,
    /// Where the first begins, and how many there are.
    row: usize,
    count: usize,
    /// Whether they have all columns of a packed tile.
    is_whole: bool,
    /// Whether all segments are whole, too, and nothing of `b` is prefetched.
    is_usual: bool,
    precision: PhantomData<P>,
}

struct RegisterTiles<'a, P, const R: usize, const W: usize>(Tiles<'a, P>);

impl<P: Precision, const R: usize, const W: usize> Kernel for RegisterTiles<'_, P, R, W> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Tiles { gemm, row, count, is_usual, .. } = self.0;
        let &PanelGemm { a_row, segments, b, c_row, accumulate, .. } = gemm;
        let mut prefetch = gemm.prefetch.cursor();
        for row in (0..count).map(|tile| row + tile * R) {
            prefetch.turn();
            // SAFETY: `PanelGemm::run`'s promise; the tiles lie within the rows.
            unsafe {
                let (a, c) = (gemm.a.add(row * a_row), gemm.c.add(row * c_row));
                let tile = GemmTile { a, a_row, segments, b, c, c_row, accumulate };
                if W == 1 && is_usual && s.gemm_tile::<R>(&tile) {
                    prefetch.steps(s, segments.len().div_ceil(STEP));
                } else {
                    self.tile(s, a, c, &mut prefetch);
                }
            }
        }
        prefetch.done();
    }
}

impl<P: Precision, const R: usize, const W: usize> RegisterTiles<'_, P, R, W> {
    /// One of them.
    ///
    /// # Safety
    /// `PanelGemm::run`'s promise; `a` and `c` are at one of its rows, of which `R` are left.
    #[inline(always)]
    unsafe fn tile<S: Simd>(&self, s: S, a: *const f32, c: *mut f32, prefetch: &mut Cursor) {
        let Tiles { gemm, is_whole, .. } = self.0;
        let &PanelGemm { a_row, mut b, b_ahead: ahead, c_row, c_vector, .. } = gemm;
        let b_row = if is_whole { W * LANES } else { gemm.b_row };
        // SAFETY: the caller's promise.
        unsafe {
            let mut sums = load_tile::<S, R, W>(s, c, c_row, c_vector, gemm.accumulate);
            for (index, segment) in gemm.segments.iter().enumerate() {
                if index.is_multiple_of(STEP / W) {
                    prefetch.steps(s, 1);
                }
                let a = a.add(segment.offset);
                let sums = &mut sums;
                // The usual length and distances as constants: the loop is unrolled, and addresses cost no instructions.
                let block = P::BLOCK;
                match (segment.len == block, a_row == block, is_whole) {
                    (true, true, true) => {
                        let strides = [[1, block], [W * LANES, LANES]];
                        steps::<S, P, R, W>(s, block, a, b, strides, ahead, sums)
                    }
                    (true, false, true) => {
                        let strides = [[1, a_row], [W * LANES, LANES]];
                        steps::<S, P, R, W>(s, block, a, b, strides, ahead, sums)
                    }
                    _ => {
                        let strides = [[1, a_row], [b_row, LANES]];
                        steps::<S, P, R, W>(s, segment.len, a, b, strides, ahead, sums)
                    }
                }
                b = b.add(segment.len * b_row);
            }
            store_tile(s, c, c_row, c_vector, &sums);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Number, numbers};
    use super::super::{Bf16, F32, Packing};
    use super::*;
    use crate::Isa;

    /// A GEMM of so many rows and vectors of columns, with segments of these lengths, the rows of `a` and of `c` so many
    /// numbers apart, added to what is there or not.
    struct CheckGemm<P> {
        rows: usize,
        vectors: usize,
        lens: Vec<usize>,
        a_row: usize,
        c_row: usize,
        accumulate: bool,
        precision: P,
    }

    impl<P: Number> Kernel for CheckGemm<P> {
        type Output = ();
        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            let CheckGemm { rows, vectors, lens, a_row, c_row, accumulate, precision } = self;
            let depth: usize = lens.iter().sum();
            // Segments lie one after another, each with all rows.
            let mut end = 0;
            let segments: Vec<Segment> = lens
                .iter()
                .map(|&len| {
                    let offset = end;
                    end += rows * a_row + len;
                    Segment { offset, len }
                })
                .collect();
            let (a, packed) = (P::matrix(end, 1), P::matrix(depth * vectors * LANES, 2));
            for (columns, at) in Packing::new::<S>(vectors, depth).tiles() {
                let (some, c_vector) = (columns.len() / LANES, rows * c_row);
                let before = numbers(some * c_vector + LANES, 3);
                let (mut c, mut expected) = (before.clone(), before);
                for (row, column) in (0..rows).flat_map(|r| (0..columns.len()).map(move |n| (r, n)))
                {
                    let at_c = column / LANES * c_vector + row * c_row + column % LANES;
                    let mut sum = if accumulate { expected[at_c] } else { 0.0 };
                    let mut k = 0;
                    for segment in &segments {
                        for i in 0..segment.len {
                            let b = packed[at + k * columns.len() + column];
                            sum += P::product(a[segment.offset + row * a_row + i], b);
                            k += 1;
                        }
                    }
                    expected[at_c] = sum;
                }
                let gemm = PanelGemm {
                    rows,
                    vectors: some,
                    a: a.as_ptr(),
                    a_row,
                    segments: &segments,
                    b: packed[at..].as_ptr(),
                    b_row: columns.len(),
                    b_ahead: 0,
                    c: c.as_mut_ptr(),
                    c_row,
                    c_vector,
                    accumulate,
                    prefetch: &Prefetch::nothing(),
                };
                // SAFETY: the memory was made for these distances.
                unsafe { gemm.run(s, precision) };
                assert_eq!(c, expected, "{rows} rows, {lens:?}, {a_row}, {c_row}, {accumulate}");
            }
        }
    }

    fn check<P: Number>(
        isa: Isa,
        rows: usize,
        vectors: usize,
        lens: &[usize],
        [a_row, c_row]: [usize; 2],
        accumulate: bool,
        precision: P,
    ) {
        let lens = lens.to_vec();
        P::run(isa, CheckGemm { rows, vectors, lens, a_row, c_row, accumulate, precision });
    }

    #[test]
    fn register_tiles_are_products() {
        for isa in Isa::available() {
            for (rows, lens) in (1..=14)
                .flat_map(|rows| [vec![16, 16, 16], vec![16, 3], vec![16; 5]].map(|l| (rows, l)))
            {
                let (a_row, c_row) = [(LANES, LANES), (32, 16), (37, 48)][rows % 3];
                for (vectors, accumulate) in [(4, false), (3, true), (2, false), (1, true)] {
                    check(isa, rows, vectors, &lens, [a_row, c_row], accumulate, F32);
                    let words: Vec<usize> = lens.iter().map(|len| len.div_ceil(2)).collect();
                    let rows_of = [[a_row, c_row], [LANES / 2, c_row]][vectors % 2];
                    check(isa, rows, vectors, &words, rows_of, accumulate, Bf16);
                }
            }
        }
    }
}
