//! Folders of files, on disk or in an archive.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::image_file::is_image;
use crate::{DecodedImage, Error, Sizing, read_image_as};

/// The largest file of labels, in bytes.
pub(super) const MAX_TEXT: u64 = 64 << 20;

/// The endings of images' names. Other files are looked into.
const ENDINGS: [&str; 10] =
    ["png", "jpg", "jpeg", "jpe", "jfif", "jfi", "webp", "bmp", "dib", "gif"];
/// The endings of files that are certainly no images, and not looked into.
const OTHER_ENDINGS: [&str; 8] = ["txt", "csv", "json", "xml", "md", "py", "html", "yaml"];

/// Files in folders.
pub(super) enum Tree {
    /// On disk.
    Disk,
    /// In an archive, which has been read.
    Archive(ArchiveTree),
}

/// The content of an archive, as far as it matters.
#[derive(Default)]
pub(super) struct ArchiveTree {
    folders: BTreeMap<PathBuf, Vec<Entry>>,
    /// The images, decoded.
    images: HashMap<PathBuf, Result<DecodedImage, String>>,
    /// Files that may have labels.
    texts: HashMap<PathBuf, Vec<u8>>,
}

/// A file or a folder in a folder.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    pub path: PathBuf,
    pub is_folder: bool,
    /// Whether it is a symbolic link.
    pub is_link: bool,
}

impl Tree {
    /// The entries of a folder, without hidden ones.
    pub fn entries(&self, folder: &Path) -> Result<Vec<Entry>, Error> {
        match self {
            Tree::Disk => entries_on_disk(folder),
            Tree::Archive(archive) => Ok(archive.folders.get(folder).cloned().unwrap_or_default()),
        }
    }

    /// Whether a file is an image, as its name says, or else its content.
    pub fn is_image(&self, path: &Path) -> bool {
        match self {
            Tree::Archive(archive) => archive.images.contains_key(path),
            Tree::Disk if has_image_name(path) => true,
            Tree::Disk if is_named(path, &OTHER_ENDINGS) => false,
            Tree::Disk => {
                let mut start = Vec::new();
                let read = File::open(path).and_then(|file| file.take(64).read_to_end(&mut start));
                read.is_ok() && is_image(&start)
            }
        }
    }

    /// Whether there is a file.
    pub fn is_file(&self, path: &Path) -> bool {
        match self {
            Tree::Disk => path.is_file(),
            Tree::Archive(archive) => archive.texts.contains_key(path),
        }
    }

    /// The content of a file of labels.
    pub fn text(&self, path: &Path) -> Result<String, Error> {
        let bytes = match self {
            Tree::Disk => {
                let io = |error| Error::io("read", path, error);
                let mut bytes = Vec::new();
                let file = File::open(path).map_err(io)?;
                file.take(MAX_TEXT + 1).read_to_end(&mut bytes).map_err(io)?;
                bytes
            }
            Tree::Archive(archive) => archive.texts.get(path).cloned().unwrap_or_default(),
        };
        if bytes.len() as u64 > MAX_TEXT {
            let problem = format!("is larger than {} MB, too large for labels", MAX_TEXT >> 20);
            return Err(Error::invalid(path, problem));
        }
        let text = String::from_utf8(bytes)
            .map_err(|_| Error::invalid(path, "is not text: save it as UTF-8"))?;
        Ok(text.strip_prefix('\u{feff}').map_or(text.clone(), str::to_owned))
    }

    /// Reads an image. Those of an archive have been brought to size already.
    pub fn image(&self, path: &Path, sizing: Sizing) -> Result<DecodedImage, Error> {
        match self {
            Tree::Disk => read_image_as(path, sizing),
            Tree::Archive(archive) => match archive.images.get(path) {
                Some(Ok(image)) => Ok(image.clone()),
                Some(Err(problem)) => Err(Error::invalid(path, problem)),
                None => Err(Error::invalid(path, "is not in the archive")),
            },
        }
    }
}

impl ArchiveTree {
    /// Adds an image below the folder `root`.
    pub fn add_image(&mut self, root: &Path, path: PathBuf, image: Result<DecodedImage, String>) {
        // Of two entries with the same path, the later one counts.
        if !self.images.contains_key(&path) {
            self.add(root, &path, false);
        }
        self.images.insert(path, image);
    }

    /// Adds a file that may have labels.
    pub fn add_text(&mut self, root: &Path, path: PathBuf, content: Vec<u8>) {
        if !self.texts.contains_key(&path) {
            self.add(root, &path, false);
        }
        self.texts.insert(path, content);
    }

    /// Adds a file of another kind, or a folder.
    pub fn add_other(&mut self, root: &Path, path: &Path, is_folder: bool) {
        let known = is_folder && self.folders.contains_key(path);
        if !known {
            self.add(root, path, is_folder);
        }
    }

    /// Adds an entry, and the folders around it that are not there yet, as far as `root`. Hidden ones cannot be
    /// found.
    fn add(&mut self, root: &Path, path: &Path, is_folder: bool) {
        let (mut path, mut is_folder) = (path, is_folder);
        while path != root {
            let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return };
            if name.as_encoded_bytes().starts_with(b".") {
                return;
            }
            if is_folder {
                self.folders.entry(path.to_owned()).or_default();
            }
            let known = self.folders.contains_key(parent);
            let entry = Entry { path: path.to_owned(), is_folder, is_link: false };
            self.folders.entry(parent.to_owned()).or_default().push(entry);
            if known {
                return;
            }
            (path, is_folder) = (parent, true);
        }
    }
}

/// Whether a file is named as an image.
pub(super) fn has_image_name(path: &Path) -> bool {
    is_named(path, &ENDINGS)
}

fn is_named(path: &Path, endings: &[&str]) -> bool {
    let is = |name: &&str| path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case(name));
    endings.iter().any(is)
}

fn entries_on_disk(folder: &Path) -> Result<Vec<Entry>, Error> {
    let failed = |error| Error::io("read", folder, error);
    let mut entries = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if !entry.file_name().as_encoded_bytes().starts_with(b".") {
            let path = entry.path();
            let kind = entry.file_type().map_err(failed)?;
            let is_link = kind.is_symlink();
            let is_folder = kind.is_dir() || is_link && path.is_dir();
            entries.push(Entry { path, is_folder, is_link });
        }
    }
    Ok(entries)
}
