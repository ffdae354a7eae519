//! Which gradients backward computes: none of frozen parameters, and none that only those would need.

use crescendo_network::Graph;

use crate::fusion::{FusedGraph, StepKind};

/// The gradients that a step's backward computes.
///
/// # Example
///
/// ```
/// use crescendo_network::{Graph, NetworkConfig, Shape};
/// use crescendo_plan::{FusedGraph, RequiredGradients};
///
/// let images = Shape::Maps { channels: 3, height: 32, width: 32 };
/// let graph = Graph::new(&NetworkConfig::paper().network(images)?)?;
/// let fused = FusedGraph::new(&graph)?;
/// // Only the last layer is trained, its weight and its bias: no gradient goes further back.
/// let last = graph.nodes.last().unwrap();
/// let trained: Vec<bool> = (0..graph.parameters.len()).map(|p| Some(p) >= last.weight).collect();
/// let required = RequiredGradients::new(&graph, &fused, &trained);
/// let (logits, before) = required.split_last().unwrap();
/// assert!(logits.weight && logits.bias && !logits.input);
/// assert!(before.iter().all(|required| !required.any()));
/// # Ok::<(), crescendo_network::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RequiredGradients {
    /// That of its weight.
    pub weight: bool,
    /// That of its bias.
    pub bias: bool,
    /// That of its input, because a parameter before it is trained.
    pub input: bool,
}

impl RequiredGradients {
    /// Those of every step, if these of the graph's parameters are trained.
    ///
    /// # Panics
    /// If there is not one answer for each parameter.
    pub fn new(
        graph: &Graph,
        fused: &FusedGraph,
        requires_grad: &[bool],
    ) -> Vec<RequiredGradients> {
        assert_eq!(requires_grad.len(), graph.parameters.len(), "one answer for each parameter");
        // Whether a value depends on a trained parameter.
        let mut depends = vec![false];
        for node in &graph.nodes {
            let own = node.parameters().any(|index| requires_grad[index]);
            let inputs = node.inputs.iter().any(|input| depends[input.0]);
            depends.push(own || inputs);
        }
        let required = fused.steps.iter().map(|step| {
            let node = &graph.nodes[step.node];
            let trained = |parameter: Option<usize>| parameter.is_some_and(|p| requires_grad[p]);
            match step.kind {
                // It reads the value that it writes.
                StepKind::Write => {
                    let input = depends[step.node + 1];
                    RequiredGradients { weight: false, bias: false, input }
                }
                _ => RequiredGradients {
                    weight: trained(node.weight),
                    bias: trained(node.bias),
                    input: depends[node.inputs[0].0],
                },
            }
        });
        required.collect()
    }

    /// Whether there are any.
    pub fn any(self) -> bool {
        self.weight || self.bias || self.input
    }
}
