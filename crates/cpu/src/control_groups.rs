//! The memory limits of Linux's control groups, which containers and batch systems set.
//!
//! A process is in one group of each hierarchy, and the limits of all groups above that one hold for it too.
//! There are two versions of the interface, and a machine may use both at once (`man 7 cgroups`).

use std::fs;
use std::path::{Component, Path, PathBuf};

/// What the control groups of this process allow, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GroupMemory {
    /// The lowest limit.
    pub limit: u64,
    /// The least that is left of a limit. Memory that holds files is counted as free, because the system drops
    /// it when a group reaches its limit.
    pub available: u64,
}

/// The limits of this process's control groups, or `None` if no group limits it. `root` is the folder in which
/// `proc` and the paths of mounts are found.
pub(crate) fn memory(root: &Path) -> Option<GroupMemory> {
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
    let mounts = fs::read_to_string(root.join("proc/self/mountinfo")).ok()?;
    let mounts: Vec<Mount> = mounts.lines().filter_map(Mount::parse).collect();
    let limits = groups.lines().filter_map(|line| own_group(line, &mounts));
    let limits = limits.flat_map(|(mount, group)| mount.limits(root, &group));
    limits.reduce(|a, b| GroupMemory {
        limit: a.limit.min(b.limit),
        available: a.available.min(b.available),
    })
}

/// Where a hierarchy that can limit memory is mounted.
struct Mount {
    version: Version,
    /// The group that the mount point shows: in a container often not the hierarchy's root.
    group: PathBuf,
    point: PathBuf,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Version {
    V1,
    V2,
}

impl Mount {
    /// Parses a line of `mountinfo`: `36 35 98:0 GROUP POINT OPTIONS [FIELDS] - TYPE SOURCE OPTIONS`.
    fn parse(line: &str) -> Option<Self> {
        let (mount, kind) = line.split_once(" - ")?;
        let mut kind = kind.split(' ');
        let version = match (kind.next()?, kind.nth(1)) {
            ("cgroup2", _) => Version::V2,
            ("cgroup", Some(options)) if options.split(',').any(|name| name == "memory") => {
                Version::V1
            }
            _ => return None,
        };
        let mut fields = mount.split(' ').skip(3).map(unescape);
        Some(Mount { version, group: fields.next()?, point: fields.next()? })
    }

    /// The limits of a group, given by its path below the mount point, and of all above it that are visible.
    fn limits(&self, root: &Path, group: &Path) -> Vec<GroupMemory> {
        let point = root.join(self.point.strip_prefix("/").unwrap_or(&self.point));
        let mut limits = Vec::new();
        for below in group.ancestors() {
            let folder = point.join(below);
            limits.extend(self.version.limit(&folder));
            // Where a group of version 1 says so, what is used below the group above is not counted there.
            let above = folder.parent().map(|above| above.join("memory.use_hierarchy"));
            if self.version == Version::V1 && above.and_then(|path| number(&path)) == Some(0) {
                break;
            }
        }
        limits
    }
}

/// The mount and the path below it of the group in a line of `/proc/self/cgroup`: `NUMBER:CONTROLLERS:PATH`,
/// without controllers in version 2.
fn own_group<'a>(line: &str, mounts: &'a [Mount]) -> Option<(&'a Mount, PathBuf)> {
    let mut fields = line.splitn(3, ':').skip(1);
    let (controllers, path) = (fields.next()?, Path::new(fields.next()?));
    let version = match controllers {
        "" => Version::V2,
        names if names.split(',').any(|name| name == "memory") => Version::V1,
        _ => return None,
    };
    let mut mounts = mounts.iter().filter(|mount| mount.version == version);
    let below = |mount: &'a Mount| {
        let below = path.strip_prefix(&mount.group).ok()?;
        // A path with `..` is outside of what is visible here.
        let inside = below.components().all(|part| matches!(part, Component::Normal(_)));
        inside.then(|| (mount, below.to_owned()))
    };
    // In some containers the path is that of the machine: then the container's group is what is mounted.
    mounts.clone().find_map(below).or_else(|| Some((mounts.next()?, PathBuf::new())))
}

impl Version {
    /// What a group allows, if it has a limit.
    fn limit(self, folder: &Path) -> Option<GroupMemory> {
        // Above `high` version 2 slows a process down until it hardly moves. `max` stands for no limit there;
        // version 1 has a number larger than any memory.
        let (limits, used, prefix): (&[&str], _, _) = match self {
            Version::V1 => (&["memory.limit_in_bytes"], "memory.usage_in_bytes", "total_"),
            Version::V2 => (&["memory.max", "memory.high"], "memory.current", ""),
        };
        let limit = limits.iter().filter_map(|name| number(&folder.join(name))).min()?;
        let used = number(&folder.join(used)).unwrap_or(0);
        let statistics = fs::read_to_string(folder.join("memory.stat")).unwrap_or_default();
        let files: u64 = statistics.lines().filter_map(|line| files(line, prefix)).sum();
        Some(GroupMemory { limit, available: limit.saturating_sub(used.saturating_sub(files)) })
    }
}

/// The bytes in a line of `memory.stat` if they are those of files that are kept in memory. Pages of shared memory
/// and of `tmpfs`, which cannot be dropped, are not on these lists.
fn files(line: &str, prefix: &str) -> Option<u64> {
    let (name, bytes) = line.strip_prefix(prefix)?.split_once(' ')?;
    if matches!(name, "inactive_file" | "active_file") { bytes.trim().parse().ok() } else { None }
}

fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// A path in `mountinfo`, where a space, a tab, a line's end and a backslash are written as `\` and three octal
/// digits.
fn unescape(text: &str) -> PathBuf {
    let mut parts = text.split('\\');
    let mut path = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.get(..3).and_then(|code| u8::from_str_radix(code, 8).ok()) {
            Some(code) => {
                path.push(code.into());
                path += &part[3..];
            }
            None => {
                path.push('\\');
                path += part;
            }
        }
    }
    path.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    const GIB: u64 = 1 << 30;

    /// A made-up system: the process's groups, its mounts, and files with their contents.
    fn system(groups: &str, mounts: &str, files: &[(&str, &str)]) -> TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in
            [("proc/self/cgroup", groups), ("proc/self/mountinfo", mounts)].iter().chain(files)
        {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    const MOUNTS_V2: &str = "\
        22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n\
        30 22 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";

    const MOUNTS_V1: &str = "\
        31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n\
        32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n\
        35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
        41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";

    #[test]
    fn version_2_limits_of_all_groups_above_hold_less_the_files_in_memory() {
        let own = "sys/fs/cgroup/batch.slice/job/step";
        let files = [
            // The group of the process has no limit of its own.
            (&*format!("{own}/memory.max"), "max\n"),
            (&*format!("{own}/memory.current"), "1000\n"),
            // The one above is nearly full, but mostly of files.
            ("sys/fs/cgroup/batch.slice/job/memory.max", "1073741824\n"),
            ("sys/fs/cgroup/batch.slice/job/memory.high", "max\n"),
            ("sys/fs/cgroup/batch.slice/job/memory.current", "1073000000\n"),
            (
                "sys/fs/cgroup/batch.slice/job/memory.stat",
                "anon 1000000\nfile 900000000\nshmem 50000000\nactive_file 200000000\n\
                 inactive_file 800000000\n",
            ),
            ("sys/fs/cgroup/batch.slice/memory.max", "8589934592\n"),
            ("sys/fs/cgroup/batch.slice/memory.current", "2000000000\n"),
        ];
        let root = system("0::/batch.slice/job/step\n", MOUNTS_V2, &files);
        let expected = GroupMemory { limit: GIB, available: GIB - 73_000_000 };
        assert_eq!(memory(root.path()), Some(expected));
        // Now the outermost is what binds: it is used by others.
        let outer = root.path().join("sys/fs/cgroup/batch.slice/memory.current");
        fs::write(outer, format!("{}\n", 8 * GIB - 1000)).unwrap();
        let expected = GroupMemory { limit: GIB, available: 1000 };
        assert_eq!(memory(root.path()), Some(expected));
        // A process is held back above `high`, before its limit.
        let high = root.path().join(own).join("memory.high");
        fs::write(high, "536870912\n").unwrap();
        assert_eq!(memory(root.path()).unwrap().limit, GIB / 2);
    }

    #[test]
    fn version_1_limits_of_all_groups_above_hold_less_the_files_in_memory() {
        let limit = "memory.limit_in_bytes";
        let used = "memory.usage_in_bytes";
        let unlimited = "9223372036854771712\n";
        let memory_of = "sys/fs/cgroup/memory";
        let file = |path: &str, name: &str| format!("{memory_of}{path}/{name}");
        let files = [
            (&*file("/slurm/job_7", limit), unlimited),
            (&*file("/slurm/job_7", used), "5000\n"),
            (&*file("/slurm/job_7", "memory.use_hierarchy"), "1\n"),
            (&*file("/slurm", limit), "1073741824\n"),
            (&*file("/slurm", used), "1000000000\n"),
            (&*file("/slurm", "memory.use_hierarchy"), "1\n"),
            // With `total_` the groups below are counted too, as they are in what is used.
            (
                &*file("/slurm", "memory.stat"),
                "inactive_file 5\nactive_file 7\ntotal_inactive_file 600000000\n\
                 total_active_file 300000000\ntotal_unevictable 0\n",
            ),
            (&*file("", limit), unlimited),
            (&*file("", used), "3000000000\n"),
            (&*file("", "memory.use_hierarchy"), "1\n"),
            // That of version 2 does not control memory here.
            ("sys/fs/cgroup/unified/cgroup.procs", "1\n"),
        ];
        let groups = "5:devices:/\n4:memory:/slurm/job_7\n1:cpu,cpuacct:/other\n0::/\n";
        let root = system(groups, MOUNTS_V1, &files);
        let expected = GroupMemory { limit: GIB, available: GIB - 100_000_000 };
        assert_eq!(memory(root.path()), Some(expected));
        // What is used below a group without a hierarchy is not counted there.
        fs::write(root.path().join(file("/slurm", "memory.use_hierarchy")), "0\n").unwrap();
        assert!(memory(root.path()).unwrap().limit > 1 << 60);
    }

    #[test]
    fn a_container_sees_its_own_group_at_the_mount_point() {
        let files = [
            ("sys/fs/cgroup/memory.max", "1000000\n"),
            ("sys/fs/cgroup/memory.current", "400000\n"),
        ];
        let expected = Some(GroupMemory { limit: 1_000_000, available: 600_000 });
        let mount = |group: &str| {
            format!("30 22 0:26 {group} /sys/fs/cgroup rw,nosuid - cgroup2 cgroup rw\n")
        };
        for (groups, group) in [
            // With a namespace of its own.
            ("0::/\n", "/"),
            // With the machine's names.
            ("0::/docker/abc\n", "/docker/abc"),
            (r"0::/user\x2dslice/a b", r"/user\134x2dslice/a\040b"),
            // With a mount that shows another part of the machine.
            ("0::/../other\n", "/"),
            ("0::/kube/pod\n", "/docker/abc"),
        ] {
            let root = system(groups, &mount(group), &files);
            assert_eq!(memory(root.path()), expected, "{groups}");
        }
    }

    #[test]
    fn without_limits_nothing_is_said() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(memory(root.path()), None);
        let files = [("sys/fs/cgroup/a/memory.max", "max\n")];
        for groups in ["", "0::/a\n", "nonsense\n", "4:memory:/a\n"] {
            let root = system(groups, MOUNTS_V2, &files);
            assert_eq!(memory(root.path()), None, "{groups}");
        }
    }
}
