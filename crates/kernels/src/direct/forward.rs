//! The forward pass.

use std::ops::Range;

use super::geometry::Geometry;
use super::{MOST_SEGMENTS, SEGMENTS, stage};
use crate::Processor;
use crate::conv_shape::Convolution;
use crate::epilogue::Epilogue;
use crate::micro_kernel::{PANEL, Packing, PanelGemm, Precision, ahead};
use crate::partition::split_range;
use crate::prefetch::Prefetch;
use crate::prologue::Prologue;
use crate::simd::{Kernel, LANES, Segment, Simd};
use crate::workspace::Workspace;

/// See [`crate::convolution::forward`].
pub(crate) fn forward<P: Precision>(
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
        let (line, out) = (geometry.line::<P>(), geometry.output.image_len());
        let staged = geometry.staged_input::<P>();
        // SAFETY: a worker's memory is its own; it has the size of `workspace_size`.
        let (staged, line) = unsafe { workers.part(worker, staged, line + out) };
        let out = line.wrapping_add(geometry.line::<P>());
        let (index, cut) = (index / (bands * slices), index % (bands * slices));
        let (band, slice) = (cut / slices, cut % slices);
        let kernel = Forward {
            geometry,
            prologue: if cut == 0 { prologue } else { unsaved },
            epilogue,
            packed,
            images: split_range(geometry.input.images, tasks, index),
            rows: split_range(geometry.output.height, bands, band),
            panels: split_range(geometry.panels(), slices, slice),
            staged,
            line,
            out,
            precision: P::default(),
        };
        P::run(processor.isa, kernel);
    });
}

struct Forward<'a, P> {
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
    line: *mut f32,
    out: *mut f32,
    precision: P,
}

impl<P: Precision> Kernel for Forward<'_, P> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for image in self.images.clone() {
            self.image(s, image);
        }
        s.fence();
    }
}

impl<P: Precision> Forward<'_, P> {
    #[inline(always)]
    fn image<S: Simd>(&self, s: S, image: usize) {
        let Forward { geometry, prologue, epilogue, packed, staged, line, out, .. } = *self;
        let output = geometry.output;
        let depth = geometry.taps() * geometry.input.channels / P::K;
        // SAFETY: prologue and epilogue were checked; staged rows and columns are those that the taps of
        // output pixels see; packed weights have a row for each tap and channel of each panel.
        unsafe {
            stage::input::<S, P>(s, geometry, prologue, image, &self.rows, staged, line);
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
        let (segments, pixel) = (self.geometry.taps() * input.blocks(), P::BLOCK);
        for first in (0..segments).step_by(P::K * SEGMENTS) {
            let count = (P::K * SEGMENTS).min(segments - first);
            let mut some = [Segment { offset: 0, len: 0 }; MOST_SEGMENTS];
            for (i, segment) in some.iter_mut().enumerate().take(count) {
                let (tap, block) = ((first + i) / input.blocks(), (first + i) % input.blocks());
                let (ky, kx) = (tap / layer.kernel, tap % layer.kernel);
                let offset = ((block * in_rows + ky) * in_columns + kx) * pixel;
                *segment = Segment { offset, len: input.lanes(block) / P::K };
            }
            let depth: usize = some[..count].iter().map(|segment| segment.len).sum();
            // SAFETY: the caller's promise.
            unsafe {
                for y in self.rows.clone() {
                    let gemm = PanelGemm {
                        rows: output.width,
                        vectors,
                        a: self.staged.add(y * layer.stride * in_columns * pixel),
                        a_row: layer.stride * pixel,
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
                    gemm.run(s, self.precision);
                }
                b = b.add(depth * vectors * LANES);
            }
        }
    }
}
