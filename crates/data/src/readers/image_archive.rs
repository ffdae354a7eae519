//! Zip and tar archives of folders of images, which are decoded as they are read.
//!
//! Nothing is unpacked to disk. In memory are, for each image, its pixels in the size that networks take.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use zip::ZipArchive;
use zip::result::ZipError;

use super::archive::{Limited, unpacked};
use super::labels::may_be_labels;
use super::tree::{ArchiveTree, MAX_TEXT, has_image_name};
use super::walk::{MAX_DEPTH, MAX_IMAGES};
use crate::image_file::{decode, is_image};
use crate::{DecodedImage, Error, Sizing};

/// The most bytes that an archive may unpack to.
const MAX_UNPACKED: u64 = 256 << 30;
/// The largest image in an archive, in bytes: several are in memory at the same time.
const MAX_IMAGE: u64 = 128 << 20;
/// The most entries of an archive.
const MAX_ENTRIES: usize = 2 * MAX_IMAGES;
/// Threads that decode images.
const MAX_THREADS: usize = 4;

/// The file of an image, with its place in the archive.
type ImageFile = (usize, PathBuf, Vec<u8>);
/// The same, decoded.
type Image = (usize, PathBuf, Result<DecodedImage, String>);

/// Reads the images of a zip or tar archive; `None` if it is neither.
pub(super) fn read(path: &Path, sizing: Sizing) -> Result<Option<ArchiveTree>, Error> {
    let file = File::open(path).map_err(|source| Error::io("read", path, source))?;
    if let Some(zip) = open_zip(path, &file)? {
        return decode_all(path, sizing, |reader| read_zip(zip, reader)).map(Some);
    }
    match unpacked(path, file)? {
        Some(tar) => decode_all(path, sizing, |reader| read_tar(path, tar, reader)).map(Some),
        None => Ok(None),
    }
}

/// The zip in a file, if it is one.
pub(super) fn open_zip<'a>(
    path: &Path,
    file: &'a File,
) -> Result<Option<ZipArchive<io::BufReader<&'a File>>>, Error> {
    let mut start = [0; 4];
    let mut reader = file;
    let is_zip = match reader.read_exact(&mut start) {
        Ok(()) => start == *b"PK\x03\x04" || start == *b"PK\x05\x06",
        Err(_) => false,
    };
    io::Seek::rewind(&mut reader).map_err(|source| Error::io("read", path, source))?;
    if !is_zip {
        return Ok(None);
    }
    ZipArchive::new(io::BufReader::new(file)).map(Some).map_err(|error| zip_error(path, error))
}

/// Why a zip, or an entry of it, cannot be read.
pub(super) fn zip_error(path: &Path, error: ZipError) -> Error {
    let problem = match error {
        ZipError::Io(source) if source.kind() != io::ErrorKind::UnexpectedEof => {
            format!("cannot be unpacked ({source}): it is damaged; download it again")
        }
        ZipError::UnsupportedArchive(ZipError::PASSWORD_REQUIRED) => {
            "is protected by a password: unpack it, and give the folder".into()
        }
        ZipError::UnsupportedArchive(what) => {
            format!("cannot be unpacked here ({what}): unpack it, and give the folder")
        }
        error => {
            format!("cannot be unpacked ({error}): it is damaged or truncated; download it again")
        }
    };
    Error::invalid(path, problem)
}

/// Takes the entries of an archive.
struct Reader<'a> {
    root: &'a Path,
    tree: &'a mut ArchiveTree,
    work: SyncSender<ImageFile>,
    entries: usize,
}

impl Reader<'_> {
    /// Takes an entry; its name has slashes.
    fn take(
        &mut self,
        name: &str,
        is_folder: bool,
        size: u64,
        content: impl Read,
    ) -> Result<(), Error> {
        let refused = |problem: &str| {
            Err(Error::invalid(
                self.root,
                format!("its entry {name:?} {problem}: do not trust this archive"),
            ))
        };
        let parts = || name.split(['/', '\\']).filter(|part| !matches!(*part, "" | "."));
        if name.starts_with('/') || parts().any(|part| part == "..") {
            return refused("points outside of the archive");
        }
        self.entries += 1;
        if self.entries > MAX_ENTRIES {
            let problem = format!("has more than {MAX_ENTRIES} entries, too many for a data set");
            return Err(Error::invalid(self.root, problem));
        }
        if parts().count() > 2 * MAX_DEPTH || name.len() > 4096 {
            return refused("is nested too deeply");
        }
        let path = parts().fold(self.root.to_owned(), |path, part| path.join(part));
        if path == self.root {
            return Ok(());
        }
        // Other programs' copies of the names of images are not images.
        if is_folder || parts().any(|part| part.starts_with('.') || part == "__MACOSX") {
            self.tree.add_other(self.root, &path, is_folder);
            return Ok(());
        }
        let unreadable = |error: io::Error| {
            let problem = format!(
                "its entry {name:?} cannot be unpacked ({error}): the archive is damaged or truncated; \
                 download it again"
            );
            Error::invalid(self.root, problem)
        };
        let mut content = content.take(size.min(MAX_IMAGE) + 1);
        let mut bytes = Vec::new();
        if may_be_labels(&path) {
            content.take(MAX_TEXT + 1).read_to_end(&mut bytes).map_err(unreadable)?;
            self.tree.add_text(self.root, path, bytes);
            return Ok(());
        }
        content.by_ref().take(64).read_to_end(&mut bytes).map_err(unreadable)?;
        if is_image(&bytes) || has_image_name(&path) {
            content.read_to_end(&mut bytes).map_err(unreadable)?;
            if bytes.len() as u64 > MAX_IMAGE {
                let problem = format!(
                    "is larger than {} MB: unpack the archive, and give the folder",
                    MAX_IMAGE >> 20
                );
                self.tree.add_image(self.root, path, Err(problem));
                return Ok(());
            }
            // If no thread is left to receive it, their panic is passed on in the end.
            let _ = self.work.send((self.entries, path, bytes));
        } else {
            self.tree.add_other(self.root, &path, false);
        }
        Ok(())
    }
}

/// Has `read` give all entries of an archive, and decodes the images on several threads.
fn decode_all(
    root: &Path,
    sizing: Sizing,
    read: impl FnOnce(&mut Reader) -> Result<(), Error>,
) -> Result<ArchiveTree, Error> {
    let mut tree = ArchiveTree::default();
    let threads = thread::available_parallelism().map_or(1, |count| count.get().min(MAX_THREADS));
    let (work, waiting) = sync_channel(threads);
    let waiting = Arc::new(Mutex::new(waiting));
    let (outcome, mut images) = thread::scope(|scope| {
        let start = |_| {
            let waiting = Arc::clone(&waiting);
            scope.spawn(move || decode_waiting(&waiting, sizing))
        };
        let threads: Vec<_> = (0..threads).map(start).collect();
        drop(waiting);
        let mut reader = Reader { root, tree: &mut tree, work, entries: 0 };
        let outcome = read(&mut reader);
        // The threads end when nothing can follow.
        drop(reader);
        let mut images = Vec::new();
        for thread in threads {
            match thread.join() {
                Ok(some) => images.extend(some),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        (outcome, images)
    });
    outcome?;
    // In the order of the archive: of two entries with one name the later one counts.
    images.sort_by_key(|image| image.0);
    for (_, path, image) in images {
        tree.add_image(root, path, image);
    }
    Ok(tree)
}

/// Decodes images until there are no more.
fn decode_waiting(waiting: &Mutex<Receiver<ImageFile>>, sizing: Sizing) -> Vec<Image> {
    let mut images = Vec::new();
    loop {
        // The lock is only held while this waits.
        let next = waiting.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok((place, path, bytes)) = next else { return images };
        images.push((place, path, decode(&bytes, sizing)));
    }
}

fn read_zip(mut zip: ZipArchive<io::BufReader<&File>>, reader: &mut Reader) -> Result<(), Error> {
    let mut left = MAX_UNPACKED;
    for index in 0..zip.len() {
        let entry = zip.by_index(index).map_err(|error| zip_error(reader.root, error))?;
        let name = entry.name().map_err(|error| zip_error(reader.root, error))?.into_owned();
        let (size, is_folder) = (entry.size(), entry.is_dir());
        left = left.checked_sub(size).ok_or_else(|| too_large(reader.root))?;
        reader.take(&name, is_folder, size, entry)?;
    }
    Ok(())
}

fn read_tar(path: &Path, tar: Box<dyn Read + '_>, reader: &mut Reader) -> Result<(), Error> {
    let damaged = |error: io::Error| {
        let problem =
            format!("cannot be unpacked ({error}): it is damaged or truncated; download it again");
        Error::invalid(path, problem)
    };
    let mut tar = tar::Archive::new(Limited { inner: tar, left: MAX_UNPACKED });
    for entry in tar.entries().map_err(damaged)? {
        let entry = entry.map_err(damaged)?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let kind = entry.header().entry_type();
        if kind.is_file() || kind.is_dir() {
            let size = entry.size();
            reader.take(&name, kind.is_dir(), size, entry)?;
        }
    }
    Ok(())
}

fn too_large(path: &Path) -> Error {
    let problem =
        format!("unpacks to more than {} GB, too large for a data set", MAX_UNPACKED >> 30);
    Error::invalid(path, problem)
}
