//! The Python version: pickled dictionaries with a numpy array of the images.

use std::borrow::Cow;

use super::pickle::{Id, Pickle, Value};
use super::{CIFAR10, Layout, MOST_CLASSES};
use crate::{IMAGE_BYTES, Split};

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

/// A pickle can have one string many times over: were it long, the copies would be too much.
const LONGEST_NAME: usize = 100;

/// The images of a file that has their classes under `labels_key`.
pub(super) fn batch(bytes: &[u8], labels_key: &str) -> Result<Split, String> {
    let pickle = Pickle::read(bytes)?;
    let get = |key| {
        pickle.get(key).ok_or_else(|| format!("has no {key:?}: it is no file of the set's images"))
    };
    let pixels = pixels(&pickle, get("data")?).ok_or_else(|| {
        format!(
            "its \"data\" is not a numpy array of bytes, {IMAGE_BYTES} for each image, row by row"
        )
    })?;
    if pixels.is_empty() {
        return Err("has no images: download it again".into());
    }
    let labels = labels(&pickle, get(labels_key)?).ok_or_else(|| {
        format!("its {labels_key:?} are not a list of class numbers: download it again")
    })?;
    if labels.len() * IMAGE_BYTES != pixels.len() {
        return Err(format!(
            "has {} labels for {} images: download it again",
            labels.len(),
            pixels.len() / IMAGE_BYTES
        ));
    }
    Ok(Split { pixels: pixels.into_owned(), labels })
}

/// The names that a file has under `names_key`.
pub(super) fn classes(bytes: &[u8], names_key: &str) -> Result<Vec<String>, String> {
    let pickle = Pickle::read(bytes)?;
    let names = || {
        let name = |id: &Id| {
            let name = pickle.text(*id).filter(|name| name.len() <= LONGEST_NAME)?;
            str::from_utf8(name).ok().map(String::from)
        };
        let names = pickle.list(pickle.get(names_key)?)?;
        let names: Option<Vec<String>> = names.iter().take(MOST_CLASSES + 1).map(name).collect();
        names.filter(|names| (1..=MOST_CLASSES).contains(&names.len()))
    };
    names().ok_or_else(|| {
        format!(
            "its {names_key:?} are not a list of class names: download it again, or remove it for \
             the usual names"
        )
    })
}

/// The bytes of a numpy array of bytes with a row for each image.
fn pixels<'a>(pickle: &Pickle<'a>, array: Id) -> Option<Cow<'a, [u8]>> {
    let Value::Call { function, arguments, state } = pickle.value(array) else { return None };
    let (module, name) = pickle.global(*function)?;
    if !module.starts_with(b"numpy.") {
        return None;
    }
    // What is pickled by protocols up to 4 and what is pickled by protocol 5.
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
    let fits = width == IMAGE_BYTES && images.checked_mul(width)? == bytes.len();
    (fits && row_by_row && is_u8(pickle, *kind)?).then_some(bytes)
}

/// Whether this is numpy's type of unsigned bytes.
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
