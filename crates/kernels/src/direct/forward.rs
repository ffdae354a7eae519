//! The forward pass.

use std::ops::Range;

use super::SEGMENTS;
use super::geometry::{Geometry, Margins};
use crate::Processor;
use crate::conv_shape::Convolution;
use crate::epilogue::Epilogue;
use crate::micro_kernel::{F32, PANEL, Packing, PanelGemm, ahead};
use crate::partition::split_range;
use crate::prefetch::Prefetch;
use crate::prologue::Prologue;
use crate::simd::{Kernel, LANES, Segment, Simd};
use crate::workspace::Workspace;

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
    let tasks = geometry.forward_tasks(&processor.pool);
    let (bands, slices) =
        geometry.cuts(&processor.pool, prologue.save.is_none() && epilogue.sums.is_none());
    // Rows are saved once.
    let unsaved = &Prologue { save: None, ..*prologue };
    processor.pool.run(tasks * bands * slices, geometry.work(), |index, worker| {
        let (staged, out) = (geometry.staged_input(), geometry.output.image_len());
        // SAFETY: a worker's memory is its own; it has the size of `workspace_size`.
        let (staged, out) = unsafe { workers.part(worker, staged, out) };
        let (index, cut) = (index / (bands * slices), index % (bands * slices));
        let (band, slice) = (cut / slices, cut % slices);
        processor.isa.run(Forward {
            geometry,
            prologue: if cut == 0 { prologue } else { unsaved },
            epilogue,
            packed,
            images: split_range(geometry.input.images, tasks, index),
            rows: split_range(geometry.output.height, bands, band),
            panels: split_range(geometry.panels(), slices, slice),
            staged,
            out,
        });
    });
}

/// Lays out an image of the input with its padding.
///
/// # Safety
/// The prologue has passed its check, and `staged` has room for the image.
#[inline(always)]
pub(super) unsafe fn stage<S: Simd>(
    s: S,
    geometry: &Geometry,
    prologue: &Prologue,
    image: usize,
    staged: *mut f32,
) {
    // SAFETY: the caller's promise.
    unsafe { stage_rows(s, geometry, prologue, image, &(0..geometry.output.height), staged) };
}

/// The same of what these rows of the output see, and of all that is saved.
///
/// # Safety
/// As for [`stage`].
#[inline(always)]
unsafe fn stage_rows<S: Simd>(
    s: S,
    geometry: &Geometry,
    prologue: &Prologue,
    image: usize,
    rows: &Range<usize>,
    staged: *mut f32,
) {
    let Geometry { layer, input, in_rows, in_columns, .. } = *geometry;
    let Convolution { kernel, stride, padding, .. } = layer;
    // SAFETY: the caller's promise; rows lie within the image.
    unsafe {
        for block in 0..input.blocks() {
            let at = staged.add(block * in_rows * in_columns * LANES);
            let margins = Margins { at, rows: in_rows, columns: in_columns, before: padding };
            margins.clear(input);
            for y in 0..input.height {
                let row = y + padding;
                // Some rows are seen by no tap: a 1x1 filter with stride 2 skips half of them.
                let seen = (0..kernel.min(row + 1)).any(|tap| {
                    (row - tap).is_multiple_of(stride) && rows.contains(&((row - tap) / stride))
                });
                if seen || prologue.save.is_some() {
                    prologue.row(s, image, block, y, margins.row(y));
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
    /// Of the output.
    rows: Range<usize>,
    /// Of the packed weights.
    panels: Range<usize>,
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
        let output = geometry.output;
        let depth = geometry.taps() * geometry.input.channels;
        // SAFETY: prologue and epilogue were checked; staged rows and columns are those that the taps of
        // output pixels see; packed weights have a row for each tap and channel of each panel.
        unsafe {
            stage_rows(s, geometry, prologue, image, &self.rows, staged);
            let mut prefetch = Prefetch::nothing();
            if image + 1 < self.images.end {
                prologue.prefetch(&mut prefetch, &geometry.rows(image + 1)[0]);
            }
            let prefetch = &prefetch.over(geometry.steps());
            for panel in self.panels.clone().map(|panel| panel * (PANEL / LANES)) {
                let vectors = (output.blocks() - panel).min(PANEL / LANES);
                for (columns, at) in Packing::new::<S>(vectors, depth).tiles() {
                    let block = panel + columns.start / LANES;
                    let b = packed.as_ptr().add(panel * LANES * depth + at);
                    self.multiply(s, block, columns.len() / LANES, b, prefetch);
                }
            }
            let blocks = self.panels.start * (PANEL / LANES)..self.panels.end * (PANEL / LANES);
            for block in blocks.start..blocks.end.min(output.blocks()) {
                for y in self.rows.clone() {
                    let row = out.add((block * output.height + y) * output.row_len());
                    epilogue.row(s, image, block, y, row);
                }
            }
        }
    }

    /// Multiplies the staged rows with the weights of a register tile's columns: `vectors` blocks of the output from
    /// `block` on. Some taps and channels at a time for all rows: their weights stay in the first-level cache.
    ///
    /// # Safety
    /// The rows are staged, and the weights at `b` are those of the blocks.
    #[inline(always)]
    unsafe fn multiply<S: Simd>(
        &self,
        s: S,
        block: usize,
        vectors: usize,
        mut b: *const f32,
        prefetch: &Prefetch,
    ) {
        let Geometry { layer, input, output, in_rows, in_columns, .. } = *self.geometry;
        let segments = self.geometry.taps() * input.blocks();
        for first in (0..segments).step_by(SEGMENTS) {
            let count = SEGMENTS.min(segments - first);
            let mut some = [Segment { offset: 0, len: 0 }; SEGMENTS];
            for (i, segment) in some.iter_mut().enumerate().take(count) {
                let (tap, block) = ((first + i) / input.blocks(), (first + i) % input.blocks());
                let (ky, kx) = (tap / layer.kernel, tap % layer.kernel);
                let offset = ((block * in_rows + ky) * in_columns + kx) * LANES;
                *segment = Segment { offset, len: input.lanes(block) };
            }
            let depth: usize = some[..count].iter().map(|segment| segment.len).sum();
            // SAFETY: the caller's promise.
            unsafe {
                for y in self.rows.clone() {
                    let gemm = PanelGemm {
                        rows: output.width,
                        vectors,
                        a: self.staged.add(y * layer.stride * in_columns * LANES),
                        a_row: layer.stride * LANES,
                        segments: &some[..count],
                        b,
                        b_row: vectors * LANES,
                        b_ahead: ahead(self.rows.len() * output.width, depth * vectors * LANES),
                        c: self.out.add((block * output.height + y) * output.row_len()),
                        c_row: LANES,
                        c_vector: output.pixels() * LANES,
                        accumulate: first > 0,
                        prefetch,
                    };
                    gemm.run(s, F32);
                }
                b = b.add(depth * vectors * LANES);
            }
        }
    }
}
