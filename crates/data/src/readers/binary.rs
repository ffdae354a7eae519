//! The binary version of CIFAR: each image is a record of its label bytes and its pixels.

use super::{CIFAR10, Layout, MAX_CLASSES};
use crate::{ImageShape, Split};

const ELEMENTS: usize = ImageShape::CIFAR.elements();

pub(crate) const LAYOUT: Layout = Layout {
    set: &CIFAR10,
    version: "binary",
    folder: "cifar-10-batches-bin",
    archive: "cifar-10-binary.tar.gz",
    batches: &[
        "data_batch_1.bin",
        "data_batch_2.bin",
        "data_batch_3.bin",
        "data_batch_4.bin",
        "data_batch_5.bin",
        "test_batch.bin",
    ],
    names: "batches.meta.txt",
    batch: |bytes| batch(bytes, 1),
    classes,
};

/// The images of a file in which each record begins with `labels` bytes, of which the last is the label.
pub(super) fn batch(bytes: &[u8], labels: usize) -> Result<Split, String> {
    let record = labels + ELEMENTS;
    if bytes.is_empty() {
        return Err("is empty: download it again".into());
    }
    if !bytes.len().is_multiple_of(record) {
        return Err(format!(
            "is {} bytes, not a multiple of {record}: it may be truncated; download it again",
            bytes.len()
        ));
    }
    let images = bytes.len() / record;
    let mut split = Split {
        pixels: Vec::with_capacity(images * ELEMENTS),
        labels: Vec::with_capacity(images),
        files: Vec::new(),
    };
    for record in bytes.chunks_exact(record) {
        split.push(&record[labels..], record[labels - 1].into());
    }
    Ok(split)
}

pub(super) fn classes(bytes: &[u8]) -> Result<Vec<String>, String> {
    let text = str::from_utf8(bytes).map_err(|_| "is not text: download it again")?;
    let names = text.lines().map(str::trim).filter(|name| !name.is_empty());
    let names: Vec<String> = names.take(MAX_CLASSES + 1).map(String::from).collect();
    if !(1..=MAX_CLASSES).contains(&names.len()) {
        return Err(
            "is not a list of class names, one on each line: download it again, or remove \
             it to use the default names"
                .into(),
        );
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORD: usize = 1 + ELEMENTS;

    #[test]
    fn records_become_images() {
        let mut bytes = vec![7; RECORD];
        bytes.extend([3; RECORD]);
        bytes[1] = 200;
        let split = batch(&bytes, 1).unwrap();
        assert_eq!(split.labels, [7, 3]);
        assert_eq!(split.image(0)[..2], [200, 7]);
        assert_eq!(split.image(1), [3; ELEMENTS]);
        // The second of two labels: CIFAR-100 has a coarse and a fine one.
        let split = batch(&[&[1, 99][..], &[5; ELEMENTS]].concat(), 2).unwrap();
        assert_eq!((&split.labels[..], split.image(0)), (&[99][..], &[5; ELEMENTS][..]));
    }

    #[test]
    fn a_part_of_a_record_is_refused() {
        let problem = batch(&vec![0; 10 * RECORD - 1], 1).unwrap_err();
        assert!(problem.starts_with("is 30729 bytes, not a multiple of 3073"), "{problem}");
        assert!(batch(&[], 1).unwrap_err().starts_with("is empty"));
    }

    #[test]
    fn names_are_lines() {
        assert_eq!(classes(b"airplane\r\n automobile\n\n").unwrap(), ["airplane", "automobile"]);
        for wrong in [&b"\n \n"[..], &b"a\n".repeat(257)] {
            assert!(classes(wrong).unwrap_err().starts_with("is not a list"));
        }
        assert!(classes(&[0xff]).unwrap_err().starts_with("is not text"));
    }
}
