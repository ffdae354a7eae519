//! Numbers to compute with, and how far apart results may be.

use crescendo_kernels::{ActivationFunction, Convolution, Isa, MapShape, Processor, ThreadPool};
use crescendo_reference::{Conv2d, Nchw, Pointwise};

pub const ACTIVATIONS: [ActivationFunction; 7] = [
    ActivationFunction::Relu,
    ActivationFunction::LeakyRelu { slope: 0.01 },
    ActivationFunction::Elu,
    ActivationFunction::Sigmoid,
    ActivationFunction::Silu,
    ActivationFunction::Gelu,
    ActivationFunction::Scale { factor: -0.125 },
];

/// Numbers between -1 and 1 that are the same in every run.
pub fn noise(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

pub fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&x| f64::from(x)).collect()
}

/// The distance from `expected`, relative to its size.
pub fn distance(values: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(values.len(), expected.len());
    let square = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
    let difference = square(&mut values.iter().zip(expected).map(|(&x, e)| f64::from(x) - e));
    difference / square(&mut expected.iter().copied()).max(1e-30)
}

#[track_caller]
pub fn assert_close(what: &str, values: &[f32], expected: &[f64], tolerance: f64) {
    let distance = distance(values, expected);
    assert!(distance < tolerance, "{what}: off by {distance:e}, more than {tolerance:e}");
}

/// The gradient of `f` at `x` by central differences in f64.
pub fn differences(x: &[f32], f: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    let step = 1e-5;
    let mut x = wide(x);
    (0..x.len())
        .map(|i| {
            let here = x[i];
            x[i] = here + step;
            let above = f(&x);
            x[i] = here - step;
            let below = f(&x);
            x[i] = here;
            (above - below) / (2.0 * step)
        })
        .collect()
}

pub fn dot(a: &[f64], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, &b)| a * f64::from(b)).sum()
}

pub fn processor(isa: Isa, threads: usize) -> Processor {
    Processor { pool: ThreadPool::new(threads), isa }
}

/// One number a channel, filled up to whole blocks.
pub fn channels(seed: u64, channels: usize) -> Vec<f32> {
    let mut values = noise(seed, channels);
    values.resize(channels.next_multiple_of(16), 0.0);
    values
}

/// A shape as the reference has it.
pub fn nchw(MapShape { images, channels, height, width }: MapShape) -> Nchw {
    Nchw { images, channels, height, width }
}

/// A convolution as the reference has it; its input's channels are the maps'.
pub fn conv2d(Convolution { outputs, kernel, stride, padding, .. }: Convolution) -> Conv2d {
    Conv2d { outputs, kernel, stride, padding }
}

/// An activation function as the reference has it.
pub fn pointwise(f: ActivationFunction) -> Pointwise {
    match f {
        ActivationFunction::Relu => Pointwise::Relu,
        ActivationFunction::LeakyRelu { slope } => Pointwise::LeakyRelu { slope: slope.into() },
        ActivationFunction::Elu => Pointwise::Elu,
        ActivationFunction::Sigmoid => Pointwise::Sigmoid,
        ActivationFunction::Silu => Pointwise::Silu,
        ActivationFunction::Gelu => Pointwise::Gelu,
        ActivationFunction::Scale { factor } => Pointwise::Scale { factor: factor.into() },
    }
}
