//! What a convolution is; how it is computed is in [`crate::convolution`].

use crate::MapShape;

/// A convolution: square filters, the same stride and zero padding on both axes.
///
/// See the example of [the crate](crate).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Convolution {
    /// Channels of the input.
    pub inputs: usize,
    /// Channels of the output.
    pub outputs: usize,
    /// Rows and columns of a filter.
    pub kernel: usize,
    /// Pixels between neighbouring outputs.
    pub stride: usize,
    /// Rows and columns of zeros around the input.
    pub padding: usize,
}

impl Convolution {
    /// The shape of the output for an input of this shape.
    pub fn output_shape(&self, input: MapShape) -> MapShape {
        let side = |length: usize| (length + 2 * self.padding - self.kernel) / self.stride + 1;
        MapShape {
            channels: self.outputs,
            height: side(input.height),
            width: side(input.width),
            ..input
        }
    }

    /// Numbers in the weight.
    pub fn weight_len(&self) -> usize {
        self.outputs * self.inputs * self.kernel * self.kernel
    }
}
