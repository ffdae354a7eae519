//! The memory plan in the kernels' layout of maps.

use crescendo_network::{ActivationStorage, Shape};
use crescendo_plan::{FusedGraph, GradientPlan, MemoryPlan};

use crate::convert::map_shape;

/// Where tensors and gradients lie in the arena, and how maps are stored. Gradients are in `f32`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MemoryLayout {
    /// In units of 4 bytes.
    pub plan: MemoryPlan,
    /// How the maps among the tensors are stored.
    pub storage: ActivationStorage,
}

impl MemoryLayout {
    /// That of a forward pass alone.
    pub fn inference(fused: &FusedGraph) -> MemoryLayout {
        let storage = ActivationStorage::F32;
        let plan = MemoryPlan::inference(fused, |shape| numbers(shape, storage));
        MemoryLayout { plan, storage }
    }

    /// That of a forward and a backward pass.
    pub fn training(
        fused: &FusedGraph,
        gradients: &GradientPlan,
        storage: ActivationStorage,
    ) -> MemoryLayout {
        let of_tensor = |shape| numbers(shape, storage);
        let of_gradient = |shape| numbers(shape, ActivationStorage::F32);
        let plan = MemoryPlan::training(fused, gradients, of_tensor, of_gradient);
        MemoryLayout { plan, storage }
    }
}

/// Units of 4 bytes that a value takes per image.
pub(crate) fn numbers(shape: Shape, storage: ActivationStorage) -> usize {
    match (map_shape(shape, 1), storage) {
        (Some(maps), ActivationStorage::F32) => maps.len(),
        (Some(maps), ActivationStorage::Bf16) => maps.len() / 2,
        (None, _) => shape.len(),
    }
}
