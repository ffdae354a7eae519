//! The numbers of training: every operation of a convolutional network, forward and backward,
//! on slices of `f32`.
//!
//! A kernel takes numbers and gives numbers. It never opens a file, never allocates what a caller
//! could hold for it, and never starts a thread: parallel work goes through the caller's [`Pool`].
//! Forward and backward of an operation stand in one file. Results do not depend on the number of
//! threads: work is cut into pieces by shape alone, and partial sums are added in a fixed order.
//!
//! # Layout
//!
//! Feature maps are *channel-major over the batch*: `[C, N, H, W]`, so that a channel of the whole
//! batch is one contiguous run (what BatchNorm sums over), and a convolution of several images is
//! one matrix product. Vectors are `[N, features]`. Weights have PyTorch's shapes.
//!
//! # Example
//!
//! ```
//! use crescendo_kernels::{Convolution, Map, Pool, Workspace, convolution};
//!
//! let pool = Pool::new(2);
//! let layer = Convolution { inputs: 1, outputs: 1, kernel: 3, stride: 1, padding: 1 };
//! let map = Map { images: 1, height: 3, width: 3 };
//! let mut workspace = Workspace::new(&pool, [layer.workspace(map, false)]);
//!
//! let image = [0., 0., 0., 0., 1., 0., 0., 0., 0.];
//! let weight = [1., 2., 3., 4., 5., 6., 7., 8., 9.];
//! let mut output = [0.0; 9];
//! convolution::forward(&pool, &mut workspace, &layer, map, &image, &weight, &[0.0], &mut output);
//! // Correlation, as networks have it: a single pixel reads the filter backwards.
//! assert_eq!(output, [9., 8., 7., 6., 5., 4., 3., 2., 1.]);
//! ```

pub mod activation;
pub mod convolution;
pub mod elementwise;
pub mod linear;
pub mod loss;
mod matmul;
pub mod norm;
pub mod optimizer;
mod pool;
pub mod pooling;
pub mod reference;
mod shared;

pub use activation::Activation;
pub use convolution::{Convolution, Workspace, WorkspaceSize};
pub use pool::Pool;

/// The extent of a batch of feature maps, without its channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Map {
    /// Images in the batch.
    pub images: usize,
    /// Rows of an image.
    pub height: usize,
    /// Columns of an image.
    pub width: usize,
}

impl Map {
    /// Pixels of one image.
    pub fn pixels(self) -> usize {
        self.height * self.width
    }

    /// Pixels of the whole batch: the length of one channel.
    pub fn len(self) -> usize {
        self.images * self.pixels()
    }

    /// Whether there is nothing in it.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }
}
