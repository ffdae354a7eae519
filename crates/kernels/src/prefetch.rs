//! Prefetching memory before it is needed.
//!
//! A GEMM works in the caches and leaves the memory bus idle, while a transform waits for it. So the GEMM
//! prefetches, line by line and evenly over its time, what the next transforms will read.

use std::cell::Cell;
use std::ops::Range;

use crate::MapShape;
use crate::simd::Simd;

/// Bytes of a cache line.
const LINE: usize = 64;

/// Spans at once, at most; more are left alone.
const SPANS: usize = 32;

/// Which rows of which images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MapRows {
    pub images: Range<usize>,
    pub rows: Range<usize>,
}

/// Memory to be prefetched, and how fast.
pub(crate) struct Prefetch {
    /// The first byte, and how many there are.
    spans: [(*const u8, usize); SPANS],
    count: usize,
    next: Cell<usize>,
    lines: Cell<Lines>,
    /// What is needed soonest.
    near: Cell<Lines>,
}

/// Lines one after another, some in each step.
#[derive(Clone, Copy)]
struct Lines {
    at: *const u8,
    end: *const u8,
    /// As many in each step, so that the branches are predicted.
    each: usize,
}

impl Lines {
    const NONE: Lines = Lines { at: std::ptr::null(), end: std::ptr::null(), each: 0 };

    /// Prefetches those of so many steps; the last may lead past the end.
    #[inline(always)]
    fn steps<S: Simd>(&mut self, s: S, count: usize) {
        if self.at < self.end {
            for _ in 0..count * self.each {
                s.prefetch_l2(self.at.cast());
                self.at = self.at.wrapping_add(LINE);
            }
        }
    }
}

/// Where a [`Prefetch`] is, in registers.
pub(crate) struct Cursor<'a> {
    prefetch: &'a Prefetch,
    lines: Lines,
    near: Lines,
}

impl Cursor<'_> {
    /// Moves on to the next span when one is done: to be called once for each register tile.
    #[inline(always)]
    pub fn turn(&mut self) {
        let Prefetch { spans, count, next, .. } = self.prefetch;
        if self.lines.at >= self.lines.end && next.get() < *count {
            let (start, bytes) = spans[next.get()];
            next.set(next.get() + 1);
            self.lines.at = start;
            self.lines.end = start.wrapping_add(bytes);
        }
    }

    /// Prefetches the lines of so many steps.
    #[inline(always)]
    pub fn steps<S: Simd>(&mut self, s: S, count: usize) {
        self.lines.steps(s, count);
        self.near.steps(s, count);
    }

    /// What comes next goes on from here.
    #[inline(always)]
    pub fn done(self) {
        self.prefetch.lines.set(self.lines);
        self.prefetch.near.set(self.near);
    }
}

impl Prefetch {
    /// Nothing to be prefetched.
    pub fn nothing() -> Self {
        Prefetch {
            spans: [(std::ptr::null(), 0); SPANS],
            count: 0,
            next: Cell::new(0),
            lines: Cell::new(Lines::NONE),
            near: Cell::new(Lines::NONE),
        }
    }

    /// Adds rows of maps.
    pub fn add<T>(&mut self, numbers: &[T], shape: MapShape, rows: &MapRows) {
        let MapRows { images, rows } = rows;
        let row = shape.row_len();
        if rows.len() == shape.height {
            let len = shape.image_len();
            self.add_all(&numbers[images.start * len..images.end * len]);
            return;
        }
        for image in images.clone() {
            for block in 0..shape.blocks() {
                let first = (image * shape.blocks() + block) * shape.height;
                self.add_all(&numbers[(first + rows.start) * row..(first + rows.end) * row]);
            }
        }
    }

    fn add_all<T>(&mut self, numbers: &[T]) {
        if self.count < SPANS {
            self.spans[self.count] = (numbers.as_ptr().cast(), size_of_val(numbers));
            self.count += 1;
        }
    }

    /// Spreads all that was added over about so many steps.
    pub fn over(self, steps: usize) -> Self {
        let bytes: usize = self.spans[..self.count].iter().map(|span| span.1).sum();
        self.lines.set(Lines { each: bytes.div_ceil(LINE * steps.max(1)), ..Lines::NONE });
        self
    }

    /// From now on also prefetches the `count` numbers at `start`, in about so many steps. The memory may
    /// be anywhere: nothing is read.
    #[inline(always)]
    pub fn near(&self, start: *const f32, count: usize, steps: usize) {
        let bytes = count * size_of::<f32>();
        let at = start.cast::<u8>();
        let each = bytes.div_ceil(LINE * steps.max(1));
        self.near.set(Lines { at, end: at.wrapping_add(bytes), each });
    }

    /// To go on from where it is.
    #[inline(always)]
    pub fn cursor(&self) -> Cursor<'_> {
        Cursor { prefetch: self, lines: self.lines.get(), near: self.near.get() }
    }
}
