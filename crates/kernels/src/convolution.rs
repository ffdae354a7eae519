//! Convolutions: what they are, and the choice of how they are computed.
//!
//! Weights are `[outputs, inputs, kernel, kernel]` as in PyTorch; [`pack`] lays them out, or transforms
//! them, as [`forward`] reads them: *filters*, which serve until the weights change. What is computed on the way in and
//! on the way out is described by [`Source`] and [`Sink`], backward by [`GradientSource`] and
//! [`GradientSink`].

use crate::sink::{GradientSink, Sink};
use crate::source::{GradientSource, Source};
use crate::winograd::{self, Size};
use crate::workspace::{Need, Workspace};
use crate::{Maps, Processor, direct};

/// A convolution's shape. Square filters, the same stride and zero padding on both axes.
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
    /// Zeros around the input.
    pub padding: usize,
}

/// How a convolution is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Method {
    /// Product by product: any filter, any stride.
    Direct,
    /// Winograd F(2x2, 3x3): 16 products for 4 outputs, where direct convolution needs 36.
    Winograd2,
    /// Winograd F(4x4, 3x3): 36 products for 16 outputs, where direct convolution needs 144.
    Winograd4,
}

/// A channel of a tile through its transforms takes about as long as so many products at each of its
/// points (from the stages' times in docs/performance.md).
const TRANSFORM_PRODUCTS: usize = 12;

impl Convolution {
    /// The maps that come out for the maps that go in.
    pub fn output(&self, input: Maps) -> Maps {
        let side = |length: usize| (length + 2 * self.padding - self.kernel) / self.stride + 1;
        Maps {
            channels: self.outputs,
            height: side(input.height),
            width: side(input.width),
            ..input
        }
    }

    /// Numbers in the weight.
    pub fn weights(&self) -> usize {
        self.outputs * self.inputs * self.kernel * self.kernel
    }

    /// Whether a method can compute it.
    pub fn supports(&self, method: Method) -> bool {
        method == Method::Direct || (self.kernel == 3 && self.stride == 1 && self.padding <= 1)
    }

    /// The method that should be fastest for an input of this shape, from the number of products and
    /// transforms alone: never from a timing, so that results do not depend on the hour.
    pub fn best(&self, input: Maps) -> Method {
        let output = self.output(input);
        let methods = [Method::Winograd4, Method::Winograd2, Method::Direct];
        let cost = |method: &Method| match method {
            Method::Direct => self.weights() * output.pixels(),
            Method::Winograd2 | Method::Winograd4 => {
                let size = size(*method);
                let side = |length: usize| length.div_ceil(size.outputs());
                let channels = input.padded_channels() + output.padded_channels();
                let tile = self.inputs * self.outputs + TRANSFORM_PRODUCTS * channels;
                side(output.height) * side(output.width) * size.products() * tile
            }
        };
        let possible = methods.into_iter().filter(|&method| self.supports(method));
        possible.min_by_key(cost).expect("direct is always possible")
    }

    /// Numbers of the filters that a method reads: see [`pack`].
    pub fn filters(&self, method: Method) -> usize {
        match method {
            Method::Direct => direct::filters(self),
            Method::Winograd2 | Method::Winograd4 => winograd::filters(size(method), self),
        }
    }

    /// The working memory that a method needs for a batch of this input.
    pub fn need(&self, method: Method, input: Maps, backward: bool) -> Need {
        match method {
            Method::Direct => direct::need(self, input, backward),
            Method::Winograd2 | Method::Winograd4 => {
                winograd::need(size(method), self, input, backward)
            }
        }
    }

    fn check(&self, method: Method, input: Maps, output: Maps) {
        assert_eq!(input.channels, self.inputs, "another number of input channels");
        assert_eq!(output, self.output(input), "the output has another shape");
        assert!(self.supports(method), "{method:?} cannot compute this convolution");
    }
}

fn size(method: Method) -> Size {
    if method == Method::Winograd2 { Size::Two } else { Size::Four }
}

/// Fills `filters` from the weights. `scale` is a factor for each output channel's: a BatchNorm folded
/// in.
///
/// # Panics
/// If lengths do not fit: see [`Convolution::filters`].
pub fn pack(
    processor: &Processor,
    method: Method,
    layer: &Convolution,
    weight: &[f32],
    scale: Option<&[f32]>,
    filters: &mut [f32],
) {
    assert!(layer.supports(method), "{method:?} cannot compute this convolution");
    assert_eq!(weight.len(), layer.weights(), "wrong number of weights");
    assert_eq!(filters.len(), layer.filters(method), "wrong length of filters");
    assert!(scale.is_none_or(|scale| scale.len() >= layer.outputs), "wrong number of factors");
    if method == Method::Direct {
        direct::pack(processor, layer, weight, scale, filters);
    } else {
        winograd::pack(processor, size(method), layer, weight, scale, filters);
    }
}

/// Convolves the maps of `source` with filters that [`pack`] made for the same method, and delivers the
/// result to `sink`.
///
/// # Panics
/// If shapes do not fit, or the workspace was made for less.
pub fn forward(
    processor: &Processor,
    workspace: &mut Workspace,
    method: Method,
    layer: &Convolution,
    source: &Source,
    filters: &[f32],
    sink: &Sink,
) {
    layer.check(method, source.maps, sink.maps);
    assert_eq!(filters.len(), layer.filters(method), "wrong length of filters");
    source.check();
    sink.check();
    if method == Method::Direct {
        direct::forward(processor, workspace, layer, source, filters, sink);
    } else {
        winograd::forward(processor, workspace, size(method), layer, source, filters, sink);
    }
}

/// The gradients for `gradient`, that of the output: adds to `dweight`, and delivers that of the input
/// to `sink`, each where it is wanted. `source` is what forward read; it is read for `dweight` alone.
///
/// The gradient of a bias is [`crate::norm::bias_gradient`]; before a BatchNorm it is zero.
///
/// # Panics
/// If shapes do not fit, or the workspace was made for less.
#[allow(clippy::too_many_arguments)]
pub fn backward(
    processor: &Processor,
    workspace: &mut Workspace,
    method: Method,
    layer: &Convolution,
    source: &Source,
    weight: &[f32],
    gradient: &GradientSource,
    dweight: Option<&mut [f32]>,
    sink: Option<&GradientSink>,
) {
    layer.check(method, source.maps, gradient.maps);
    let lengths = [weight.len(), dweight.as_ref().map_or(weight.len(), |dweight| dweight.len())];
    assert_eq!(lengths, [layer.weights(); 2], "wrong number of weights");
    source.check();
    gradient.check();
    if let Some(sink) = sink {
        assert_eq!(sink.maps, source.maps, "the input's gradient has another shape");
        sink.check();
    }
    if dweight.is_none() && sink.is_none() {
        return;
    }
    if method == Method::Direct {
        direct::backward(processor, workspace, layer, source, weight, gradient, dweight, sink);
    } else {
        let size = size(method);
        winograd::backward(
            processor, workspace, size, layer, source, weight, gradient, dweight, sink,
        );
    }
}
