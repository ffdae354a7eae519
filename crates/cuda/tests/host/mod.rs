//! A driver that runs the kernels on the processor: `host.cpp`, compiled once, stands in for CUDA.
#![allow(dead_code)] // Not every test uses all of it.

use std::ffi::{CString, c_char, c_int, c_uint, c_void};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock};

use crescendo_cuda::{Address, Chip, CudaDevice, Download, Driver, Launch, Program};
use crescendo_network::{DeviceMemory, EngineConfig, EngineError, PrecisionKind};
use libloading::Library;
use sha2::{Digest, Sha256};

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

/// The kernels, compiled for the processor; or why they are not.
static LIBRARY: LazyLock<Result<Library, String>> = LazyLock::new(|| {
    let path = compile()?;
    // SAFETY: it is our own library, which runs nothing when it is loaded but the registration of kernels.
    #[allow(unsafe_code)]
    let library = unsafe { Library::new(&path) };
    Ok(library.unwrap_or_else(|error| panic!("{}: {error}", path.display())))
});

fn library() -> &'static Library {
    LIBRARY.as_ref().expect("a driver exists only if the library does")
}

/// The library, compiled if no test has compiled the same sources with the same compiler and flags before. Fails if there
/// is no C++ compiler.
fn compile() -> Result<PathBuf, String> {
    let crate_folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".into());
    let version = Command::new(&compiler).arg("--version").output();
    let version =
        version.map_err(|error| format!("there is no C++ compiler ({compiler}: {error})"))?;
    let mut flags = vec![
        "-std=c++17",
        "-O2",
        "-ftree-vectorize",
        "-fPIC",
        "-shared",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-Wno-unknown-pragmas",
        "-Wframe-larger-than=32768",
        "-ffp-contract=off",
    ];
    // Most of the time goes into fmaf, which is a call without them.
    #[cfg(target_arch = "x86_64")]
    if std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma") {
        flags.extend(["-mavx2", "-mfma"]);
    }

    let mut sources = Vec::new();
    for folder in ["kernels", "tests/host"] {
        let entries = std::fs::read_dir(crate_folder.join(folder)).unwrap();
        sources.extend(entries.map(|entry| entry.unwrap().path()).filter(|path| {
            path.extension()
                .is_some_and(|extension| ["cu", "cuh", "cpp"].iter().any(|e| extension == *e))
        }));
    }
    sources.sort();
    let mut hash = Sha256::new();
    hash.update(format!("{compiler} {flags:?}"));
    hash.update(version.stdout);
    for path in sources {
        hash.update(path.file_name().unwrap().as_encoded_bytes());
        hash.update(std::fs::read(&path).unwrap());
    }
    let hash: String = hash.finalize()[..8].iter().map(|byte| format!("{byte:02x}")).collect();

    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let library = folder.join(format!("cuda-kernels-{hash}.so"));
    // One process compiles and the others wait. The file appears when it is complete.
    let lock = File::create(folder.join("cuda-kernels.lock")).unwrap();
    lock.lock().unwrap();
    if !library.exists() {
        let unfinished = folder.join("cuda-kernels-unfinished.so");
        let mut command = Command::new(&compiler);
        command
            .args(flags)
            .arg(crate_folder.join("tests/host/host.cpp"))
            .arg("-o")
            .arg(&unfinished);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        std::fs::rename(&unfinished, &library).unwrap();
    }
    Ok(library)
}

/// The processor as a device.
pub struct HostDriver {
    /// The schedule of all launches; in turns if there is none.
    schedule: Option<u32>,
    /// Whether the products of warpgroups are used.
    warpgroups: bool,
    programs: AtomicU32,
    /// How often a program was run.
    pub runs: Arc<AtomicU32>,
}

/// Orders in which threads run; see `host.cpp`.
pub const SCHEDULES: u32 = 6;

impl HostDriver {
    /// Takes the schedules in turns. Fails if there is no C++ compiler.
    pub fn new() -> Result<Self, String> {
        LIBRARY.as_ref().map_err(Clone::clone)?;
        let (programs, runs) = (AtomicU32::new(0), Arc::default());
        Ok(HostDriver { schedule: None, warpgroups: false, programs, runs })
    }

    /// As a card of Hopper's, with the products of warpgroups.
    pub fn hopper(self) -> Self {
        HostDriver { warpgroups: true, ..self }
    }

    /// Runs everything in one schedule.
    pub fn with_schedule(schedule: u32) -> Result<Self, String> {
        Ok(HostDriver { schedule: Some(schedule), ..HostDriver::new()? })
    }
}

/// The processor as the device of engines.
pub fn device(driver: HostDriver, precision: PrecisionKind) -> CudaDevice {
    let config = EngineConfig { precision, ..EngineConfig::default() };
    CudaDevice::new(Arc::new(driver), &config)
}

struct HostProgram {
    launches: Vec<Launch>,
    schedule: u32,
    runs: Arc<AtomicU32>,
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

    /// So few multiprocessors that blocks go through several tiles.
    fn chip(&self) -> Chip {
        Chip { multiprocessors: 2, warpgroups: self.warpgroups }
    }

    fn allocate(&self, bytes: usize) -> Result<Address, EngineError> {
        // SAFETY: the function has this type.
        let address = unsafe {
            let allocate =
                library().get::<unsafe extern "C" fn(u64) -> *mut c_void>(b"crescendo_allocate");
            (allocate.unwrap())(bytes as u64)
        };
        assert!(!address.is_null(), "no memory");
        Ok(address as Address)
    }

    fn free(&self, address: Address) {
        // SAFETY: the address comes from `allocate`, and is freed once.
        unsafe {
            let free = library().get::<unsafe extern "C" fn(*mut c_void)>(b"crescendo_free");
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
        let turn = || self.programs.fetch_add(1, Ordering::Relaxed) % SCHEDULES;
        let schedule = self.schedule.unwrap_or_else(turn);
        Ok(Box::new(HostProgram { launches: launches.to_vec(), schedule, runs: self.runs.clone() }))
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
        self.runs.fetch_add(1, Ordering::Relaxed);
        for launch in &self.launches {
            let kernel = CString::new(launch.kernel).unwrap();
            let mut error = [0 as c_char; 1024];
            // SAFETY: the function has this type; the kernel reads and writes guarded memory alone.
            let failed = unsafe {
                let function = library().get::<LaunchFunction>(b"crescendo_launch").unwrap();
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
