//! Lists the images of a folder by classes.
//!
//! A data set is a folder with a folder for each class, or with folders of training, validation and test images
//! that have these. Two published layouts are read too: Tiny ImageNet's (labels of the validation images in
//! `val_annotations.txt`) and that of Kaggle's CIFAR-10 (labels of the training images in `trainLabels.csv`).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use unicode_normalization::UnicodeNormalization;

use super::labels;
use super::tree::{Entry, Tree};
use crate::Error;

/// The most images that are read: they take six gigabytes of memory.
pub(super) const MAX_IMAGES: usize = 2_000_000;
/// The number of classes that labels can distinguish.
const MAX_CLASSES: usize = u16::MAX as usize;
/// The most levels of folders in the folder of a class.
pub(super) const MAX_DEPTH: usize = 16;

/// Names of a folder of training images; upper and lower case are equivalent.
const TRAIN: &[&str] = &["train", "training"];
/// Names of a folder of validation images; the first that has classes is read.
const VALIDATION: &[&str] = &["val", "valid", "validation"];
/// Names of a folder of test images; the first that has classes is read.
const TEST: &[&str] = &["test", "testing"];

/// Folders that other programs make.
const OTHERS: &[&str] = &["__MACOSX", "@eaDir", "__pycache__", "$RECYCLE.BIN"];

/// The images of a folder, by classes.
pub(super) struct Listing {
    pub root: PathBuf,
    /// The classes of the training images, or of all images if the test images have no folder of their
    /// own.
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

/// Lists the images of a folder; `None` if its folders contain no images.
pub(super) fn list(tree: &Tree, root: &Path) -> Result<Option<Listing>, Error> {
    let mut walk = Walk::new(tree);
    let inner = walk.unwrap(root)?;
    let train = walk.named(&inner, TRAIN)?;
    let (validation, test) = (walk.named(&inner, VALIDATION)?, walk.named(&inner, TEST)?);
    let labels = inner.join(labels::KAGGLE);
    let (classes, used) = if let Some((train, images)) = walk.kaggle(&labels, &train)? {
        let pairs = labels::kaggle(&labels, &tree.text(&labels)?)?;
        walk.used.insert(labels);
        (walk.labelled(&images, pairs, true)?, Some(train))
    } else if let Some(train) = walk.with_folders(&train)? {
        let outer = walk.unwrap(train)?;
        (walk.classes(&outer)?, Some(train.clone()))
    } else {
        let held_out = [&test[..], &validation].concat();
        if let (Some(train), false) = (train.first(), held_out.is_empty()) {
            let problem = "has no folders of classes: put its images into folders, one for each \
                           class and with its name";
            return Err(Error::invalid(train, problem));
        }
        if let Some(test) = walk.with_folders(&held_out)? {
            let problem = "has folders of test images, but there is no folder `train` next to it: put \
                           the training images there, in one folder for each class";
            return Err(Error::invalid(test, problem));
        }
        (walk.classes(&inner)?, None)
    };
    let Some(train) = used else { return walk.finish(root, classes, None, None) };
    let names: BTreeSet<&str> = classes.iter().map(|class| class.name.as_str()).collect();
    let mut read = BTreeSet::from([train]);
    let mut held_out = |folders: Vec<PathBuf>| -> Result<_, Error> {
        for folder in folders {
            if let Some(classes) = walk.held_out(&folder, &names)? {
                read.insert(folder.clone());
                return Ok(Some((folder, classes)));
            }
        }
        Ok(None)
    };
    let (validation, test) = (held_out(validation)?, held_out(test)?);
    walk.count_ignored(&inner, Some(&read))?;
    let (validation, test) = match (validation, test) {
        (Some((folder, classes)), None) => {
            let name = walk.display(root, &folder);
            walk.notes.push(format!(
                "the images in {name} are the test images: there are no others with labels"
            ));
            (None, Some(classes))
        }
        (validation, test) => (validation.map(|found| found.1), test.map(|found| found.1)),
    };
    walk.finish(root, classes, validation, test)
}

/// What was found so far.
struct Walk<'a> {
    tree: &'a Tree,
    images: usize,
    /// Images outside of the folders of classes.
    loose: Ignored,
    /// Files that are not images.
    others: Ignored,
    /// Folders that are not classes.
    folders: Ignored,
    /// Images without a label, and labels without an image.
    unlabelled: Ignored,
    missing: Ignored,
    /// Folders that are passed over: of other programs, of runs, and empty ones.
    passed: BTreeSet<PathBuf>,
    /// Folders that have a note of their own.
    noted: BTreeSet<PathBuf>,
    /// Files of labels.
    used: BTreeSet<PathBuf>,
    notes: Vec<String>,
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

/// What a folder and those inside it hold.
#[derive(Default)]
struct Content {
    images: bool,
    files: bool,
    runs: bool,
}

impl<'a> Walk<'a> {
    fn new(tree: &'a Tree) -> Self {
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

    fn finish(
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
    fn subfolders(&mut self, parent: &Path) -> Result<Vec<Entry>, Error> {
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
    fn unwrap(&mut self, folder: &Path) -> Result<PathBuf, Error> {
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

    fn has_images(&self, folder: &Path) -> Result<bool, Error> {
        let entries = self.tree.entries(folder)?;
        Ok(entries.iter().any(|entry| !entry.is_folder && self.tree.is_image(&entry.path)))
    }

    /// The folders in `root` that have one of these names, in the order of `names`.
    fn named(&mut self, root: &Path, names: &[&str]) -> Result<Vec<PathBuf>, Error> {
        let folders = self.subfolders(root)?.into_iter();
        let mut found: Vec<_> = folders
            .filter_map(|folder| Some((position(&folder.path, names)?, folder.path)))
            .collect();
        found.sort();
        Ok(found.into_iter().map(|(_, folder)| folder).collect())
    }

    /// The first of the folders that has folders of classes.
    fn with_folders<'b>(&mut self, all: &'b [PathBuf]) -> Result<Option<&'b PathBuf>, Error> {
        for folder in all {
            if !self.subfolders(folder)?.is_empty() {
                return Ok(Some(folder));
            }
        }
        Ok(None)
    }

    /// The folder of training images in the layout of Kaggle's CIFAR-10, which may be doubled, and the folder in it
    /// that has the images.
    fn kaggle(
        &mut self,
        labels: &Path,
        train: &[PathBuf],
    ) -> Result<Option<(PathBuf, PathBuf)>, Error> {
        let Some(train) = train.first().filter(|_| self.tree.is_file(labels)) else {
            return Ok(None);
        };
        let folders = self.subfolders(train)?;
        let images = match &folders[..] {
            [] => train,
            [only] if only.path.file_name() == train.file_name() => &only.path,
            _ => return Ok(None),
        };
        Ok(self.has_images(images)?.then(|| (train.clone(), images.clone())))
    }

    /// The classes in a folder of validation or test images, if these have labels; `known` are the classes of the
    /// training images.
    fn held_out(
        &mut self,
        folder: &Path,
        known: &BTreeSet<&str>,
    ) -> Result<Option<Vec<Class>>, Error> {
        let annotations = folder.join(labels::TINY_IMAGENET);
        if self.tree.is_file(&annotations) {
            let labels = labels::tiny_imagenet(&annotations, &self.tree.text(&annotations)?)?;
            self.used.insert(annotations);
            let images = folder.join("images");
            return self.labelled(&images, labels, false).map(Some);
        }
        let outer = self.unwrap(folder)?;
        let folders = self.subfolders(&outer)?;
        let is_known = |folder: &Entry| name(&folder.path).is_some_and(|n| known.contains(&*n));
        if folders.len() > 1 || folders.iter().any(is_known) {
            return self.classes(&outer).map(Some);
        }
        let name = folder.file_name().unwrap_or_default().display();
        self.notes.push(format!(
            "the folder {name} is passed over: its images have no labels, as they are in no folders of \
             classes"
        ));
        self.noted.insert(folder.to_owned());
        Ok(None)
    }

    /// The classes of the images in `folder` whose labels are in a file: pairs of a file's name and a class. If
    /// `by_stem`, the names have no endings.
    fn labelled(
        &mut self,
        folder: &Path,
        labels: Vec<(String, String)>,
        by_stem: bool,
    ) -> Result<Vec<Class>, Error> {
        let mut classes: BTreeMap<String, Class> = BTreeMap::new();
        let mut labels: BTreeMap<String, String> = labels.into_iter().collect();
        for Entry { path, is_folder, .. } in self.tree.entries(folder)? {
            if is_folder {
                self.folders.add(path);
                continue;
            }
            if !self.tree.is_image(&path) {
                self.others.add(path);
                continue;
            }
            let key = if by_stem { path.file_stem() } else { path.file_name() };
            let key = key.unwrap_or_default().to_string_lossy().into_owned();
            let Some(class) = labels.remove(&key) else {
                self.unlabelled.add(path);
                continue;
            };
            let class: String = class.nfc().collect();
            let within = path.file_name().unwrap_or_default().to_string_lossy().nfc().collect();
            let new =
                || Class { name: class.clone(), folder: folder.to_owned(), images: Vec::new() };
            classes.entry(class.clone()).or_insert_with(new).images.push(Listed { path, within });
        }
        self.count(folder, classes.values().map(|class| class.images.len()).sum())?;
        for name in labels.into_keys() {
            self.missing.add(folder.join(name));
        }
        check_number(folder, classes.len())?;
        Ok(classes.into_values().collect())
    }

    /// The classes whose folders are in `parent`, sorted by name.
    fn classes(&mut self, parent: &Path) -> Result<Vec<Class>, Error> {
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
                    let within = within(class, &path);
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
    fn count(&mut self, folder: &Path, images: usize) -> Result<(), Error> {
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
    fn count_ignored(
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

    fn display(&self, root: &Path, path: &Path) -> String {
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
fn name(folder: &Path) -> Option<String> {
    let name = folder.file_name()?.to_str()?;
    (!name.contains(char::is_control)).then(|| name.nfc().collect())
}

/// The path of an image in the folder of its class, with slashes on every system.
fn within(class: &Path, path: &Path) -> String {
    let parts = path.strip_prefix(class).unwrap_or(path).iter();
    let parts: Vec<_> = parts.map(|part| part.to_string_lossy()).collect();
    parts.join("/").nfc().collect()
}

/// Which of the names a folder has, in upper or lower case.
fn position(folder: &Path, names: &[&str]) -> Option<usize> {
    let name = folder.file_name()?.to_str()?;
    names.iter().position(|known| known.eq_ignore_ascii_case(name))
}

fn check_number(folder: &Path, classes: usize) -> Result<(), Error> {
    if classes <= MAX_CLASSES {
        return Ok(());
    }
    let problem = format!("has {classes} classes, but there can be at most {MAX_CLASSES}");
    Err(Error::invalid(folder, problem))
}
