//! What this machine has: processor, threads and memory.

use std::fs;
use std::path::Path;
use std::time::Instant;

use crescendo_kernels::{Isa, ThreadPool};
use crescendo_network::DeviceMemory;
use sysinfo::{MemoryRefreshKind, System};

use crate::{control_groups, cores};

/// The number of threads: `asked`, or if that is 0, one for each physical core that this process may use, and no more
/// than its control group allows.
pub fn threads(asked: usize) -> usize {
    match asked {
        0 => processors().min(cores::physical_cores(Path::new("/")).unwrap_or(usize::MAX)),
        threads => threads,
    }
}

/// The number of threads in words, such as `8 threads, one a core, of 16 processors`; `asked` as in [`threads`].
pub fn threads_in_words(asked: usize) -> String {
    let (threads, processors) = (threads(asked), processors());
    match threads {
        _ if asked == 0 && threads < processors => {
            let s = if threads == 1 { "" } else { "s" };
            format!("{threads} thread{s}, one a core, of {processors} processors")
        }
        1 => "1 thread".to_owned(),
        threads => format!("{threads} threads"),
    }
}

/// The logical processors that this process may use.
fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The seconds that threads take to begin a piece of work together and to end it together: the mean over many pieces
/// without work, on two threads.
pub fn barrier_seconds() -> f64 {
    const PIECES: u32 = 2_000;
    let pool = ThreadPool::new(2);
    let run = || (0..PIECES).for_each(|_| pool.run(2, usize::MAX, |_, _| ()));
    run();
    let begin = Instant::now();
    run();
    begin.elapsed().as_secs_f64() / f64::from(PIECES)
}

/// The instruction sets that the engine has code for and this processor has, the fastest first.
pub fn instruction_sets() -> Vec<&'static str> {
    Isa::available().map(Isa::name).collect()
}

/// The processor's name, if the system tells it.
pub fn processor_name() -> Option<String> {
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("model name"))?;
    Some(line.trim_start_matches([' ', '\t', ':']).trim().to_owned())
}

/// What a thread takes of the address space: a stack, and the region that malloc reserves for it.
const THREAD: u64 = 68 << 20;

/// Bytes of memory that are available before a run's threads are started: the minimum of what is free, what the
/// control groups (of a container or a batch system) have left, and what the process's own limit allows. `None` if
/// nothing is known.
pub(crate) fn available_memory(threads: usize) -> Option<u64> {
    let groups = control_groups::memory(Path::new("/")).map(|groups| groups.available);
    let own_limit = own_limit().map(|left| left.saturating_sub(threads as u64 * THREAD));
    [machine().available, groups, own_limit].into_iter().flatten().min()
}

/// Bytes of memory in all: the least of the machine's, what the control groups allow, and what the process's own
/// limit allows. `None` if nothing is known.
pub(crate) fn total_memory() -> Option<u64> {
    let groups = control_groups::memory(Path::new("/")).map(|groups| groups.limit);
    [machine().total, groups, address_limit()].into_iter().flatten().min()
}

/// The most memory that this process has held so far, in bytes, if the system tells it.
pub fn peak_memory() -> Option<u64> {
    field(&fs::read_to_string("/proc/self/status").ok()?, "VmHWM:").map(|kib| kib << 10)
}

/// The machine's memory, and what of it is available without swapping.
fn machine() -> DeviceMemory {
    let mut system = System::new();
    system.refresh_memory_specifics(MemoryRefreshKind::nothing().with_ram());
    // Zero stands for unknown.
    let known = |bytes: u64| Some(bytes).filter(|&bytes| bytes > 0);
    DeviceMemory {
        total: known(system.total_memory()),
        available: known(system.available_memory()),
    }
}

/// What is left of the limit on the address space (`ulimit -v`).
fn own_limit() -> Option<u64> {
    let limit = address_limit()?;
    let used = field(&fs::read_to_string("/proc/self/status").ok()?, "VmSize:")? << 10;
    Some(limit.saturating_sub(used))
}

fn address_limit() -> Option<u64> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max address space"))?;
    line.split_whitespace().next()?.parse().ok()
}

fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(any(target_os = "linux", target_os = "macos", windows))]
    fn the_system_tells_the_memory() {
        let (available, total) = (available_memory(1).unwrap(), total_memory().unwrap());
        assert!(1 << 20 < available && available <= total, "{available} {total}");
    }
}
