//! The execution plan: everything that the engine works out for a graph before it computes.

use crescendo_network::{Error, Graph, Shape};
use crescendo_plan::{FusedGraph, GradientPlan, MemoryPlan, StepKind, TensorId};

use crate::driver::Chip;
use crate::window::{Layer, MapShape, TILE_PIXELS, TILE_SQUARES, Tiling};

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
    pub chip: Chip,
}

impl ExecutionPlan {
    /// Works out how to compute a graph.
    ///
    /// # Errors
    /// If the graph has a combination of operations, or an operation of a size, that is not supported.
    pub fn new(graph: &Graph, precision: Precision, chip: Chip) -> Result<ExecutionPlan, Error> {
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
        Ok(ExecutionPlan { graph, fused, gradients, training, inference, layers, precision, chip })
    }

    /// Whether the products of warpgroups compute a layer.
    pub fn has_patches(&self, layer: Layer) -> bool {
        self.chip.warpgroups && self.precision == Precision::Bf16 && layer.has_patches()
    }

    /// In how many parts the products of warpgroups compute a linear layer, or the gradient of its input; `None` if they do
    /// not.
    pub fn linear_parts(&self, layer: Layer, images: usize, gradient: bool) -> Option<usize> {
        let fits = self.chip.warpgroups && self.precision == Precision::Bf16 && layer.is_linear();
        fits.then(|| layer.linear_parts(images, gradient, self.chip.multiprocessors))
    }

    /// How many sums of parts there are for each output of a linear layer at most; none if other kernels compute it.
    pub fn linear_sums(&self, layer: Layer, images: usize, gradient: bool) -> usize {
        let multiprocessors = self.chip.multiprocessors;
        let parts = self.linear_parts(layer, images, gradient);
        parts.map_or(0, |_| layer.linear_sums(images, gradient, multiprocessors))
    }

    /// The tiles of a layer's convolution, or of the gradient of its input.
    pub fn tiling(&self, layer: Layer, images: usize, gradient: bool) -> Tiling {
        let bytes = self.precision.bytes();
        let tiling = match gradient {
            _ if self.has_patches(layer) => {
                return layer.patches(images, gradient, self.chip.multiprocessors);
            }
            false => layer.forward(images, bytes),
            true => layer.input_gradient(images, bytes),
        };
        tiling.expect("the layer was checked")
    }

    /// The tiles of the gradient of a layer's weights, and the number of blocks that share them.
    pub fn weight_tiling(&self, layer: Layer, images: usize) -> Tiling {
        if self.has_patches(layer) {
            return layer.weight_patches(images, self.chip.multiprocessors);
        }
        let tiling = layer.weight_gradient(images, self.precision.bytes());
        let tiling = tiling.expect("the layer was checked");
        Tiling { blocks: layer.splits(tiling.tiles), ..tiling }
    }

    /// How many sums there are of a step's forward, and of the gradient of its input, for a BatchNorm.
    pub fn sums(&self, step: usize, images: usize) -> [usize; 2] {
        match self.layers[step] {
            Some(layer) => {
                [false, true].map(|gradient| self.tiling(layer, images, gradient).blocks)
            }
            None => {
                let step = &self.fused.steps[step];
                let shape = |tensor: TensorId| MapShape::new(self.fused.tensors[tensor.0].shape);
                let tiles = |tensor| (images * shape(tensor).pixels()).div_ceil(TILE_PIXELS);
                let input = step.input.main.tensor;
                let of_input = match step.kind {
                    StepKind::MaxPool(size) => {
                        let MapShape { rows, columns, .. } = shape(input);
                        let squares = images * rows.div_ceil(size) * columns.div_ceil(size);
                        squares.div_ceil(TILE_SQUARES)
                    }
                    _ => tiles(input),
                };
                [tiles(step.output), of_input]
            }
        }
    }
}
