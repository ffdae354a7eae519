//! Convolutions of any square filter and stride, directly: forward, and backward to the weights and
//! the input.
//!
//! A task takes an image. Its rows are laid out with a margin of zeros (`[blocks, rows, columns, 16]`,
//! in the second-level cache), so that every filter tap is a shift of one address, and a row of the
//! output is one matrix product: rows of `a` are pixels, `stride` pixels apart, and its segments are the
//! taps of each block of input channels.
//!
//! - Weights: the same with `a` transposed, a product for each tap: [`Correlate`].
//! - Input: pixels of the input that are alike modulo the stride (a *phase*) see the same taps, and
//!   neighbours among them see neighbouring pixels of the output. A phase is a convolution of stride 1
//!   of the output's gradient, with the taps of the phase.
//!
//! Packed weights are `[panel][tap][channel][columns]`, as [`Multiply`] reads them.

use std::ops::Range;

use crate::convolution::Convolution;
use crate::ahead::Ahead;
use crate::product::{Correlate, Multiply, PANEL, Segment};
use crate::shared::Shared;
use crate::simd::{Kernel, LANES, Simd};
use crate::sink::{GradientSink, Sink};
use crate::source::{GradientSource, Source};
use crate::workspace::{Need, Workspace};
use crate::{Maps, Processor};

/// Segments that are multiplied in one go: a panel of 64 columns of so many fills 32 KiB.
const SEGMENTS: usize = 8;

/// Output pixels that a partial sum of the weights' gradient is worth.
const PIXELS_PER_PART: usize = 4000;

/// A convolution and the maps laid out with margins.
#[derive(Clone, Copy)]
struct Geometry {
    layer: Convolution,
    input: Maps,
    output: Maps,
    /// Rows and columns of the input with its padding.
    in_rows: usize,
    in_columns: usize,
    /// Rows and columns of the output's gradient with margins, and the margin before it.
    out_rows: usize,
    out_columns: usize,
    margin: usize,
}

impl Geometry {
    fn new(layer: &Convolution, input: Maps) -> Self {
        let output = layer.output(input);
        let Convolution { kernel, stride, padding, .. } = *layer;
        let margin = (kernel - 1) / stride;
        // The last output that the last pixel of the input takes part in, or would.
        let reach = |side: usize, out: usize| margin + ((side - 1 + padding) / stride + 1).max(out);
        Geometry {
            layer: *layer,
            input,
            output,
            in_rows: input.height + 2 * padding,
            in_columns: input.width + 2 * padding,
            out_rows: reach(input.height, output.height),
            out_columns: reach(input.width, output.width),
            margin,
        }
    }

    /// Numbers of an image of the input, laid out.
    fn staged_input(&self) -> usize {
        self.input.padded_channels() * self.in_rows * self.in_columns
    }

    /// Numbers of an image of the output's gradient, laid out.
    fn staged_gradient(&self) -> usize {
        self.output.padded_channels() * self.out_rows * self.out_columns
    }

    fn taps(&self) -> usize {
        self.layer.kernel * self.layer.kernel
    }

    /// Numbers of a gradient of the weights: `[tap][input channel][output channel]`.
    fn part(&self) -> usize {
        self.taps() * self.input.channels * self.output.padded_channels()
    }

    /// How many partial sums there are of it.
    fn parts(&self) -> usize {
        let images = self.input.images;
        (images * self.output.pixels() / PIXELS_PER_PART).clamp(4, 64).min(images)
    }

    /// Offsets of the taps that pixels of a phase see, along one axis.
    fn taps_of(&self, phase: usize) -> usize {
        self.layer.kernel.saturating_sub(phase).div_ceil(self.layer.stride)
    }

    /// The pixels of a phase along one axis of the input: the first, and how many.
    fn pixels_of(&self, phase: usize, side: usize) -> (usize, usize) {
        let Convolution { stride, padding, .. } = self.layer;
        let first = (phase + stride * padding - padding) % stride;
        (first, side.saturating_sub(first).div_ceil(stride))
    }
}

pub(crate) fn need(layer: &Convolution, input: Maps, backward: bool) -> Need {
    let geometry = Geometry::new(layer, input);
    let (input, output) = (geometry.input, geometry.output);
    if backward {
        let weights = geometry.taps() * output.channels * input.padded_channels();
        Need {
            worker: geometry.staged_input() + geometry.staged_gradient() + input.image_len(),
            shared: weights + geometry.parts() * geometry.part(),
        }
    } else {
        Need {
            worker: geometry.staged_input() + output.image_len(),
            shared: geometry.taps() * input.channels * output.padded_channels(),
        }
    }
}

/// See [`crate::convolution::forward`].
#[allow(clippy::too_many_arguments)]
pub(crate) fn forward(
    processor: &Processor,
    workspace: &mut Workspace,
    layer: &Convolution,
    source: &Source,
    weight: &[f32],
    scale: Option<&[f32]>,
    sink: &Sink,
) {
    let geometry = &Geometry::new(layer, source.maps);
    let (workers, shared) = workspace.split();
    let packed = &mut shared[..geometry.taps() * layer.inputs * sink.maps.padded_channels()];
    pack(geometry, weight, scale, packed);
    let packed = &*packed;
    processor.pool.run(source.maps.images, |image, worker| {
        let (staged, out) = (geometry.staged_input(), geometry.output.image_len());
        // SAFETY: a worker's memory is its own; `need` asked for enough of it.
        let (staged, out) = unsafe { workers.part(worker, staged, out) };
        processor.isa.run(Forward { geometry, source, sink, packed, image, staged, out });
    });
}

/// See [`crate::convolution::backward`].
#[allow(clippy::too_many_arguments)]
pub(crate) fn backward(
    processor: &Processor,
    workspace: &mut Workspace,
    layer: &Convolution,
    source: &Source,
    weight: &[f32],
    gradient: &GradientSource,
    dweight: &mut [f32],
    sink: Option<&GradientSink>,
) {
    let geometry = &Geometry::new(layer, source.maps);
    let (workers, shared) = workspace.split();
    let weights = geometry.taps() * layer.outputs * source.maps.padded_channels();
    let (packed, shared) = shared.split_at_mut(weights);
    if sink.is_some() {
        pack_phases(geometry, weight, packed);
    }
    let packed = &*packed;
    let (count, len) = (geometry.parts(), geometry.part());
    let parts = &mut shared[..count * len];
    {
        let parts = Shared::new(parts);
        processor.pool.run(count, |index, worker| {
            let images = source.maps.images;
            let staged = geometry.staged_input();
            let rest = geometry.staged_gradient() + geometry.input.image_len();
            // SAFETY: a worker's memory is its own; `need` asked for enough of it.
            let (staged, rest) = unsafe { workers.part(worker, staged, rest) };
            processor.isa.run(Backward {
                geometry,
                source,
                gradient,
                sink,
                packed,
                images: images * index / count..images * (index + 1) / count,
                // SAFETY: one part a task.
                part: unsafe { parts.part(index * len, len) },
                staged,
                staged_gradient: rest,
                dx: rest.wrapping_add(geometry.staged_gradient()),
            });
        });
    }
    let parts = &*parts;
    let (taps, inputs) = (geometry.taps(), layer.inputs);
    let columns = geometry.output.padded_channels();
    processor.pool.chunks(dweight, inputs * taps, |output, dweight| {
        for (input, dweight) in dweight.chunks_exact_mut(taps).enumerate() {
            for (tap, dweight) in dweight.iter_mut().enumerate() {
                let at = (tap * inputs + input) * columns + output;
                *dweight += parts.iter().skip(at).step_by(len).sum::<f32>();
            }
        }
    });
}

/// Packs weights `[outputs, inputs, kernel, kernel]` for the forward pass.
fn pack(geometry: &Geometry, weight: &[f32], scale: Option<&[f32]>, packed: &mut [f32]) {
    let Convolution { inputs, outputs, .. } = geometry.layer;
    let taps = geometry.taps();
    assert_eq!(weight.len(), inputs * outputs * taps, "wrong number of weights");
    let padded = geometry.output.padded_channels();
    let depth = taps * inputs;
    for panel in (0..padded).step_by(PANEL) {
        let width = PANEL.min(padded - panel);
        for (k, row) in packed[panel * depth..][..width * depth].chunks_exact_mut(width).enumerate()
        {
            let (tap, input) = (k / inputs, k % inputs);
            for (column, value) in row.iter_mut().enumerate() {
                let output = panel + column;
                *value = if output < outputs {
                    let factor = scale.map_or(1.0, |scale| scale[output]);
                    weight[(output * inputs + input) * taps + tap] * factor
                } else {
                    0.0
                };
            }
        }
    }
}

/// Packs weights for the gradient of the input, phase after phase.
fn pack_phases(geometry: &Geometry, weight: &[f32], packed: &mut [f32]) {
    let Convolution { inputs, outputs, kernel, stride, .. } = geometry.layer;
    let taps = geometry.taps();
    assert_eq!(weight.len(), inputs * outputs * taps, "wrong number of weights");
    let padded = geometry.input.padded_channels();
    let mut at = 0;
    for (phase_y, phase_x) in phases(stride) {
        let (rows, columns) = (geometry.taps_of(phase_y), geometry.taps_of(phase_x));
        for panel in (0..padded).step_by(PANEL) {
            let width = PANEL.min(padded - panel);
            for (row, column) in (0..rows).flat_map(|r| (0..columns).map(move |c| (r, c))) {
                let tap = (phase_y + stride * row) * kernel + phase_x + stride * column;
                for output in 0..outputs {
                    for (lane, value) in packed[at..at + width].iter_mut().enumerate() {
                        let input = panel + lane;
                        *value = if input < inputs {
                            weight[(output * inputs + input) * taps + tap]
                        } else {
                            0.0
                        };
                    }
                    at += width;
                }
            }
        }
    }
}

/// All pairs of phases along the two axes.
fn phases(stride: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..stride).flat_map(move |y| (0..stride).map(move |x| (y, x)))
}

/// Lays out an image of the input with its padding.
///
/// # Safety
/// The source has passed its check, and `staged` has room for the image.
#[inline(always)]
unsafe fn stage<S: Simd>(
    s: S,
    geometry: &Geometry,
    source: &Source,
    image: usize,
    staged: *mut f32,
) {
    let Geometry { layer, input, in_rows, in_columns, .. } = *geometry;
    let Convolution { kernel, stride, padding, .. } = layer;
    // SAFETY: the caller's promise; rows lie within the image.
    unsafe {
        staged.write_bytes(0, geometry.staged_input());
        for block in 0..input.blocks() {
            for y in 0..input.height {
                let row = y + padding;
                // Some rows are seen by no tap: a 1x1 filter with stride 2 skips half of them.
                let seen = (0..kernel.min(row + 1)).any(|tap| (row - tap).is_multiple_of(stride));
                if seen || source.keep.is_some() {
                    let at = ((block * in_rows + row) * in_columns + padding) * LANES;
                    source.row(s, image, block, y, staged.add(at));
                }
            }
        }
    }
}

struct Forward<'a> {
    geometry: &'a Geometry,
    source: &'a Source<'a>,
    sink: &'a Sink<'a>,
    packed: &'a [f32],
    image: usize,
    staged: *mut f32,
    out: *mut f32,
}

impl Kernel for Forward<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Forward { geometry, source, sink, packed, image, staged, out } = self;
        let Geometry { layer, input, output, in_rows, in_columns, .. } = *geometry;
        let stride = layer.stride;
        let depth = geometry.taps() * layer.inputs;
        let segments = geometry.taps() * input.blocks();
        // SAFETY: source and sink were checked; staged rows and columns are those that the taps of
        // output pixels see; packed weights have a row for each tap and channel of each panel.
        unsafe {
            stage(s, geometry, source, image, staged);
            for panel in (0..output.blocks()).step_by(PANEL / LANES) {
                let vectors = (output.blocks() - panel).min(PANEL / LANES);
                let mut b = packed.as_ptr().add(panel * LANES * depth);
                for first in (0..segments).step_by(SEGMENTS) {
                    let count = SEGMENTS.min(segments - first);
                    let mut some = [Segment { offset: 0, len: 0 }; SEGMENTS];
                    for (i, segment) in some.iter_mut().enumerate().take(count) {
                        let (tap, block) =
                            ((first + i) / input.blocks(), (first + i) % input.blocks());
                        let (ky, kx) = (tap / layer.kernel, tap % layer.kernel);
                        let offset = ((block * in_rows + ky) * in_columns + kx) * LANES;
                        *segment = Segment { offset, len: input.lanes(block) };
                    }
                    for y in 0..output.height {
                        let product = Multiply {
                            rows: output.width,
                            vectors,
                            a: staged.add(y * stride * in_columns * LANES),
                            a_row: stride * LANES,
                            segments: &some[..count],
                            b,
                            c: out.add((panel * output.height + y) * output.row_len()),
                            c_row: LANES,
                            c_vector: output.pixels() * LANES,
                            accumulate: first > 0,
                            ahead: &Ahead::nothing(),
                        };
                        product.run(s);
                    }
                    let depth: usize = some[..count].iter().map(|segment| segment.len).sum();
                    b = b.add(depth * vectors * LANES);
                }
            }
            for block in 0..output.blocks() {
                for y in 0..output.height {
                    let row = out.add((block * output.height + y) * output.row_len());
                    sink.row(s, image, block, y, row);
                }
            }
        }
        s.fence();
    }
}

struct Backward<'a> {
    geometry: &'a Geometry,
    source: &'a Source<'a>,
    gradient: &'a GradientSource<'a>,
    sink: Option<&'a GradientSink<'a>>,
    packed: &'a [f32],
    images: Range<usize>,
    part: &'a mut [f32],
    staged: *mut f32,
    staged_gradient: *mut f32,
    dx: *mut f32,
}

impl Kernel for Backward<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let geometry = self.geometry;
        let Geometry { output, out_rows, out_columns, margin, .. } = *geometry;
        for (index, image) in self.images.clone().enumerate() {
            // SAFETY: sources and sink were checked; the worker's memory has room for both images
            // laid out and for the gradient.
            unsafe {
                stage(s, geometry, self.source, image, self.staged);
                self.staged_gradient.write_bytes(0, geometry.staged_gradient());
                for block in 0..output.blocks() {
                    for y in 0..output.height {
                        let at = ((block * out_rows + y + margin) * out_columns + margin) * LANES;
                        self.gradient.row(s, image, block, y, self.staged_gradient.add(at));
                    }
                }
                self.weights(s, index > 0);
                if let Some(sink) = self.sink {
                    self.input(s, sink, image);
                }
            }
        }
        s.fence();
    }
}

impl Backward<'_> {
    /// Adds the image's part to the weights' gradient.
    ///
    /// # Safety
    /// The image is laid out.
    #[inline(always)]
    unsafe fn weights<S: Simd>(&self, s: S, accumulate: bool) {
        let geometry = self.geometry;
        let Geometry { layer, input, output, in_rows, in_columns, .. } = *geometry;
        let Geometry { out_rows, out_columns, margin, .. } = *geometry;
        let columns = output.padded_channels();
        for tap in 0..geometry.taps() {
            let (ky, kx) = (tap / layer.kernel, tap % layer.kernel);
            for block in 0..input.blocks() {
                let row = tap * input.channels + block * LANES;
                debug_assert!((row + input.lanes(block)) * columns <= self.part.len());
                // SAFETY: every tap of every output pixel lies within the laid-out image.
                unsafe {
                    let correlate = Correlate {
                        rows: input.lanes(block),
                        vectors: output.blocks(),
                        lines: output.height,
                        len: output.width,
                        a: self.staged.add(((block * in_rows + ky) * in_columns + kx) * LANES),
                        a_step: layer.stride * LANES,
                        a_line: layer.stride * in_columns * LANES,
                        b: self.staged_gradient.add((margin * out_columns + margin) * LANES),
                        b_step: LANES,
                        b_line: out_columns * LANES,
                        b_vector: out_rows * out_columns * LANES,
                        c: self.part.as_ptr().cast_mut().add(row * columns),
                        c_row: columns,
                        accumulate,
                        ahead: &Ahead::nothing(),
                    };
                    correlate.run(s);
                }
            }
        }
    }

    /// Computes and delivers the gradient of the image's input.
    ///
    /// # Safety
    /// The output's gradient is laid out.
    #[inline(always)]
    unsafe fn input<S: Simd>(&self, s: S, sink: &GradientSink, image: usize) {
        let geometry = self.geometry;
        let Geometry { layer, input, output, out_rows, out_columns, margin, .. } = *geometry;
        let Convolution { kernel, stride, padding, .. } = layer;
        // SAFETY: pixels of the input and taps of their phase lead to laid-out pixels of the output's
        // gradient, or to the margin around it.
        unsafe {
            if kernel < stride {
                // Some phases see no tap.
                self.dx.write_bytes(0, input.image_len());
            }
            let mut b = self.packed.as_ptr();
            for (phase_y, phase_x) in phases(stride) {
                let (rows, columns) = (geometry.taps_of(phase_y), geometry.taps_of(phase_x));
                let (top, lines) = geometry.pixels_of(phase_y, input.height);
                let (left, len) = geometry.pixels_of(phase_x, input.width);
                let segments = rows * columns * output.blocks();
                for panel in (0..input.blocks()).step_by(PANEL / LANES) {
                    let vectors = (input.blocks() - panel).min(PANEL / LANES);
                    for first in (0..segments).step_by(SEGMENTS) {
                        let count = SEGMENTS.min(segments - first);
                        let mut some = [Segment { offset: 0, len: 0 }; SEGMENTS];
                        for (i, segment) in some.iter_mut().enumerate().take(count) {
                            let (tap, block) =
                                ((first + i) / output.blocks(), (first + i) % output.blocks());
                            // Later taps see earlier outputs: from the margin's end backwards.
                            let (row, column) = (margin - tap / columns, margin - tap % columns);
                            let offset = ((block * out_rows + row) * out_columns + column) * LANES;
                            *segment = Segment { offset, len: output.lanes(block) };
                        }
                        for line in 0..lines {
                            let y = top + line * stride;
                            let (from_y, from_x) =
                                ((y + padding) / stride, (left + padding) / stride);
                            let product = Multiply {
                                rows: len,
                                vectors,
                                a: self
                                    .staged_gradient
                                    .add((from_y * out_columns + from_x) * LANES),
                                a_row: LANES,
                                segments: &some[..count],
                                b,
                                c: self.dx.add(
                                    (panel * input.height + y) * input.row_len() + left * LANES,
                                ),
                                c_row: stride * LANES,
                                c_vector: input.pixels() * LANES,
                                accumulate: first > 0,
                                ahead: &Ahead::nothing(),
                            };
                            product.run(s);
                        }
                        let depth: usize = some[..count].iter().map(|segment| segment.len).sum();
                        b = b.add(depth * vectors * LANES);
                    }
                }
            }
            for block in 0..input.blocks() {
                for y in 0..input.height {
                    let row = self.dx.add((block * input.height + y) * input.row_len());
                    sink.row(s, image, block, y, row);
                }
            }
        }
    }
}
