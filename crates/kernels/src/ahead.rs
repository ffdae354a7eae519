//! Asking for memory before it is needed.
//!
//! A product works in the caches and leaves the way to memory idle; a transform waits for it. So the
//! product asks, line by line and evenly over its time, for what the next transforms will read.

use std::cell::Cell;

use crate::simd::Simd;

/// Bytes of a cache line.
const LINE: usize = 64;

/// Spans at once, at most.
const SPANS: usize = 8;

/// Fractions of a line that are counted.
const UNIT: usize = 256;

/// Memory: its first byte, and how many there are.
pub(crate) type Span = (*const u8, usize);

/// Memory to ask for, and how fast.
pub(crate) struct Ahead {
    spans: [Span; SPANS],
    next: Cell<usize>,
    at: Cell<*const u8>,
    end: Cell<*const u8>,
    /// Lines that are due, and that become due with each step, in units.
    credit: Cell<usize>,
    rate: usize,
}

impl Ahead {
    /// Asks for all of `spans` in about `steps` steps.
    pub fn new(spans: impl IntoIterator<Item = Span>, steps: usize) -> Self {
        let mut all = [(std::ptr::null(), 0); SPANS];
        let mut bytes = 0;
        for (slot, span) in all.iter_mut().zip(spans) {
            *slot = span;
            bytes += span.1;
        }
        Ahead {
            spans: all,
            next: Cell::new(0),
            at: Cell::new(std::ptr::null()),
            end: Cell::new(std::ptr::null()),
            credit: Cell::new(0),
            rate: bytes * UNIT / LINE / steps.max(1) + 1,
        }
    }

    /// Nothing to ask for.
    pub fn nothing() -> Self {
        Self::new([], 1)
    }

    /// Goes on to the next span when one is done: to be called now and then.
    #[inline(always)]
    pub fn turn(&self) {
        if self.at.get() >= self.end.get() && self.next.get() < SPANS {
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
