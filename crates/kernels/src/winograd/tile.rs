//! Winograd's minimal filtering F(m x m, 3 x 3): the transforms of one line of a tile.
//!
//! `m` outputs of a filter of three taps are `A^T ((G g) * (B^T d))` with a multiplication for each of
//! `m + 2` points (Winograd 1980; Lavin and Gray, arXiv 1509.09308). Here, with finite points `p_j`:
//!
//! - `A^T[i][j] = p_j^i`, and 1 in the last row for the point at infinity;
//! - `G[j][k] = p_j^k / N_j` with `N_j` the product of `p_j - p_l` over the other points;
//! - row `j` of `B^T` holds the coefficients of the product of `x - p_l` over the other points, and
//!   the last row those over all points.
//!
//! F(4x4) uses the points 0, +-5/8, +-3/2 and infinity, whose error is half of that with 0, +-1, +-2
//! (Barabasz and others, arXiv 1803.10986, on how points decide the error); F(2x2) uses 0, +-1 and
//! infinity. A transform in two dimensions is one of all lines, then of all columns. The gradients
//! need the same matrices transposed: the functions with `adjoint` in their name.

use std::marker::PhantomData;

use super::domain::Operands;
use crate::micro_kernel::F32;
use crate::simd::Simd;

/// A line of a tile; a smaller one leaves the rest alone.
pub(super) type Line<V> = [V; 6];

/// The transforms of one line, for one size of tiles.
pub(super) trait Tile: Copy + Send + Sync {
    /// In which elements are multiplied.
    type Precision: Operands;
    /// Outputs of a line: `m`.
    const OUTPUTS: usize;
    /// Inputs of a line, and points: `m + 2`.
    const POINTS: usize;
    /// Elements of a transformed tile, each with a multiplication (over the batch, a GEMM) of its own.
    const ELEMENTS: usize = Self::POINTS * Self::POINTS;

    /// `B^T d`: from inputs to points.
    fn input<S: Simd>(s: S, d: Line<S::V>) -> Line<S::V>;
    /// `B t`: from points to inputs.
    fn input_adjoint<S: Simd>(s: S, t: Line<S::V>) -> Line<S::V>;
    /// `A^T t`: from points to outputs.
    fn output<S: Simd>(s: S, t: Line<S::V>) -> Line<S::V>;
    /// `A y`: from outputs to points.
    fn output_adjoint<S: Simd>(s: S, y: Line<S::V>) -> Line<S::V>;
    /// `G g`: from three taps to points.
    fn filter<S: Simd>(s: S, g: [S::V; 3]) -> Line<S::V>;
    /// `G^T u`: from points to three taps.
    fn filter_adjoint<S: Simd>(s: S, u: Line<S::V>) -> [S::V; 3];
}

/// F(4x4, 3x3): 36 multiplications where direct convolution has 144.
#[derive(Clone, Copy)]
pub(super) struct F4<Precision>(PhantomData<Precision>);

/// The points of F(4x4) are 0, +-P, +-Q and infinity.
const P: f32 = 5.0 / 8.0;
const Q: f32 = 3.0 / 2.0;
const P2: f32 = P * P;
const Q2: f32 = Q * Q;

impl<Precision: Operands> Tile for F4<Precision> {
    type Precision = Precision;
    const OUTPUTS: usize = 4;
    const POINTS: usize = 6;

    #[inline(always)]
    fn input<S: Simd>(s: S, d: Line<S::V>) -> Line<S::V> {
        let (p, q, p2, q2) = (s.splat(P), s.splat(Q), s.splat(P2), s.splat(Q2));
        // The rows of +p and -p share their even and their odd half; those of +q and -q too.
        let (even, odd) = (s.fnma(q2, d[2], d[4]), s.fnma(q2, d[1], d[3]));
        let (even_q, odd_q) = (s.fnma(p2, d[2], d[4]), s.fnma(p2, d[1], d[3]));
        let both = s.splat(P2 * Q2);
        [
            // d4 - (p2 + q2) d2 + p2 q2 d0
            s.fma(both, d[0], s.fnma(p2, d[2], even)),
            s.fma(p, odd, even),
            s.fnma(p, odd, even),
            s.fma(q, odd_q, even_q),
            s.fnma(q, odd_q, even_q),
            // d5 - (p2 + q2) d3 + p2 q2 d1
            s.fma(both, d[1], s.fnma(s.splat(P2 + Q2), d[3], d[5])),
        ]
    }

    #[inline(always)]
    fn input_adjoint<S: Simd>(s: S, t: Line<S::V>) -> Line<S::V> {
        let (p, q, p2, q2) = (s.splat(P), s.splat(Q), s.splat(P2), s.splat(Q2));
        let (sum, difference) = (s.add(t[1], t[2]), s.sub(t[1], t[2]));
        let (sum_q, difference_q) = (s.add(t[3], t[4]), s.sub(t[3], t[4]));
        let (both, total) = (s.splat(P2 * Q2), s.splat(P2 + Q2));
        // p (t1 - t2) and q (t3 - t4)
        let (odd, odd_q) = (s.mul(p, difference), s.mul(q, difference_q));
        [
            s.mul(both, t[0]),
            s.fnma(p2, odd_q, s.fnma(q2, odd, s.mul(both, t[5]))),
            s.fnma(p2, sum_q, s.fnma(q2, sum, s.mul(s.splat(-P2 - Q2), t[0]))),
            s.fnma(total, t[5], s.add(odd, odd_q)),
            s.add(t[0], s.add(sum, sum_q)),
            t[5],
        ]
    }

    #[inline(always)]
    fn output<S: Simd>(s: S, t: Line<S::V>) -> Line<S::V> {
        let (sum, difference) = (s.add(t[1], t[2]), s.sub(t[1], t[2]));
        let (sum_q, difference_q) = (s.add(t[3], t[4]), s.sub(t[3], t[4]));
        let line = [
            s.add(t[0], s.add(sum, sum_q)),
            s.fma(s.splat(P), difference, s.mul(s.splat(Q), difference_q)),
            s.fma(s.splat(P2), sum, s.mul(s.splat(Q2), sum_q)),
            s.fma(s.splat(P * P2), difference, s.fma(s.splat(Q * Q2), difference_q, t[5])),
        ];
        [line[0], line[1], line[2], line[3], s.zero(), s.zero()]
    }

    #[inline(always)]
    fn output_adjoint<S: Simd>(s: S, y: Line<S::V>) -> Line<S::V> {
        let (p, q) = (s.splat(P), s.splat(Q));
        let (even, odd) = (s.fma(s.splat(P2), y[2], y[0]), s.fma(s.splat(P2), y[3], y[1]));
        let (even_q, odd_q) = (s.fma(s.splat(Q2), y[2], y[0]), s.fma(s.splat(Q2), y[3], y[1]));
        [
            y[0],
            s.fma(p, odd, even),
            s.fnma(p, odd, even),
            s.fma(q, odd_q, even_q),
            s.fnma(q, odd_q, even_q),
            y[3],
        ]
    }

    #[inline(always)]
    fn filter<S: Simd>(s: S, g: [S::V; 3]) -> Line<S::V> {
        // 1 / N of the points 0, +-p and +-q.
        let zero = s.splat(1.0 / (P2 * Q2));
        let (at_p, at_q) =
            (s.splat(1.0 / (2.0 * P2 * (P2 - Q2))), s.splat(1.0 / (2.0 * Q2 * (Q2 - P2))));
        let even = s.mul(at_p, s.fma(s.splat(P2), g[2], g[0]));
        let even_q = s.mul(at_q, s.fma(s.splat(Q2), g[2], g[0]));
        let odd = s.mul(at_p, s.mul(s.splat(P), g[1]));
        let odd_q = s.mul(at_q, s.mul(s.splat(Q), g[1]));
        [
            s.mul(zero, g[0]),
            s.add(even, odd),
            s.sub(even, odd),
            s.add(even_q, odd_q),
            s.sub(even_q, odd_q),
            g[2],
        ]
    }

    #[inline(always)]
    fn filter_adjoint<S: Simd>(s: S, u: Line<S::V>) -> [S::V; 3] {
        let zero = s.splat(1.0 / (P2 * Q2));
        let (at_p, at_q) =
            (s.splat(1.0 / (2.0 * P2 * (P2 - Q2))), s.splat(1.0 / (2.0 * Q2 * (Q2 - P2))));
        let sum = s.mul(at_p, s.add(u[1], u[2]));
        let sum_q = s.mul(at_q, s.add(u[3], u[4]));
        let difference = s.mul(at_p, s.sub(u[1], u[2]));
        let difference_q = s.mul(at_q, s.sub(u[3], u[4]));
        [
            s.fma(zero, u[0], s.add(sum, sum_q)),
            s.fma(s.splat(P), difference, s.mul(s.splat(Q), difference_q)),
            s.fma(s.splat(P2), sum, s.fma(s.splat(Q2), sum_q, u[5])),
        ]
    }
}

/// F(2x2, 3x3): 16 multiplications where direct convolution has 36.
#[derive(Clone, Copy)]
pub(super) struct F2;

impl Tile for F2 {
    type Precision = F32;
    const OUTPUTS: usize = 2;
    const POINTS: usize = 4;

    #[inline(always)]
    fn input<S: Simd>(s: S, d: Line<S::V>) -> Line<S::V> {
        let ends = (s.sub(d[2], d[0]), s.sub(d[3], d[1]));
        [ends.0, s.add(d[2], d[1]), s.sub(d[2], d[1]), ends.1, s.zero(), s.zero()]
    }

    #[inline(always)]
    fn input_adjoint<S: Simd>(s: S, t: Line<S::V>) -> Line<S::V> {
        let zero = s.zero();
        let difference = s.sub(t[1], t[2]);
        let sum = s.add(t[1], t[2]);
        [s.sub(zero, t[0]), s.sub(difference, t[3]), s.add(t[0], sum), t[3], zero, zero]
    }

    #[inline(always)]
    fn output<S: Simd>(s: S, t: Line<S::V>) -> Line<S::V> {
        let zero = s.zero();
        let (first, second) = (s.add(t[0], s.add(t[1], t[2])), s.add(s.sub(t[1], t[2]), t[3]));
        [first, second, zero, zero, zero, zero]
    }

    #[inline(always)]
    fn output_adjoint<S: Simd>(s: S, y: Line<S::V>) -> Line<S::V> {
        [y[0], s.add(y[0], y[1]), s.sub(y[0], y[1]), y[1], s.zero(), s.zero()]
    }

    #[inline(always)]
    fn filter<S: Simd>(s: S, g: [S::V; 3]) -> Line<S::V> {
        let half = s.splat(0.5);
        let (even, odd) = (s.mul(half, s.add(g[0], g[2])), s.mul(half, g[1]));
        [s.sub(s.zero(), g[0]), s.add(even, odd), s.sub(even, odd), g[2], s.zero(), s.zero()]
    }

    #[inline(always)]
    fn filter_adjoint<S: Simd>(s: S, u: Line<S::V>) -> [S::V; 3] {
        let half = s.splat(0.5);
        let sum = s.mul(half, s.add(u[1], u[2]));
        let difference = s.mul(half, s.sub(u[1], u[2]));
        [s.sub(sum, u[0]), difference, s.add(sum, u[3])]
    }
}
