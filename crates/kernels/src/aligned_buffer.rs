//! Memory that is aligned to cache lines, in large pages where the system has them.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ptr::NonNull;

/// The transform domain is written in dozens of streams, each in a page of its own: with pages of
/// 4 KiB every store would miss the processor's list of page addresses.
const LARGE_PAGE: usize = 2 << 20;

/// A buffer of `f32`, zeros at first: aligned to 64 bytes or more, and of a fixed length. Kernels write
/// past the caches only to memory that is so aligned; other memory works too, but slower.
///
/// # Example
///
/// ```
/// use crescendo_kernels::AlignedBuffer;
///
/// let mut buffer = AlignedBuffer::new(100);
/// assert!(buffer.as_slice().iter().all(|&number| number == 0.0));
/// assert!(buffer.as_slice().as_ptr().addr().is_multiple_of(64));
/// buffer.as_mut_slice()[99] = 1.0;
/// assert_eq!(buffer.as_slice().iter().sum::<f32>(), 1.0);
/// assert!(AlignedBuffer::try_new(usize::MAX / 8).is_none());
/// ```
pub struct AlignedBuffer {
    /// What was allocated; dangling if there are no numbers.
    memory: NonNull<u8>,
    start: NonNull<f32>,
    len: usize,
}

// SAFETY: a `AlignedBuffer` owns its memory, as a `Vec` does.
unsafe impl Send for AlignedBuffer {}
// SAFETY: as above.
unsafe impl Sync for AlignedBuffer {}

impl AlignedBuffer {
    /// A buffer of `len` zeros. Ends the program if there is too little memory, as a `Vec` does.
    pub fn new(len: usize) -> Self {
        Self::try_new(len).unwrap_or_else(|| handle_alloc_error(Layout::new::<[f32; 16]>()))
    }

    /// A buffer of `len` zeros; `None` if there is too little memory.
    pub fn try_new(len: usize) -> Option<Self> {
        if len == 0 {
            let memory = NonNull::dangling();
            return Some(AlignedBuffer { memory, start: NonNull::dangling(), len });
        }
        let (layout, align) = Self::layout(len)?;
        // SAFETY: the layout's size is not zero.
        let memory = NonNull::new(unsafe { alloc_zeroed(layout) })?;
        let skipped = memory.as_ptr().align_offset(align);
        // SAFETY: the layout has room for `len` numbers behind an aligned start.
        let start = unsafe { memory.add(skipped) }.cast::<f32>();
        if align == LARGE_PAGE {
            ask_for_large_pages(start.as_ptr().cast(), len * size_of::<f32>());
        }
        Some(AlignedBuffer { memory, start, len })
    }

    /// How memory is allocated, and how the numbers are aligned in it; `None` if it would be larger than the address
    /// space. Systems have much memory that is already zero where no more than the usual alignment is asked for: a
    /// buffer that is not used, such as the gradients of a network that only predicts, takes no time then.
    fn layout(len: usize) -> Option<(Layout, usize)> {
        const USUAL: usize = align_of::<usize>();
        let size = len.checked_mul(size_of::<f32>())?;
        let align = if size >= LARGE_PAGE { LARGE_PAGE } else { 64 };
        let layout = Layout::from_size_align(size.checked_add(align)?, USUAL);
        Some((layout.ok()?, align))
    }

    /// Its numbers.
    pub fn as_slice(&self) -> &[f32] {
        // SAFETY: `len` initialised numbers, or a dangling start and none.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    /// Its numbers.
    pub fn as_mut_slice(&mut self) -> &mut [f32] {
        // SAFETY: as in `as_slice`, and borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

/// The same memory as bfloat16: twice as many numbers.
pub fn as_bf16(numbers: &[f32]) -> &[u16] {
    // SAFETY: any two bytes of initialised memory are a `u16`, and the alignment is larger.
    unsafe { std::slice::from_raw_parts(numbers.as_ptr().cast(), 2 * numbers.len()) }
}

/// The same memory as bfloat16: twice as many numbers.
pub fn as_bf16_mut(numbers: &mut [f32]) -> &mut [u16] {
    // SAFETY: as in `as_bf16`; any `u16`s are bytes of some `f32`; borrowed mutably.
    unsafe { std::slice::from_raw_parts_mut(numbers.as_mut_ptr().cast(), 2 * numbers.len()) }
}

impl Default for AlignedBuffer {
    fn default() -> Self {
        AlignedBuffer::new(0)
    }
}

impl Drop for AlignedBuffer {
    fn drop(&mut self) {
        if let Some((layout, _)) = Self::layout(self.len).filter(|_| self.len > 0) {
            // SAFETY: allocated in `try_new` with this layout.
            unsafe { dealloc(self.memory.as_ptr(), layout) };
        }
    }
}

/// A hint: without large pages everything works, but slower.
#[cfg(target_os = "linux")]
fn ask_for_large_pages(start: *mut u8, len: usize) {
    // SAFETY: the range is one allocation's, and the advice changes nothing that can be seen in it.
    unsafe { libc::madvise(start.cast(), len, libc::MADV_HUGEPAGE) };
}

#[cfg(not(target_os = "linux"))]
fn ask_for_large_pages(_: *mut u8, _: usize) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_zero_and_aligned() {
        for len in [0, 1, 100, LARGE_PAGE] {
            let mut buffer = AlignedBuffer::new(len);
            assert!(buffer.as_slice().iter().all(|&x| x == 0.0));
            assert_eq!(buffer.as_slice().len(), len);
            assert!(len == 0 || buffer.as_slice().as_ptr().addr().is_multiple_of(64));
            buffer.as_mut_slice().fill(1.0);
            assert!(as_bf16(buffer.as_slice()).chunks(2).all(|half| half == [0, 0x3f80]));
            as_bf16_mut(buffer.as_mut_slice()).fill(0);
            assert!(buffer.as_slice().iter().all(|&x| x == 0.0));
        }
    }
}
