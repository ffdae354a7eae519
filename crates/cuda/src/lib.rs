//! The CUDA engine: computes a network's graph on an NVIDIA GPU, with kernels of its own (`kernels/*.cu`).
//!
//! An engine works out an execution plan once for each image size, as the CPU's does (`plan`, with the crate
//! `crescendo-plan`): operations become fused steps, BatchNorm, activations and residual additions parts of how kernels
//! read and deliver maps. A pass (`pass`) is a list of launches, made once for each batch size; all that differs from
//! one batch to the next lies in the device's memory. A [`Driver`] runs the launches.
//!
//! Maps lie as `[images, rows, columns, channels]`, in bfloat16 or f32. Sums are added in an order that depends on
//! shapes alone, so the same calls give the same bits on the same model of card.

mod code;
mod data;
mod device;
mod driver;
mod engine;
mod nvidia;
mod params;
mod pass;
mod patches;
mod peak;
mod plan;
mod planning;
mod sequence;
mod state;
mod window;
mod work;
mod workspace;

pub use device::CudaDevice;
pub use driver::{Address, Chip, Download, Driver, Launch, Program};
pub use nvidia::{Card, Installed, installed, open};
pub use planning::planning_driver;
