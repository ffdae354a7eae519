//! What an engine works out for a graph before it computes, whatever it runs on.
//!
//! Operations become fused steps ([`FusedGraph`]), the backward pass gets its gradients ([`GradientPlan`]),
//! every tensor and gradient gets a place in one arena ([`MemoryPlan`]), and frozen parameters tell which
//! gradients need not be computed ([`RequiredGradients`]). An engine adds what is its own: the layout of maps
//! in memory, the algorithm of each convolution, and the kernels.
//!
//! # Example
//!
//! ```
//! use crescendo_network::{Graph, NetworkConfig, Shape};
//! use crescendo_plan::{FusedGraph, GradientPlan, MemoryPlan};
//!
//! let images = Shape::Maps { channels: 3, height: 32, width: 32 };
//! let graph = Graph::new(&NetworkConfig::paper().network(images)?)?;
//! let fused = FusedGraph::new(&graph)?;
//! // BatchNorm, activations and residual additions need no steps of their own.
//! assert!(fused.steps.len() < graph.nodes.len() / 2);
//!
//! let gradients = GradientPlan::new(&graph, &fused)?;
//! let training = MemoryPlan::training(&fused, &gradients, Shape::len, Shape::len);
//! let inference = MemoryPlan::inference(&fused, Shape::len);
//! // Inference saves nothing for backward.
//! assert!(inference.len < training.len / 4);
//! # Ok::<(), crescendo_network::Error>(())
//! ```

mod arena;
mod fusion;
mod gradients;
mod memory_plan;
mod required_gradients;

pub use fusion::{
    FusedGraph, FusedInput, FusedStep, IMAGES, NormedTensor, StepKind, TensorId, TensorInfo,
};
pub use gradients::{Delivery, GradientInfo, GradientPlan, StepGradients};
pub use memory_plan::MemoryPlan;
pub use required_gradients::RequiredGradients;
