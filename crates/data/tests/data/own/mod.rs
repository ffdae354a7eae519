//! Data as people have it: the layouts, files and damage of real folders of images.

pub mod archives;
pub mod arrays;
mod damage;
mod layouts;

use std::collections::BTreeMap;
use std::fs;
use std::io::Cursor;
use std::path::Path;

use crescendo_data::{DataSet, Error, Split, open};
use image::{ImageFormat, Rgb, RgbImage};
use tempfile::{TempDir, tempdir};

/// An image of one colour as a file in a format.
pub fn image(format: ImageFormat, colour: [u8; 3]) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    RgbImage::from_pixel(32, 32, Rgb(colour)).write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

/// A PNG whose colour is its number.
pub fn png(number: u16) -> Vec<u8> {
    let [low, high] = number.to_le_bytes();
    image(ImageFormat::Png, [low, high, 7])
}

pub fn write(root: &Path, name: &str, content: impl AsRef<[u8]>) {
    let path = root.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

/// A folder with `count` different PNGs in each of these folders.
fn folder(folders: &[&str], count: u16) -> TempDir {
    let root = tempdir().unwrap();
    fill(root.path(), folders, count);
    root
}

fn fill(root: &Path, folders: &[&str], count: u16) {
    for (index, folder) in folders.iter().enumerate() {
        for image in 0..count {
            write(root, &format!("{folder}/{image}.png"), png(index as u16 * 100 + image));
        }
    }
}

/// The numbers of the images of a split, each with the name of its class.
fn labels(set: &DataSet, split: &Split) -> BTreeMap<u16, String> {
    let number = |index| u16::from_le_bytes([split.image(index)[0], split.image(index)[1024]]);
    let class = |index: usize| set.classes[usize::from(split.labels[index])].clone();
    (0..split.len()).map(|index| (number(index), class(index))).collect()
}

/// Checks that every image of a folder that [`fill`] filled knows its file.
#[track_caller]
fn check_files(split: &Split, folders: &[&str]) {
    assert_eq!(split.files.len(), split.len());
    for index in 0..split.len() {
        let number = u16::from_le_bytes([split.image(index)[0], split.image(index)[1024]]);
        let name = format!("{}/{}.png", folders[usize::from(number / 100)], number % 100);
        assert_eq!(split.file(index), Some(&*name));
    }
}

/// The numbers of training, validation and test images.
fn counts(set: &DataSet) -> [usize; 3] {
    [set.train.len(), set.validation.len(), set.test.len()]
}

/// The data set at a path.
#[track_caller]
fn read(path: &Path) -> DataSet {
    match open(path) {
        Ok(set) => set,
        Err(error) => panic!("{error}"),
    }
}

/// The error for a path, which has all of these parts.
#[track_caller]
fn refused(path: &Path, parts: &[&str]) -> Error {
    let Err(error) = open(path) else { panic!("it can be read") };
    let text = error.to_string();
    for part in parts {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
    error
}
