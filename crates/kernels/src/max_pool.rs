//! Max-pooling: each pixel of the output is the largest of a square of pixels.
//!
//! Backward keeps nothing from forward but what that read. A square's rows are gone through twice: for
//! the maximum, and to find it again. What is still to be given of the gradient is a row of its own,
//! which becomes zero where it has been given: so only the first of equal maxima gets it.

use crate::Processor;
use crate::pooling::{RowBuffer, each_block, output, pointer};
use crate::simd::{Kernel, LANES, Simd};
use crate::sink::{GradientSink, Sink};
use crate::source::{GradientSource, Source};

/// Each pixel of the output is the maximum of a square of `size` x `size` pixels, or no number where
/// one of them is none. What does not fill a square is left out: the output's shape is
/// [`pooling::output`](crate::pooling::output)'s, as PyTorch's `MaxPool2d(size)`.
///
/// # Panics
/// If shapes do not fit, or rows are too wide.
pub fn forward(processor: &Processor, size: usize, source: &Source, sink: &Sink) {
    source.check();
    sink.check();
    assert_eq!(sink.maps, output(size, source.maps), "the output has another shape");
    each_block(processor, source.maps, |image, block| Forward { size, source, sink, image, block });
}

struct Forward<'a> {
    size: usize,
    source: &'a Source<'a>,
    sink: &'a Sink<'a>,
    image: usize,
    block: usize,
}

impl Kernel for Forward<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Forward { size, source, sink, image, block } = self;
        let (mut row, mut largest) = (RowBuffer::uninit(), RowBuffer::uninit());
        let (row, largest) = (pointer(&mut row), pointer(&mut largest));
        // SAFETY: both ends were checked, and rows are not wider than the buffers.
        unsafe {
            for y in 0..source.maps.height {
                // Rows that fill no square too: the source may keep them.
                source.row(s, image, block, y, row);
                let (out, inside) = (y / size, y % size);
                if out < sink.maps.height {
                    raise(s, size, sink.maps.width, row, largest, inside == 0);
                    if inside == size - 1 {
                        sink.row(s, image, block, out, largest);
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

/// The gradient of [`forward`]'s input, which `source` reads once more: all of an output's to the first
/// maximum of its square, row by row, as in PyTorch; zero to all other pixels and to those in no
/// square. Where the maximum is no number, the first pixel of the square gets it.
///
/// # Panics
/// If shapes do not fit, or rows are too wide.
pub fn backward(
    processor: &Processor,
    size: usize,
    source: &Source,
    gradient: &GradientSource,
    sink: &GradientSink,
) {
    source.check();
    gradient.check();
    sink.check();
    assert_eq!(sink.maps, source.maps, "the input's gradient has another shape");
    assert_eq!(gradient.maps, output(size, source.maps), "the output has another shape");
    each_block(processor, source.maps, |image, block| Backward {
        size,
        source,
        gradient,
        sink,
        image,
        block,
    });
}

struct Backward<'a> {
    size: usize,
    source: &'a Source<'a>,
    gradient: &'a GradientSource<'a>,
    sink: &'a GradientSink<'a>,
    image: usize,
    block: usize,
}

impl Kernel for Backward<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Backward { size, source, gradient, sink, image, block } = self;
        let (mut row, mut largest, mut left) =
            (RowBuffer::uninit(), RowBuffer::uninit(), RowBuffer::uninit());
        let (row, largest, left) = (pointer(&mut row), pointer(&mut largest), pointer(&mut left));
        let squares = gradient.maps.width;
        let outside = (squares * size * LANES)..sink.maps.row_len();
        // SAFETY: all ends were checked, and rows are not wider than the buffers.
        unsafe {
            for out in 0..gradient.maps.height {
                let rows = out * size..(out + 1) * size;
                for y in rows.clone() {
                    source.row(s, image, block, y, row);
                    raise(s, size, squares, row, largest, y == rows.start);
                }
                gradient.row(s, image, block, out, left);
                for y in rows {
                    source.row(s, image, block, y, row);
                    give(s, size, squares, row, largest, left);
                    row.add(outside.start).write_bytes(0, outside.len());
                    sink.row(s, image, block, y, row);
                }
            }
            for y in gradient.maps.height * size..sink.maps.height {
                row.write_bytes(0, sink.maps.row_len());
                sink.row(s, image, block, y, row);
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
