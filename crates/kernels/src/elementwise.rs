//! Operations on all numbers of a slice.

use crate::ThreadPool;

/// Numbers a task takes: about the size of a core's first-level cache.
pub(crate) const PIECE: usize = 8192;

/// `out = a`.
///
/// # Panics
/// If lengths differ.
pub fn copy(pool: &ThreadPool, a: &[f32], out: &mut [f32]) {
    assert_eq!(a.len(), out.len(), "lengths differ");
    pool.chunks(out, PIECE, ThreadPool::ELEMENT * a.len(), |piece, out| {
        out.copy_from_slice(&a[piece * PIECE..][..out.len()]);
    });
}
