//! Feature maps in memory: where they lie, how their numbers are stored, and how rows of them are
//! loaded and stored.

use crate::MapShape;
use crate::disjoint_slice::DisjointSlice;
use crate::prefetch::{MapRows, Prefetch};
use crate::simd::{LANES, Simd};

/// Feature maps to be read.
///
/// See the example of [the crate](crate).
#[derive(Clone, Copy)]
pub enum MapsRef<'a> {
    /// In blocks of channels (see [`MapShape`]), [`MapShape::len`] numbers.
    F32(&'a [f32]),
    /// The same in bfloat16, the upper half of an `f32`.
    Bf16(&'a [u16]),
    /// Planes `[images, channels, height, width]`, as images come; at most 16 channels. Only a
    /// [`Prologue`](crate::prologue::Prologue) without anything fused into it reads them.
    Nchw(&'a [f32]),
}

impl MapsRef<'_> {
    /// Panics unless there are as many numbers as the shape asks for; kernels rely on it.
    pub(crate) fn check(&self, shape: MapShape) {
        match self {
            MapsRef::F32(x) => assert_eq!(x.len(), shape.len(), "wrong length of maps"),
            MapsRef::Bf16(x) => assert_eq!(x.len(), shape.len(), "wrong length of maps"),
            MapsRef::Nchw(x) => {
                assert!(shape.channels <= LANES, "planes of more than {LANES} channels");
                let len = shape.images * shape.channels * shape.pixels();
                assert_eq!(x.len(), len, "wrong length of planes");
            }
        }
    }

    /// The same, and panics if they are not in blocks of channels.
    pub(crate) fn check_blocked(&self, shape: MapShape) {
        let blocked = !matches!(self, MapsRef::Nchw(_));
        assert!(blocked, "planes are only read as they are: nothing can be fused with them");
        self.check(shape);
    }

    /// Has these rows prefetched.
    pub(crate) fn prefetch(&self, prefetch: &mut Prefetch, shape: MapShape, rows: &MapRows) {
        match self {
            MapsRef::F32(x) => prefetch.add(x, shape, rows),
            MapsRef::Bf16(x) => prefetch.add(x, shape, rows),
            // Images are small, and only the first convolution reads them.
            MapsRef::Nchw(_) => {}
        }
    }

    /// The row that begins at number `offset`.
    ///
    /// # Safety
    /// `offset` lies within the numbers.
    #[inline(always)]
    pub(crate) unsafe fn row(&self, offset: usize) -> RowRef {
        // SAFETY: the caller's promise.
        unsafe {
            match self {
                MapsRef::F32(x) | MapsRef::Nchw(x) => RowRef::F32(x.as_ptr().add(offset)),
                MapsRef::Bf16(x) => RowRef::Bf16(x.as_ptr().add(offset)),
            }
        }
    }
}

/// Feature maps to be written, in blocks of channels (see [`MapShape`]), by several threads at once,
/// each its own rows.
///
/// See the example of [the crate](crate).
pub enum MapsMut<'a> {
    /// [`MapShape::len`] numbers.
    F32(DisjointSlice<'a, f32>),
    /// The same in bfloat16, rounded to nearest, ties to even.
    Bf16(DisjointSlice<'a, u16>),
}

impl<'a> MapsMut<'a> {
    /// Maps of `f32`.
    pub fn f32(memory: &'a mut [f32]) -> Self {
        MapsMut::F32(DisjointSlice::new(memory))
    }

    /// Maps of bfloat16.
    pub fn bf16(memory: &'a mut [u16]) -> Self {
        MapsMut::Bf16(DisjointSlice::new(memory))
    }
}

impl MapsMut<'_> {
    /// Panics unless there are as many numbers as the shape asks for; kernels rely on it.
    pub(crate) fn check(&self, shape: MapShape) {
        let len = match self {
            MapsMut::F32(memory) => memory.len(),
            MapsMut::Bf16(memory) => memory.len(),
        };
        assert_eq!(len, shape.len(), "wrong length of maps");
    }

    /// The row that begins at number `offset`.
    ///
    /// # Safety
    /// `offset` lies within the numbers.
    #[inline(always)]
    pub(crate) unsafe fn row(&self, offset: usize) -> RowMut {
        // SAFETY: the caller's promise.
        unsafe {
            match self {
                MapsMut::F32(memory) => RowMut::f32(memory, offset),
                MapsMut::Bf16(memory) => RowMut::Bf16(memory.as_mut_ptr().add(offset)),
            }
        }
    }
}

/// Numbers from what is read of maps to what is prefetched of them: 2 KiB of `f32`, in which time a line comes from the
/// last-level cache.
const AHEAD: usize = 32 * LANES;

/// A row to be read.
#[derive(Clone, Copy)]
pub(crate) enum RowRef {
    F32(*const f32),
    Bf16(*const u16),
}

impl RowRef {
    /// Sixteen numbers, from number `x` of the row.
    ///
    /// # Safety
    /// They lie within the row.
    #[inline(always)]
    pub unsafe fn load<S: Simd>(self, s: S, x: usize) -> S::V {
        // SAFETY: the caller's promise.
        unsafe {
            match self {
                RowRef::F32(row) => s.load(row.add(x)),
                RowRef::Bf16(row) => s.load_bf16(row.add(x)),
            }
        }
    }

    /// The same, of maps whose rows are read one after another: prefetches what comes [`AHEAD`] of them.
    ///
    /// # Safety
    /// As above.
    #[inline(always)]
    pub unsafe fn load_next<S: Simd>(self, s: S, x: usize) -> S::V {
        s.prefetch_l1(match self {
            RowRef::F32(row) => row.wrapping_add(x + AHEAD),
            RowRef::Bf16(row) => row.wrapping_add(x + AHEAD).cast(),
        });
        // SAFETY: the caller's promise.
        unsafe { self.load(s, x) }
    }

    /// Copies `len` numbers of the row to `out`, a row that is used at once.
    ///
    /// # Safety
    /// The row has as many, and `out` has room for them; `len` is a multiple of sixteen.
    #[inline(always)]
    pub unsafe fn load_row<S: Simd>(self, s: S, len: usize, out: *mut f32) {
        for x in (0..len).step_by(LANES) {
            // SAFETY: the caller's promise.
            unsafe { s.store(out.add(x), self.load_next(s, x)) };
        }
    }
}

/// Maps of more numbers, 1 MiB, are written past the caches: they would not stay there until they are read.
const MOST_CACHED: usize = 1 << 18;

/// A row to be written.
#[derive(Clone, Copy)]
pub(crate) enum RowMut {
    F32 {
        row: *mut f32,
        /// Whether it is written past the caches, for which it is aligned.
        streams: bool,
    },
    Bf16(*mut u16),
}

impl RowMut {
    /// The row that begins at number `offset` of `maps`.
    ///
    /// # Safety
    /// `offset` lies within the numbers.
    #[inline(always)]
    pub unsafe fn f32(maps: &DisjointSlice<f32>, offset: usize) -> Self {
        // SAFETY: the caller's promise.
        let row = unsafe { maps.as_mut_ptr().add(offset) };
        RowMut::F32 { row, streams: maps.len() > MOST_CACHED && row.addr().is_multiple_of(64) }
    }

    /// Writes sixteen numbers from number `x` of the row on, a multiple of sixteen.
    ///
    /// # Safety
    /// They lie within the row, and no other thread is at it.
    #[inline(always)]
    pub unsafe fn store<S: Simd>(self, s: S, x: usize, value: S::V) {
        // SAFETY: the caller's promise; aligned where streamed.
        unsafe {
            match self {
                RowMut::F32 { row, streams: true } => s.stream(row.add(x), value),
                RowMut::F32 { row, .. } => s.store(row.add(x), value),
                RowMut::Bf16(row) => s.store_bf16(row.add(x), value),
            }
        }
    }

    /// Writes `len` numbers of `from` to the row.
    ///
    /// # Safety
    /// Both have as many, no other thread is at the row, and `len` is a multiple of sixteen.
    #[inline(always)]
    pub unsafe fn store_row<S: Simd>(self, s: S, len: usize, from: *const f32) {
        for x in (0..len).step_by(LANES) {
            // SAFETY: the caller's promise.
            unsafe { self.store(s, x, s.load(from.add(x))) };
        }
    }
}
