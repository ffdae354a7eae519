//! Reads data sets: CIFAR-10 and CIFAR-100 in every published form, folders and archives of images, and arrays.

pub(crate) mod archive;
pub(crate) mod binary;
mod cifar100;
mod decode;
mod idx;
mod image_archive;
mod image_folder;
mod labels;
mod listing;
mod npz;
mod pickle;
mod python;
mod to_size;
mod tree;
mod walk;

pub use decode::{DamagedImages, Purpose, ReadOptions};
pub use image_folder::ImageFolder;

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use tree::Tree;

use crate::image_file::FORMATS;
use crate::{DataSet, Error, Sizing, Split};

/// The limit for a file, and for an unpacked archive, in bytes. Published data sets are much smaller;
/// anything larger is refused instead of being read into memory.
const MAX_BYTES: u64 = 512 << 20;

/// The number of classes that a label of one byte can distinguish.
const MAX_CLASSES: usize = 256;

/// A published data set.
pub(crate) struct Published {
    name: &'static str,
    /// The class names, used if the data set comes without them.
    classes: &'static [&'static str],
    /// Whether a data set in its layout is the published one. Others get a different name, so that a
    /// result on them is not mistaken for a result on the published images.
    is_official: fn(&DataSet) -> bool,
}

/// The name of CIFAR-10.
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
    is_official: |set| {
        const FINGERPRINT: &str =
            "a848c57c546881ecba9e25f435fa94706b5686f891cbb5995964989b72017714";
        set.fingerprint() == FINGERPRINT
    },
};

const CIFAR100: Published = Published {
    name: "CIFAR-100",
    classes: &cifar100::CLASSES,
    is_official: |set| {
        (set.train.len(), set.test.len()) == (50_000, 10_000) && set.classes == cifar100::CLASSES
    },
};

/// One version of a published data set: the names of its files and how they are read.
pub(crate) struct Layout {
    set: &'static Published,
    /// The name of the version.
    version: &'static str,
    /// The folder that its files are in.
    pub(crate) folder: &'static str,
    /// The archive it is published as.
    pub(crate) archive: &'static str,
    /// The files of training images and, last, the file of test images.
    batches: &'static [&'static str],
    /// The file of class names.
    names: &'static str,
    /// Reads a file of images, or returns the problem with it.
    batch: fn(&[u8]) -> Result<Split, String>,
    /// Reads the file of class names, or returns the problem with it.
    classes: fn(&[u8]) -> Result<Vec<String>, String>,
}

const LAYOUTS: [&Layout; 4] =
    [&binary::LAYOUT, &python::LAYOUT, &cifar100::BINARY, &cifar100::PYTHON];

impl Layout {
    /// The names of all files of this version.
    fn files(&self) -> impl Iterator<Item = &'static str> {
        self.batches.iter().copied().chain([self.names])
    }
}

/// Reads the data set at `path`, which is one of:
///
/// - CIFAR-10 or CIFAR-100 (Krizhevsky, 2009): the folder or the archive of the binary or the Python
///   version, or a folder that contains one of these under its official name; the archive may be a `.tar`;
/// - a folder of images, or a zip or tar archive of one: with a folder for each class, or with the folders
///   `train` and `test` that have a folder for each class, and `val` for validation images; without `test`,
///   `val` has the test images. Without either, a fifth of the images of each class become test images;
///   [`ImageFolder`] reads it with another share;
/// - Tiny ImageNet's and Kaggle's CIFAR-10's folders;
/// - a folder of MNIST's idx files, or of a relative of MNIST;
/// - an `.npz` file with arrays of images, such as those of MedMNIST.
///
/// # Errors
/// If there is no data set at `path`, or it is incomplete or damaged.
pub fn open(path: &Path) -> Result<DataSet, Error> {
    open_with(path, ReadOptions::default())
}

/// Reads the data set at `path`, as [`open`], with `options` for folders and archives of images.
///
/// # Errors
/// If there is no data set at `path`, or it is incomplete or damaged.
pub fn open_with(path: &Path, options: ReadOptions) -> Result<DataSet, Error> {
    let metadata = fs::metadata(path).map_err(|source| Error::io("read", path, source))?;
    if !metadata.is_dir() {
        return open_file(path, options);
    }
    let mut folder = path.to_owned();
    for _ in 0..MAX_DOUBLED {
        if let Some(set) = open_published(&folder)? {
            return Ok(set);
        }
        match only_folder(&folder) {
            Some(inner) => folder = inner,
            None => break,
        }
    }
    if let Some(set) = image_folder::open(&Tree::Disk, path, options)? {
        return Ok(set);
    }
    if let Some(file) = files(path).into_iter().find(|file| is_parquet(file)) {
        return Err(parquet(&file));
    }
    Err(Error::NotFound(format!(
        "{}: there is no data set in this folder: no folders of {FORMATS} images, one for each class, no idx \
         files, no .npz file, and none of {}",
        path.display(),
        LAYOUTS.map(|layout| format!("{}, {}", layout.folder, layout.archive)).join(", ")
    )))
}

/// How many folders that hold nothing but one folder are entered.
const MAX_DOUBLED: usize = 4;

/// Reads the data set in a folder if it has the files of a published one, or of arrays.
fn open_published(path: &Path) -> Result<Option<DataSet>, Error> {
    let holds = |layout: &Layout| layout.batches.iter().any(|name| path.join(name).is_file());
    if let Some(layout) = LAYOUTS.into_iter().find(|layout| holds(layout)) {
        return open_folder(path, layout).map(Some);
    }
    for layout in LAYOUTS {
        let folder = path.join(layout.folder);
        if folder.is_dir() {
            // Unzipping can double a folder.
            let doubled = folder.join(layout.folder);
            let folder = if doubled.is_dir() { doubled } else { folder };
            return open_folder(&folder, layout).map(Some);
        }
    }
    for layout in LAYOUTS {
        let tar = layout.archive.trim_end_matches(".gz");
        let mut archives = [layout.archive, tar].into_iter().map(|name| path.join(name));
        if let Some(archive) = archives.find(|archive| archive.is_file()) {
            return archive::open(&archive).map(Some);
        }
    }
    if let Some(set) = idx::open(path)? {
        return Ok(Some(set));
    }
    let is_npz = |file: &PathBuf| file.extension().is_some_and(|e| e.eq_ignore_ascii_case("npz"));
    match &files(path)[..] {
        [file] if is_npz(file) => npz::open(file),
        _ => Ok(None),
    }
}

/// Reads the data set in a file.
fn open_file(path: &Path, options: ReadOptions) -> Result<DataSet, Error> {
    if is_parquet(path) {
        return Err(parquet(path));
    }
    if idx::is_idx(path) {
        let problem =
            "is one of the four files of an idx data set: give the folder that has all of them";
        return Err(Error::invalid(path, problem));
    }
    if let Some(set) = npz::open(path)? {
        return Ok(set);
    }
    if !archive::has_images(path)? {
        return archive::open(path);
    }
    let tree = image_archive::read(path, options.sizing)?.map(Tree::Archive);
    let set = tree.as_ref().map(|tree| image_folder::open(tree, path, options)).transpose()?;
    set.flatten().ok_or_else(|| {
        let problem = format!("contains no folders of {FORMATS} images, one for each class");
        Error::invalid(path, problem)
    })
}

/// The files in a folder, without hidden ones, sorted; none if it cannot be read.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let visible = entries.filter(|entry| !entry.file_name().as_encoded_bytes().starts_with(b"."));
    let mut files: Vec<PathBuf> =
        visible.map(|entry| entry.path()).filter(|path| path.is_file()).collect();
    files.sort();
    files
}

/// The only thing in a folder, if it is a folder.
fn only_folder(folder: &Path) -> Option<PathBuf> {
    let mut entries = fs::read_dir(folder).ok()?.flatten().filter(|entry| {
        !entry.file_name().as_encoded_bytes().starts_with(b".") && entry.file_name() != "__MACOSX"
    });
    let only = entries.next()?.path();
    (entries.next().is_none() && only.is_dir()).then_some(only)
}

fn is_parquet(path: &Path) -> bool {
    let mut start = [0; 4];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut start));
    read.is_ok() && start == *b"PAR1"
}

fn parquet(path: &Path) -> Error {
    let problem = "is a Parquet file, which is not read: save its images in one folder for each class, in Python \
                   with `for i, x in enumerate(datasets.load_dataset(\"parquet\", data_files=FILE)[\"train\"])`, \
                   and in the loop `x[\"image\"].save(f\"images/{x['label']}/{i}.png\")`";
    Error::invalid(path, problem)
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
        file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
        if bytes.len() as u64 > MAX_BYTES {
            return Err(Error::invalid(&path, too_large()));
        }
        parts.add(name, &bytes)?;
    }
    parts.finish("folder")
}

fn too_large() -> String {
    format!("is larger than {} MB, too large for a file of this data set", MAX_BYTES >> 20)
}

/// The files of a data set while they are read, in any order.
struct Parts {
    layout: &'static Layout,
    /// The folder of the files, for error messages.
    root: PathBuf,
    batches: Vec<Option<Split>>,
    classes: Option<Vec<String>>,
}

impl Parts {
    fn new(layout: &'static Layout, root: PathBuf) -> Self {
        Parts { layout, root, batches: vec![None; layout.batches.len()], classes: None }
    }

    /// Adds the file `name`, if it belongs to this version.
    fn add(&mut self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        let wrong = |problem| Error::invalid(&self.root.join(name), problem);
        if name == self.layout.names {
            self.classes = Some((self.layout.classes)(bytes).map_err(wrong)?);
        } else if let Some(index) = self.layout.batches.iter().position(|batch| *batch == name) {
            self.batches[index] = Some((self.layout.batch)(bytes).map_err(wrong)?);
        }
        Ok(())
    }

    /// The data set, if all files of images were added and every label is a class.
    fn finish(self, kind: &str) -> Result<DataSet, Error> {
        let Parts { layout, root, batches, classes } = self;
        let classes = classes
            .unwrap_or_else(|| layout.set.classes.iter().map(|name| name.to_string()).collect());
        let mut splits = Vec::with_capacity(batches.len());
        for (name, batch) in layout.batches.iter().zip(batches) {
            let wrong = |problem| Error::invalid(&root.join(name), problem);
            let batch = batch.ok_or_else(|| {
                wrong("is missing, so the data set is incomplete: download it again".into())
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
        let Published { name, is_official, .. } = layout.set;
        let mut set = DataSet {
            name: (*name).into(),
            format: format!("{name} {} {kind}", layout.version),
            classes,
            train,
            validation: Split::default(),
            test,
            test_split: None,
            sizing: Sizing::default(),
            warnings: Vec::new(),
        };
        if !is_official(&set) {
            set.name = format!("other images in the layout of {name}");
        }
        Ok(set)
    }
}
