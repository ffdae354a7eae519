//! Machines, file systems and shells as they are.

use std::fs;
use std::process::Stdio;
#[cfg(target_os = "linux")]
use std::{path::PathBuf, process::Command};

#[cfg(target_os = "linux")]
use super::check_line;
#[cfg(unix)]
use super::check_refusal;
use super::{Place, SMALL, text};

#[test]
fn eight_starts_at_once_make_eight_runs() {
    let place = Place::new();
    let start = || {
        let mut command = place.command("train quick --data shapes:100,10 --epochs 0");
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let starts: Vec<_> = (0..8).map(|_| start()).collect();
    for start in starts {
        let output = start.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
    }
    let runs = fs::read_dir(place.path("runs")).unwrap().map(|run| run.unwrap().file_name());
    let mut runs: Vec<_> = runs.map(|name| name.into_string().unwrap()).collect();
    runs.sort();
    assert_eq!(runs, (1..=8).map(|n| format!("quick-{n}")).collect::<Vec<_>>());
    for run in runs {
        assert!(place.read(&format!("runs/{run}/log.txt")).contains(&format!("Run: runs/{run}")));
    }
}

#[test]
fn of_an_option_that_is_given_twice_the_last_counts() {
    let place = Place::new();
    place.run(&format!(
        "train {SMALL} --seed 1 --epochs 9 --epochs 0 --quiet --quiet --seed 2 --out a --out b"
    ));
    assert!(!place.path("a").exists());
    let recipe = place.read("b/recipe.toml");
    assert!(recipe.contains("epochs = 0") && recipe.contains("seed = 2"), "{recipe}");
    // Changes are all made, in their order; the arguments already have two others.
    assert!(recipe.contains("widths = [4, 8, 8]"), "{recipe}");
    place.run("plan quick --images 10 --images 50 --json --json");
    place.run(
        "bench quick --batch 8 --batch 4 --seconds 1 --seconds 0.01 --set network.widths=[4,4,4]",
    );
}

#[cfg(unix)]
#[test]
fn folders_whose_names_are_not_utf_8() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    let place = Place::new();
    let odd = OsStr::from_bytes(b"Gr\xf6\xdfe");
    let with = |arguments: &str, path: &OsStr| {
        let mut command = place.command(arguments);
        command.arg(path).output().unwrap()
    };
    let succeeds = |arguments: &str, path: &OsStr| {
        let output = with(arguments, path);
        assert!(output.status.success(), "{arguments}: {}", text(&output.stderr));
    };
    // Folders of runs, checkpoints and outputs can have any name.
    succeeds(&format!("train {SMALL} --epochs 1 --out"), odd);
    succeeds("train --epochs 2 --resume", odd);
    succeeds("evaluate", odd);
    succeeds("report", odd);
    let run = place.folder().join(odd);
    assert!(run.join("report.html").exists());
    let checkpoint = run.join("weights/epoch-0002.safetensors");
    succeeds(&format!("train {SMALL} --epochs 0 --out next --init"), checkpoint.as_os_str());
    succeeds("data export shapes:20,10", OsStr::from_bytes(b"d\xe4ta"));
    // What is recorded as text cannot, and a link helps.
    for arguments in ["train quick --data", "data info", "train", "compare"] {
        let output = with(arguments, OsStr::from_bytes(b"d\xe4ta"));
        let complaint = check_refusal(&output, 2, arguments);
        assert!(complaint.contains("it is not UTF-8") && complaint.contains("link"), "{complaint}");
    }
    std::os::unix::fs::symlink(OsStr::from_bytes(b"d\xe4ta"), place.path("link")).unwrap();
    place.run("train quick --data link --epochs 0 --out linked");
    place.run("train --resume linked --epochs 0");
    // A folder above may have any name; the data is found again from there.
    let inside = run.join("inside");
    fs::create_dir(&inside).unwrap();
    place.run("data export shapes:20,10 plain");
    fs::rename(place.path("plain"), inside.join("plain")).unwrap();
    for arguments in ["train quick --data plain --epochs 0 --out run", "train --resume run"] {
        let output = place.command(arguments).current_dir(&inside).output().unwrap();
        assert!(output.status.success(), "{arguments}: {}", text(&output.stderr));
    }
    let log = fs::read_to_string(inside.join("run/log.txt")).unwrap();
    assert!(log.contains("resumed only from here"), "{log}");
}

#[test]
fn text_in_other_encodings_is_named() {
    let place = Place::new();
    place.run(&format!("train {SMALL} --epochs 0 --out run"));
    let utf16 = |text: &str| -> Vec<u8> {
        format!("\u{feff}{text}").encode_utf16().flat_map(u16::to_le_bytes).collect()
    };
    fs::write(place.path("mine.toml"), utf16("base = \"quick\"\n")).unwrap();
    fs::write(place.path("arms.toml"), utf16("recipe = \"quick\"\n")).unwrap();
    for command in ["train", "plan", "bench"] {
        place.refuse_saying(
            1,
            &format!("{command} mine.toml"),
            &["cannot read mine.toml: it is UTF-16 text", "as UTF-8"],
        );
    }
    place.refuse_saying(
        1,
        "compare arms.toml",
        &["cannot read arms.toml: it is UTF-16 text", "as UTF-8"],
    );
    let recipe = place.read("run/recipe.toml");
    fs::write(place.path("run/recipe.toml"), utf16(&recipe)).unwrap();
    place.refuse_saying(1, "train --resume run", &["recipe.toml: it is UTF-16 text", "as UTF-8"]);
    fs::write(place.path("latin.toml"), b"base = \"quick\"\n# Gr\xf6\xdfe\n").unwrap();
    place.refuse_saying(
        1,
        "plan latin.toml",
        &["cannot read latin.toml: it is not UTF-8 text (line 2"],
    );
    // Notepad's mark is passed over.
    fs::write(place.path("marked.toml"), "\u{feff}base = \"quick\"\n").unwrap();
    place.run("plan marked.toml");
}

#[test]
fn windows_paths_in_recipes_are_explained() {
    let place = Place::new();
    fs::create_dir(place.path("sub")).unwrap();
    fs::write(place.path("sub/base.toml"), "base = \"quick\"\n").unwrap();
    let remedy = "write a path in single quotes, or with /";
    for base in [r#""C:\Users\me\base.toml""#, r#""C:\new\report.toml""#, r#""sub\base.toml""#] {
        fs::write(place.path("mine.toml"), format!("# mine\nbase = {base}\n")).unwrap();
        place.refuse_saying(2, "plan mine.toml", &[remedy]);
    }
    // In single quotes it is understood on Windows, and explained elsewhere.
    fs::write(place.path("mine.toml"), "base = 'sub\\base.toml'\n").unwrap();
    if cfg!(windows) {
        place.run("plan mine.toml");
    } else {
        place.refuse_saying(2, "plan mine.toml", &["did you mean sub/base.toml?"]);
    }
    fs::write(place.path("mine.toml"), "base = 'sub/base.toml'\n").unwrap();
    place.run("plan mine.toml");
    fs::write(
        place.path("arms.toml"),
        "recipe = \"sub\\base.toml\"\nseeds = [0]\nbase = \"a\"\n[[arm]]\nname = \"a\"\n",
    )
    .unwrap();
    place.refuse_saying(2, "compare arms.toml", &["arms.toml", remedy]);
}

/// Whether a program is there; if not, says that a test was not run.
#[cfg(target_os = "linux")]
fn have(program: &str) -> bool {
    let there = Command::new(program).arg("--version").output().is_ok();
    if !there {
        eprintln!("not run: this test needs {program}");
    }
    there
}

#[cfg(target_os = "linux")]
#[test]
fn as_many_threads_as_cores_that_the_process_may_use() {
    if !have("taskset") {
        return;
    }
    let place = Place::new();
    let program =
        place.command("bench quick --batch 4 --seconds 0.01 --set network.widths=[4,4,4]");
    let mut pinned = Command::new("taskset");
    pinned.args(["-c", "0"]).arg(program.get_program()).args(program.get_args());
    let output = pinned.current_dir(place.folder()).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains(", 1 thread,"), "{}", text(&output.stdout));
}

/// The real program on a file system that fails in these ways: strace changes what the system answers.
#[cfg(target_os = "linux")]
#[test]
#[ignore = "needs strace"]
fn file_systems_without_locks_or_synced_folders() {
    assert!(have("strace"));
    let place = Place::new();
    // Changes one system call, where it is about this folder if one is given.
    let strace = |inject: &str, folders: &[PathBuf], arguments: &str| {
        let program = place.command(arguments);
        let mut strace = Command::new("strace");
        strace.args(["-f", "-o", "/dev/null", "-e", &format!("inject={inject}")]);
        for folder in folders {
            strace.arg("-P").arg(folder);
        }
        strace.arg(program.get_program()).args(program.get_args());
        strace.current_dir(place.folder()).output().unwrap()
    };
    let warns = |inject: &str, folders: &[PathBuf], out: &str, warning: &str| {
        let output = strace(inject, folders, &format!("train {SMALL} --epochs 1 --out {out}"));
        assert!(output.status.success(), "{inject}: {}", text(&output.stderr));
        let log = place.read(&format!("{out}/log.txt"));
        assert_eq!(log.matches(warning).count(), 1, "{inject}: {log}");
    };
    for error in ["ENOSYS", "ENOLCK", "EOPNOTSUPP"] {
        warns(&format!("flock:error={error}"), &[], error, "cannot lock files");
    }
    // The folder with the run, and all of the run's own.
    let folders = ["", "run", "run/state", "run/weights"].map(|name| place.path(name));
    warns("fsync:error=EINVAL", &folders, "run", "cannot sync folders");
    for (inject, problem) in
        [("fsync:error=EIO", "cannot write"), ("flock:error=EIO", "cannot lock")]
    {
        let arguments = format!("train {SMALL} --epochs 1 --out failed");
        let output = strace(inject, &[], &arguments);
        check_line(&check_refusal(&output, 1, &arguments), &[problem, "Input/output error"]);
    }
    let left: Vec<_> =
        fs::read_dir(place.folder()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 4, "{left:?}");
}
