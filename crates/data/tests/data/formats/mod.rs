//! Every published format of a data set is read as the same data set.

mod cifar100;
mod hostile;
pub mod python2;

use std::fs;
use std::path::{Path, PathBuf};

use crescendo_data::{DataSet, ImageShape, open};
use md5::{Digest, Md5};
use proptest::prelude::*;
use tempfile::{TempDir, tempdir};

use crate::common::{Batches, File, archive, write};

pub const BINARY: &str = "cifar-10-batches-bin";
pub const PYTHON: &str = "cifar-10-batches-py";

/// A folder with a data set in every format: the paths to open, and the format's name of each.
fn every_format(batches: &Batches) -> (TempDir, Vec<(PathBuf, &'static str)>) {
    let root = tempdir().unwrap();
    let at = |path: &str| root.path().join(path);
    let (binary, python) = (batches.binary(), python2::files(batches));
    write(&at(BINARY), &binary);
    write(&at("python").join(PYTHON), &python);
    fs::write(at("python/cifar-10-binary.tar.gz"), "not looked at").unwrap();
    for (name, content) in [
        ("cifar-10-binary.tar.gz", archive(BINARY, &binary)),
        ("cifar-10-python.tar.gz", archive(PYTHON, &python)),
    ] {
        fs::write(at(name), &content).unwrap();
        write(&at(&format!("in {name}")), &[(name.into(), content)]);
    }
    let paths = [
        ("", "CIFAR-10 binary folder"),
        (BINARY, "CIFAR-10 binary folder"),
        ("python", "CIFAR-10 Python folder"),
        ("python/cifar-10-batches-py", "CIFAR-10 Python folder"),
        ("cifar-10-binary.tar.gz", "CIFAR-10 binary archive"),
        ("in cifar-10-binary.tar.gz", "CIFAR-10 binary archive"),
        ("cifar-10-python.tar.gz", "CIFAR-10 Python archive"),
        ("in cifar-10-python.tar.gz", "CIFAR-10 Python archive"),
    ];
    let paths = paths.map(|(path, format)| (at(path), format)).to_vec();
    (root, paths)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn every_format_is_the_same_set(sizes: [u8; 6], seed: u64) {
        let batches = Batches::new(sizes.map(|size| 1 + usize::from(size % 4)), seed);
        let (train, test) = batches.splits();
        let (_root, paths) = every_format(&batches);
        for (path, format) in paths {
            let set = open(&path).unwrap();
            prop_assert_eq!(&set.name, "other images in the layout of CIFAR-10");
            prop_assert_eq!(&set.format, format);
            prop_assert_eq!(set.classes.len(), 10);
            prop_assert_eq!(&set.classes[9], "truck");
            prop_assert!(set.train == train && set.test == test, "{} differs", path.display());
        }
    }
}

#[test]
fn long_lists_are_read() {
    let batches = Batches::new([300, 1, 1, 1, 1, 1], 1);
    let root = tempdir().unwrap();
    write(root.path(), &python2::files(&batches));
    let set = open(root.path()).unwrap();
    assert!((set.train, set.test) == batches.splits());
}

#[test]
fn the_tests_write_the_official_class_names() {
    let md5: Vec<u8> = Md5::digest(python2::meta()).to_vec();
    let published = 0x5ff9c542aee3614f3951f8cda6e48888_u128;
    assert_eq!(md5, published.to_be_bytes());
}

#[test]
fn pickles_of_python_3_and_numpy_2_are_read() {
    let mut image = [0; ImageShape::CIFAR.elements()];
    image.iter_mut().enumerate().for_each(|(index, byte)| *byte = (index % 251) as u8);
    for pickle in [
        &include_bytes!("../../fixtures/numpy-protocol-2.pickle")[..],
        include_bytes!("../../fixtures/numpy-protocol-4.pickle"),
        include_bytes!("../../fixtures/numpy-protocol-5.pickle"),
    ] {
        let root = tempdir().unwrap();
        let mut files = python2::files(&Batches::new([1; 6], 1));
        files.iter_mut().take(6).for_each(|file| file.1 = pickle.to_vec());
        write(root.path(), &files);
        let set = open(root.path()).unwrap();
        assert_eq!((set.train.len(), set.test.len()), (5, 1));
        assert_eq!(set.test.labels, [7]);
        assert!(set.test.image(0) == image && set.train.image(4) == image);
    }
}

#[test]
fn class_names_are_optional() {
    for files in [Batches::binary, python2::files] {
        let root = tempdir().unwrap();
        write(root.path(), &files(&Batches::new([1; 6], 1))[..6]);
        assert_eq!(open(root.path()).unwrap().classes[..2], ["airplane", "automobile"]);
    }
}

#[test]
fn class_names_are_read() {
    let root = tempdir().unwrap();
    let mut files = labelled(1).binary();
    files[6].1 = b"yes\nno\n".to_vec();
    write(root.path(), &files);
    assert_eq!(open(root.path()).unwrap().classes, ["yes", "no"]);
}

/// One image in each file, all with the same label.
fn labelled(label: u16) -> Batches {
    let mut batches = Batches::new([1; 6], 1);
    batches.0.iter_mut().for_each(|split| split.labels = vec![label]);
    batches
}

/// The error for a folder of these files.
fn problem(files: &[File]) -> String {
    let root = tempdir().unwrap();
    write(root.path(), files);
    message(root.path(), open(root.path()))
}

/// The error, which must name something in `root`, without that path.
fn message(root: &Path, result: Result<DataSet, crescendo_data::Error>) -> String {
    let message = result.unwrap_err().to_string();
    let root = root.display().to_string();
    assert!(message.contains(&root), "{message}");
    message.replace(&root, "").replace('\\', "/")
}

#[test]
fn a_missing_file_is_named() {
    for files in [Batches::binary, python2::files] {
        let files = files(&Batches::new([1; 6], 1));
        for missing in 0..6 {
            let mut rest = files.clone();
            let (name, _) = rest.remove(missing);
            let problem = problem(&rest);
            assert!(problem.starts_with(&format!("/{name}: is missing")), "{problem}");
        }
    }
}

#[test]
fn a_truncated_file_is_named() {
    let mut files = Batches::new([2; 6], 1).binary();
    files[2].1.pop();
    assert_eq!(
        problem(&files),
        "/data_batch_3.bin: is 6145 bytes, not a multiple of 3073: it may be truncated; download it again"
    );
    let mut files = python2::files(&Batches::new([2; 6], 1));
    files[5].1.truncate(5000);
    let problem = problem(&files);
    assert!(problem.starts_with("/test_batch: is not a Python pickle"), "{problem}");
    assert!(problem.contains("ends too early"), "{problem}");
}

#[test]
fn a_label_without_a_class_is_named() {
    let mut batches = Batches::new([3; 6], 1);
    batches.0[1].labels[2] = 10;
    for (files, name) in
        [(batches.binary(), "data_batch_2.bin"), (python2::files(&batches), "data_batch_2")]
    {
        let problem = problem(&files);
        let expected = format!("/{name}: record 2 (the first is 0) has label 10, but there are 10");
        assert!(problem.starts_with(&expected), "{problem}");
    }
}

#[test]
fn a_pickle_of_something_else_is_refused() {
    let mut files = python2::files(&Batches::new([2; 6], 1));
    let good = files[0].1.clone();
    let replacements: [(&[u8], &[u8], &str); 9] = [
        (b"U\x06labels", b"U\x06LABELS", "has no \"labels\""),
        (b"U\x04data", b"U\x04DATA", "has no \"data\""),
        (b"]q\x05(K", b"]q\x05(i", "unexpected opcode, 0x69"),
        (b"]q\x05(K", b"]q\x05(K\x01K", "has 3 labels for 2 images"),
        (b"U\x02u1", b"U\x02i1", "\"data\" is not a NumPy array of bytes"),
        (b"M\x00\x0c\x86", b"M\x00\x0b\x86", "\"data\" is not a NumPy array of bytes"),
        (b"(K\x01M\x02\x00", b"(K\x01M\x03\x00", "\"data\" is not a NumPy array of bytes"),
        (b"tb\x89T", b"tb\x88T", "row by row"),
        (b"numpy.core.multi", b"mumpy.core.multi", "\"data\" is not a NumPy array of bytes"),
    ];
    for (from, to, expected) in replacements {
        let at = good.windows(from.len()).position(|window| window == from).unwrap();
        files[0].1 = good.clone();
        files[0].1.splice(at..at + from.len(), to.iter().copied());
        let problem = problem(&files);
        assert!(problem.starts_with("/data_batch_1: ") && problem.contains(expected), "{problem}");
    }
}

#[test]
fn the_error_for_no_data_set_names_every_format() {
    let root = tempdir().unwrap();
    let problem = message(root.path(), open(root.path()));
    for name in [BINARY, PYTHON, "cifar-10-binary.tar.gz", "cifar-10-python.tar.gz"] {
        assert!(problem.contains(name), "{problem}");
    }
    let problem = message(root.path(), open(&root.path().join("nowhere")));
    assert!(problem.starts_with("cannot read /nowhere"), "{problem}");
}
