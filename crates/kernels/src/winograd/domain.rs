//! The transform domain: for each element of a tile a matrix, as the micro-kernels read it.
//!
//! | what | matrix of an element | in |
//! |---|---|---|
//! | results: `M`, `dV` | `[block][tile][16]` | `f32` |
//! | operands of products over channels: `V`, `dM` | `[block][tile][16]` | `f32` or bfloat16 |
//! | operands of products over tiles: `V`, `dM` | `[block][tile][16]` | `f32` |
//! | the same | `[block][pair of tiles][16][2]` | bfloat16 |
//!
//! In bfloat16 a product takes two of what it sums over at a time, which lie side by side. Pairs of tiles are made within
//! a row of an image's tiles, where the last may be alone, so that sums do not depend on which images are in the domain
//! together.

use std::marker::PhantomData;
use std::ops::Range;

use super::tile::{Line, Tile};
use super::{Geometry, odd_cache_lines};
use crate::micro_kernel::{Bf16, F32, Precision};
use crate::simd::{LANES, Simd};

/// A domain, of words of 32 bits.
#[derive(Clone, Copy)]
pub(super) struct Domain {
    pub start: *mut f32,
    /// Words from the matrix of an element to the next.
    pub element_stride: usize,
    /// Words from a block to the next.
    pub block_stride: usize,
    /// Words from a row of a block to the next.
    pub row_len: usize,
    /// Rows of a block: tiles, or pairs of them.
    pub rows: usize,
}

// SAFETY: a domain is a place in memory; its users say which thread may use it when.
unsafe impl Send for Domain {}
// SAFETY: as above.
unsafe impl Sync for Domain {}

impl Domain {
    /// A domain whose blocks have so many rows of so many words, which follow each other.
    fn new(start: *mut f32, blocks: usize, rows: usize, row_len: usize) -> Self {
        let block_stride = rows * row_len;
        let element_stride = odd_cache_lines(blocks * block_stride);
        Domain { start, element_stride, block_stride, row_len, rows }
    }

    /// # Safety
    /// The element, the block and the row exist.
    #[inline(always)]
    pub unsafe fn at(self, element: usize, block: usize, row: usize) -> *mut f32 {
        // SAFETY: the caller's promise.
        unsafe {
            let at = element * self.element_stride + block * self.block_stride + row * self.row_len;
            self.start.add(at)
        }
    }

    /// Some of its rows.
    pub fn part(self, rows: Range<usize>) -> Self {
        let start = self.start.wrapping_add(rows.start * self.row_len);
        Domain { start, rows: rows.len(), ..self }
    }

    /// The end of so many elements' matrices.
    fn end(self, elements: usize) -> *mut f32 {
        self.start.wrapping_add(elements * self.element_stride)
    }

    /// The same, so far behind the beginning of `results` that an element's results can be written while or after the
    /// same element of this one is read: they overwrite elements before it.
    fn behind(self, results: Domain, elements: usize) -> Self {
        debug_assert!(self.element_stride <= results.element_stride);
        let last = elements - 1;
        let start = results.end(elements).wrapping_sub(last * self.element_stride);
        Domain { start, ..self }
    }
}

/// Where a transformed tile is written: its block, the row of tiles in the domain, and which tile of how many.
#[derive(Clone, Copy)]
pub(super) struct TileAt {
    pub block: usize,
    pub row: usize,
    pub tile: usize,
    pub tiles_x: usize,
}

/// A domain, or several, that a transform writes.
pub(super) trait Operand: Copy {
    /// Writes line `k` of a transformed tile. `held` is the same line of the tile before, and becomes this one.
    ///
    /// # Safety
    /// The tile lies in the domain, and no other thread is at it or the rest of its pair.
    unsafe fn write<S: Simd, T: Tile>(
        self,
        s: S,
        at: TileAt,
        k: usize,
        line: Line<S::V>,
        held: &mut Line<S::V>,
    );
}

/// A row for each tile, of its channels; in bfloat16 a word is a pair of them.
#[derive(Clone, Copy)]
pub(super) struct Tiles<P> {
    domain: Domain,
    precision: PhantomData<P>,
}

impl<P> Tiles<P> {
    pub fn new(domain: Domain) -> Self {
        Tiles { domain, precision: PhantomData }
    }
}

impl<P: Precision> Operand for Tiles<P> {
    #[inline(always)]
    unsafe fn write<S: Simd, T: Tile>(
        self,
        s: S,
        at: TileAt,
        k: usize,
        line: Line<S::V>,
        _: &mut Line<S::V>,
    ) {
        let domain = self.domain;
        // SAFETY: the caller's promise.
        unsafe {
            let mut to = domain.at(k * T::POINTS, at.block, at.row * at.tiles_x + at.tile);
            for &value in line.iter().take(T::POINTS) {
                P::store_block(s, to, value);
                to = to.wrapping_add(domain.element_stride);
            }
        }
    }
}

/// In bfloat16, a row for each pair of tiles: a word is a channel of both.
#[derive(Clone, Copy)]
pub(super) struct TilePairs(pub Domain);

impl Operand for TilePairs {
    #[inline(always)]
    unsafe fn write<S: Simd, T: Tile>(
        self,
        s: S,
        at: TileAt,
        k: usize,
        line: Line<S::V>,
        held: &mut Line<S::V>,
    ) {
        let first = at.tile.is_multiple_of(2);
        if !first || at.tile + 1 == at.tiles_x {
            // SAFETY: the caller's promise.
            unsafe {
                let row = rows_over_tiles::<Bf16>(at.row, at.tiles_x) + at.tile / 2;
                let mut to = self.0.at(k * T::POINTS, at.block, row);
                for (&value, &held) in line.iter().zip(held.iter()).take(T::POINTS) {
                    let pair = if first { [value, s.zero()] } else { [held, value] };
                    s.store(to, s.pair_bf16(pair[0], pair[1]));
                    to = to.wrapping_add(self.0.element_stride);
                }
            }
        }
        *held = line;
    }
}

impl<A: Operand, B: Operand> Operand for (A, B) {
    #[inline(always)]
    unsafe fn write<S: Simd, T: Tile>(
        self,
        s: S,
        at: TileAt,
        k: usize,
        line: Line<S::V>,
        held: &mut Line<S::V>,
    ) {
        // SAFETY: the caller's promise.
        unsafe {
            self.0.write::<S, T>(s, at, k, line, held);
            self.1.write::<S, T>(s, at, k, line, held);
        }
    }
}

/// How the operands of a precision lie in the domain. Those of products over channels are [`Tiles`].
pub(super) trait Operands: Precision {
    /// An operand of products over tiles.
    type OverTiles: Operand;
    /// An operand of both.
    type OverBoth: Operand;

    fn over_tiles(domain: Domain) -> Self::OverTiles;
    fn over_both(channels: Domain, tiles: Domain) -> Self::OverBoth;
}

impl Operands for F32 {
    type OverTiles = Tiles<F32>;
    type OverBoth = Tiles<F32>;

    fn over_tiles(domain: Domain) -> Self::OverTiles {
        Tiles::new(domain)
    }
    /// They are the same.
    fn over_both(channels: Domain, _: Domain) -> Self::OverBoth {
        Tiles::new(channels)
    }
}

impl Operands for Bf16 {
    type OverTiles = TilePairs;
    type OverBoth = (Tiles<Bf16>, TilePairs);

    fn over_tiles(domain: Domain) -> Self::OverTiles {
        TilePairs(domain)
    }
    fn over_both(channels: Domain, tiles: Domain) -> Self::OverBoth {
        (Tiles::new(channels), TilePairs(tiles))
    }
}

/// Rows of a block for products over tiles, of so many rows of `tiles_x` tiles.
#[inline(always)]
fn rows_over_tiles<P: Precision>(rows: usize, tiles_x: usize) -> usize {
    rows * tiles_x.div_ceil(P::K)
}

/// The order in which the elements of a domain are multiplied.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// One after another, so that results may overwrite operands.
    InTurn,
    /// Any, by several threads.
    Any,
}

/// The domains of a forward pass over some rows of tiles.
#[derive(Clone, Copy)]
pub(super) struct ForwardDomains {
    pub v: Domain,
    pub m: Domain,
}

impl ForwardDomains {
    /// They begin at `start`; the second value is where they end.
    pub fn new<T: Tile>(
        geometry: &Geometry,
        rows: usize,
        order: Order,
        start: *mut f32,
    ) -> (Self, *mut f32) {
        let Geometry { input, output, tiles_x, .. } = *geometry;
        let tiles = rows * tiles_x;
        let operand_len = T::Precision::BLOCK;
        match order {
            Order::InTurn => {
                // Both have room for the blocks of the one with more, so that one fits behind the other.
                let blocks = input.blocks().max(output.blocks());
                let m = Domain::new(start, blocks, tiles, LANES);
                let v = Domain::new(start, blocks, tiles, operand_len).behind(m, T::ELEMENTS);
                (ForwardDomains { v, m }, v.end(T::ELEMENTS))
            }
            Order::Any => {
                let v = Domain::new(start, input.blocks(), tiles, operand_len);
                let m = Domain::new(v.end(T::ELEMENTS), output.blocks(), tiles, LANES);
                (ForwardDomains { v, m }, m.end(T::ELEMENTS))
            }
        }
    }
}

/// The domains of a backward pass over some rows of tiles.
#[derive(Clone, Copy)]
pub(super) struct BackwardDomains {
    /// `V` and `dM` of the product over tiles, for the gradient of the weights.
    pub v: Domain,
    pub dm: Domain,
    /// `dM` of the product over channels, and its result.
    pub dm_over_channels: Domain,
    pub dv: Domain,
}

impl BackwardDomains {
    /// They begin at `start`; the second value is where they end.
    pub fn new<T: Tile>(
        geometry: &Geometry,
        rows: usize,
        order: Order,
        start: *mut f32,
    ) -> (Self, *mut f32) {
        let Geometry { input, output, tiles_x, .. } = *geometry;
        let tiles = rows * tiles_x;
        let dv = Domain::new(start, input.blocks(), tiles, LANES);
        let dm = |start, rows, row_len| Domain::new(start, output.blocks(), rows, row_len);
        if T::Precision::K == 1 {
            // An element's `dV` overwrites its `V`.
            let dm = dm(dv.end(T::ELEMENTS), tiles, LANES);
            let domains = BackwardDomains { v: dv, dm, dm_over_channels: dm, dv };
            return (domains, dm.end(T::ELEMENTS));
        }
        let pairs = rows_over_tiles::<T::Precision>(rows, tiles_x);
        let v = Domain::new(dv.end(T::ELEMENTS), input.blocks(), pairs, LANES);
        let v = match order {
            Order::InTurn => v.behind(dv, T::ELEMENTS),
            Order::Any => v,
        };
        let dm_over_channels = dm(v.end(T::ELEMENTS), tiles, T::Precision::BLOCK);
        let dm = dm(dm_over_channels.end(T::ELEMENTS), pairs, LANES);
        (BackwardDomains { v, dm, dm_over_channels, dv }, dm.end(T::ELEMENTS))
    }

    /// The same of some of the rows of tiles.
    pub fn part<T: Tile>(self, geometry: &Geometry, rows: Range<usize>) -> Self {
        let BackwardDomains { v, dm, dm_over_channels, dv } = self;
        let of = |rows: usize| rows_over_tiles::<T::Precision>(rows, geometry.tiles_x);
        let pairs = of(rows.start)..of(rows.end);
        let tiles = rows.start * geometry.tiles_x..rows.end * geometry.tiles_x;
        BackwardDomains {
            v: v.part(pairs.clone()),
            dm: dm.part(pairs),
            dm_over_channels: dm_over_channels.part(tiles.clone()),
            dv: dv.part(tiles),
        }
    }
}

/// Numbers of memory for domains that end at `end` if they begin at zero.
pub(super) fn len_of<D>(domains: impl Fn(*mut f32) -> (D, *mut f32)) -> usize {
    domains(std::ptr::null_mut()).1.addr() / size_of::<f32>()
}
