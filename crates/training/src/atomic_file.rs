//! Writing files so that a crash at any moment leaves the old file or the new one, whole.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;

use crescendo_data::file_system::sync_folder;

use crate::Error;

/// Writes a file under a temporary name beside `path`, syncs it, and renames it into place.
///
/// # Example
///
/// ```
/// use std::io::Write;
/// use crescendo_training::write_atomically;
///
/// # let folder = tempfile::tempdir().unwrap();
/// let path = folder.path().join("notes.txt");
/// write_atomically(&path, |file| file.write_all(b"whole, or not at all"))?;
/// assert_eq!(std::fs::read_to_string(&path).unwrap(), "whole, or not at all");
/// # Ok::<(), crescendo_training::Error>(())
/// ```
///
/// # Errors
/// If the system refuses. What was at `path` is still there then, unless only the last step failed, which makes
/// the new name survive a power cut.
pub fn write_atomically(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<(), Error> {
    write_then(path, write, |temporary| fs::rename(temporary, path))
}

/// The same, but what was at `path` is at `previous` afterwards. After a crash in between, the file is missing at
/// `path` only if it is at `previous`.
pub(crate) fn write_keeping(
    path: &Path,
    previous: &Path,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<(), Error> {
    write_then(path, write, |temporary| {
        match fs::rename(path, previous) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            outcome => outcome?,
        }
        fs::rename(temporary, path)
    })
}

/// Writes a file under a temporary name beside `path`, syncs it, and has it put into place.
fn write_then(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    put: impl FnOnce(&Path) -> io::Result<()>,
) -> Result<(), Error> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}.tmp"));
    let outcome = (|| {
        let mut file = BufWriter::with_capacity(1 << 20, File::create(&temporary)?);
        write(&mut file)?;
        let file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.sync_all()?;
        put(&temporary)?;
        // A file system that cannot do this is warned about when a run is opened.
        sync_folder(path.parent().unwrap_or(Path::new(".")))
    })();
    outcome.map(drop).map_err(|error: io::Error| {
        // The unfinished file is of no use, and takes space on a full disk.
        let _ = fs::remove_file(&temporary);
        Error::io("write", path, error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_leaves_the_old_file_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        write_atomically(&path, |file| file.write_all(b"old")).unwrap();
        let error = write_atomically(&path, |file| {
            file.write_all(b"new")?;
            Err(io::ErrorKind::StorageFull.into())
        })
        .unwrap_err();
        assert!(error.to_string().contains("cannot write"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn the_previous_file_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let (path, previous) = (folder.path().join("file"), folder.path().join("previous"));
        let write = |text: &str| {
            write_keeping(&path, &previous, |file| file.write_all(text.as_bytes())).unwrap();
        };
        write("one");
        assert!(!previous.exists());
        write("two");
        write("three");
        assert_eq!(fs::read(&path).unwrap(), b"three");
        assert_eq!(fs::read(&previous).unwrap(), b"two");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }
}
