//! CIFAR-100, written as documented: with two labels for each image.

use std::fs;

use crescendo_data::{DataSet, Error, ImageShape, Split, open, summarize};
use md5::{Digest, Md5};
use tempfile::tempdir;

use super::python2;
use crate::common::{Batches, File, archive, write};

const COARSE: [&str; 20] = [
    "aquatic_mammals",
    "fish",
    "flowers",
    "food_containers",
    "fruit_and_vegetables",
    "household_electrical_devices",
    "household_furniture",
    "insects",
    "large_carnivores",
    "large_man-made_outdoor_things",
    "large_natural_outdoor_scenes",
    "large_omnivores_and_herbivores",
    "medium_mammals",
    "non-insect_invertebrates",
    "people",
    "reptiles",
    "small_mammals",
    "trees",
    "vehicles_1",
    "vehicles_2",
];

/// Training and test images, some of them with labels that CIFAR-10 does not have.
fn splits() -> [Split; 2] {
    let Batches([mut train, mut test, ..]) = Batches::new([7, 3, 1, 1, 1, 1], 5);
    train.labels = vec![0, 99, 50, 10, 11, 19, 20];
    test.labels = vec![99, 0, 42];
    [train, test]
}

fn records(split: &Split) -> Vec<u8> {
    let record = |index| [&[19, split.labels[index] as u8], split.image(index)].concat();
    (0..split.len()).flat_map(record).collect()
}

fn binary([train, test]: &[Split; 2]) -> Vec<File> {
    vec![("train.bin".into(), records(train)), ("test.bin".into(), records(test))]
}

fn python([train, test]: &[Split; 2]) -> Vec<File> {
    vec![
        ("train".into(), python2::batch_100(train, "training batch 1 of 1")),
        ("test".into(), python2::batch_100(test, "testing batch 1 of 1")),
    ]
}

/// The classes of a data set that comes without their names.
fn classes() -> Vec<String> {
    let root = tempdir().unwrap();
    write(root.path(), &binary(&splits()));
    open(root.path()).unwrap().classes
}

#[test]
fn the_official_class_names_are_known() {
    let classes = classes();
    let fine: Vec<&str> = classes.iter().map(String::as_str).collect();
    let md5: Vec<u8> = Md5::digest(python2::meta_100(&fine, &COARSE)).to_vec();
    let published = 0x7973_b151_00ad_e9c7_d40f_b424_638f_de48_u128;
    assert_eq!(md5, published.to_be_bytes());
}

#[test]
fn every_format_is_the_same_set() {
    let root = tempdir().unwrap();
    let at = |path: &str| root.path().join(path);
    let splits = splits();
    let (binary, python) = (binary(&splits), python(&splits));
    write(&at("b/cifar-100-binary"), &binary);
    write(&at("p/cifar-100-python"), &python);
    let archives = [
        ("cifar-100-binary.tar.gz", archive("cifar-100-binary", &binary)),
        ("cifar-100-python.tar.gz", archive("cifar-100-python", &python)),
    ];
    for (name, content) in &archives {
        write(&at("archives"), &[(name.to_string(), content.clone())]);
        write(&at(&format!("in {name}")), &[(name.to_string(), content.clone())]);
    }
    for (path, format) in [
        ("b", "binary folder"),
        ("b/cifar-100-binary", "binary folder"),
        ("p", "Python folder"),
        ("p/cifar-100-python", "Python folder"),
        ("archives/cifar-100-binary.tar.gz", "binary archive"),
        ("archives/cifar-100-python.tar.gz", "Python archive"),
        ("in cifar-100-binary.tar.gz", "binary archive"),
        ("in cifar-100-python.tar.gz", "Python archive"),
    ] {
        let set = open(&at(path)).unwrap();
        assert_eq!(set.format, format!("CIFAR-100 {format}"));
        assert_eq!(set.name, "other images in the layout of CIFAR-100");
        assert_eq!((set.classes.len(), &set.classes[99][..]), (100, "worm"));
        assert!([set.train, set.test] == splits, "{path} differs");
    }
}

#[test]
fn class_names_are_read() {
    let mut splits = splits();
    splits.iter_mut().for_each(|split| split.labels.iter_mut().for_each(|label| *label %= 2));
    let names = ("fine_label_names.txt".to_owned(), b"no\nyes\n".to_vec());
    let meta = ("meta".to_owned(), python2::meta_100(&["no", "yes"], &COARSE));
    for (mut files, names) in [(binary(&splits), names), (python(&splits), meta)] {
        files.push(names);
        let root = tempdir().unwrap();
        write(root.path(), &files);
        let set = open(root.path()).unwrap();
        assert_eq!(set.classes, ["no", "yes"]);
        assert!(summarize(&set).to_string().contains("CIFAR-100"));
    }
}

/// The error for a folder of these files, without its path.
fn problem(files: &[File]) -> String {
    let root = tempdir().unwrap();
    write(root.path(), files);
    let outcome: Result<DataSet, Error> = open(root.path());
    outcome.unwrap_err().to_string().replace(&root.path().display().to_string(), "")
}

#[test]
fn errors_name_the_file_and_the_problem() {
    let splits = splits();
    for (files, names) in
        [(binary(&splits), ["train.bin", "test.bin"]), (python(&splits), ["train", "test"])]
    {
        for (missing, name) in names.into_iter().enumerate() {
            let mut rest = files.clone();
            rest.remove(missing);
            let problem = problem(&rest);
            assert!(problem.starts_with(&format!("/{name}: is missing")), "{problem}");
        }
    }
    let mut files = binary(&splits);
    files[1].1.pop();
    let expected = format!(
        "/test.bin: is {} bytes, not a multiple of 3074",
        3 * (2 + ImageShape::CIFAR.elements()) - 1
    );
    assert!(problem(&files).starts_with(&expected));
    let mut files = binary(&splits);
    files[0].1[1] = 100;
    assert!(
        problem(&files)
            .starts_with("/train.bin: record 0 (the first is 0) has label 100, but there are 100")
    );
    // A file of CIFAR-10 is not one of CIFAR-100.
    let mut files = python(&splits);
    files[0].1 = python2::batch(&splits[0], "training batch 1 of 5");
    assert!(problem(&files).starts_with("/train: has no \"fine_labels\""));
    let mut files = python(&splits);
    files[1].1.truncate(3000);
    assert!(problem(&files).starts_with("/test: is not a Python pickle"));
}

#[test]
fn a_folder_with_both_sets_is_cifar_10() {
    let root = tempdir().unwrap();
    write(&root.path().join("cifar-100-binary"), &binary(&splits()));
    write(&root.path().join("cifar-10-batches-bin"), &Batches::new([1; 6], 1).binary());
    assert_eq!(open(root.path()).unwrap().classes.len(), 10);
    fs::remove_dir_all(root.path().join("cifar-10-batches-bin")).unwrap();
    assert_eq!(open(root.path()).unwrap().classes.len(), 100);
}
