//! A data set in memory, whatever format it was read from.

use std::collections::HashMap;

use sha2::{Digest, Sha256};
use unicode_normalization::UnicodeNormalization;

use crate::{ImageShape, Sizing};

/// Images with their labels, in file order: the training, validation or test images of a data set.
///
/// # Example
///
/// ```
/// use crescendo_data::{ImageShape, Split};
///
/// let shape = ImageShape::CIFAR;
/// let red: Vec<u8> = (0..shape.elements()).map(|at| if at < shape.plane() { 255 } else { 0 }).collect();
/// let mut split = Split::default();
/// split.push(&[0; ImageShape::CIFAR.elements()], 0);
/// split.push(&red, 1);
/// assert_eq!((split.len(), &split.labels[..]), (2, &[0, 1][..]));
/// assert!(split.is_whole());
/// // The first pixel's red, green and blue.
/// let image = split.image(1);
/// assert_eq!([image[0], image[shape.plane()], image[2 * shape.plane()]], [255, 0, 0]);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Split {
    /// The images one after another, [`image_shape`](Self::image_shape)`().elements()` bytes each.
    pub pixels: Vec<u8>,
    /// The class of each image, as an index into [`DataSet::classes`].
    pub labels: Vec<u16>,
    /// The file of each image, as its path in the folder or the archive of the data set, with slashes; empty if the
    /// images have no files of their own.
    pub files: Vec<String>,
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

    /// Whether there are the bytes of as many images as there are labels. What this crate reads or makes is whole.
    pub fn is_whole(&self) -> bool {
        self.pixels.len() == self.len() * self.image_shape().elements()
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

    /// The file of image `index`, if it has one.
    pub fn file(&self, index: usize) -> Option<&str> {
        self.files.get(index).map(String::as_str)
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
///
/// # Example
///
/// ```
/// use crescendo_data::shapes;
///
/// let mut set = shapes::generate(0, 40, 20);
/// assert_eq!((set.train.len(), set.test.len(), set.classes.len()), (40, 20, 10));
///
/// // The classes in the order of a network that knows them all.
/// let before = set.fingerprint();
/// let reversed: Vec<String> = set.classes.iter().rev().cloned().collect();
/// let label = set.train.labels[0];
/// set.match_classes(&reversed).unwrap();
/// assert_eq!(set.train.labels[0], 9 - label);
/// assert_ne!(set.fingerprint(), before);
///
/// // A network that does not know some of them.
/// let unknown = set.match_classes(&reversed[1..]).unwrap_err();
/// assert_eq!(unknown, [reversed[0].clone()]);
/// ```
#[derive(Clone, Debug, PartialEq)]
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
    /// The share of the images of each class that became test images, if the data set does not say itself which
    /// images these are.
    pub test_split: Option<f64>,
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

    /// The data set with all its images as test images, if it does not say itself which images these are. Otherwise
    /// as it is.
    pub fn without_split(mut self) -> Self {
        if self.test_split.take().is_some() {
            let Split { mut pixels, mut labels, mut files } = std::mem::take(&mut self.train);
            self.test.pixels.append(&mut pixels);
            self.test.labels.append(&mut labels);
            self.test.files.append(&mut files);
            self.format = "images, all of them for testing".into();
        }
        self
    }

    /// Gives the data set the classes of a network: a label becomes the index of the class of the same name. Two
    /// Unicode spellings of a name are the same.
    ///
    /// # Errors
    /// The names of the classes that the network does not have, if there are images of them.
    pub fn match_classes(&mut self, classes: &[String]) -> Result<(), Vec<String>> {
        let nfc = |name: &String| name.nfc().collect::<String>();
        let wanted: HashMap<String, u16> =
            (0..).zip(classes).map(|(at, name)| (nfc(name), at)).collect();
        let places: Vec<Option<u16>> =
            self.classes.iter().map(|name| wanted.get(&nfc(name)).copied()).collect();
        let splits = [&mut self.train, &mut self.validation, &mut self.test];
        let mut unknown = vec![false; places.len()];
        for label in splits.iter().flat_map(|split| &split.labels) {
            unknown[usize::from(*label)] |= places[usize::from(*label)].is_none();
        }
        let names = self.classes.iter().zip(unknown).filter(|(_, unknown)| *unknown);
        let names: Vec<String> = names.map(|(name, _)| name.clone()).collect();
        if !names.is_empty() {
            return Err(names);
        }
        for label in splits.into_iter().flat_map(|split| &mut split.labels) {
            *label = places[usize::from(*label)].expect("it was looked for above");
        }
        self.classes = classes.to_vec();
        Ok(())
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

    #[test]
    fn classes_are_matched_by_name() {
        let names = |names: &[&str]| names.iter().map(|name| name.to_string()).collect::<Vec<_>>();
        let mut set = shapes::generate(0, 3, 2);
        set.classes = names(&["cafe\u{301}", "dog", "unused"]);
        set.train.labels = vec![0, 1, 0];
        set.test.labels = vec![1, 0];
        let before = set.clone();
        assert_eq!(set.match_classes(&names(&["dog", "cat"])), Err(names(&["cafe\u{301}"])));
        assert_eq!(set, before);
        let classes = names(&["ant", "dog", "caf\u{e9}"]);
        assert_eq!(set.match_classes(&classes), Ok(()));
        assert_eq!((&set.train.labels, &set.test.labels), (&vec![2, 1, 2], &vec![1, 2]));
        assert_eq!(set.classes, classes);
    }
}
