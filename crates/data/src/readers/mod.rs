//! Reads data sets: CIFAR-10 and CIFAR-100 in each of the ways they are published, and folders of
//! images.

pub(crate) mod archive;
pub(crate) mod binary;
mod cifar100;
mod folder;
mod listing;
mod pickle;
mod python;

pub use folder::ImageFolder;

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::{DataSet, Error, Split};

/// No file of the set, and no archive of it unpacked, is nearly as large: what is larger is
/// refused rather than read into memory.
const LARGEST: u64 = 512 << 20;

/// As many classes as a label of one byte can tell apart.
const MOST_CLASSES: usize = 256;

/// A published set.
pub(crate) struct Published {
    name: &'static str,
    /// The classes, for a set that does not come with their names.
    classes: &'static [&'static str],
    /// Whether images in its layout are its own; others are called otherwise, so that nobody takes a
    /// result on them for one on it.
    own: fn(&DataSet) -> bool,
}

/// What CIFAR-10 is called.
pub const CIFAR10_NAME: &str = "CIFAR-10";

const CIFAR10: Published = Published {
    name: CIFAR10_NAME,
    classes: &[
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    ],
    own: |set| {
        const OFFICIAL: &str = "a848c57c546881ecba9e25f435fa94706b5686f891cbb5995964989b72017714";
        set.fingerprint() == OFFICIAL
    },
};

const CIFAR100: Published = Published {
    name: "CIFAR-100",
    classes: &cifar100::CLASSES,
    own: |set| {
        (set.train.len(), set.test.len()) == (50_000, 10_000) && set.classes == cifar100::CLASSES
    },
};

/// One version of a published set: how its files are called and read.
pub(crate) struct Layout {
    set: &'static Published,
    /// What the version is called.
    version: &'static str,
    /// The folder its files are in.
    pub(crate) folder: &'static str,
    /// The archive it is published as.
    pub(crate) archive: &'static str,
    /// The files of training images and, last, the file of test images.
    batches: &'static [&'static str],
    /// The file of class names.
    names: &'static str,
    /// Reads a file of images, or says what is wrong with it.
    batch: fn(&[u8]) -> Result<Split, String>,
    /// Reads the file of class names, or says what is wrong with it.
    classes: fn(&[u8]) -> Result<Vec<String>, String>,
}

const LAYOUTS: [&Layout; 4] =
    [&binary::LAYOUT, &python::LAYOUT, &cifar100::BINARY, &cifar100::PYTHON];

impl Layout {
    /// The files that are read.
    fn files(&self) -> impl Iterator<Item = &'static str> {
        self.batches.iter().copied().chain([self.names])
    }
}

/// Reads the data set at `path`: CIFAR-10 or CIFAR-100, as the folder of its binary or its Python
/// version, as either archive as it was downloaded, or in a folder that holds one of these under its
/// official name; or else a folder of images. It has a folder for each class, or the folders `train` and
/// `test` (or `val`) with one for each class in them; without `test`, a fifth of the images of each class
/// is tested on, as an [`ImageFolder`] of another share would have it.
///
/// # Errors
/// If there is no such set, or if anything about it is not as it should be.
pub fn open(path: &Path) -> Result<DataSet, Error> {
    let metadata = fs::metadata(path).map_err(|source| Error::io("read", path, source))?;
    if !metadata.is_dir() {
        return archive::open(path);
    }
    let holds = |layout: &Layout| layout.batches.iter().any(|name| path.join(name).is_file());
    if let Some(layout) = LAYOUTS.into_iter().find(|layout| holds(layout)) {
        return open_folder(path, layout);
    }
    for layout in LAYOUTS {
        let folder = path.join(layout.folder);
        if folder.is_dir() {
            return open_folder(&folder, layout);
        }
    }
    for layout in LAYOUTS {
        let archive = path.join(layout.archive);
        if archive.is_file() {
            return archive::open(&archive);
        }
    }
    folder::open(path)?.ok_or_else(|| {
        Error::NotFound(format!(
            "{}: there is no data set in this folder: no folders of PNG or JPEG images, one for each \
             class, and none of {}",
            path.display(),
            LAYOUTS.map(|layout| format!("{}, {}", layout.folder, layout.archive)).join(", ")
        ))
    })
}

fn open_folder(folder: &Path, layout: &'static Layout) -> Result<DataSet, Error> {
    let mut parts = Parts::new(layout, folder.to_owned());
    for name in layout.files() {
        let path = folder.join(name);
        if !path.is_file() {
            continue;
        }
        let unreadable = |source| Error::io("read", &path, source);
        let mut bytes = Vec::new();
        let file = File::open(&path).map_err(unreadable)?;
        file.take(LARGEST + 1).read_to_end(&mut bytes).map_err(unreadable)?;
        if bytes.len() as u64 > LARGEST {
            return Err(Error::bad(&path, too_large()));
        }
        parts.add(name, &bytes)?;
    }
    parts.finish("folder")
}

fn too_large() -> String {
    format!("is larger than {} MB, too large for a file of this set", LARGEST >> 20)
}

/// The files of a set as they are read, in whatever order.
struct Parts {
    layout: &'static Layout,
    /// The folder the files are in, to name them in errors.
    root: PathBuf,
    batches: Vec<Option<Split>>,
    classes: Option<Vec<String>>,
}

impl Parts {
    fn new(layout: &'static Layout, root: PathBuf) -> Self {
        Parts { layout, root, batches: vec![None; layout.batches.len()], classes: None }
    }

    /// Adds the file called `name`, if it is one of this version's.
    fn add(&mut self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        let wrong = |problem| Error::bad(&self.root.join(name), problem);
        if name == self.layout.names {
            self.classes = Some((self.layout.classes)(bytes).map_err(wrong)?);
        } else if let Some(index) = self.layout.batches.iter().position(|batch| *batch == name) {
            self.batches[index] = Some((self.layout.batch)(bytes).map_err(wrong)?);
        }
        Ok(())
    }

    /// The data set, if every file was there and every label is a class.
    fn finish(self, kind: &str) -> Result<DataSet, Error> {
        let Parts { layout, root, batches, classes } = self;
        let classes = classes
            .unwrap_or_else(|| layout.set.classes.iter().map(|name| name.to_string()).collect());
        let mut splits = Vec::with_capacity(batches.len());
        for (name, batch) in layout.batches.iter().zip(batches) {
            let wrong = |problem| Error::bad(&root.join(name), problem);
            let batch = batch.ok_or_else(|| {
                wrong(
                    "is missing, and the set is not complete without it: download it again".into(),
                )
            })?;
            let outside = |label: &u16| usize::from(*label) >= classes.len();
            if let Some(record) = batch.labels.iter().position(outside) {
                return Err(wrong(format!(
                    "record {record} (the first is 0) has label {}, but there are {} classes: \
                     the file is damaged; download it again",
                    batch.labels[record],
                    classes.len()
                )));
            }
            splits.push(batch);
        }
        let test = splits.pop().unwrap_or_default();
        let mut train = Split::default();
        train.pixels.reserve_exact(splits.iter().map(|split| split.pixels.len()).sum());
        for mut split in splits {
            train.pixels.append(&mut split.pixels);
            train.labels.append(&mut split.labels);
        }
        let Published { name, own, .. } = layout.set;
        let mut set = DataSet {
            name: (*name).into(),
            format: format!("{name} {} {kind}", layout.version),
            classes,
            train,
            test,
            warnings: Vec::new(),
        };
        if !own(&set) {
            set.name = format!("other images in the layout of {name}");
        }
        Ok(set)
    }
}
