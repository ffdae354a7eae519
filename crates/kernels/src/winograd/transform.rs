//! Between rows of maps and the transform domain: the four transforms of Winograd training.
//!
//! | kernel | from | to | matrix |
//! |---|---|---|---|
//! | [`Input`] | rows of the input | `V` | `B^T d B` |
//! | [`Output`] | `M` | rows of the output | `A^T M A` |
//! | [`OutputAdjoint`] | rows of the output's gradient | `dM` | `A dY A^T` |
//! | [`InputAdjoint`] | `dV` | rows of the input's gradient | `B dV B^T`, overlaps added |
//!
//! A domain is `[product][block][tile][16]`: for each product of a tile, a matrix with a row a tile,
//! as the register tiles read it. All four work on one row of tiles of one block at a time, first
//! along one axis, then along the other, with everything between in first-level cache: each pixel
//! is loaded, computed and stored once. Lines have a margin of zeros, so that padding and incomplete
//! tiles cost nothing.

use super::tile::{Line, Tile};
use super::{Domain, Geometry};
use crate::simd::{Kernel, LANES, Simd};
use crate::sink::{GradientSink, Sink};
use crate::source::{GradientSource, Source};

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
    /// Numbers of scratch memory that the transforms need: two sets of six lines, and two more.
    pub fn scratch(geometry: &Geometry) -> usize {
        (2 * POINTS + 2) * (Self::len(geometry) + LANES) + POINTS * RING * LANES
    }

    /// Numbers in a row of tiles, with its margins.
    fn len(geometry: &Geometry) -> usize {
        (geometry.tiles_x * geometry.tile.outputs() + 2) * LANES
    }

    /// # Safety
    /// `scratch` has room for [`scratch`](Self::scratch) numbers.
    unsafe fn new(geometry: &Geometry, scratch: *mut f32) -> (Lines, Lines, Lines) {
        let len = Self::len(geometry);
        let stride = len + LANES;
        // SAFETY: the caller's promise.
        unsafe {
            let (lines, carried) = (scratch.add(POINTS * stride), scratch.add(2 * POINTS * stride));
            (
                Lines { start: scratch, stride, len },
                Lines { start: lines, stride, len },
                Lines { start: carried, stride, len },
            )
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

/// Transforms rows of `image` into its tiles, which begin at tile `first` of the domain.
pub(super) struct Input<'a, T> {
    pub place: Place<'a, T>,
    pub source: &'a Source<'a>,
}

impl<T: Tile> Kernel for Input<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Input { place: Place { geometry, image, domain, first, scratch, .. }, source } = self;
        let Geometry { input, padding, tiles_y, tiles_x, .. } = *geometry;
        // SAFETY: the promise of `Place`; lines are chosen below `POINTS`, pixels below the line's end.
        unsafe {
            let (rows, lines, _) = Lines::new(geometry, scratch);
            let ring = lines.at(0, 0);
            for line in 0..T::POINTS {
                rows.clear(line);
            }
            for block in 0..input.blocks() {
                for tile_y in 0..tiles_y {
                    // The first two rows are the last two of the row of tiles above.
                    let top = tile_y * T::OUTPUTS;
                    let fresh = if tile_y == 0 { 0 } else { T::POINTS - T::OUTPUTS };
                    for row in top + fresh..top + T::POINTS {
                        let line = row % T::POINTS;
                        match row.checked_sub(padding) {
                            Some(y) if y < input.height => {
                                source.row(s, image, block, y, rows.at(line, padding));
                            }
                            _ => rows.clear(line),
                        }
                    }
                    let mut from = [std::ptr::null(); POINTS];
                    for (k, from) in from.iter_mut().enumerate().take(T::POINTS) {
                        *from = rows.at((top + k) % T::POINTS, 0).cast_const();
                    }
                    let start = first + tile_y * tiles_x;
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
                        let mut to = domain.at(0, block, start + tile);
                        for k in 0..T::POINTS {
                            let mut d = [s.zero(); 6];
                            for l in 0..T::POINTS {
                                d[l] = s.load(column[l].add(k * RING * LANES));
                            }
                            let t = T::input(s, d);
                            for l in 0..T::POINTS {
                                s.store(to, t[l]);
                                to = to.wrapping_add(domain.product);
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Transforms the image's tiles of the domain into rows of the output.
pub(super) struct Output<'a, T> {
    pub place: Place<'a, T>,
    pub sink: &'a Sink<'a>,
}

impl<T: Tile> Kernel for Output<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Output { place: Place { geometry, image, domain, first, scratch, .. }, sink } = self;
        let Geometry { output, tiles_y, tiles_x, .. } = *geometry;
        // SAFETY: as in `input`.
        unsafe {
            let (rows, ..) = Lines::new(geometry, scratch);
            for block in 0..output.blocks() {
                for tile_y in 0..tiles_y {
                    let start = first + tile_y * tiles_x;
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
                        sink.row(s, image, block, top + row, rows.at(row, 0));
                    }
                }
            }
        }
    }
}

/// Transforms rows of the output's gradient into the image's tiles.
pub(super) struct OutputAdjoint<'a, T> {
    pub place: Place<'a, T>,
    pub source: &'a GradientSource<'a>,
}

impl<T: Tile> Kernel for OutputAdjoint<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let OutputAdjoint { place: Place { geometry, image, domain, first, scratch, .. }, source } =
            self;
        let Geometry { output, tiles_y, tiles_x, .. } = *geometry;
        // SAFETY: as in `input`.
        unsafe {
            let (rows, ..) = Lines::new(geometry, scratch);
            for row in 0..T::OUTPUTS {
                rows.clear(row);
            }
            for block in 0..output.blocks() {
                for tile_y in 0..tiles_y {
                    let top = tile_y * T::OUTPUTS;
                    for row in 0..T::OUTPUTS {
                        if top + row < output.height {
                            source.row(s, image, block, top + row, rows.at(row, 0));
                        } else {
                            rows.clear(row);
                        }
                    }
                    let start = first + tile_y * tiles_x;
                    for tile in 0..tiles_x {
                        let mut columns = [[s.zero(); 6]; POINTS];
                        for (c, column) in columns.iter_mut().enumerate().take(T::OUTPUTS) {
                            let mut y = [s.zero(); 6];
                            for row in 0..T::OUTPUTS {
                                y[row] = s.load(rows.at(row, tile * T::OUTPUTS + c));
                            }
                            *column = T::output_adjoint(s, y);
                        }
                        for k in 0..T::POINTS {
                            let t = T::output_adjoint(s, across(s, &columns, k));
                            for l in 0..T::POINTS {
                                s.store(domain.at(k * T::POINTS + l, block, start + tile), t[l]);
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Transforms the image's tiles into rows of the input's gradient. Neighbouring tiles overlap by two
/// pixels: along a row the overlap stays in registers, from row to row in two lines of scratch.
pub(super) struct InputAdjoint<'a, T> {
    pub place: Place<'a, T>,
    pub sink: &'a GradientSink<'a>,
}

impl<T: Tile> Kernel for InputAdjoint<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let InputAdjoint { place: Place { geometry, image, domain, first, scratch, .. }, sink } =
            self;
        let Geometry { input, padding, tiles_y, tiles_x, .. } = *geometry;
        // SAFETY: as in `input`.
        unsafe {
            let (rows, lines, carried) = Lines::new(geometry, scratch);
            let width = tiles_x * T::OUTPUTS + 2;
            let deliver = |block: usize, row: usize, line: *mut f32| {
                if let Some(y) = row.checked_sub(padding).filter(|&y| y < input.height) {
                    sink.row(s, image, block, y, line);
                }
            };
            for block in 0..input.blocks() {
                carried.clear(0);
                carried.clear(1);
                for tile_y in 0..tiles_y {
                    let start = first + tile_y * tiles_x;
                    for k in 0..T::POINTS {
                        let mut overlap = [s.zero(); 2];
                        for tile in 0..tiles_x {
                            let mut t = [s.zero(); 6];
                            for l in 0..T::POINTS {
                                t[l] = s.load(domain.at(k * T::POINTS + l, block, start + tile));
                            }
                            let mut d = T::input_adjoint(s, t);
                            d[0] = s.add(d[0], overlap[0]);
                            d[1] = s.add(d[1], overlap[1]);
                            for l in 0..T::OUTPUTS {
                                s.store(lines.at(k, tile * T::OUTPUTS + l), d[l]);
                            }
                            overlap = [d[T::OUTPUTS], d[T::OUTPUTS + 1]];
                        }
                        s.store(lines.at(k, width - 2), overlap[0]);
                        s.store(lines.at(k, width - 1), overlap[1]);
                    }
                    for x in 0..width {
                        let mut t = [s.zero(); 6];
                        for k in 0..T::POINTS {
                            t[k] = s.load(lines.at(k, x));
                        }
                        let mut d = T::input_adjoint(s, t);
                        d[0] = s.add(d[0], s.load(carried.at(0, x)));
                        d[1] = s.add(d[1], s.load(carried.at(1, x)));
                        for row in 0..T::OUTPUTS {
                            s.store(rows.at(row, x), d[row]);
                        }
                        s.store(carried.at(0, x), d[T::OUTPUTS]);
                        s.store(carried.at(1, x), d[T::OUTPUTS + 1]);
                    }
                    for row in 0..T::OUTPUTS {
                        deliver(block, tile_y * T::OUTPUTS + row, rows.at(row, padding));
                    }
                }
                for row in 0..2 {
                    deliver(block, tiles_y * T::OUTPUTS + row, carried.at(row, padding));
                }
            }
        }
    }
}

/// Where an image's tiles are. Whoever makes one promises that the source or the sink has passed its
/// check and has the geometry's shape; that the domain has room for all blocks of the image's tiles,
/// which begin at `first`, and no other thread is at them; and that `scratch` is this worker's and has
/// room for [`Lines::scratch`].
#[derive(Clone, Copy)]
pub(super) struct Place<'a, T> {
    pub geometry: &'a Geometry,
    pub image: usize,
    pub domain: Domain,
    pub first: usize,
    pub scratch: *mut f32,
    pub tile: T,
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
