//! The layers that have weights as kernels take them, and the choice of an algorithm for each convolution.

use crescendo_kernels::linear::Linear;
use crescendo_kernels::{ConvAlgorithm, Convolution};
use crescendo_network::{ConvolutionKind, GraphNode, Operation, Shape};

use crate::convert::map_shape;
use crate::options::PlanOptions;

/// A convolution or a linear layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Layer {
    Convolution(Convolution, ConvAlgorithm),
    Linear(Linear),
}

impl Layer {
    /// The layer of an operation, for a batch or for `few` images; `None` for any other operation. A convolution's
    /// algorithm depends on shapes alone, never on a timing, so that results are the same on every run.
    pub fn of(node: &GraphNode, options: PlanOptions, few: bool) -> Option<Layer> {
        match (node.operation, node.input) {
            (
                Operation::Convolution { outputs, kernel, stride, padding, .. },
                Shape::Maps { channels: inputs, .. },
            ) => {
                let layer = Convolution { inputs, outputs, kernel, stride, padding };
                Some(Layer::Convolution(layer, algorithm(&layer, node.input, options, few)))
            }
            (Operation::Linear { outputs, .. }, input) => {
                Some(Layer::Linear(Linear { inputs: input.len(), outputs }))
            }
            _ => None,
        }
    }
}

fn algorithm(layer: &Convolution, input: Shape, options: PlanOptions, few: bool) -> ConvAlgorithm {
    let algorithm = match options.convolution {
        ConvolutionKind::Auto => {
            let image = map_shape(input, 1).expect("it has maps");
            match few {
                true => layer.best_algorithm_for_few(image),
                false => layer.best_algorithm(image),
            }
        }
        ConvolutionKind::Winograd4 => ConvAlgorithm::Winograd4,
        ConvolutionKind::Winograd2 => ConvAlgorithm::Winograd2,
        ConvolutionKind::Direct => ConvAlgorithm::Direct,
    };
    let algorithm = if layer.supports(algorithm) { algorithm } else { ConvAlgorithm::Direct };
    let bf16 = algorithm.in_bf16().filter(|&bf16| options.bf16 && layer.supports(bf16));
    bf16.unwrap_or(algorithm)
}
