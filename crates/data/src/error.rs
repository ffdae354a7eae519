//! Errors of reading and writing data sets. Their messages tell the user what to do.

use std::path::{Path, PathBuf};

/// Why a data set could not be read, written or downloaded.
///
/// # Example
///
/// ```
/// use crescendo_data::{Error, open};
///
/// let folder = tempfile::tempdir().unwrap();
/// std::fs::create_dir_all(folder.path().join("cats")).unwrap();
/// std::fs::write(folder.path().join("cats/1.png"), "not an image").unwrap();
/// let path = folder.path().join("cats/1.png");
/// let error = crescendo_data::read_image(&path).unwrap_err();
/// assert!(matches!(&error, Error::Invalid { path: bad, .. } if *bad == path));
/// assert!(error.to_string().contains("cannot be read as an image"));
///
/// let error = open(&folder.path().join("dogs")).unwrap_err();
/// let Error::Io { doing, source, .. } = error else { panic!("{error}") };
/// assert_eq!((doing, source.kind()), ("read", std::io::ErrorKind::NotFound));
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
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
    /// Images of a data set cannot be read.
    #[error("{}", damaged(root, files, *of))]
    Damaged {
        /// The folder or archive of the data set.
        root: PathBuf,
        /// The images, sorted by their paths.
        files: Vec<DamagedFile>,
        /// How many images there are in all.
        of: usize,
    },
    /// There is no data set at a path, or at none of the paths that were searched.
    #[error("{0}")]
    NotFound(String),
    /// The text that names a data set cannot be understood.
    #[error("{0}")]
    InvalidName(String),
    /// Arrays in memory are no data set.
    #[error("{0}")]
    InvalidArrays(String),
    /// A download failed.
    #[error("{0}")]
    Download(String),
}

/// An image that cannot be read.
///
/// See the example of [`ReadOptions`](crate::ReadOptions).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DamagedFile {
    /// Its file.
    pub path: PathBuf,
    /// The error, which names the file.
    pub error: String,
}

/// How many of the images that cannot be read are named in a message.
const NAMED: usize = 10;

fn damaged(root: &Path, files: &[DamagedFile], of: usize) -> String {
    let (count, them) = (files.len(), if files.len() == 1 { "it" } else { "them" });
    let rest = if count > NAMED {
        format!(
            "; `crescendo data info {} --damaged FILE` writes all of them to FILE",
            root.display()
        )
    } else {
        String::new()
    };
    format!(
        "{}: {count} of {of} images cannot be read: repair or remove {them}, or leave {them} out with \
         --set data.damaged=skip ({}){rest}",
        root.display(),
        first_errors(files)
    )
}

/// The errors of the first files.
fn first_errors(files: &[DamagedFile]) -> String {
    let named: Vec<&str> = files.iter().take(NAMED).map(|file| &*file.error).collect();
    let more = files.len().saturating_sub(NAMED);
    let more = if more > 0 { format!("; and {more} more") } else { String::new() };
    named.join("; ") + &more
}

impl Error {
    /// A warning that the images of an [`Error::Damaged`] are left out.
    pub(crate) fn skipped(&self) -> String {
        let Error::Damaged { files, of, .. } = self else { return self.to_string() };
        format!(
            "{} of {of} images cannot be read and are left out ({})",
            files.len(),
            first_errors(files)
        )
    }

    /// An [`Error::Io`] for `path`.
    pub fn io(doing: &'static str, path: &Path, source: std::io::Error) -> Self {
        Error::Io { doing, path: path.to_owned(), source }
    }

    /// An [`Error::Invalid`] for `path`.
    pub fn invalid(path: &Path, problem: impl Into<String>) -> Self {
        Error::Invalid { path: path.to_owned(), problem: problem.into() }
    }
}
