//! Asking for memory before it is needed.
//!
//! A product works in the caches and leaves the way to memory idle; a transform waits for it. So the
//! product asks, line by line and evenly over its time, for what the next transforms will read.

use std::cell::Cell;
use std::ops::Range;

use crate::Maps;
use crate::simd::Simd;

/// Bytes of a cache line.
const LINE: usize = 64;

/// Spans at once, at most; more are left alone.
const SPANS: usize = 32;

/// Fractions of a line that are counted.
const UNIT: usize = 256;

/// Which rows of which images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rows {
    pub images: Range<usize>,
    pub rows: Range<usize>,
}

/// Memory to ask for, and how fast.
pub(crate) struct Ahead {
    /// The first byte, and how many there are.
    spans: [(*const u8, usize); SPANS],
    count: usize,
    next: Cell<usize>,
    at: Cell<*const u8>,
    end: Cell<*const u8>,
    /// Lines that are due, and that become due with each step, in units.
    credit: Cell<usize>,
    rate: usize,
}

impl Ahead {
    /// Nothing to ask for.
    pub fn nothing() -> Self {
        Ahead {
            spans: [(std::ptr::null(), 0); SPANS],
            count: 0,
            next: Cell::new(0),
            at: Cell::new(std::ptr::null()),
            end: Cell::new(std::ptr::null()),
            credit: Cell::new(0),
            rate: 0,
        }
    }

    /// Adds rows of maps.
    pub fn add<T>(&mut self, numbers: &[T], maps: Maps, rows: &Rows) {
        let Rows { images, rows } = rows;
        let row = maps.row_len();
        if rows.len() == maps.height {
            let len = maps.image_len();
            self.add_all(&numbers[images.start * len..images.end * len]);
            return;
        }
        for image in images.clone() {
            for block in 0..maps.blocks() {
                let first = (image * maps.blocks() + block) * maps.height;
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

    /// Asks for all that was added in about so many steps.
    pub fn over(mut self, steps: usize) -> Self {
        let bytes: usize = self.spans[..self.count].iter().map(|span| span.1).sum();
        self.rate = bytes * UNIT / LINE / steps.max(1) + 1;
        self
    }

    /// Goes on to the next span when one is done: to be called now and then.
    #[inline(always)]
    pub fn turn(&self) {
        if self.at.get() >= self.end.get() && self.next.get() < self.count {
            let (start, bytes) = self.spans[self.next.get()];
            self.next.set(self.next.get() + 1);
            self.at.set(start);
            self.end.set(start.wrapping_add(bytes));
        }
    }

    /// Asks for the lines that are due.
    #[inline(always)]
    pub fn step<S: Simd>(&self, s: S) {
        let credit = self.credit.get() + self.rate;
        let (mut at, end) = (self.at.get(), self.end.get());
        for _ in 0..credit / UNIT {
            if at < end {
                s.prefetch(at.cast());
                at = at.wrapping_add(LINE);
            }
        }
        self.credit.set(credit % UNIT);
        self.at.set(at);
    }
}
