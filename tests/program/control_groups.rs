//! Runs in control groups with limits, as containers and batch systems set them. The tests make groups, which
//! needs root:
//!
//! ```text
//! cargo test --release --test program -- --ignored control_groups
//! ```

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::{Place, text};

/// A group with a limit of half a GiB, and one inside it without a limit. Both are removed on drop.
struct Groups(PathBuf);

impl Groups {
    fn new(name: &str) -> Self {
        let version_1 = Path::new("/sys/fs/cgroup/memory");
        let (top, limit) = if version_1.exists() {
            (version_1, "memory.limit_in_bytes")
        } else {
            let top = Path::new("/sys/fs/cgroup");
            // Most systems have done this already.
            let _ = fs::write(top.join("cgroup.subtree_control"), "+memory");
            (top, "memory.max")
        };
        let outer = top.join(format!("crescendo-{name}-{}", std::process::id()));
        let groups = Groups(outer);
        let made = fs::create_dir_all(groups.0.join("inner"));
        made.and_then(|()| fs::write(groups.0.join(limit), "536870912"))
            .unwrap_or_else(|error| panic!("these tests need root and control groups: {error}"));
        groups
    }

    /// Runs the program inside both groups, after a shell command.
    fn run(&self, place: &Place, before: &str, arguments: &str) -> Output {
        let program = place.command(arguments);
        let processes = self.0.join("inner/cgroup.procs");
        let script = format!("echo $$ > {} && {before} && exec \"$@\"", processes.display());
        let mut shell = Command::new("sh");
        shell.args(["-c", &script, "sh"]).arg(program.get_program()).args(program.get_args());
        shell.current_dir(place.folder()).output().unwrap()
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        let _ = fs::remove_dir(self.0.join("inner"));
        let _ = fs::remove_dir(&self.0);
    }
}

#[test]
#[ignore = "needs root"]
fn batches_fit_into_the_limit_of_a_group_above() {
    let (place, groups) = (Place::new(), Groups::new("limit"));
    let train = "train quick --data shapes:3000,10 --set batch.policy=fixed --set batch.size=3000 \
                 --set train.max_steps=1 --set train.final_evaluation=false";
    let output = groups.run(&place, "true", &format!("{train} --out run"));
    assert!(output.status.success(), "{:?}: {}", output.status, text(&output.stderr));
    let recipe = place.read("run/recipe.toml");
    assert!(recipe.contains("memory_limit = 0.4"), "{recipe}");
    assert!(place.read("run/log.txt").contains("do not fit in batch.memory_limit"));
    let whole = format!("{train} --set batch.memory_limit=64 --out whole");
    let output = groups.run(&place, "true", &whole);
    let complaint = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{complaint}");
    assert!(complaint.contains("GiB are free"), "{complaint}");
}

#[test]
#[ignore = "needs root"]
fn files_in_memory_do_not_count_as_used() {
    let (place, groups) = (Place::new(), Groups::new("files"));
    // The files fill the group: what was written to them stays in memory.
    let write = "dd if=/dev/zero of=ballast bs=1M count=600 status=none && sync ballast";
    let output = groups.run(&place, write, &format!("train {} --epochs 1 --out run", super::SMALL));
    assert!(output.status.success(), "{:?}: {}", output.status, text(&output.stderr));
}
