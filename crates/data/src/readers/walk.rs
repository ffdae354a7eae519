//! Walks through the folders of images: which folders are classes, which images are in them, and what is ignored.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use unicode_normalization::UnicodeNormalization;

use super::tree::{Entry, Tree};
use crate::Error;

/// The most images that are read: they take six gigabytes of memory.
pub(super) const MAX_IMAGES: usize = 2_000_000;
/// The number of classes that labels can distinguish.
const MAX_CLASSES: usize = u16::MAX as usize;
/// The most levels of folders in the folder of a class.
pub(super) const MAX_DEPTH: usize = 16;

/// Names of a folder of training images; upper and lower case are equivalent.
pub(super) const TRAIN: &[&str] = &["train", "training"];
/// Names of a folder of validation images; the first that has classes is read.
pub(super) const VALIDATION: &[&str] = &["val", "valid", "validation"];
/// Names of a folder of test images; the first that has classes is read.
pub(super) const TEST: &[&str] = &["test", "testing"];

/// Folders that other programs make.
const OTHERS: &[&str] = &["__MACOSX", "@eaDir", "__pycache__", "$RECYCLE.BIN"];

/// The images of a folder, by classes.
pub(super) struct Listing {
    pub root: PathBuf,
    /// The classes of the training images, or of all images if the test images have no folder of their
    /// own; none if an evaluation has test images only.
    pub classes: Vec<Class>,
    /// The classes of the validation images, if these have a folder of their own besides that of test images.
    pub validation: Option<Vec<Class>>,
    /// The classes of the test images, if they have a folder of their own.
    pub test: Option<Vec<Class>>,
    /// What is ignored, one sentence each.
    pub warnings: Vec<String>,
}

/// A class and its images.
pub(super) struct Class {
    /// Its name, in Unicode's normalization form C.
    pub name: String,
    pub folder: PathBuf,
    /// In no particular order.
    pub images: Vec<Listed>,
}

/// An image of a class.
pub(super) struct Listed {
    pub path: PathBuf,
    /// Its path in the folder of its class, with slashes, in Unicode's normalization form C.
    pub within: String,
}

/// What was found so far.
pub(super) struct Walk<'a> {
    pub tree: &'a Tree,
    images: usize,
    /// Images outside of the folders of classes.
    loose: Ignored,
    /// Files that are not images.
    pub others: Ignored,
    /// Folders that are not classes.
    pub folders: Ignored,
    /// Images without a label, and labels without an image.
    pub unlabelled: Ignored,
    pub missing: Ignored,
    /// Folders that are passed over: of other programs, of runs, and empty ones.
    passed: BTreeSet<PathBuf>,
    /// Folders that have a note of their own.
    pub noted: BTreeSet<PathBuf>,
    /// Files of labels.
    pub used: BTreeSet<PathBuf>,
    pub notes: Vec<String>,
}

/// Files or folders that are ignored: their number, and the first by name.
#[derive(Default)]
pub(super) struct Ignored {
    count: usize,
    first: Option<PathBuf>,
}

impl Ignored {
    pub fn add(&mut self, path: PathBuf) {
        self.count += 1;
        if self.first.as_ref().is_none_or(|first| path < *first) {
            self.first = Some(path);
        }
    }
}

/// What a folder and those inside it hold.
#[derive(Default)]
struct Content {
    images: bool,
    files: bool,
    runs: bool,
}

impl<'a> Walk<'a> {
    pub fn new(tree: &'a Tree) -> Self {
        Walk {
            tree,
            images: 0,
            loose: Ignored::default(),
            others: Ignored::default(),
            folders: Ignored::default(),
            unlabelled: Ignored::default(),
            missing: Ignored::default(),
            passed: BTreeSet::new(),
            noted: BTreeSet::new(),
            used: BTreeSet::new(),
            notes: Vec::new(),
        }
    }

    pub fn finish(
        self,
        root: &Path,
        classes: Vec<Class>,
        validation: Option<Vec<Class>>,
        test: Option<Vec<Class>>,
    ) -> Result<Option<Listing>, Error> {
        if self.images == 0 {
            return Ok(None);
        }
        let warnings = self.warnings(root);
        Ok(Some(Listing { root: root.to_owned(), classes, validation, test, warnings }))
    }

    /// The folders in a folder, without those that are passed over.
    pub fn subfolders(&mut self, parent: &Path) -> Result<Vec<Entry>, Error> {
        let mut folders = Vec::new();
        for entry in self.tree.entries(parent)? {
            if entry.is_folder && !self.passes_over(&entry)? {
                folders.push(entry);
            }
        }
        Ok(folders)
    }

    /// Whether a folder is passed over.
    fn passes_over(&mut self, folder: &Entry) -> Result<bool, Error> {
        if self.passed.contains(&folder.path) {
            return Ok(true);
        }
        let name = folder.path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let mut content = Content::default();
        if !OTHERS.contains(&name) {
            self.survey(&folder.path, &mut content, 0)?;
        }
        let passes = !content.images && (content.runs || !content.files);
        if passes {
            self.passed.insert(folder.path.clone());
        }
        Ok(passes)
    }

    /// Looks for an image, and for runs, in a folder and those inside it.
    fn survey(&self, folder: &Path, content: &mut Content, depth: usize) -> Result<(), Error> {
        let entries = self.tree.entries(folder)?;
        let holds = |name: &str, is_folder: bool| {
            let is = |entry: &Entry| entry.path.ends_with(name) && entry.is_folder == is_folder;
            entries.iter().any(is)
        };
        if holds("recipe.toml", false) && (holds("weights", true) || holds("state", true)) {
            content.runs = true;
            return Ok(());
        }
        for entry in &entries {
            if content.images {
                return Ok(());
            }
            if !entry.is_folder {
                content.files = true;
                content.images = self.tree.is_image(&entry.path);
            } else if depth > MAX_DEPTH {
                // The error is given when the images are collected.
                content.images = true;
            } else if !entry.is_link && !OTHERS.iter().any(|other| entry.path.ends_with(other)) {
                self.survey(&entry.path, content, depth + 1)?;
            }
        }
        Ok(())
    }

    /// The folder that matters: as long as there is nothing but one folder in it, which is neither of training
    /// nor of test images and has folders itself, that one.
    pub fn unwrap(&mut self, folder: &Path) -> Result<PathBuf, Error> {
        let mut folder = folder.to_owned();
        for _ in 0..MAX_DEPTH {
            let folders = self.subfolders(&folder)?;
            let [only] = &folders[..] else { break };
            let is_split = [TRAIN, VALIDATION, TEST]
                .into_iter()
                .any(|names| position(&only.path, names).is_some())
                && folder.file_name() != only.path.file_name();
            if is_split
                || self.has_images(&folder)?
                || self.has_images(&only.path)?
                || self.subfolders(&only.path)?.is_empty()
            {
                break;
            }
            folder.clone_from(&only.path);
        }
        Ok(folder)
    }

    pub fn has_images(&self, folder: &Path) -> Result<bool, Error> {
        let entries = self.tree.entries(folder)?;
        Ok(entries.iter().any(|entry| !entry.is_folder && self.tree.is_image(&entry.path)))
    }

    /// The folders in `root` that have one of these names, in the order of `names`.
    pub fn named(&mut self, root: &Path, names: &[&str]) -> Result<Vec<PathBuf>, Error> {
        let folders = self.subfolders(root)?.into_iter();
        let mut found: Vec<_> = folders
            .filter_map(|folder| Some((position(&folder.path, names)?, folder.path)))
            .collect();
        found.sort();
        Ok(found.into_iter().map(|(_, folder)| folder).collect())
    }

    /// The first of the folders that has folders of classes.
    pub fn with_folders<'b>(&mut self, all: &'b [PathBuf]) -> Result<Option<&'b PathBuf>, Error> {
        for folder in all {
            if !self.subfolders(folder)?.is_empty() {
                return Ok(Some(folder));
            }
        }
        Ok(None)
    }

    /// The classes whose folders are in `parent`, sorted by name.
    pub fn classes(&mut self, parent: &Path) -> Result<Vec<Class>, Error> {
        self.count_ignored(parent, None)?;
        let folders = self.subfolders(parent)?;
        self.check_levels(parent, &folders)?;
        let mut classes: BTreeMap<String, Class> = BTreeMap::new();
        for Entry { path: folder, .. } in folders {
            let name = name(&folder).ok_or_else(|| {
                Error::invalid(
                    &folder,
                    "its name is not valid text, but it would be the name of a class: rename it",
                )
            })?;
            let mut images = Vec::new();
            self.collect(&folder, &folder, &mut images, 0)?;
            if let Some(class) = classes.get_mut(&name) {
                self.notes.push(format!(
                    "two folders are the class {name}: their names are two Unicode spellings of it"
                ));
                class.images.append(&mut images);
            } else {
                classes.insert(name.clone(), Class { name, folder, images });
            }
        }
        check_number(parent, classes.len())?;
        Ok(classes.into_values().collect())
    }

    /// Checks that the folders in `parent` are the classes, and not a level above them: then most of them have
    /// folders of the same names.
    fn check_levels(&mut self, parent: &Path, folders: &[Entry]) -> Result<(), Error> {
        let mut holders: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (index, folder) in folders.iter().enumerate() {
            let inner = self.unwrap(&folder.path)?;
            if self.has_images(&inner)? {
                continue;
            }
            for inner in self.subfolders(&inner)? {
                if let Some(name) = name(&inner.path) {
                    holders.entry(name).or_default().push(index);
                }
            }
        }
        holders.retain(|_, holders| holders.len() > 1 && 2 * holders.len() > folders.len());
        // One alone, such as `images`, is a level inside each class.
        let (Some((_, first)), true) = (holders.first_key_value(), holders.len() > 1) else {
            return Ok(());
        };
        let show = |names: Vec<String>| match names.len() {
            count @ 4.. => format!("{}, … ({count})", names[..3].join(", ")),
            _ => names.join(", "),
        };
        let outer = first.iter().filter_map(|&index| name(&folders[index].path)).collect();
        let (outer, inner) = (show(outer), show(holders.into_keys().collect()));
        let problem = format!(
            "its folders {outer} all have folders of the same names ({inner}), so that it is not clear which \
             are the classes: if {inner} are, name the folders around them train and test, or give one of \
             them with --data; otherwise put the images of each class into one folder"
        );
        Err(Error::invalid(parent, problem))
    }

    /// Adds the images in the folder of a class and in the folders in it.
    fn collect(
        &mut self,
        class: &Path,
        folder: &Path,
        images: &mut Vec<Listed>,
        depth: usize,
    ) -> Result<(), Error> {
        if depth > MAX_DEPTH {
            return Err(Error::invalid(
                folder,
                "is nested too deeply: put the images into fewer folders",
            ));
        }
        let before = images.len();
        for entry in self.tree.entries(folder)? {
            let path = entry.path.clone();
            if !entry.is_folder {
                if self.tree.is_image(&path) {
                    let within = within(class, &path).nfc().collect();
                    images.push(Listed { path, within });
                } else {
                    self.others.add(path);
                }
            } else if entry.is_link {
                // Not followed: it may lead back here.
                self.folders.add(path);
            } else if !self.passes_over(&entry)? {
                self.collect(class, &path, images, depth + 1)?;
            }
        }
        // Those inside have counted theirs.
        let inside = images[before..].iter().filter(|image| image.path.parent() == Some(folder));
        self.count(folder, inside.count())
    }

    /// Counts images that are read.
    pub fn count(&mut self, folder: &Path, images: usize) -> Result<(), Error> {
        self.images += images;
        if self.images <= MAX_IMAGES {
            return Ok(());
        }
        let problem = format!(
            "with this folder the data set has more than {MAX_IMAGES} images, which is the most that \
             can be read"
        );
        Err(Error::invalid(folder, problem))
    }

    /// Counts what is ignored in `parent`: files, and the folders that are not in `read`, if it is given.
    pub fn count_ignored(
        &mut self,
        parent: &Path,
        read: Option<&BTreeSet<PathBuf>>,
    ) -> Result<(), Error> {
        for Entry { path, is_folder, .. } in self.tree.entries(parent)? {
            if is_folder {
                let is_read = read.is_none_or(|read| read.contains(&path));
                if !is_read && !self.passed.contains(&path) && !self.noted.contains(&path) {
                    self.folders.add(path);
                }
            } else if self.tree.is_image(&path) {
                self.loose.add(path);
            } else if !self.used.contains(&path) {
                self.others.add(path);
            }
        }
        Ok(())
    }

    pub fn display(&self, root: &Path, path: &Path) -> String {
        path.strip_prefix(root).unwrap_or(path).display().to_string()
    }

    fn warnings(self, root: &Path) -> Vec<String> {
        let all = [
            (&self.loose, "image", "not in the folder of a class"),
            (&self.others, "file", "not an image"),
            (&self.folders, "folder", "not a class"),
            (&self.unlabelled, "image", "without a label"),
            (&self.missing, "label", "of an image that is not there"),
        ];
        let warnings = all.into_iter().filter_map(|(ignored, what, why)| {
            let first = ignored.first.as_ref()?;
            let first = self.display(root, first);
            Some(match ignored.count {
                1 => format!("1 {what} is ignored ({why}): {first}"),
                count => format!("{count} {what}s are ignored ({why}), such as {first}"),
            })
        });
        let mut warnings: Vec<String> = self.notes.iter().cloned().chain(warnings).collect();
        if let Some(first) = self.passed.first() {
            let first = self.display(root, first);
            let why = "empty, a run's or another program's";
            warnings.push(match self.passed.len() {
                1 => format!("1 folder is passed over ({why}): {first}"),
                count => format!("{count} folders are passed over ({why}), such as {first}"),
            });
        }
        warnings
    }
}

/// The name of a folder as that of a class, in Unicode's normalization form C; `None` if it cannot be one.
pub(super) fn name(folder: &Path) -> Option<String> {
    let name = folder.file_name()?.to_str()?;
    (!name.contains(char::is_control)).then(|| name.nfc().collect())
}

/// The path of a file in a folder, with slashes on every system.
pub(super) fn within(folder: &Path, path: &Path) -> String {
    let parts = path.strip_prefix(folder).unwrap_or(path).iter();
    let parts: Vec<_> = parts.map(|part| part.to_string_lossy()).collect();
    parts.join("/")
}

/// Which of the names a folder has, in upper or lower case.
fn position(folder: &Path, names: &[&str]) -> Option<usize> {
    let name = folder.file_name()?.to_str()?;
    names.iter().position(|known| known.eq_ignore_ascii_case(name))
}

pub(super) fn check_number(folder: &Path, classes: usize) -> Result<(), Error> {
    if classes <= MAX_CLASSES {
        return Ok(());
    }
    let problem = format!("has {classes} classes, but there can be at most {MAX_CLASSES}");
    Err(Error::invalid(folder, problem))
}
