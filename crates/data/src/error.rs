//! What can be wrong with data, in sentences that say what to do.

use std::path::{Path, PathBuf};

/// Why data could not be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or folder could not be read or written.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// What was being done: `read`, `write`, …
        doing: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file's content is not what its format asks for.
    #[error("{}: {problem}", path.display())]
    Bad {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong and what to do.
        problem: String,
    },
    /// There is no data set where one was looked for.
    #[error("{0}")]
    NotFound(String),
    /// A download failed.
    #[error("{0}")]
    Download(String),
}

impl Error {
    /// An [`Error::Io`] for `path`.
    pub fn io(doing: &'static str, path: &Path, source: std::io::Error) -> Self {
        Error::Io { doing, path: path.to_owned(), source }
    }

    /// An [`Error::Bad`] for `path`.
    pub fn bad(path: &Path, problem: impl Into<String>) -> Self {
        Error::Bad { path: path.to_owned(), problem: problem.into() }
    }
}
