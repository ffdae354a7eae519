//! Signals that ask the program to stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use crescendo::training::Outcome;

use crate::commands::note;

/// Set when the program is asked to stop.
#[derive(Clone, Default)]
pub struct StopRequest {
    /// What the training loop watches.
    pub stop: Arc<AtomicBool>,
    /// The exit code for the signal.
    code: Arc<AtomicU8>,
}

impl StopRequest {
    /// A request that the first signal makes: Ctrl-C, the end of a terminal session, or what batch systems send.
    /// The second one ends the program immediately.
    pub fn on_signals() -> Self {
        let request = StopRequest::default();
        let receiver = request.clone();
        if let Err(error) = listen(move |code| receiver.receive(code)) {
            note(format_args!("warning: Ctrl-C will stop the program without saving ({error})"));
        }
        request
    }

    fn receive(&self, code: u8) {
        self.code.store(code, Ordering::Relaxed);
        if self.stop.swap(true, Ordering::Relaxed) {
            std::process::exit(code.into());
        }
        note(format_args!("Stopping after this step; press Ctrl-C again to stop immediately."));
    }

    /// The exit code after training: that of the signal if it has stopped the training, so that scripts do not
    /// take a stopped run for a finished one.
    pub fn exit_code(&self, outcome: Outcome) -> u8 {
        match outcome {
            Outcome::Interrupted => self.code.load(Ordering::Relaxed),
            _ => 0,
        }
    }
}

/// Has signals that ask the program to stop do nothing: they reach all ranks of an MPI job, and rank 0 acts.
#[cfg(all(feature = "mpi", unix))]
pub fn ignore_signals() {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1};

    for signal in [SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGQUIT] {
        // Where it is not possible, the signal ends this rank, and with it the job.
        let _ = signal_hook::flag::register(signal, Arc::default());
    }
}

/// Calls `receive` with the exit code for each signal, in a thread of its own.
#[cfg(unix)]
fn listen(receive: impl Fn(u8) + Send + 'static) -> std::io::Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1};

    let ignored = ignored_signals();
    // What the program was started to ignore, as by nohup or in the background of a script, stays ignored.
    let wanted = [SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGQUIT].into_iter();
    let wanted = wanted.filter(|signal| ignored >> (signal - 1) & 1 == 0);
    let mut signals = signal_hook::iterator::Signals::new(wanted)?;
    std::thread::spawn(move || {
        for signal in signals.forever() {
            receive(match signal {
                SIGINT => 130,
                SIGHUP => 129,
                _ => 143,
            });
        }
    });
    Ok(())
}

/// The signals that the program was started to ignore, as a bit mask of the numbers from 1, where the system tells
/// it.
#[cfg(unix)]
fn ignored_signals() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default()
}

#[cfg(not(unix))]
fn listen(receive: impl Fn(u8) + Send + 'static) -> Result<(), ctrlc::Error> {
    ctrlc::set_handler(move || receive(130))
}
