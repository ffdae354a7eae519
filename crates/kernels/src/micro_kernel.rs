//! The GEMM micro-kernels, in whose register tiles nearly all the arithmetic of training happens.
//!
//! [`PanelGemm`] is `c[r, n] = sum over k of a[r, k] * b[k, n]`: `a` is read one number at a time and
//! spread over a vector, `b` in vectors of sixteen `n`. [`PanelGemmTn`] is the same with `a` transposed,
//! `c[r, n] = sum over k of a[k, r] * b[k, n]`: the gradients of weights. A register tile is
//! [`Simd::ROWS`] rows by one to four vectors of columns, as many as the registers hold (AVX-512: six
//! rows of 64 columns in 24 of 32 registers; fewer loads a multiplication than 12 x 32 or 14 x 32).
//!
//! Rows of `a` may begin anywhere and go on in *segments* of up to sixteen `k` (a block of channels, a
//! filter tap). `b` is packed in panels of up to 64 columns, and those as register tiles read them: first all `k` of
//! the columns of one tile, then those of the next ([`Packing`]). Rows of 64 numbers of which a tile reads sixteen
//! would use a quarter of the first-level cache's sets.

use std::ops::Range;

use crate::prefetch::Prefetch;
use crate::simd::{Kernel, LANES, Simd};

/// Columns of a panel of `b`, at most: four vectors.
pub(crate) const PANEL: usize = 4 * LANES;

/// The panels of a matrix with columns for so many blocks: the blocks of each.
pub(crate) fn panels(blocks: usize) -> impl ExactSizeIterator<Item = Range<usize>> {
    (0..blocks.div_ceil(PANEL / LANES)).map(move |index| panel(blocks, index))
}

/// One of them.
pub(crate) fn panel(blocks: usize, index: usize) -> Range<usize> {
    let first = index * (PANEL / LANES);
    first..blocks.min(first + PANEL / LANES)
}

/// A run of `k`: where row 0 of `a` lies for its first `k`, and how many follow one after another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    pub offset: usize,
    pub len: usize,
}

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
    /// What is prefetched meanwhile, a step for each segment of each register tile.
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

/// Calls the kernel `$tile::<rows, width>` for a tile of these extents; the most rows of each width are
/// those of the instruction set that has the most registers.
macro_rules! dispatch {
    ($s:expr, $tile:ident, $rows:expr, $width:expr, $operands:expr) => {
        dispatch!(@widths $s, $tile, $rows, $width, $operands,
            4: [1 2 3 4 5 6], 3: [1 2 3 4 5 6 7 8], 2: [1 2 3 4 5 6 7 8 9 10 11 12],
            1: [1 2 3 4 5 6 7 8 9 10 11 12])
    };
    (@widths $s:expr, $tile:ident, $rows:expr, $width:expr, $operands:expr,
     $($w:literal: $r:tt),*) => {
        match $width {
            $($w => dispatch!(@rows $s, $tile, $rows, $operands, $w, $r),)*
            _ => unreachable!("a tile has one to four vectors"),
        }
    };
    (@rows $s:expr, $tile:ident, $rows:expr, $operands:expr, $w:literal, [$($r:literal)*]) => {
        match $rows {
            $($r if const { $r <= S::ROWS[$w - 1] } => $s.call($tile::<'_, $r, $w>($operands)),)*
            _ => unreachable!("more rows than the instruction set has registers for"),
        }
    };
}

/// Rows of the next register tile, of `left` rows and at most `most` a tile: as equal as can be, seven
/// rows are four and three, not six and one.
#[inline(always)]
fn tile_rows(left: usize, most: usize) -> usize {
    left.div_ceil(left.div_ceil(most))
}

/// Vectors of columns of the next register tile: as many of those `left` as the registers hold.
#[inline(always)]
fn tile_width<S: Simd>(left: usize) -> usize {
    (1..=left.min(4)).rev().find(|&width| S::ROWS[width - 1] > 0).unwrap_or(1)
}

/// How a panel of `b` is packed for an instruction set: `[tile of columns][k][columns]`.
#[derive(Clone, Copy)]
pub(crate) struct Packing {
    /// Vectors of columns of a register tile.
    width: usize,
    /// Of the panel.
    vectors: usize,
    depth: usize,
}

impl Packing {
    /// Of a panel of so many vectors of columns (at most four) and `k`.
    #[inline(always)]
    pub fn new<S: Simd>(vectors: usize, depth: usize) -> Self {
        Packing { width: tile_width::<S>(vectors), vectors, depth }
    }

    /// For each register tile the columns that it has, and where in the packed panel its row of the first `k` begins; the
    /// others follow it, without gaps.
    #[inline(always)]
    pub fn tiles(self) -> impl Iterator<Item = (Range<usize>, usize)> {
        let Packing { width, vectors, depth } = self;
        (0..vectors).step_by(width).map(move |first| {
            let columns = first * LANES..vectors.min(first + width) * LANES;
            (columns, first * LANES * depth)
        })
    }

    /// Where the vector `vector` of a `k` lies.
    #[inline(always)]
    pub fn at(self, k: usize, vector: usize) -> usize {
        let Packing { width, vectors, depth } = self;
        let first = vector / width * width;
        (first * depth + k * width.min(vectors - first) + vector - first) * LANES
    }
}

/// The [`Packing`] for an instruction set that is known only while the program runs.
pub(crate) struct PackingOf {
    pub vectors: usize,
    pub depth: usize,
}

impl Kernel for PackingOf {
    type Output = Packing;
    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> Packing {
        Packing::new::<S>(self.vectors, self.depth)
    }
}

impl PanelGemm<'_> {
    /// # Safety
    /// Every number that the description reaches lies in memory that may be read (`a`, `b`) or
    /// written (`c`), and nobody else is at `c`.
    #[inline(always)]
    pub(crate) unsafe fn run<S: Simd>(&self, s: S) {
        let width = self.vectors;
        let mut row = 0;
        while row < self.rows {
            let rows = tile_rows(self.rows - row, S::ROWS[width - 1]);
            // SAFETY: the caller's promise; the tile lies within the rows.
            let origin = unsafe {
                TileOrigin {
                    gemm: self,
                    a: self.a.add(row * self.a_row),
                    b: self.b,
                    c: self.c.add(row * self.c_row),
                }
            };
            self.prefetch.turn();
            dispatch!(s, RegisterTile, rows, width, origin);
            row += rows;
        }
    }
}

/// Where one register tile of a GEMM begins.
#[derive(Clone, Copy)]
struct TileOrigin<P> {
    gemm: P,
    a: *const f32,
    b: *const f32,
    c: *mut f32,
}

struct RegisterTile<'a, const R: usize, const W: usize>(TileOrigin<&'a PanelGemm<'a>>);

impl<const R: usize, const W: usize> Kernel for RegisterTile<'_, R, W> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let TileOrigin { gemm, a, mut b, c } = self.0;
        // Where register tiles are one vector wide, they have all columns of a packed tile; others may have some of them.
        let is_whole = S::ROWS[1] == 0 || gemm.b_row == W * LANES;
        let b_row = if is_whole { W * LANES } else { gemm.b_row };
        let packed = [W * LANES, LANES];
        let ahead = gemm.b_ahead;
        // SAFETY: `PanelGemm::run`'s promise.
        unsafe {
            let mut sums = load_tile::<S, R, W>(s, c, gemm.c_row, gemm.c_vector, gemm.accumulate);
            for segment in gemm.segments {
                let a = a.add(segment.offset);
                gemm.prefetch.step(s);
                // The usual length and distances as constants: the loop is unrolled, and addresses cost no
                // instructions.
                match (segment.len, gemm.a_row, is_whole) {
                    (LANES, LANES, true) => {
                        steps::<S, R, W>(s, LANES, a, [1, LANES], b, packed, ahead, &mut sums)
                    }
                    (LANES, a_row, true) => {
                        steps::<S, R, W>(s, LANES, a, [1, a_row], b, packed, ahead, &mut sums)
                    }
                    (len, a_row, _) => {
                        let b_strides = [b_row, LANES];
                        steps::<S, R, W>(s, len, a, [1, a_row], b, b_strides, ahead, &mut sums)
                    }
                }
                b = b.add(segment.len * b_row);
            }
            store_tile(s, c, gemm.c_row, gemm.c_vector, &sums);
        }
    }
}

/// `len` `k` of a register tile: `sums[r][w] += a[k, r] * b[k, w]`. Strides are numbers from `k` to `k + 1`, and from
/// row to row or from vector to vector. What is so many numbers `ahead` in `b` is prefetched.
///
/// # Safety
/// All of them lie within memory that may be read.
#[allow(clippy::too_many_arguments)]
#[inline(always)]
unsafe fn steps<S: Simd, const R: usize, const W: usize>(
    s: S,
    len: usize,
    mut a: *const f32,
    a_strides: [usize; 2],
    mut b: *const f32,
    b_strides: [usize; 2],
    ahead: usize,
    sums: &mut [[S::V; W]; R],
) {
    for _ in 0..len / UNROLLED {
        if ahead > 0 {
            for k in 0..UNROLLED {
                for w in 0..W {
                    s.prefetch(b.wrapping_add(k * b_strides[0] + w * b_strides[1] + ahead));
                }
            }
        }
        for k in 0..UNROLLED {
            // SAFETY: the caller's promise.
            unsafe {
                step(
                    s,
                    a.add(k * a_strides[0]),
                    a_strides[1],
                    b.add(k * b_strides[0]),
                    b_strides[1],
                    sums,
                );
            }
        }
        // The last step may lead out of the memory, where nothing is read.
        a = a.wrapping_add(UNROLLED * a_strides[0]);
        b = b.wrapping_add(UNROLLED * b_strides[0]);
    }
    for _ in 0..len % UNROLLED {
        // SAFETY: the caller's promise.
        unsafe { step(s, a, a_strides[1], b, b_strides[1], sums) };
        a = a.wrapping_add(a_strides[0]);
        b = b.wrapping_add(b_strides[0]);
    }
}

/// Steps of a GEMM in a row without a loop.
const UNROLLED: usize = 4;

/// One `k` of a register tile: `sums[r][w] += a[r * a_row] * b[w * b_vector..][..16]`.
///
/// # Safety
/// All of them lie within memory that may be read.
#[inline(always)]
unsafe fn step<S: Simd, const R: usize, const W: usize>(
    s: S,
    a: *const f32,
    a_row: usize,
    b: *const f32,
    b_vector: usize,
    sums: &mut [[S::V; W]; R],
) {
    let mut columns = [s.zero(); W];
    for (w, column) in columns.iter_mut().enumerate() {
        // SAFETY: the caller's promise.
        *column = unsafe { s.load(b.add(w * b_vector)) };
    }
    for (r, sums) in sums.iter_mut().enumerate() {
        // SAFETY: the caller's promise.
        let spread = s.splat(unsafe { *a.add(r * a_row) });
        for (sum, &column) in sums.iter_mut().zip(&columns) {
            *sum = s.fma(spread, column, *sum);
        }
    }
}

/// A register tile of `c`, or zeros.
///
/// # Safety
/// The tile lies within memory that may be read.
#[inline(always)]
unsafe fn load_tile<S: Simd, const R: usize, const W: usize>(
    s: S,
    c: *const f32,
    c_row: usize,
    c_vector: usize,
    accumulate: bool,
) -> [[S::V; W]; R] {
    let mut sums = [[s.zero(); W]; R];
    if accumulate {
        for (r, sums) in sums.iter_mut().enumerate() {
            for (w, sum) in sums.iter_mut().enumerate() {
                // SAFETY: the caller's promise.
                *sum = unsafe { s.load(c.add(r * c_row + w * c_vector)) };
            }
        }
    }
    sums
}

/// # Safety
/// The tile lies within memory that may be written.
#[inline(always)]
unsafe fn store_tile<S: Simd, const R: usize, const W: usize>(
    s: S,
    c: *mut f32,
    c_row: usize,
    c_vector: usize,
    sums: &[[S::V; W]; R],
) {
    for (r, sums) in sums.iter().enumerate() {
        for (w, &sum) in sums.iter().enumerate() {
            // SAFETY: the caller's promise.
            unsafe { s.store(c.add(r * c_row + w * c_vector), sum) };
        }
    }
}

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
    /// What is prefetched meanwhile, a step for each sixteen `k` of each register tile.
    pub prefetch: &'a Prefetch,
}

impl PanelGemmTn<'_> {
    /// # Safety
    /// Every number that the description reaches lies in memory that may be read (`a`, `b`) or
    /// written (`c`), and nobody else is at `c`.
    #[inline(always)]
    pub(crate) unsafe fn run<S: Simd>(&self, s: S) {
        let mut vector = 0;
        while vector < self.vectors {
            let width = tile_width::<S>(self.vectors - vector);
            let mut row = 0;
            while row < self.rows {
                let rows = tile_rows(self.rows - row, S::ROWS[width - 1]);
                // SAFETY: the caller's promise; the tile lies within rows and vectors.
                let origin = unsafe {
                    TileOrigin {
                        gemm: self,
                        a: self.a.add(row),
                        b: self.b.add(vector * self.b_vector),
                        c: self.c.add(row * self.c_row + vector * LANES),
                    }
                };
                self.prefetch.turn();
                dispatch!(s, RegisterTileTn, rows, width, origin);
                row += rows;
            }
            vector += width;
        }
    }
}

struct RegisterTileTn<'a, const R: usize, const W: usize>(TileOrigin<&'a PanelGemmTn<'a>>);

impl<const R: usize, const W: usize> Kernel for RegisterTileTn<'_, R, W> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let TileOrigin { gemm, a, b, c } = self.0;
        // SAFETY: `PanelGemmTn::run`'s promise.
        unsafe {
            let mut sums = load_tile::<S, R, W>(s, c, gemm.c_row, LANES, gemm.accumulate);
            for line in 0..gemm.lines {
                let mut a = a.add(line * gemm.a_line);
                let mut b = b.add(line * gemm.b_line);
                let mut left = gemm.len;
                while left > 0 {
                    let count = left.min(LANES);
                    left -= count;
                    gemm.prefetch.step(s);
                    match (count, gemm.a_step, gemm.b_step) {
                        (LANES, LANES, LANES) => steps::<S, R, W>(
                            s,
                            LANES,
                            a,
                            [LANES, 1],
                            b,
                            [LANES, gemm.b_vector],
                            0,
                            &mut sums,
                        ),
                        (count, a_step, b_step) => steps::<S, R, W>(
                            s,
                            count,
                            a,
                            [a_step, 1],
                            b,
                            [b_step, gemm.b_vector],
                            0,
                            &mut sums,
                        ),
                    }
                    a = a.wrapping_add(count * gemm.a_step);
                    b = b.wrapping_add(count * gemm.b_step);
                }
            }
            store_tile(s, c, gemm.c_row, LANES, &sums);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every vector of every `k` has a place of its own, in the rows of its register tile.
    #[test]
    fn a_packed_panel_has_each_number_once() {
        for (width, vectors, depth) in [(1, 4, 3), (2, 4, 5), (2, 3, 4), (3, 3, 2), (4, 4, 7)] {
            let packing = Packing { width, vectors, depth };
            let mut places = Vec::new();
            for (columns, at) in packing.tiles() {
                for (k, vector) in (0..depth)
                    .flat_map(|k| (columns.start / LANES..columns.end / LANES).map(move |v| (k, v)))
                {
                    let column = vector * LANES - columns.start;
                    assert_eq!(packing.at(k, vector), at + k * columns.len() + column);
                    places.push(packing.at(k, vector));
                }
            }
            let all: Vec<usize> = (0..vectors * depth).map(|place| place * LANES).collect();
            assert_eq!(places, all);
        }
    }
}
