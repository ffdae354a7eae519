//! Convolutions of any square filter and stride, directly: forward, and backward to the weights and
//! the input.
//!
//! A task takes an image. Its rows are laid out with a margin of zeros (`[blocks, rows, columns, 16]`,
//! in the second-level cache), so that every filter tap is a shift of one address, and a row of the
//! output is one GEMM: rows of `a` are pixels, `stride` pixels apart, and its segments are the
//! taps of each block of input channels.
//!
//! - Weights: the same with `a` transposed, a GEMM for each tap: [`PanelGemmTn`].
//! - Input: pixels of the input that are alike modulo the stride (a *phase*) see the same taps, and
//!   neighbours among them see neighbouring pixels of the output. A phase is a convolution of stride 1
//!   of the output's gradient, with the taps of the phase.
//!
//! Packed weights are `[panel][tile of columns][tap][channel][columns]`, as [`PanelGemm`] reads them.
//!
//! In bfloat16 a word is a pair of channels, or, for the gradient of the weights, of pixels: see [`stage`].
//!
//! [`PanelGemm`]: crate::micro_kernel::PanelGemm
//! [`PanelGemmTn`]: crate::micro_kernel::PanelGemmTn

mod backward;
mod forward;
mod geometry;
mod pack;
mod stage;

use crate::MapShape;
use crate::conv_shape::Convolution;
use crate::leaves::{Leaves, Parts};
use crate::micro_kernel::Precision;
use crate::partition::are_many;
use crate::workspace::WorkspaceSize;

use geometry::Geometry;

pub(crate) use backward::backward;
pub(crate) use forward::forward;
pub(crate) use pack::{pack_weights, packed_len};

/// Segments of sixteen words that are multiplied in one go: a register tile's columns (64 at most) of so many fill
/// 24 KiB, which leaves room in the first-level cache for the rows that pass by.
const SEGMENTS: usize = 6;

/// The most segments that are multiplied in one go.
const MOST_SEGMENTS: usize = 2 * SEGMENTS;

/// See [`Convolution::workspace_size`].
pub(crate) fn workspace_size<P: Precision>(
    layer: &Convolution,
    input: MapShape,
    backward: Option<&Leaves>,
    threads: usize,
) -> WorkspaceSize {
    let geometry = Geometry::new(layer, input);
    let (input, output) = (geometry.input, geometry.output);
    if let Some(leaves) = backward {
        let parts = Parts::most(leaves, geometry.parts(leaves.whole()));
        let weights = geometry.taps() * output.channels / P::K * input.padded_channels();
        let staged = if are_many(threads) { backward::staged::<P>(&geometry, threads) } else { 0 };
        WorkspaceSize {
            worker: geometry.staged::<P>() + geometry.line::<P>() + input.image_len(),
            shared: weights + parts * geometry.part() + staged,
        }
    } else {
        let staged = geometry.staged_input::<P>() + geometry.line::<P>();
        WorkspaceSize { worker: staged + output.image_len(), shared: 0 }
    }
}
