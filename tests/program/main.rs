//! The program as its users run it: the real binary, on real files, with real kills.

mod bad_input;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod before;
mod compare;
mod engine;
mod evaluate;
mod full_disk;
mod help;
mod output;
mod own_data;
mod policies;
mod pytorch;
mod readme;
mod report;
mod resume;
mod tensorboard;
mod train;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

/// A folder of one's own to run the program in.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Place(tempfile::tempdir().unwrap())
    }

    /// With a small run in the folder `run`, and with what these arguments change about it.
    fn with_run(arguments: &str) -> Self {
        let place = Self::new();
        place.run(&format!("train {SMALL} {arguments} --out run"));
        place
    }

    fn folder(&self) -> &Path {
        self.0.path()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        let path = self.path(name);
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// The program with these arguments, separated by spaces, not started yet. It sees neither
    /// data sets nor folders of the person who runs the tests.
    fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_crescendo"));
        command.args(arguments.split_whitespace()).current_dir(self.0.path());
        command.env_remove("CRESCENDO_DATA").env("HOME", self.0.path());
        command.env("XDG_DATA_HOME", self.path("share"));
        command
    }

    /// What the program prints; it must succeed.
    #[track_caller]
    fn run(&self, arguments: &str) -> String {
        let output = self.command(arguments).output().unwrap();
        assert!(output.status.success(), "crescendo {arguments}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    /// What the program complains about; it must fail with this exit code, in words and without a
    /// panic.
    #[track_caller]
    fn refuse(&self, code: i32, arguments: &str) -> String {
        let output = self.command(arguments).output().unwrap();
        check_refusal(&output, code, arguments)
    }

    /// As [`refuse`](Self::refuse), and the complaint is one line that says all of `parts`.
    #[track_caller]
    fn refuse_saying(&self, code: i32, arguments: &str, parts: &[&str]) {
        check_line(&self.refuse(code, arguments), parts);
    }
}

#[track_caller]
fn check_refusal(output: &Output, code: i32, arguments: &str) -> String {
    let complaint = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "crescendo {arguments}: {complaint}");
    assert!(complaint.contains("error: ") && !complaint.contains("panicked"), "{complaint}");
    complaint
}

#[track_caller]
fn check_line(complaint: &str, parts: &[&str]) {
    assert_eq!(complaint.lines().count(), 1, "{complaint}");
    for part in parts {
        assert!(complaint.contains(part), "no {part:?} in {complaint}");
    }
}

/// Every file in a folder and below, with its content.
fn contents(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(contents(&path));
        } else {
            files.insert(path.clone(), std::fs::read(&path).unwrap());
        }
    }
    files
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A table's rows, each with its cells; the header first.
fn rows(table: &str) -> Vec<Vec<&str>> {
    table.lines().map(|line| line.split(',').collect()).collect()
}

/// The cells of one column, without the header.
fn column<'a>(table: &'a str, name: &str) -> Vec<&'a str> {
    let rows = rows(table);
    let index = rows[0].iter().position(|cell| *cell == name);
    let index = index.unwrap_or_else(|| panic!("no column {name} in {:?}", rows[0]));
    rows[1..].iter().map(|row| row[index]).collect()
}

/// A small network on a small set: a run of a few seconds.
const SMALL: &str = "quick --data shapes:300,100 --set network.widths=[4,8,8] \
                     --set batch.steps=[[1,25],[3,50]]";

fn checkpoint(run: &Path, epoch: u32) -> PathBuf {
    run.join(format!("weights/epoch-{epoch:04}.safetensors"))
}

/// Saves as often as it can, so that kills and full disks fall between, into and after saves.
const OFTEN: &str = "--set train.save_every_minutes=0.0005 --log-steps --epochs 4";

/// What a run of four epochs has computed: the weights, and its tables without times.
fn result(run: &Path) -> (Vec<u8>, Vec<Vec<String>>, String) {
    let table = |name: &str| std::fs::read_to_string(run.join(name)).unwrap();
    // All cells but seconds and images a second.
    let timeless = |row: &Vec<&str>| {
        let cells = row.iter().enumerate().filter(|(index, _)| !(6..8).contains(index));
        cells.map(|(_, cell)| cell.to_string()).collect()
    };
    let epochs = rows(&table("epochs.csv")).iter().map(timeless).collect();
    (std::fs::read(checkpoint(run, 4)).unwrap(), epochs, table("steps.csv"))
}

#[track_caller]
fn assert_equal(whole: &Path, stopped: &Path) {
    let (whole, stopped) = (result(whole), result(stopped));
    assert!(whole.0 == stopped.0, "the weights differ");
    assert_eq!(whole.1, stopped.1);
    assert!(whole.2 == stopped.2, "the losses of the steps differ");
}
