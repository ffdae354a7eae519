//! Networks: from a description to losses, gradients and logits.
//!
//! A [`Network`] is a list of operations with the names under which their parameters are saved;
//! [`Config::network`] writes one from the keys of a recipe. A [`Plan`] works out
//! from the list what any engine needs: shapes, parameters, counts of multiplications, and which
//! tensor lies in which buffer. An [`Engine`] computes: [`CpuEngine`] here, others behind the same
//! trait.
//!
//! This crate reads no files, prints nothing, and knows nothing of epochs, data sets or recipes:
//! batches come in, losses and tensors go out.
//!
//! # Example
//!
//! ```
//! use crescendo_network::{
//!     Alone, Batch, Compute, Config, CpuEngine, Engine, Isa, Plan, Rule, Section, Sgd,
//! };
//!
//! let config = Config { blocks: vec![1, 1], widths: vec![4, 8], ..Config::report() };
//! let plan = Plan::new(&config.network()?, Compute::default())?;
//! let initial = plan.initial(0);
//! let mut engine = CpuEngine::new(plan, 2, Isa::best());
//! engine.import(Section::Model, &initial)?;
//!
//! let images = vec![0.5; 4 * 3 * 32 * 32];
//! let batch = Batch::new(&images, &[1, 2, 3, 4]);
//! let sgd = Sgd { learning_rate: 0.1, ..Sgd::default() };
//! let rules = vec![Rule::Sgd(sgd); engine.plan().parameters.len()];
//! let first = engine.backward(batch, 1.0, &Alone).loss;
//! engine.update(&rules);
//! let second = engine.backward(batch, 1.0, &Alone).loss;
//! assert!(second < first);
//! # Ok::<(), crescendo_network::Error>(())
//! ```

mod airbench;
mod config;
mod cpu;
mod description;
mod engine;
mod fusion;
mod init;
mod memory;
mod placement;
mod plan;
mod resnet;
mod whitening;

pub use crescendo_kernels::Isa;

pub use config::{ActivationKind, Config, Family, Head, HeadActivation, MomentumConvention, Norm};
pub use cpu::CpuEngine;
pub use description::{Builder, Init, Network, Node, Operation, Shape, Value};
pub use engine::{
    Alone, Batch, Communicator, Engine, Muon, Outcome, Rule, Section, Sgd, Tensor, Values,
};
pub use fusion::{
    Delivery, Fused, FusedStep, GradientInfo, Normed, Reading, TensorId, TensorInfo, Work,
};
pub use placement::Placement;
pub use plan::{
    Compute, ConvolutionChoice, Parameter, Plan, Role, Source, StateTensor, Statistics, Step,
    Storage,
};

/// Why a network cannot be built or filled, in a sentence that says what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Error(pub String);
