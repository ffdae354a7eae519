use std::io::Write;
use std::path::Path;

use crescendo_data::{ReadOptions, Sizing, open, open_with, read_image_as};
use crescendo_fuzzing::{apply, damages};
use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;
use tempfile::{TempDir, tempdir};
use zip::write::SimpleFileOptions;

use super::{counts, read, refused, write};

/// An idx file of numbers with these dimensions.
fn idx(dimensions: &[u32], bytes: &[u8]) -> Vec<u8> {
    let dimensions_bytes: Vec<u8> = dimensions.iter().flat_map(|d| d.to_be_bytes()).collect();
    [&[0, 0, 8, dimensions.len() as u8], &dimensions_bytes[..], bytes].concat()
}

/// A folder of idx files with 20 training and 10 test images of 28x28; image `i` is filled with `i + 1`, and its class
/// is `i` modulo 5.
pub fn mnist(folder: &str, separator: char, packed: bool) -> TempDir {
    let root = tempdir().unwrap();
    for (split, count) in [("train", 20_u8), ("t10k", 10)] {
        let pixels: Vec<u8> = (0..count).flat_map(|image| [image + 1; 784]).collect();
        let labels: Vec<u8> = (0..count).map(|image| image % 5).collect();
        for (name, content) in [
            (format!("{split}-images{separator}idx3-ubyte"), idx(&[count.into(), 28, 28], &pixels)),
            (format!("{split}-labels{separator}idx1-ubyte"), idx(&[count.into()], &labels)),
        ] {
            let path = format!("{folder}/{name}");
            if packed {
                let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
                gzip.write_all(&content).unwrap();
                write(root.path(), &format!("{path}.gz"), gzip.finish().unwrap());
            } else {
                write(root.path(), &path, content);
            }
        }
    }
    root
}

#[test]
fn idx_files_are_read_plain_and_packed() {
    for (folder, separator, packed) in
        [("x", '-', false), ("x", '-', true), ("x", '.', false), ("MNIST/raw", '-', true)]
    {
        let root = mnist(folder, separator, packed);
        for path in [root.path().join(folder), root.path().to_owned()] {
            let set = read(&path);
            assert_eq!((counts(&set), set.classes.len()), ([20, 0, 10], 5));
            let image = set.train.image(7);
            assert_eq!(
                (set.train.labels[7], image[0], image[16 * 32 + 16], image[2048 + 528]),
                (2, 0, 8, 8)
            );
            assert_eq!(
                set.warnings,
                [
                    "the images are grey, 28x28: they are padded with zeros to 32x32, and the grey is repeated in \
                     three channels"
                ]
            );
        }
    }
}

#[test]
fn images_for_a_network_of_padded_ones_are_padded_too() {
    let root = mnist("x", '-', false);
    let set = read(&root.path().join("x"));
    assert_eq!(set.sizing, Sizing::Pad);
    // The same images as files.
    for image in 0..20_u8 {
        let path = root.path().join(format!("png/train/{}/{image}.png", image % 5));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        image::GrayImage::from_pixel(28, 28, image::Luma([image + 1])).save(&path).unwrap();
        let read = read_image_as(&path, set.sizing).unwrap();
        assert_eq!(read.pixels, set.train.image(image.into()));
        assert_ne!(read_image_as(&path, Sizing::Resize).unwrap(), read);
    }
    let options = ReadOptions { sizing: set.sizing, ..ReadOptions::default() };
    let folder = open_with(&root.path().join("png"), options).unwrap();
    assert!(
        folder.sizing == Sizing::Pad && folder.train.image(3)[..64].iter().all(|&byte| byte == 0)
    );
}

#[test]
fn incomplete_idx_files_are_refused() {
    let root = mnist("x", '-', false);
    let folder = root.path().join("x");
    let file = |name: &str| folder.join(name);
    refused(&file("train-images-idx3-ubyte"), &["one of the four files", "give the folder"]);
    let whole = std::fs::read(file("t10k-images-idx3-ubyte")).unwrap();
    write(&folder, "t10k-images-idx3-ubyte", &whole[..whole.len() - 1]);
    refused(&folder, &["t10k-images-idx3-ubyte: ends too early"]);
    write(&folder, "t10k-images-idx3-ubyte", idx(&[u32::MAX, u32::MAX, 28], &[]));
    refused(&folder, &["t10k-images-idx3-ubyte: has 4294967295 images"]);
    write(&folder, "t10k-images-idx3-ubyte", whole);
    write(&folder, "t10k-labels-idx1-ubyte", idx(&[9], &[0; 9]));
    refused(&folder, &["t10k-labels-idx1-ubyte: has 9 labels for 10 images"]);
    std::fs::remove_file(file("t10k-labels-idx1-ubyte")).unwrap();
    refused(&folder, &["t10k-labels-idx1-ubyte: is missing"]);
    std::fs::remove_file(file("t10k-images-idx3-ubyte")).unwrap();
    refused(&folder, &["none of test images"]);
}

/// A NumPy array as a file.
fn npy(kind: &str, shape: &str, bytes: &[u8]) -> Vec<u8> {
    let mut header = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}");
    header.push_str(&" ".repeat(63 - (10 + header.len()) % 64));
    header.push('\n');
    [b"\x93NUMPY\x01\0", &(header.len() as u16).to_le_bytes()[..], header.as_bytes(), bytes]
        .concat()
}

fn npz(arrays: &[(&str, Vec<u8>)], path: &Path) {
    let mut zip = zip::ZipWriter::new(std::fs::File::create(path).unwrap());
    for (name, content) in arrays {
        zip.start_file(format!("{name}.npy"), SimpleFileOptions::default()).unwrap();
        zip.write_all(content).unwrap();
    }
    zip.finish().unwrap();
}

/// Arrays as MedMNIST has them, with images of this shape after their number.
pub fn medmnist(shape: &[usize], path: &Path) {
    let elements: usize = shape.iter().product();
    let dimensions: Vec<String> = shape.iter().map(usize::to_string).collect();
    let mut arrays = Vec::new();
    for (images, labels, count) in [
        ("train_images", "train_labels", 12_usize),
        ("val_images", "val_labels", 6),
        ("test_images", "test_labels", 3),
    ] {
        let bytes: Vec<u8> = (0..count * elements)
            .map(|at| (at / elements * 10 + at % elements % 3) as u8)
            .collect();
        let classes: Vec<u8> = (0..count).map(|image| (image % 3) as u8).collect();
        arrays.push((images, npy("|u1", &format!("({count}, {})", dimensions.join(", ")), &bytes)));
        arrays.push((labels, npy("|u1", &format!("({count}, 1)"), &classes)));
    }
    npz(&arrays, path);
}

#[test]
fn arrays_of_medmnist_are_read() {
    let root = tempdir().unwrap();
    let path = root.path().join("bloodmnist.npz");
    for (shape, expected, said) in [
        (&[28, 28, 3][..], [40, 41, 42], "in colour, 28x28: they are padded with zeros to 32x32"),
        (&[32, 32, 3], [40, 41, 42], ""),
        (&[64, 64, 3], [40, 41, 42], "in colour, 64x64: they are resized to 32x32"),
    ] {
        medmnist(shape, &path);
        for place in [&*path, root.path()] {
            let set = read(place);
            assert_eq!(
                (&*set.name, counts(&set), set.classes.len()),
                ("bloodmnist", [12, 6, 3], 3)
            );
            let image = set.validation.image(4);
            assert_eq!([0, 1, 2].map(|channel| image[channel * 1024 + 528]), expected);
            assert_eq!(set.validation.labels[4], 1);
            assert!(
                set.warnings.concat().contains(said) && set.warnings.is_empty() == said.is_empty()
            );
        }
    }
    medmnist(&[28, 28], &path);
    let set = read(&path);
    assert!(set.warnings[0].contains("grey, 28x28: they are padded"), "{:?}", set.warnings);
    let image = set.train.image(0);
    assert!(image[..1024] == image[1024..2048]);
}

#[test]
fn arrays_of_keras_are_read() {
    let root = tempdir().unwrap();
    let path = root.path().join("mnist.npz");
    let labels: Vec<u8> = [1_i64, 0, 2].iter().flat_map(|label| label.to_le_bytes()).collect();
    npz(
        &[
            ("x_test", npy("|u1", "(3, 28, 28)", &[9; 3 * 784])),
            ("x_train", npy("|u1", "(3, 28, 28)", &[5; 3 * 784])),
            ("y_train", npy("<i8", "(3,)", &labels)),
            ("y_test", npy("<i8", "(3,)", &labels)),
        ],
        &path,
    );
    let set = read(&path);
    assert_eq!((counts(&set), &set.train.labels[..]), ([3, 0, 3], &[1, 0, 2][..]));
}

#[test]
fn arrays_that_are_no_classes_of_images_are_refused() {
    let root = tempdir().unwrap();
    let path = root.path().join("x.npz");
    let images = || npy("|u1", "(2, 28, 28)", &[5; 2 * 784]);
    for (labels, train, part) in [
        (npy("|u1", "(2, 14)", &[0; 28]), images(), "train_labels has 14 labels for each image"),
        (npy("<f4", "(2,)", &[0; 8]), images(), "train_labels holds <f4, not whole numbers"),
        (
            npy("|i1", "(2,)", &[0, 255]),
            images(),
            "train_labels has a label that is no class at index 1",
        ),
        (npy("|u1", "(3,)", &[0; 3]), images(), "train_images has 2 images for 3 labels"),
        (
            npy("|u1", "(2,)", &[0; 2]),
            npy("<f4", "(2, 28, 28)", &[]),
            "train_images holds <f4, not bytes",
        ),
        (
            npy("|u1", "(2,)", &[0; 2]),
            npy("|u1", "(2, 28, 28, 28)", &[]),
            "train_images has the shape [2, 28, 28, 28]",
        ),
        (
            npy("|u1", "(2,)", &[0; 2]),
            npy("|u1", "(2, 28, 28)", &[1; 800]),
            "train_images cannot be read",
        ),
        (npy("|u1", "(2,)", &[0; 2]), npy("|u1", "(2, 99999999, 28)", &[]), "at most 4096x4096"),
        (npy("|u1", "(2,)", &[0; 2]), b"nothing".to_vec(), "train_images has a damaged header"),
    ] {
        npz(&[("train_images", train), ("train_labels", labels)], &path);
        refused(&path, &["x.npz: its array ", part]);
    }
    npz(&[("a", images()), ("b", images())], &path);
    refused(&path, &["has the arrays a, b, but no train_images and train_labels"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn damaged_arrays_do_not_panic(is_idx: bool, damages in damages()) {
        let root = if is_idx { mnist("x", '-', false) } else { tempdir().unwrap() };
        let path = root.path().join(if is_idx { "x/train-images-idx3-ubyte" } else { "x.npz" });
        if !is_idx {
            medmnist(&[28, 28], &path);
        }
        let content = apply(std::fs::read(&path).unwrap(), &damages);
        std::fs::write(&path, content).unwrap();
        let _ = open(if is_idx { path.parent().unwrap() } else { &path });
    }
}
