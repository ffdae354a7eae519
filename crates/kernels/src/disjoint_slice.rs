//! A mutable slice that several threads write to at once, each to a part of its own.

use std::marker::PhantomData;

/// A mutable slice of which disjoint parts can be handed to several threads.
///
/// # Example
///
/// ```
/// use crescendo_kernels::{DisjointSlice, ThreadPool};
///
/// let mut numbers = [0; 6];
/// let slice = DisjointSlice::new(&mut numbers);
/// ThreadPool::new(2).run(3, usize::MAX, |task, _| {
///     // SAFETY: each task has two numbers of its own.
///     unsafe { slice.part(2 * task, 2) }.fill(task);
/// });
/// assert_eq!(numbers, [0, 0, 1, 1, 2, 2]);
/// ```
pub struct DisjointSlice<'a, T> {
    start: *mut T,
    len: usize,
    slice: PhantomData<&'a mut [T]>,
}

// SAFETY: a `DisjointSlice` only gives out parts that its users promise to be disjoint (`DisjointSlice::part`),
// so sending or sharing it is no more than sending disjoint `&mut [T]`.
unsafe impl<T: Send> Send for DisjointSlice<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for DisjointSlice<'_, T> {}

impl<'a, T> DisjointSlice<'a, T> {
    /// All of a slice.
    pub fn new(slice: &'a mut [T]) -> Self {
        DisjointSlice { start: slice.as_mut_ptr(), len: slice.len(), slice: PhantomData }
    }

    /// The part `[offset, offset + len)`.
    ///
    /// # Safety
    /// No two parts that are alive at the same time may overlap.
    ///
    /// # Panics
    /// If the part lies outside the slice.
    #[allow(clippy::mut_from_ref)] // that is what this type is for; see the condition above
    pub unsafe fn part(&self, offset: usize, len: usize) -> &mut [T] {
        assert!(offset <= self.len && len <= self.len - offset, "part lies outside the slice");
        // SAFETY: in bounds (just checked), borrowed for 'a by `new`, and disjoint from every
        // other living part by this function's condition.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(offset), len) }
    }

    /// The first element, for kernels that write a strided region.
    pub fn as_mut_ptr(&self) -> *mut T {
        self.start
    }

    /// Its length.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}
