//! The execution plan: everything that the engine works out for a graph before it computes.

use crescendo_network::{Error, Graph};
use crescendo_plan::{FusedGraph, GradientPlan, RequiredGradients};

use crate::algorithm::Layer;
use crate::memory_layout::MemoryLayout;
use crate::options::PlanOptions;

/// So few images at once take other algorithms in inference: see [`Convolution::best_algorithm_for_few`].
///
/// [`Convolution::best_algorithm_for_few`]: crescendo_kernels::Convolution::best_algorithm_for_few
pub(crate) const FEW_IMAGES: usize = 4;

/// How a graph is computed: graph -> fused steps -> layers, gradients -> memory.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ExecutionPlan {
    pub graph: Graph,
    pub fused: FusedGraph,
    /// For each step its layer, if it is a convolution or a linear layer.
    pub layers: Vec<Option<Layer>>,
    /// The same for inference on at most [`FEW_IMAGES`].
    pub few: Vec<Option<Layer>>,
    pub gradients: GradientPlan,
    pub training: MemoryLayout,
    pub inference: MemoryLayout,
}

impl ExecutionPlan {
    /// Works out how to compute a graph.
    ///
    /// # Errors
    /// If the graph has a combination of operations that is not supported.
    pub fn new(graph: &Graph, options: PlanOptions) -> Result<ExecutionPlan, Error> {
        let fused = FusedGraph::new(graph)?;
        let layers = |few| -> Vec<Option<Layer>> {
            let nodes = fused.steps.iter().map(|step| &graph.nodes[step.node]);
            nodes.map(|node| Layer::of(node, options, few)).collect()
        };
        let (layers, few) = (layers(false), layers(true));
        let gradients = GradientPlan::new(graph, &fused)?;
        let training = MemoryLayout::training(&fused, &gradients, options.activations);
        let inference = MemoryLayout::inference(&fused);
        Ok(ExecutionPlan {
            graph: graph.clone(),
            fused,
            layers,
            few,
            gradients,
            training,
            inference,
        })
    }

    /// What each step's backward computes, if these of the graph's parameters are trained.
    pub fn required_gradients(&self, requires_grad: &[bool]) -> Vec<RequiredGradients> {
        RequiredGradients::new(&self.graph, &self.fused, requires_grad)
    }
}
