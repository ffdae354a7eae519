//! Weights to the transform domain, packed, and their gradients back.
//!
//! Packed weights are `[element][panel]`: for each element of a tile, panels of up to 64
//! columns, packed as [`crate::micro_kernel::PanelGemm`] reads them, in bfloat16 pairs of `k`. Forward,
//! `k` is an input channel and a column an output channel; on the way back it is the reverse. Gradients in the domain
//! are `[element][input channel][output channel]`, output channels padded to whole blocks.

// Indices of matrices, as in the formulas.
#![allow(clippy::needless_range_loop)]

use std::marker::PhantomData;
use std::ops::Range;

use super::odd_cache_lines;
use super::tile::{F4, Line, Tile};
use crate::disjoint_slice::DisjointSlice;
use crate::leaves::{self, GroupSlices, Leaf};
use crate::micro_kernel::{F32, PANEL, Packing, Precision};
use crate::simd::{Kernel, LANES, Simd};

/// Which pass the weights are packed for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Forward,
    Backward,
}

/// The weights of a convolution, `[outputs, inputs, 3, 3]`, and how they are to be packed.
#[derive(Clone, Copy)]
pub(super) struct Weights<'a> {
    pub weight: &'a [f32],
    pub inputs: usize,
    pub outputs: usize,
    /// A factor for each output channel: a BatchNorm folded in.
    pub scale: Option<&'a [f32]>,
    pub direction: Direction,
}

impl Weights<'_> {
    /// Channels that are summed over, and those that come out.
    fn sides(&self) -> (usize, usize) {
        match self.direction {
            Direction::Forward => (self.inputs, self.outputs),
            Direction::Backward => (self.outputs, self.inputs),
        }
    }

    /// Words from the matrix of an element to the next.
    pub fn element_stride<P: Precision>(&self) -> usize {
        let (k, columns) = self.sides();
        packed_stride::<P>(k, columns)
    }
}

/// Words of one element of packed weights, from its matrix to the next.
pub(super) fn packed_stride<P: Precision>(k: usize, columns: usize) -> usize {
    odd_cache_lines(k / P::K * columns.next_multiple_of(LANES))
}

/// Transforms and packs the weights of a range of words, each one or two `k`.
pub(super) struct Transform<'a, 'b, T> {
    pub weights: Weights<'a>,
    pub words: Range<usize>,
    /// `[element][panel]`; tasks write different words.
    pub out: &'b DisjointSlice<'b, f32>,
    pub tile: PhantomData<T>,
}

impl<T: Tile> Kernel for Transform<'_, '_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Weights { weight, inputs, outputs, .. } = self.weights;
        let (depth, columns) = self.weights.sides();
        assert_eq!(weight.len(), inputs * outputs * 9, "wrong number of weights");
        let (stride, depth) =
            (self.weights.element_stride::<T::Precision>(), depth / T::Precision::K);
        assert!(T::ELEMENTS * stride <= self.out.len() && self.words.end <= depth);
        for panel in (0..columns).step_by(PANEL) {
            let vectors = (columns - panel).min(PANEL).div_ceil(LANES);
            let packing = Packing::new::<S>(vectors, depth);
            // In the order in which they lie in the memory.
            for (tile, _) in packing.tiles() {
                for word in self.words.clone() {
                    for first in tile.clone().step_by(LANES) {
                        let at = panel * depth + packing.at(word, first / LANES);
                        // SAFETY: the length of the matrices was checked above, and only this task writes these words.
                        unsafe {
                            self.word(s, word, panel + first, self.out.as_mut_ptr().add(at), stride)
                        }
                    }
                }
            }
        }
    }
}

impl<T: Tile> Transform<'_, '_, T> {
    /// Transforms the filters of a word and sixteen columns from `first` on, and writes the elements to `out`, `stride`
    /// words from one to the next.
    ///
    /// # Safety
    /// They may be written there.
    #[inline(always)]
    unsafe fn word<S: Simd>(&self, s: S, word: usize, first: usize, out: *mut f32, stride: usize) {
        let first_k = T::Precision::K * word;
        let even = filter_columns::<S, T>(s, &self.taps(first_k, first));
        let odd = match T::Precision::K {
            1 => even,
            _ => filter_columns::<S, T>(s, &self.taps(first_k + 1, first)),
        };
        for i in 0..T::POINTS {
            let even = T::filter(s, [even[0][i], even[1][i], even[2][i]]);
            let odd = T::filter(s, [odd[0][i], odd[1][i], odd[2][i]]);
            for (j, (&even, &odd)) in even.iter().zip(&odd).enumerate().take(T::POINTS) {
                let words = T::Precision::words(s, [even, odd]);
                // SAFETY: the caller's promise.
                unsafe { s.store(out.add((i * T::POINTS + j) * stride), words) };
            }
        }
    }

    /// The filters of this `k` and sixteen columns from `first` on, side by side, tap by tap.
    #[inline(always)]
    fn taps(&self, k: usize, first: usize) -> [[f32; LANES]; 9] {
        let Weights { weight, inputs, scale, direction, .. } = self.weights;
        let (_, columns) = self.weights.sides();
        let mut taps = [[0.0; LANES]; 9];
        for lane in 0..LANES.min(columns - first) {
            let (input, output) = match direction {
                Direction::Forward => (k, first + lane),
                Direction::Backward => (first + lane, k),
            };
            let factor = scale.map_or(1.0, |scale| scale[output]);
            let filter = &weight[(output * inputs + input) * 9..][..9];
            for (tap, &value) in taps.iter_mut().zip(filter) {
                tap[lane] = value * factor;
            }
        }
        taps
    }
}

/// Transforms sixteen filters down their columns.
#[inline(always)]
fn filter_columns<S: Simd, T: Tile>(s: S, taps: &[[f32; LANES]; 9]) -> [Line<S::V>; 3] {
    let mut lines = [[s.zero(); 6]; 3];
    for (column, line) in lines.iter_mut().enumerate() {
        let mut g = [s.zero(); 3];
        for (row, g) in g.iter_mut().enumerate() {
            // SAFETY: arrays of sixteen numbers.
            *g = unsafe { s.load(taps[3 * row + column].as_ptr()) };
        }
        *line = T::filter(s, g);
    }
    lines
}

/// Elements of the largest tiles.
const MOST_ELEMENTS: usize = F4::<F32>::ELEMENTS;

/// Numbers from what [`Gather`] reads of an element to what it prefetches: processors do not find out by themselves that
/// they will read so many matrices at once.
const AHEAD: usize = 4 * LANES;

/// Adds up gradients in the domain, the parts of a leaf, and transforms the sum back, for the input channels in a range.
pub(super) struct Gather<'a, T> {
    /// Parts of `[element][input channel][output channel]`, one after another.
    pub parts: &'a [f32],
    /// The channels that they have: of the input, and of the output with padding.
    pub inputs: Range<usize>,
    pub columns: Range<usize>,
    pub range: Range<usize>,
    /// The leaf's gradient, `[input channel][block of output channels][tap][16]`, with the output's channels in all; tasks
    /// write different channels.
    pub taps: *mut f32,
    pub outputs: usize,
    pub tile: PhantomData<T>,
}

/// Numbers of a leaf's gradient: see [`Gather`].
pub(super) fn taps_len(inputs: usize, outputs: usize) -> usize {
    9 * inputs * outputs.next_multiple_of(LANES)
}

/// Numbers of one element of gradients in the domain, of so many channels.
pub(super) fn gradient_stride(inputs: usize, columns: usize) -> usize {
    odd_cache_lines(inputs * columns)
}

impl<T: Tile> Kernel for Gather<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Gather { parts, inputs, columns, taps, outputs, .. } = self;
        let outputs = outputs.next_multiple_of(LANES);
        let stride = gradient_stride(inputs.len(), columns.len());
        let count = parts.len() / (T::ELEMENTS * stride);
        assert!(count > 0 && parts.len() == count * T::ELEMENTS * stride);
        assert!(self.range.start >= inputs.start && self.range.end <= inputs.end);
        for input in self.range {
            for column in columns.clone().step_by(LANES) {
                let of_part = (input - inputs.start) * columns.len() + column - columns.start;
                // SAFETY: within the parts, whose length was checked, and the leaf's gradient.
                unsafe {
                    let mut lines: [[S::V; 6]; 3] = [[s.zero(); 6]; 3];
                    let mut sums = [s.zero(); MOST_ELEMENTS];
                    let mut from = parts.as_ptr().add(of_part);
                    // Parts follow one another, so the last element's successor is the next part's first.
                    for part in 0..count {
                        for sum in sums.iter_mut().take(T::ELEMENTS) {
                            s.prefetch_l1(from.wrapping_add(AHEAD));
                            let value = s.load(from);
                            *sum = if part == 0 { value } else { s.add(*sum, value) };
                            from = from.wrapping_add(stride);
                        }
                    }
                    for j in 0..T::POINTS {
                        let mut u: Line<S::V> = [s.zero(); 6];
                        for (i, u) in u.iter_mut().enumerate().take(T::POINTS) {
                            *u = sums[i * T::POINTS + j];
                        }
                        let column = T::filter_adjoint(s, u);
                        for (line, &value) in lines.iter_mut().zip(&column) {
                            line[j] = value;
                        }
                    }
                    let taps = taps.add(9 * (input * outputs + column));
                    for (row, &line) in lines.iter().enumerate() {
                        let g = T::filter_adjoint(s, line);
                        for (column, &g) in g.iter().enumerate() {
                            s.store(taps.add((3 * row + column) * LANES), g);
                        }
                    }
                }
            }
        }
    }
}

/// Adds the gradients of leaves, as [`Gather`] has them, to those of the weights, for the input channels in a range.
pub(super) struct Deliver<'a> {
    /// One leaf after another.
    pub taps: &'a [f32],
    pub leaves: &'a [Leaf],
    pub inputs: usize,
    pub outputs: usize,
    pub range: Range<usize>,
    /// `[outputs, inputs, 3, 3]` each; tasks write different input channels.
    pub dweight: &'a GroupSlices<'a>,
}

impl Kernel for Deliver<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Deliver { taps, leaves, inputs, outputs, dweight, .. } = self;
        let (columns, len) = (outputs.next_multiple_of(LANES), taps_len(inputs, outputs));
        assert!(taps.len() >= leaves.len() * len && self.range.end <= inputs);
        for input in self.range {
            for first in (0..outputs).step_by(LANES) {
                let at = 9 * (input * columns + first);
                let mut waiting = [[s.zero(); 9]; leaves::DEPTH];
                let mut count = 0;
                for (index, leaf) in leaves.iter().enumerate() {
                    for (tap, sum) in waiting[count].iter_mut().enumerate() {
                        // SAFETY: the length of the gradients was checked.
                        *sum = unsafe { s.load(taps.as_ptr().add(index * len + at + tap * LANES)) };
                    }
                    count += 1;
                    for _ in 0..leaf.joins() {
                        count -= 1;
                        let (sums, last) = waiting.split_at_mut(count);
                        for (sum, &last) in sums[count - 1].iter_mut().zip(&last[0]) {
                            *sum = s.add(*sum, last);
                        }
                    }
                    if leaves.get(index + 1).is_some_and(|next| next.group() == leaf.group()) {
                        continue;
                    }
                    count = 0;
                    let mut taps = [[0.0; LANES]; 9];
                    for (tap, &sum) in taps.iter_mut().zip(&waiting[0]) {
                        // SAFETY: arrays of sixteen numbers.
                        unsafe { s.store(tap.as_mut_ptr(), sum) };
                    }
                    for lane in 0..LANES.min(outputs - first) {
                        let at = ((first + lane) * inputs + input) * 9;
                        // SAFETY: only this task is at this input channel's filters.
                        let filter = unsafe { dweight.part(leaf.group(), at, 9) };
                        for (gradient, tap) in filter.iter_mut().zip(&taps) {
                            *gradient += tap[lane];
                        }
                    }
                }
            }
        }
    }
}
