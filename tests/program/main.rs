//! End-to-end tests of the program: the real binary, real files, real kills.

mod bad_input;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod before;
mod best;
mod compare;
#[cfg(target_os = "linux")]
mod control_groups;
mod data_forms;
mod devices;
mod engine;
mod environment;
mod evaluate;
mod export;
mod full_disk;
mod help;
mod integrity;
mod kills;
mod library;
mod new_data;
mod output;
mod own_data;
mod pictures;
mod plan;
mod policies;
mod predict;
mod python;
mod pytorch;
mod ranks;
mod readme;
mod report;
mod resume;
mod runs;
mod tensorboard;
mod tls;
mod train;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

/// A temporary folder to run the program in.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Place(tempfile::tempdir().unwrap())
    }

    /// With a small run in the folder `run`, trained with these additional arguments.
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

    /// The program with these arguments, separated by spaces. It does not find the data sets and
    /// folders of the user who runs the tests, nor a GPU, whose results are others than the CPU's.
    fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_crescendo"));
        command.args(arguments.split_whitespace()).current_dir(self.0.path());
        command.env_remove("CRESCENDO_DATA").env("HOME", self.0.path());
        command.env("XDG_DATA_HOME", self.path("share")).env("CUDA_VISIBLE_DEVICES", "");
        command
    }

    /// Runs the program, which must succeed. Returns its standard output.
    #[track_caller]
    fn run(&self, arguments: &str) -> String {
        let output = self.command(arguments).output().unwrap();
        assert!(output.status.success(), "crescendo {arguments}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    /// Runs the program, which must fail with this exit code and an error message, without a panic.
    /// Returns its standard error.
    #[track_caller]
    fn refuse(&self, code: i32, arguments: &str) -> String {
        let output = self.command(arguments).output().unwrap();
        check_refusal(&output, code, arguments)
    }

    /// Like [`refuse`](Self::refuse); the error must be one line that contains all of `parts`.
    #[track_caller]
    fn refuse_saying(&self, code: i32, arguments: &str, parts: &[&str]) {
        check_line(&self.refuse(code, arguments), parts);
    }

    /// Runs the program, which must refuse the value of the last option with an error that names the
    /// option and the `valid` values, in plain English.
    #[track_caller]
    fn refuse_value(&self, arguments: &str, valid: &str) {
        let complaint = self.refuse(2, arguments);
        let option = arguments.split([' ', '=']).rfind(|word| word.starts_with("--"));
        for part in ["error: invalid value '", option.unwrap_or_default(), valid] {
            assert!(complaint.contains(part), "no {part:?} in {complaint}");
        }
        for word in ["u32", "u64", "usize", "f64", "digit", "parse", "literal", "target type"] {
            assert!(!complaint.contains(word), "{word:?} in {complaint}");
        }
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

/// The files in a folder and its subfolders, with their contents.
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

/// Replaces the first occurrence of a text in a file.
fn replace(bytes: &mut Vec<u8>, from: &str, to: &str) {
    let at = bytes.windows(from.len()).position(|window| window == from.as_bytes()).unwrap();
    bytes.splice(at..at + from.len(), to.bytes());
}

/// A safetensors file with a changed header.
fn with_header(bytes: &[u8], change: impl Fn(&mut serde_json::Value)) -> Vec<u8> {
    let (length, rest) = bytes.split_at(8);
    let length = u64::from_le_bytes(length.try_into().unwrap()) as usize;
    let mut header: serde_json::Value = serde_json::from_slice(&rest[..length]).unwrap();
    change(&mut header);
    let mut header = header.to_string();
    header.push_str(&" ".repeat(header.len().next_multiple_of(8) - header.len()));
    let length = (header.len() as u64).to_le_bytes();
    [&length, header.as_bytes(), &rest[usize::from_le_bytes(bytes[..8].try_into().unwrap())..]]
        .concat()
}

/// A file as another program or an older version writes it.
fn without_checksums(bytes: &[u8]) -> Vec<u8> {
    with_header(bytes, |header| {
        let metadata = header["__metadata__"].as_object_mut().unwrap();
        metadata.retain(|key, _| !key.ends_with("checksum"));
    })
}

/// The numbers in a .npy file, which must be an array of float64 with rows of `width`, and have the header that NumPy
/// writes for it (format version 1.0).
#[track_caller]
fn array_rows(bytes: &[u8], width: usize) -> Vec<f64> {
    let (start, numbers) = bytes.split_at(128);
    let rows = numbers.len() / 8 / width;
    let header =
        format!("{{'descr': '<f8', 'fortran_order': False, 'shape': ({rows}, {width}), }}");
    let expected = [b"\x93NUMPY\x01\0\x76\0", format!("{header:<117}\n").as_bytes()].concat();
    assert_eq!(text(start), text(&expected));
    assert_eq!(numbers.len() % (8 * width), 0);
    numbers.chunks_exact(8).map(|bytes| f64::from_le_bytes(bytes.try_into().unwrap())).collect()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The rows of a CSV file, each with its cells; the header is the first.
fn rows(table: &str) -> Vec<Vec<&str>> {
    table.lines().map(|line| line.split(',').collect()).collect()
}

/// The cells of a column, without the header.
fn column<'a>(table: &'a str, name: &str) -> Vec<&'a str> {
    let rows = rows(table);
    let index = rows[0].iter().position(|cell| *cell == name);
    let index = index.unwrap_or_else(|| panic!("no column {name} in {:?}", rows[0]));
    rows[1..].iter().map(|row| row[index]).collect()
}

/// A small network on a small data set, which trains in seconds.
const SMALL: &str = "quick --data shapes:144,100 --set network.widths=[4,8,8] \
                     --set batch.steps=[[1,12],[3,24]]";

/// The same for tests that stop it at a moment of their choice: it takes twice as long.
const LONGER: &str = "quick --data shapes:300,100 --set network.widths=[4,8,8] \
                      --set batch.steps=[[1,25],[3,50]]";

fn checkpoint(run: &Path, epoch: u32) -> PathBuf {
    run.join(format!("weights/epoch-{epoch:04}.safetensors"))
}

/// Saves the state very often, so that kills and full disks happen before, during and after saves.
const OFTEN: &str = "--set train.save_every_minutes=0.0005 --log-steps --epochs 4";

/// The results of a run of four epochs: the weights, and the CSV files without times.
fn result(run: &Path) -> (Vec<u8>, Vec<Vec<String>>, String) {
    let table = |name: &str| std::fs::read_to_string(run.join(name)).unwrap();
    // All cells except seconds and images per second.
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
