//! Convolutions of any square filter and stride, directly: forward, and backward to the weights and
//! the input.
//!
//! A task takes an image. Its rows are laid out with a margin of zeros (`[blocks, rows, columns, 16]`,
//! in the second-level cache), so that every filter tap is a shift of one address, and a row of the
//! output is one matrix product: rows of `a` are pixels, `stride` pixels apart, and its segments are the
//! taps of each block of input channels.
//!
//! - Weights: the same with `a` transposed, a product for each tap: [`PanelGemmTn`].
//! - Input: pixels of the input that are alike modulo the stride (a *phase*) see the same taps, and
//!   neighbours among them see neighbouring pixels of the output. A phase is a convolution of stride 1
//!   of the output's gradient, with the taps of the phase.
//!
//! Packed weights are `[panel][tap][channel][columns]`, as [`PanelGemm`] reads them.

use std::ops::Range;

use crate::convolution::Convolution;
use crate::disjoint_slice::DisjointSlice;
use crate::elementwise::PIECE;
use crate::epilogue::{Epilogue, GradientEpilogue};
use crate::micro_kernel::{PANEL, PanelGemm, PanelGemmTn, Segment};
use crate::prefetch::{Prefetch, Rows};
use crate::prologue::{GradientPrologue, Prologue};
use crate::simd::{Kernel, LANES, Simd};
use crate::thread_pool::split_range;
use crate::workspace::{Workspace, WorkspaceSize};
use crate::{MapShape, Processor};

/// Segments that are multiplied in one go: a panel of 64 columns of so many fills 24 KiB, which leaves
/// room in the first-level cache for the rows that pass by.
const SEGMENTS: usize = 6;

/// Output pixels whose gradient, of 64 channels, fills 32 KiB.
const DEPTH: usize = 128;

/// Output pixels that a partial sum of the weights' gradient is worth.
const PIXELS_PER_PART: usize = 4000;

/// A convolution and the maps laid out with margins.
#[derive(Clone, Copy)]
struct Geometry {
    layer: Convolution,
    input: MapShape,
    output: MapShape,
    /// Rows and columns of the input with its padding.
    in_rows: usize,
    in_columns: usize,
    /// Rows and columns of the output's gradient with margins, and the margin before it.
    out_rows: usize,
    out_columns: usize,
    margin: usize,
}

impl Geometry {
    fn new(layer: &Convolution, input: MapShape) -> Self {
        let output = layer.output_shape(input);
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

    /// The images of a part of the batch.
    fn images_of(&self, part: usize) -> Range<usize> {
        let (images, parts) = (self.input.images, self.parts());
        split_range(images, parts, part)
    }

    /// About how many steps the products with the taps have: see [`Prefetch`].
    fn steps(&self) -> usize {
        let pixels = self.output.height * self.output.width.div_ceil(6);
        let panels = self.output.blocks().div_ceil(PANEL / LANES);
        self.taps() * self.input.blocks() * pixels * panels
    }

    /// All rows of an image of the input, and of the output.
    fn rows(&self, image: usize) -> [Rows; 2] {
        [self.input, self.output]
            .map(|shape| Rows { images: image..image + 1, rows: 0..shape.height })
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

pub(crate) fn workspace_size(
    layer: &Convolution,
    input: MapShape,
    backward: bool,
) -> WorkspaceSize {
    let geometry = Geometry::new(layer, input);
    let (input, output) = (geometry.input, geometry.output);
    if backward {
        let weights = geometry.taps() * output.channels * input.padded_channels();
        WorkspaceSize {
            worker: geometry.staged_input() + geometry.staged_gradient() + input.image_len(),
            shared: weights + geometry.parts() * geometry.part(),
        }
    } else {
        WorkspaceSize { worker: geometry.staged_input() + output.image_len(), shared: 0 }
    }
}

/// See [`Convolution::packed_len`].
pub(crate) fn packed_len(layer: &Convolution) -> usize {
    layer.kernel * layer.kernel * layer.inputs * layer.outputs.next_multiple_of(LANES)
}

/// See [`crate::convolution::forward`].
pub(crate) fn forward(
    processor: &Processor,
    workspace: &mut Workspace,
    layer: &Convolution,
    prologue: &Prologue,
    packed: &[f32],
    epilogue: &Epilogue,
) {
    let geometry = &Geometry::new(layer, prologue.shape);
    let (workers, _) = workspace.split();
    let parts = geometry.parts();
    processor.pool.run(parts, |index, worker| {
        let (staged, out) = (geometry.staged_input(), geometry.output.image_len());
        // SAFETY: a worker's memory is its own; `need` asked for enough of it.
        let (staged, out) = unsafe { workers.part(worker, staged, out) };
        let images = geometry.images_of(index);
        processor.isa.run(Forward { geometry, prologue, epilogue, packed, images, staged, out });
    });
}

/// See [`crate::convolution::backward`].
#[allow(clippy::too_many_arguments)]
pub(crate) fn backward(
    processor: &Processor,
    workspace: &mut Workspace,
    layer: &Convolution,
    prologue: &Prologue,
    weight: &[f32],
    gradient: &GradientPrologue,
    dweight: Option<&mut [f32]>,
    epilogue: Option<&GradientEpilogue>,
) {
    let geometry = &Geometry::new(layer, prologue.shape);
    let (workers, shared) = workspace.split();
    let weights = geometry.taps() * layer.outputs * prologue.shape.padded_channels();
    let (packed, shared) = shared.split_at_mut(weights);
    if epilogue.is_some() {
        pack_phases(processor, geometry, weight, packed);
    }
    let packed = &*packed;
    let (count, len) = (geometry.parts(), geometry.part());
    let (parts, wanted) = (&mut shared[..count * len], dweight.is_some());
    {
        let parts = DisjointSlice::new(parts);
        processor.pool.run(count, |index, worker| {
            let staged = geometry.staged_input();
            let rest = geometry.staged_gradient() + geometry.input.image_len();
            // SAFETY: a worker's memory is its own; `need` asked for enough of it.
            let (staged, rest) = unsafe { workers.part(worker, staged, rest) };
            processor.isa.run(Backward {
                geometry,
                prologue,
                gradient,
                epilogue,
                packed,
                images: geometry.images_of(index),
                // SAFETY: one part a task.
                part: wanted.then(|| unsafe { parts.part(index * len, len) }.as_mut_ptr()),
                staged,
                staged_gradient: rest,
                dx: rest.wrapping_add(geometry.staged_gradient()),
            });
        });
    }
    if let Some(dweight) = dweight {
        add_parts(processor, geometry, parts, dweight);
    }
}

/// Adds partial sums `[tap][input channel][output channel]` to the gradient of the weights.
fn add_parts(processor: &Processor, geometry: &Geometry, parts: &mut [f32], dweight: &mut [f32]) {
    let (sum, rest) = parts.split_at_mut(geometry.part());
    processor.pool.chunks(sum, PIECE, |piece, sum| {
        for part in rest.chunks_exact(geometry.part()) {
            for (sum, part) in sum.iter_mut().zip(&part[piece * PIECE..]) {
                *sum += part;
            }
        }
    });
    let (taps, inputs) = (geometry.taps(), geometry.layer.inputs);
    let columns = geometry.output.padded_channels();
    // A block of output channels together: its numbers share cache lines.
    processor.pool.chunks(dweight, LANES * inputs * taps, |block, dweight| {
        for (row, sums) in sum.chunks_exact(columns).enumerate() {
            let (tap, input) = (row / inputs, row % inputs);
            let outputs = dweight.chunks_exact_mut(inputs * taps);
            for (dweight, sum) in outputs.zip(&sums[block * LANES..]) {
                dweight[input * taps + tap] += sum;
            }
        }
    });
}

/// See [`crate::convolution::pack_weights`].
pub(crate) fn pack_weights(
    processor: &Processor,
    layer: &Convolution,
    weight: &[f32],
    scale: Option<&[f32]>,
    packed: &mut [f32],
) {
    let Convolution { inputs, outputs, kernel, .. } = *layer;
    let taps = kernel * kernel;
    let padded = outputs.next_multiple_of(LANES);
    let packed = &DisjointSlice::new(packed);
    processor.pool.run(padded.div_ceil(PANEL) * taps, |task, _| {
        let (panel, tap) = (task / taps * PANEL, task % taps);
        let width = PANEL.min(padded - panel);
        let at = panel * taps * inputs + tap * inputs * width;
        // SAFETY: each tap of each panel is one task's.
        let rows = unsafe { packed.part(at, inputs * width) };
        rows.fill(0.0);
        for (column, output) in (panel..outputs.min(panel + width)).enumerate() {
            let factor = scale.map_or(1.0, |scale| scale[output]);
            for (input, row) in rows.chunks_exact_mut(width).enumerate() {
                row[column] = weight[(output * inputs + input) * taps + tap] * factor;
            }
        }
    });
}

/// Packs weights for the gradient of the input, phase after phase.
fn pack_phases(processor: &Processor, geometry: &Geometry, weight: &[f32], packed: &mut [f32]) {
    let Convolution { inputs, outputs, kernel, stride, .. } = geometry.layer;
    let taps = geometry.taps();
    assert_eq!(weight.len(), inputs * outputs * taps, "wrong number of weights");
    let padded = geometry.input.padded_channels();
    let mut begin = 0;
    for (phase_y, phase_x) in phases(stride) {
        let (rows, columns) = (geometry.taps_of(phase_y), geometry.taps_of(phase_x));
        let mine = rows * columns;
        let packed = &DisjointSlice::new(&mut packed[begin..][..mine * outputs * padded]);
        begin += mine * outputs * padded;
        processor.pool.run(padded.div_ceil(PANEL) * mine, |task, _| {
            let (panel, index) = (task / mine * PANEL, task % mine);
            let (row, column) = (index / columns, index % columns);
            let tap = (phase_y + stride * row) * kernel + phase_x + stride * column;
            let width = PANEL.min(padded - panel);
            let at = (panel * mine + index * width) * outputs;
            // SAFETY: each tap of each panel is one task's.
            let rows = unsafe { packed.part(at, outputs * width) };
            for (output, row) in rows.chunks_exact_mut(width).enumerate() {
                row.fill(0.0);
                for (value, input) in row.iter_mut().zip(panel..inputs) {
                    *value = weight[(output * inputs + input) * taps + tap];
                }
            }
        });
    }
}

/// All pairs of phases along the two axes.
fn phases(stride: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..stride).flat_map(move |y| (0..stride).map(move |x| (y, x)))
}

/// Lays out an image of the input with its padding.
///
/// # Safety
/// The prologue has passed its check, and `staged` has room for the image.
#[inline(always)]
unsafe fn stage<S: Simd>(
    s: S,
    geometry: &Geometry,
    prologue: &Prologue,
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
                if seen || prologue.save.is_some() {
                    let at = ((block * in_rows + row) * in_columns + padding) * LANES;
                    prologue.row(s, image, block, y, staged.add(at));
                }
            }
        }
    }
}

struct Forward<'a> {
    geometry: &'a Geometry,
    prologue: &'a Prologue<'a>,
    epilogue: &'a Epilogue<'a>,
    packed: &'a [f32],
    images: Range<usize>,
    staged: *mut f32,
    out: *mut f32,
}

impl Kernel for Forward<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for image in self.images.clone() {
            self.image(s, image);
        }
        s.fence();
    }
}

impl Forward<'_> {
    #[inline(always)]
    fn image<S: Simd>(&self, s: S, image: usize) {
        let Forward { geometry, prologue, epilogue, packed, staged, out, .. } = *self;
        let Geometry { layer, input, output, in_rows, in_columns, .. } = *geometry;
        let stride = layer.stride;
        let depth = geometry.taps() * layer.inputs;
        let segments = geometry.taps() * input.blocks();
        // SAFETY: prologue and epilogue were checked; staged rows and columns are those that the taps of
        // output pixels see; packed weights have a row for each tap and channel of each panel.
        unsafe {
            stage(s, geometry, prologue, image, staged);
            let mut prefetch = Prefetch::nothing();
            if image + 1 < self.images.end {
                prologue.prefetch(&mut prefetch, &geometry.rows(image + 1)[0]);
            }
            let prefetch = &prefetch.over(geometry.steps());
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
                        let product = PanelGemm {
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
                            prefetch,
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
                    epilogue.row(s, image, block, y, row);
                }
            }
        }
    }
}

struct Backward<'a> {
    geometry: &'a Geometry,
    prologue: &'a Prologue<'a>,
    gradient: &'a GradientPrologue<'a>,
    epilogue: Option<&'a GradientEpilogue<'a>>,
    packed: &'a [f32],
    images: Range<usize>,
    /// The partial sum of the weights' gradient, where that is wanted.
    part: Option<*mut f32>,
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
            // SAFETY: prologues and epilogue were checked; the worker's memory has room for both images
            // laid out and for the gradient.
            unsafe {
                if self.part.is_some() {
                    stage(s, geometry, self.prologue, image, self.staged);
                }
                self.staged_gradient.write_bytes(0, geometry.staged_gradient());
                for block in 0..output.blocks() {
                    for y in 0..output.height {
                        let at = ((block * out_rows + y + margin) * out_columns + margin) * LANES;
                        self.gradient.row(s, image, block, y, self.staged_gradient.add(at));
                    }
                }
                let mut prefetch = Prefetch::nothing();
                if image + 1 < self.images.end {
                    let [input, output] = geometry.rows(image + 1);
                    self.gradient.prefetch(&mut prefetch, &output);
                    if self.part.is_some() {
                        self.prologue.prefetch(&mut prefetch, &input);
                    }
                }
                if let Some(epilogue) = self.epilogue {
                    epilogue.prefetch(&mut prefetch, &geometry.rows(image)[0]);
                }
                let prefetch = prefetch.over(2 * geometry.steps());
                if let Some(part) = self.part {
                    self.weights(s, part, index > 0, &prefetch);
                }
                if let Some(epilogue) = self.epilogue {
                    self.input(s, epilogue, image, &prefetch);
                }
            }
        }
        s.fence();
    }
}

impl Backward<'_> {
    /// Adds the image's part to the partial sum of the weights' gradient.
    ///
    /// # Safety
    /// The image and the output's gradient are laid out, and `part` is this task's.
    #[inline(always)]
    unsafe fn weights<S: Simd>(&self, s: S, part: *mut f32, accumulate: bool, prefetch: &Prefetch) {
        let geometry = self.geometry;
        let Geometry { layer, input, output, in_rows, in_columns, .. } = *geometry;
        let Geometry { out_rows, out_columns, margin, .. } = *geometry;
        let columns = output.padded_channels();
        // Some lines of some columns at once: their part of the gradient stays in the first-level
        // cache for all taps and input channels.
        let some = (DEPTH / output.width).clamp(1, output.height);
        for (first, vector) in (0..output.height)
            .step_by(some)
            .flat_map(|y| (0..output.blocks()).step_by(PANEL / LANES).map(move |v| (y, v)))
        {
            for (tap, block) in
                (0..geometry.taps()).flat_map(|t| (0..input.blocks()).map(move |b| (t, b)))
            {
                let (ky, kx) = (first * layer.stride + tap / layer.kernel, tap % layer.kernel);
                let row = tap * input.channels + block * LANES;
                let line = vector * out_rows + margin + first;
                // SAFETY: every tap of every output pixel lies within the laid-out image.
                unsafe {
                    let correlate = PanelGemmTn {
                        rows: input.lanes(block),
                        vectors: (output.blocks() - vector).min(PANEL / LANES),
                        lines: some.min(output.height - first),
                        len: output.width,
                        a: self.staged.add(((block * in_rows + ky) * in_columns + kx) * LANES),
                        a_step: layer.stride * LANES,
                        a_line: layer.stride * in_columns * LANES,
                        b: self.staged_gradient.add((line * out_columns + margin) * LANES),
                        b_step: LANES,
                        b_line: out_columns * LANES,
                        b_vector: out_rows * out_columns * LANES,
                        c: part.add(row * columns + vector * LANES),
                        c_row: columns,
                        accumulate: accumulate || first > 0,
                        prefetch,
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
    unsafe fn input<S: Simd>(
        &self,
        s: S,
        epilogue: &GradientEpilogue,
        image: usize,
        prefetch: &Prefetch,
    ) {
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
                            let product = PanelGemm {
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
                                prefetch,
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
                    epilogue.row(s, image, block, y, row);
                }
            }
        }
    }
}
