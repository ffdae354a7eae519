//! Networks: descriptions, graphs, initial weights, update rules, and the [`Engine`] that computes them.
//!
//! A [`Network`] is a list of operations with the names under which their parameters are saved;
//! [`NetworkConfig::network`] builds one from the section `[network]` of a recipe, and a [`NetworkBuilder`]
//! any other. A [`Graph`] works out what is true on every engine: shapes, parameters, running statistics
//! and the tensors of a checkpoint. An [`Engine`] computes a graph on a [`Device`]; `crescendo-cpu` has one
//! for processors.
//!
//! This crate depends on no kernels, reads no files, prints nothing, and knows nothing of epochs, data
//! sets or recipes.
//!
//! # Example
//!
//! ```
//! use crescendo_network::{Graph, NetworkConfig, Shape};
//!
//! let images = Shape::Maps { channels: 3, height: 32, width: 32 };
//! let graph = Graph::new(&NetworkConfig::paper().network(images)?)?;
//! assert_eq!(graph.parameter_count(), 17_392_394);
//! assert_eq!(graph.state()[0].name, "start_layer.0.weight");
//! assert_eq!(graph.initial(0).len(), graph.state().len());
//! # Ok::<(), crescendo_network::Error>(())
//! ```

mod communicator;
mod config;
mod description;
mod device;
mod engine;
mod error;
mod families;
mod graph;
mod init;
mod rules;
mod tensor;
mod tree;
mod whitening;
mod written;

pub use communicator::{Communicator, SingleProcess};
pub use config::{
    ActivationKind, Family, Head, HeadActivation, MomentumConvention, NetworkConfig, Norm,
};
pub use description::{Activation, Init, Network, NetworkBuilder, Node, Operation, Shape, Value};
pub use device::{
    ActivationStorage, ConvolutionKind, Device, DeviceKind, DeviceMemory, Devices, EngineConfig,
    IsaKind, PrecisionKind, RequiredMemory,
};
pub use engine::{
    BorderPixels, ChannelStatistics, DeviceData, Engine, GradientNorms, Images, Loss, MicroBatch,
    Peaks, Preparation, Sample, Section, Snapshot, State, StepTime, UpdateResult, UpdateWork, Work,
};
pub use error::{EngineError, Error};
pub use graph::{Graph, GraphNode, Parameter, Role, StateKind, StateTensor, Statistics};
pub use rules::{Muon, Rule, Sgd};
pub use tensor::{Tensor, TensorData, check_tensors};
pub use tree::{BatchPart, BatchTree};
