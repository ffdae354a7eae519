use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use crescendo_data::{ImageFolder, open};
use crescendo_fuzzing::{apply, damages};
use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;
use tempfile::{TempDir, tempdir};
use zip::write::SimpleFileOptions;

use super::{counts, folder, png, read, refused, write};

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(bytes).unwrap();
    gzip.finish().unwrap()
}

/// The files in a folder and those inside it, by names with slashes.
fn files(root: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(root).unwrap().to_str().unwrap().replace('\\', "/");
                files.push((name, fs::read(&path).unwrap()));
            }
        }
    }
    files.sort();
    files
}

fn zip(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, content) in files {
        zip.start_file(name, SimpleFileOptions::default()).unwrap();
        zip.write_all(content).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

fn tar(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, &content[..]).unwrap();
    }
    tar.into_inner().unwrap()
}

fn file(content: impl AsRef<[u8]>, name: &str) -> (TempDir, PathBuf) {
    let root = tempdir().unwrap();
    write(root.path(), name, content);
    let path = root.path().join(name);
    (root, path)
}

#[test]
fn archives_of_a_folder_are_read_as_the_folder_is() {
    let root = folder(
        &["flowers/train/rose", "flowers/train/tulip", "flowers/val/rose", "flowers/test/tulip"],
        5,
    );
    write(root.path(), "flowers/README.md", "free");
    write(root.path(), "__MACOSX/flowers/train/rose/._0.png", "x");
    write(root.path(), "flowers/train/rose/@eaDir/0.png", png(77));
    let set = read(root.path());
    assert_eq!(counts(&set), [10, 5, 5]);
    let files = files(root.path());
    for (name, content) in [
        ("flowers.zip", zip(&files)),
        ("flowers.tar", tar(&files)),
        ("flowers.tar.gz", gzip(&tar(&files))),
        ("flowers.tgz", gzip(&tar(&files))),
        // The content says what it is.
        ("flowers.bin", tar(&files)),
    ] {
        let (_root, path) = file(content, name);
        let archived = read(&path);
        assert_eq!(archived.fingerprint(), set.fingerprint(), "{name}");
        assert_eq!(
            (&archived.classes, archived.name),
            (&set.classes, format!("the archive {name}"))
        );
        assert_eq!(archived.warnings.len(), set.warnings.len(), "{:?}", archived.warnings);
        assert_eq!(archived.test.files, set.test.files);
        assert_eq!(archived.train.files, set.train.files);
    }
}

#[test]
fn the_share_of_test_images_can_be_chosen_for_an_archive() {
    let root = folder(&["rose", "tulip"], 10);
    let (_root, path) = file(zip(&files(root.path())), "x.zip");
    let set = ImageFolder::new(&path, 0.5).unwrap().open().unwrap();
    assert_eq!(counts(&set), [10, 0, 10]);
    let folder = ImageFolder::new(root.path(), 0.5).unwrap().open().unwrap();
    assert_eq!(set.fingerprint(), folder.fingerprint());
}

#[test]
fn damaged_and_hostile_archives_are_refused() {
    let root = folder(&["rose", "tulip"], 5);
    let mut files = files(root.path());
    let damaged = |content: Vec<u8>, name: &str, part: &str| {
        let (_root, path) = file(content, name);
        refused(&path, &[name, part]);
    };
    damaged(zip(&files)[..300].to_vec(), "x.zip", "damaged");
    damaged(tar(&files)[..2000].to_vec(), "x.tar", "damaged or truncated");
    damaged(zip(&[("notes.txt".into(), b"x".to_vec())]), "x.zip", "no folders of PNG");
    damaged(zip(&[("../x.png".into(), png(1))]), "x.zip", "points outside of the archive");
    let deep = format!("{}x.png", "a/".repeat(50));
    damaged(zip(&[(deep, png(1))]), "x.zip", "nested too deeply");
    files[3].1 = b"no image".to_vec();
    damaged(zip(&files), "x.zip", "1 of 10 images cannot be read");
}

#[test]
fn a_plain_tar_of_cifar_10_is_read_under_every_name() {
    let record = |label: u8| [vec![label], vec![label; 3072]].concat();
    let mut files: Vec<(String, Vec<u8>)> = (1..=5)
        .map(|batch| (format!("cifar-10-batches-bin/data_batch_{batch}.bin"), record(batch)))
        .collect();
    files.push(("cifar-10-batches-bin/test_batch.bin".into(), record(9)));
    for name in ["cifar-10-binary.tar", "cifar-10-binary.tar.gz", "other.tar.gz"] {
        let (root, path) = file(tar(&files), name);
        let set = read(&path);
        assert_eq!((counts(&set), &*set.format), ([5, 0, 1], "CIFAR-10 binary archive"), "{name}");
        // A folder that holds it.
        if name.starts_with("cifar") {
            assert_eq!(read(root.path()), set);
        }
    }
    // A folder doubled by unpacking.
    let root = tempdir().unwrap();
    for (name, content) in &files {
        write(root.path(), &format!("cifar-10-batches-bin/{name}"), content);
    }
    assert_eq!(counts(&read(root.path())), [5, 0, 1]);
}

#[test]
fn a_parquet_file_is_named_with_the_way_to_convert_it() {
    let root = tempdir().unwrap();
    write(root.path(), "data/train-00000-of-00001.parquet", b"PAR1....PAR1");
    for path in ["data/train-00000-of-00001.parquet", "data"] {
        refused(
            &root.path().join(path),
            &["train-00000-of-00001.parquet: is a Parquet file", "load_dataset"],
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn damaged_archives_do_not_panic(is_zip: bool, damages in damages()) {
        let content = if is_zip { four_images_in_a_zip() } else { four_images_in_a_tar() };
        let (_root, path) = file(apply(content, &damages), "x");
        if let Ok(set) = open(&path) {
            // A part that is repeated can be another image.
            prop_assert!(set.train.len() + set.test.len() <= 8);
        }
    }
}

fn four_images() -> Vec<(String, Vec<u8>)> {
    (0..4_u16).map(|i| (format!("{}/{i}.png", i % 2), png(i))).collect()
}

/// A zip of two classes with two images each.
pub fn four_images_in_a_zip() -> Vec<u8> {
    zip(&four_images())
}

/// A tar of the same.
pub fn four_images_in_a_tar() -> Vec<u8> {
    tar(&four_images())
}
