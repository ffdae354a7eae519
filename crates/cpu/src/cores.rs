//! How many physical cores there are for this process: two logical processors that share a core are no faster than one
//! at arithmetic that keeps it busy.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// The cores of the processors that this process may use, if the system tells it. `root` is the root of the file
/// system, on Linux.
pub(crate) fn physical_cores(root: &Path) -> Option<usize> {
    if cfg!(target_os = "linux") { linux(root) } else { sysinfo::System::physical_core_count() }
}

/// Whether some of the cores that this process may use are clearly slower than others, if the system tells it.
/// `root` as in [`physical_cores`].
pub(crate) fn are_unequal(root: &Path) -> bool {
    if cfg!(target_os = "linux") {
        // How fast Linux takes a core to be, and else its highest clock.
        let of_each = |file| contents_of_each(root, file);
        let speeds = of_each("cpu_capacity").or_else(|| of_each("cpufreq/cpuinfo_max_freq"));
        let speeds = speeds.into_iter().flatten().filter_map(|speed| speed.trim().parse().ok());
        let speeds: Vec<f64> = speeds.collect();
        let fastest = speeds.iter().copied().fold(0.0, f64::max);
        speeds.iter().any(|&speed| speed < 0.8 * fastest)
    } else {
        // Apple's processors have both kinds.
        cfg!(all(target_os = "macos", target_arch = "aarch64"))
    }
}

/// What the system says in a file of each processor that this process may use.
fn contents_of_each(root: &Path, name: &str) -> Option<impl Iterator<Item = String>> {
    let status = fs::read_to_string(root.join("proc/self/status")).ok()?;
    let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    let files = numbers(allowed)?
        .into_iter()
        .map(|processor| root.join(format!("sys/devices/system/cpu/cpu{processor}")).join(name));
    let texts: Option<Vec<String>> = files.map(|file| fs::read_to_string(file).ok()).collect();
    texts.map(Vec::into_iter)
}

fn linux(root: &Path) -> Option<usize> {
    let cores = contents_of_each(root, "topology/thread_siblings_list")?;
    // Each core by the processors that it is.
    Some(cores.collect::<BTreeSet<String>>().len()).filter(|&count| count > 0)
}

/// The numbers in a list such as `0-3,8`.
fn numbers(list: &str) -> Option<Vec<usize>> {
    /// More than any machine has, in case the file is not what it seems.
    const MOST: usize = 1 << 16;
    let mut all = Vec::new();
    for range in list.trim().split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        if last >= MOST {
            return None;
        }
        all.extend(first..=last);
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine with these contents of a file of each processor, where the process may use the processors `allowed`.
    fn machine(allowed: &str, file: &str, contents: &[&str]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let write = |name: String, text: String| {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("proc/self/status".into(), format!("Name:\tx\nCpus_allowed_list:\t{allowed}\n"));
        for (processor, content) in contents.iter().enumerate() {
            let file = format!("sys/devices/system/cpu/cpu{processor}/{file}");
            write(file, format!("{content}\n"));
        }
        root
    }

    fn cores(allowed: &str, siblings: &[&str]) -> Option<usize> {
        linux(machine(allowed, "topology/thread_siblings_list", siblings).path())
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn slow_cores_are_noticed() {
        let unequal =
            |allowed, file, contents: &[&str]| are_unequal(machine(allowed, file, contents).path());
        assert!(unequal("0-3", "cpu_capacity", &["1024", "1024", "446", "446"]));
        assert!(unequal("0-1", "cpufreq/cpuinfo_max_freq", &["5800000", "4300000"]));
        // Some cores of one kind may clock a little higher.
        assert!(!unequal("0-1", "cpufreq/cpuinfo_max_freq", &["5800000", "5500000"]));
        assert!(!unequal("0-1", "cpu_capacity", &["1024", "1024", "446", "446"]));
        assert!(!unequal("0-1", "another", &["1", "2"]));
        assert!(!unequal("0-1", "cpu_capacity", &["1024", "x"]));
    }

    #[test]
    fn processors_of_one_core_count_once() {
        assert_eq!(cores("0-3", &["0-1", "0-1", "2-3", "2-3"]), Some(2));
        assert_eq!(cores("0-3", &["0,2", "1,3", "0,2", "1,3"]), Some(2));
        assert_eq!(cores("0,3", &["0-1", "0-1", "2-3", "2-3"]), Some(2));
        assert_eq!(cores("2-3", &["0-1", "0-1", "2-3", "2-3"]), Some(1));
        // Efficient cores with one thread each.
        assert_eq!(cores("0-4", &["0-1", "0-1", "2", "3", "4"]), Some(4));
        // Nothing is known.
        assert_eq!(cores("0-3", &["0", "1"]), None);
        for list in ["", "x", "3-x", "0-99999999999"] {
            assert_eq!(cores(list, &["0"]), None, "{list}");
        }
    }
}
