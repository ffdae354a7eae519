//! Convolutions, and the choice of the algorithm that computes them.
//!
//! Weights are `[outputs, inputs, kernel, kernel]` as in PyTorch. [`pack_weights`] lays them out, or
//! transforms them, as [`forward`] reads them: *packed weights*, which serve until the weights change.
//! What is fused into a convolution is described by its [`Prologue`] and [`Epilogue`], in backward by
//! [`GradientPrologue`] and [`GradientEpilogue`].

use crate::conv_shape::Convolution;
use crate::epilogue::{Epilogue, GradientEpilogue};
use crate::leaves::Leaves;
use crate::micro_kernel::{Bf16, F32};
use crate::prologue::{GradientPrologue, Prologue};
use crate::winograd::{self, Variant};
use crate::workspace::{Workspace, WorkspaceSize};
use crate::{MapShape, Processor, direct};

/// The algorithm that computes a convolution.
///
/// See the example of [the crate](crate).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConvAlgorithm {
    /// Direct convolution: any filter, any stride.
    Direct,
    /// The same with products of bfloat16, to which both factors are rounded; sums are `f32`.
    DirectBf16,
    /// Winograd F(2x2, 3x3) (Lavin and Gray, arXiv 1509.09308): 16 multiplications for 4 outputs, where
    /// direct convolution needs 36.
    Winograd2,
    /// Winograd F(4x4, 3x3): 36 multiplications for 16 outputs, where direct convolution needs 144.
    Winograd4,
    /// The same with products of bfloat16, to which both factors are rounded after the transforms; sums are `f32`.
    Winograd4Bf16,
}

impl ConvAlgorithm {
    /// The algorithm with products of bfloat16, if it has them.
    pub fn in_bf16(self) -> Option<Self> {
        match self {
            ConvAlgorithm::Direct | ConvAlgorithm::DirectBf16 => Some(ConvAlgorithm::DirectBf16),
            ConvAlgorithm::Winograd4 | ConvAlgorithm::Winograd4Bf16 => {
                Some(ConvAlgorithm::Winograd4Bf16)
            }
            ConvAlgorithm::Winograd2 => None,
        }
    }

    /// Whether it is one of Winograd's.
    pub fn is_winograd(self) -> bool {
        !matches!(self, ConvAlgorithm::Direct | ConvAlgorithm::DirectBf16)
    }
}

/// Transforming one channel of a tile takes about as long as this many multiplications for each of its
/// elements (from the stages' times in docs/performance.md).
const TRANSFORM_PRODUCTS: usize = 12;

/// Reading a number from memory beyond the second-level cache takes about as long as so many multiplications.
const READ_PRODUCTS: usize = 20;

impl Convolution {
    /// Whether the algorithm can compute it: Winograd's need filters of 3x3, stride 1 and a padding of at
    /// most 1; with products of bfloat16 also even numbers of channels.
    pub fn supports(&self, algorithm: ConvAlgorithm) -> bool {
        let for_winograd = self.kernel == 3 && self.stride == 1 && self.padding <= 1;
        let for_bf16 = self.inputs.is_multiple_of(2) && self.outputs.is_multiple_of(2);
        match algorithm {
            ConvAlgorithm::Direct => true,
            ConvAlgorithm::DirectBf16 => for_bf16,
            ConvAlgorithm::Winograd2 | ConvAlgorithm::Winograd4 => for_winograd,
            ConvAlgorithm::Winograd4Bf16 => for_winograd && for_bf16,
        }
    }

    /// The algorithm in f32 that should be fastest for large batches of images of this shape, from the number of
    /// multiplications and transforms alone: never from a timing, so that results are reproducible.
    pub fn best_algorithm(&self, input: MapShape) -> ConvAlgorithm {
        self.cheapest(MapShape { images: 1, ..input }, 0)
    }

    /// The same for a batch as small as `input`, where reading the packed weights takes as long as multiplying: Winograd's
    /// are up to four times as many as the weights.
    pub fn best_algorithm_for_few(&self, input: MapShape) -> ConvAlgorithm {
        self.cheapest(input, READ_PRODUCTS)
    }

    /// The algorithm of the lowest cost, where reading a number of the packed weights costs as much as `read`
    /// multiplications.
    fn cheapest(&self, input: MapShape, read: usize) -> ConvAlgorithm {
        let output = self.output_shape(input);
        let algorithms =
            [ConvAlgorithm::Winograd4, ConvAlgorithm::Winograd2, ConvAlgorithm::Direct];
        let products = |algorithm: ConvAlgorithm| match algorithm {
            ConvAlgorithm::Direct | ConvAlgorithm::DirectBf16 => {
                self.weight_len() * output.pixels()
            }
            _ => {
                let variant = variant(algorithm);
                let side = |length: usize| length.div_ceil(variant.outputs());
                let channels = input.padded_channels() + output.padded_channels();
                let tile = self.inputs * self.outputs + TRANSFORM_PRODUCTS * channels;
                side(output.height) * side(output.width) * variant.elements() * tile
            }
        };
        let cost = |&algorithm: &ConvAlgorithm| {
            input.images * products(algorithm) + read * self.packed_len(algorithm)
        };
        let possible = algorithms.into_iter().filter(|&algorithm| self.supports(algorithm));
        possible.min_by_key(cost).expect("direct is always possible")
    }

    /// Numbers of the weights as the algorithm packs them, in bfloat16 pairs in the memory of one `f32`: see
    /// [`pack_weights`].
    pub fn packed_len(&self, algorithm: ConvAlgorithm) -> usize {
        match algorithm {
            ConvAlgorithm::Direct => direct::packed_len::<F32>(self),
            ConvAlgorithm::DirectBf16 => direct::packed_len::<Bf16>(self),
            _ => winograd::packed_len(variant(algorithm), self),
        }
    }

    /// The working memory that the algorithm needs for a batch of this shape, forward, or `backward` with these leaves, on
    /// so many threads. Of whole trees it does not fall with the number of images.
    pub fn workspace_size(
        &self,
        algorithm: ConvAlgorithm,
        input: MapShape,
        backward: Option<&Leaves>,
        threads: usize,
    ) -> WorkspaceSize {
        match algorithm {
            ConvAlgorithm::Direct => direct::workspace_size::<F32>(self, input, backward, threads),
            ConvAlgorithm::DirectBf16 => {
                direct::workspace_size::<Bf16>(self, input, backward, threads)
            }
            _ => winograd::workspace_size(variant(algorithm), self, input, backward, threads),
        }
    }

    fn check(&self, algorithm: ConvAlgorithm, input: MapShape, output: MapShape) {
        assert_eq!(input.channels, self.inputs, "another number of input channels");
        assert_eq!(output, self.output_shape(input), "the output has another shape");
        assert!(self.supports(algorithm), "{algorithm:?} cannot compute this convolution");
    }
}

/// The variant of one of Winograd's algorithms.
fn variant(algorithm: ConvAlgorithm) -> Variant {
    match algorithm {
        ConvAlgorithm::Winograd2 => Variant::Two,
        ConvAlgorithm::Winograd4 => Variant::Four,
        ConvAlgorithm::Winograd4Bf16 => Variant::FourBf16,
        ConvAlgorithm::Direct | ConvAlgorithm::DirectBf16 => unreachable!("it is not Winograd's"),
    }
}

/// Packs weights for [`forward`] with the same algorithm. `scale` is a factor for each output channel: a
/// BatchNorm that is folded into the weights.
///
/// # Panics
/// If lengths do not fit: see [`Convolution::packed_len`].
pub fn pack_weights(
    processor: &Processor,
    algorithm: ConvAlgorithm,
    layer: &Convolution,
    weight: &[f32],
    scale: Option<&[f32]>,
    packed: &mut [f32],
) {
    assert!(layer.supports(algorithm), "{algorithm:?} cannot compute this convolution");
    assert_eq!(weight.len(), layer.weight_len(), "wrong number of weights");
    assert_eq!(packed.len(), layer.packed_len(algorithm), "wrong length of packed");
    assert!(scale.is_none_or(|scale| scale.len() >= layer.outputs), "wrong number of factors");
    match algorithm {
        ConvAlgorithm::Direct => {
            direct::pack_weights::<F32>(processor, layer, weight, scale, packed);
        }
        ConvAlgorithm::DirectBf16 => {
            direct::pack_weights::<Bf16>(processor, layer, weight, scale, packed);
        }
        _ => winograd::pack_weights(processor, variant(algorithm), layer, weight, scale, packed),
    }
}

/// Convolves what the prologue reads with weights that [`pack_weights`] packed for the same algorithm,
/// and delivers the result to the epilogue.
///
/// # Panics
/// If shapes do not fit, the algorithm does not support the convolution, or the workspace is too small.
pub fn forward(
    processor: &Processor,
    workspace: &mut Workspace,
    algorithm: ConvAlgorithm,
    layer: &Convolution,
    prologue: &Prologue,
    packed: &[f32],
    epilogue: &Epilogue,
) {
    layer.check(algorithm, prologue.shape, epilogue.shape);
    assert_eq!(packed.len(), layer.packed_len(algorithm), "wrong length of packed");
    prologue.check();
    epilogue.check();
    match algorithm {
        ConvAlgorithm::Direct => {
            direct::forward::<F32>(processor, workspace, layer, prologue, packed, epilogue);
        }
        ConvAlgorithm::DirectBf16 => {
            direct::forward::<Bf16>(processor, workspace, layer, prologue, packed, epilogue);
        }
        _ => {
            let variant = variant(algorithm);
            winograd::forward(processor, workspace, variant, layer, prologue, packed, epilogue);
        }
    }
}

/// The backward pass for `gradient`, the gradient of the output: adds the gradient of the weights to
/// each of `dweight`, in the groups of the leaves, and delivers that of the input to `epilogue`, each where it is wanted.
/// `prologue` is what forward read, without saving anything; it is read for `dweight` alone.
///
/// The gradient of a bias is [`crate::norm::bias_gradient`]; before a BatchNorm it is zero.
///
/// # Panics
/// If shapes do not fit, the algorithm does not support the convolution, or the workspace is too small.
#[allow(clippy::too_many_arguments)]
pub fn backward(
    processor: &Processor,
    workspace: &mut Workspace,
    algorithm: ConvAlgorithm,
    layer: &Convolution,
    prologue: &Prologue,
    weight: &[f32],
    gradient: &GradientPrologue,
    leaves: &Leaves,
    dweight: Option<&mut [&mut [f32]]>,
    epilogue: Option<&GradientEpilogue>,
) {
    layer.check(algorithm, prologue.shape, gradient.shape);
    assert_eq!(weight.len(), layer.weight_len(), "wrong number of weights");
    assert_eq!(leaves.images(), prologue.shape.images, "the leaves have other images");
    prologue.check();
    gradient.check();
    if let Some(epilogue) = epilogue {
        assert_eq!(epilogue.shape, prologue.shape, "the input's gradient has another shape");
        epilogue.check();
    }
    if dweight.is_none() && epilogue.is_none() {
        return;
    }
    match algorithm {
        ConvAlgorithm::Direct => direct::backward::<F32>(
            processor, workspace, layer, prologue, weight, gradient, leaves, dweight, epilogue,
        ),
        ConvAlgorithm::DirectBf16 => direct::backward::<Bf16>(
            processor, workspace, layer, prologue, weight, gradient, leaves, dweight, epilogue,
        ),
        _ => {
            let variant = variant(algorithm);
            winograd::backward(
                processor, workspace, variant, layer, prologue, weight, gradient, leaves, dweight,
                epilogue,
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_images_take_algorithms_with_fewer_packed_weights() {
        let algorithms = |channels: usize, side: usize, images: usize| {
            let layer = Convolution {
                inputs: channels,
                outputs: channels,
                kernel: 3,
                stride: 1,
                padding: 1,
            };
            let input = MapShape { images, channels, height: side, width: side };
            (layer.best_algorithm(input), layer.best_algorithm_for_few(input))
        };
        use ConvAlgorithm::{Direct, Winograd2, Winograd4};
        assert_eq!(algorithms(64, 32, 1), (Winograd4, Winograd4));
        assert_eq!(algorithms(256, 8, 1), (Winograd4, Winograd2));
        assert_eq!(algorithms(256, 3, 1), (Winograd4, Direct));
        assert_eq!(algorithms(256, 8, 100), (Winograd4, Winograd4));
    }
}
