//! Convolutions with square filters, as PyTorch's `Conv2d`.

use crate::{LayerGradients, Nchw, pairs};

/// A convolution of all input channels: the same stride and zero padding on both axes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv2d {
    /// Channels of the output.
    pub outputs: usize,
    /// Rows and columns of a filter.
    pub kernel: usize,
    /// Pixels between neighbouring outputs.
    pub stride: usize,
    /// Rows and columns of zeros around the input.
    pub padding: usize,
}

impl Conv2d {
    /// The shape of the output for an input of this shape.
    pub fn output(self, input: Nchw) -> Nchw {
        let side = |length: usize| (length + 2 * self.padding - self.kernel) / self.stride + 1;
        Nchw {
            channels: self.outputs,
            height: side(input.height),
            width: side(input.width),
            ..input
        }
    }

    /// Calls `f(output, weight, input)` with the indices of every product that an output sums up.
    fn products(self, shape: Nchw, mut f: impl FnMut(usize, usize, usize)) {
        let (out, k) = (self.output(shape), self.kernel);
        // The outputs on an axis for which a row or column of the filter is not in the padding.
        let inside = |tap: usize, outputs: usize, inputs: usize| {
            let first = self.padding.saturating_sub(tap).div_ceil(self.stride);
            let end = (inputs + self.padding).saturating_sub(tap).div_ceil(self.stride);
            first..end.min(outputs)
        };
        for (image, output) in pairs(out.images, out.channels) {
            for (input, (ky, kx)) in
                (0..shape.channels).flat_map(|input| pairs(k, k).map(move |tap| (input, tap)))
            {
                let w = ((output * shape.channels + input) * k + ky) * k + kx;
                for row in inside(ky, out.height, shape.height) {
                    let r = row * self.stride + ky - self.padding;
                    for column in inside(kx, out.width, shape.width) {
                        let c = column * self.stride + kx - self.padding;
                        f(out.at(image, output, row, column), w, shape.at(image, input, r, c));
                    }
                }
            }
        }
    }
}

/// The convolution of `x`, plus `bias` `[outputs]`.
pub fn convolution(
    layer: Conv2d,
    shape: Nchw,
    x: &[f64],
    weight: &[f64],
    bias: &[f64],
) -> Vec<f64> {
    let out = layer.output(shape);
    let mut y: Vec<f64> = (0..out.len()).map(|i| bias[out.channel_of(i)]).collect();
    layer.products(shape, |output, w, input| y[output] += weight[w] * x[input]);
    y
}

/// The gradients of [`convolution`].
pub fn convolution_backward(
    layer: Conv2d,
    shape: Nchw,
    x: &[f64],
    weight: &[f64],
    dy: &[f64],
) -> LayerGradients {
    let out = layer.output(shape);
    let (mut dx, mut dweight) = (vec![0.0; x.len()], vec![0.0; weight.len()]);
    layer.products(shape, |output, w, input| {
        dx[input] += dy[output] * weight[w];
        dweight[w] += dy[output] * x[input];
    });
    let mut bias = vec![0.0; layer.outputs];
    dy.iter().enumerate().for_each(|(i, dy)| bias[out.channel_of(i)] += dy);
    LayerGradients { input: dx, weight: dweight, bias }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{assert_gradient, dot, noise};

    #[test]
    fn gradients_match_finite_differences() {
        for (kernel, stride, padding) in [(3, 1, 1), (3, 2, 1), (1, 2, 0), (2, 1, 0), (3, 3, 0)] {
            let layer = Conv2d { outputs: 3, kernel, stride, padding };
            let shape = Nchw { images: 2, channels: 2, height: 5, width: 4 };
            let (x, weight) = (noise(1, shape.len()), noise(2, 6 * kernel * kernel));
            let (bias, dy) = (noise(3, 3), noise(4, layer.output(shape).len()));
            let gradients = convolution_backward(layer, shape, &x, &weight, &dy);
            let loss = |x: &[f64], weight: &[f64], bias: &[f64]| {
                dot(&convolution(layer, shape, x, weight, bias), &dy)
            };
            assert_gradient("input", &gradients.input, &x, |x| loss(x, &weight, &bias));
            assert_gradient("weight", &gradients.weight, &weight, |w| loss(&x, w, &bias));
            assert_gradient("bias", &gradients.bias, &bias, |b| loss(&x, &weight, b));
        }
    }
}
