//! Which images lie in which folders.

use std::fs;
use std::path::{Path, PathBuf};

use crate::Error;

/// More images than this are not read into memory: it would take six gigabytes.
const MOST_IMAGES: usize = 2_000_000;
/// As many classes as labels can tell apart.
const MOST_CLASSES: usize = u16::MAX as usize;
/// How deep folders may lie in a class's folder.
const DEEPEST: usize = 16;

/// What a folder of images to train on may be called, in letters of either case.
const TRAIN: &[&str] = &["train", "training"];
/// The same of those to test on; the first that is there is read.
const TEST: &[&str] = &["test", "testing", "val", "valid", "validation"];

/// The images of a folder, by classes.
pub(crate) struct Listing {
    pub root: PathBuf,
    /// The classes of all images, or of those to train on.
    pub classes: Vec<Class>,
    /// The classes of the images to test on, where they have a folder of their own.
    pub test: Option<Vec<Class>>,
    /// What was seen and is not read, in sentences.
    pub warnings: Vec<String>,
}

/// A class and its images.
pub(crate) struct Class {
    pub name: String,
    pub folder: PathBuf,
    /// In no order.
    pub images: Vec<PathBuf>,
}

/// Looks a folder over; `None` if there are no images in its folders.
pub(crate) fn list(root: &Path) -> Result<Option<Listing>, Error> {
    let mut walk = Walk::default();
    let (train, test) = (called(root, TRAIN)?, called(root, TEST)?);
    let has_folders = |folder: &&PathBuf| folders(folder).is_ok_and(|folders| !folders.is_empty());
    // Test images without classes cannot be tested on, and are passed over.
    let (sorted, sorted_test) = (train.iter().find(has_folders), test.iter().find(has_folders));
    if let (None, Some(train), Some(_)) = (sorted, train.first(), test.first()) {
        let problem = "has no folder for each class: put its images into folders that have the \
                       classes' names";
        return Err(Error::bad(train, problem));
    }
    if let (None, Some(test)) = (sorted, sorted_test) {
        let problem = "has folders of images to test on, but there is no folder `train` beside it: \
                       put those to train on there, in one folder for each class";
        return Err(Error::bad(test, problem));
    }
    let (classes, test) = if let Some(train) = sorted {
        walk.beside(root, &[Some(train), sorted_test])?;
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

/// What is seen on the way.
#[derive(Default)]
struct Walk {
    images: usize,
    /// Images beside the classes' folders.
    loose: Passed,
    /// Files that are no images.
    others: Passed,
    /// Folders that are no classes.
    folders: Passed,
}

/// What is passed over: how many, and the first by name.
#[derive(Default)]
struct Passed {
    count: usize,
    first: Option<PathBuf>,
}

impl Passed {
    fn add(&mut self, path: PathBuf) {
        self.count += 1;
        if self.first.as_ref().is_none_or(|first| path < *first) {
            self.first = Some(path);
        }
    }
}

impl Walk {
    /// The classes whose folders lie in `parent`, by name.
    fn classes(&mut self, parent: &Path) -> Result<Vec<Class>, Error> {
        self.beside(parent, &[])?;
        let mut classes = Vec::new();
        for folder in folders(parent)? {
            let name = folder.file_name().and_then(|name| name.to_str());
            let name = name.filter(|name| !name.contains(char::is_control)).ok_or_else(|| {
                Error::bad(
                    &folder,
                    "its name is no text, and classes are called as their folders: \
                                     rename it",
                )
            })?;
            let (name, mut images) = (name.to_owned(), Vec::new());
            self.collect(&folder, &mut images, 0)?;
            classes.push(Class { name, folder, images });
        }
        if classes.len() > MOST_CLASSES {
            let problem = format!(
                "has {} folders, but there can be no more than {MOST_CLASSES} classes",
                classes.len()
            );
            return Err(Error::bad(parent, problem));
        }
        classes.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(classes)
    }

    /// The images in a class's folder and below.
    fn collect(
        &mut self,
        folder: &Path,
        images: &mut Vec<PathBuf>,
        depth: usize,
    ) -> Result<(), Error> {
        if depth > DEEPEST {
            return Err(Error::bad(folder, "lies too deep: put the images into fewer folders"));
        }
        for path in entries(folder)? {
            if !path.is_dir() {
                if is_image(&path) { images.push(path) } else { self.others.add(path) }
            } else if path.is_symlink() {
                // It may lead back here.
                self.folders.add(path);
            } else {
                self.collect(&path, images, depth + 1)?;
            }
            if self.images + images.len() > MOST_IMAGES {
                let problem = format!("is one folder too many: only {MOST_IMAGES} images are read");
                return Err(Error::bad(folder, problem));
            }
        }
        if depth == 0 {
            self.images += images.len();
        }
        Ok(())
    }

    /// Counts what is in a folder but not in those that are read; without such a list, all of its
    /// folders are read.
    fn beside(&mut self, parent: &Path, read: &[Option<&PathBuf>]) -> Result<(), Error> {
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
            (&self.loose, "image", "in no class's folder"),
            (&self.others, "file", "no PNG or JPEG by the name"),
            (&self.folders, "folder", "no class's"),
        ];
        let warnings = all.into_iter().filter_map(|(passed, what, why)| {
            let first = passed.first.as_ref()?;
            let first = first.strip_prefix(root).unwrap_or(first).display();
            Some(match passed.count {
                1 => format!("1 {what} is not read, being {why}: {first}"),
                count => format!("{count} {what}s are not read, being {why}, such as {first}"),
            })
        });
        warnings.collect()
    }
}

/// The folders in `root` that have one of these names, in the order of the names.
fn called(root: &Path, names: &[&str]) -> Result<Vec<PathBuf>, Error> {
    let mut called = Vec::new();
    for folder in folders(root)? {
        let name = folder.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if let Some(at) = names.iter().position(|known| known.eq_ignore_ascii_case(name)) {
            called.push((at, folder));
        }
    }
    called.sort();
    Ok(called.into_iter().map(|(_, folder)| folder).collect())
}

/// What is in a folder, but nothing hidden.
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
