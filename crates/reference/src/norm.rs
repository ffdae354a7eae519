//! BatchNorm (Ioffe and Szegedy, arXiv 1502.03167), as PyTorch's `BatchNorm2d`.

use crate::{LayerGradients, Nchw};

/// The mean and the variance of each channel of a batch; the variance is divided by the count, as
/// normalising does it.
pub fn batch_statistics(shape: Nchw, x: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let count = (shape.images * shape.pixels()) as f64;
    let (mut mean, mut variance) = (vec![0.0; shape.channels], vec![0.0; shape.channels]);
    for (i, x) in x.iter().enumerate() {
        mean[shape.channel_of(i)] += x / count;
    }
    for (i, x) in x.iter().enumerate() {
        let channel = shape.channel_of(i);
        variance[channel] += (x - mean[channel]).powi(2) / count;
    }
    (mean, variance)
}

/// BatchNorm in training, by the batch's own mean and variance:
/// `weight * (x - mean) / sqrt(variance + eps) + bias`, with a weight and a bias a channel.
pub fn batch_norm(shape: Nchw, x: &[f64], weight: &[f64], bias: &[f64], eps: f64) -> Vec<f64> {
    let (mean, variance) = batch_statistics(shape, x);
    batch_norm_inference(shape, x, [&mean, &variance], weight, bias, eps)
}

/// BatchNorm by a given mean and variance of each channel, `[mean, variance]`: in inference the
/// running ones.
pub fn batch_norm_inference(
    shape: Nchw,
    x: &[f64],
    [mean, variance]: [&[f64]; 2],
    weight: &[f64],
    bias: &[f64],
    eps: f64,
) -> Vec<f64> {
    let normalise = |(i, x): (usize, &f64)| {
        let c = shape.channel_of(i);
        (x - mean[c]) / (variance[c] + eps).sqrt() * weight[c] + bias[c]
    };
    x.iter().enumerate().map(normalise).collect()
}

/// The gradients of [`batch_norm`], through the batch's mean and variance:
/// `dx = weight / sqrt(variance + eps) * (dy - mean(dy) - xhat * mean(dy * xhat))`.
pub fn batch_norm_backward(
    shape: Nchw,
    x: &[f64],
    weight: &[f64],
    eps: f64,
    dy: &[f64],
) -> LayerGradients {
    let count = (shape.images * shape.pixels()) as f64;
    let (mean, variance) = batch_statistics(shape, x);
    let inverse: Vec<f64> = variance.iter().map(|variance| 1.0 / (variance + eps).sqrt()).collect();
    let normalised = |i: usize| {
        let channel = shape.channel_of(i);
        (x[i] - mean[channel]) * inverse[channel]
    };
    let (mut dweight, mut bias) = (vec![0.0; shape.channels], vec![0.0; shape.channels]);
    for (i, dy) in dy.iter().enumerate() {
        dweight[shape.channel_of(i)] += dy * normalised(i);
        bias[shape.channel_of(i)] += dy;
    }
    let input = dy.iter().enumerate().map(|(i, dy)| {
        let c = shape.channel_of(i);
        weight[c] * inverse[c] * (dy - bias[c] / count - normalised(i) * dweight[c] / count)
    });
    LayerGradients { input: input.collect(), weight: dweight, bias }
}

/// Moves running statistics `[mean, variance]` towards those of a batch:
/// `running = (1 - momentum) * running + momentum * batch`, where the batch's variance is divided by
/// the count less one, as in PyTorch.
pub fn update_running_statistics(
    shape: Nchw,
    x: &[f64],
    momentum: f64,
    [running_mean, running_variance]: [&mut [f64]; 2],
) {
    let count = (shape.images * shape.pixels()) as f64;
    let (mean, variance) = batch_statistics(shape, x);
    for channel in 0..shape.channels {
        let unbiased = variance[channel] * count / (count - 1.0);
        running_mean[channel] += momentum * (mean[channel] - running_mean[channel]);
        running_variance[channel] += momentum * (unbiased - running_variance[channel]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{assert_gradient, dot, noise};

    const SHAPE: Nchw = Nchw { images: 3, channels: 2, height: 2, width: 3 };

    #[test]
    fn gradients_match_finite_differences() {
        let (x, dy) = (noise(1, SHAPE.len()), noise(2, SHAPE.len()));
        let (weight, bias, eps) = ([1.5, -0.5], [0.25, 0.75], 1e-3);
        let gradients = batch_norm_backward(SHAPE, &x, &weight, eps, &dy);
        let loss = |x: &[f64], w: &[f64], b: &[f64]| dot(&batch_norm(SHAPE, x, w, b, eps), &dy);
        assert_gradient("input", &gradients.input, &x, |x| loss(x, &weight, &bias));
        assert_gradient("weight", &gradients.weight, &weight, |w| loss(&x, w, &bias));
        assert_gradient("bias", &gradients.bias, &bias, |b| loss(&x, &weight, b));
    }

    #[test]
    fn running_statistics_by_hand() {
        let shape = Nchw { images: 2, channels: 1, height: 1, width: 1 };
        let (mut mean, mut variance) = ([0.0], [1.0]);
        update_running_statistics(shape, &[1.0, 3.0], 0.5, [&mut mean, &mut variance]);
        // The batch's mean is 2, its variance 1, or 2 divided by the count less one.
        assert_eq!((mean, variance), ([1.0], [1.5]));
    }
}
