//! Launches that are run together.

use std::ffi::c_void;
use std::ptr;

use crescendo_network::EngineError;
use cudarc::driver::sys;

use super::check;
use crate::driver::{Launch, Program};

/// Launches, as a CUDA graph if there are several.
pub(super) struct NvidiaProgram {
    context: sys::CUcontext,
    stream: sys::CUstream,
    launches: Vec<(sys::CUfunction, Launch)>,
    graph: sys::CUgraphExec,
}

// SAFETY: the driver's objects may be used from any thread that has made the context its own, as every method does
// first.
unsafe impl Send for NvidiaProgram {}

impl NvidiaProgram {
    pub fn new(
        context: sys::CUcontext,
        stream: sys::CUstream,
        launches: Vec<(sys::CUfunction, Launch)>,
    ) -> Result<NvidiaProgram, EngineError> {
        let mut program = NvidiaProgram { context, stream, launches, graph: ptr::null_mut() };
        // A single launch gains nothing from a graph.
        if program.launches.len() > 1 {
            program.capture()?;
        }
        Ok(program)
    }

    fn enter(&self) -> Result<(), EngineError> {
        // SAFETY: programs are dropped before their driver.
        check(unsafe { sys::cuCtxSetCurrent(self.context) })
    }

    fn launch(
        &self,
        (function, launch): &(sys::CUfunction, Launch),
        stream: sys::CUstream,
    ) -> Result<(), EngineError> {
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
                stream,
                &mut params,
                ptr::null_mut(),
            )
        })
    }

    fn capture(&mut self) -> Result<(), EngineError> {
        let (mut graph, mut stream) = (ptr::null_mut(), ptr::null_mut());
        // SAFETY: the stream is for this alone: another engine of the device may use the device's own at the same time. The
        // graph holds copies of all parameters.
        unsafe {
            let kind = sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
            check(sys::cuStreamCreate(&mut stream, kind))?;
            let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
            let begun = check(sys::cuStreamBeginCapture_v2(stream, mode));
            let launched = begun.and_then(|()| {
                self.launches.iter().try_for_each(|launch| self.launch(launch, stream))
            });
            let ended = check(sys::cuStreamEndCapture(stream, &mut graph));
            let _ = sys::cuStreamDestroy_v2(stream);
            launched.and(ended)?;
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
            return self.launches.iter().try_for_each(|launch| self.launch(launch, self.stream));
        }
        // SAFETY: the graph and the stream are alive.
        check(unsafe { sys::cuGraphLaunch(self.graph, self.stream) })
    }

    fn run_timed(&mut self) -> Result<Vec<f64>, EngineError> {
        self.enter()?;
        let mut events = Events(Vec::new());
        events.record(self.stream)?;
        for launch in &self.launches {
            self.launch(launch, self.stream)?;
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
