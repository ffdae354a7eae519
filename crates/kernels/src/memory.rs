//! Memory that begins at a cache line.

/// One cache line of numbers.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; 16]);

/// Zeros to begin with, aligned to 64 bytes, never resized.
#[derive(Default)]
pub struct Buffer {
    lines: Vec<Line>,
    len: usize,
}

impl Buffer {
    /// `len` zeros.
    pub fn new(len: usize) -> Self {
        Buffer { lines: vec![Line([0.0; 16]); len.div_ceil(16)], len }
    }

    /// Its numbers.
    pub fn as_slice(&self) -> &[f32] {
        // SAFETY: the lines hold at least `len` numbers one after another, and are borrowed.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len) }
    }

    /// Its numbers.
    pub fn as_mut_slice(&mut self) -> &mut [f32] {
        // SAFETY: as in `as_slice`, and borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.len) }
    }

    /// The same memory as upper halves of numbers: twice as many.
    pub fn as_halves(&self) -> &[u16] {
        // SAFETY: any two bytes of initialised memory are a `u16`, and the alignment is larger.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), 2 * self.len) }
    }

    /// The same memory as upper halves of numbers: twice as many.
    pub fn as_mut_halves(&mut self) -> &mut [u16] {
        // SAFETY: as in `as_halves`; any `u16`s are bytes of some `f32`; borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), 2 * self.len) }
    }
}
