//! Making a run's folder.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crescendo_data::file_system::sync_folder;

use crate::Error;

/// Creates a folder atomically: it appears as `fill` leaves it, or not at all. If another program creates
/// `folder` meanwhile, the next free one of `others` is created instead. Returns the one that was created.
pub(super) fn make(
    mut folder: PathBuf,
    others: &mut impl Iterator<Item = PathBuf>,
    fill: impl FnOnce(&Path) -> Result<(), Error>,
) -> Result<PathBuf, Error> {
    let parent = folder.parent().filter(|path| !path.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new(".")).to_owned();
    let temporary = create_temporary(&parent, &folder)?;
    let made = (|| {
        fill(&temporary)?;
        sync_folder(&temporary).map_err(|error| Error::io("write", &temporary, error))?;
        while let Err(error) = fs::rename(&temporary, &folder) {
            if !folder.exists() {
                return Err(Error::io("create", &folder, error));
            }
            folder = others.find(|folder| !folder.exists()).ok_or_else(|| taken(&folder))?;
        }
        sync_folder(&parent).map_err(|error| {
            // It is there, but may not be after a power cut.
            let _ = fs::remove_dir_all(&folder);
            Error::io("write", &parent, error)
        })
    })();
    match made {
        Ok(_) => Ok(folder),
        Err(error) => {
            // Nothing refers to the partial folder.
            let _ = fs::remove_dir_all(&temporary);
            Err(error)
        }
    }
}

/// Creates a folder beside `folder` that no other program has: process numbers are not unique where machines share
/// a file system.
fn create_temporary(parent: &Path, folder: &Path) -> Result<PathBuf, Error> {
    let io = |error| Error::io("create", folder, error);
    fs::create_dir_all(parent).map_err(io)?;
    let process = std::process::id();
    for number in 0.. {
        let mut name = OsString::from(".");
        name.push(folder.file_name().unwrap_or_default());
        name.push(format!(".{process}-{number}.tmp"));
        let temporary = parent.join(name);
        match fs::create_dir(&temporary) {
            Ok(()) => return Ok(temporary),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(io(error)),
        }
    }
    unreachable!("there are more numbers than folders")
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
    sync_folder(to).map(drop).map_err(io)
}

/// Why there cannot be a new run here.
pub(super) fn taken(folder: &Path) -> Error {
    Error::Refused(format!(
        "{} already exists, and nothing is overwritten: choose another folder with --out, or resume \
         the run with --resume {0}",
        folder.display()
    ))
}
