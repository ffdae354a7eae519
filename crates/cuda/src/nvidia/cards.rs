//! What NVIDIA's driver says of this machine.

use std::ffi::CStr;

use cudarc::driver::sys::{self, CUresult};

use super::words;

/// The oldest version of CUDA that the driver must know: that of driver 525.
const OLDEST_VERSION: i32 = 12_000;

/// What NVIDIA's driver says.
///
/// # Example
///
/// ```
/// use crescendo_cuda::{Card, installed};
///
/// let installed = installed();
/// let usable = |card: &&Card| card.problem.is_none();
/// match (installed.cards.iter().find(usable), &installed.problem) {
///     (Some(card), _) => assert!(card.compute_capability >= (8, 0)),
///     // Without a card there is always a reason.
///     (None, problem) => assert!(problem.is_some() || !installed.cards.is_empty()),
/// }
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Installed {
    /// The version of CUDA that the driver knows, such as `12.4`.
    pub driver: Option<String>,
    /// The cards, in the driver's order.
    pub cards: Vec<Card>,
    /// Why there are none, in a sentence.
    pub problem: Option<String>,
}

/// A card that the driver lists; a slice of one, with MIG.
///
/// See the example of [`Installed`].
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
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
