//! Working memory of kernels: made once, used by all layers in turn.

use crate::memory::Buffer;
use crate::shared::Shared;

/// Numbers of working memory that a kernel needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Need {
    /// For each worker of the pool.
    pub(crate) worker: usize,
    /// For all of them together.
    pub(crate) shared: usize,
}

impl Need {
    /// What serves both.
    pub fn max(self, other: Need) -> Need {
        Need { worker: self.worker.max(other.worker), shared: self.shared.max(other.shared) }
    }

    /// Bytes of memory, with `threads` threads.
    pub fn bytes(self, threads: usize) -> usize {
        4 * (self.stride() * threads + self.shared)
    }

    /// Numbers from one worker's memory to the next one's: not a multiple of a page, so that two
    /// workers do not use the same sets of a shared cache.
    fn stride(self) -> usize {
        self.worker.next_multiple_of(16) + 16
    }
}

/// Working memory.
#[derive(Default)]
pub struct Workspace {
    need: Need,
    workers: Buffer,
    shared: Buffer,
}

impl Workspace {
    /// Working memory that serves `need` with `threads` threads.
    pub fn new(threads: usize, need: Need) -> Self {
        let workers = Buffer::new(need.stride() * threads);
        Workspace { need, workers, shared: Buffer::new(need.shared) }
    }

    /// The workers' memory, and that of all.
    pub(crate) fn split(&mut self) -> (Workers<'_>, &mut [f32]) {
        let workers = Workers {
            memory: Shared::new(self.workers.as_mut_slice()),
            stride: self.need.stride(),
            len: self.need.worker,
        };
        (workers, self.shared.as_mut_slice())
    }
}

/// The memory of all workers of the pool.
pub(crate) struct Workers<'a> {
    memory: Shared<'a, f32>,
    stride: usize,
    len: usize,
}

impl Workers<'_> {
    /// A worker's memory in two parts of these lengths.
    ///
    /// # Safety
    /// Only the worker uses it, and one task at a time.
    pub unsafe fn part(&self, worker: usize, first: usize, second: usize) -> (*mut f32, *mut f32) {
        let inside = (worker + 1) * self.stride <= self.memory.len();
        let fits = first + second <= self.len;
        assert!(inside && fits, "the workspace was made for smaller layers or fewer threads");
        let start = self.memory.as_mut_ptr().wrapping_add(worker * self.stride);
        (start, start.wrapping_add(first))
    }
}
