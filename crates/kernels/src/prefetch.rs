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
    at: Cell<*const u8>,
    end: Cell<*const u8>,
    /// Lines for each step: always as many, so that the branches are predicted.
    lines: usize,
    /// The same for what is needed soonest: position, end, and lines for each step.
    near: Cell<(*const u8, *const u8, usize)>,
}

impl Prefetch {
    /// Nothing to be prefetched.
    pub fn nothing() -> Self {
        Prefetch {
            spans: [(std::ptr::null(), 0); SPANS],
            count: 0,
            next: Cell::new(0),
            at: Cell::new(std::ptr::null()),
            end: Cell::new(std::ptr::null()),
            lines: 0,
            near: Cell::new((std::ptr::null(), std::ptr::null(), 0)),
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
    pub fn over(mut self, steps: usize) -> Self {
        let bytes: usize = self.spans[..self.count].iter().map(|span| span.1).sum();
        self.lines = bytes.div_ceil(LINE * steps.max(1));
        self
    }

    /// From now on also prefetches the `count` numbers at `start`, in about so many steps. The memory may
    /// be anywhere: nothing is read.
    #[inline(always)]
    pub fn near(&self, start: *const f32, count: usize, steps: usize) {
        let bytes = count * size_of::<f32>();
        let start = start.cast::<u8>();
        let lines = bytes.div_ceil(LINE * steps.max(1));
        self.near.set((start, start.wrapping_add(bytes), lines));
    }

    /// Moves on to the next span when one is done: to be called once for each register tile.
    #[inline(always)]
    pub fn turn(&self) {
        if self.at.get() >= self.end.get() && self.next.get() < self.count {
            let (start, bytes) = self.spans[self.next.get()];
            self.next.set(self.next.get() + 1);
            self.at.set(start);
            self.end.set(start.wrapping_add(bytes));
        }
    }

    /// Prefetches the next lines; at the end of a span its last one, again.
    #[inline(always)]
    pub fn step<S: Simd>(&self, s: S) {
        let (mut at, end) = (self.at.get(), self.end.get());
        for _ in 0..self.lines {
            s.prefetch(at.cast());
            at = at.wrapping_add(LINE).min(end);
        }
        self.at.set(at);
        let (mut at, end, lines) = self.near.get();
        for _ in 0..lines {
            s.prefetch(at.cast());
            at = at.wrapping_add(LINE).min(end);
        }
        self.near.set((at, end, lines));
    }
}
