//! Lists the images of a folder by classes.

use std::fs;
use std::path::{Path, PathBuf};

use crate::Error;

/// The most images that are read: they take six gigabytes of memory.
const MAX_IMAGES: usize = 2_000_000;
/// The number of classes that labels can distinguish.
const MAX_CLASSES: usize = u16::MAX as usize;
/// The most levels of folders in the folder of a class.
const MAX_DEPTH: usize = 16;

/// Names of a folder of training images; upper and lower case are equivalent.
const TRAIN: &[&str] = &["train", "training"];
/// Names of a folder of test images; the first that exists is read.
const TEST: &[&str] = &["test", "testing", "val", "valid", "validation"];

/// The images of a folder, by classes.
pub(crate) struct Listing {
    pub root: PathBuf,
    /// The classes of the training images, or of all images if the test images have no folder of their
    /// own.
    pub classes: Vec<Class>,
    /// The classes of the test images, if they have a folder of their own.
    pub test: Option<Vec<Class>>,
    /// What is ignored, one sentence each.
    pub warnings: Vec<String>,
}

/// A class and its images.
pub(crate) struct Class {
    pub name: String,
    pub folder: PathBuf,
    /// In no particular order.
    pub images: Vec<PathBuf>,
}

/// Lists the images of a folder; `None` if its folders contain no images.
pub(crate) fn list(root: &Path) -> Result<Option<Listing>, Error> {
    let mut walk = Walk::default();
    let (train, test) = (named(root, TRAIN)?, named(root, TEST)?);
    let has_folders = |folder: &&PathBuf| folders(folder).is_ok_and(|folders| !folders.is_empty());
    // A folder of test images without classes is ignored.
    let (sorted, sorted_test) = (train.iter().find(has_folders), test.iter().find(has_folders));
    if let (None, Some(train), Some(_)) = (sorted, train.first(), test.first()) {
        let problem = "has no folders of classes: put its images into folders, one for each class and \
                       with its name";
        return Err(Error::invalid(train, problem));
    }
    if let (None, Some(test)) = (sorted, sorted_test) {
        let problem = "has folders of test images, but there is no folder `train` next to it: put the \
                       training images there, in one folder for each class";
        return Err(Error::invalid(test, problem));
    }
    let (classes, test) = if let Some(train) = sorted {
        walk.count_ignored(root, &[Some(train), sorted_test])?;
        (walk.classes(train)?, sorted_test.map(|test| walk.classes(test)).transpose()?)
    } else {
        (walk.classes(root)?, None)
    };
    if walk.images == 0 {
        return Ok(None);
    }
    let warnings = walk.warnings(root);
    Ok(Some(Listing { root: root.to_owned(), classes, test, warnings }))
}

/// What was found so far.
#[derive(Default)]
struct Walk {
    images: usize,
    /// Images outside of the folders of classes.
    loose: Ignored,
    /// Files that are not images.
    others: Ignored,
    /// Folders that are not classes.
    folders: Ignored,
}

/// Files or folders that are ignored: their number, and the first by name.
#[derive(Default)]
struct Ignored {
    count: usize,
    first: Option<PathBuf>,
}

impl Ignored {
    fn add(&mut self, path: PathBuf) {
        self.count += 1;
        if self.first.as_ref().is_none_or(|first| path < *first) {
            self.first = Some(path);
        }
    }
}

impl Walk {
    /// The classes whose folders are in `parent`, sorted by name.
    fn classes(&mut self, parent: &Path) -> Result<Vec<Class>, Error> {
        self.count_ignored(parent, &[])?;
        let mut classes = Vec::new();
        for folder in folders(parent)? {
            let name = folder.file_name().and_then(|name| name.to_str());
            let name = name.filter(|name| !name.contains(char::is_control)).ok_or_else(|| {
                Error::invalid(
                    &folder,
                    "its name is not valid text, but it would be the name of a class: rename it",
                )
            })?;
            let (name, mut images) = (name.to_owned(), Vec::new());
            self.collect(&folder, &mut images, 0)?;
            classes.push(Class { name, folder, images });
        }
        if classes.len() > MAX_CLASSES {
            let problem = format!(
                "has {} folders, but there can be at most {MAX_CLASSES} classes",
                classes.len()
            );
            return Err(Error::invalid(parent, problem));
        }
        classes.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(classes)
    }

    /// Adds the images in the folder of a class and in the folders in it.
    fn collect(
        &mut self,
        folder: &Path,
        images: &mut Vec<PathBuf>,
        depth: usize,
    ) -> Result<(), Error> {
        if depth > MAX_DEPTH {
            return Err(Error::invalid(
                folder,
                "is nested too deeply: put the images into fewer folders",
            ));
        }
        for path in entries(folder)? {
            if !path.is_dir() {
                if is_image(&path) { images.push(path) } else { self.others.add(path) }
            } else if path.is_symlink() {
                // Not followed: it may lead back here.
                self.folders.add(path);
            } else {
                self.collect(&path, images, depth + 1)?;
            }
            if self.images + images.len() > MAX_IMAGES {
                let problem = format!(
                    "with this folder the data set has more than {MAX_IMAGES} images, which is the most that \
                             can be read"
                );
                return Err(Error::invalid(folder, problem));
            }
        }
        if depth == 0 {
            self.images += images.len();
        }
        Ok(())
    }

    /// Counts what is ignored in `parent`: files, and the folders that are not in `read`. If `read` is
    /// empty, no folder is ignored.
    fn count_ignored(&mut self, parent: &Path, read: &[Option<&PathBuf>]) -> Result<(), Error> {
        for path in entries(parent)? {
            if path.is_dir() {
                if !read.is_empty() && !read.contains(&Some(&path)) {
                    self.folders.add(path);
                }
            } else if is_image(&path) {
                self.loose.add(path);
            } else {
                self.others.add(path);
            }
        }
        Ok(())
    }

    fn warnings(&self, root: &Path) -> Vec<String> {
        let all = [
            (&self.loose, "image", "not in the folder of a class"),
            (&self.others, "file", "not named as PNG or JPEG"),
            (&self.folders, "folder", "not a class"),
        ];
        let warnings = all.into_iter().filter_map(|(ignored, what, why)| {
            let first = ignored.first.as_ref()?;
            let first = first.strip_prefix(root).unwrap_or(first).display();
            Some(match ignored.count {
                1 => format!("1 {what} is ignored ({why}): {first}"),
                count => format!("{count} {what}s are ignored ({why}), such as {first}"),
            })
        });
        warnings.collect()
    }
}

/// The folders in `root` that have one of these names, in the order of `names`.
fn named(root: &Path, names: &[&str]) -> Result<Vec<PathBuf>, Error> {
    let mut found = Vec::new();
    for folder in folders(root)? {
        let name = folder.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if let Some(at) = names.iter().position(|known| known.eq_ignore_ascii_case(name)) {
            found.push((at, folder));
        }
    }
    found.sort();
    Ok(found.into_iter().map(|(_, folder)| folder).collect())
}

/// The entries of a folder, without hidden ones.
fn entries(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let failed = |error| Error::io("read", folder, error);
    let mut entries = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if !entry.file_name().as_encoded_bytes().starts_with(b".") {
            entries.push(entry.path());
        }
    }
    Ok(entries)
}

fn folders(parent: &Path) -> Result<Vec<PathBuf>, Error> {
    Ok(entries(parent)?.into_iter().filter(|path| path.is_dir()).collect())
}

fn is_image(path: &Path) -> bool {
    let is = |name: &str| path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case(name));
    ["png", "jpg", "jpeg"].into_iter().any(is)
}
