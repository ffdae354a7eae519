//! Activation functions and their derivatives.

use crate::elementwise::PIECE;
use crate::simd::{Kernel, LANES, Simd};
use crate::{Processor, ThreadPool};

/// A function of one number, applied to each.
///
/// See the example of [the crate](crate).
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ActivationFunction {
    /// `max(x, 0)`.
    Relu,
    /// `x` where positive, `slope * x` elsewhere.
    LeakyRelu {
        /// At least 0 and below 1 (PyTorch's `negative_slope`).
        slope: f32,
    },
    /// `x` where positive, `exp(x) - 1` elsewhere (arXiv 1511.07289).
    Elu,
    /// `1 / (1 + exp(-x))`.
    Sigmoid,
    /// `x / (1 + exp(-x))` (arXiv 1702.03118).
    Silu,
    /// `x * Phi(x)` with the normal distribution's `Phi` (arXiv 1606.08415), not its tanh form.
    Gelu,
    /// `factor * x`: logits that are scaled before the softmax.
    Scale {
        /// Any number.
        factor: f32,
    },
}

impl ActivationFunction {
    /// The slope below zero of functions that are two straight lines.
    pub(crate) fn negative_slope(self) -> Option<f32> {
        match self {
            ActivationFunction::Relu => Some(0.0),
            ActivationFunction::LeakyRelu { slope } => Some(slope),
            _ => None,
        }
    }

    /// Whether the derivative is a function of the function's output, so that its input need not be saved.
    pub fn derivative_from_output(self) -> bool {
        !matches!(self, ActivationFunction::Silu | ActivationFunction::Gelu)
    }

    #[inline(always)]
    pub(crate) fn value<S: Simd>(self, s: S, x: S::V) -> S::V {
        match self {
            ActivationFunction::Relu => s.max(s.zero(), x),
            ActivationFunction::LeakyRelu { slope } => s.positive(x, x, s.mul(x, s.splat(slope))),
            ActivationFunction::Elu => {
                s.positive(x, x, s.sub(exp(s, s.min(s.zero(), x)), s.splat(1.0)))
            }
            ActivationFunction::Sigmoid => sigmoid(s, x),
            ActivationFunction::Silu => s.mul(x, sigmoid(s, x)),
            ActivationFunction::Gelu => s.mul(x, normal(s, x).0),
            ActivationFunction::Scale { factor } => s.mul(x, s.splat(factor)),
        }
    }

    /// The derivative at `x`.
    #[inline(always)]
    pub(crate) fn derivative<S: Simd>(self, s: S, x: S::V) -> S::V {
        match self {
            ActivationFunction::Silu => {
                let p = sigmoid(s, x);
                // p + x p (1 - p)
                s.fma(s.mul(x, p), s.sub(s.splat(1.0), p), p)
            }
            ActivationFunction::Gelu => {
                let (below, density) = normal(s, x);
                s.fma(x, density, below)
            }
            _ => self.derivative_at_output(s, self.value(s, x)),
        }
    }

    /// The derivative where the output is `y`, for functions with [`derivative_from_output`].
    ///
    /// [`derivative_from_output`]: Self::derivative_from_output
    #[inline(always)]
    pub(crate) fn derivative_at_output<S: Simd>(self, s: S, y: S::V) -> S::V {
        let one = s.splat(1.0);
        match self {
            ActivationFunction::Relu => s.positive(y, one, s.zero()),
            ActivationFunction::LeakyRelu { slope } => s.positive(y, one, s.splat(slope)),
            ActivationFunction::Elu => s.positive(y, one, s.add(y, one)),
            ActivationFunction::Sigmoid => s.mul(y, s.sub(one, y)),
            ActivationFunction::Scale { factor } => s.splat(factor),
            ActivationFunction::Silu | ActivationFunction::Gelu => {
                unreachable!("not from the value")
            }
        }
    }
}

/// `e^x` for `x` from -87.4 to 88.4, beyond which it stays constant; NaN of NaN.
#[inline(always)]
pub(crate) fn exp<S: Simd>(s: S, x: S::V) -> S::V {
    // e^x = 2^n e^r with |r| <= ln(2) / 2, r in two steps so that it is exact enough.
    let bounded = s.min(s.splat(88.4), s.max(s.splat(-87.4), x));
    let magic = s.splat(12_582_912.0); // 1.5 * 2^23: adding it rounds to whole numbers
    let n = s.sub(s.fma(bounded, s.splat(std::f32::consts::LOG2_E), magic), magic);
    let r = s.fnma(n, s.splat(0.693_359_4), bounded);
    let r = s.fnma(n, s.splat(-2.121_944_4e-4), r);
    // The Taylor series to degree 7: at ln(2) / 2 its rest is below 1e-8.
    let mut p = s.splat(1.0 / 5040.0);
    for c in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = s.fma(p, r, s.splat(c));
    }
    // In two factors, for the ends of the range.
    let half = s.sub(s.fma(n, s.splat(0.5), magic), magic);
    s.mul(s.mul(p, s.power_of_two(half)), s.power_of_two(s.sub(n, half)))
}

#[inline(always)]
fn sigmoid<S: Simd>(s: S, x: S::V) -> S::V {
    let one = s.splat(1.0);
    s.div(one, s.add(one, exp(s, s.sub(s.zero(), x))))
}

/// The normal distribution at `x`: the probability of less, and the density.
///
/// `erfc` by Abramowitz and Stegun 7.1.26, within 1.5e-7.
#[inline(always)]
fn normal<S: Simd>(s: S, x: S::V) -> (S::V, S::V) {
    let one = s.splat(1.0);
    let e = exp(s, s.mul(s.mul(x, x), s.splat(-0.5)));
    let z = s.mul(s.max(x, s.sub(s.zero(), x)), s.splat(std::f32::consts::FRAC_1_SQRT_2));
    let t = s.div(one, s.fma(z, s.splat(0.327_591_1), one));
    let mut p = s.splat(1.061_405_4);
    for c in [-1.453_152, 1.421_413_7, -0.284_496_74, 0.254_829_6] {
        p = s.fma(p, t, s.splat(c));
    }
    let above = s.mul(s.mul(s.mul(p, t), e), s.splat(0.5));
    let density = s.mul(e, s.splat(0.398_942_3));
    (s.positive(x, s.sub(one, above), above), density)
}

/// `y = f(x)`.
///
/// # Panics
/// If lengths differ.
pub fn forward(processor: &Processor, f: ActivationFunction, x: &[f32], y: &mut [f32]) {
    assert_eq!(x.len(), y.len(), "lengths differ");
    let work = ThreadPool::ELEMENT * x.len();
    processor.pool.chunks(y, PIECE, work, |piece, y| {
        let x = &x[piece * PIECE..][..y.len()];
        processor.isa.run(Forward { f, x, y });
    });
}

/// `dx = dy * f'(x)`, in place of `dy`.
///
/// # Panics
/// If lengths differ.
pub fn backward(processor: &Processor, f: ActivationFunction, x: &[f32], dy: &mut [f32]) {
    assert_eq!(x.len(), dy.len(), "lengths differ");
    let work = ThreadPool::ELEMENT * x.len();
    processor.pool.chunks(dy, PIECE, work, |piece, dy| {
        let x = &x[piece * PIECE..][..dy.len()];
        processor.isa.run(Backward { f, x, dy });
    });
}

struct Forward<'a> {
    f: ActivationFunction,
    x: &'a [f32],
    y: &'a mut [f32],
}

impl Kernel for Forward<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for (x, y) in self.x.chunks(LANES).zip(self.y.chunks_mut(LANES)) {
            let value = self.f.value(s, load(s, x));
            store(s, value, y);
        }
    }
}

struct Backward<'a> {
    f: ActivationFunction,
    x: &'a [f32],
    dy: &'a mut [f32],
}

impl Kernel for Backward<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for (x, dy) in self.x.chunks(LANES).zip(self.dy.chunks_mut(LANES)) {
            let slope = self.f.derivative(s, load(s, x));
            let dx = s.mul(slope, load(s, dy));
            store(s, dx, dy);
        }
    }
}

/// Up to sixteen numbers, padded with zeros.
#[inline(always)]
fn load<S: Simd>(s: S, from: &[f32]) -> S::V {
    let mut full = [0.0; LANES];
    full[..from.len()].copy_from_slice(from);
    // SAFETY: sixteen numbers.
    unsafe { s.load(full.as_ptr()) }
}

#[inline(always)]
fn store<S: Simd>(s: S, value: S::V, to: &mut [f32]) {
    let mut full = [0.0; LANES];
    // SAFETY: sixteen numbers.
    unsafe { s.store(full.as_mut_ptr(), value) };
    to.copy_from_slice(&full[..to.len()]);
}
