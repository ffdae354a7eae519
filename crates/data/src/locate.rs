//! Finds the data set when its path is not given.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::Error;
use crate::readers::binary;

const VARIABLE: &str = "CRESCENDO_DATA";

/// The folder for downloads: `crescendo` in the user's data folder. `None` if the system has no such
/// folder.
pub fn default_folder() -> Option<PathBuf> {
    dirs::data_local_dir().map(|folder| folder.join("crescendo"))
}

/// The path to read the data set from: `data` if it is given, else the value of the environment variable
/// `CRESCENDO_DATA`, else the download in the [`default_folder`].
///
/// # Errors
/// If the path does not exist, or if none is given and nothing was downloaded.
pub fn locate(data: Option<&Path>) -> Result<PathBuf, Error> {
    locate_among(data, env::var_os(VARIABLE), default_folder())
}

fn locate_among(
    data: Option<&Path>,
    variable: Option<OsString>,
    downloads: Option<PathBuf>,
) -> Result<PathBuf, Error> {
    if let Some(path) = data {
        return existing(path.to_owned(), "");
    }
    if let Some(path) = variable.filter(|path| !path.is_empty()) {
        return existing(path.into(), &format!(" (from {VARIABLE})"));
    }
    let downloaded = downloads.map(|folder| folder.join(binary::LAYOUT.folder));
    downloaded.filter(|folder| folder.is_dir()).ok_or_else(|| {
        Error::NotFound(format!(
            "CIFAR-10 was not found: give its path with --data PATH or in {VARIABLE}, download it with \
             `crescendo data fetch`, or use --data shapes, which needs no download"
        ))
    })
}

fn existing(path: PathBuf, origin: &str) -> Result<PathBuf, Error> {
    if path.exists() {
        return Ok(path);
    }
    Err(Error::NotFound(format!(
        "{}{origin}: there is no such file or folder; give the folder or archive of a data set, or \
         `shapes` (with --data, to train or evaluate)",
        path.display()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_argument_comes_first_then_the_variable_then_the_download() {
        let folder = tempfile::tempdir().unwrap();
        let [argument, variable, downloads] =
            ["argument", "variable", "downloads"].map(|name| folder.path().join(name));
        let downloaded = downloads.join("cifar-10-batches-bin");
        for path in [&argument, &variable, &downloaded] {
            std::fs::create_dir_all(path).unwrap();
        }
        let found = |data: Option<&Path>, variable: Option<OsString>| {
            locate_among(data, variable, Some(downloads.clone())).unwrap()
        };
        assert_eq!(found(Some(&argument), Some(variable.clone().into())), argument);
        assert_eq!(found(None, Some(variable.clone().into())), variable);
        assert_eq!(found(None, Some("".into())), downloaded);
        assert_eq!(found(None, None), downloaded);
    }

    #[test]
    fn a_path_that_does_not_exist_is_named() {
        let nowhere = Path::new("no/such/folder");
        let error = locate_among(Some(nowhere), None, None).unwrap_err().to_string();
        assert!(error.starts_with("no/such/folder: there is no such file or folder"), "{error}");
        let error = locate_among(None, Some("gone".into()), None).unwrap_err().to_string();
        assert!(error.starts_with("gone (from CRESCENDO_DATA): there is no such file"), "{error}");
    }

    #[test]
    fn the_error_names_every_way_to_get_data() {
        let empty = tempfile::tempdir().unwrap();
        for downloads in [None, Some(empty.path().to_owned())] {
            let error = locate_among(None, None, downloads).unwrap_err().to_string();
            for way in ["--data PATH", "CRESCENDO_DATA", "crescendo data fetch", "--data shapes"] {
                assert!(error.contains(way), "{error}");
            }
        }
    }

    #[test]
    fn the_default_folder_is_named_after_the_program() {
        assert!(default_folder().is_none_or(|folder| folder.ends_with("crescendo")));
    }
}
