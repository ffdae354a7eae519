//! What can go wrong in training, in sentences that say what to do.

use std::path::{Path, PathBuf};

/// Why training, evaluation or prediction could not go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A recipe, or a change to one, that makes no sense.
    #[error("{0}")]
    Recipe(String),
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
    /// A file's content is not what it should be.
    #[error("{}: {problem}", path.display())]
    Bad {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong and what to do.
        problem: String,
    },
    /// What was asked for does not fit the data, the machine or the run.
    #[error("{0}")]
    Refused(String),
    /// The loss, or a weight, is no finite number any more.
    #[error(
        "the loss or a weight is not a number at update {update} (epoch {epoch}); training has \
         stopped, and {}",
        if *hopeless {
            "the run's state comes to this with any learning rate: start a new run with a lower \
             optimizer.learning_rate, from the beginning or with --init and an earlier checkpoint"
        } else {
            "the run keeps its last good state: resume it with a lower learning rate (--resume RUN \
             --set optimizer.learning_rate=…)"
        }
    )]
    Diverged {
        /// The update that failed, counted from 1.
        update: u64,
        /// Its epoch.
        epoch: u32,
        /// Whether it is the first update after the saved state, so that going on leads here again.
        hopeless: bool,
    },
    /// The data set.
    #[error(transparent)]
    Data(#[from] crescendo_data::Error),
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

    /// The same with what to do, where it is about a file's content.
    pub(crate) fn advise(self, advice: &str) -> Self {
        match self {
            Error::Bad { path, problem } => {
                Error::Bad { path, problem: format!("{problem}; {advice}") }
            }
            other => other,
        }
    }
}
