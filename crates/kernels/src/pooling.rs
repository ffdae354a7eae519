//! Average pooling, the step from maps to vectors, and maps written to memory as they are read.
//!
//! Each works on rows, as convolutions do: a [`Prologue`] describes what is read, an [`Epilogue`] what
//! is delivered, and the same backward. Rows may be at most 256 pixels wide.

use crate::disjoint_slice::DisjointSlice;
use crate::epilogue::{Epilogue, GradientEpilogue, MAX_WIDTH, RowBuffer};
use crate::prologue::{GradientPrologue, Prologue};
use crate::simd::{Kernel, LANES, Simd};
use crate::{MapShape, Processor, ThreadPool};

pub(crate) fn pointer(buffer: &mut RowBuffer) -> *mut f32 {
    buffer.as_mut_ptr().cast()
}

/// The shape of the output of pooling squares of `size` x `size` pixels; what does not fill a square is
/// left out, as in PyTorch.
pub fn output_shape(size: usize, input: MapShape) -> MapShape {
    MapShape { height: input.height / size, width: input.width / size, ..input }
}

/// Calls `isa.run(kernel(image, block))` for every block of every image, on all threads.
pub(crate) fn each_block<K: Kernel<Output = ()>>(
    processor: &Processor,
    shape: MapShape,
    kernel: impl Fn(usize, usize) -> K + Sync,
) {
    assert!(shape.width <= MAX_WIDTH, "rows of more than {MAX_WIDTH} pixels");
    let work = ThreadPool::ELEMENT * shape.len();
    processor.pool.run(shape.images, work, |image, _| {
        for block in 0..shape.blocks() {
            processor.isa.run(kernel(image, block));
        }
    });
}

/// Average pooling, as PyTorch's `AvgPool2d(size)`: each pixel of the output is the mean of a square of
/// `size` x `size` pixels.
///
/// # Panics
/// If shapes do not fit (see [`output_shape`]), or rows are too wide.
pub fn average(processor: &Processor, size: usize, prologue: &Prologue, epilogue: &Epilogue) {
    prologue.check();
    epilogue.check();
    assert_eq!(epilogue.shape, output_shape(size, prologue.shape), "the output has another shape");
    each_block(processor, prologue.shape, |image, block| Average {
        size,
        prologue,
        epilogue,
        image,
        block,
    });
}

struct Average<'a> {
    size: usize,
    prologue: &'a Prologue<'a>,
    epilogue: &'a Epilogue<'a>,
    image: usize,
    block: usize,
}

impl Kernel for Average<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Average { size, prologue, epilogue, image, block } = self;
        let (mut row, mut sums) = (RowBuffer::uninit(), RowBuffer::uninit());
        let (row, sums) = (pointer(&mut row), pointer(&mut sums));
        let share = s.splat(1.0 / (size * size) as f32);
        // SAFETY: both ends were checked, and rows are not wider than the buffers.
        unsafe {
            for y in 0..prologue.shape.height {
                prologue.row(s, image, block, y, row);
                let (out, inside) = (y / size, y % size);
                if out >= epilogue.shape.height {
                    continue;
                }
                for x in 0..epilogue.shape.width {
                    let mut sum = if inside == 0 { s.zero() } else { s.load(sums.add(x * LANES)) };
                    for i in 0..size {
                        sum = s.add(sum, s.load(row.add((x * size + i) * LANES)));
                    }
                    if inside == size - 1 {
                        sum = s.mul(sum, share);
                    }
                    s.store(sums.add(x * LANES), sum);
                }
                if inside == size - 1 {
                    epilogue.row(s, image, block, out, sums);
                }
            }
        }
        s.fence();
    }
}

/// The backward pass of [`average`]: delivers the gradient of its input.
///
/// # Panics
/// If shapes do not fit, or rows are too wide.
pub fn average_backward(
    processor: &Processor,
    size: usize,
    gradient: &GradientPrologue,
    epilogue: &GradientEpilogue,
) {
    gradient.check();
    epilogue.check();
    assert_eq!(gradient.shape, output_shape(size, epilogue.shape), "the output has another shape");
    each_block(processor, epilogue.shape, |image, block| AverageBackward {
        size,
        gradient,
        epilogue,
        image,
        block,
    });
}

struct AverageBackward<'a> {
    size: usize,
    gradient: &'a GradientPrologue<'a>,
    epilogue: &'a GradientEpilogue<'a>,
    image: usize,
    block: usize,
}

impl Kernel for AverageBackward<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let AverageBackward { size, gradient, epilogue, image, block } = self;
        let (mut row, mut spread) = (RowBuffer::uninit(), RowBuffer::uninit());
        let (row, spread) = (pointer(&mut row), pointer(&mut spread));
        let share = s.splat(1.0 / (size * size) as f32);
        // SAFETY: both ends were checked, and rows are not wider than the buffers.
        unsafe {
            for y in 0..epilogue.shape.height {
                let from = y / size;
                spread.write_bytes(0, epilogue.shape.row_len());
                if from < gradient.shape.height {
                    gradient.row(s, image, block, from, row);
                    for x in 0..gradient.shape.width {
                        let part = s.mul(share, s.load(row.add(x * LANES)));
                        for i in 0..size {
                            s.store(spread.add((x * size + i) * LANES), part);
                        }
                    }
                }
                epilogue.row(s, image, block, y, spread);
            }
        }
        s.fence();
    }
}

/// Writes to memory what the prologue reads: for what cannot be fused into another kernel.
///
/// # Panics
/// If shapes do not fit, or rows are too wide.
pub fn materialise(processor: &Processor, prologue: &Prologue, epilogue: &Epilogue) {
    prologue.check();
    epilogue.check();
    assert_eq!(epilogue.shape, prologue.shape, "the output has another shape");
    each_block(processor, prologue.shape, |image, block| Materialise {
        prologue,
        epilogue,
        image,
        block,
    });
}

struct Materialise<'a> {
    prologue: &'a Prologue<'a>,
    epilogue: &'a Epilogue<'a>,
    image: usize,
    block: usize,
}

impl Kernel for Materialise<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Materialise { prologue, epilogue, image, block } = self;
        let mut row = RowBuffer::uninit();
        let row = pointer(&mut row);
        // SAFETY: both ends were checked, and rows are not wider than the buffer.
        unsafe {
            for y in 0..prologue.shape.height {
                prologue.row(s, image, block, y, row);
                epilogue.row(s, image, block, y, row);
            }
        }
        s.fence();
    }
}

/// The backward pass of [`materialise`]: delivers the gradient of its input.
///
/// # Panics
/// If shapes do not fit, or rows are too wide.
pub fn materialise_backward(
    processor: &Processor,
    gradient: &GradientPrologue,
    epilogue: &GradientEpilogue,
) {
    gradient.check();
    epilogue.check();
    assert_eq!(gradient.shape, epilogue.shape, "the output has another shape");
    each_block(processor, epilogue.shape, |image, block| MaterialiseBackward {
        gradient,
        epilogue,
        image,
        block,
    });
}

struct MaterialiseBackward<'a> {
    gradient: &'a GradientPrologue<'a>,
    epilogue: &'a GradientEpilogue<'a>,
    image: usize,
    block: usize,
}

impl Kernel for MaterialiseBackward<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let MaterialiseBackward { gradient, epilogue, image, block } = self;
        let mut row = RowBuffer::uninit();
        let row = pointer(&mut row);
        // SAFETY: both ends were checked, and rows are not wider than the buffer.
        unsafe {
            for y in 0..epilogue.shape.height {
                gradient.row(s, image, block, y, row);
                epilogue.row(s, image, block, y, row);
            }
        }
        s.fence();
    }
}

/// From maps to vectors `[images, channels * height * width]`, channel by channel as PyTorch's
/// `flatten`.
///
/// # Panics
/// If lengths do not fit, or rows are too wide.
pub fn flatten(processor: &Processor, prologue: &Prologue, vectors: &mut [f32]) {
    prologue.check();
    let shape = prologue.shape;
    let features = shape.channels * shape.pixels();
    assert_eq!(vectors.len(), shape.images * features, "the vectors have another length");
    let vectors = &DisjointSlice::new(vectors);
    each_block(processor, shape, |image, block| Flatten {
        prologue,
        image,
        block,
        // SAFETY: each block of each image has its own part.
        vector: unsafe {
            vectors.part(
                image * features + block * LANES * shape.pixels(),
                shape.lanes(block) * shape.pixels(),
            )
        },
    });
}

struct Flatten<'a> {
    prologue: &'a Prologue<'a>,
    image: usize,
    block: usize,
    vector: &'a mut [f32],
}

impl Kernel for Flatten<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Flatten { prologue, image, block, vector } = self;
        let shape = prologue.shape;
        let mut row = RowBuffer::uninit();
        let row = pointer(&mut row);
        for y in 0..shape.height {
            // SAFETY: the prologue was checked, and rows are not wider than the buffer.
            let row = unsafe {
                prologue.row(s, image, block, y, row);
                std::slice::from_raw_parts(row, shape.row_len())
            };
            for (lane, plane) in vector.chunks_exact_mut(shape.pixels()).enumerate() {
                for (x, value) in plane[y * shape.width..][..shape.width].iter_mut().enumerate() {
                    *value = row[x * LANES + lane];
                }
            }
        }
        s.fence();
    }
}

/// The backward pass of [`flatten`]: delivers the gradient of its input.
///
/// # Panics
/// If lengths do not fit, or rows are too wide.
pub fn flatten_backward(processor: &Processor, vectors: &[f32], epilogue: &GradientEpilogue) {
    epilogue.check();
    let shape = epilogue.shape;
    let features = shape.channels * shape.pixels();
    assert_eq!(vectors.len(), shape.images * features, "the vectors have another length");
    each_block(processor, shape, |image, block| FlattenBackward {
        vector: &vectors[image * features + block * LANES * shape.pixels()..]
            [..shape.lanes(block) * shape.pixels()],
        epilogue,
        image,
        block,
    });
}

struct FlattenBackward<'a> {
    vector: &'a [f32],
    epilogue: &'a GradientEpilogue<'a>,
    image: usize,
    block: usize,
}

impl Kernel for FlattenBackward<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let FlattenBackward { vector, epilogue, image, block } = self;
        let shape = epilogue.shape;
        let mut row = [0.0; MAX_WIDTH * LANES];
        for y in 0..shape.height {
            for (lane, plane) in vector.chunks_exact(shape.pixels()).enumerate() {
                for (x, &value) in plane[y * shape.width..][..shape.width].iter().enumerate() {
                    row[x * LANES + lane] = value;
                }
            }
            // SAFETY: the epilogue was checked, and rows are not wider than the buffer.
            unsafe { epilogue.row(s, image, block, y, row.as_mut_ptr()) };
        }
        s.fence();
    }
}
