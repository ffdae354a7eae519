//! Every operation once more, in f64 and as plainly as its formula: what the kernels, and networks
//! made of them, are tested against. Layouts as in the kernels.

use crate::{Activation, Convolution, Map};

/// See [`crate::convolution::forward`].
pub fn convolution(
    layer: &Convolution,
    map: Map,
    x: &[f64],
    weight: &[f64],
    bias: &[f64],
) -> Vec<f64> {
    let out = layer.output(map);
    let k = layer.kernel;
    let mut y = Vec::with_capacity(layer.outputs * out.len());
    for o in 0..layer.outputs {
        for n in 0..map.images {
            for (row, column) in (0..out.height).flat_map(|r| (0..out.width).map(move |c| (r, c))) {
                let mut sum = bias.get(o).copied().unwrap_or(0.0);
                for i in 0..layer.inputs {
                    for (ky, kx) in (0..k).flat_map(|a| (0..k).map(move |b| (a, b))) {
                        let (r, c) = (row * layer.stride + ky, column * layer.stride + kx);
                        let inside = (layer.padding..map.height + layer.padding).contains(&r)
                            && (layer.padding..map.width + layer.padding).contains(&c);
                        if inside {
                            let pixel = (r - layer.padding) * map.width + c - layer.padding;
                            sum += weight[((o * layer.inputs + i) * k + ky) * k + kx]
                                * x[i * map.len() + n * map.pixels() + pixel];
                        }
                    }
                }
                y.push(sum);
            }
        }
    }
    y
}

/// BatchNorm in training: normalised by the batch's own mean and variance.
pub fn batch_norm(x: &[f64], weight: &[f64], bias: &[f64], eps: f64) -> Vec<f64> {
    let len = x.len() / weight.len();
    let channels = x.chunks(len).zip(weight).zip(bias);
    channels
        .flat_map(|((x, weight), bias)| {
            let mean = x.iter().sum::<f64>() / len as f64;
            let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / len as f64;
            let scale = weight / (variance + eps).sqrt();
            x.iter().map(move |x| (x - mean) * scale + bias)
        })
        .collect()
}

/// See [`crate::activation::forward`].
pub fn activation(f: Activation, x: &[f64]) -> Vec<f64> {
    let f = |x: f64| match f {
        Activation::Relu if x < 0.0 => 0.0,
        Activation::LeakyRelu { slope } if x <= 0.0 => f64::from(slope) * x,
        Activation::Elu if x <= 0.0 => x.exp_m1(),
        Activation::Relu | Activation::LeakyRelu { .. } | Activation::Elu => x,
        Activation::Sigmoid => 1.0 / (1.0 + (-x).exp()),
    };
    x.iter().copied().map(f).collect()
}

/// See [`crate::pooling::average`].
pub fn average_pool(size: usize, map: Map, x: &[f64]) -> Vec<f64> {
    let out = crate::pooling::output(size, map);
    let mut y = Vec::new();
    for x in x.chunks(map.pixels()) {
        for (row, column) in (0..out.height).flat_map(|r| (0..out.width).map(move |c| (r, c))) {
            let square = (0..size).flat_map(|r| (0..size).map(move |c| (r, c)));
            let sum: f64 =
                square.map(|(r, c)| x[(row * size + r) * map.width + column * size + c]).sum();
            y.push(sum / (size * size) as f64);
        }
    }
    y
}

/// See [`crate::pooling::flatten`].
pub fn flatten(map: Map, x: &[f64]) -> Vec<f64> {
    let channels = x.len() / map.len();
    let pixels = map.pixels();
    let mut y = Vec::with_capacity(x.len());
    for n in 0..map.images {
        for c in 0..channels {
            y.extend_from_slice(&x[c * map.len() + n * pixels..][..pixels]);
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
pub fn cross_entropy(logits: &[f64], labels: &[u16]) -> f64 {
    let classes = logits.len() / labels.len();
    let losses = logits.chunks(classes).zip(labels).map(|(logits, &label)| {
        let sum: f64 = logits.iter().map(|x| (x - logits[usize::from(label)]).exp()).sum();
        sum.ln()
    });
    losses.sum::<f64>() / labels.len() as f64
}
