//! The same with the first matrix transposed.

use std::marker::PhantomData;

use super::{Precision, STEP, dispatch, load_tile, steps, store_tile, tile_width, tiles_of_rows};
use crate::prefetch::{Cursor, Prefetch};
use crate::simd::{GemmTnTile, Kernel, LANES, Simd};

/// `c (+)= a^T * b` for up to sixteen rows, which are neighbours in `a`, and `vectors` vectors of
/// columns. `k` runs over `lines` lines of `len` numbers.
pub(crate) struct PanelGemmTn<'a> {
    pub rows: usize,
    pub vectors: usize,
    pub lines: usize,
    pub len: usize,
    pub a: *const f32,
    /// Numbers from `k` to `k + 1` in `a`, and from line to line.
    pub a_step: usize,
    pub a_line: usize,
    pub b: *const f32,
    /// Numbers from `k` to `k + 1` in `b`, from line to line, and from vector to vector.
    pub b_step: usize,
    pub b_line: usize,
    pub b_vector: usize,
    pub c: *mut f32,
    /// Numbers from a row of `c` to the next; its vectors follow one another.
    pub c_row: usize,
    /// Whether to add to what is in `c`.
    pub accumulate: bool,
    /// What is prefetched meanwhile, a step for each sixteen `k` of a register tile of [`PANEL`] columns.
    pub prefetch: &'a Prefetch,
}

impl PanelGemmTn<'_> {
    /// # Safety
    /// Every number that the description reaches lies in memory that may be read (`a`, `b`) or
    /// written (`c`), and nobody else is at `c`.
    #[inline(always)]
    pub(crate) unsafe fn run<S: Simd, P: Precision>(&self, s: S, _: P) {
        // A tile has all vectors where it can have more than one.
        let width = tile_width::<S>(self.vectors);
        assert!(self.vectors.is_multiple_of(width), "vectors that fill no tile of columns");
        for (row, rows, count) in tiles_of_rows(self.rows, S::ROWS[width - 1]) {
            let tiles = TilesTn { gemm: self, row, count, precision: PhantomData::<P> };
            dispatch!(s, RegisterTilesTn, rows, width, tiles);
        }
    }
}

/// Some register tiles of a GEMM with `a` transposed, one below the other and side by side.
struct TilesTn<'a, P> {
    gemm: &'a PanelGemmTn<'a>,
    /// Where the first begins, and how many there are.
    row: usize,
    count: usize,
    precision: PhantomData<P>,
}

struct RegisterTilesTn<'a, P, const R: usize, const W: usize>(TilesTn<'a, P>);

impl<P: Precision, const R: usize, const W: usize> Kernel for RegisterTilesTn<'_, P, R, W> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let TilesTn { gemm, row, count, .. } = self.0;
        let &PanelGemmTn { a_line, b_line, lines, len, c_row, accumulate, .. } = gemm;
        let is_usual = P::K == 1
            && gemm.b_step == LANES
            && gemm.a_step.is_multiple_of(LANES)
            && len.is_multiple_of(GemmTnTile::UNROLLED)
            && len * lines > 0;
        let mut prefetch = gemm.prefetch.cursor();
        for vector in (0..gemm.vectors).step_by(W) {
            for row in (0..count).map(|tile| row + tile * R) {
                prefetch.turn();
                // SAFETY: `PanelGemmTn::run`'s promise; the tiles lie within rows and vectors.
                unsafe {
                    let (a, b) = (gemm.a.add(row), gemm.b.add(vector * gemm.b_vector));
                    let c = gemm.c.add(row * c_row + vector * LANES);
                    let tile =
                        GemmTnTile { a, a_line, b, b_line, lines, len, c, c_row, accumulate };
                    if W == 1 && is_usual && s.gemm_tn_tile::<R>(gemm.a_step / LANES, &tile) {
                        prefetch.steps(s, (lines * len).div_ceil(STEP * LANES));
                    } else {
                        Self::tile(s, gemm, a, b, c, &mut prefetch);
                    }
                }
            }
        }
        prefetch.done();
    }
}

impl<P: Precision, const R: usize, const W: usize> RegisterTilesTn<'_, P, R, W> {
    /// One of them.
    ///
    /// # Safety
    /// `PanelGemmTn::run`'s promise; the pointers are at one of its rows and one of its vectors, of which `R` and `W` are
    /// left.
    #[inline(always)]
    unsafe fn tile<S: Simd>(
        s: S,
        gemm: &PanelGemmTn,
        a: *const f32,
        b: *const f32,
        c: *mut f32,
        prefetch: &mut Cursor,
    ) {
        let &PanelGemmTn { a_step, b_step, b_vector, c_row, .. } = gemm;
        // SAFETY: the caller's promise.
        unsafe {
            let mut sums = load_tile::<S, R, W>(s, c, c_row, LANES, gemm.accumulate);
            for line in 0..gemm.lines {
                let (mut a, mut b) = (a.add(line * gemm.a_line), b.add(line * gemm.b_line));
                let mut left = gemm.len;
                while left > 0 {
                    let count = left.min(LANES);
                    left -= count;
                    prefetch.steps(s, 1);
                    let sums = &mut sums;
                    match (count, a_step, b_step) {
                        (LANES, LANES, LANES) => {
                            let strides = [[LANES, 1], [LANES, b_vector]];
                            steps::<S, P, R, W>(s, LANES, a, b, strides, 0, sums)
                        }
                        (count, a_step, b_step) => {
                            let strides = [[a_step, 1], [b_step, b_vector]];
                            steps::<S, P, R, W>(s, count, a, b, strides, 0, sums)
                        }
                    }
                    a = a.wrapping_add(count * a_step);
                    b = b.wrapping_add(count * b_step);
                }
            }
            store_tile(s, c, c_row, LANES, &sums);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Number, numbers};
    use super::super::{Bf16, F32};
    use super::*;
    use crate::Isa;

    /// A GEMM of so many rows and vectors of columns, over lines of so many `k`, which are so many numbers apart in `a`.
    struct CheckGemmTn<P> {
        rows: usize,
        vectors: usize,
        lines: usize,
        len: usize,
        a_step: usize,
        accumulate: bool,
        precision: P,
    }

    impl<P: Number> Kernel for CheckGemmTn<P> {
        type Output = ();
        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            let CheckGemmTn { rows, vectors, lines, len, a_step, accumulate, precision } = self;
            let (a_line, b_line, c_row) = ((len + 1) * a_step, (len + 2) * LANES, 80);
            let b_vector = lines * b_line;
            let a = P::matrix(lines * a_line + rows, 1);
            let b = P::matrix(vectors * b_vector, 2);
            let mut c = numbers(rows * c_row, 3);
            let mut expected = c.clone();
            for (row, column) in (0..rows).flat_map(|r| (0..vectors * LANES).map(move |n| (r, n))) {
                let mut sum = if accumulate { expected[row * c_row + column] } else { 0.0 };
                for (line, k) in (0..lines).flat_map(|line| (0..len).map(move |k| (line, k))) {
                    let vector = column / LANES * b_vector + line * b_line + k * LANES;
                    let b = b[vector + column % LANES];
                    sum += P::product(a[line * a_line + k * a_step + row], b);
                }
                expected[row * c_row + column] = sum;
            }
            let gemm = PanelGemmTn {
                rows,
                vectors,
                lines,
                len,
                a: a.as_ptr(),
                a_step,
                a_line,
                b: b.as_ptr(),
                b_step: LANES,
                b_line,
                b_vector,
                c: c.as_mut_ptr(),
                c_row,
                accumulate,
                prefetch: &Prefetch::nothing(),
            };
            // SAFETY: the memory was made for these distances.
            unsafe { gemm.run(s, precision) };
            assert_eq!(c, expected, "{rows} rows, {lines} lines of {len}, {a_step}, {accumulate}");
        }
    }

    #[test]
    fn register_tiles_are_products_of_a_transposed_matrix() {
        for isa in Isa::available() {
            for rows in 1..=LANES {
                for (lines, len) in [(1, 64), (3, 16), (5, 8), (2, 7), (1, 24)] {
                    let (a_step, accumulate) = ([16, 32, 48, 19][rows % 4], rows % 2 == 0);
                    let vectors = 1 + (rows + lines) % 4;
                    let precision = F32;
                    let gemm =
                        CheckGemmTn { rows, vectors, lines, len, a_step, accumulate, precision };
                    isa.run(gemm);
                    let precision = Bf16;
                    let gemm =
                        CheckGemmTn { rows, vectors, lines, len, a_step, accumulate, precision };
                    isa.run_bf16(gemm);
                }
            }
        }
    }
}
