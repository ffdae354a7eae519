//! Lists the images of a folder by classes.
//!
//! A data set is a folder with a folder for each class, or with folders of training, validation and test images
//! that have these. Two published layouts are read too: Tiny ImageNet's (labels of the validation images in
//! `val_annotations.txt`) and that of Kaggle's CIFAR-10 (labels of the training images in `trainLabels.csv`).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use unicode_normalization::UnicodeNormalization;

use super::decode::Purpose;
use super::labels;
use super::tree::{Entry, Tree};
use super::walk::{Class, Listed, Listing, TEST, TRAIN, VALIDATION, Walk, check_number, name};
use crate::Error;

/// Lists the images of a folder; `None` if its folders contain no images.
pub(super) fn list(tree: &Tree, root: &Path, purpose: Purpose) -> Result<Option<Listing>, Error> {
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
        if let (Some(test), Purpose::Evaluation) = (walk.with_folders(&held_out)?, purpose) {
            let classes = match walk.annotated(test)? {
                Some(classes) => classes,
                None => {
                    let outer = walk.unwrap(test)?;
                    walk.classes(&outer)?
                }
            };
            walk.count_ignored(&inner, Some(&BTreeSet::from([test.clone()])))?;
            return walk.finish(root, Vec::new(), None, Some(classes));
        }
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

impl Walk<'_> {
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
        if let Some(classes) = self.annotated(folder)? {
            return Ok(Some(classes));
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

    /// The classes in a folder of Tiny ImageNet's validation images, if it is one.
    fn annotated(&mut self, folder: &Path) -> Result<Option<Vec<Class>>, Error> {
        let annotations = folder.join(labels::TINY_IMAGENET);
        if !self.tree.is_file(&annotations) {
            return Ok(None);
        }
        let labels = labels::tiny_imagenet(&annotations, &self.tree.text(&annotations)?)?;
        self.used.insert(annotations);
        self.labelled(&folder.join("images"), labels, false).map(Some)
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
}
