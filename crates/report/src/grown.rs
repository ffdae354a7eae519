//! Files of a run that only grow, but for being cut back on resume.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use crescendo_training::Error;
use crescendo_training::events::Marks;

/// A file that only grows, but for being cut back when it is opened.
pub(crate) struct Grown {
    name: &'static str,
    path: PathBuf,
    file: File,
}

impl Grown {
    /// Opens the file in a run's `folder`, cut back to its mark. `header` is what a new one begins with.
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
        let mut grown = Grown { name, path, file };
        if length == 0 {
            grown.write(header)?;
        }
        Ok(grown)
    }

    /// Adds something to its end.
    pub(crate) fn write(&mut self, bytes: impl AsRef<[u8]>) -> Result<(), Error> {
        self.file.write_all(bytes.as_ref()).map_err(|error| Error::io("write", &self.path, error))
    }

    /// Makes everything so far durable: its name, and how long it is.
    pub(crate) fn mark(&mut self) -> Result<(String, u64), Error> {
        let length = self.file.sync_data().and_then(|()| self.file.metadata());
        let length = length.map_err(|error| Error::io("write", &self.path, error))?.len();
        Ok((self.name.to_owned(), length))
    }
}
