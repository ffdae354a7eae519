//! The shape of a direct convolution: the maps laid out with margins, the partial sums, the phases.

use crate::conv_shape::Convolution;
use crate::leaves::MOST_PARTS;
use crate::micro_kernel::{Precision, panels};
use crate::partition::{TASKS_PER_THREAD, are_many};
use crate::prefetch::MapRows;
use crate::simd::LANES;
use crate::{MapShape, ThreadPool};

/// Output pixels that a partial sum of the weights' gradient is worth.
const PIXELS_PER_PART: usize = 4000;

/// A convolution and the maps laid out with margins.
#[derive(Clone, Copy)]
pub(super) struct Geometry {
    pub layer: Convolution,
    pub input: MapShape,
    pub output: MapShape,
    /// Rows and columns of the input with its padding.
    pub in_rows: usize,
    pub in_columns: usize,
    /// Rows and columns of the output's gradient with margins, and the margin before it.
    pub out_rows: usize,
    pub out_columns: usize,
    pub margin: usize,
}

impl Geometry {
    pub fn new(layer: &Convolution, input: MapShape) -> Self {
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

    /// Words of an image of the input, laid out.
    pub fn staged_input<P: Precision>(&self) -> usize {
        self.input.padded_channels() / P::K * self.in_rows * self.in_columns
    }

    /// Words of an image of the output's gradient, laid out.
    pub fn staged_gradient<P: Precision>(&self) -> usize {
        self.output.padded_channels() / P::K * self.out_rows * self.out_columns
    }

    /// Words of a row of pixels of the output, or of what a tap sees of a row of the input, in pairs.
    pub fn pairs_len(&self) -> usize {
        self.output.width.div_ceil(2) * LANES
    }

    /// Words of an image of the input, laid out for the product over pixels: see [`super::stage`].
    pub fn input_over_pixels<P: Precision>(&self) -> usize {
        match P::K {
            1 => self.staged_input::<P>(),
            _ => self.input.blocks() * self.in_rows * self.layer.kernel * self.pairs_len(),
        }
    }

    /// Words of an image of the output's gradient in pairs of pixels, where the product over pixels reads these.
    fn gradient_pairs<P: Precision>(&self) -> usize {
        if P::K == 1 { 0 } else { self.output.blocks() * self.output.height * self.pairs_len() }
    }

    /// Numbers of a row of pixels before it is rounded, of the input with its padding or of the output's gradient.
    pub fn line<P: Precision>(&self) -> usize {
        if P::K == 1 { 0 } else { self.in_columns.max(self.output.width) * LANES }
    }

    pub fn taps(&self) -> usize {
        self.layer.kernel * self.layer.kernel
    }

    /// Numbers of a gradient of the weights: `[tap][input channel][output channel]`.
    pub fn part(&self) -> usize {
        self.taps() * self.input.channels * self.output.padded_channels()
    }

    /// How many partial sums of it so many images are worth.
    pub fn parts(&self, images: usize) -> usize {
        images * self.output.pixels() / PIXELS_PER_PART
    }

    /// The number of tasks of a forward pass, which does not change results.
    pub fn forward_tasks(&self, pool: &ThreadPool) -> usize {
        let images = self.input.images;
        let usual = self.parts(images).clamp(4, MOST_PARTS).min(images);
        // A task is a loop over images: smaller ones cost nothing.
        if are_many(pool.threads()) {
            usual.max(images.min(TASKS_PER_THREAD * pool.threads()))
        } else {
            usual
        }
    }

    /// Panels of packed weights.
    pub fn panels(&self) -> usize {
        panels(self.output.blocks()).len()
    }

    /// Into how many bands of rows of the output, and slices of the panels, a forward pass is cut where there are fewer
    /// images than threads. Slices, if there are enough panels: each thread reads some of the weights then. Bands, where
    /// rows `may_be_cut`: they see some rows of the input twice, and have sums of the same channels.
    pub fn cuts(&self, pool: &ThreadPool, may_be_cut: bool) -> (usize, usize) {
        let (images, threads) = (self.input.images, pool.threads());
        if images >= threads {
            return (1, 1);
        }
        let wanted = threads.div_ceil(images);
        match self.panels() {
            1 if may_be_cut => (wanted.min(self.output.height), 1),
            panels => (1, wanted.min(panels)),
        }
    }

    /// Words of an image and of its output's gradient, laid out for both gradients.
    pub fn staged<P: Precision>(&self) -> usize {
        self.input_over_pixels::<P>() + self.staged_gradient::<P>() + self.gradient_pairs::<P>()
    }

    /// The work of a forward pass, or of one of the two gradients: see
    /// [`ThreadPool::run`](crate::ThreadPool::run).
    pub fn work(&self) -> usize {
        let multiplications = self.output.images * self.output.pixels() * self.part();
        multiplications + ThreadPool::ELEMENT * (self.input.len() + self.output.len())
    }

    /// About how many steps the GEMMs of an image have: see [`Prefetch`](crate::prefetch::Prefetch).
    pub fn steps(&self) -> usize {
        let pixels = self.output.height * self.output.width.div_ceil(6);
        self.taps() * self.input.blocks() * pixels * self.panels()
    }

    /// All rows of an image of the input, and of the output.
    pub fn rows(&self, image: usize) -> [MapRows; 2] {
        [self.input, self.output]
            .map(|shape| MapRows { images: image..image + 1, rows: 0..shape.height })
    }

    /// Rows and columns of the taps that pixels of a phase see.
    pub fn taps_of(&self, (phase_y, phase_x): (usize, usize)) -> (usize, usize) {
        let Convolution { kernel, stride, .. } = self.layer;
        let along = |phase: usize| kernel.saturating_sub(phase).div_ceil(stride);
        (along(phase_y), along(phase_x))
    }

    /// The pixels of a phase along one axis of the input: the first, and how many.
    pub fn pixels_of(&self, phase: usize, side: usize) -> (usize, usize) {
        let Convolution { stride, padding, .. } = self.layer;
        let first = (phase + stride * padding - padding) % stride;
        (first, side.saturating_sub(first).div_ceil(stride))
    }
}

/// A block of channels of an image laid out with zeros around it.
#[derive(Clone, Copy)]
pub(super) struct Margins {
    pub at: *mut f32,
    /// Rows and columns with the margins.
    pub rows: usize,
    pub columns: usize,
    /// Rows above the image, and columns before it.
    pub before: usize,
    /// Words of a pixel.
    pub pixel: usize,
}

impl Margins {
    /// Where a row of the image begins.
    pub fn row(self, y: usize) -> *mut f32 {
        self.at.wrapping_add(((y + self.before) * self.columns + self.before) * self.pixel)
    }

    /// Writes the zeros around an image of this shape.
    ///
    /// # Safety
    /// There is memory for the rows and columns, which the image does not exceed.
    pub unsafe fn clear(self, shape: MapShape) {
        let Margins { at, rows, columns, before, pixel } = self;
        // Behind a row and before the next one.
        let between = columns - shape.width;
        // SAFETY: the caller's promise.
        unsafe {
            at.write_bytes(0, (before * columns + before) * pixel);
            for y in 0..shape.height {
                let count = if y + 1 < shape.height { between } else { between - before };
                self.row(y).add(shape.width * pixel).write_bytes(0, count * pixel);
            }
            let below = (before + shape.height) * columns;
            at.add(below * pixel).write_bytes(0, (rows * columns - below) * pixel);
        }
    }
}

/// All pairs of phases along the two axes.
pub(super) fn phases(stride: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..stride).flat_map(move |y| (0..stride).map(move |x| (y, x)))
}
