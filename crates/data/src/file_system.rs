//! What not every file system has: locks, and folders that can be synced. Network file systems and those of some
//! clusters lack one or both, and work well otherwise.

use std::fs::{File, TryLockError};
use std::io::{self, ErrorKind};
use std::path::Path;

/// The outcome of [`try_lock`].
///
/// # Example
///
/// ```
/// use crescendo_data::file_system::{Lock, try_lock};
/// use std::fs::File;
///
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("lock");
/// let first = File::create(&path)?;
/// // Some file systems have no locks.
/// if try_lock(&first)? == Lock::Held {
///     assert_eq!(try_lock(&File::open(&path)?)?, Lock::Taken);
///     drop(first);
///     assert_eq!(try_lock(&File::open(&path)?)?, Lock::Held);
/// }
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lock {
    /// This program has the lock.
    Held,
    /// Another program has it.
    Taken,
    /// The file system has no locks.
    Unsupported,
}

/// Locks a file until it is closed, without waiting for another program that has locked it.
///
/// # Errors
/// If the system refuses for another reason than [`Lock`] has.
pub fn try_lock(file: &File) -> io::Result<Lock> {
    lock_outcome(file.try_lock())
}

/// Whether another program has locked the file at `path`, as far as the file system knows locks. It stays unlocked if
/// it is, so that a program that locks it at the same moment is hardly ever in the way.
///
/// # Errors
/// If the file cannot be opened, unless there is none.
///
/// # Example
///
/// ```
/// use crescendo_data::file_system::{Lock, is_locked, try_lock};
///
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("lock");
/// assert!(!is_locked(&path)?);
/// let file = std::fs::File::create(&path)?;
/// assert!(!is_locked(&path)?);
/// let held = try_lock(&file)? == Lock::Held;
/// assert_eq!(is_locked(&path)?, held);
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn is_locked(path: &Path) -> io::Result<bool> {
    let file = match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        file => file?,
    };
    // Several programs can ask at the same time.
    Ok(lock_outcome(file.try_lock_shared())? == Lock::Taken)
}

/// What the outcome of [`File::try_lock`] means.
///
/// # Errors
/// See [`try_lock`].
pub fn lock_outcome(outcome: Result<(), TryLockError>) -> io::Result<Lock> {
    match outcome {
        Ok(()) => Ok(Lock::Held),
        Err(TryLockError::WouldBlock) => Ok(Lock::Taken),
        Err(TryLockError::Error(error)) if is_missing(&error) => Ok(Lock::Unsupported),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Makes the names in a folder survive a power cut. Says whether the file system can do that.
///
/// # Errors
/// If the system fails.
pub fn sync_folder(folder: &Path) -> io::Result<bool> {
    // Only Unix lets a folder be opened and synced; elsewhere the system takes care of it.
    if !cfg!(unix) {
        return Ok(true);
    }
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    sync_outcome(File::open(folder)?.sync_all())
}

/// What the outcome of [`File::sync_all`] of a folder means.
///
/// # Errors
/// See [`sync_folder`].
pub fn sync_outcome(outcome: io::Result<()>) -> io::Result<bool> {
    match outcome {
        Ok(()) => Ok(true),
        // What Linux says of a file that cannot be synced.
        Err(error) if error.kind() == ErrorKind::InvalidInput || is_missing(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether an error means that the file system does not have what was asked for.
fn is_missing(error: &io::Error) -> bool {
    // A server without locks answers "no locks available".
    #[cfg(unix)]
    let no_locks = error.raw_os_error() == Some(libc::ENOLCK);
    #[cfg(not(unix))]
    let no_locks = false;
    no_locks || error.kind() == ErrorKind::Unsupported
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn missing_locks_are_told_from_failures() {
        let outcome =
            |code| lock_outcome(Err(TryLockError::Error(io::Error::from_raw_os_error(code))));
        for code in [libc::ENOSYS, libc::ENOLCK, libc::EOPNOTSUPP, libc::ENOTSUP] {
            assert_eq!(outcome(code).unwrap(), Lock::Unsupported, "{code}");
        }
        for code in [libc::EIO, libc::EACCES, libc::EBADF, libc::EINVAL] {
            assert_eq!(outcome(code).unwrap_err().raw_os_error(), Some(code));
        }
        assert_eq!(lock_outcome(Err(TryLockError::WouldBlock)).unwrap(), Lock::Taken);
    }

    #[test]
    fn folders_that_cannot_be_synced_are_told_from_failures() {
        let outcome = |code| sync_outcome(Err(io::Error::from_raw_os_error(code)));
        for code in [libc::EINVAL, libc::ENOSYS, libc::EOPNOTSUPP] {
            assert!(!outcome(code).unwrap(), "{code}");
        }
        for code in [libc::EIO, libc::ENOSPC, libc::EDQUOT] {
            assert_eq!(outcome(code).unwrap_err().raw_os_error(), Some(code));
        }
    }

    #[test]
    fn a_lock_is_held_once_and_folders_are_synced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let first = File::create(&path).unwrap();
        assert_eq!(try_lock(&first).unwrap(), Lock::Held);
        let second = File::open(&path).unwrap();
        assert_eq!(try_lock(&second).unwrap(), Lock::Taken);
        drop(first);
        assert_eq!(try_lock(&second).unwrap(), Lock::Held);
        assert!(sync_folder(folder.path()).unwrap());
        assert!(sync_folder(&folder.path().join("none")).is_err());
    }
}
