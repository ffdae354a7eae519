//! Average pooling, the step from maps to vectors, and maps written down as they are read.
//!
//! Each works on rows, as convolutions do: what is read is described by a [`Source`], what is
//! delivered by a [`Sink`], and the same backward.

use std::mem::MaybeUninit;

use crate::shared::Shared;
use crate::simd::{Kernel, LANES, Simd};
use crate::sink::{GradientSink, MAX_WIDTH, Sink};
use crate::source::{GradientSource, Source};
use crate::{Maps, Processor};

/// A row on the stack.
pub(crate) type RowBuffer = MaybeUninit<[f32; MAX_WIDTH * LANES]>;

pub(crate) fn pointer(buffer: &mut RowBuffer) -> *mut f32 {
    buffer.as_mut_ptr().cast()
}

/// The maps that come out of pooling squares of `size` pixels; what does not fill a square is left
/// out, as in PyTorch.
pub fn output(size: usize, input: Maps) -> Maps {
    Maps { height: input.height / size, width: input.width / size, ..input }
}

/// Calls `isa.run(kernel(image, block))` for every block of every image, on all threads.
pub(crate) fn each_block<K: Kernel<Output = ()>>(
    processor: &Processor,
    maps: Maps,
    kernel: impl Fn(usize, usize) -> K + Sync,
) {
    assert!(maps.width <= MAX_WIDTH, "rows of more than {MAX_WIDTH} pixels");
    processor.pool.run(maps.images, |image, _| {
        for block in 0..maps.blocks() {
            processor.isa.run(kernel(image, block));
        }
    });
}

/// Each pixel of the output is the mean of a square of `size` x `size` pixels.
pub fn average(processor: &Processor, size: usize, source: &Source, sink: &Sink) {
    source.check();
    sink.check();
    assert_eq!(sink.maps, output(size, source.maps), "the output has another shape");
    each_block(processor, source.maps, |image, block| Average { size, source, sink, image, block });
}

struct Average<'a> {
    size: usize,
    source: &'a Source<'a>,
    sink: &'a Sink<'a>,
    image: usize,
    block: usize,
}

impl Kernel for Average<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Average { size, source, sink, image, block } = self;
        let (mut row, mut sums) = (RowBuffer::uninit(), RowBuffer::uninit());
        let (row, sums) = (pointer(&mut row), pointer(&mut sums));
        let share = s.splat(1.0 / (size * size) as f32);
        // SAFETY: both ends were checked, and rows are not wider than the buffers.
        unsafe {
            for y in 0..source.maps.height {
                source.row(s, image, block, y, row);
                let (out, inside) = (y / size, y % size);
                if out >= sink.maps.height {
                    continue;
                }
                for x in 0..sink.maps.width {
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
                    sink.row(s, image, block, out, sums);
                }
            }
        }
        s.fence();
    }
}

/// The gradient of [`average`]'s input.
pub fn average_backward(
    processor: &Processor,
    size: usize,
    gradient: &GradientSource,
    sink: &GradientSink,
) {
    gradient.check();
    sink.check();
    assert_eq!(gradient.maps, output(size, sink.maps), "the output has another shape");
    each_block(processor, sink.maps, |image, block| AverageBackward {
        size,
        gradient,
        sink,
        image,
        block,
    });
}

struct AverageBackward<'a> {
    size: usize,
    gradient: &'a GradientSource<'a>,
    sink: &'a GradientSink<'a>,
    image: usize,
    block: usize,
}

impl Kernel for AverageBackward<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let AverageBackward { size, gradient, sink, image, block } = self;
        let (mut row, mut spread) = (RowBuffer::uninit(), RowBuffer::uninit());
        let (row, spread) = (pointer(&mut row), pointer(&mut spread));
        let share = s.splat(1.0 / (size * size) as f32);
        // SAFETY: both ends were checked, and rows are not wider than the buffers.
        unsafe {
            for y in 0..sink.maps.height {
                let from = y / size;
                spread.write_bytes(0, sink.maps.row_len());
                if from < gradient.maps.height {
                    gradient.row(s, image, block, from, row);
                    for x in 0..gradient.maps.width {
                        let part = s.mul(share, s.load(row.add(x * LANES)));
                        for i in 0..size {
                            s.store(spread.add((x * size + i) * LANES), part);
                        }
                    }
                }
                sink.row(s, image, block, y, spread);
            }
        }
        s.fence();
    }
}

/// Writes maps down as they are read: for what no kernel can compute on its way.
pub fn write(processor: &Processor, source: &Source, sink: &Sink) {
    source.check();
    sink.check();
    assert_eq!(sink.maps, source.maps, "the output has another shape");
    each_block(processor, source.maps, |image, block| Write { source, sink, image, block });
}

struct Write<'a> {
    source: &'a Source<'a>,
    sink: &'a Sink<'a>,
    image: usize,
    block: usize,
}

impl Kernel for Write<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Write { source, sink, image, block } = self;
        let mut row = RowBuffer::uninit();
        let row = pointer(&mut row);
        // SAFETY: both ends were checked, and rows are not wider than the buffer.
        unsafe {
            for y in 0..source.maps.height {
                source.row(s, image, block, y, row);
                sink.row(s, image, block, y, row);
            }
        }
        s.fence();
    }
}

/// The gradient of [`write()`]'s input.
pub fn write_backward(processor: &Processor, gradient: &GradientSource, sink: &GradientSink) {
    gradient.check();
    sink.check();
    assert_eq!(gradient.maps, sink.maps, "the output has another shape");
    each_block(processor, sink.maps, |image, block| WriteBackward { gradient, sink, image, block });
}

struct WriteBackward<'a> {
    gradient: &'a GradientSource<'a>,
    sink: &'a GradientSink<'a>,
    image: usize,
    block: usize,
}

impl Kernel for WriteBackward<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let WriteBackward { gradient, sink, image, block } = self;
        let mut row = RowBuffer::uninit();
        let row = pointer(&mut row);
        // SAFETY: both ends were checked, and rows are not wider than the buffer.
        unsafe {
            for y in 0..sink.maps.height {
                gradient.row(s, image, block, y, row);
                sink.row(s, image, block, y, row);
            }
        }
        s.fence();
    }
}

/// From maps to vectors `[images, channels * height * width]`, channel by channel as PyTorch's
/// flatten.
pub fn flatten(processor: &Processor, source: &Source, vectors: &mut [f32]) {
    source.check();
    let maps = source.maps;
    let features = maps.channels * maps.pixels();
    assert_eq!(vectors.len(), maps.images * features, "the vectors have another length");
    let vectors = &Shared::new(vectors);
    each_block(processor, maps, |image, block| Flatten {
        source,
        image,
        block,
        // SAFETY: each block of each image has its own part.
        vector: unsafe {
            vectors.part(
                image * features + block * LANES * maps.pixels(),
                maps.lanes(block) * maps.pixels(),
            )
        },
    });
}

struct Flatten<'a> {
    source: &'a Source<'a>,
    image: usize,
    block: usize,
    vector: &'a mut [f32],
}

impl Kernel for Flatten<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Flatten { source, image, block, vector } = self;
        let maps = source.maps;
        let mut row = RowBuffer::uninit();
        let row = pointer(&mut row);
        for y in 0..maps.height {
            // SAFETY: the source was checked, and rows are not wider than the buffer.
            let row = unsafe {
                source.row(s, image, block, y, row);
                std::slice::from_raw_parts(row, maps.row_len())
            };
            for (lane, plane) in vector.chunks_exact_mut(maps.pixels()).enumerate() {
                for (x, value) in plane[y * maps.width..][..maps.width].iter_mut().enumerate() {
                    *value = row[x * LANES + lane];
                }
            }
        }
        s.fence();
    }
}

/// The gradient of [`flatten`]'s input.
pub fn flatten_backward(processor: &Processor, vectors: &[f32], sink: &GradientSink) {
    sink.check();
    let maps = sink.maps;
    let features = maps.channels * maps.pixels();
    assert_eq!(vectors.len(), maps.images * features, "the vectors have another length");
    each_block(processor, maps, |image, block| FlattenBackward {
        vector: &vectors[image * features + block * LANES * maps.pixels()..]
            [..maps.lanes(block) * maps.pixels()],
        sink,
        image,
        block,
    });
}

struct FlattenBackward<'a> {
    vector: &'a [f32],
    sink: &'a GradientSink<'a>,
    image: usize,
    block: usize,
}

impl Kernel for FlattenBackward<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let FlattenBackward { vector, sink, image, block } = self;
        let maps = sink.maps;
        let mut row = [0.0; MAX_WIDTH * LANES];
        for y in 0..maps.height {
            for (lane, plane) in vector.chunks_exact(maps.pixels()).enumerate() {
                for (x, &value) in plane[y * maps.width..][..maps.width].iter().enumerate() {
                    row[x * LANES + lane] = value;
                }
            }
            // SAFETY: the sink was checked, and rows are not wider than the buffer.
            unsafe { sink.row(s, image, block, y, row.as_mut_ptr()) };
        }
        s.fence();
    }
}
