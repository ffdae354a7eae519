//! The family `custom`: any network, given as its operations.

use super::refuse;
use crate::{Error, Graph, Network, NetworkConfig, Shape};

/// The most operations of a network.
const MAX_OPERATIONS: usize = 2_000;

/// The network for images of `side` x `side` pixels, if it is valid for these and for images of `full` x `full`.
pub(super) fn network(
    config: &NetworkConfig,
    channels: usize,
    full: usize,
    side: usize,
) -> Result<Network, Error> {
    let nodes = &config.operations;
    if nodes.is_empty() {
        return refuse(
            "operations",
            "must list the operations of a network of the family custom".into(),
        );
    }
    if nodes.len() > MAX_OPERATIONS {
        let problem = format!("must be at most {MAX_OPERATIONS}, but there are {}", nodes.len());
        return refuse("operations", problem);
    }
    if let Some(index) = nodes.iter().position(|node| node.name.trim().is_empty()) {
        return refuse("operations", format!("has no name for operation {}", index + 1));
    }
    let of = |side| {
        let input = Shape::Maps { channels, height: side, width: side };
        let network = Network { input, nodes: nodes.clone() };
        Graph::new(&network).map(|graph| (network, graph))
    };
    let in_operations = |error: Error| Error(format!("network.operations: {}", error.0));
    let (network, graph) = of(full).map_err(in_operations)?;
    let outputs = graph.classes();
    if outputs != config.classes {
        return refuse(
            "classes",
            format!(
                "is {}, but the last of network.operations has {outputs} outputs",
                config.classes
            ),
        );
    }
    if side == full {
        return Ok(network);
    }
    let misfit = |problem: String| {
        Error(format!("images of {side}x{side} pixels do not fit this network: {problem}"))
    };
    let (network, resized) = of(side).map_err(|error: Error| misfit(error.0))?;
    let pairs = graph.parameters.iter().zip(&resized.parameters);
    match pairs.into_iter().find(|(own, other)| own != other) {
        Some((own, other)) => Err(misfit(format!(
            "{} would have the shape {:?} instead of {:?}",
            own.name, other.shape, own.shape
        ))),
        None => Ok(network),
    }
}
