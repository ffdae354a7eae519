//! Damaged and malicious files give an error or a valid data set, never a panic.

use std::fs;
use std::path::Path;

use crescendo_data::{ImageShape, open};
use crescendo_fuzzing::{Damage, apply, damages};
use proptest::prelude::*;
use tar::EntryType;
use tempfile::tempdir;

use super::{BINARY, PYTHON, message, python2};
use crate::common::{Batches, File, archive, gzip, write};

/// The error for an archive.
fn problem(content: &[u8]) -> String {
    let root = tempdir().unwrap();
    let path = root.path().join("some.tar.gz");
    fs::write(&path, content).unwrap();
    let problem = message(root.path(), open(&path));
    assert!(problem.starts_with("/some.tar.gz"), "{problem}");
    problem
}

/// An archive with one entry, whose header has the given `size`, whatever its content.
fn with_entry(kind: EntryType, path: &str, size: u64) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_cksum();
    tar.append(&header, &[0; 1024][..]).unwrap();
    gzip(&tar.into_inner().unwrap())
}

#[test]
fn an_entry_that_points_outside_is_refused() {
    for path in ["/etc/passwd", "../data_batch_1.bin", "cifar-10-batches-bin/../../x", ".."] {
        let problem = problem(&with_entry(EntryType::Regular, path, 1024));
        let expected = format!("/some.tar.gz: its entry {path:?} points outside of the archive");
        assert!(problem.starts_with(&expected), "{problem}");
    }
}

#[test]
fn a_link_in_place_of_a_file_is_refused() {
    for kind in [EntryType::Symlink, EntryType::Link, EntryType::Directory, EntryType::Fifo] {
        let problem = problem(&with_entry(kind, "cifar-10-batches-bin/data_batch_1.bin", 0));
        assert!(problem.contains("data_batch_1.bin\" is not a plain file"), "{problem}");
    }
}

#[test]
fn an_entry_that_is_too_large_is_refused() {
    let name = "cifar-10-batches-bin/data_batch_1.bin";
    let claim = problem(&with_entry(EntryType::Regular, name, 600 << 20));
    assert!(claim.contains("data_batch_1.bin\" is larger than 512 MB"), "{claim}");
}

#[test]
fn a_truncated_archive_is_refused() {
    for (folder, files) in [
        (BINARY, Batches::new([1; 6], 1).binary()),
        (PYTHON, python2::files(&Batches::new([1; 6], 1))),
    ] {
        let whole = archive(folder, &files);
        for length in [2, 9, 10, 100, whole.len() / 2, whole.len() - 9, whole.len() - 1] {
            let problem = problem(&whole[..length]);
            assert!(problem.contains("damaged or truncated"), "{length}: {problem}");
        }
    }
}

#[test]
fn a_wrong_checksum_is_an_error() {
    let mut content = archive(BINARY, &Batches::new([1; 6], 1).binary());
    let end = content.len();
    content[end - 8] ^= 1;
    assert!(problem(&content).contains("corrupt"));
}

#[test]
fn anything_but_an_archive_of_a_data_set_is_refused() {
    assert!(problem(b"").contains("neither a folder nor a .tar.gz"));
    assert!(problem(b"<html>not found</html>").contains("neither a folder nor a .tar.gz"));
    assert!(problem(&gzip(b"")).contains("contains no files of cifar-10-batches-bin or"));
    assert!(problem(&gzip(&[b'x'; 2000])).contains("cannot be unpacked"));
    let files = Batches::new([1; 6], 1).binary();
    assert!(problem(&archive("elsewhere", &files)).contains("contains no files"));
    let problem = problem(&archive(BINARY, &files[1..]));
    assert!(problem.contains("some.tar.gz/cifar-10-batches-bin/data_batch_1.bin: is missing"));
}

#[test]
fn other_entries_are_ignored() {
    let batches = Batches::new([1; 6], 1);
    let mut files = batches.binary();
    files.insert(0, ("readme.html".into(), vec![b' '; 1234]));
    files.reverse();
    let root = tempdir().unwrap();
    let path = root.path().join("renamed.tgz");
    fs::write(&path, archive(BINARY, &files)).unwrap();
    let set = open(&path).unwrap();
    assert!((set.train, set.test) == batches.splits());
}

/// Opens a file that may contain anything; a data set that can be read must be valid.
fn check_open(path: &Path) {
    let Ok(set) = open(path) else { return };
    for split in [&set.train, &set.test] {
        assert_eq!(split.pixels.len(), split.len() * ImageShape::CIFAR.elements());
        assert!(split.labels.iter().all(|label| usize::from(*label) < set.classes.len()));
        assert!(!split.is_empty());
    }
}

fn damaged_files(mut files: Vec<File>, which: usize, damage: &[Damage]) {
    let root = tempdir().unwrap();
    files[which].1 = apply(std::mem::take(&mut files[which].1), damage);
    write(root.path(), &files);
    check_open(root.path());
}

fn damaged_archive(folder: &str, files: &[File], damage: &[Damage]) {
    let root = tempdir().unwrap();
    let content = apply(archive(folder, files), damage);
    let path = root.path().join("some.tar.gz");
    fs::write(&path, content).unwrap();
    check_open(&path);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn damaged_folders_do_not_panic(which in 0_usize..7, damage in damages()) {
        let batches = Batches::new([1; 6], 1);
        damaged_files(batches.binary(), which, &damage);
        damaged_files(python2::files(&batches), which, &damage);
    }

    #[test]
    fn damaged_archives_do_not_panic(damage in damages()) {
        let batches = Batches::new([1; 6], 1);
        damaged_archive(BINARY, &batches.binary(), &damage);
        damaged_archive(PYTHON, &python2::files(&batches), &damage);
    }

    /// Damage of the uncompressed archive, which the checksum would detect otherwise.
    #[test]
    fn damaged_tars_do_not_panic(at: prop::sample::Index, byte: u8, damage in damages()) {
        let root = tempdir().unwrap();
        let mut tar = Vec::new();
        let whole = archive(BINARY, &Batches::new([1; 6], 1).binary());
        std::io::copy(&mut flate2::read::GzDecoder::new(&whole[..]), &mut tar).unwrap();
        // Damage matters most in the header of an entry.
        let entry = at.index(6) * 4096;
        tar[entry + usize::from(byte) % 160] = byte;
        let tar = apply(tar, &damage);
        let path = root.path().join("some.tar.gz");
        fs::write(&path, gzip(&tar)).unwrap();
        check_open(&path);
    }

    /// Random opcodes parse as a pickle more often than random bytes.
    #[test]
    fn pickles_of_random_opcodes_do_not_panic(
        pieces in prop::collection::vec(prop::sample::select(PIECES), 0..100)
    ) {
        let mut files = python2::files(&Batches::new([1; 6], 1));
        let pickle = [b"\x80\x02", &pieces.concat()[..], b"."].concat();
        files[6].1 = pickle.clone();
        files[0].1 = [&b"\x80\x02}q\x00(U\x04data"[..], &pieces.concat(), b"u."].concat();
        let root = tempdir().unwrap();
        write(root.path(), &files);
        check_open(root.path());
    }
}

const PIECES: &[&[u8]] = &[
    b"N",
    b"\x88",
    b"K\x01",
    b"M\x00\x0c",
    b"J\xff\xff\xff\xff",
    b"U\x02u1",
    b"U\x04data",
    b"U\x06labels",
    b"U\x0blabel_names",
    b"X\x01\x00\x00\x00\xff",
    b")",
    b"\x85",
    b"\x86",
    b"\x87",
    b"(",
    b"t",
    b"]",
    b"}",
    b"cnumpy\ndtype\n",
    b"cnumpy.core.multiarray\n_reconstruct\n",
    b"c_codecs\nencode\n",
    b"U\x06latin1",
    b"\x93",
    b"R",
    b"b",
    b"q\x00",
    b"q\x01",
    b"h\x00",
    b"h\x01",
    b"\x94",
    b"a",
    b"e",
    b"s",
    b"u",
];
