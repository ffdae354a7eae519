//! Every operation once more, in f64 and as plainly as its formula: what the kernels, and networks
//! made of them, are tested against. MapShape are planes `[images, channels, height, width]`.

use crate::muon::MuonStep;
use crate::{ActivationFunction, Convolution, MapShape};

/// See [`crate::convolution::forward`].
pub fn convolution(
    layer: &Convolution,
    maps: MapShape,
    x: &[f64],
    weight: &[f64],
    bias: &[f64],
) -> Vec<f64> {
    let out = layer.output_shape(maps);
    let k = layer.kernel;
    let mut y = Vec::with_capacity(maps.images * layer.outputs * out.pixels());
    for (n, o) in pairs(maps.images, layer.outputs) {
        for (row, column) in pairs(out.height, out.width) {
            let mut sum = bias.get(o).copied().unwrap_or(0.0);
            for i in 0..layer.inputs {
                let plane = &x[(n * layer.inputs + i) * maps.pixels()..][..maps.pixels()];
                for (ky, kx) in pairs(k, k) {
                    let (r, c) = (row * layer.stride + ky, column * layer.stride + kx);
                    let inside = (layer.padding..maps.height + layer.padding).contains(&r)
                        && (layer.padding..maps.width + layer.padding).contains(&c);
                    if inside {
                        let pixel = (r - layer.padding) * maps.width + c - layer.padding;
                        sum += weight[((o * layer.inputs + i) * k + ky) * k + kx] * plane[pixel];
                    }
                }
            }
            y.push(sum);
        }
    }
    y
}

fn pairs(rows: usize, columns: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..rows).flat_map(move |r| (0..columns).map(move |c| (r, c)))
}

/// BatchNorm in training: normalised by the batch's own mean and variance.
pub fn batch_norm(maps: MapShape, x: &[f64], weight: &[f64], bias: &[f64], eps: f64) -> Vec<f64> {
    let channel_of = |i: usize| i / maps.pixels() % maps.channels;
    let count = (maps.images * maps.pixels()) as f64;
    let (mut mean, mut variance) = (vec![0.0; maps.channels], vec![0.0; maps.channels]);
    for (i, x) in x.iter().enumerate() {
        mean[channel_of(i)] += x / count;
    }
    for (i, x) in x.iter().enumerate() {
        variance[channel_of(i)] += (x - mean[channel_of(i)]).powi(2) / count;
    }
    let normal = |(i, x): (usize, &f64)| {
        let c = channel_of(i);
        (x - mean[c]) / (variance[c] + eps).sqrt() * weight[c] + bias[c]
    };
    x.iter().enumerate().map(normal).collect()
}

/// See [`crate::activation::forward`].
pub fn activation(f: ActivationFunction, x: &[f64]) -> Vec<f64> {
    let f = |x: f64| match f {
        ActivationFunction::Relu if x < 0.0 => 0.0,
        ActivationFunction::LeakyRelu { slope } if x <= 0.0 => f64::from(slope) * x,
        ActivationFunction::Elu if x <= 0.0 => x.exp_m1(),
        ActivationFunction::Relu
        | ActivationFunction::LeakyRelu { .. }
        | ActivationFunction::Elu => x,
        ActivationFunction::Sigmoid => 1.0 / (1.0 + (-x).exp()),
        ActivationFunction::Silu => x / (1.0 + (-x).exp()),
        ActivationFunction::Gelu => x * 0.5 * (1.0 + erf(x / std::f64::consts::SQRT_2)),
        ActivationFunction::Scale { factor } => f64::from(factor) * x,
    };
    x.iter().copied().map(f).collect()
}

/// The error function by its Taylor series, which suffices for `|x|` below 5.
fn erf(x: f64) -> f64 {
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        term *= -x * x / n as f64;
        sum += term / (2 * n + 1) as f64;
    }
    sum * std::f64::consts::FRAC_2_SQRT_PI
}

/// See [`crate::pooling::average`].
pub fn average_pool(size: usize, maps: MapShape, x: &[f64]) -> Vec<f64> {
    let out = crate::pooling::output_shape(size, maps);
    let mut y = Vec::new();
    for x in x.chunks(maps.pixels()) {
        for (row, column) in pairs(out.height, out.width) {
            let square = pairs(size, size);
            let sum: f64 =
                square.map(|(r, c)| x[(row * size + r) * maps.width + column * size + c]).sum();
            y.push(sum / (size * size) as f64);
        }
    }
    y
}

/// See [`crate::max_pool::forward`].
pub fn max_pool(size: usize, maps: MapShape, x: &[f64]) -> Vec<f64> {
    let out = crate::pooling::output_shape(size, maps);
    let mut y = Vec::new();
    for x in x.chunks(maps.pixels()) {
        for (row, column) in pairs(out.height, out.width) {
            let square = pairs(size, size);
            let values = square.map(|(r, c)| x[(row * size + r) * maps.width + column * size + c]);
            y.push(values.fold(f64::NEG_INFINITY, f64::max));
        }
    }
    y
}

/// See [`crate::linear::forward`].
pub fn linear(inputs: usize, x: &[f64], weight: &[f64], bias: &[f64]) -> Vec<f64> {
    let mut y = Vec::new();
    for x in x.chunks(inputs) {
        for (weight, bias) in weight.chunks(inputs).zip(bias) {
            y.push(bias + x.iter().zip(weight).map(|(x, w)| x * w).sum::<f64>());
        }
    }
    y
}

/// See [`crate::loss::cross_entropy`].
pub fn cross_entropy(logits: &[f64], labels: &[u16], smoothing: f64) -> f64 {
    let classes = logits.len() / labels.len();
    let losses = logits.chunks(classes).zip(labels).map(|(logits, &label)| {
        let loss = |class: usize| -> f64 {
            logits.iter().map(|x| (x - logits[class]).exp()).sum::<f64>().ln()
        };
        let all = (0..classes).map(loss).sum::<f64>() / classes as f64;
        (1.0 - smoothing) * loss(label.into()) + smoothing * all
    });
    losses.sum::<f64>() / labels.len() as f64
}

/// See [`crate::muon::update`].
pub fn muon(
    rule: MuonStep,
    rows: usize,
    weight: &mut [f64],
    gradient: &[f64],
    velocity: &mut [f64],
) {
    let norm = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>().sqrt();
    let columns = weight.len() / rows;
    let (momentum, rate) = (f64::from(rule.momentum), f64::from(rule.learning_rate));
    let mut x = Vec::new();
    for (v, g) in velocity.iter_mut().zip(gradient) {
        *v = momentum * *v + g;
        x.push(if rule.nesterov { g + momentum * *v } else { *v });
    }
    let length = norm(&x) + 1e-7;
    x.iter_mut().for_each(|x| *x /= length);
    let tall = rows > columns;
    if tall {
        x = transpose(columns, &x);
    }
    let (side, width) = (rows.min(columns), rows.max(columns));
    for _ in 0..rule.steps {
        let a = product(width, &x, &transpose(width, &x));
        let square = product(side, &a, &a);
        let b: Vec<f64> = a.iter().zip(square).map(|(a, s)| -4.7750 * a + 2.0315 * s).collect();
        let more = product(side, &b, &x);
        x.iter_mut().zip(more).for_each(|(x, more)| *x = 3.4445 * *x + more);
    }
    if tall {
        x = transpose(width, &x);
    }
    let length = norm(weight);
    let scale = if length > 0.0 { (rows as f64).sqrt() / length } else { 1.0 };
    weight.iter_mut().zip(x).for_each(|(w, x)| *w = scale * *w - rate * x);
}

/// Of a matrix of rows of `width` numbers.
fn transpose(width: usize, x: &[f64]) -> Vec<f64> {
    (0..width).flat_map(|column| x.iter().skip(column).step_by(width).copied()).collect()
}

/// `a * b` with `a` `[rows, depth]`.
fn product(depth: usize, a: &[f64], b: &[f64]) -> Vec<f64> {
    let columns = b.len() / depth;
    let mut c = vec![0.0; a.len() / depth * columns];
    for (a, c) in a.chunks(depth).zip(c.chunks_mut(columns)) {
        for (a, b) in a.iter().zip(b.chunks(columns)) {
            c.iter_mut().zip(b).for_each(|(c, b)| *c += a * b);
        }
    }
    c
}
