//! The choice of an algorithm for each convolution.

use crescendo_kernels::{ConvAlgorithm, Convolution, MapShape};
use crescendo_network::{ConvolutionKind, GraphNode, Operation, Shape};

/// The shape of a convolution, and the algorithm that computes it. It depends on shapes alone, never on a
/// timing, so that results are the same on every run.
///
/// # Panics
/// If the operation is not a convolution.
pub(crate) fn of(node: &GraphNode, wanted: ConvolutionKind) -> (Convolution, ConvAlgorithm) {
    let (
        Operation::Convolution { outputs, kernel, stride, padding, .. },
        Shape::Maps { channels: inputs, .. },
    ) = (node.operation, node.input)
    else {
        panic!("{} is not a convolution", node.name)
    };
    let layer = Convolution { inputs, outputs, kernel, stride, padding };
    let algorithm = match wanted {
        ConvolutionKind::Auto => {
            return (layer, layer.best_algorithm(map_shape(node.input, 1).expect("it has maps")));
        }
        ConvolutionKind::Winograd4 => ConvAlgorithm::Winograd4,
        ConvolutionKind::Winograd2 => ConvAlgorithm::Winograd2,
        ConvolutionKind::Direct => ConvAlgorithm::Direct,
    };
    let possible = layer.supports(algorithm);
    (layer, if possible { algorithm } else { ConvAlgorithm::Direct })
}

/// The shape of a batch of maps as kernels take it; `None` for a vector.
pub(crate) fn map_shape(shape: Shape, images: usize) -> Option<MapShape> {
    let [channels, height, width] = shape.maps()?;
    Some(MapShape { images, channels, height, width })
}
