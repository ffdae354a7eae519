//! NVIDIA's driver: the one file that calls it. Its library is loaded when it is first needed.
#![allow(unsafe_code)]

use std::collections::HashMap;
use std::ffi::{CStr, CString, c_void};
use std::ptr;
use std::sync::{Arc, Mutex, MutexGuard};

use crescendo_network::{DeviceMemory, EngineError};
use cudarc::driver::sys::{self, CUfunction_attribute, CUresult};

use crate::code;
use crate::driver::{Address, Download, Driver, Launch, Program};
use crate::params::PeakParams;
use crate::pass::launch;

/// The oldest version of CUDA that the driver must know: that of driver 525.
const OLDEST_VERSION: i32 = 12_000;

/// Shared memory that a kernel gets without being asked for more.
const DEFAULT_SHARED: u32 = 48 * 1024;

/// What NVIDIA's driver says of this machine.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Installed {
    /// The version of CUDA that the driver knows, such as `12.4`.
    pub driver: Option<String>,
    /// The cards, in the driver's order.
    pub cards: Vec<Card>,
    /// Why there are none, in a sentence.
    pub problem: Option<String>,
}

/// A card that the driver lists; a slice of one, with MIG.
#[derive(Clone, Debug, PartialEq)]
pub struct Card {
    /// Its number, from 0.
    pub index: usize,
    /// Such as `NVIDIA H100 80GB HBM3`.
    pub name: String,
    /// All of its memory, in bytes.
    pub memory: Option<u64>,
    /// Such as `(9, 0)`.
    pub compute_capability: (u32, u32),
    /// Why it cannot be used, in a sentence.
    pub problem: Option<String>,
}

/// Asks NVIDIA's driver what there is.
pub fn installed() -> Installed {
    match version() {
        Err(problem) => Installed { problem: Some(problem), ..Installed::default() },
        Ok(version) => {
            let driver = Some(format!("{}.{}", version / 1000, version % 1000 / 10));
            match cards(version) {
                Ok(cards) => Installed { driver, cards, problem: None },
                Err(problem) => Installed { driver, cards: Vec::new(), problem: Some(problem) },
            }
        }
    }
}

/// The version of CUDA that the driver knows, as `1000 * major + 10 * minor`.
fn version() -> Result<i32, String> {
    // SAFETY: it only tries to load the driver's library.
    if !unsafe { sys::is_culib_present() } {
        return Err("NVIDIA's driver is not installed".into());
    }
    let mut version = 0;
    // SAFETY: every version of the library has this function.
    let result = unsafe { sys::cuDriverGetVersion(&mut version) };
    match result {
        CUresult::CUDA_SUCCESS => Ok(version),
        error => Err(format!("NVIDIA's driver does not answer ({})", words(error))),
    }
}

fn cards(version: i32) -> Result<Vec<Card>, String> {
    if version < OLDEST_VERSION {
        let (major, minor) = (version / 1000, version % 1000 / 10);
        return Err(format!(
            "NVIDIA's driver is too old (CUDA {major}.{minor}): install version 525 or newer"
        ));
    }
    // SAFETY: plain calls, with addresses of variables that live as long as the calls.
    unsafe {
        let in_words = |result: CUresult| match result {
            CUresult::CUDA_SUCCESS => Ok(()),
            CUresult::CUDA_ERROR_NO_DEVICE => Err(no_card()),
            error => Err(format!("NVIDIA's driver cannot start ({})", words(error))),
        };
        in_words(sys::cuInit(0))?;
        let mut count = 0;
        in_words(sys::cuDeviceGetCount(&mut count))?;
        if count == 0 {
            return Err(no_card());
        }
        Ok((0..count as usize).map(|index| card(index)).collect())
    }
}

/// Why the driver lists no card.
fn no_card() -> String {
    match std::env::var_os("CUDA_VISIBLE_DEVICES") {
        Some(visible) => {
            let visible = visible.to_string_lossy();
            format!("CUDA_VISIBLE_DEVICES is '{visible}', so NVIDIA's driver shows no card")
        }
        None => "NVIDIA's driver finds no card".into(),
    }
}

/// # Safety
/// The driver has been started, and there is such a card.
unsafe fn card(index: usize) -> Card {
    let (mut device, mut bytes) = (0, 0);
    let (mut major, mut minor) = (0, 0);
    let mut name = [0; 256];
    // SAFETY: the caller's promise; addresses of variables that live as long as the calls.
    let result = unsafe {
        use sys::CUdevice_attribute::{
            CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR as MAJOR,
            CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR as MINOR,
        };
        let results = [
            sys::cuDeviceGet(&mut device, index as i32),
            sys::cuDeviceGetName(name.as_mut_ptr(), name.len() as i32 - 1, device),
            sys::cuDeviceTotalMem_v2(&mut bytes, device),
            sys::cuDeviceGetAttribute(&mut major, MAJOR, device),
            sys::cuDeviceGetAttribute(&mut minor, MINOR, device),
        ];
        results.into_iter().find(|&result| result != CUresult::CUDA_SUCCESS)
    };
    // SAFETY: the last byte of the array is zero.
    let name = unsafe { CStr::from_ptr(name.as_ptr()) }.to_string_lossy().into_owned();
    let problem = match result {
        Some(error) => Some(format!("NVIDIA's driver cannot describe it ({})", words(error))),
        None if major < 8 => Some(format!(
            "its compute capability is {major}.{minor}, but the CUDA engine needs 8.0 (Ampere) or newer"
        )),
        None => None,
    };
    let memory = (bytes > 0).then_some(bytes as u64);
    Card { index, name, memory, compute_capability: (major as u32, minor as u32), problem }
}

/// Opens a card: the one with this number, or else the first that can be used.
///
/// # Errors
/// [`EngineError::Unsupported`] if there is no such card or it cannot be used, in a sentence.
pub fn open(index: Option<usize>) -> Result<Arc<dyn Driver>, EngineError> {
    let Installed { cards, problem, .. } = installed();
    let unsupported = |problem: String| EngineError::Unsupported(problem);
    if let Some(problem) = problem {
        return Err(unsupported(problem));
    }
    let card = match index {
        Some(index) => cards.iter().find(|card| card.index == index),
        None => cards.iter().find(|card| card.problem.is_none()).or(cards.first()),
    };
    let Some(card) = card else {
        let count = cards.len();
        let plural = if count == 1 { "" } else { "s" };
        return Err(unsupported(format!(
            "there is no card {}: NVIDIA's driver lists {count} card{plural}, counted from 0",
            index.unwrap_or(0)
        )));
    };
    if let Some(problem) = &card.problem {
        return Err(unsupported(format!("{} cannot be used: {problem}", card.name)));
    }
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
        let code = code::for_capability(card.compute_capability).expect("the card was checked");
        let mut device = 0;
        let (mut context, mut stream, mut module) =
            (ptr::null_mut(), ptr::null_mut(), ptr::null_mut());
        let taken = |result: CUresult| match result {
            CUresult::CUDA_SUCCESS => Ok(()),
            error => Err(EngineError::Unsupported(format!(
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
        Ok(Nvidia {
            name: card.name.clone(),
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
            let attribute = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            let most = launch.shared.max(crate::window::SHARED_BYTES as u32);
            if most > DEFAULT_SHARED {
                check(sys::cuFuncSetAttribute(function, attribute, most as i32))?;
            }
        }
        functions.insert(launch.kernel, function);
        Ok(function)
    }

    fn prepared(&self, launches: &[Launch]) -> Result<NvidiaProgram, EngineError> {
        self.enter()?;
        let launches = launches.iter().map(|launch| Ok((self.function(launch)?, launch.clone())));
        let launches = launches.collect::<Result<Vec<_>, EngineError>>()?;
        let mut program = NvidiaProgram {
            context: self.context,
            stream: self.stream,
            launches,
            graph: ptr::null_mut(),
        };
        // A single launch gains nothing from a graph.
        if program.launches.len() > 1 {
            program.capture()?;
        }
        Ok(program)
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
        let pinned = self.staging.take(len)?;
        // SAFETY: the pinned memory is long enough, and is given back only after its event.
        unsafe {
            check(sys::cuMemcpyDtoHAsync_v2(pinned.memory, from, len, self.stream))?;
            check(sys::cuEventRecord(pinned.event, self.stream))?;
        }
        let staging = self.staging.clone();
        Ok(Box::new(NvidiaDownload { context: self.context, pinned: Some(pinned), len, staging }))
    }

    fn prepare(&self, launches: &[Launch]) -> Result<Box<dyn Program>, EngineError> {
        Ok(Box::new(self.prepared(launches)?))
    }

    fn measure_peak(&self) -> Result<f64, EngineError> {
        const BLOCKS: usize = 8 * 1024;
        const THREADS: usize = 256;
        const ITERATIONS: usize = 4096;
        const PRODUCTS: usize = 16;
        let out = self.allocate(4 * BLOCKS * THREADS)?;
        let params = PeakParams { out, iterations: ITERATIONS as i64 };
        let launches = vec![launch("peak_f32", [BLOCKS, 1, 1], 0, &params); 3];
        let seconds = self.prepared(&launches).and_then(|mut program| program.run_timed());
        self.free(out);
        let best = seconds?.into_iter().fold(f64::INFINITY, f64::min);
        Ok((2 * BLOCKS * THREADS * ITERATIONS * PRODUCTS) as f64 / best)
    }
}

/// The largest piece of pinned memory: longer copies are cut.
const LARGEST_PINNED: usize = 32 << 20;

/// Memory of the host that the card reads and writes by itself, with an event that passes when it has.
struct Pinned {
    memory: *mut c_void,
    len: usize,
    event: sys::CUevent,
}

// SAFETY: the memory is this value's own, and events may be used from any thread.
unsafe impl Send for Pinned {}

/// Pinned memory that is used again and again.
#[derive(Default)]
struct Staging(Mutex<Vec<Pinned>>);

impl Staging {
    /// Memory of at least so many bytes that no copy uses any more.
    fn take(&self, len: usize) -> Result<Pinned, EngineError> {
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
    fn give_back(&self, pinned: Pinned) {
        lock(&self.0).push(pinned);
    }

    /// Frees all memory.
    ///
    /// # Safety
    /// No copy uses it any more, and the context is the thread's own.
    unsafe fn free(&self) {
        for pinned in lock(&self.0).drain(..) {
            // SAFETY: the caller's promise.
            unsafe {
                let _ = sys::cuEventDestroy_v2(pinned.event);
                let _ = sys::cuMemFreeHost(pinned.memory);
            }
        }
    }
}

struct NvidiaDownload {
    context: sys::CUcontext,
    pinned: Option<Pinned>,
    len: usize,
    staging: Arc<Staging>,
}

// SAFETY: a context may be made current on any thread.
unsafe impl Send for NvidiaDownload {}

impl Download for NvidiaDownload {
    fn bytes(&mut self, wait: bool) -> Result<Option<Vec<u8>>, EngineError> {
        let Some(pinned) = &self.pinned else { return Ok(None) };
        // SAFETY: the context and the event are alive; the bytes are all there once the event has passed.
        let bytes = unsafe {
            check(sys::cuCtxSetCurrent(self.context))?;
            let result = match wait {
                true => sys::cuEventSynchronize(pinned.event),
                false => sys::cuEventQuery(pinned.event),
            };
            if result == CUresult::CUDA_ERROR_NOT_READY {
                return Ok(None);
            }
            check(result)?;
            std::slice::from_raw_parts(pinned.memory.cast::<u8>(), self.len).to_vec()
        };
        self.staging.give_back(self.pinned.take().expect("it was there"));
        Ok(Some(bytes))
    }
}

impl Drop for NvidiaDownload {
    fn drop(&mut self) {
        if let Some(pinned) = self.pinned.take() {
            self.staging.give_back(pinned);
        }
    }
}

/// Launches, as a CUDA graph if there are several.
struct NvidiaProgram {
    context: sys::CUcontext,
    stream: sys::CUstream,
    launches: Vec<(sys::CUfunction, Launch)>,
    graph: sys::CUgraphExec,
}

// SAFETY: the driver's objects may be used from any thread that has made the context its own, as every method does
// first.
unsafe impl Send for NvidiaProgram {}

impl NvidiaProgram {
    fn enter(&self) -> Result<(), EngineError> {
        // SAFETY: programs are dropped before their driver.
        check(unsafe { sys::cuCtxSetCurrent(self.context) })
    }

    fn launch(&self, (function, launch): &(sys::CUfunction, Launch)) -> Result<(), EngineError> {
        let [x, y, z] = launch.grid;
        let mut params = launch.params.as_ptr().cast_mut().cast::<c_void>();
        // SAFETY: a kernel has one parameter, of which these are the bytes; the driver copies them. That kernels stay
        // inside the memory that they are given is held by the tests, which run them between guard pages.
        check(unsafe {
            sys::cuLaunchKernel(
                *function,
                x,
                y,
                z,
                launch.threads,
                1,
                1,
                launch.shared,
                self.stream,
                &mut params,
                ptr::null_mut(),
            )
        })
    }

    fn capture(&mut self) -> Result<(), EngineError> {
        let mut graph = ptr::null_mut();
        // SAFETY: nothing else uses the stream: the engine is borrowed. The graph holds copies of all parameters.
        unsafe {
            let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
            check(sys::cuStreamBeginCapture_v2(self.stream, mode))?;
            let launched = self.launches.iter().try_for_each(|launch| self.launch(launch));
            check(sys::cuStreamEndCapture(self.stream, &mut graph))?;
            launched?;
            let result = sys::cuGraphInstantiateWithFlags(&mut self.graph, graph, 0);
            let _ = sys::cuGraphDestroy(graph);
            check(result)
        }
    }
}

impl Program for NvidiaProgram {
    fn run(&mut self) -> Result<(), EngineError> {
        self.enter()?;
        if self.graph.is_null() {
            return self.launches.iter().try_for_each(|launch| self.launch(launch));
        }
        // SAFETY: the graph and the stream are alive.
        check(unsafe { sys::cuGraphLaunch(self.graph, self.stream) })
    }

    fn run_timed(&mut self) -> Result<Vec<f64>, EngineError> {
        self.enter()?;
        let mut events = Events(Vec::new());
        events.record(self.stream)?;
        for launch in &self.launches {
            self.launch(launch)?;
            events.record(self.stream)?;
        }
        // SAFETY: the stream is alive.
        check(unsafe { sys::cuStreamSynchronize(self.stream) })?;
        events.seconds()
    }
}

impl Drop for NvidiaProgram {
    fn drop(&mut self) {
        if !self.graph.is_null() && self.enter().is_ok() {
            // SAFETY: it is destroyed once, and its runs have ended.
            unsafe {
                let _ = sys::cuStreamSynchronize(self.stream);
                let _ = sys::cuGraphExecDestroy(self.graph);
            }
        }
    }
}

/// Events that are destroyed with it.
struct Events(Vec<sys::CUevent>);

impl Events {
    fn record(&mut self, stream: sys::CUstream) -> Result<(), EngineError> {
        let mut event = ptr::null_mut();
        // SAFETY: the context is current and the stream alive.
        unsafe {
            check(sys::cuEventCreate(&mut event, 0))?;
            self.0.push(event);
            check(sys::cuEventRecord(event, stream))
        }
    }

    /// The seconds between neighbours, all of which have passed.
    fn seconds(&self) -> Result<Vec<f64>, EngineError> {
        let pairs = self.0.windows(2).map(|pair| {
            let mut milliseconds = 0.0f32;
            // SAFETY: both events have been recorded and have passed.
            check(unsafe { sys::cuEventElapsedTime(&mut milliseconds, pair[0], pair[1]) })?;
            Ok(f64::from(milliseconds) / 1e3)
        });
        pairs.collect()
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        for &event in &self.0 {
            // SAFETY: each is destroyed once.
            let _ = unsafe { sys::cuEventDestroy_v2(event) };
        }
    }
}

/// A driver that plans for a card that is not there: it has a name and memory, and runs nothing.
pub fn planning_driver(memory: Option<u64>) -> Arc<dyn Driver> {
    Arc::new(Planning(memory))
}

struct Planning(Option<u64>);

impl Planning {
    fn refuse<T>(&self) -> Result<T, EngineError> {
        Err(EngineError::Unsupported("there is no card: it was opened for planning alone".into()))
    }
}

impl Driver for Planning {
    fn name(&self) -> String {
        "NVIDIA GPU".into()
    }
    fn memory(&self) -> DeviceMemory {
        DeviceMemory { total: self.0, available: self.0 }
    }
    fn allocate(&self, _: usize) -> Result<Address, EngineError> {
        self.refuse()
    }
    fn free(&self, _: Address) {}
    fn upload(&self, _: Address, _: &[u8]) -> Result<(), EngineError> {
        self.refuse()
    }
    fn download(&self, _: Address, _: &mut [u8]) -> Result<(), EngineError> {
        self.refuse()
    }
    fn begin_download(&self, _: Address, _: usize) -> Result<Box<dyn Download>, EngineError> {
        self.refuse()
    }
    fn prepare(&self, _: &[Launch]) -> Result<Box<dyn Program>, EngineError> {
        self.refuse()
    }
    fn measure_peak(&self) -> Result<f64, EngineError> {
        self.refuse()
    }
}
