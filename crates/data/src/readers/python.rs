//! The Python version of CIFAR: pickled dictionaries with a NumPy array of the images.

use std::borrow::Cow;

use super::pickle::{Id, Pickle, Value};
use super::{CIFAR10, Layout, MAX_CLASSES};
use crate::{ImageShape, Split};

const ELEMENTS: usize = ImageShape::CIFAR.elements();

pub(super) const LAYOUT: Layout = Layout {
    set: &CIFAR10,
    version: "Python",
    folder: "cifar-10-batches-py",
    archive: "cifar-10-python.tar.gz",
    batches: &[
        "data_batch_1",
        "data_batch_2",
        "data_batch_3",
        "data_batch_4",
        "data_batch_5",
        "test_batch",
    ],
    names: "batches.meta",
    batch: |bytes| batch(bytes, "labels"),
    classes: |bytes| classes(bytes, "label_names"),
};

/// The longest class name that is read. A pickle can refer to one string many times, and each class gets a
/// copy of it.
const MAX_NAME_BYTES: usize = 100;

/// The images of a file, whose labels are under the key `labels_key`.
pub(super) fn batch(bytes: &[u8], labels_key: &str) -> Result<Split, String> {
    let pickle = Pickle::read(bytes)?;
    let get = |key| {
        pickle
            .get(key)
            .ok_or_else(|| format!("has no {key:?}: it is not a file of images of this data set"))
    };
    let pixels = pixels(&pickle, get("data")?).ok_or_else(|| {
        format!("its \"data\" is not a NumPy array of bytes, {ELEMENTS} for each image, row by row")
    })?;
    if pixels.is_empty() {
        return Err("has no images: download it again".into());
    }
    let labels = labels(&pickle, get(labels_key)?).ok_or_else(|| {
        format!("its {labels_key:?} is not a list of class numbers: download it again")
    })?;
    if labels.len() * ELEMENTS != pixels.len() {
        return Err(format!(
            "has {} labels for {} images: download it again",
            labels.len(),
            pixels.len() / ELEMENTS
        ));
    }
    Ok(Split { pixels: pixels.into_owned(), labels, files: Vec::new() })
}

/// The class names of a file, which are under the key `names_key`.
pub(super) fn classes(bytes: &[u8], names_key: &str) -> Result<Vec<String>, String> {
    let pickle = Pickle::read(bytes)?;
    let names = || {
        let name = |id: &Id| {
            let name = pickle.text(*id).filter(|name| name.len() <= MAX_NAME_BYTES)?;
            str::from_utf8(name).ok().map(String::from)
        };
        let names = pickle.list(pickle.get(names_key)?)?;
        let names: Option<Vec<String>> = names.iter().take(MAX_CLASSES + 1).map(name).collect();
        names.filter(|names| (1..=MAX_CLASSES).contains(&names.len()))
    };
    names().ok_or_else(|| {
        format!(
            "its {names_key:?} is not a list of class names: download it again, or remove it to use \
             the default names"
        )
    })
}

/// The content of a NumPy array of bytes with a row for each image.
fn pixels<'a>(pickle: &Pickle<'a>, array: Id) -> Option<Cow<'a, [u8]>> {
    let Value::Call { function, arguments, state } = pickle.value(array) else { return None };
    let (module, name) = pickle.global(*function)?;
    if !module.starts_with(b"numpy.") {
        return None;
    }
    // The first is pickled by protocols up to 4, the second by protocol 5.
    let (shape, kind, row_by_row, bytes) = match name {
        b"_reconstruct" => {
            let [_, shape, kind, fortran, bytes] = pickle.tuple((*state)?)? else { return None };
            (shape, kind, matches!(pickle.value(*fortran), Value::Bool(false)), bytes)
        }
        b"_frombuffer" => {
            let [bytes, kind, shape, order] = pickle.tuple(*arguments)? else { return None };
            (shape, kind, pickle.is(*order, "C"), bytes)
        }
        _ => return None,
    };
    let [images, width] = pickle.tuple(*shape)? else { return None };
    let images = usize::try_from(int(pickle, *images)?).ok()?;
    let width = usize::try_from(int(pickle, *width)?).ok()?;
    let bytes = pickle.bytes(*bytes)?;
    let fits = width == ELEMENTS && images.checked_mul(width)? == bytes.len();
    (fits && row_by_row && is_u8(pickle, *kind)?).then_some(bytes)
}

/// Whether this is NumPy's type of unsigned bytes.
fn is_u8(pickle: &Pickle, kind: Id) -> Option<bool> {
    let Value::Call { function, arguments, .. } = pickle.value(kind) else { return None };
    let name = pickle.tuple(*arguments)?.first()?;
    Some(pickle.global(*function)? == (b"numpy", b"dtype") && pickle.is(*name, "u1"))
}

fn labels(pickle: &Pickle, list: Id) -> Option<Vec<u16>> {
    let label = |id: &Id| u16::try_from(int(pickle, *id)?).ok();
    pickle.list(list)?.iter().map(label).collect()
}

fn int(pickle: &Pickle, id: Id) -> Option<i64> {
    let Value::Int(number) = pickle.value(id) else { return None };
    Some(*number)
}
