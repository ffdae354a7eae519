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
//!
//! Both compute in either [`Precision`]. What is said of numbers and of `k` holds for words of 32 bits: in bfloat16 a
//! word is a pair of numbers, and two `k` are one.

mod panel_gemm;
mod panel_gemm_tn;
mod precision;

use std::ops::Range;

use crate::simd::{Kernel, LANES, Simd};

pub(crate) use panel_gemm::{FEW_ROWS, PanelGemm, ahead};
pub(crate) use panel_gemm_tn::PanelGemmTn;
pub(crate) use precision::{Bf16, F32, Precision};

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

/// A step of prefetching is for so many segments of a register tile of one vector of columns, or half as many of two.
const STEP: usize = 4;

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
            $($r if const { $r <= S::ROWS[$w - 1] } => $s.call($tile::<'_, _, $r, $w>($operands)),)*
            _ => unreachable!("more rows than the instruction set has registers for"),
        }
    };
}
use dispatch;

/// Register tiles of so many rows at most, as equal as can be: seven rows are four and three, not six and one. For each
/// kind, the larger first: where it begins, the rows of a tile, and how many tiles there are.
#[inline(always)]
fn tiles_of_rows(rows: usize, most: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    let tiles = rows.div_ceil(most).max(1);
    let (less, larger) = (rows / tiles, rows % tiles);
    let kinds = [(0, less + 1, larger), (larger * (less + 1), less, tiles - larger)];
    kinds.into_iter().filter(|&(_, rows, count)| rows * count > 0)
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

/// `len` `k` of a register tile: `sums[r][w] += a[k, r] * b[k, w]`. Strides, of `a` and of `b`, are numbers from `k` to
/// `k + 1`, and from row to row or from vector to vector. What is so many numbers `ahead` in `b` is prefetched.
///
/// # Safety
/// All of them lie within memory that may be read.
#[inline(always)]
unsafe fn steps<S: Simd, P: Precision, const R: usize, const W: usize>(
    s: S,
    len: usize,
    mut a: *const f32,
    mut b: *const f32,
    [a_strides, b_strides]: [[usize; 2]; 2],
    ahead: usize,
    sums: &mut [[S::V; W]; R],
) {
    for _ in 0..len / UNROLLED {
        if ahead > 0 {
            for k in 0..UNROLLED {
                for w in 0..W {
                    s.prefetch_l2(b.wrapping_add(k * b_strides[0] + w * b_strides[1] + ahead));
                }
            }
        }
        for k in 0..UNROLLED {
            // SAFETY: the caller's promise.
            unsafe {
                step::<S, P, R, W>(
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
        unsafe { step::<S, P, R, W>(s, a, a_strides[1], b, b_strides[1], sums) };
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
unsafe fn step<S: Simd, P: Precision, const R: usize, const W: usize>(
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
            *sum = P::multiply_add(s, spread, column, *sum);
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Small whole numbers, whose sums are exact in any order.
    pub fn numbers(count: usize, seed: usize) -> Vec<f32> {
        (0..count).map(|i| ((i * 7 + seed) * 31 % 97 % 9) as f32 - 4.0).collect()
    }

    /// A precision whose words hold small whole numbers.
    pub trait Number: Precision {
        /// So many words of small whole numbers.
        fn matrix(count: usize, seed: usize) -> Vec<f32>;
        /// What `multiply_add` adds for each number of a vector.
        fn product(a: f32, b: f32) -> f32;
    }

    impl Number for F32 {
        fn matrix(count: usize, seed: usize) -> Vec<f32> {
            numbers(count, seed)
        }
        fn product(a: f32, b: f32) -> f32 {
            a * b
        }
    }

    impl Number for Bf16 {
        fn matrix(count: usize, seed: usize) -> Vec<f32> {
            let numbers = numbers(2 * count, seed);
            let pair = |pair: &[f32]| f32::from_bits(pair[1].to_bits() | pair[0].to_bits() >> 16);
            numbers.chunks(2).map(pair).collect()
        }
        fn product(a: f32, b: f32) -> f32 {
            let halves = |word: f32| {
                [word.to_bits() << 16, word.to_bits() & 0xffff_0000].map(f32::from_bits)
            };
            halves(a).iter().zip(halves(b)).map(|(a, b)| a * b).sum()
        }
    }

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
