//! What a data set is in memory: bytes and labels, whatever format they came from.

use sha2::{Digest, Sha256};

/// Pixels along each side of an image.
pub const SIDE: usize = 32;
/// Colour channels of an image: red, green, blue.
pub const CHANNELS: usize = 3;
/// Bytes of one image: channel-major (1024 red, 1024 green, 1024 blue), rows of 32.
pub const IMAGE_BYTES: usize = CHANNELS * SIDE * SIDE;

/// Images with their labels, in file order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Split {
    /// `len * IMAGE_BYTES` bytes, one image after another.
    pub pixels: Vec<u8>,
    /// The class of each image.
    pub labels: Vec<u16>,
}

impl Split {
    /// How many images there are.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are no images.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// The bytes of image `index`.
    ///
    /// # Panics
    /// If `index` is not below [`len`](Self::len).
    pub fn image(&self, index: usize) -> &[u8] {
        &self.pixels[index * IMAGE_BYTES..][..IMAGE_BYTES]
    }

    /// Adds one image.
    ///
    /// # Panics
    /// If `image` does not have [`IMAGE_BYTES`] bytes.
    pub fn push(&mut self, image: &[u8], label: u16) {
        assert_eq!(image.len(), IMAGE_BYTES, "an image has {IMAGE_BYTES} bytes");
        self.pixels.extend_from_slice(image);
        self.labels.push(label);
    }
}

/// A data set: what to train on and what to test on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataSet {
    /// What it is called, such as `CIFAR-10` or `shapes`.
    pub name: String,
    /// Where it came from and how it was stored, for people.
    pub format: String,
    /// The classes' names; a label is an index into them.
    pub classes: Vec<String>,
    /// The images to train on.
    pub train: Split,
    /// The images to test on.
    pub test: Split,
    /// What is worth a word about the files it was read from, in sentences.
    pub warnings: Vec<String>,
}

impl DataSet {
    /// SHA-256 over every label and pixel, in hexadecimal: the same images in any format
    /// have the same fingerprint.
    pub fn fingerprint(&self) -> String {
        let mut hash = Sha256::new();
        for split in [&self.train, &self.test] {
            hash.update((split.len() as u64).to_le_bytes());
            for label in &split.labels {
                hash.update(label.to_le_bytes());
            }
            hash.update(&split.pixels);
        }
        hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}
