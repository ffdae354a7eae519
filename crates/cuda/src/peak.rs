//! The peak rates of a device, by kernels that do nothing else: `kernels/peak.cu`.

use crescendo_network::{EngineError, Peaks};

use crate::driver::{Driver, Launch};
use crate::params::{CopyParams, PeakParams};
use crate::pass::launch;
use crate::plan::Precision;
use crate::window::THREADS;

/// Blocks of the kernels that compute, many times what a card runs at once.
const BLOCKS: usize = 8 * 1024;
/// Multiply-adds of a thread for each iteration of `peak_f32`.
const PRODUCTS: usize = 16;
/// Products of matrices of a warp for each iteration of `peak_bf16`, and the floating-point operations of one.
const MATRICES: usize = 8;
const MATRIX_FLOPS: usize = 2 * 16 * 8 * 16;
/// Units of 16 bytes that a thread copies.
const COPY_UNITS: usize = 4;
/// Bytes that are copied: many times what the second-level cache holds. Less if there is no room.
const COPY_BYTES: [usize; 3] = [512 << 20, 256 << 20, 128 << 20];
/// Launches of each kernel, of which the fastest counts.
const LAUNCHES: usize = 4;

/// Measures them, those of the matrix units if the precision uses them.
pub(crate) fn measure(driver: &dyn Driver, precision: Precision) -> Result<Peaks, EngineError> {
    let threads = THREADS as usize;
    let mut peaks = Peaks::default();
    peaks.flops = computing(driver, "peak_f32", 4096, 2 * threads * PRODUCTS)?;
    peaks.matrix_flops = match precision {
        Precision::F32 => None,
        Precision::Bf16 => {
            let per_block = threads / 32 * MATRICES * MATRIX_FLOPS;
            Some(computing(driver, "peak_bf16", 1024, per_block)?)
        }
    };
    for bytes in COPY_BYTES {
        match copying(driver, bytes) {
            Err(EngineError::OutOfMemory { .. }) => {}
            rate => {
                peaks.copy_bytes = Some(rate?);
                break;
            }
        }
    }
    Ok(peaks)
}

/// Floating-point operations a second of a kernel, of which a block does so many in an iteration.
fn computing(
    driver: &dyn Driver,
    kernel: &'static str,
    iterations: usize,
    per_block: usize,
) -> Result<f64, EngineError> {
    let out = driver.allocate(4 * BLOCKS * THREADS as usize)?;
    let params = PeakParams { out, iterations: iterations as i64 };
    let seconds = fastest(driver, vec![launch(kernel, [BLOCKS, 1, 1], 0, &params); LAUNCHES]);
    driver.free(out);
    Ok((BLOCKS * iterations * per_block) as f64 / seconds?)
}

/// Bytes a second of a copy, those read and those written.
fn copying(driver: &dyn Driver, bytes: usize) -> Result<f64, EngineError> {
    let from = driver.allocate(bytes)?;
    let copied = driver.allocate(bytes).and_then(|to| {
        let units = bytes / 16;
        let blocks = units.div_ceil(THREADS as usize * COPY_UNITS);
        let params = CopyParams { from, to, units: units as i64 };
        let fill = CopyParams { from: 0, to: from, ..params };
        let prepared = driver
            .prepare(&[launch("peak_copy", [blocks, 1, 1], 0, &fill)])
            .and_then(|mut program| program.run_timed());
        let copies = vec![launch("peak_copy", [blocks, 1, 1], 0, &params); LAUNCHES];
        let seconds = prepared.and_then(|_| fastest(driver, copies));
        driver.free(to);
        seconds
    });
    driver.free(from);
    Ok(2.0 * bytes as f64 / copied?)
}

/// Seconds of the fastest launch.
fn fastest(driver: &dyn Driver, launches: Vec<Launch>) -> Result<f64, EngineError> {
    let seconds = driver.prepare(&launches)?.run_timed()?;
    Ok(seconds.into_iter().fold(f64::INFINITY, f64::min))
}
