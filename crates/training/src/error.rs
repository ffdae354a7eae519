//! Errors of training, in sentences that say what is wrong and what to do.

use std::path::{Path, PathBuf};

use crescendo_network::EngineError;

/// Why training, evaluation or prediction failed. As text it is a sentence that says what to do.
///
/// # Example
///
/// ```
/// use crescendo_training::{Error, Recipe};
///
/// /// The learning rate to try next, if an error says that this one is too high.
/// fn lower(error: &Error, recipe: &Recipe) -> Option<f64> {
///     match error {
///         Error::Diverged { .. } => Some(recipe.optimizer.learning_rate / 2.0),
///         // There may be other errors in a later version.
///         _ => None,
///     }
/// }
/// let error = Recipe::load("quick", &["train.epochs=-1"]).unwrap_err();
/// assert!(matches!(error, Error::Recipe(_)) && error.is_usage());
/// assert!(error.to_string().contains("train.epochs"));
/// assert_eq!(lower(&error, &Recipe::load::<&str>("quick", &[])?), None);
/// # Ok::<(), Error>(())
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A recipe, a change to one, or a comparison is invalid.
    #[error("{0}")]
    Recipe(String),
    /// A file or folder could not be read or written.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// What failed: `read`, `write`, …
        doing: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The content of a file or folder is invalid.
    #[error("{}: {problem}", path.display())]
    Bad {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong and what to do.
        problem: String,
    },
    /// The request does not go with the data, the machine or the run.
    #[error("{0}")]
    Refused(String),
    /// The loss or a weight has become infinite or NaN.
    #[error(
        "the loss or a weight is not a number at update {update} (epoch {epoch}); training has \
         stopped, and {}",
        if let Some(cause) = cause {
            cause
        } else if *hopeless {
            "the run's saved state leads to this with any learning rate: start a new run with a lower \
             optimizer.learning_rate, from the beginning or from an earlier checkpoint (--init)"
        } else {
            "the last good state is saved: resume from it with a lower learning rate (--resume RUN \
             --set optimizer.learning_rate=…)"
        }
    )]
    Diverged {
        /// The update that failed, counted from 1.
        update: u64,
        /// Its epoch.
        epoch: u32,
        /// Whether it is the first update after the saved state, so that resuming would fail in the same way.
        hopeless: bool,
        /// What the data or its weights have to do with it, and what to do, if the learning rate is not the
        /// likely cause.
        cause: Option<String>,
    },
    /// The network's outputs for some image are infinite or NaN.
    #[error("the network's outputs are not finite numbers")]
    NotFinite,
    /// The device cannot be used, or failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A data set is missing or invalid.
    #[error(transparent)]
    Data(#[from] crescendo_data::Error),
    /// An observer, or a policy that is not built in, failed with an error of its own, which can be downcast.
    #[error(transparent)]
    Observer(Box<dyn std::error::Error + Send + Sync>),
}

impl Error {
    /// Whether the request itself is wrong, rather than something that happened: a recipe, or a device that
    /// does not exist.
    pub fn is_usage(&self) -> bool {
        matches!(self, Error::Recipe(_) | Error::Engine(EngineError::Unsupported(_)))
    }

    /// An [`Error::Observer`] from any error.
    ///
    /// # Example
    ///
    /// ```
    /// use crescendo_training::Error;
    ///
    /// let error = Error::observer(std::fmt::Error);
    /// assert!(matches!(error, Error::Observer(own) if own.is::<std::fmt::Error>()));
    /// ```
    pub fn observer(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Error::Observer(error.into())
    }

    /// An [`Error::Io`] for `path`.
    pub fn io(doing: &'static str, path: &Path, source: std::io::Error) -> Self {
        Error::Io { doing, path: path.to_owned(), source }
    }

    /// An [`Error::Bad`] for `path`.
    pub fn bad(path: &Path, problem: impl Into<String>) -> Self {
        Error::Bad { path: path.to_owned(), problem: problem.into() }
    }

    /// The same with advice added, if the content of a file is invalid.
    pub(crate) fn advise(self, advice: &str) -> Self {
        match self {
            Error::Bad { path, problem } => {
                Error::Bad { path, problem: format!("{problem}; {advice}") }
            }
            other => other,
        }
    }
}
