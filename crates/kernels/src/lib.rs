//! The numbers of training: every operation of a convolutional network, forward and backward,
//! on slices of `f32`, fused as far as they can be.
//!
//! A kernel takes numbers and gives numbers. It never opens a file, never allocates what a caller
//! could hold for it, and never starts a thread: parallel work goes through the caller's
//! [`Processor`]. Forward and backward of an operation stand in one file. Results do not depend on
//! the number of threads: work is cut into pieces by shape alone, and partial sums are added in a
//! fixed order.
//!
//! # What is where
//!
//! - [`MapShape`] says how feature maps lie in memory: blocks of sixteen channels.
//! - [`prologue`] and [`epilogue`] are the ends of every kernel on maps: what happens to a row when it is
//!   loaded, and when it is delivered. BatchNorm, activations and residual additions live there.
//! - [`convolution`] is the entry to the convolutions, `winograd` and `direct`; `product` holds the
//!   register tiles that do all their arithmetic.
//! - [`pooling`], [`max_pool`], [`linear`], [`activation`], [`loss`], [`optimizer`], [`muon`] are what
//!   their names say, and [`norm`] turns BatchNorm's sums into factors. `matrix` multiplies for some.
//! - `simd` compiles every kernel for each instruction set; [`Isa`] is the choice.
//! - [`mod@reference`] says every operation once more, plainly and in f64, for tests.
//!
//! # Example
//!
//! ```
//! use crescendo_kernels::epilogue::{Epilogue, MapsMut};
//! use crescendo_kernels::prologue::{Prologue, MapsRef};
//! use crescendo_kernels::{
//!     Convolution, Isa, Maps, ConvAlgorithm, Pool, Processor, Workspace, convolution, to_nchw,
//! };
//!
//! let processor = Processor { pool: Pool::new(2), isa: Isa::best() };
//! let layer = Convolution { inputs: 1, outputs: 1, kernel: 3, stride: 1, padding: 1 };
//! let maps = Maps { images: 1, channels: 1, height: 3, width: 3 };
//! let need = layer.need(ConvAlgorithm::Direct, maps, false);
//! let mut workspace = Workspace::new(processor.pool.threads(), need);
//!
//! let image = [0., 0., 0., 0., 1., 0., 0., 0., 0.];
//! let weight = [1., 2., 3., 4., 5., 6., 7., 8., 9.];
//! let mut output = vec![0.0; layer.output(maps).len()];
//! let prologue = Prologue::plain(maps, MapsRef::Nchw(&image));
//! let epilogue = Epilogue { maps, bias: None, out: MapsMut::f32(&mut output), sums: None };
//! let mut filters = vec![0.0; layer.packed_len(ConvAlgorithm::Direct)];
//! convolution::pack_weights(&processor, ConvAlgorithm::Direct, &layer, &weight, None, &mut filters);
//! convolution::forward(
//!     &processor, &mut workspace, ConvAlgorithm::Direct, &layer, &prologue, &filters, &epilogue,
//! );
//! // Correlation, as networks have it: a single pixel reads the filter backwards.
//! assert_eq!(to_nchw(maps, &output), [9., 8., 7., 6., 5., 4., 3., 2., 1.]);
//! ```

pub mod activation;
mod aligned_buffer;
pub mod convolution;
mod direct;
mod disjoint_slice;
pub mod elementwise;
pub mod epilogue;
mod gemm;
mod layout;
pub mod linear;
pub mod loss;
pub mod max_pool;
mod micro_kernel;
pub mod muon;
pub mod norm;
pub mod optimizer;
pub mod peak;
pub mod pooling;
mod prefetch;
pub mod prologue;
pub mod reference;
mod simd;
mod thread_pool;
mod winograd;
mod workspace;

pub use activation::ActivationFunction;
pub use aligned_buffer::{AlignedBuffer, as_bf16, as_bf16_mut};
pub use convolution::{ConvAlgorithm, Convolution};
pub use disjoint_slice::DisjointSlice;
pub use layout::{MapShape, to_blocked, to_nchw};
pub use simd::{Isa, LANES};
pub use thread_pool::ThreadPool;
pub use workspace::{Workspace, WorkspaceSize};

/// What kernels run on: threads, and the instructions they use.
pub struct Processor {
    /// The threads.
    pub pool: ThreadPool,
    /// The instruction set.
    pub isa: Isa,
}
