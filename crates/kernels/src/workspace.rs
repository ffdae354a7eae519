//! The workspace: working memory of kernels, made once and used by all layers in turn.

use crate::aligned_buffer::AlignedBuffer;
use crate::disjoint_slice::DisjointSlice;

/// How much working memory a kernel needs.
///
/// See the example of [`MuonStep`](crate::muon::MuonStep).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WorkspaceSize {
    /// Numbers for each worker of the pool.
    pub(crate) worker: usize,
    /// Numbers that all workers share.
    pub(crate) shared: usize,
}

impl WorkspaceSize {
    /// The size that serves both kernels.
    pub fn max(self, other: WorkspaceSize) -> WorkspaceSize {
        WorkspaceSize {
            worker: self.worker.max(other.worker),
            shared: self.shared.max(other.shared),
        }
    }

    /// Bytes of a workspace of this size for `threads` threads.
    pub fn bytes(self, threads: usize) -> usize {
        4 * (self.stride() * threads + self.shared)
    }

    /// Numbers from one worker's memory to the next one's: not a multiple of a page, so that two
    /// workers do not use the same sets of a shared cache.
    fn stride(self) -> usize {
        self.worker.next_multiple_of(16) + 16
    }
}

/// Working memory of kernels.
///
/// See the example of [the crate](crate).
#[derive(Default)]
pub struct Workspace {
    workspace_size: WorkspaceSize,
    workers: AlignedBuffer,
    shared: AlignedBuffer,
    group_tiles: Option<usize>,
}

impl Workspace {
    /// Tiles that a core works on at a time in a Winograd convolution, unless
    /// [`set_group_tiles`](Self::set_group_tiles) says otherwise.
    pub const GROUP_TILES: usize = 64;
    /// The most that it can work on.
    pub const MOST_GROUP_TILES: usize = 128;

    /// A workspace of this size for a pool of `threads` threads.
    pub fn new(threads: usize, workspace_size: WorkspaceSize) -> Self {
        let workers = AlignedBuffer::new(workspace_size.stride() * threads);
        let shared = AlignedBuffer::new(workspace_size.shared);
        Workspace { workspace_size, workers, shared, group_tiles: None }
    }

    /// As [`new`](Self::new); `None` if there is too little memory.
    pub fn try_new(threads: usize, workspace_size: WorkspaceSize) -> Option<Self> {
        let workers = AlignedBuffer::try_new(workspace_size.stride().checked_mul(threads)?)?;
        let shared = AlignedBuffer::try_new(workspace_size.shared)?;
        Some(Workspace { workspace_size, workers, shared, group_tiles: None })
    }

    /// Sets how many tiles a core works on at a time in a Winograd convolution, about: as many as fit in its
    /// second-level cache. Results do not depend on it.
    ///
    /// # Panics
    /// If there are none, or more than [`MOST_GROUP_TILES`](Self::MOST_GROUP_TILES).
    pub fn set_group_tiles(&mut self, tiles: usize) {
        assert!((1..=Self::MOST_GROUP_TILES).contains(&tiles), "too few or too many tiles");
        self.group_tiles = Some(tiles);
    }

    pub(crate) fn group_tiles(&self) -> usize {
        self.group_tiles.unwrap_or(Self::GROUP_TILES)
    }

    /// The workers' memory, and what they share.
    pub(crate) fn split(&mut self) -> (Workers<'_>, &mut [f32]) {
        let workers = Workers {
            memory: DisjointSlice::new(self.workers.as_mut_slice()),
            stride: self.workspace_size.stride(),
            len: self.workspace_size.worker,
        };
        (workers, self.shared.as_mut_slice())
    }
}

/// The memory of all workers of the pool.
pub(crate) struct Workers<'a> {
    memory: DisjointSlice<'a, f32>,
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
