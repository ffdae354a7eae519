//! Writes a data set in the layout of CIFAR-10's binary version, for other programs.

use std::fs;
use std::path::Path;

use crate::{DataSet, Error, Split};

/// Writes `set` to the new folder `folder`: five files of training images, a file of test images and a
/// file of class names.
///
/// # Errors
/// If `folder` exists or cannot be written, or if the set has fewer than five training images, no test
/// images or more than 256 classes.
pub fn export(set: &DataSet, folder: &Path) -> Result<(), Error> {
    if folder.exists() {
        return Err(Error::invalid(
            folder,
            "already exists, and nothing is overwritten: choose another folder",
        ));
    }
    if set.train.len() < 5 || set.test.is_empty() || set.classes.len() > 256 {
        let problem = "cannot be written: the binary version needs at least five training images and one \
                       test image, and at most 256 classes";
        return Err(Error::invalid(folder, problem));
    }
    fs::create_dir_all(folder).map_err(|error| Error::io("create", folder, error))?;
    let write = |name: &str, bytes: &[u8]| {
        let path = folder.join(name);
        fs::write(&path, bytes).map_err(|error| Error::io("write", &path, error))
    };
    let write_all = || {
        // Divided as evenly as possible; no file is empty.
        let (images, files) = (set.train.len(), 5);
        for file in 0..files {
            let part = images * file / files..images * (file + 1) / files;
            write(&format!("data_batch_{}.bin", file + 1), &records(&set.train, part))?;
        }
        write("test_batch.bin", &records(&set.test, 0..set.test.len()))?;
        write("batches.meta.txt", (set.classes.join("\n") + "\n").as_bytes())
    };
    // An incomplete data set is useless and would prevent another attempt.
    write_all().inspect_err(|_| drop(fs::remove_dir_all(folder)))
}

fn records(split: &Split, part: std::ops::Range<usize>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for index in part {
        bytes.push(split.labels[index] as u8);
        bytes.extend_from_slice(split.image(index));
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{open, shapes};

    #[test]
    fn an_exported_data_set_reads_back_identically() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("set");
        let set = shapes::generate(3, 23, 7);
        export(&set, &path).unwrap();
        let read = open(&path).unwrap();
        assert_eq!((&read.train, &read.test, &read.classes), (&set.train, &set.test, &set.classes));
        assert_eq!(read.fingerprint(), set.fingerprint());
        assert!(export(&set, &path).unwrap_err().to_string().contains("nothing is overwritten"));
    }
}
