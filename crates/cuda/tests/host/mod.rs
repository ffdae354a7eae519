//! A driver that runs the kernels on the processor: `host.cpp`, compiled once, stands in for CUDA.

use std::ffi::{CString, c_char, c_int, c_uint, c_void};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};

use crescendo_cuda::{Address, Download, Driver, Launch, Program};
use crescendo_network::{DeviceMemory, EngineError};
use libloading::Library;

type LaunchFunction = unsafe extern "C" fn(
    *const c_char,
    *const c_uint,
    c_uint,
    c_uint,
    *const c_void,
    c_uint,
    c_uint,
    *mut c_char,
    c_uint,
) -> c_int;

static LIBRARY: LazyLock<Library> = LazyLock::new(|| {
    let path = compile();
    // SAFETY: it is our own library, which runs nothing when it is loaded but the registration of kernels.
    #[allow(unsafe_code)]
    unsafe { Library::new(&path) }.unwrap_or_else(|error| panic!("{}: {error}", path.display()))
});

/// Compiles the kernels for the processor.
fn compile() -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let out =
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("kernels-{}.so", std::process::id()));
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".into());
    let flags = [
        "-std=c++17",
        "-O2",
        "-fPIC",
        "-shared",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-Wno-unknown-pragmas",
        "-Wframe-larger-than=32768",
        "-ffp-contract=off",
    ];
    let mut command = Command::new(&compiler);
    command.args(flags).arg(folder.join("tests/host/host.cpp")).arg("-o").arg(&out);
    let output = command.output().unwrap_or_else(|error| panic!("{compiler}: {error}"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    out
}

/// The processor as a device.
pub struct HostDriver {
    schedule: AtomicU32,
}

impl HostDriver {
    pub fn new() -> Self {
        HostDriver { schedule: AtomicU32::new(0) }
    }
}

struct HostProgram {
    launches: Vec<Launch>,
    schedule: u32,
}

struct Finished(Option<Vec<u8>>);

#[allow(unsafe_code)]
impl Driver for HostDriver {
    fn name(&self) -> String {
        "the processor in place of a card".into()
    }

    fn memory(&self) -> DeviceMemory {
        DeviceMemory { total: Some(1 << 34), available: Some(1 << 33) }
    }

    fn allocate(&self, bytes: usize) -> Result<Address, EngineError> {
        // SAFETY: the function has this type.
        let address = unsafe {
            let allocate =
                LIBRARY.get::<unsafe extern "C" fn(u64) -> *mut c_void>(b"crescendo_allocate");
            (allocate.unwrap())(bytes as u64)
        };
        assert!(!address.is_null(), "no memory");
        Ok(address as Address)
    }

    fn free(&self, address: Address) {
        // SAFETY: the address comes from `allocate`, and is freed once.
        unsafe {
            let free = LIBRARY.get::<unsafe extern "C" fn(*mut c_void)>(b"crescendo_free");
            (free.unwrap())(address as *mut c_void);
        }
    }

    fn upload(&self, to: Address, bytes: &[u8]) -> Result<(), EngineError> {
        if !bytes.is_empty() {
            // SAFETY: the engine copies into memory that it has allocated; what is behind it is guarded.
            unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to as *mut u8, bytes.len()) };
        }
        Ok(())
    }

    fn download(&self, from: Address, bytes: &mut [u8]) -> Result<(), EngineError> {
        if !bytes.is_empty() {
            // SAFETY: as for `upload`.
            unsafe {
                std::ptr::copy_nonoverlapping(from as *const u8, bytes.as_mut_ptr(), bytes.len())
            };
        }
        Ok(())
    }

    fn begin_download(&self, from: Address, len: usize) -> Result<Box<dyn Download>, EngineError> {
        let mut bytes = vec![0; len];
        self.download(from, &mut bytes)?;
        Ok(Box::new(Finished(Some(bytes))))
    }

    fn prepare(&self, launches: &[Launch]) -> Result<Box<dyn Program>, EngineError> {
        let schedule = self.schedule.fetch_add(1, Ordering::Relaxed) % 6;
        Ok(Box::new(HostProgram { launches: launches.to_vec(), schedule }))
    }
}

impl Download for Finished {
    fn bytes(&mut self, _: bool) -> Result<Option<Vec<u8>>, EngineError> {
        Ok(self.0.take())
    }
}

#[allow(unsafe_code)]
impl Program for HostProgram {
    fn run(&mut self) -> Result<(), EngineError> {
        for launch in &self.launches {
            let kernel = CString::new(launch.kernel).unwrap();
            let mut error = [0 as c_char; 1024];
            // SAFETY: the function has this type; the kernel reads and writes guarded memory alone.
            let failed = unsafe {
                let function = LIBRARY.get::<LaunchFunction>(b"crescendo_launch").unwrap();
                let (params, len) = (launch.params.as_ptr().cast(), launch.params.len() as c_uint);
                function(
                    kernel.as_ptr(),
                    launch.grid.as_ptr(),
                    launch.threads,
                    launch.shared,
                    params,
                    len,
                    self.schedule,
                    error.as_mut_ptr(),
                    error.len() as c_uint,
                )
            };
            if failed != 0 {
                // SAFETY: the library ends what it writes with a zero.
                let problem = unsafe { std::ffi::CStr::from_ptr(error.as_ptr()) };
                panic!("{}: {}", launch.kernel, problem.to_string_lossy());
            }
        }
        Ok(())
    }

    fn run_timed(&mut self) -> Result<Vec<f64>, EngineError> {
        self.run()?;
        Ok(vec![1e-6; self.launches.len()])
    }
}
