//! The backward pass: the gradients of the weights and of the input.

use std::ops::Range;

use super::geometry::{Geometry, phases};
use super::pack::pack_phases;
use super::{MOST_SEGMENTS, SEGMENTS, stage};
use crate::conv_shape::Convolution;
use crate::disjoint_slice::DisjointSlice;
use crate::elementwise::PIECE;
use crate::epilogue::GradientEpilogue;
use crate::leaves::{self, GroupSlices, Leaves, Parts};
use crate::micro_kernel::{PANEL, Packing, PanelGemm, PanelGemmTn, Precision, panel};
use crate::partition::{images_in_cache, intersection};
use crate::prefetch::Prefetch;
use crate::prologue::{GradientPrologue, Prologue};
use crate::simd::{Kernel, LANES, Segment, Simd};
use crate::workspace::{Workers, Workspace};
use crate::{Processor, ThreadPool};

/// Words of the output's pixels whose gradient, of 64 channels, fills 32 KiB.
const DEPTH: usize = 128;

/// See [`crate::convolution::backward`].
#[allow(clippy::too_many_arguments)]
pub(crate) fn backward<P: Precision>(
    processor: &Processor,
    workspace: &mut Workspace,
    layer: &Convolution,
    prologue: &Prologue,
    weight: &[f32],
    gradient: &GradientPrologue,
    leaves: &Leaves,
    dweight: Option<&mut [&mut [f32]]>,
    epilogue: Option<&GradientEpilogue>,
) {
    let geometry = &Geometry::new(layer, prologue.shape);
    let (workers, shared) = workspace.split();
    let weights = geometry.taps() * layer.outputs / P::K * prologue.shape.padded_channels();
    let (packed, shared) = shared.split_at_mut(weights);
    if epilogue.is_some() {
        pack_phases::<P>(processor, geometry, weight, packed);
    }
    let packed = &*packed;
    let (parts, len) = (&Parts::new(leaves, geometry.parts(leaves.whole())), geometry.part());
    let (memory, shared) = shared.split_at_mut(parts.len() * len);
    {
        let sums = DisjointSlice::new(memory);
        let precision = P::default();
        let backward =
            Backward { geometry, prologue, gradient, epilogue, packed, parts, precision };
        let sums = dweight.is_some().then_some(&sums);
        if processor.pool.are_too_few(parts.len()) {
            backward.run_by_stages(processor, &workers, sums, shared);
        } else {
            backward.run(processor, &workers, sums);
        }
    }
    if let Some(dweight) = dweight {
        let dweight = &GroupSlices::new(leaves, dweight, weight.len());
        add_parts(processor, geometry, parts, memory, leaves.groups(), dweight);
    }
}

/// Adds partial sums `[tap][input channel][output channel]` to the gradients of the weights.
fn add_parts(
    processor: &Processor,
    geometry: &Geometry,
    parts: &Parts,
    memory: &mut [f32],
    groups: usize,
    dweight: &GroupSlices,
) {
    let (len, numbers) = (geometry.part(), memory.len());
    {
        let memory = &DisjointSlice::new(memory);
        processor.pool.run(len.div_ceil(PIECE), ThreadPool::ELEMENT * numbers, |piece, _| {
            let (start, piece) = (piece * PIECE, PIECE.min(len - piece * PIECE));
            // Of each group the sum takes the place of its first part.
            let mut waiting = [0; leaves::DEPTH + 1];
            let mut count = 0;
            for (index, part) in parts.iter().enumerate() {
                if index > 0 && part.group != parts[index - 1].group {
                    count = 0;
                }
                waiting[count] = index;
                count += 1;
                // Parts of a leaf are added in order.
                let joins = usize::from(!part.begins) + part.ends.unwrap_or(0);
                for _ in 0..joins {
                    count -= 1;
                    // SAFETY: each task has its own piece of every part, and the parts differ.
                    let (to, from) = unsafe {
                        (
                            memory.part(waiting[count - 1] * len + start, piece),
                            memory.part(waiting[count] * len + start, piece),
                        )
                    };
                    for (to, from) in to.iter_mut().zip(from) {
                        *to += *from;
                    }
                }
            }
        });
    }
    let (taps, inputs) = (geometry.taps(), geometry.layer.inputs);
    let (outputs, columns) = (geometry.layer.outputs, geometry.output.padded_channels());
    let memory = &*memory;
    // A block of output channels together: its numbers share cache lines.
    let (blocks, block_len) = (geometry.output.blocks(), LANES * inputs * taps);
    let work = ThreadPool::ELEMENT * groups * outputs * inputs * taps;
    processor.pool.run(groups * blocks, work, |index, _| {
        let (group, block) = (index / blocks, index % blocks);
        let Some(first) = parts.iter().position(|part| part.group == group) else { return };
        let all = outputs * inputs * taps - block * block_len;
        // SAFETY: each task has the output channels of a block.
        let dweight = unsafe { dweight.part(group, block * block_len, block_len.min(all)) };
        let sum = &memory[first * len..][..len];
        for (row, sums) in sum.chunks_exact(columns).enumerate() {
            let (tap, input) = (row / inputs, row % inputs);
            let outputs = dweight.chunks_exact_mut(inputs * taps);
            for (dweight, sum) in outputs.zip(&sums[block * LANES..]) {
                dweight[input * taps + tap] += sum;
            }
        }
    });
}

struct Backward<'a, P> {
    geometry: &'a Geometry,
    prologue: &'a Prologue<'a>,
    gradient: &'a GradientPrologue<'a>,
    epilogue: Option<&'a GradientEpilogue<'a>>,
    packed: &'a [f32],
    parts: &'a Parts,
    precision: P,
}

/// Numbers of shared memory for images that are laid out, of this batch or a smaller one.
pub(super) fn staged<P: Precision>(geometry: &Geometry, threads: usize) -> usize {
    geometry.staged::<P>() * chunk_len::<P>(geometry, threads)
}

/// How many images are laid out together: at least one for each thread, as a task takes an image.
fn chunk_len<P: Precision>(geometry: &Geometry, threads: usize) -> usize {
    images_in_cache(geometry.staged::<P>(), threads).max(threads).min(geometry.input.images)
}

impl<P: Precision> Backward<'_, P> {
    /// A task for each part of the batch.
    fn run(&self, processor: &Processor, workers: &Workers, sums: Option<&DisjointSlice<f32>>) {
        let (geometry, len) = (self.geometry, self.geometry.part());
        processor.pool.run(self.parts.len(), 2 * geometry.work(), |index, worker| {
            // SAFETY: a worker's memory is its own; it has the size of `workspace_size`.
            let (start, line) = unsafe {
                let line = geometry.line::<P>();
                workers.part(worker, geometry.staged::<P>(), line + geometry.input.image_len())
            };
            let part = Part {
                pass: self,
                images: self.parts[index].images(),
                // SAFETY: one part a task.
                sum: sums.map(|sums| unsafe { sums.part(index * len, len) }.as_mut_ptr()),
                staged: Staged { start, geometry },
                line,
                dx: line.wrapping_add(geometry.line::<P>()),
            };
            P::run(processor.isa, part);
        });
    }

    /// For many threads: images are laid out in tasks of an image, which deliver the input's gradient, too; then the
    /// weights' gradient is computed in tasks of a part, a panel and a block of the input, and all or some taps. Every
    /// number is computed as by [`run`](Self::run), in the same order.
    fn run_by_stages(
        &self,
        processor: &Processor,
        workers: &Workers,
        sums: Option<&DisjointSlice<f32>>,
        memory: &mut [f32],
    ) {
        let (geometry, len, pool) = (self.geometry, self.geometry.part(), &processor.pool);
        for images in self.parts.chunks(chunk_len::<P>(geometry, pool.threads())) {
            assert!(
                images.len() * geometry.staged::<P>() <= memory.len(),
                "the workspace is too small"
            );
            let memory = DisjointSlice::new(memory);
            let staged = |image: usize| {
                let at = (image - images.start) * geometry.staged::<P>();
                Staged { start: memory.as_mut_ptr().wrapping_add(at), geometry }
            };
            let work = geometry.work() * images.len() / geometry.input.images;
            pool.run(images.len(), work, |index, worker| {
                let image = images.start + index;
                // SAFETY: a worker's memory is its own; it has the size of `workspace_size`.
                let (dx, line) = unsafe {
                    workers.part(worker, geometry.input.image_len(), geometry.line::<P>())
                };
                let (staged, wanted) = (staged(image), sums.is_some());
                P::run(processor.isa, Lay { pass: self, image, staged, wanted, line, dx });
            });
            let Some(sums) = sums else { continue };
            let parts = self.parts.of(&images);
            let blocks = geometry.input.blocks();
            let panels = geometry.panels();
            let tasks = parts.len() * panels * blocks;
            pool.run_in_pieces(tasks, geometry.taps(), work, |piece, _| {
                let (matrix, input) = (piece.task / blocks, piece.task % blocks);
                let part = parts.start + matrix / panels;
                let all = self.parts[part].images();
                let correlate = Correlate {
                    images: intersection(&all, &images),
                    staged: &staged,
                    // SAFETY: another piece writes other numbers of the part's sum, which all lie in it.
                    sum: unsafe { sums.as_mut_ptr().add(part * len) },
                    accumulate: all.start < images.start,
                    taps: piece.of(0..geometry.taps()),
                    input,
                    outputs: panel(geometry.output.blocks(), matrix % panels),
                    precision: self.precision,
                };
                P::run(processor.isa, correlate);
            });
        }
    }

    /// Lays out an image, if `wanted`, and its output's gradient.
    ///
    /// # Safety
    /// Prologues were checked, and the memory has room and is this task's.
    #[inline(always)]
    unsafe fn lay_out<S: Simd>(
        &self,
        s: S,
        image: usize,
        staged: Staged,
        wanted: bool,
        line: *mut f32,
    ) {
        let Backward { geometry, prologue, gradient, .. } = *self;
        // SAFETY: the caller's promise.
        unsafe {
            if wanted {
                let to = staged.start;
                stage::input_over_pixels::<S, P>(s, geometry, prologue, image, to, line);
            }
            let to = [staged.gradient::<P>(), staged.gradient_pairs::<P>()];
            stage::gradient::<S, P>(s, geometry, gradient, image, to, line);
        }
    }
}

/// An image and its output's gradient, laid out.
#[derive(Clone, Copy)]
struct Staged<'a> {
    start: *mut f32,
    geometry: &'a Geometry,
}

impl Staged<'_> {
    /// The output's gradient for products over channels.
    fn gradient<P: Precision>(self) -> *mut f32 {
        self.start.wrapping_add(self.geometry.input_over_pixels::<P>())
    }

    /// The same in pairs of pixels.
    fn gradient_pairs<P: Precision>(self) -> *mut f32 {
        self.gradient::<P>().wrapping_add(self.geometry.staged_gradient::<P>())
    }
}

/// Both gradients for a part of the batch.
struct Part<'a, P> {
    pass: &'a Backward<'a, P>,
    images: Range<usize>,
    /// The partial sum of the weights' gradient, where that is wanted.
    sum: Option<*mut f32>,
    staged: Staged<'a>,
    line: *mut f32,
    dx: *mut f32,
}

impl<P: Precision> Kernel for Part<'_, P> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Part { pass, staged, sum, line, dx, .. } = self;
        let geometry = pass.geometry;
        for (index, image) in self.images.clone().enumerate() {
            // SAFETY: prologues and epilogue were checked; the worker's memory has room for both images
            // laid out and for the gradient.
            unsafe {
                pass.lay_out(s, image, staged, sum.is_some(), line);
                let mut prefetch = Prefetch::nothing();
                if image + 1 < self.images.end {
                    let [input, output] = geometry.rows(image + 1);
                    pass.gradient.prefetch(&mut prefetch, &output);
                    if sum.is_some() {
                        pass.prologue.prefetch(&mut prefetch, &input);
                    }
                }
                if let Some(epilogue) = pass.epilogue {
                    epilogue.prefetch(&mut prefetch, &geometry.rows(image)[0]);
                }
                let prefetch = &prefetch.over(2 * geometry.steps());
                if let Some(sum) = sum {
                    let all = WeightRange::all(geometry);
                    add_to_sum(s, staged, sum, all, index > 0, prefetch, pass.precision);
                }
                if let Some(epilogue) = pass.epilogue {
                    pass.input(s, epilogue, image, staged, dx, prefetch);
                }
            }
        }
        s.fence();
    }
}

/// An image is laid out, and its input's gradient delivered.
struct Lay<'a, P> {
    pass: &'a Backward<'a, P>,
    image: usize,
    staged: Staged<'a>,
    /// Whether the weights' gradient is wanted.
    wanted: bool,
    line: *mut f32,
    dx: *mut f32,
}

impl<P: Precision> Kernel for Lay<'_, P> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Lay { pass, image, staged, wanted, line, dx } = self;
        // SAFETY: as in `Part`.
        unsafe {
            pass.lay_out(s, image, staged, wanted, line);
            if let Some(epilogue) = pass.epilogue {
                pass.input(s, epilogue, image, staged, dx, &Prefetch::nothing());
            }
        }
        s.fence();
    }
}

/// The weights' gradient of some images, for some taps, a block of input channels and a panel of output channels.
struct Correlate<'a, F, P> {
    images: Range<usize>,
    /// Where an image is laid out.
    staged: &'a F,
    sum: *mut f32,
    /// Whether images before these have begun it.
    accumulate: bool,
    taps: Range<usize>,
    input: usize,
    outputs: Range<usize>,
    precision: P,
}

impl<'a, F: Fn(usize) -> Staged<'a>, P: Precision> Kernel for Correlate<'a, F, P> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Correlate { images, staged, sum, accumulate, taps, input, outputs, precision } = self;
        for (index, image) in images.enumerate() {
            let some = WeightRange {
                taps: taps.clone(),
                inputs: input..input + 1,
                outputs: outputs.clone(),
            };
            let accumulate = accumulate || index > 0;
            // SAFETY: the images were laid out before; these numbers of the sum are this task's.
            unsafe {
                let prefetch = &Prefetch::nothing();
                add_to_sum(s, staged(image), sum, some, accumulate, prefetch, precision);
            }
        }
        s.fence();
    }
}

/// Some of the weights: which taps, and which blocks of channels.
struct WeightRange {
    taps: Range<usize>,
    inputs: Range<usize>,
    outputs: Range<usize>,
}

impl WeightRange {
    fn all(geometry: &Geometry) -> Self {
        let (inputs, outputs) = (geometry.input.blocks(), geometry.output.blocks());
        WeightRange { taps: 0..geometry.taps(), inputs: 0..inputs, outputs: 0..outputs }
    }
}

/// How the operands of the product over pixels lie in memory: see [`stage`].
struct OverPixels {
    input: *const f32,
    /// Words from a row of the input to the next, from a column of the filter to the next, and from pixel to pixel.
    row: usize,
    tap: usize,
    step: usize,
    /// Where the first pixel is.
    gradient: *const f32,
    /// Words from a row of the output's gradient to the next, and from a block to the next.
    line: usize,
    block: usize,
}

impl OverPixels {
    fn new<P: Precision>(staged: Staged) -> Self {
        let Geometry { layer, output, in_columns, out_rows, out_columns, margin, .. } =
            *staged.geometry;
        if P::K == 1 {
            let gradient = staged.gradient::<P>();
            return OverPixels {
                input: staged.start,
                row: in_columns * LANES,
                tap: LANES,
                step: layer.stride * LANES,
                gradient: gradient.wrapping_add((margin * out_columns + margin) * LANES),
                line: out_columns * LANES,
                block: out_rows * out_columns * LANES,
            };
        }
        let pairs = staged.geometry.pairs_len();
        OverPixels {
            input: staged.start,
            row: layer.kernel * pairs,
            tap: pairs,
            step: LANES,
            gradient: staged.gradient_pairs::<P>(),
            line: pairs,
            block: output.height * pairs,
        }
    }
}

/// Adds an image's part to the partial sum of the weights' gradient, for some of the weights.
///
/// # Safety
/// The image and the output's gradient are laid out, and these numbers of `sum` are this task's.
#[inline(always)]
unsafe fn add_to_sum<S: Simd, P: Precision>(
    s: S,
    staged: Staged,
    sum: *mut f32,
    range: WeightRange,
    accumulate: bool,
    prefetch: &Prefetch,
    precision: P,
) {
    let WeightRange { taps, inputs, outputs } = range;
    let Geometry { layer, input, output, in_rows, .. } = *staged.geometry;
    let operands = OverPixels::new::<P>(staged);
    let columns = output.padded_channels();
    // Some lines of some columns at once: their part of the gradient stays in the first-level
    // cache for all taps and input channels.
    let some = (P::K * DEPTH / output.width).clamp(1, output.height);
    for (first, vector) in (0..output.height)
        .step_by(some)
        .flat_map(|y| outputs.clone().step_by(PANEL / LANES).map(move |v| (y, v)))
    {
        for (tap, block) in taps.clone().flat_map(|t| inputs.clone().map(move |b| (t, b))) {
            let (ky, kx) = (first * layer.stride + tap / layer.kernel, tap % layer.kernel);
            let row = tap * input.channels + block * LANES;
            let lines = some.min(output.height - first);
            // SAFETY: every tap of every output pixel lies within the laid-out image.
            unsafe {
                let correlate = PanelGemmTn {
                    rows: input.lanes(block),
                    vectors: (output.blocks() - vector).min(PANEL / LANES),
                    lines,
                    len: output.width.div_ceil(P::K),
                    a: operands
                        .input
                        .add((block * in_rows + ky) * operands.row + kx * operands.tap),
                    a_step: operands.step,
                    a_line: layer.stride * operands.row,
                    b: operands.gradient.add(vector * operands.block + first * operands.line),
                    b_step: LANES,
                    b_line: operands.line,
                    b_vector: operands.block,
                    c: sum.add(row * columns + vector * LANES),
                    c_row: columns,
                    accumulate: accumulate || first > 0,
                    prefetch,
                };
                correlate.run(s, precision);
            }
        }
    }
}

impl<P: Precision> Backward<'_, P> {
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
        staged: Staged,
        dx: *mut f32,
        prefetch: &Prefetch,
    ) {
        let Geometry { layer, input, output, .. } = *self.geometry;
        // SAFETY: the gradient is laid out; packed weights have a row for each tap and channel of each panel.
        unsafe {
            if layer.kernel < layer.stride {
                // Some phases see no tap.
                dx.write_bytes(0, input.image_len());
            }
            let mut b = self.packed.as_ptr();
            for phase in phases(layer.stride) {
                let (rows, columns) = self.geometry.taps_of(phase);
                let depth = rows * columns * output.channels / P::K;
                for panel in (0..input.blocks()).step_by(PANEL / LANES) {
                    let vectors = (input.blocks() - panel).min(PANEL / LANES);
                    for (channels, at) in Packing::new::<S>(vectors, depth).tiles() {
                        let (block, vectors) =
                            (panel + channels.start / LANES, channels.len() / LANES);
                        self.multiply(s, phase, block, vectors, b.add(at), staged, dx, prefetch);
                    }
                    b = b.add(depth * vectors * LANES);
                }
            }
            for block in 0..input.blocks() {
                for y in 0..input.height {
                    let row = dx.add((block * input.height + y) * input.row_len());
                    epilogue.row(s, image, block, y, row);
                }
            }
        }
    }

    /// Computes the gradient of a phase's pixels in `vectors` blocks of the input from `block` on, the columns of a register
    /// tile. Some taps and channels at a time for all rows: their weights stay in the first-level cache.
    ///
    /// # Safety
    /// The output's gradient is laid out, and the weights at `b` are those of the blocks.
    #[allow(clippy::too_many_arguments)]
    #[inline(always)]
    unsafe fn multiply<S: Simd>(
        &self,
        s: S,
        phase: (usize, usize),
        block: usize,
        vectors: usize,
        mut b: *const f32,
        staged: Staged,
        dx: *mut f32,
        prefetch: &Prefetch,
    ) {
        let Geometry { layer, input, output, out_rows, out_columns, margin, .. } = *self.geometry;
        let Convolution { stride, padding, .. } = layer;
        let (rows, columns) = self.geometry.taps_of(phase);
        let (top, lines) = self.geometry.pixels_of(phase.0, input.height);
        let (left, len) = self.geometry.pixels_of(phase.1, input.width);
        let (segments, pixel) = (rows * columns * output.blocks(), P::BLOCK);
        for first in (0..segments).step_by(P::K * SEGMENTS) {
            let count = (P::K * SEGMENTS).min(segments - first);
            let mut some = [Segment { offset: 0, len: 0 }; MOST_SEGMENTS];
            for (i, segment) in some.iter_mut().enumerate().take(count) {
                let (tap, block) = ((first + i) / output.blocks(), (first + i) % output.blocks());
                // Later taps see earlier outputs: from the margin's end backwards.
                let (row, column) = (margin - tap / columns, margin - tap % columns);
                let offset = ((block * out_rows + row) * out_columns + column) * pixel;
                *segment = Segment { offset, len: output.lanes(block) / P::K };
            }
            let depth: usize = some[..count].iter().map(|segment| segment.len).sum();
            // SAFETY: pixels of the input and taps of their phase lead to laid-out pixels of the output's
            // gradient, or to the margin around it.
            unsafe {
                for line in 0..lines {
                    let y = top + line * stride;
                    let (from_y, from_x) = ((y + padding) / stride, (left + padding) / stride);
                    let gemm = PanelGemm {
                        rows: len,
                        vectors,
                        a: staged.gradient::<P>().add((from_y * out_columns + from_x) * pixel),
                        a_row: pixel,
                        segments: &some[..count],
                        b,
                        b_row: vectors * LANES,
                        b_ahead: 0,
                        c: dx.add((block * input.height + y) * input.row_len() + left * LANES),
                        c_row: stride * LANES,
                        c_vector: input.pixels() * LANES,
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
