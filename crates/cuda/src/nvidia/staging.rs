//! Memory of the host that a card reads and writes by itself, so that copies need not wait for it.

use std::ffi::c_void;
use std::ptr;
use std::sync::{Arc, Mutex};

use crescendo_network::EngineError;
use cudarc::driver::sys::{self, CUresult};

use super::{check, lock};
use crate::driver::Download;

/// The largest piece of pinned memory: longer copies are cut.
pub(super) const LARGEST_PINNED: usize = 32 << 20;

/// Memory of the host that the card reads and writes by itself, with an event that passes when it has.
pub(super) struct Pinned {
    pub memory: *mut c_void,
    len: usize,
    pub event: sys::CUevent,
}

// SAFETY: the memory is this value's own, and events may be used from any thread.
unsafe impl Send for Pinned {}

/// Pinned memory that is used again and again.
#[derive(Default)]
pub(super) struct Staging(Mutex<Vec<Pinned>>);

impl Staging {
    /// Memory of at least so many bytes that no copy uses any more.
    pub fn take(&self, len: usize) -> Result<Pinned, EngineError> {
        let mut free = lock(&self.0);
        let finished = |pinned: &Pinned| {
            // SAFETY: the event lives as long as the memory.
            pinned.len >= len
                && unsafe { sys::cuEventQuery(pinned.event) } == CUresult::CUDA_SUCCESS
        };
        if let Some(at) = free.iter().position(finished) {
            return Ok(free.swap_remove(at));
        }
        let len = len.next_power_of_two().max(4096);
        let (mut memory, mut event) = (ptr::null_mut(), ptr::null_mut());
        let timing = sys::CUevent_flags::CU_EVENT_DISABLE_TIMING as u32;
        // SAFETY: addresses of variables that live as long as the calls.
        unsafe {
            match sys::cuMemHostAlloc(&mut memory, len, 0) {
                CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
                    let what = "copies to the GPU";
                    return Err(EngineError::OutOfMemory { what, bytes: len as u64 });
                }
                result => check(result)?,
            }
            check(sys::cuEventCreate(&mut event, timing))?;
        }
        Ok(Pinned { memory, len, event })
    }

    /// Gives memory back; it is used again when its event has passed.
    pub fn give_back(&self, pinned: Pinned) {
        lock(&self.0).push(pinned);
    }

    /// Frees all memory.
    ///
    /// # Safety
    /// No copy uses it any more, and the context is the thread's own.
    pub unsafe fn free(&self) {
        for pinned in lock(&self.0).drain(..) {
            // SAFETY: the caller's promise.
            unsafe {
                let _ = sys::cuEventDestroy_v2(pinned.event);
                let _ = sys::cuMemFreeHost(pinned.memory);
            }
        }
    }
}

/// A copy from the card.
pub(super) struct NvidiaDownload {
    context: sys::CUcontext,
    /// Its pieces in order, each with its length.
    pieces: Vec<(Pinned, usize)>,
    staging: Arc<Staging>,
}

// SAFETY: a context may be made current on any thread.
unsafe impl Send for NvidiaDownload {}

impl NvidiaDownload {
    pub fn new(
        context: sys::CUcontext,
        pieces: Vec<(Pinned, usize)>,
        staging: Arc<Staging>,
    ) -> NvidiaDownload {
        NvidiaDownload { context, pieces, staging }
    }
}

impl Download for NvidiaDownload {
    fn bytes(&mut self, wait: bool) -> Result<Option<Vec<u8>>, EngineError> {
        let Some((last, _)) = self.pieces.last() else { return Ok(None) };
        // SAFETY: the context and the event are alive.
        unsafe {
            check(sys::cuCtxSetCurrent(self.context))?;
            let result = match wait {
                true => sys::cuEventSynchronize(last.event),
                false => sys::cuEventQuery(last.event),
            };
            if result == CUresult::CUDA_ERROR_NOT_READY {
                return Ok(None);
            }
            check(result)?;
        }
        let mut bytes = Vec::with_capacity(self.pieces.iter().map(|(_, len)| len).sum());
        for (pinned, len) in self.pieces.drain(..) {
            // SAFETY: the bytes are all there: the last piece's event has passed, and copies of a stream are in order.
            bytes.extend_from_slice(unsafe {
                std::slice::from_raw_parts(pinned.memory.cast::<u8>(), len)
            });
            self.staging.give_back(pinned);
        }
        Ok(Some(bytes))
    }
}

impl Drop for NvidiaDownload {
    fn drop(&mut self) {
        for (pinned, _) in self.pieces.drain(..) {
            self.staging.give_back(pinned);
        }
    }
}
