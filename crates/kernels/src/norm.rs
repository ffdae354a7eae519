//! BatchNorm (Ioffe and Szegedy, arXiv 1502.03167) over maps of `[C, N, H, W]`.
//!
//! The sums over a batch are separate from what is done with them, so that a caller can add up the
//! sums of several processes in between.

use crate::Pool;

/// For each channel, two sums over its `len` numbers, one after the other: `[sum, sum, …]` in the
/// layout `[C, 2]`.
pub type Sums = [f64];

/// The sum and the sum of squares of each channel; `x` is `[C, len]`, `sums` is `[C, 2]`.
///
/// In f64 throughout, which makes the variance from these sums as good as one from differences.
pub fn sums(pool: &Pool, x: &[f32], sums: &mut Sums) {
    let len = channel_len(x, sums.len() / 2);
    pool.chunks(sums, 2, |channel, sums| {
        let x = &x[channel * len..][..len];
        sums[0] = crate::elementwise::sum(x);
        sums[1] = crate::elementwise::lanes(x, |sum, x| *sum += f64::from(x) * f64::from(x));
    });
}

/// What a batch's sums say of each channel.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Moments {
    /// The mean.
    pub mean: f64,
    /// The variance, divided by the count (what normalises the batch).
    pub variance: f64,
}

impl Moments {
    /// From a sum and a sum of squares over `count` numbers.
    pub fn new(sum: f64, squares: f64, count: f64) -> Self {
        let mean = sum / count;
        Moments { mean, variance: (squares / count - mean * mean).max(0.0) }
    }

    /// `1 / sqrt(variance + eps)`.
    pub fn inverse_deviation(self, eps: f64) -> f64 {
        1.0 / (self.variance + eps).sqrt()
    }
}

/// `y = x * scale + shift`, with one scale and one shift a channel.
pub fn scale_shift(pool: &Pool, x: &[f32], scale: &[f32], shift: &[f32], y: &mut [f32]) {
    let len = channel_len(x, scale.len());
    assert_eq!(x.len(), y.len(), "lengths differ");
    pool.chunks(y, len, |channel, y| {
        let (scale, shift) = (scale[channel], shift[channel]);
        for (y, x) in y.iter_mut().zip(&x[channel * len..]) {
            *y = x * scale + shift;
        }
    });
}

/// The two sums that BatchNorm's backward needs of each channel: of `dy`, which is the gradient of
/// the shift, and of `dy * xhat`, which is the gradient of the weight; `sums` is `[C, 2]`.
pub fn backward_sums(
    pool: &Pool,
    x: &[f32],
    dy: &[f32],
    moments: &[Moments],
    eps: f64,
    sums: &mut Sums,
) {
    let len = channel_len(x, moments.len());
    assert_eq!(x.len(), dy.len(), "lengths differ");
    pool.chunks(sums, 2, |channel, sums| {
        let (x, dy) = (&x[channel * len..][..len], &dy[channel * len..][..len]);
        let mean = moments[channel].mean;
        let mut products = [0.0; 8];
        for (x, dy) in x.chunks(8).zip(dy.chunks(8)) {
            for ((sum, &x), &dy) in products.iter_mut().zip(x).zip(dy) {
                *sum += f64::from(dy) * (f64::from(x) - mean);
            }
        }
        sums[0] = crate::elementwise::sum(dy);
        sums[1] = products.iter().sum::<f64>() * moments[channel].inverse_deviation(eps);
    });
}

/// The gradient of BatchNorm's input, through the batch's own mean and variance:
/// `dx = weight / sqrt(var + eps) * (dy - mean(dy) - xhat * mean(dy * xhat))`.
///
/// `sums` are those of [`backward_sums`], over `count` numbers a channel (of all processes).
#[allow(clippy::too_many_arguments)]
pub fn backward(
    pool: &Pool,
    x: &[f32],
    dy: &[f32],
    moments: &[Moments],
    eps: f64,
    weight: &[f32],
    sums: &Sums,
    count: f64,
    dx: &mut [f32],
) {
    let len = channel_len(x, moments.len());
    assert!(x.len() == dy.len() && x.len() == dx.len(), "lengths differ");
    pool.chunks(dx, len, |channel, dx| {
        let (mean, inverse) = (moments[channel].mean, moments[channel].inverse_deviation(eps));
        let scale = f64::from(weight[channel]) * inverse;
        // dx = a * dy + b * x + c, with the constants worked out once in f64.
        let a = scale as f32;
        let b = -scale * inverse * sums[2 * channel + 1] / count;
        let c = (-scale * sums[2 * channel] / count - b * mean) as f32;
        let b = b as f32;
        let (x, dy) = (&x[channel * len..][..len], &dy[channel * len..][..len]);
        for ((dx, x), dy) in dx.iter_mut().zip(x).zip(dy) {
            *dx = a * dy + (b * x + c);
        }
    });
}

fn channel_len(x: &[f32], channels: usize) -> usize {
    assert!(channels > 0 && x.len().is_multiple_of(channels), "not a whole number of channels");
    x.len() / channels
}
