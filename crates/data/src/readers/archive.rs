//! The published archives, read as a stream without unpacking them to disk.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek};
use std::path::Path;

use flate2::bufread::GzDecoder;

use super::image_archive::open_zip;
use super::tree::has_image_name;
use super::{LAYOUTS, Layout, MAX_BYTES, Parts, too_large};
use crate::{DataSet, Error};

pub(super) fn open(path: &Path) -> Result<DataSet, Error> {
    let file = File::open(path).map_err(|source| Error::io("read", path, source))?;
    let mut found: Option<Parts> = None;
    each_file(path, file, |layout, name, bytes| {
        found.get_or_insert_with(|| Parts::new(layout, path.join(layout.folder))).add(name, bytes)
    })?;
    let parts = found.ok_or_else(|| {
        let folders = LAYOUTS.map(|layout| layout.folder).join(" or ");
        Error::invalid(
            path,
            format!("contains no files of {folders}: it is not an archive of a known data set"),
        )
    })?;
    parts.finish("archive")
}

/// Whether a file is an archive of images, and not of a published data set: a zip, or a tar with an image before
/// the first of these files.
pub(super) fn has_images(path: &Path) -> Result<bool, Error> {
    let failed = |source| Error::io("read", path, source);
    let mut file = File::open(path).map_err(failed)?;
    if open_zip(path, &file)?.is_some() {
        return Ok(true);
    }
    file.rewind().map_err(failed)?;
    let Some(inner) = unpacked(path, file)? else { return Ok(false) };
    let mut tar = tar::Archive::new(Limited { inner, left: 16 * MAX_BYTES });
    // What is wrong with the archive is said when it is read.
    let Ok(entries) = tar.entries() else { return Ok(false) };
    for entry in entries.map_while(Result::ok) {
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        if expected(&name).is_some() {
            return Ok(false);
        }
        if has_image_name(Path::new(&name)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Calls `take` with each file in the archive that belongs to a data set, and ignores all others. `path` is
/// the archive's path for error messages.
pub(crate) fn each_file(
    path: &Path,
    archive: impl Read,
    mut take: impl FnMut(&'static Layout, &'static str, &[u8]) -> Result<(), Error>,
) -> Result<(), Error> {
    let damaged = |error: io::Error| {
        let problem =
            format!("cannot be unpacked ({error}): it is damaged or truncated; download it again");
        Error::invalid(path, problem)
    };
    let unpacked = unpacked(path, archive)?.ok_or_else(|| {
        Error::invalid(
            path,
            "is neither a folder nor a .tar.gz, .tar or .zip archive: give the folder or the archive of \
             the data set",
        )
    })?;
    let mut unpacked = Limited { inner: unpacked, left: MAX_BYTES };
    let mut tar = tar::Archive::new(&mut unpacked);
    for entry in tar.entries().map_err(damaged)? {
        let mut entry = entry.map_err(damaged)?;
        let entry_path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let refused = |problem: String| {
            Error::invalid(
                path,
                format!("its entry {entry_path:?} {problem}: do not trust this archive"),
            )
        };
        if entry_path.starts_with('/') || entry_path.split('/').any(|part| part == "..") {
            return Err(refused("points outside of the archive".into()));
        }
        let Some((layout, name)) = expected(&entry_path) else {
            continue;
        };
        if !entry.header().entry_type().is_file() {
            return Err(refused("is not a plain file".into()));
        }
        if entry.size() > MAX_BYTES {
            return Err(refused(too_large()));
        }
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).map_err(damaged)?;
        if bytes.len() as u64 != entry.size() {
            return Err(damaged(io::ErrorKind::UnexpectedEof.into()));
        }
        take(layout, name, &bytes)?;
    }
    // Read on to the checksum, which follows the end of the tar.
    io::copy(&mut unpacked, &mut io::sink()).map_err(damaged)?;
    Ok(())
}

/// The tar in a file, which may be compressed, whatever its name; `None` if it has none. `path` is for error
/// messages.
pub(super) fn unpacked<'a>(
    path: &Path,
    file: impl Read + 'a,
) -> Result<Option<Box<dyn Read + 'a>>, Error> {
    let mut file = BufReader::new(file);
    let mut start = Vec::new();
    let read = file.by_ref().take(512).read_to_end(&mut start);
    read.map_err(|source| Error::io("read", path, source))?;
    let is_gzip = start.starts_with(&[0x1f, 0x8b]);
    let is_tar = is_tar(&start);
    let whole = io::Cursor::new(start).chain(file);
    Ok(match (is_gzip, is_tar) {
        (true, _) => Some(Box::new(GzDecoder::new(whole))),
        (_, true) => Some(Box::new(whole)),
        _ => None,
    })
}

/// Whether this is the first header of a tar: its checksum, the sum of its bytes with eight spaces in place of
/// the checksum, is right. Old archives have no other mark.
fn is_tar(header: &[u8]) -> bool {
    if header.len() < 512 {
        return false;
    }
    let sum =
        |range: std::ops::Range<usize>| header[range].iter().map(|&b| u64::from(b)).sum::<u64>();
    let sum = sum(0..148) + 8 * u64::from(b' ') + sum(156..512);
    let text = String::from_utf8_lossy(&header[148..156]).replace('\0', " ");
    u64::from_str_radix(text.trim(), 8) == Ok(sum)
}

/// The file of a data set that has this path in an archive, if it is one.
fn expected(path: &str) -> Option<(&'static Layout, &'static str)> {
    let mut parts = path.split('/').filter(|part| !matches!(*part, "" | "."));
    let (folder, file) = (parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    let layout = LAYOUTS.into_iter().find(|layout| layout.folder == folder)?;
    Some((layout, layout.files().find(|name| *name == file)?))
}

/// Fails when more than `left` bytes have been read: a few kilobytes of archive can unpack to any size.
pub(super) struct Limited<R> {
    pub inner: R,
    pub left: u64,
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.left = self
            .left
            .checked_sub(read as u64)
            .ok_or_else(|| io::Error::other(format!("the content {}", too_large())))?;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_of_a_data_set_are_expected() {
        let name = |path| expected(path).map(|(layout, name)| (layout.folder, name));
        assert_eq!(
            name("./cifar-10-batches-py/data_batch_1"),
            Some(("cifar-10-batches-py", "data_batch_1"))
        );
        assert_eq!(
            name("cifar-10-batches-bin/batches.meta.txt"),
            Some(("cifar-10-batches-bin", "batches.meta.txt"))
        );
        for other in [
            "",
            "cifar-10-batches-bin/",
            "cifar-10-batches-bin/readme.html",
            "cifar-10-batches-bin/data_batch_1",
            "data_batch_1.bin",
            "a/cifar-10-batches-bin/data_batch_1.bin",
        ] {
            assert_eq!(name(other), None, "{other}");
        }
    }

    #[test]
    fn content_that_is_too_large_is_an_error() {
        let read = |left| {
            let mut limited = Limited { inner: &[1, 2, 3][..], left };
            limited.read_to_end(&mut Vec::new())
        };
        assert_eq!(read(3).unwrap(), 3);
        assert!(read(2).unwrap_err().to_string().contains("larger"));
    }
}
