//! The CPU engine: computes a network's graph with the kernels of `crescendo-kernels`.
//!
//! [`CpuDevices`] is what a program hands to the training loop; a [`CpuDevice`] creates engines. For each
//! image size an engine works out an execution plan once (`plan`): with `crescendo-plan`, what is fused and where
//! everything lies in memory; by itself, an algorithm for each convolution (`algorithm`) and how maps are stored
//! (`memory_layout`). A pass (`pass`) computes the steps of a batch.
//! All memory is allocated when a batch size is first seen; neither an update nor inference allocates any later.
//!
//! Results do not depend on the number of threads.
//!
//! # Example
//!
//! ```
//! use crescendo_cpu::CpuDevices;
//! use crescendo_network::{
//!     Devices, EngineConfig, Graph, MicroBatch, NetworkConfig, Rule, Section, Sgd, Shape,
//! };
//!
//! let config = NetworkConfig { blocks: vec![1, 1], widths: vec![4, 8], ..NetworkConfig::paper() };
//! let images = Shape::Maps { channels: 3, height: 32, width: 32 };
//! let graph = Graph::new(&config.network(images)?)?;
//! let device = CpuDevices.open(&EngineConfig::default())?;
//! let mut engine = device.engine(&graph)?;
//! engine.import(Section::Model, &graph.initial(0))?;
//!
//! let images = vec![0.5; 4 * 3 * 32 * 32];
//! let sgd = Sgd { learning_rate: 0.1, ..Sgd::default() };
//! let rules = vec![Rule::Sgd(sgd); graph.parameters.len()];
//! let mut losses = Vec::new();
//! for _ in 0..2 {
//!     engine.accumulate(&MicroBatch::whole(&images, &[1, 2, 3, 4]))?;
//!     engine.update(&rules)?;
//!     losses.push(engine.next_result(true)?.expect("an update was queued").loss);
//! }
//! assert!(losses[1] < losses[0]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod algorithm;
mod buffers;
mod control_groups;
mod convert;
mod cores;
mod describe;
mod device;
mod engine;
mod gradient_sums;
pub mod host;
mod memory_layout;
mod options;
mod pass;
mod plan;
mod state;
mod tuning;

pub use crescendo_kernels::{JobTimes, TaskTimes};
pub use device::{CpuDevice, CpuDevices};
