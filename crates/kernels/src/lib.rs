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
//! - [`Maps`] says how feature maps lie in memory: blocks of sixteen channels.
//! - [`source`] and [`sink`] are the ends of every kernel on maps: what happens to a row when it is
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
//! use crescendo_kernels::sink::{Sink, StoredMut};
//! use crescendo_kernels::source::{Source, Stored};
//! use crescendo_kernels::{
//!     Convolution, Isa, Maps, Method, Pool, Processor, Workspace, convolution, to_planes,
//! };
//!
//! let processor = Processor { pool: Pool::new(2), isa: Isa::best() };
//! let layer = Convolution { inputs: 1, outputs: 1, kernel: 3, stride: 1, padding: 1 };
//! let maps = Maps { images: 1, channels: 1, height: 3, width: 3 };
//! let need = layer.need(Method::Direct, maps, false);
//! let mut workspace = Workspace::new(processor.pool.threads(), need);
//!
//! let image = [0., 0., 0., 0., 1., 0., 0., 0., 0.];
//! let weight = [1., 2., 3., 4., 5., 6., 7., 8., 9.];
//! let mut output = vec![0.0; layer.output(maps).len()];
//! let source = Source::plain(maps, Stored::Planes(&image));
//! let sink = Sink { maps, bias: None, out: StoredMut::f32(&mut output), sums: None };
//! let mut filters = vec![0.0; layer.filters(Method::Direct)];
//! convolution::pack(&processor, Method::Direct, &layer, &weight, None, &mut filters);
//! convolution::forward(
//!     &processor, &mut workspace, Method::Direct, &layer, &source, &filters, &sink,
//! );
//! // Correlation, as networks have it: a single pixel reads the filter backwards.
//! assert_eq!(to_planes(maps, &output), [9., 8., 7., 6., 5., 4., 3., 2., 1.]);
//! ```

pub mod activation;
mod ahead;
pub mod convolution;
mod direct;
pub mod elementwise;
pub mod linear;
pub mod loss;
mod maps;
mod matrix;
pub mod max_pool;
mod memory;
pub mod muon;
pub mod norm;
pub mod optimizer;
pub mod peak;
mod pool;
pub mod pooling;
mod product;
pub mod reference;
mod shared;
mod simd;
pub mod sink;
pub mod source;
mod winograd;
mod workspace;

pub use activation::Activation;
pub use convolution::{Convolution, Method};
pub use maps::{Maps, to_blocks, to_planes};
pub use memory::{Buffer, as_halves, as_mut_halves};
pub use pool::Pool;
pub use shared::Shared;
pub use simd::{Isa, LANES};
pub use workspace::{Need, Workspace};

/// What kernels run on: threads, and the instructions they use.
pub struct Processor {
    /// The threads.
    pub pool: Pool,
    /// The instruction set.
    pub isa: Isa,
}
