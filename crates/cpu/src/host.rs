//! What this machine has: processor, threads and memory.

use std::fs;

/// The number of threads: `asked`, or one per logical processor if that is 0.
pub fn threads(asked: usize) -> usize {
    match asked {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        threads => threads,
    }
}

/// The processor's name, if the system tells it.
pub(crate) fn processor_name() -> Option<String> {
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("model name"))?;
    Some(line.trim_start_matches([' ', '\t', ':']).trim().to_owned())
}

/// What a thread takes of the address space: a stack, and the region that malloc reserves for it.
const THREAD: u64 = 68 << 20;

/// Bytes of memory that are available before a run's threads are started: the minimum of what is free, what a
/// container allows, and what the process's own limit allows. `None` if nothing is known.
pub(crate) fn available_memory(threads: usize) -> Option<u64> {
    let own_limit = own_limit().map(|left| left.saturating_sub(threads as u64 * THREAD));
    [free(), container(), own_limit].into_iter().flatten().min()
}

/// Bytes of memory in all: the least of the machine's, what a container allows, and what the process's own
/// limit allows. `None` if nothing is known.
pub(crate) fn total_memory() -> Option<u64> {
    let machine = fs::read_to_string("/proc/meminfo").ok();
    let machine = machine.and_then(|text| field(&text, "MemTotal:")).map(|kib| kib << 10);
    [machine, container_limit(), address_limit()].into_iter().flatten().min()
}

/// The most memory that this process has held so far, in bytes, if the system tells it.
pub fn peak_memory() -> Option<u64> {
    field(&fs::read_to_string("/proc/self/status").ok()?, "VmHWM:").map(|kib| kib << 10)
}

/// Linux's estimate of what is available without swapping.
fn free() -> Option<u64> {
    field(&fs::read_to_string("/proc/meminfo").ok()?, "MemAvailable:").map(|kib| kib << 10)
}

/// What the control group has left.
fn container() -> Option<u64> {
    CONTROL_GROUPS
        .iter()
        .find_map(|[limit, used]| Some(number(limit)?.saturating_sub(number(used)?)))
}

/// The files with the control group's limit and its use, in versions 2 and 1.
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
    fn linux_tells_the_memory() {
        let (available, total) = (available_memory(1).unwrap(), total_memory().unwrap());
        assert!(1 << 20 < available && available <= total, "{available} {total}");
    }
}
