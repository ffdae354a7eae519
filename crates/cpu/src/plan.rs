//! The execution plan: everything that the engine works out for a graph before it computes.

use crescendo_network::{Error, Graph};

use crate::fusion::FusedGraph;
use crate::gradients::GradientPlan;
use crate::memory_plan::MemoryPlan;
use crate::options::PlanOptions;

/// How a graph is computed: graph -> fused steps -> gradients -> memory.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ExecutionPlan {
    pub graph: Graph,
    pub fused: FusedGraph,
    pub gradients: GradientPlan,
    pub training: MemoryPlan,
    pub inference: MemoryPlan,
}

impl ExecutionPlan {
    /// Works out how to compute a graph.
    ///
    /// # Errors
    /// If the graph has a combination of operations that is not supported.
    pub fn new(graph: &Graph, options: PlanOptions) -> Result<ExecutionPlan, Error> {
        let fused = FusedGraph::new(graph, options)?;
        let gradients = GradientPlan::new(graph, &fused)?;
        let training = MemoryPlan::training(&fused, &gradients, options.activations);
        let inference = MemoryPlan::inference(&fused);
        Ok(ExecutionPlan { graph: graph.clone(), fused, gradients, training, inference })
    }
}
