//! The driver: what runs kernels and owns the device's memory. NVIDIA's is one (`nvidia/`); the tests have another,
//! which runs the same kernels on the processor.

use std::sync::Arc;

use crescendo_network::{DeviceMemory, EngineError};

/// An address in the device's memory.
///
/// See the example of [`Driver`].
pub type Address = u64;

/// Runs kernels on one device. Everything takes effect in the order of the calls. Calls may return before the device
/// has finished; an error of the device may be reported by a later call.
///
/// # Example
///
/// ```
/// use crescendo_cuda::{Address, Download, Driver, Launch, Program, planning_driver};
/// use crescendo_network::EngineError;
///
/// /// Runs launches, and returns the bytes that lie at an address then.
/// fn run(driver: &dyn Driver, launches: &[Launch], at: Address, len: usize) -> Result<Vec<u8>, EngineError> {
///     let mut program: Box<dyn Program> = driver.prepare(launches)?;
///     program.run()?;
///     let mut download: Box<dyn Download> = driver.begin_download(at, len)?;
///     Ok(download.bytes(true)?.expect("it has waited"))
/// }
/// let launch = Launch { kernel: "exchange", grid: [64, 1, 1], threads: 256, shared: 0, params: vec![0; 24] };
/// // The driver of a card that is not there says so.
/// let error = run(&*planning_driver(None), &[launch], 0, 16).unwrap_err();
/// assert_eq!(error.to_string(), "there is no card: it was opened for planning alone");
/// ```
pub trait Driver: Send + Sync {
    /// What the device is, such as `NVIDIA H100 80GB HBM3`.
    fn name(&self) -> String;

    /// The device's memory.
    fn memory(&self) -> DeviceMemory;

    /// What the choice of kernels depends on.
    fn chip(&self) -> Chip;

    /// Allocates memory; its address is a multiple of 256. What it holds is undefined.
    ///
    /// # Errors
    /// If there is too little memory.
    fn allocate(&self, bytes: usize) -> Result<Address, EngineError>;

    /// Frees memory that [`allocate`](Self::allocate) gave.
    fn free(&self, address: Address);

    /// Copies to the device. The bytes may change as soon as it returns.
    ///
    /// # Errors
    /// If the device fails.
    fn upload(&self, to: Address, bytes: &[u8]) -> Result<(), EngineError>;

    /// Copies from the device, after all that was queued before.
    ///
    /// # Errors
    /// If the device fails.
    fn download(&self, from: Address, bytes: &mut [u8]) -> Result<(), EngineError>;

    /// As [`download`](Self::download), but without waiting: the bytes are there when the download is finished.
    ///
    /// # Errors
    /// If the device fails.
    fn begin_download(&self, from: Address, len: usize) -> Result<Box<dyn Download>, EngineError>;

    /// Prepares launches to be run together, any number of times. No launch is in flight while another one of the
    /// same device runs.
    ///
    /// # Errors
    /// If there is no such kernel.
    fn prepare(&self, launches: &[Launch]) -> Result<Box<dyn Program>, EngineError>;
}

/// What the choice of kernels depends on.
///
/// # Example
///
/// ```
/// use crescendo_cuda::{Chip, planning_driver};
///
/// let chip: Chip = planning_driver(Some(80 << 30)).chip();
/// assert_eq!(chip.multiprocessors, 132);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chip {
    /// How many multiprocessors it has: kernels that go through several tiles start as many blocks as run at a time.
    pub multiprocessors: usize,
    /// Whether it has the products of warpgroups (Hopper).
    pub warpgroups: bool,
}

/// Launches that were prepared.
///
/// See the example of [`Driver`].
pub trait Program: Send {
    /// Queues the launches.
    ///
    /// # Errors
    /// If the device fails.
    fn run(&mut self) -> Result<(), EngineError>;

    /// Runs the launches and waits; returns the seconds that each took.
    ///
    /// # Errors
    /// If the device fails.
    fn run_timed(&mut self) -> Result<Vec<f64>, EngineError>;
}

/// A download that may not be finished.
///
/// See the example of [`Driver`].
pub trait Download: Send {
    /// The bytes, or `None` if they are not there yet and `wait` is false.
    ///
    /// # Errors
    /// If the device failed.
    fn bytes(&mut self, wait: bool) -> Result<Option<Vec<u8>>, EngineError>;
}

/// One launch of a kernel.
///
/// See the example of [`Driver`].
#[derive(Clone, Debug, PartialEq)]
pub struct Launch {
    /// The kernel's name.
    pub kernel: &'static str,
    /// Blocks in x, y and z.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub threads: u32,
    /// Bytes of shared memory of a block.
    pub shared: u32,
    /// The kernel's parameters: the bytes of one struct.
    pub params: Vec<u8>,
}

/// Memory on a device, freed when it is dropped.
pub(crate) struct Buffer {
    driver: Arc<dyn Driver>,
    pub address: Address,
    pub len: usize,
}

impl Buffer {
    pub fn new(driver: &Arc<dyn Driver>, len: usize) -> Result<Buffer, EngineError> {
        let address = if len == 0 { 0 } else { driver.allocate(len)? };
        Ok(Buffer { driver: driver.clone(), address, len })
    }

    /// Zeros.
    pub fn zeros(driver: &Arc<dyn Driver>, len: usize) -> Result<Buffer, EngineError> {
        let buffer = Buffer::new(driver, len)?;
        driver.upload(buffer.address, &vec![0; len])?;
        Ok(buffer)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.len > 0 {
            self.driver.free(self.address);
        }
    }
}
