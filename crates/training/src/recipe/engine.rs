//! The section `[engine]`: what computes, and how.

use crescendo_network::{Compute, ConvolutionChoice, Storage};
use serde::{Deserialize, Serialize};

use crate::IsaChoice;

/// The section `[engine]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EngineConfig {
    /// Threads; 0 for one on every processor.
    pub threads: usize,
    /// The instruction set.
    pub isa: IsaChoice,
    /// The algorithm of convolutions.
    pub conv: ConvolutionChoice,
    /// How values that are saved for backward are stored.
    pub activations: Storage,
}

impl EngineConfig {
    /// The part of it that the network's plan depends on.
    pub fn compute(&self) -> Compute {
        Compute { convolution: self.conv, activations: self.activations }
    }
}
