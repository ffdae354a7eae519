//! What this machine has: threads, instructions and memory.

use std::fs;

use crescendo_network::Isa;
use serde::{Deserialize, Serialize};

use crate::Error;

/// What computes: results depend on the instructions, not on the threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Threads that compute.
    pub threads: usize,
    /// The instructions they use.
    pub isa: Isa,
}

/// Which instructions to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IsaChoice {
    /// The fastest that the processor has.
    #[default]
    Auto,
    /// AVX-512 (x86).
    Avx512,
    /// AVX2 with FMA (x86).
    Avx2,
    /// What every processor of the program's target has.
    Portable,
}

impl IsaChoice {
    /// Its name in recipes and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            IsaChoice::Auto => "auto",
            IsaChoice::Avx512 => "avx512",
            IsaChoice::Avx2 => "avx2",
            IsaChoice::Portable => "portable",
        }
    }

    /// The instructions, if this processor has them.
    ///
    /// # Errors
    /// Says which it has.
    pub fn isa(self) -> Result<Isa, Error> {
        if self == IsaChoice::Auto {
            return Ok(Isa::best());
        }
        Isa::new(self.name()).ok_or_else(|| {
            let has = Isa::available().map(Isa::name).collect::<Vec<_>>().join(", ");
            Error::Recipe(format!(
                "engine.isa is {}, which this processor does not have: use auto, or one of {has}",
                self.name()
            ))
        })
    }

    /// What `auto` means on this processor.
    pub(crate) fn resolved(self) -> Result<IsaChoice, Error> {
        let isa = self.isa()?;
        let all = [IsaChoice::Avx512, IsaChoice::Avx2, IsaChoice::Portable];
        Ok(all.into_iter().find(|choice| choice.name() == isa.name()).unwrap_or(self))
    }
}

/// How many threads compute, where `asked` may be 0 for one on every processor.
pub fn threads(asked: usize) -> usize {
    match asked {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        threads => threads,
    }
}

/// Bytes that a run takes beside what [`crate::memory`] counts.
const BESIDE: u64 = 64 << 20;
/// What a thread takes of the address space: a stack, and the region that malloc reserves for it.
const THREAD: u64 = 68 << 20;

/// Bytes of memory that are left for what [`crate::memory`] counts, before a run's threads are
/// started: the least of what is free, what a container allows, and what the process's own limit
/// allows; `None` where nothing is known. A run that has been begun fits again, though a little
/// more is taken then.
pub(crate) fn memory_for_run(threads: usize, begun: bool) -> Option<u64> {
    let own_limit = own_limit().map(|left| left.saturating_sub(threads as u64 * THREAD));
    let least = [free(), container(), own_limit].into_iter().flatten().min();
    least.map(|left| left.saturating_sub(if begun { BESIDE / 2 } else { BESIDE }))
}

/// Bytes of memory that there are in all: the least of the machine's, what a container allows, and what
/// the process's own limit allows; `None` where nothing is known.
pub(crate) fn total_memory() -> Option<u64> {
    let machine = fs::read_to_string("/proc/meminfo").ok();
    let machine = machine.and_then(|text| field(&text, "MemTotal:")).map(|kib| kib << 10);
    [machine, container_limit(), address_limit()].into_iter().flatten().min()
}

/// Bytes of memory that this process held at most, where the system says it.
pub fn peak_memory() -> Option<u64> {
    field(&fs::read_to_string("/proc/self/status").ok()?, "VmHWM:").map(|kib| kib << 10)
}

/// Linux's estimate of what can be had without swapping.
fn free() -> Option<u64> {
    field(&fs::read_to_string("/proc/meminfo").ok()?, "MemAvailable:").map(|kib| kib << 10)
}

/// What the control group has left.
fn container() -> Option<u64> {
    CONTROL_GROUPS
        .iter()
        .find_map(|[limit, used]| Some(number(limit)?.saturating_sub(number(used)?)))
}

/// The files with the control group's limit and what of it is used, in either version.
const CONTROL_GROUPS: [[&str; 2]; 2] = [
    ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"],
    ["/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"],
];

fn container_limit() -> Option<u64> {
    CONTROL_GROUPS.iter().find_map(|[limit, _]| number(limit))
}

fn number(path: &str) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
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
    #[cfg(target_os = "linux")]
    fn this_machine_has_memory() {
        let bytes = memory_for_run(1, false).expect("Linux says");
        assert!(bytes > 1 << 20, "{bytes}");
    }
}
