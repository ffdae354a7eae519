//! Between rows of maps and the transform domain: the four transforms of Winograd training.
//!
//! | kernel | from | to | matrix |
//! |---|---|---|---|
//! | [`Input`] | rows of the input | `V` | `B^T d B` |
//! | [`Output`] | `M` | rows of the output | `A^T M A` |
//! | [`OutputAdjoint`] | rows of the output's gradient | `dM` | `A dY A^T` |
//! | [`InputAdjoint`] | `dV` | rows of the input's gradient | `B dV B^T`, overlaps added |
//!
//! All four work on one row of tiles of one block at a time, first
//! along one axis, then along the other, with everything between in first-level cache: each pixel
//! is loaded, computed and stored once. Lines have a margin of zeros, so that padding and incomplete
//! tiles cost nothing.

// Indices of matrices, as in the formulas.
#![allow(clippy::needless_range_loop)]

use std::marker::PhantomData;
use std::ops::Range;

use super::Geometry;
use super::domain::{Domain, Operand, TileAt};
use super::tile::{Line, Tile};
use crate::epilogue::{Epilogue, GradientEpilogue};
use crate::prologue::{GradientPrologue, Prologue};
use crate::simd::{Kernel, LANES, Simd};

/// Most points of a line.
const POINTS: usize = 6;

/// Columns that a ring holds: a tile's and, of a power of two, no more.
const RING: usize = 8;

/// Rows of one row of tiles, with margins, in a worker's scratch memory.
#[derive(Clone, Copy)]
pub(super) struct Lines {
    start: *mut f32,
    /// Numbers from a line to the next.
    stride: usize,
    /// Numbers in a line.
    len: usize,
}

impl Lines {
    /// Numbers of scratch memory that the transforms need: six lines, a ring, and two lines a block.
    pub fn scratch(geometry: &Geometry) -> usize {
        let lines = POINTS + 2 * geometry.input.blocks();
        lines * (Self::len(geometry) + LANES) + POINTS * RING * LANES
    }

    /// Numbers in a row of tiles, with its margins.
    fn len(geometry: &Geometry) -> usize {
        (geometry.tiles_x * geometry.tile.outputs() + 2) * LANES
    }

    /// # Safety
    /// `scratch` has room for [`scratch`](Self::scratch) numbers.
    unsafe fn new(geometry: &Geometry, scratch: *mut f32) -> (Lines, *mut f32, Lines) {
        let len = Self::len(geometry);
        let stride = len + LANES;
        // SAFETY: the caller's promise.
        unsafe {
            let ring = scratch.add(POINTS * stride);
            let carried = ring.add(POINTS * RING * LANES);
            let lines = |start| Lines { start, stride, len };
            (lines(scratch), ring, lines(carried))
        }
    }

    /// # Safety
    /// Lines and pixels exist.
    #[inline(always)]
    unsafe fn at(self, line: usize, x: usize) -> *mut f32 {
        // SAFETY: the caller's promise.
        unsafe { self.start.add(line * self.stride + x * LANES) }
    }

    /// # Safety
    /// The line exists.
    #[inline(always)]
    unsafe fn clear(self, line: usize) {
        // SAFETY: the caller's promise.
        unsafe { self.at(line, 0).write_bytes(0, self.len) }
    }
}

/// Transforms rows of `image` into its tiles.
pub(super) struct Input<'a, T, D> {
    pub place: Place<'a, T, D>,
    pub prologue: &'a Prologue<'a>,
}

impl<T: Tile, D: Operand> Kernel for Input<'_, T, D> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Input { place, prologue } = self;
        let Place { geometry, image, domain, first, scratch, .. } = place;
        let Geometry { input, padding, tiles_x, .. } = *geometry;
        // SAFETY: the promise of `Place`; lines are chosen below `POINTS`, pixels below the line's end.
        unsafe {
            let (rows, ring, _) = Lines::new(geometry, scratch);
            for line in 0..T::POINTS {
                rows.clear(line);
            }
            for block in place.blocks.clone() {
                for tile_y in place.band.clone() {
                    // The first two rows are the last two of the row of tiles above.
                    let top = tile_y * T::OUTPUTS;
                    let fresh = if tile_y == place.band.start { 0 } else { T::POINTS - T::OUTPUTS };
                    for row in top + fresh..top + T::POINTS {
                        let line = row % T::POINTS;
                        match row.checked_sub(padding) {
                            Some(y) if y < input.height => {
                                prologue.row(s, image, block, y, rows.at(line, padding));
                            }
                            _ => rows.clear(line),
                        }
                    }
                    let mut from = [std::ptr::null(); POINTS];
                    for (k, from) in from.iter_mut().enumerate().take(T::POINTS) {
                        *from = rows.at((top + k) % T::POINTS, 0).cast_const();
                    }
                    let row = first + tile_y - place.band.start;
                    let mut held = [[s.zero(); 6]; POINTS];
                    for tile in 0..tiles_x {
                        // Down the columns that are new, into a ring of eight.
                        let left = tile * T::OUTPUTS;
                        let fresh = if tile == 0 { 0 } else { T::POINTS - T::OUTPUTS };
                        for x in left + fresh..left + T::POINTS {
                            let mut d = [s.zero(); 6];
                            for k in 0..T::POINTS {
                                d[k] = s.load(from[k].add(x * LANES));
                            }
                            let t = T::input(s, d);
                            let to = ring.add(x % RING * LANES);
                            for k in 0..T::POINTS {
                                s.store(to.add(k * RING * LANES), t[k]);
                            }
                        }
                        // Then along each line.
                        let mut column = [std::ptr::null(); POINTS];
                        for (l, column) in column.iter_mut().enumerate().take(T::POINTS) {
                            *column = ring.add((left + l) % RING * LANES).cast_const();
                        }
                        let at = TileAt { block, row, tile, tiles_x };
                        for k in 0..T::POINTS {
                            let mut d = [s.zero(); 6];
                            for l in 0..T::POINTS {
                                d[l] = s.load(column[l].add(k * RING * LANES));
                            }
                            domain.write::<S, T>(s, at, k, T::input(s, d), &mut held[k]);
                        }
                    }
                }
            }
        }
    }
}

/// Transforms the image's tiles of the domain into rows of the output.
pub(super) struct Output<'a, T> {
    pub place: Place<'a, T, Domain>,
    pub epilogue: &'a Epilogue<'a>,
}

impl<T: Tile> Kernel for Output<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Output { place, epilogue } = self;
        let Place { geometry, image, domain, first, scratch, .. } = place;
        let Geometry { output, tiles_x, .. } = *geometry;
        // SAFETY: as in `input`.
        unsafe {
            let (rows, ..) = Lines::new(geometry, scratch);
            for block in place.blocks.clone() {
                for tile_y in place.band.clone() {
                    let start = (first + tile_y - place.band.start) * tiles_x;
                    for tile in 0..tiles_x {
                        let mut columns = [[s.zero(); 6]; POINTS];
                        for (l, column) in columns.iter_mut().enumerate().take(T::POINTS) {
                            let mut t = [s.zero(); 6];
                            for k in 0..T::POINTS {
                                t[k] = s.load(domain.at(k * T::POINTS + l, block, start + tile));
                            }
                            *column = T::output(s, t);
                        }
                        for row in 0..T::OUTPUTS {
                            let y = T::output(s, across(s, &columns, row));
                            for column in 0..T::OUTPUTS {
                                s.store(rows.at(row, tile * T::OUTPUTS + column), y[column]);
                            }
                        }
                    }
                    let top = tile_y * T::OUTPUTS;
                    for row in 0..T::OUTPUTS.min(output.height - top) {
                        epilogue.row(s, image, block, top + row, rows.at(row, 0));
                    }
                }
            }
        }
    }
}

/// Transforms rows of the output's gradient into the image's tiles.
pub(super) struct OutputAdjoint<'a, T, D> {
    pub place: Place<'a, T, D>,
    pub prologue: &'a GradientPrologue<'a>,
}

impl<T: Tile, D: Operand> Kernel for OutputAdjoint<'_, T, D> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let OutputAdjoint { place, prologue } = self;
        let Place { geometry, image, domain, first, scratch, .. } = place;
        let Geometry { output, tiles_x, .. } = *geometry;
        // SAFETY: as in `input`.
        unsafe {
            let (rows, ..) = Lines::new(geometry, scratch);
            for row in 0..T::OUTPUTS {
                rows.clear(row);
            }
            for block in place.blocks.clone() {
                for tile_y in place.band.clone() {
                    let top = tile_y * T::OUTPUTS;
                    for row in 0..T::OUTPUTS {
                        if top + row < output.height {
                            prologue.row(s, image, block, top + row, rows.at(row, 0));
                        } else {
                            rows.clear(row);
                        }
                    }
                    let row = first + tile_y - place.band.start;
                    let mut held = [[s.zero(); 6]; POINTS];
                    for tile in 0..tiles_x {
                        let mut columns = [[s.zero(); 6]; POINTS];
                        for (c, column) in columns.iter_mut().enumerate().take(T::OUTPUTS) {
                            let mut y = [s.zero(); 6];
                            for row in 0..T::OUTPUTS {
                                y[row] = s.load(rows.at(row, tile * T::OUTPUTS + c));
                            }
                            *column = T::output_adjoint(s, y);
                        }
                        let at = TileAt { block, row, tile, tiles_x };
                        for k in 0..T::POINTS {
                            let t = T::output_adjoint(s, across(s, &columns, k));
                            domain.write::<S, T>(s, at, k, t, &mut held[k]);
                        }
                    }
                }
            }
        }
    }
}

/// Transforms the image's tiles into rows of the input's gradient. Neighbouring tiles overlap by two
/// pixels: along a row the overlap stays in registers, from row to row (and from band to band) in two
/// lines of scratch for each block.
pub(super) struct InputAdjoint<'a, T> {
    pub place: Place<'a, T, Domain>,
    pub epilogue: &'a GradientEpilogue<'a>,
}

impl<T: Tile> Kernel for InputAdjoint<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let InputAdjoint { place, epilogue } = self;
        let Place { geometry, image, domain, first, scratch, .. } = place;
        let Geometry { input, padding, tiles_y, tiles_x, .. } = *geometry;
        // SAFETY: as in `input`.
        unsafe {
            let (rows, _, carried) = Lines::new(geometry, scratch);
            for block in place.blocks.clone() {
                let carry = 2 * block;
                if place.band.start == 0 {
                    carried.clear(carry);
                    carried.clear(carry + 1);
                }
                for tile_y in place.band.clone() {
                    let start = (first + tile_y - place.band.start) * tiles_x;
                    let mut overlaps = [[s.zero(); 2]; POINTS];
                    for tile in 0..tiles_x {
                        let mut columns = [[s.zero(); 6]; POINTS];
                        let from = domain.at(0, block, start + tile);
                        for (l, column) in columns.iter_mut().enumerate().take(T::POINTS) {
                            let mut t = [s.zero(); 6];
                            for k in 0..T::POINTS {
                                t[k] =
                                    s.load(from.add((k * T::POINTS + l) * domain.element_stride));
                            }
                            *column = T::input_adjoint(s, t);
                        }
                        for (row, overlap) in overlaps.iter_mut().enumerate().take(T::POINTS) {
                            let mut d = T::input_adjoint(s, across(s, &columns, row));
                            d[0] = s.add(d[0], overlap[0]);
                            d[1] = s.add(d[1], overlap[1]);
                            *overlap = [d[T::OUTPUTS], d[T::OUTPUTS + 1]];
                            // The first rows take what the row of tiles above left for them.
                            let to = if row < T::OUTPUTS {
                                rows.at(row, tile * T::OUTPUTS)
                            } else {
                                carried.at(carry + row - T::OUTPUTS, tile * T::OUTPUTS)
                            };
                            let above = carried.at(carry + row.min(1), tile * T::OUTPUTS);
                            for l in 0..T::OUTPUTS {
                                if row < 2 {
                                    d[l] = s.add(d[l], s.load(above.add(l * LANES)));
                                }
                                s.store(to.add(l * LANES), d[l]);
                            }
                        }
                    }
                    for (row, overlap) in overlaps.iter().enumerate().take(T::POINTS) {
                        for (l, &last) in overlap.iter().enumerate() {
                            let x = tiles_x * T::OUTPUTS + l;
                            if row < 2 {
                                let above = s.load(carried.at(carry + row, x));
                                s.store(rows.at(row, x), s.add(last, above));
                            } else if row < T::OUTPUTS {
                                s.store(rows.at(row, x), last);
                            } else {
                                s.store(carried.at(carry + row - T::OUTPUTS, x), last);
                            }
                        }
                    }
                    for row in 0..T::OUTPUTS {
                        let y = (tile_y * T::OUTPUTS + row).wrapping_sub(padding);
                        if y < input.height {
                            epilogue.row(s, image, block, y, rows.at(row, padding));
                        }
                    }
                }
                if place.band.end == tiles_y {
                    for row in 0..2 {
                        let y = (tiles_y * T::OUTPUTS + row).wrapping_sub(padding);
                        if y < input.height {
                            epilogue.row(s, image, block, y, carried.at(carry + row, padding));
                        }
                    }
                }
            }
        }
    }
}

/// Where the tiles of some blocks of an image, or of a band of it, are. Whoever makes one promises that the prologue or
/// the epilogue has passed its check and has the geometry's shape; that the domain has room for all blocks of the tiles,
/// and no other thread is at them; and that `scratch` is this worker's and has
/// room for [`Lines::scratch`].
pub(super) struct Place<'a, T, D> {
    pub geometry: &'a Geometry,
    pub image: usize,
    pub blocks: Range<usize>,
    /// Which rows of tiles.
    pub band: Range<usize>,
    pub domain: D,
    /// The row of tiles of the domain that is the first of these.
    pub first: usize,
    pub scratch: *mut f32,
    pub tile: PhantomData<T>,
}

/// Line `i` across the columns.
#[inline(always)]
fn across<S: Simd>(s: S, columns: &[Line<S::V>; POINTS], i: usize) -> Line<S::V> {
    let mut line = [s.zero(); 6];
    for (line, column) in line.iter_mut().zip(columns) {
        *line = column[i];
    }
    line
}
