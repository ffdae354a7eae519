//! A million damaged inputs for each reader of data sets: no panic, and bounded memory. Ignored by default; to run
//! them: `cargo test --release -p crescendo-data fuzz -- --ignored --nocapture --test-threads 1`

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};

use crescendo_data::{ImageShape, open};
use crescendo_fuzzing::fuzz;
use image::ImageFormat;
use tempfile::{TempDir, tempdir};

use crate::common::{Batches, archive, write as write_all};
use crate::formats::{BINARY, PYTHON, python2};
use crate::own::archives::{four_images_in_a_tar, four_images_in_a_zip};
use crate::own::arrays::{medmnist, mnist};
use crate::own::{image, png, write};

/// Whether there is a data set at a path, which must be valid then.
fn is_read(path: &Path) -> bool {
    let Ok(set) = open(path) else { return false };
    for split in [&set.train, &set.validation, &set.test] {
        assert_eq!(split.pixels.len(), split.len() * ImageShape::CIFAR.elements());
        assert!(split.labels.iter().all(|label| usize::from(*label) < set.classes.len()));
    }
    true
}

/// Reads the data set `what` with one of `files` damaged, all of which lie in `root`.
fn fuzz_files(what: &str, root: TempDir, path: &Path, files: &[PathBuf]) {
    let samples: Vec<Vec<u8>> = files.iter().map(|file| fs::read(file).unwrap()).collect();
    assert!(is_read(path), "{what}: it can be read if it is not damaged");
    fuzz(what, &samples, |which, input| {
        fs::write(&files[which], input).unwrap();
        let is_read = is_read(path);
        fs::write(&files[which], &samples[which]).unwrap();
        is_read
    });
    drop(root);
}

#[test]
#[ignore = "takes minutes"]
fn fuzz_pickles() {
    let root = tempdir().unwrap();
    let files = python2::files(&Batches::new([1; 6], 1));
    write_all(root.path(), &files);
    let damaged = ["data_batch_2", "test_batch", "batches.meta"].map(|name| root.path().join(name));
    let path = root.path().to_owned();
    fuzz_files("pickles", root, &path, &damaged);
}

#[test]
#[ignore = "takes minutes"]
fn fuzz_idx_files() {
    let root = mnist("x", '-', false);
    let path = root.path().join("x");
    let names = ["train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"];
    let damaged = names.map(|name| path.join(format!("{name}-ubyte")));
    fuzz_files("idx files", root, &path, &damaged);
}

#[test]
#[ignore = "takes minutes"]
fn fuzz_npz_files() {
    let root = tempdir().unwrap();
    let path = root.path().join("x.npz");
    medmnist(&[28, 28], &path);
    fuzz_files("npz files", root, &path, std::slice::from_ref(&path));
}

#[test]
#[ignore = "takes minutes"]
fn fuzz_archives() {
    let root = tempdir().unwrap();
    let path = root.path().join("x");
    let batches = Batches::new([1; 6], 1);
    let (binary, python) = (batches.binary(), python2::files(&batches));
    let mut tar = Vec::new();
    let packed = archive(BINARY, &binary);
    std::io::copy(&mut flate2::read::GzDecoder::new(&packed[..]), &mut tar).unwrap();
    let samples =
        [four_images_in_a_zip(), four_images_in_a_tar(), tar, packed, archive(PYTHON, &python)];
    for sample in &samples {
        fs::write(&path, sample).unwrap();
        assert!(is_read(&path));
    }
    fuzz("archives", &samples, |_, input| {
        fs::write(&path, input).unwrap();
        is_read(&path)
    });
}

/// Images of every format and files of labels are damaged, and files get other names.
#[test]
#[ignore = "takes minutes"]
fn fuzz_image_folders() {
    let root = tempdir().unwrap();
    let formats = [
        ("jpg", ImageFormat::Jpeg),
        ("bmp", ImageFormat::Bmp),
        ("gif", ImageFormat::Gif),
        ("webp", ImageFormat::WebP),
    ];
    let mut images = Vec::new();
    for class in ["rose", "tulip"] {
        for split in ["train", "test"] {
            write(root.path(), &format!("own/{split}/{class}/a.png"), png(images.len() as u16));
        }
        images.push(format!("own/train/{class}/a.png"));
    }
    for (ending, format) in formats {
        let name = format!("own/train/rose/b.{ending}");
        write(root.path(), &name, image(format, [1, 2, 3]));
        images.push(name);
    }
    for number in 0..2_u16 {
        for name in [format!("train/n0{number}/images/a.png"), format!("val/images/{number}.png")] {
            write(root.path(), &format!("tiny/{name}"), png(10 * number + name.len() as u16));
        }
        write(root.path(), &format!("kaggle/train/{}.png", number + 1), png(20 + number));
        write(root.path(), &format!("kaggle/train/{}.png", number + 3), png(30 + number));
    }
    let annotations = "0.png\tn00\t0\t0\t62\t62\n1.png\tn01\t0\t0\t62\t62\n";
    write(root.path(), "tiny/val/val_annotations.txt", annotations);
    let labels = "id,label\n1,frog\n2,truck\n3,frog\n4,truck\n";
    write(root.path(), "kaggle/trainLabels.csv", labels);
    let labels = ["tiny/val/val_annotations.txt", "kaggle/trainLabels.csv"].map(str::to_owned);
    images.extend(labels);

    let files: Vec<PathBuf> = images.iter().map(|name| root.path().join(name)).collect();
    let samples: Vec<Vec<u8>> = files.iter().map(|file| fs::read(file).unwrap()).collect();
    let folders = ["own", "tiny", "kaggle"].map(|name| root.path().join(name));
    folders.iter().for_each(|folder| assert!(is_read(folder), "{}", folder.display()));
    let count = Cell::new(0_usize);
    fuzz("image folders", &samples, |which, input| {
        count.set(count.get() + 1);
        let others = ["train", "test", "c.png", "recipe.toml", ".x", "val_annotations.txt"];
        // Every fourth file has another name, or is moved up.
        let place = match (count.get() % 4, count.get() / 4 % 12) {
            (0, other @ 0..6) => files[which].with_file_name(others[other]),
            (0, other) => files[which].parent().unwrap().with_file_name(others[other - 6]),
            _ => files[which].clone(),
        };
        if place.is_dir() {
            return false;
        }
        fs::remove_file(&files[which]).unwrap();
        fs::write(&place, input).unwrap();
        let folder = folders.iter().find(|folder| files[which].starts_with(folder)).unwrap();
        let is_read = is_read(folder);
        fs::remove_file(&place).unwrap();
        fs::write(&files[which], &samples[which]).unwrap();
        is_read
    });
}
