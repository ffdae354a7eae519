//! Arrays in an `.npz` file: those of MedMNIST (`train_images`, `train_labels`, `val_…`, `test_…`), and of Keras
//! (`x_train`, `y_train`, …).

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use zip::ZipArchive;
use zip::result::ZipError;

use super::image_archive::{open_zip, zip_error};
use super::to_size::ArrayShape;
use super::walk::MAX_IMAGES;
use crate::{DataSet, Error, Sizing, Split};

type Zip<'a> = ZipArchive<BufReader<&'a File>>;

/// The names of the arrays of images and of labels: of the training, the validation and the test images.
const NAMES: [[[&str; 2]; 3]; 2] = [
    [
        ["train_images", "train_labels"],
        ["val_images", "val_labels"],
        ["test_images", "test_labels"],
    ],
    [["x_train", "y_train"], ["x_val", "y_val"], ["x_test", "y_test"]],
];
/// The longest header of an array, in bytes. One of images has about 120.
const MAX_HEADER: usize = 4096;
/// The largest label.
const MAX_LABEL: u64 = 65_534;

/// Reads the arrays of images in a file; `None` if it is not a zip with arrays.
pub(super) fn open(path: &Path) -> Result<Option<DataSet>, Error> {
    let file = File::open(path).map_err(|source| Error::io("read", path, source))?;
    let Some(mut zip) = open_zip(path, &file)? else { return Ok(None) };
    // Names that are not valid are those of other entries.
    let names: Vec<String> = zip.file_names().flatten().map(|name| name.into_owned()).collect();
    let arrays: Vec<&str> = names.iter().filter_map(|name| name.strip_suffix(".npy")).collect();
    if arrays.is_empty() {
        return Ok(None);
    }
    let Some(known) = NAMES.iter().find(|known| arrays.contains(&known[0][0])) else {
        let problem = format!(
            "has the arrays {}, but no train_images and train_labels, or x_train and y_train: rename them",
            arrays.join(", ")
        );
        return Err(Error::invalid(path, problem));
    };
    let mut splits = Vec::new();
    let mut sizing = Sizing::default();
    let mut warnings: Vec<String> = Vec::new();
    for [images, labels] in known {
        if !arrays.contains(images) {
            splits.push(Split::default());
            continue;
        }
        let wrong = |name: &str, problem: String| {
            Error::invalid(path, format!("its array {name} {problem}"))
        };
        let labels = read_labels(&mut zip, path, labels, wrong)?;
        let (split, shape) = read_images(&mut zip, path, images, &labels, wrong)?;
        warnings.extend(shape.changes().filter(|changes| !warnings.contains(changes)));
        if splits.is_empty() {
            sizing = shape.sizing();
        }
        splits.push(split);
    }
    let last = splits.iter().flat_map(|split| &split.labels).max().copied().unwrap_or_default();
    let mut splits = splits.into_iter();
    let mut next = || splits.next().unwrap_or_default();
    let (train, validation, test) = (next(), next(), next());
    Ok(Some(DataSet {
        name: path.file_stem().unwrap_or_default().display().to_string(),
        format: "arrays in an .npz file".into(),
        classes: (0..=last).map(|class| class.to_string()).collect(),
        train,
        validation,
        test,
        test_split: None,
        sizing,
        warnings,
    }))
}

/// An array, whose header has been read.
struct Array<R> {
    /// The type of its numbers, such as `|u1`.
    kind: String,
    shape: Vec<usize>,
    content: R,
}

fn array<'a>(
    zip: &'a mut Zip,
    path: &Path,
    name: &str,
    wrong: impl Fn(&str, String) -> Error,
) -> Result<Array<impl Read + 'a>, Error> {
    let mut content = zip.by_name(&format!("{name}.npy")).map_err(|error| match error {
        ZipError::FileNotFound => wrong(name, "is missing: add it".into()),
        error => zip_error(path, error),
    })?;
    let (kind, shape) = header(&mut content).map_err(|problem| wrong(name, problem))?;
    Ok(Array { kind, shape, content })
}

/// Reads the header of an array: the type of its numbers, and its shape. The format:
/// <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>
fn header(content: &mut impl Read) -> Result<(String, Vec<usize>), String> {
    let damaged = || "has a damaged header".to_owned();
    let mut start = [0; 10];
    content.read_exact(&mut start).map_err(|_| damaged())?;
    if !start.starts_with(b"\x93NUMPY") {
        return Err("is not a NumPy array".into());
    }
    let mut length = usize::from(u16::from_le_bytes([start[8], start[9]]));
    if start[6] > 1 {
        // From version 2 on, the length has four bytes.
        let mut rest = [0; 2];
        content.read_exact(&mut rest).map_err(|_| damaged())?;
        length += usize::from(u16::from_le_bytes(rest)) << 16;
    }
    if length > MAX_HEADER {
        return Err("has a header that is too long".into());
    }
    let mut header = vec![0; length];
    content.read_exact(&mut header).map_err(|_| damaged())?;
    let header = String::from_utf8_lossy(&header);
    // A Python dictionary: {'descr': '|u1', 'fortran_order': False, 'shape': (2, 3), }.
    let field = |name: &str, end: char| {
        let (_, value) = header.split_once(&format!("'{name}':"))?;
        let value = value.trim_start();
        Some(&value[..value.find(end)?])
    };
    let kind = field("descr", ',').ok_or_else(damaged)?.trim_matches('\'').to_owned();
    if field("fortran_order", ',').ok_or_else(damaged)? != "False" {
        return Err("is in Fortran order: save numpy.ascontiguousarray of it".into());
    }
    let shape =
        field("shape", ')').and_then(|shape| shape.strip_prefix('(')).ok_or_else(damaged)?;
    let numbers = shape.split(',').map(str::trim).filter(|number| !number.is_empty());
    let numbers: Option<Vec<usize>> = numbers.map(|number| number.parse().ok()).collect();
    Ok((kind, numbers.ok_or_else(damaged)?))
}

fn read_labels(
    zip: &mut Zip,
    path: &Path,
    name: &str,
    wrong: impl Fn(&str, String) -> Error + Copy,
) -> Result<Vec<u16>, Error> {
    let Array { kind, shape, mut content } = array(zip, path, name, wrong)?;
    let count = match shape[..] {
        [count] | [count, 1] if count <= MAX_IMAGES => count,
        [_, labels] if labels > 1 => {
            let problem = format!(
                "has {labels} labels for each image, but each image must have one class: make one label of \
                 them"
            );
            return Err(wrong(name, problem));
        }
        _ => {
            return Err(wrong(
                name,
                format!("has the shape {shape:?}, not one label for each image"),
            ));
        }
    };
    let (width, signed) = match &kind[..] {
        "|b1" | "|u1" => (1, false),
        "|i1" => (1, true),
        "<u2" => (2, false),
        "<i2" => (2, true),
        "<u4" => (4, false),
        "<i4" => (4, true),
        "<u8" => (8, false),
        "<i8" => (8, true),
        _ => return Err(wrong(name, format!("holds {kind}, not whole numbers: save it as uint8"))),
    };
    let mut labels = Vec::new();
    let mut bytes = [0; 8];
    for index in 0..count {
        content.read_exact(&mut bytes[..width]).map_err(|error| {
            wrong(name, format!("cannot be read ({error}): download the file again"))
        })?;
        let value = u64::from_le_bytes(bytes);
        let negative = signed && bytes[width - 1] >= 0x80;
        if negative || value > MAX_LABEL {
            let problem = format!(
                "has a label that is no class at index {index}: classes are numbers from 0 to {MAX_LABEL}"
            );
            return Err(wrong(name, problem));
        }
        labels.push(value as u16);
    }
    Ok(labels)
}

fn read_images(
    zip: &mut Zip,
    path: &Path,
    name: &str,
    labels: &[u16],
    wrong: impl Fn(&str, String) -> Error + Copy,
) -> Result<(Split, ArrayShape), Error> {
    let Array { kind, shape, mut content } = array(zip, path, name, wrong)?;
    if kind != "|u1" {
        return Err(wrong(name, format!("holds {kind}, not bytes: save it as uint8")));
    }
    let (images, height, width, channels, planes) = match shape[..] {
        [images, height, width] => (images, height, width, 1, false),
        [images, height, width, channels @ (1 | 3)] => (images, height, width, channels, false),
        [images, channels @ (1 | 3), height, width] => (images, height, width, channels, true),
        _ => {
            let problem = format!(
                "has the shape {shape:?}: images are (N, height, width), or (N, height, width, 3) in colour"
            );
            return Err(wrong(name, problem));
        }
    };
    let shape = ArrayShape { images, height, width, channels, planes };
    shape.check().map_err(|problem| wrong(name, problem))?;
    if images != labels.len() || images == 0 {
        let problem = format!("has {images} images for {} labels: save both again", labels.len());
        return Err(wrong(name, problem));
    }
    let mut split = Split::default();
    let mut image = vec![0; shape.image_bytes()];
    for &label in labels {
        content.read_exact(&mut image).map_err(|error| {
            wrong(name, format!("cannot be read ({error}): download the file again"))
        })?;
        shape.push(&image, label, &mut split);
    }
    Ok((split, shape))
}
