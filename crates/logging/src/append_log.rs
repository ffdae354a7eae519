//! Append-only files in a run's folder, truncated only when a run is resumed.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use crescendo_training::Error;
use crescendo_training::events::Marks;

/// An append-only file. When it is opened, everything after its mark is cut off: the resumed run
/// repeats the updates after its last saved state and logs them again.
pub(crate) struct AppendLog {
    name: &'static str,
    path: PathBuf,
    file: File,
    /// Its length when it was last flushed to disk.
    flushed: Option<u64>,
}

impl AppendLog {
    /// Opens the file `name` in a run's `folder` and truncates it to its mark. An empty file begins
    /// with `header`.
    pub(crate) fn open(
        folder: &Path,
        name: &'static str,
        header: impl AsRef<[u8]>,
        marks: &Marks,
    ) -> Result<Self, Error> {
        let path = folder.join(name);
        let io = |error| Error::io("write", &path, error);
        let file = OpenOptions::new().create(true).append(true).open(&path).map_err(io)?;
        let length = file.metadata().map_err(io)?.len();
        let length = length.min(marks.get(name).copied().unwrap_or(0));
        file.set_len(length).map_err(io)?;
        let mut log = AppendLog { name, path, file, flushed: None };
        if length == 0 {
            log.append(header)?;
        }
        Ok(log)
    }

    /// The file's first line, such as the header of a table that an earlier version began.
    pub(crate) fn first_line(&self) -> Result<String, Error> {
        let mut line = String::new();
        let read =
            File::open(&self.path).and_then(|file| BufReader::new(file).read_line(&mut line));
        read.map_err(|error| Error::io("read", &self.path, error))?;
        Ok(line)
    }

    /// Writes `bytes` at the end of the file.
    pub(crate) fn append(&mut self, bytes: impl AsRef<[u8]>) -> Result<(), Error> {
        self.file.write_all(bytes.as_ref()).map_err(|error| Error::io("write", &self.path, error))
    }

    /// Flushes the file to disk and returns its mark: its name and its length in bytes.
    pub(crate) fn mark(&mut self) -> Result<(String, u64), Error> {
        let io = |error| Error::io("write", &self.path, error);
        let length = self.file.metadata().map_err(io)?.len();
        // Many states are saved between two epochs, and a disk takes milliseconds even if there is nothing to write.
        if self.flushed != Some(length) {
            self.file.sync_data().map_err(io)?;
            self.flushed = Some(length);
        }
        Ok((self.name.to_owned(), length))
    }
}
