//! Errors of reading and writing data sets. Their messages tell the user what to do.

use std::path::{Path, PathBuf};

/// Why a data set could not be read, written or downloaded.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or folder could not be read or written.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// The operation as a verb: `read`, `write`, …
        doing: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The error of the system.
        source: std::io::Error,
    },
    /// A file or folder exists but its content is not valid, or it may not be used as asked.
    #[error("{}: {problem}", path.display())]
    Invalid {
        /// The file or folder.
        path: PathBuf,
        /// The problem and what to do about it.
        problem: String,
    },
    /// There is no data set at a path, or at none of the paths that were searched.
    #[error("{0}")]
    NotFound(String),
    /// The text that names a data set cannot be understood.
    #[error("{0}")]
    InvalidName(String),
    /// A download failed.
    #[error("{0}")]
    Download(String),
}

impl Error {
    /// An [`Error::Io`] for `path`.
    pub fn io(doing: &'static str, path: &Path, source: std::io::Error) -> Self {
        Error::Io { doing, path: path.to_owned(), source }
    }

    /// An [`Error::Invalid`] for `path`.
    pub fn invalid(path: &Path, problem: impl Into<String>) -> Self {
        Error::Invalid { path: path.to_owned(), problem: problem.into() }
    }
}
