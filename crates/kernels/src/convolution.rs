//! Convolution by im2col: forward, and backward to the input, the weights and the bias.
//!
//! A task takes a few images, copies the pixels that each filter tap sees into a matrix
//! `[inputs * kernel * kernel, pixels]`, and multiplies. Weights are `[outputs, inputs, kernel,
//! kernel]` as in PyTorch, which is the left matrix as it stands.

use std::ops::Range;

use crate::matmul::{Destination, Into, Strides, multiply, multiply_shared};
use crate::shared::Shared;
use crate::{Map, Pool};

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

/// Columns that a task's matrix should have: enough for the product to be efficient, few enough
/// for the matrix to stay in the cache.
const COLUMNS: usize = 512;

/// In how many partial sums a weight gradient is computed, at most. Fixed, so that the sum does
/// not depend on the number of threads.
const PARTIALS: usize = 16;

impl Convolution {
    /// The map that comes out for the map that goes in.
    pub fn output(&self, input: Map) -> Map {
        let side = |length: usize| (length + 2 * self.padding - self.kernel) / self.stride + 1;
        Map { height: side(input.height), width: side(input.width), ..input }
    }

    /// Numbers in the weight.
    pub fn weights(&self) -> usize {
        self.outputs * self.taps()
    }

    /// Products an output pixel is the sum of.
    fn taps(&self) -> usize {
        self.inputs * self.kernel * self.kernel
    }

    /// Images a task takes.
    fn group(&self, output: Map) -> usize {
        (COLUMNS / output.pixels()).clamp(1, output.images)
    }

    /// Images that share a partial sum of the weight gradient: a whole number of groups.
    fn images_per_partial(&self, output: Map) -> usize {
        output.images.div_ceil(PARTIALS).next_multiple_of(self.group(output))
    }

    /// The working memory that the kernels need for a batch of this `input` shape.
    pub fn workspace(&self, input: Map, backward: bool) -> WorkspaceSize {
        let output = self.output(input);
        WorkspaceSize {
            columns: self.taps() * self.group(output) * output.pixels(),
            partials: if backward {
                output.images.div_ceil(self.images_per_partial(output)) * self.weights()
            } else {
                0
            },
        }
    }
}

/// How much working memory a convolution needs, in numbers of 4 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WorkspaceSize {
    columns: usize,
    partials: usize,
}

impl WorkspaceSize {
    /// The size that serves both.
    pub fn max(self, other: Self) -> Self {
        WorkspaceSize {
            columns: self.columns.max(other.columns),
            partials: self.partials.max(other.partials),
        }
    }

    /// Bytes of memory, with `threads` threads.
    pub fn bytes(self, threads: usize) -> usize {
        4 * (self.columns * threads + self.partials)
    }
}

/// Working memory for convolutions, made once and used by all of them in turn.
pub struct Workspace {
    size: WorkspaceSize,
    /// A matrix for each worker.
    columns: Vec<f32>,
    partials: Vec<f32>,
}

impl Workspace {
    /// Working memory that serves all of `sizes` in `pool`.
    pub fn new(pool: &Pool, sizes: impl IntoIterator<Item = WorkspaceSize>) -> Self {
        let size = sizes.into_iter().fold(WorkspaceSize::default(), WorkspaceSize::max);
        Workspace {
            size,
            columns: vec![0.0; size.columns * pool.threads()],
            partials: vec![0.0; size.partials],
        }
    }

    /// Workers' parts of it would overlap if a layer needed more than it was made for.
    fn check(&self, needed: WorkspaceSize) {
        assert!(needed.max(self.size) == self.size, "the workspace was made for smaller layers");
    }
}

/// `y = x * weight + bias`: `x` is `[inputs, N, H, W]` with N, H and W of `map`, `y` is
/// `[outputs, N, H', W']` (see [`Convolution::output`]), `bias` is `[outputs]`, or empty for none.
#[allow(clippy::too_many_arguments)]
pub fn forward(
    pool: &Pool,
    workspace: &mut Workspace,
    layer: &Convolution,
    map: Map,
    x: &[f32],
    weight: &[f32],
    bias: &[f32],
    y: &mut [f32],
) {
    let output = layer.output(map);
    let (channel, pixels, taps) = (output.len(), output.pixels(), layer.taps());
    assert_eq!(x.len(), layer.inputs * map.len(), "x has the wrong length");
    assert_eq!(y.len(), layer.outputs * channel, "y has the wrong length");
    assert_eq!(weight.len(), layer.weights(), "weight has the wrong length");
    assert!(bias.is_empty() || bias.len() == layer.outputs, "bias has the wrong length");
    workspace.check(layer.workspace(map, false));
    let group = layer.group(output);
    let size = workspace.size.columns;
    let columns = Shared::new(&mut workspace.columns);
    let y = Shared::new(y);
    pool.run(map.images.div_ceil(group), |task, worker| {
        let images = task * group..map.images.min((task + 1) * group);
        let (start, width) = (images.start * pixels, images.len() * pixels);
        // SAFETY: one part a worker, and a worker runs one task at a time.
        let columns = unsafe { columns.part(worker * size, taps * width) };
        image_to_columns(layer, map, images, x, columns);
        if !bias.is_empty() {
            for (out, &bias) in bias.iter().enumerate() {
                // SAFETY: each task writes its own images' pixels of every channel.
                unsafe { y.part(out * channel + start, width) }.fill(bias);
            }
        }
        let mode = if bias.is_empty() { Into::Overwrite } else { Into::Add };
        let strides = Strides::row_major(channel).at(start);
        // SAFETY: as above: only this task touches these pixels.
        unsafe {
            multiply_shared(
                [layer.outputs, width, taps],
                Destination { data: &y, strides },
                mode,
                (weight, Strides::row_major(taps)),
                (columns, Strides::row_major(width)),
            );
        }
    });
}

/// The gradients for `dy`, the gradient of the output: adds to `dweight` and, unless it is empty,
/// to `dbias`; overwrites `dx` where it is wanted. Shapes as in [`forward`].
#[allow(clippy::too_many_arguments)]
pub fn backward(
    pool: &Pool,
    workspace: &mut Workspace,
    layer: &Convolution,
    map: Map,
    x: &[f32],
    weight: &[f32],
    dy: &[f32],
    dweight: &mut [f32],
    dbias: &mut [f32],
    dx: Option<&mut [f32]>,
) {
    let output = layer.output(map);
    let (channel, pixels, taps) = (output.len(), output.pixels(), layer.taps());
    assert_eq!(x.len(), layer.inputs * map.len(), "x has the wrong length");
    assert_eq!(dy.len(), layer.outputs * channel, "dy has the wrong length");
    assert!(weight.len() == layer.weights() && dweight.len() == weight.len(), "wrong weights");
    assert!(dbias.is_empty() || dbias.len() == layer.outputs, "dbias has the wrong length");
    workspace.check(layer.workspace(map, true));
    let (group, share) = (layer.group(output), layer.images_per_partial(output));
    let partial_sums = map.images.div_ceil(share);
    let size = workspace.size.columns;
    let columns = Shared::new(&mut workspace.columns);
    let partials = &mut workspace.partials[..partial_sums * layer.weights()];
    let dx = dx.map(|dx| {
        assert_eq!(dx.len(), x.len(), "dx has the wrong length");
        Shared::new(dx)
    });
    {
        let partials = Shared::new(partials);
        pool.run(partial_sums, |task, worker| {
            // SAFETY: one partial sum a task.
            let partial = unsafe { partials.part(task * layer.weights(), layer.weights()) };
            let end = map.images.min((task + 1) * share);
            for first in (task * share..end).step_by(group) {
                let images = first..end.min(first + group);
                let (start, width) = (images.start * pixels, images.len() * pixels);
                // SAFETY: one part a worker, and a worker runs one task at a time.
                let columns = unsafe { columns.part(worker * size, taps * width) };
                let dy_strides = Strides::row_major(channel).at(start);
                image_to_columns(layer, map, images.clone(), x, columns);
                multiply(
                    [layer.outputs, taps, width],
                    (&mut *partial, Strides::row_major(taps)),
                    if first == task * share { Into::Overwrite } else { Into::Add },
                    (dy, dy_strides),
                    (columns, Strides::row_major(width).transposed()),
                );
                let Some(dx) = &dx else { continue };
                multiply(
                    [taps, width, layer.outputs],
                    (&mut *columns, Strides::row_major(width)),
                    Into::Overwrite,
                    (weight, Strides::row_major(taps).transposed()),
                    (dy, dy_strides),
                );
                // SAFETY: each image belongs to one task, so its pixels of `dx` do too.
                unsafe { columns_to_image(layer, map, images, columns, dx) };
            }
        });
    }
    let partials = &workspace.partials[..partial_sums * layer.weights()];
    const PIECE: usize = 4096;
    pool.chunks(dweight, PIECE, |piece, dweight| {
        for partial in partials.chunks_exact(layer.weights()) {
            let partial = &partial[piece * PIECE..][..dweight.len()];
            for (sum, &value) in dweight.iter_mut().zip(partial) {
                *sum += value;
            }
        }
    });
    pool.chunks(dbias, 1, |out, dbias| {
        dbias[0] += crate::elementwise::sum(&dy[out * channel..][..channel]) as f32;
    });
}

/// The runs of output and input pixels that one filter tap connects along one axis: outputs
/// `out`, and the input position of the first of them. Elsewhere the tap sees padding.
fn overlap(layer: &Convolution, tap: usize, input: usize, output: usize) -> (Range<usize>, usize) {
    let Convolution { stride, padding, .. } = *layer;
    let first = padding.saturating_sub(tap).div_ceil(stride);
    let last = (input + padding).saturating_sub(tap).div_ceil(stride).min(output);
    let first = first.min(last);
    let start = if first < last { first * stride + tap - padding } else { 0 };
    (first..last, start)
}

/// Fills `columns` `[taps, pixels of images]` with the pixel of `x` that each tap sees.
fn image_to_columns(
    layer: &Convolution,
    map: Map,
    images: Range<usize>,
    x: &[f32],
    columns: &mut [f32],
) {
    let output = layer.output(map);
    let width = images.len() * output.pixels();
    let mut rows = columns.chunks_exact_mut(width);
    for input in 0..layer.inputs {
        for ky in 0..layer.kernel {
            for kx in 0..layer.kernel {
                let row = rows.next().expect("a row for every tap");
                let (ys, y0) = overlap(layer, ky, map.height, output.height);
                let (xs, x0) = overlap(layer, kx, map.width, output.width);
                for (row, image) in row.chunks_exact_mut(output.pixels()).zip(images.clone()) {
                    let x = &x[input * map.len() + image * map.pixels()..][..map.pixels()];
                    row[..ys.start * output.width].fill(0.0);
                    row[ys.end * output.width..].fill(0.0);
                    for (i, row) in row[ys.start * output.width..ys.end * output.width]
                        .chunks_exact_mut(output.width)
                        .enumerate()
                    {
                        let x = &x[(y0 + i * layer.stride) * map.width + x0..];
                        row[..xs.start].fill(0.0);
                        row[xs.end..].fill(0.0);
                        let row = &mut row[xs.clone()];
                        if layer.stride == 1 {
                            row.copy_from_slice(&x[..row.len()]);
                        } else {
                            for (to, from) in row.iter_mut().zip(x.iter().step_by(layer.stride)) {
                                *to = *from;
                            }
                        }
                    }
                }
            }
        }
    }
}

/// The adjoint of [`image_to_columns`]: every pixel of `dx` becomes the sum of its copies.
///
/// # Safety
/// No other thread may touch the pixels of `images` in `dx` meanwhile.
unsafe fn columns_to_image(
    layer: &Convolution,
    map: Map,
    images: Range<usize>,
    columns: &[f32],
    dx: &Shared<f32>,
) {
    let output = layer.output(map);
    let width = images.len() * output.pixels();
    let mut rows = columns.chunks_exact(width);
    for input in 0..layer.inputs {
        // SAFETY: these are the pixels that the caller promises to be ours.
        let dx = unsafe {
            let start = input * map.len() + images.start * map.pixels();
            dx.part(start, images.len() * map.pixels())
        };
        dx.fill(0.0);
        for ky in 0..layer.kernel {
            for kx in 0..layer.kernel {
                let row = rows.next().expect("a row for every tap");
                let (ys, y0) = overlap(layer, ky, map.height, output.height);
                let (xs, x0) = overlap(layer, kx, map.width, output.width);
                for (row, dx) in
                    row.chunks_exact(output.pixels()).zip(dx.chunks_exact_mut(map.pixels()))
                {
                    for (i, row) in row[ys.start * output.width..ys.end * output.width]
                        .chunks_exact(output.width)
                        .enumerate()
                    {
                        let dx = &mut dx[(y0 + i * layer.stride) * map.width + x0..];
                        let row = &row[xs.clone()];
                        if layer.stride == 1 {
                            for (to, from) in dx.iter_mut().zip(row) {
                                *to += *from;
                            }
                        } else {
                            for (to, from) in dx.iter_mut().step_by(layer.stride).zip(row) {
                                *to += *from;
                            }
                        }
                    }
                }
            }
        }
    }
}
