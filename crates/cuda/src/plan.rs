//! The execution plan: everything that the engine works out for a graph before it computes.

use crescendo_network::{Error, Graph, Shape};
use crescendo_plan::{FusedGraph, GradientPlan, MemoryPlan, StepKind};

use crate::window::{Layer, MapShape, TILE_PIXELS};

/// How numbers are stored and multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Precision {
    F32,
    /// Maps and products in bfloat16, sums in f32.
    Bf16,
}

impl Precision {
    /// Bytes of a number of maps.
    pub fn bytes(self) -> usize {
        match self {
            Precision::F32 => 4,
            Precision::Bf16 => 2,
        }
    }

    /// Whether a value is stored in f32: vectors always are.
    pub fn stores_f32(self, shape: Shape) -> bool {
        self == Precision::F32 || matches!(shape, Shape::Vector { .. })
    }

    /// Bytes that a value takes for each image.
    pub fn size(self, shape: Shape) -> usize {
        let bytes = if self.stores_f32(shape) { 4 } else { 2 };
        MapShape::new(shape).len() * bytes
    }
}

/// How a graph is computed: graph -> fused steps -> gradients -> memory.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ExecutionPlan {
    pub graph: Graph,
    pub fused: FusedGraph,
    pub gradients: GradientPlan,
    /// In bytes for each image.
    pub training: MemoryPlan,
    pub inference: MemoryPlan,
    /// One for each step: what it multiplies by, if it does.
    pub layers: Vec<Option<Layer>>,
    pub precision: Precision,
}

impl ExecutionPlan {
    /// Works out how to compute a graph.
    ///
    /// # Errors
    /// If the graph has a combination of operations, or an operation of a size, that is not supported.
    pub fn new(graph: &Graph, precision: Precision) -> Result<ExecutionPlan, Error> {
        let fused = FusedGraph::new(graph)?;
        let gradients = GradientPlan::new(graph, &fused)?;
        let size = |shape: Shape| precision.size(shape);
        let training = MemoryPlan::training(&fused, &gradients, size, size);
        let inference = MemoryPlan::inference(&fused, size);
        let mut layers = Vec::new();
        for step in &fused.steps {
            let node = &graph.nodes[step.node];
            let layer = Layer::of(node).filter(|_| step.kind != StepKind::Write);
            if let Some(layer) = layer {
                layer.check(&node.name)?;
            }
            layers.push(layer);
        }
        let graph = graph.clone();
        Ok(ExecutionPlan { graph, fused, gradients, training, inference, layers, precision })
    }

    /// The tiles of a step's forward, and of the gradient of its input, of so many images: each has sums of its own.
    pub fn tiles(&self, step: usize, images: usize) -> [usize; 2] {
        let bytes = self.precision.bytes();
        match self.layers[step] {
            Some(layer) => [layer.forward(images, bytes), layer.input_gradient(images, bytes)]
                .map(|tiling| tiling.expect("the layer was checked").tiles),
            None => {
                let step = &self.fused.steps[step];
                [step.output, step.input.main.tensor].map(|tensor| {
                    let shape = MapShape::new(self.fused.tensors[tensor.0].shape);
                    (images * shape.pixels()).div_ceil(TILE_PIXELS)
                })
            }
        }
    }
}
