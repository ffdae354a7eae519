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

fn linux(root: &Path) -> Option<usize> {
    let status = fs::read_to_string(root.join("proc/self/status")).ok()?;
    let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    let cores = numbers(allowed)?.into_iter().map(|processor| {
        let file = format!("sys/devices/system/cpu/cpu{processor}/topology/thread_siblings_list");
        fs::read_to_string(root.join(file)).ok()
    });
    // Each core by the processors that it is.
    let cores: Option<BTreeSet<String>> = cores.collect();
    Some(cores?.len()).filter(|&count| count > 0)
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

    /// A machine with these siblings, where the process may use the processors `allowed`.
    fn cores(allowed: &str, siblings: &[&str]) -> Option<usize> {
        let root = tempfile::tempdir().unwrap();
        let write = |name: String, text: String| {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("proc/self/status".into(), format!("Name:\tx\nCpus_allowed_list:\t{allowed}\n"));
        for (processor, siblings) in siblings.iter().enumerate() {
            let file =
                format!("sys/devices/system/cpu/cpu{processor}/topology/thread_siblings_list");
            write(file, format!("{siblings}\n"));
        }
        linux(root.path())
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
