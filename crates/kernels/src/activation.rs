//! Activations. Backward works from the output, so that the input need not be kept.

use crate::Pool;
use crate::elementwise::PIECE;

/// A function of one number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Activation {
    /// `max(x, 0)`.
    Relu,
    /// `x` where positive, `slope * x` elsewhere.
    LeakyRelu {
        /// At least 0 and below 1.
        slope: f32,
    },
    /// `x` where positive, `exp(x) - 1` elsewhere (arXiv 1511.07289).
    Elu,
    /// `1 / (1 + exp(-x))`.
    Sigmoid,
}

/// `y = f(x)`.
pub fn forward(pool: &Pool, f: Activation, x: &[f32], y: &mut [f32]) {
    match f {
        // `max` would turn a NaN into 0 and hide that training went wrong.
        Activation::Relu => map(pool, x, y, |x| if x < 0.0 { 0.0 } else { x }),
        Activation::LeakyRelu { slope } => map(pool, x, y, |x| if x > 0.0 { x } else { slope * x }),
        Activation::Elu => map(pool, x, y, |x| if x > 0.0 { x } else { x.exp_m1() }),
        Activation::Sigmoid => map(pool, x, y, |x| 1.0 / (1.0 + (-x).exp())),
    }
}

/// `dx = dy * f'(x)`, with `f'` worked out from `y = f(x)`.
pub fn backward(pool: &Pool, f: Activation, y: &[f32], dy: &[f32], dx: &mut [f32]) {
    match f {
        Activation::Relu => map2(pool, y, dy, dx, |y, dy| if y > 0.0 { dy } else { 0.0 }),
        Activation::LeakyRelu { slope } => {
            map2(pool, y, dy, dx, |y, dy| if y > 0.0 { dy } else { slope * dy });
        }
        Activation::Elu => {
            map2(pool, y, dy, dx, |y, dy| if y > 0.0 { dy } else { (y + 1.0) * dy });
        }
        Activation::Sigmoid => map2(pool, y, dy, dx, |y, dy| y * (1.0 - y) * dy),
    }
}

fn map(pool: &Pool, x: &[f32], y: &mut [f32], f: impl Fn(f32) -> f32 + Sync) {
    assert_eq!(x.len(), y.len(), "lengths differ");
    pool.chunks(y, PIECE, |piece, y| {
        for (y, &x) in y.iter_mut().zip(&x[piece * PIECE..]) {
            *y = f(x);
        }
    });
}

fn map2(pool: &Pool, a: &[f32], b: &[f32], out: &mut [f32], f: impl Fn(f32, f32) -> f32 + Sync) {
    assert!(a.len() == out.len() && b.len() == out.len(), "lengths differ");
    pool.chunks(out, PIECE, |piece, out| {
        let start = piece * PIECE;
        for ((out, &a), &b) in out.iter_mut().zip(&a[start..]).zip(&b[start..]) {
            *out = f(a, b);
        }
    });
}
