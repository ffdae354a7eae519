//! The network's terms as kernels take them.

use crescendo_kernels::{ActivationFunction, MapShape};
use crescendo_network::{Activation, Shape};

/// The shape of a batch of maps; `None` for a vector.
pub(crate) fn map_shape(shape: Shape, images: usize) -> Option<MapShape> {
    let [channels, height, width] = shape.maps()?;
    Some(MapShape { images, channels, height, width })
}

/// An activation.
pub(crate) fn function(activation: Activation) -> ActivationFunction {
    match activation {
        Activation::Relu => ActivationFunction::Relu,
        Activation::LeakyRelu { slope } => ActivationFunction::LeakyRelu { slope },
        Activation::Elu => ActivationFunction::Elu,
        Activation::Sigmoid => ActivationFunction::Sigmoid,
        Activation::Silu => ActivationFunction::Silu,
        Activation::Gelu => ActivationFunction::Gelu,
        Activation::Scale { factor } => ActivationFunction::Scale { factor },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plan_and_the_kernels_agree_on_what_backward_reads() {
        for activation in [
            Activation::Relu,
            Activation::LeakyRelu { slope: 0.1 },
            Activation::Elu,
            Activation::Sigmoid,
            Activation::Silu,
            Activation::Gelu,
            Activation::Scale { factor: 0.5 },
        ] {
            let planned = activation.derivative_from_output();
            assert_eq!(planned, function(activation).derivative_from_output(), "{activation:?}");
        }
    }
}
