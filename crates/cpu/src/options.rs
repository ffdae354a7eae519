//! The settings of an execution plan.

use crescendo_network::{ActivationStorage, ConvolutionKind, EngineConfig};

/// The settings that a plan depends on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PlanOptions {
    pub convolution: ConvolutionKind,
    pub activations: ActivationStorage,
}

impl From<&EngineConfig> for PlanOptions {
    fn from(config: &EngineConfig) -> Self {
        PlanOptions { convolution: config.conv, activations: config.activations }
    }
}
