//! The CPU kernels of training a convolutional network: every operation, forward and backward, on
//! slices of `f32` in memory that the caller owns.
//!
//! A kernel opens no file, starts no thread and allocates nothing. What it runs on is a [`Processor`]:
//! a [`ThreadPool`] and an instruction set, [`Isa`]. Results do not depend on the number of threads: work
//! is cut by shape alone, and partial sums are added in a fixed order.
//!
//! # Tutorial
//!
//! **Layout.** A [`MapShape`] describes feature maps, which lie in memory in blocks of sixteen channels
//! (oneDNN calls it `nChw16c`). [`to_blocked`] and [`to_nchw`] convert; images may stay as they come.
//!
//! **Fusion.** A kernel on feature maps reads through a [`Prologue`](prologue::Prologue) and delivers
//! through an [`Epilogue`](epilogue::Epilogue). BatchNorm, residual additions and activations have no
//! kernels of their own: they are computed in the prologue of whatever reads their result. Backward has a
//! [`GradientPrologue`](prologue::GradientPrologue) and a
//! [`GradientEpilogue`](epilogue::GradientEpilogue).
//!
//! **Memory.** [`Convolution::workspace_size`] says how much working memory a convolution needs. One
//! [`Workspace`] serves all layers in turn: make it for the [`WorkspaceSize::max`] of their sizes.
//!
//! A convolution with a single filter, then the ReLU of its result:
//!
//! ```
//! use crescendo_kernels::epilogue::Epilogue;
//! use crescendo_kernels::prologue::Prologue;
//! use crescendo_kernels::{
//!     ActivationFunction, ConvAlgorithm, Convolution, Isa, MapShape, MapsMut, MapsRef, Processor,
//!     ThreadPool, Workspace, convolution, pooling, to_nchw,
//! };
//!
//! let processor = Processor { pool: ThreadPool::new(2), isa: Isa::best() };
//! let shape = MapShape { images: 1, channels: 1, height: 3, width: 3 };
//! let layer = Convolution { inputs: 1, outputs: 1, kernel: 3, stride: 1, padding: 1 };
//! let algorithm = ConvAlgorithm::Direct;
//!
//! // Weights are packed once, and serve until they change.
//! let weight = [1., -2., 3., -4., 5., -6., 7., -8., 9.];
//! let mut packed = vec![0.0; layer.packed_len(algorithm)];
//! convolution::pack_weights(&processor, algorithm, &layer, &weight, None, &mut packed);
//!
//! let image = [0., 0., 0., 0., 1., 0., 0., 0., 0.];
//! let out = layer.output_shape(shape);
//! let mut y = vec![0.0; out.len()];
//! let size = layer.workspace_size(algorithm, shape, None, processor.pool.threads());
//! let mut workspace = Workspace::new(processor.pool.threads(), size);
//! let prologue = Prologue::plain(shape, MapsRef::Nchw(&image));
//! let epilogue = Epilogue { shape: out, bias: None, out: MapsMut::f32(&mut y), sums: None };
//! convolution::forward(
//!     &processor, &mut workspace, algorithm, &layer, &prologue, &packed, &epilogue,
//! );
//! // Cross-correlation, as in PyTorch: a single pixel shows the filter turned around.
//! assert_eq!(to_nchw(out, &y), [9., -8., 7., -6., 5., -4., 3., -2., 1.]);
//!
//! // The activation is part of how the next kernel reads; this one only copies.
//! let mut relu = vec![0.0; out.len()];
//! let prologue = Prologue {
//!     activation: Some(ActivationFunction::Relu),
//!     ..Prologue::plain(out, MapsRef::F32(&y))
//! };
//! let epilogue = Epilogue { shape: out, bias: None, out: MapsMut::f32(&mut relu), sums: None };
//! pooling::materialise(&processor, &prologue, &epilogue);
//! assert_eq!(to_nchw(out, &relu), [9., 0., 7., 0., 5., 0., 3., 0., 1.]);
//! ```
//!
//! # Where things are
//!
//! | module | what it has |
//! |---|---|
//! | [`prologue`], [`epilogue`] | the two ends of every kernel on feature maps |
//! | [`convolution`] | convolutions: the entry to `winograd` and `direct` |
//! | [`leaves`] | the order in which images are summed |
//! | [`pooling`], [`max_pool`] | pooling, and the step from maps to vectors |
//! | [`linear`], [`activation`] | layers on vectors |
//! | [`norm`] | BatchNorm's arithmetic between the passes |
//! | [`loss`] | cross-entropy, predictions |
//! | [`optimizer`], [`muon`] | updates of parameters |
//! | [`peak`] | how fast the processor could be at most |
//! | `micro_kernel`, `gemm` | the register tiles that do nearly all arithmetic; products of matrices |
//! | `thread_pool`, `partition` | threads; how work is cut into tasks for them |
//! | `prefetch`, `simd` | memory asked for ahead of its use; vectors of every instruction set |
//!
//! Shapes that do not fit and slices of the wrong length panic. Tests compare every kernel with the f64
//! formulas of `crescendo-reference`.

pub mod activation;
mod aligned_buffer;
mod conv_shape;
pub mod convolution;
mod direct;
mod disjoint_slice;
pub mod elementwise;
pub mod epilogue;
mod gemm;
mod layout;
pub mod leaves;
pub mod linear;
pub mod loss;
mod maps;
pub mod max_pool;
mod micro_kernel;
pub mod muon;
pub mod norm;
pub mod optimizer;
mod partition;
pub mod peak;
pub mod pooling;
mod prefetch;
pub mod prologue;
mod simd;
mod task_times;
mod thread_pool;
mod winograd;
mod workspace;

pub use activation::ActivationFunction;
pub use aligned_buffer::{AlignedBuffer, as_bf16, as_bf16_mut};
pub use conv_shape::Convolution;
pub use convolution::ConvAlgorithm;
pub use disjoint_slice::DisjointSlice;
pub use layout::{MapShape, to_blocked, to_nchw};
pub use leaves::{LeafSum, Leaves};
pub use maps::{MapsMut, MapsRef};
pub use simd::{Isa, LANES};
pub use task_times::{JobTimes, TaskTimes};
pub use thread_pool::ThreadPool;
pub use workspace::{Workspace, WorkspaceSize};

/// What kernels run on.
///
/// See the example of [the crate](crate).
pub struct Processor {
    /// The threads. A kernel may be called from any thread; two calls take turns.
    pub pool: ThreadPool,
    /// The instruction set that kernels use.
    pub isa: Isa,
}
