//! Python with the packages that some ignored tests need.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::text;

/// A Python interpreter with the packages that a file lists: the one that the environment variable `CRESCENDO_PYTHON`
/// names, or else that of the virtual environment `name`, which is made below `target/`.
pub fn interpreter(name: &str, requirements: &str) -> PathBuf {
    if let Some(python) = std::env::var_os("CRESCENDO_PYTHON") {
        return python.into();
    }
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let python = folder.join(if cfg!(windows) { "Scripts/python.exe" } else { "bin/python" });
    if !python.exists() {
        run(Command::new("python3").args(["-m", "venv"]).arg(&folder));
    }
    let requirements = Path::new(env!("CARGO_MANIFEST_DIR")).join(requirements);
    run(Command::new(&python).args(["-m", "pip", "install", "--quiet", "-r"]).arg(requirements));
    python
}

/// Runs a command, which must succeed. Returns what it prints.
pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let (said, complaint) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{command:?}: {said}{complaint}");
    said
}
