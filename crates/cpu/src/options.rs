//! The settings of an execution plan.

use crescendo_network::{ActivationStorage, ConvolutionKind, EngineConfig, PrecisionKind};

/// The settings that a plan depends on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PlanOptions {
    pub convolution: ConvolutionKind,
    /// Whether products are of bfloat16 where an algorithm has them.
    pub bf16: bool,
    pub activations: ActivationStorage,
}

impl From<&EngineConfig> for PlanOptions {
    fn from(config: &EngineConfig) -> Self {
        PlanOptions {
            convolution: config.conv,
            bf16: config.precision == PrecisionKind::Bf16,
            activations: config.activations,
        }
    }
}
