//! NVIDIA's driver: the one place that calls it. Its library is loaded when it is first needed.
#![allow(unsafe_code)]

use std::collections::HashMap;
use std::ffi::{CStr, CString, c_void};
use std::ptr;
use std::sync::{Arc, Mutex, MutexGuard};

use crescendo_network::{DeviceMemory, EngineError};
use cudarc::driver::sys::{self, CUfunction_attribute, CUresult};

mod cards;
mod program;
mod staging;

pub use cards::{Card, Installed, installed};
use program::NvidiaProgram;
use staging::{LARGEST_PINNED, NvidiaDownload, Staging};

use crate::code;
use crate::driver::{Address, Chip, Download, Driver, Launch, Program};

/// Shared memory that a kernel gets without being asked for more.
const DEFAULT_SHARED: u32 = 48 * 1024;

/// Opens one of the cards of [`Installed`], which has no problem.
///
/// # Errors
/// [`EngineError::NoDevice`] if it cannot be used now, in a sentence.
pub fn open(card: &Card) -> Result<Arc<dyn Driver>, EngineError> {
    Ok(Arc::new(Nvidia::open(card)?))
}

/// The driver's own words for an error.
fn words(error: CUresult) -> String {
    let mut text = ptr::null();
    // SAFETY: the driver's text is never freed.
    let text = unsafe {
        match sys::cuGetErrorString(error, &mut text) {
            CUresult::CUDA_SUCCESS if !text.is_null() => CStr::from_ptr(text).to_string_lossy(),
            _ => "unknown error".into(),
        }
    };
    format!("{text}, CUDA error {}", error as u32)
}

/// Fails if a call did.
fn check(result: CUresult) -> Result<(), EngineError> {
    match result {
        CUresult::CUDA_SUCCESS => Ok(()),
        error => Err(EngineError::DeviceLost(format!(
            "the GPU stopped working ({}): the last saved state is not affected; continue with --resume",
            words(error)
        ))),
    }
}

/// A card that was opened.
struct Nvidia {
    name: String,
    chip: Chip,
    /// The shared memory that a block may have.
    most_shared: i32,
    device: sys::CUdevice,
    context: sys::CUcontext,
    stream: sys::CUstream,
    module: sys::CUmodule,
    functions: Mutex<HashMap<&'static str, sys::CUfunction>>,
    staging: Arc<Staging>,
}

// SAFETY: the driver's objects may be used from any thread that has made the context its own, as every method does
// first.
unsafe impl Send for Nvidia {}
// SAFETY: as above; calls of the driver are safe from several threads at once.
unsafe impl Sync for Nvidia {}

impl Nvidia {
    fn open(card: &Card) -> Result<Nvidia, EngineError> {
        let code = code::for_capability(card.compute_capability).ok_or_else(|| {
            let problem = card.problem.as_deref().unwrap_or("it is too old");
            EngineError::NoDevice(format!("{} cannot be used: {problem}", card.name))
        })?;
        let mut device = 0;
        let (mut context, mut stream, mut module) =
            (ptr::null_mut(), ptr::null_mut(), ptr::null_mut());
        let taken = |result: CUresult| match result {
            CUresult::CUDA_SUCCESS => Ok(()),
            error => Err(EngineError::NoDevice(format!(
                "{} cannot be opened ({}): is it in use, or its memory taken, by another program? nvidia-smi \
                 shows it",
                card.name,
                words(error)
            ))),
        };
        // SAFETY: the card exists; the code is a whole image; pointers are to variables that live as long as the calls.
        unsafe {
            taken(sys::cuDeviceGet(&mut device, card.index as i32))?;
            taken(sys::cuDevicePrimaryCtxRetain(&mut context, device))?;
            taken(sys::cuCtxSetCurrent(context))?;
            let kind = sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
            taken(sys::cuStreamCreate(&mut stream, kind))?;
            taken(sys::cuModuleLoadData(&mut module, code.as_ptr().cast()))?;
        }
        let attribute = |attribute| {
            let mut value = 0;
            // SAFETY: the address of a variable that lives as long as the call.
            taken(unsafe { sys::cuDeviceGetAttribute(&mut value, attribute, device) })?;
            Ok::<i32, EngineError>(value)
        };
        use sys::CUdevice_attribute::{
            CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN as MOST_SHARED,
            CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT as MULTIPROCESSORS,
        };
        Ok(Nvidia {
            name: card.name.clone(),
            chip: Chip {
                multiprocessors: attribute(MULTIPROCESSORS)?.max(1) as usize,
                warpgroups: card.compute_capability == (9, 0),
            },
            most_shared: attribute(MOST_SHARED)?,
            device,
            context,
            stream,
            module,
            functions: Mutex::default(),
            staging: Arc::default(),
        })
    }

    /// Makes the context the thread's own.
    fn enter(&self) -> Result<(), EngineError> {
        // SAFETY: the context lives as long as `self`.
        check(unsafe { sys::cuCtxSetCurrent(self.context) })
    }

    fn function(&self, launch: &Launch) -> Result<sys::CUfunction, EngineError> {
        let mut functions = lock(&self.functions);
        if let Some(&function) = functions.get(launch.kernel) {
            return Ok(function);
        }
        let name = CString::new(launch.kernel).expect("names of kernels have no zeros");
        let mut function = ptr::null_mut();
        // SAFETY: the module lives as long as `self`; the name ends with a zero.
        unsafe {
            check(sys::cuModuleGetFunction(&mut function, self.module, name.as_ptr()))?;
            use CUfunction_attribute::{
                CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES as MOST_SHARED,
                CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT as CARVEOUT,
            };
            check(sys::cuFuncSetAttribute(function, MOST_SHARED, self.most_shared))?;
            if launch.shared > DEFAULT_SHARED {
                // As much as there is, so that several blocks fit.
                check(sys::cuFuncSetAttribute(function, CARVEOUT, 100))?;
            }
        }
        functions.insert(launch.kernel, function);
        Ok(function)
    }

    fn prepared(&self, launches: &[Launch]) -> Result<NvidiaProgram, EngineError> {
        self.enter()?;
        let launches = launches.iter().map(|launch| Ok((self.function(launch)?, launch.clone())));
        let launches = launches.collect::<Result<Vec<_>, EngineError>>()?;
        NvidiaProgram::new(self.context, self.stream, launches)
    }

    /// Copies to memory that the card can read by itself, and from there to the card.
    fn copy_to(&self, to: Address, bytes: &[u8]) -> Result<(), EngineError> {
        let pinned = self.staging.take(bytes.len())?;
        // SAFETY: the pinned memory is long enough and nobody else uses it until its event has passed; the engine
        // copies to memory that it has allocated.
        unsafe {
            ptr::copy_nonoverlapping(bytes.as_ptr(), pinned.memory.cast::<u8>(), bytes.len());
            check(sys::cuMemcpyHtoDAsync_v2(to, pinned.memory, bytes.len(), self.stream))?;
            check(sys::cuEventRecord(pinned.event, self.stream))?;
        }
        self.staging.give_back(pinned);
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Drop for Nvidia {
    fn drop(&mut self) {
        // Buffers and programs hold the driver, so none is left.
        if self.enter().is_ok() {
            // SAFETY: nothing uses them any more. An error changes nothing at this point.
            unsafe {
                let _ = sys::cuStreamSynchronize(self.stream);
                self.staging.free();
                let _ = sys::cuModuleUnload(self.module);
                let _ = sys::cuStreamDestroy_v2(self.stream);
                let _ = sys::cuDevicePrimaryCtxRelease_v2(self.device);
            }
        }
    }
}

impl Driver for Nvidia {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn memory(&self) -> DeviceMemory {
        let (mut free, mut total) = (0, 0);
        // SAFETY: addresses of variables that live as long as the call.
        let known = self.enter().is_ok()
            && unsafe { sys::cuMemGetInfo_v2(&mut free, &mut total) } == CUresult::CUDA_SUCCESS;
        let bytes = |bytes: usize| known.then_some(bytes as u64);
        DeviceMemory { total: bytes(total), available: bytes(free) }
    }

    fn chip(&self) -> Chip {
        self.chip
    }

    fn allocate(&self, bytes: usize) -> Result<Address, EngineError> {
        self.enter()?;
        let mut address = 0;
        // SAFETY: the address of a variable that lives as long as the call.
        match unsafe { sys::cuMemAlloc_v2(&mut address, bytes) } {
            CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
                Err(EngineError::OutOfMemory { what: "the GPU", bytes: bytes as u64 })
            }
            result => check(result).map(|()| address),
        }
    }

    fn free(&self, address: Address) {
        if self.enter().is_ok() {
            // SAFETY: the engine frees what it has allocated, once, and launches that use it have ended.
            unsafe {
                let _ = sys::cuStreamSynchronize(self.stream);
                let _ = sys::cuMemFree_v2(address);
            }
        }
    }

    fn upload(&self, to: Address, bytes: &[u8]) -> Result<(), EngineError> {
        self.enter()?;
        let pieces = bytes.chunks(LARGEST_PINNED).zip((0..).step_by(LARGEST_PINNED));
        for (piece, offset) in pieces {
            self.copy_to(to + offset as Address, piece)?;
        }
        Ok(())
    }

    fn download(&self, from: Address, bytes: &mut [u8]) -> Result<(), EngineError> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.enter()?;
        // SAFETY: the engine copies from memory that it has allocated, and nothing else uses `bytes` until the stream
        // has come so far.
        unsafe {
            let to = bytes.as_mut_ptr().cast::<c_void>();
            check(sys::cuMemcpyDtoHAsync_v2(to, from, bytes.len(), self.stream))?;
            check(sys::cuStreamSynchronize(self.stream))
        }
    }

    fn begin_download(&self, from: Address, len: usize) -> Result<Box<dyn Download>, EngineError> {
        self.enter()?;
        let mut pieces = Vec::new();
        for offset in (0..len).step_by(LARGEST_PINNED) {
            let len = LARGEST_PINNED.min(len - offset);
            let pinned = self.staging.take(len)?;
            // SAFETY: the pinned memory is long enough, and is given back only after its event; the engine copies from
            // memory that it has allocated.
            unsafe {
                let from = from + offset as Address;
                check(sys::cuMemcpyDtoHAsync_v2(pinned.memory, from, len, self.stream))?;
                check(sys::cuEventRecord(pinned.event, self.stream))?;
            }
            pieces.push((pinned, len));
        }
        Ok(Box::new(NvidiaDownload::new(self.context, pieces, self.staging.clone())))
    }

    fn prepare(&self, launches: &[Launch]) -> Result<Box<dyn Program>, EngineError> {
        Ok(Box::new(self.prepared(launches)?))
    }
}
