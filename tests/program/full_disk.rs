//! Runs on a disk that fills up. The tests mount a small file system in memory, which needs root:
//!
//! ```text
//! cargo test --release --test program -- --ignored full_disk
//! ```

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{OFTEN, Place, SMALL, assert_equal, check_line, check_refusal, contents};
use safetensors::SafeTensors;

/// A small file system, unmounted on drop.
pub struct Disk(pub PathBuf);

impl Disk {
    pub fn mount(path: PathBuf, kib: u32) -> Self {
        fs::create_dir(&path).unwrap();
        let size = format!("size={kib}k");
        let mut mount = Command::new("mount");
        let mount = mount.args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&path).status();
        assert!(mount.unwrap().success(), "these tests need root");
        Disk(path)
    }

    /// Fills the disk up to `room` bytes.
    pub fn fill(&self, room: usize) {
        let ballast = self.0.join("ballast");
        let mut bytes = 0;
        // As much as fits, in pages, the unit of allocation of a tmpfs.
        while fs::write(&ballast, vec![0; bytes + 4096]).is_ok() {
            bytes += 4096;
        }
        fs::write(&ballast, vec![0; bytes.saturating_sub(room)]).unwrap();
    }

    pub fn clear(&self) {
        fs::remove_file(self.0.join("ballast")).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[track_caller]
fn refuse_full(place: &Place, arguments: &str) {
    place.refuse_saying(1, arguments, &["/disk/", "No space left on device"]);
}

/// Checks that the saved state is complete, and that no temporary files are left.
fn check_state(run: &Path) {
    let bytes = fs::read(run.join("state/state.safetensors")).unwrap();
    SafeTensors::deserialize(&bytes).unwrap();
    let unfinished =
        contents(run).into_keys().find(|path| path.extension() == Some("tmp".as_ref()));
    assert_eq!(unfinished, None);
}

const KIB: usize = 1024;

/// Trains with more and more free space until it is enough. Returns the errors on the way.
fn train_with_any_room(settings: &str) -> Vec<String> {
    let place = Place::new();
    let settings = format!("{SMALL} {settings} --set train.checkpoint_every=1");
    place.run(&format!("train {settings} --out whole"));
    let disk = Disk::mount(place.path("disk"), 2048);
    let run = disk.0.join("run");
    let out = run.display();
    let mut failures = Vec::new();
    // From too little space for the first file to enough for the last.
    for room in (0..).step_by(12) {
        disk.fill(room * KIB);
        let arguments = format!("train {settings} --out {out}");
        let output = place.command(&arguments).output().unwrap();
        if output.status.success() {
            break;
        }
        let complaint = check_refusal(&output, 1, &arguments);
        check_line(&complaint, &["/disk/", "No space left on device"]);
        if run.exists() {
            failures.push(complaint);
            check_state(&run);
            // The disk is still full.
            refuse_full(&place, &format!("train --resume {out}"));
            check_state(&run);
            disk.clear();
            place.run(&format!("train --resume {out} --log-steps"));
            assert_equal(&place.path("whole"), &run);
            fs::remove_dir_all(&run).unwrap();
        } else {
            disk.clear();
            assert_eq!(fs::read_dir(&disk.0).unwrap().count(), 0, "something was left");
        }
    }
    assert_equal(&place.path("whole"), &run);
    failures
}

#[test]
#[ignore = "needs root"]
fn a_run_resumes_with_bit_identical_results_after_a_full_disk() {
    let failures = train_with_any_room(OFTEN);
    assert!(failures.len() > 5, "{failures:?}");
    assert!(failures.iter().any(|failure| failure.contains("/state/state.safetensors: ")));
    // If no state is saved within epochs, checkpoints are the first files that do not fit.
    let rarely = "--set train.save_every_minutes=0 --set train.evaluate_every=0";
    let failures = train_with_any_room(&format!("--log-steps --epochs 4 {rarely}"));
    assert!(failures.iter().any(|failure| failure.contains("/weights/epoch-0001.safetensors: ")));
}

#[test]
#[ignore = "needs root"]
fn output_files_are_complete_or_absent() {
    let place = Place::with_run("--epochs 0");
    place.run("data export shapes:100,50 set");
    let pixels = crescendo::data::shapes::generate(0, 1, 2_000).test.pixels;
    let header = "{'descr': '|u1', 'fortran_order': False, 'shape': (2000, 3072), }\n";
    let length = (header.len() as u16).to_le_bytes();
    let array = [b"\x93NUMPY\x01\x00", &length[..], header.as_bytes(), &pixels].concat();
    fs::write(place.path("x.npy"), array).unwrap();
    let disk = Disk::mount(place.path("disk"), 1024);
    disk.fill(100 * KIB);
    let predict = "predict run/weights/epoch-0000.safetensors x.npy --out";
    for arguments in [
        format!("data export shapes:100,50 {}/set", disk.0.display()),
        format!("{predict} {}/p.npy", disk.0.display()),
    ] {
        refuse_full(&place, &arguments);
        assert_eq!(fs::read_dir(&disk.0).unwrap().count(), 1, "something was left");
    }
    disk.clear();
    place.run(&format!("data export shapes:100,50 {}/set", disk.0.display()));
    place.run(&format!("{predict} {}/p.npy", disk.0.display()));
}
