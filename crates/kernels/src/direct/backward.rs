//! The backward pass: the gradients of the weights and of the input.

use std::ops::Range;

use super::SEGMENTS;
use super::forward::stage;
use super::geometry::{Geometry, phases};
use super::pack::pack_phases;
use crate::conv_shape::Convolution;
use crate::disjoint_slice::DisjointSlice;
use crate::elementwise::PIECE;
use crate::epilogue::GradientEpilogue;
use crate::micro_kernel::{PANEL, PanelGemm, PanelGemmTn, Segment};
use crate::prefetch::Prefetch;
use crate::prologue::{GradientPrologue, Prologue};
use crate::simd::{Kernel, LANES, Simd};
use crate::workspace::Workspace;
use crate::{Processor, ThreadPool};

/// Output pixels whose gradient, of 64 channels, fills 32 KiB.
const DEPTH: usize = 128;

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
        processor.pool.run(count, 2 * geometry.work(), |index, worker| {
            let staged = geometry.staged_input();
            let rest = geometry.staged_gradient() + geometry.input.image_len();
            // SAFETY: a worker's memory is its own; it has the size of `workspace_size`.
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
    let work = ThreadPool::ELEMENT * (rest.len() + sum.len());
    processor.pool.chunks(sum, PIECE, work, |piece, sum| {
        for part in rest.chunks_exact(geometry.part()) {
            for (sum, part) in sum.iter_mut().zip(&part[piece * PIECE..]) {
                *sum += part;
            }
        }
    });
    let (taps, inputs) = (geometry.taps(), geometry.layer.inputs);
    let columns = geometry.output.padded_channels();
    // A block of output channels together: its numbers share cache lines.
    let work = ThreadPool::ELEMENT * dweight.len();
    processor.pool.chunks(dweight, LANES * inputs * taps, work, |block, dweight| {
        for (row, sums) in sum.chunks_exact(columns).enumerate() {
            let (tap, input) = (row / inputs, row % inputs);
            let outputs = dweight.chunks_exact_mut(inputs * taps);
            for (dweight, sum) in outputs.zip(&sums[block * LANES..]) {
                dweight[input * taps + tap] += sum;
            }
        }
    });
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
                            let gemm = PanelGemm {
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
                            gemm.run(s);
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
