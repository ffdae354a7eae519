//! Linear layers, as PyTorch's `Linear`.

use crate::LayerGradients;

/// `x * weight^T + bias` for `x` `[images, inputs]` and `weight` `[outputs, inputs]`; `outputs` is the
/// length of `bias`.
pub fn linear(inputs: usize, x: &[f64], weight: &[f64], bias: &[f64]) -> Vec<f64> {
    let mut y = Vec::new();
    for x in x.chunks(inputs) {
        for (weight, bias) in weight.chunks(inputs).zip(bias) {
            y.push(bias + x.iter().zip(weight).map(|(x, w)| x * w).sum::<f64>());
        }
    }
    y
}

/// The gradients of [`linear`] for `dy` `[images, outputs]`.
pub fn linear_backward(inputs: usize, x: &[f64], weight: &[f64], dy: &[f64]) -> LayerGradients {
    let outputs = weight.len() / inputs;
    let mut gradients = LayerGradients {
        input: vec![0.0; x.len()],
        weight: vec![0.0; weight.len()],
        bias: vec![0.0; outputs],
    };
    for (i, &dy) in dy.iter().enumerate() {
        let (image, output) = (i / outputs, i % outputs);
        gradients.bias[output] += dy;
        for input in 0..inputs {
            let (x_at, w_at) = (image * inputs + input, output * inputs + input);
            gradients.input[x_at] += dy * weight[w_at];
            gradients.weight[w_at] += dy * x[x_at];
        }
    }
    gradients
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{assert_gradient, dot, noise};

    #[test]
    fn gradients_match_finite_differences() {
        let (x, weight, bias, dy) = (noise(1, 12), noise(2, 20), noise(3, 5), noise(4, 15));
        let gradients = linear_backward(4, &x, &weight, &dy);
        let loss = |x: &[f64], w: &[f64], b: &[f64]| dot(&linear(4, x, w, b), &dy);
        assert_gradient("input", &gradients.input, &x, |x| loss(x, &weight, &bias));
        assert_gradient("weight", &gradients.weight, &weight, |w| loss(&x, w, &bias));
        assert_gradient("bias", &gradients.bias, &bias, |b| loss(&x, &weight, b));
    }
}
