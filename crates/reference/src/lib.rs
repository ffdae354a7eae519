//! Every operation of training as a plain formula in f64: what kernels and engines are tested against.
//!
//! Nothing here is fast, and nothing is shared with the kernels: functions take slices and return
//! vectors, with the layouts of PyTorch.
//!
//! - Feature maps are `[images, channels, height, width]`; their shape is [`Nchw`].
//! - Weights of convolutions are `[outputs, inputs, kernel, kernel]`, those of linear layers
//!   `[outputs, inputs]`.
//! - A backward function takes the gradient `dy` of the output, of the output's shape, and returns the
//!   gradients of everything that forward read.
//!
//! Slices of the wrong length panic, by an index out of bounds at the latest.
//!
//! ```
//! use crescendo_reference::{Conv2d, Nchw, convolution, convolution_backward};
//!
//! let shape = Nchw { images: 1, channels: 1, height: 3, width: 3 };
//! let layer = Conv2d { outputs: 1, kernel: 3, stride: 1, padding: 1 };
//! let image = [0., 0., 0., 0., 1., 0., 0., 0., 0.];
//! let weight = [1., 2., 3., 4., 5., 6., 7., 8., 9.];
//! // Cross-correlation, as in PyTorch: a single pixel shows the filter turned around.
//! let y = convolution(layer, shape, &image, &weight, &[0.0]);
//! assert_eq!(y, [9., 8., 7., 6., 5., 4., 3., 2., 1.]);
//! let gradients = convolution_backward(layer, shape, &image, &weight, &[1.0; 9]);
//! assert_eq!(gradients.weight, [1.0; 9]);
//! assert_eq!(gradients.bias, [9.0]);
//! ```

mod activation;
mod convolution;
mod linear;
mod loss;
mod norm;
mod optimizer;
mod pooling;

pub use activation::{Pointwise, pointwise, pointwise_backward};
pub use convolution::{Conv2d, convolution, convolution_backward};
pub use linear::{linear, linear_backward};
pub use loss::{cross_entropy, cross_entropy_backward};
pub use norm::{
    batch_norm, batch_norm_backward, batch_norm_inference, batch_statistics,
    update_running_statistics,
};
pub use optimizer::{MuonConfig, SgdConfig, muon, orthogonalise, sgd};
pub use pooling::{average_pool, average_pool_backward, max_pool, max_pool_backward};

/// The shape of feature maps `[images, channels, height, width]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nchw {
    /// Images in the batch.
    pub images: usize,
    /// Channels of an image.
    pub channels: usize,
    /// Rows of a channel.
    pub height: usize,
    /// Columns of a channel.
    pub width: usize,
}

impl Nchw {
    /// Numbers in all the maps.
    pub fn len(self) -> usize {
        self.images * self.channels * self.pixels()
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// Pixels of a channel.
    pub fn pixels(self) -> usize {
        self.height * self.width
    }

    /// Where the number of this pixel lies.
    fn at(self, image: usize, channel: usize, row: usize, column: usize) -> usize {
        ((image * self.channels + channel) * self.height + row) * self.width + column
    }

    /// The channel that the number at this index belongs to.
    fn channel_of(self, index: usize) -> usize {
        index / self.pixels() % self.channels
    }
}

/// The gradients of a layer with a weight and a bias, each of the shape of what it is the gradient of.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerGradients {
    /// Of the input.
    pub input: Vec<f64>,
    /// Of the weight.
    pub weight: Vec<f64>,
    /// Of the bias.
    pub bias: Vec<f64>,
}

/// All pairs of a number below `a` and one below `b`, the second changing faster.
fn pairs(a: usize, b: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..a).flat_map(move |i| (0..b).map(move |j| (i, j)))
}

/// Helpers of the tests below.
#[cfg(test)]
mod check {
    /// Numbers between -1 and 1 that are the same in every run.
    pub fn noise(seed: u64, len: usize) -> Vec<f64> {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 11) as f64 / (1u64 << 52) as f64 - 1.0
        };
        (0..len).map(|_| next()).collect()
    }

    pub fn dot(a: &[f64], b: &[f64]) -> f64 {
        assert_eq!(a.len(), b.len());
        a.iter().zip(b).map(|(a, b)| a * b).sum()
    }

    /// Holds `gradient` to central differences of `f` at `x`.
    #[track_caller]
    pub fn assert_gradient(what: &str, gradient: &[f64], x: &[f64], f: impl Fn(&[f64]) -> f64) {
        assert_eq!(gradient.len(), x.len(), "{what}");
        let step = 1e-5;
        let mut x = x.to_vec();
        for i in 0..x.len() {
            let here = x[i];
            x[i] = here + step;
            let above = f(&x);
            x[i] = here - step;
            let below = f(&x);
            x[i] = here;
            let expected = (above - below) / (2.0 * step);
            let off = (gradient[i] - expected).abs();
            assert!(
                off < 1e-7 * (1.0 + expected.abs()),
                "{what}: {} at {i}, not {expected}",
                gradient[i]
            );
        }
    }
}
