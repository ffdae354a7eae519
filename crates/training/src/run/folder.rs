//! Making a run's folder.

use std::fs::{self, File};
use std::path::Path;

use crate::Error;
use crate::atomic_file::sync_folder;

/// Creates a folder atomically: it appears as `fill` leaves it, or not at all.
pub(super) fn make(
    folder: &Path,
    fill: impl FnOnce(&Path) -> Result<(), Error>,
) -> Result<(), Error> {
    let parent = folder.parent().filter(|path| !path.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let temporary = parent.join(format!(".{name}.{}.tmp", std::process::id()));
    let made = (|| {
        fs::create_dir_all(&temporary).map_err(|error| Error::io("create", folder, error))?;
        fill(&temporary)?;
        sync_folder(&temporary).map_err(|error| Error::io("write", &temporary, error))?;
        fs::rename(&temporary, folder).map_err(|error| {
            if folder.exists() { taken(folder) } else { Error::io("create", folder, error) }
        })?;
        sync_folder(parent).map_err(|error| Error::io("write", parent, error))
    })();
    if made.is_err() {
        // Nothing refers to the partial folder.
        let _ = fs::remove_dir_all(&temporary);
    }
    made
}

/// Copies what is in a folder, and in those inside it, into one that is there, durably.
pub(super) fn copy(from: &Path, to: &Path) -> Result<(), Error> {
    let io = |error| Error::io("copy", from, error);
    for entry in fs::read_dir(from).map_err(io)? {
        let (path, target) =
            entry.map(|entry| (entry.path(), to.join(entry.file_name()))).map_err(io)?;
        if path.is_dir() {
            fs::create_dir_all(&target).map_err(io)?;
            copy(&path, &target)?;
        } else {
            fs::copy(&path, &target).and_then(|_| File::open(&target)?.sync_all()).map_err(io)?;
        }
    }
    sync_folder(to).map_err(io)
}

/// Why there cannot be a new run here.
pub(super) fn taken(folder: &Path) -> Error {
    Error::Refused(format!(
        "{} already exists, and nothing is overwritten: choose another folder with --out, or resume \
         the run with --resume {0}",
        folder.display()
    ))
}
