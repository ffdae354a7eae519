//! A data set in memory, whatever format it was read from.

use sha2::{Digest, Sha256};

use crate::{ImageShape, Sizing};

/// Images with their labels, in file order: the training, validation or test images of a data set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Split {
    /// The images one after another, [`image_shape`](Self::image_shape)`().elements()` bytes each.
    pub pixels: Vec<u8>,
    /// The class of each image, as an index into [`DataSet::classes`].
    pub labels: Vec<u16>,
}

impl Split {
    /// The number of images.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are no images.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// The shape of every image.
    pub fn image_shape(&self) -> ImageShape {
        ImageShape::CIFAR
    }

    /// The bytes of image `index`, in the order that [`ImageShape`] describes.
    ///
    /// # Panics
    /// If `index` is not less than [`len`](Self::len).
    pub fn image(&self, index: usize) -> &[u8] {
        let bytes = self.image_shape().elements();
        &self.pixels[index * bytes..][..bytes]
    }

    /// Appends an image.
    ///
    /// # Panics
    /// If `image` does not have the [shape](Self::image_shape)'s number of bytes.
    pub fn push(&mut self, image: &[u8], label: u16) {
        let bytes = self.image_shape().elements();
        assert_eq!(image.len(), bytes, "an image has {bytes} bytes");
        self.pixels.extend_from_slice(image);
        self.labels.push(label);
    }
}

/// A data set: training images and test images, and validation images if it has its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataSet {
    /// Its name, such as `CIFAR-10` or `shapes`.
    pub name: String,
    /// Where the images came from and how they were stored, for people to read.
    pub format: String,
    /// The names of the classes; a label is an index into them.
    pub classes: Vec<String>,
    /// The training images. If there are no others, validation images can be taken from them by
    /// [`split_validation`](crate::split_validation).
    pub train: Split,
    /// The validation images that the data set has of its own; empty if it has none.
    pub validation: Split,
    /// The test images.
    pub test: Split,
    /// How its images were brought to size; those that a network is used on later are treated in the same way.
    pub sizing: Sizing,
    /// Anything unusual about the files it was read from, one sentence each.
    pub warnings: Vec<String>,
}

impl DataSet {
    /// The shape of every image.
    pub fn image_shape(&self) -> ImageShape {
        self.train.image_shape()
    }

    /// The SHA-256 of all labels and pixels, in hexadecimal: the same images have the same fingerprint in
    /// every format.
    pub fn fingerprint(&self) -> String {
        let mut hash = Sha256::new();
        // Without validation images it is the same as before data sets could have them.
        let validation = Some(&self.validation).filter(|split| !split.is_empty());
        for split in [&self.train, &self.test].into_iter().chain(validation) {
            hash.update((split.len() as u64).to_le_bytes());
            for label in &split.labels {
                hash.update(label.to_le_bytes());
            }
            hash.update(&split.pixels);
        }
        hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The data set without its validation images, if it has this fingerprint then: earlier versions of the program
    /// did not read them. Otherwise as it is.
    pub fn matching(mut self, fingerprint: &str) -> Self {
        if !self.validation.is_empty() && self.fingerprint() != fingerprint {
            let validation = std::mem::take(&mut self.validation);
            if self.fingerprint() != fingerprint {
                self.validation = validation;
            }
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use crate::shapes;

    #[test]
    fn a_run_that_began_without_validation_images_goes_on_without_them() {
        let old = shapes::generate(0, 20, 10);
        let mut new = old.clone();
        new.validation = shapes::generate(1, 10, 10).train;
        assert_ne!(new.fingerprint(), old.fingerprint());
        assert_eq!(new.clone().matching(&old.fingerprint()), old);
        assert_eq!(new.clone().matching(&new.fingerprint()), new);
        assert_eq!(new.clone().matching("of other data"), new);
    }
}
