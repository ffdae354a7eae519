//! Max-pooling: each pixel of the output is the largest of a square of pixels.
//!
//! Backward needs nothing but what forward read. It goes through a square's rows twice: for the maximum,
//! and to find it again. A row holds the gradients that have not been assigned to a pixel yet; once
//! assigned they become zero, so only the first of equal maxima gets its gradient.

use crate::Processor;
use crate::epilogue::{Epilogue, GradientEpilogue, RowBuffer};
use crate::pooling::{each_block, output_shape, pointer};
use crate::prologue::{GradientPrologue, Prologue};
use crate::simd::{Kernel, LANES, Simd};

/// Each pixel of the output is the maximum of a square of `size` x `size` pixels, or NaN where one of
/// them is. What does not fill a square is left out: the output's shape is
/// [`pooling::output_shape`](crate::pooling::output_shape)'s, as PyTorch's `MaxPool2d(size)`.
///
/// # Panics
/// If shapes do not fit, or rows are too wide.
pub fn forward(processor: &Processor, size: usize, prologue: &Prologue, epilogue: &Epilogue) {
    prologue.check();
    epilogue.check();
    assert_eq!(epilogue.shape, output_shape(size, prologue.shape), "the output has another shape");
    each_block(processor, prologue.shape, |image, block| Forward {
        size,
        prologue,
        epilogue,
        image,
        block,
    });
}

struct Forward<'a> {
    size: usize,
    prologue: &'a Prologue<'a>,
    epilogue: &'a Epilogue<'a>,
    image: usize,
    block: usize,
}

impl Kernel for Forward<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Forward { size, prologue, epilogue, image, block } = self;
        let (mut row, mut largest) = (RowBuffer::uninit(), RowBuffer::uninit());
        let (row, largest) = (pointer(&mut row), pointer(&mut largest));
        // SAFETY: both ends were checked, and rows are not wider than the buffers.
        unsafe {
            for y in 0..prologue.shape.height {
                // Also rows that fill no square: the prologue may save them.
                prologue.row(s, image, block, y, row);
                let (out, inside) = (y / size, y % size);
                if out < epilogue.shape.height {
                    raise(s, size, epilogue.shape.width, row, largest, inside == 0);
                    if inside == size - 1 {
                        epilogue.row(s, image, block, out, largest);
                    }
                }
            }
        }
        s.fence();
    }
}

/// Raises the maxima of a row of `squares` to those of one more row of pixels.
///
/// # Safety
/// `row` has `size` pixels for each square, `largest` room for one, and it has them already unless the
/// row is the `first` of its squares.
#[inline(always)]
unsafe fn raise<S: Simd>(
    s: S,
    size: usize,
    squares: usize,
    row: *const f32,
    largest: *mut f32,
    first: bool,
) {
    for x in 0..squares {
        // SAFETY: the caller's promise.
        unsafe {
            let to = largest.add(x * LANES);
            let mut maximum = if first { s.splat(f32::NEG_INFINITY) } else { s.load(to) };
            for i in 0..size {
                maximum = s.maximum(maximum, s.load(row.add((x * size + i) * LANES)));
            }
            s.store(to, maximum);
        }
    }
}

/// The backward pass: delivers the gradient of [`forward`]'s input, which `prologue` reads once more: all of an output's to the first
/// maximum of its square, row by row, as in PyTorch; zero to all other pixels and to those in no
/// square. Where the maximum is NaN, the first pixel of the square gets it.
///
/// # Panics
/// If shapes do not fit, or rows are too wide.
pub fn backward(
    processor: &Processor,
    size: usize,
    prologue: &Prologue,
    gradient: &GradientPrologue,
    epilogue: &GradientEpilogue,
) {
    prologue.check();
    gradient.check();
    epilogue.check();
    assert_eq!(epilogue.shape, prologue.shape, "the input's gradient has another shape");
    assert_eq!(gradient.shape, output_shape(size, prologue.shape), "the output has another shape");
    each_block(processor, prologue.shape, |image, block| Backward {
        size,
        prologue,
        gradient,
        epilogue,
        image,
        block,
    });
}

struct Backward<'a> {
    size: usize,
    prologue: &'a Prologue<'a>,
    gradient: &'a GradientPrologue<'a>,
    epilogue: &'a GradientEpilogue<'a>,
    image: usize,
    block: usize,
}

impl Kernel for Backward<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Backward { size, prologue, gradient, epilogue, image, block } = self;
        let (mut row, mut largest, mut left) =
            (RowBuffer::uninit(), RowBuffer::uninit(), RowBuffer::uninit());
        let (row, largest, left) = (pointer(&mut row), pointer(&mut largest), pointer(&mut left));
        let squares = gradient.shape.width;
        let outside = (squares * size * LANES)..epilogue.shape.row_len();
        // SAFETY: all ends were checked, and rows are not wider than the buffers.
        unsafe {
            for out in 0..gradient.shape.height {
                let rows = out * size..(out + 1) * size;
                for y in rows.clone() {
                    prologue.row(s, image, block, y, row);
                    raise(s, size, squares, row, largest, y == rows.start);
                }
                gradient.row(s, image, block, out, left);
                for y in rows {
                    prologue.row(s, image, block, y, row);
                    give(s, size, squares, row, largest, left);
                    row.add(outside.start).write_bytes(0, outside.len());
                    epilogue.row(s, image, block, y, row);
                }
            }
            for y in gradient.shape.height * size..epilogue.shape.height {
                row.write_bytes(0, epilogue.shape.row_len());
                epilogue.row(s, image, block, y, row);
            }
        }
        s.fence();
    }
}

/// Turns a row of pixels into a row of their gradient, which is taken from what is `left` of that of a
/// row of `squares`.
///
/// # Safety
/// `row` has `size` pixels for each square, and `largest` and `left` have one.
#[inline(always)]
unsafe fn give<S: Simd>(
    s: S,
    size: usize,
    squares: usize,
    row: *mut f32,
    largest: *const f32,
    left: *mut f32,
) {
    for x in 0..squares {
        // SAFETY: the caller's promise.
        unsafe {
            let maximum = s.load(largest.add(x * LANES));
            let mut rest = s.load(left.add(x * LANES));
            for i in 0..size {
                let pixel = row.add((x * size + i) * LANES);
                // Positive below the maximum. Equal infinities differ by no number: not positive.
                let below = s.sub(maximum, s.load(pixel));
                s.store(pixel, s.positive(below, s.zero(), rest));
                rest = s.positive(below, rest, s.zero());
            }
            s.store(left.add(x * LANES), rest);
        }
    }
}
