//! Data sets from arrays in memory.

use crate::{DataSet, Error, ImageShape, Sizing, Split};

/// The most classes: labels are 16 bits.
const MAX_CLASSES: usize = u16::MAX as usize;

/// [`DataSet::format`] of images in memory.
const FORMAT: &str = "arrays in memory";

impl DataSet {
    /// A data set of images in memory, `[N, 3, 32, 32]` bytes in the order that [`ImageShape`] describes, with a label
    /// for each, an index into the names of the classes. Bring images of another size, order or number of channels to
    /// this shape first. [`with_test`](Self::with_test) adds test images, and
    /// [`with_validation`](Self::with_validation) validation images.
    ///
    /// # Errors
    /// If there is no image, the numbers of bytes and labels do not go together, a label is of none of the classes, or
    /// there are no classes or too many.
    ///
    /// # Example
    ///
    /// ```
    /// use crescendo_data::{DataSet, ImageShape};
    ///
    /// const BYTES: usize = ImageShape::CIFAR.elements();
    /// let images = [[10; BYTES], [200; BYTES]].concat();
    /// let data = DataSet::from_arrays("shades", images.clone(), vec![0, 1], ["dark", "light"])?
    ///     .with_test(images, vec![0, 1])?;
    /// assert_eq!((data.train.len(), data.test.len()), (2, 2));
    /// assert!(data.is_from_arrays());
    ///
    /// let error = DataSet::from_arrays("shades", vec![0; 100], vec![0], ["dark", "light"]);
    /// assert!(error.unwrap_err().to_string().contains("1 image of 3x32x32 has 3072 bytes, not 100"));
    /// # Ok::<(), crescendo_data::Error>(())
    /// ```
    pub fn from_arrays(
        name: impl Into<String>,
        images: Vec<u8>,
        labels: Vec<u16>,
        classes: impl IntoIterator<Item = impl Into<String>>,
    ) -> Result<Self, Error> {
        let name = name.into();
        let classes: Vec<String> = classes.into_iter().map(Into::into).collect();
        if !(1..=MAX_CLASSES).contains(&classes.len()) {
            let classes = classes.len();
            return Err(Error::InvalidArrays(format!(
                "{name} has {classes} classes: give the names of 1 to {MAX_CLASSES}"
            )));
        }
        let train = split(&name, "training", images, labels, &classes)?;
        Ok(DataSet {
            name,
            format: FORMAT.into(),
            classes,
            train,
            validation: Split::default(),
            test: Split::default(),
            test_split: None,
            sizing: Sizing::default(),
            warnings: Vec::new(),
        })
    }

    /// Whether the images were given in memory, so that nothing but the program that did can read them again.
    pub fn is_from_arrays(&self) -> bool {
        self.format == FORMAT
    }

    /// The data set with these test images, of the same classes.
    ///
    /// # Errors
    /// As [`from_arrays`](Self::from_arrays).
    pub fn with_test(mut self, images: Vec<u8>, labels: Vec<u16>) -> Result<Self, Error> {
        self.test = split(&self.name, "test", images, labels, &self.classes)?;
        Ok(self)
    }

    /// The data set with these validation images, of the same classes.
    ///
    /// # Errors
    /// As [`from_arrays`](Self::from_arrays).
    pub fn with_validation(mut self, images: Vec<u8>, labels: Vec<u16>) -> Result<Self, Error> {
        self.validation = split(&self.name, "validation", images, labels, &self.classes)?;
        Ok(self)
    }
}

/// A split of these images, if they are valid.
fn split(
    name: &str,
    kind: &str,
    pixels: Vec<u8>,
    labels: Vec<u16>,
    classes: &[String],
) -> Result<Split, Error> {
    let refuse = |problem: String| Err(Error::InvalidArrays(format!("{name}: {problem}")));
    let ImageShape { channels, height, width } = ImageShape::CIFAR;
    if labels.is_empty() {
        return refuse(format!("there are no {kind} images: give at least one, with its label"));
    }
    let (count, bytes) = (labels.len(), labels.len() * ImageShape::CIFAR.elements());
    if pixels.len() != bytes {
        let (have, s) = if count == 1 { ("has", "") } else { ("have", "s") };
        let given = pixels.len();
        return refuse(format!(
            "there are {count} {kind} labels, and {count} image{s} of {channels}x{height}x{width} {have} {bytes} \
             bytes, not {given}"
        ));
    }
    if let Some(index) = labels.iter().position(|&label| usize::from(label) >= classes.len()) {
        let (label, classes) = (labels[index], classes.len());
        return refuse(format!(
            "{kind} image {index} has the label {label}, but there are {classes} classes, counted from 0"
        ));
    }
    Ok(Split { pixels, labels, files: Vec::new() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shapes;

    #[test]
    fn arrays_are_the_data_set_that_they_are_from() {
        let set = shapes::generate(0, 30, 20);
        let (train, test) = (set.train.clone(), set.test.clone());
        let again = DataSet::from_arrays("own", train.pixels, train.labels, set.classes.clone())
            .unwrap()
            .with_test(test.pixels.clone(), test.labels.clone())
            .unwrap();
        assert_eq!((again.fingerprint(), &again.classes), (set.fingerprint(), &set.classes));
        let again = again.with_validation(test.pixels, test.labels).unwrap();
        assert_eq!(again.validation, set.test);
    }

    #[test]
    fn arrays_that_do_not_go_together_are_refused_in_a_sentence() {
        const BYTES: usize = ImageShape::CIFAR.elements();
        let error = |bytes: usize, labels: &[u16], classes: usize| {
            let classes = (0..classes).map(|class| class.to_string());
            let set = DataSet::from_arrays("own", vec![0; bytes], labels.to_vec(), classes);
            set.unwrap_err().to_string()
        };
        for (bytes, labels, classes, expected) in [
            (0, &[][..], 2, "own: there are no training images"),
            (
                BYTES,
                &[0, 1],
                2,
                "own: there are 2 training labels, and 2 images of 3x32x32 have 6144 bytes, not 3072",
            ),
            (
                2 * BYTES,
                &[0, 2],
                2,
                "own: training image 1 has the label 2, but there are 2 classes, counted from 0",
            ),
            (BYTES, &[0], 0, "own has 0 classes: give the names of 1 to 65535"),
            (BYTES, &[0], 65_536, "own has 65536 classes"),
        ] {
            let said = error(bytes, labels, classes);
            assert!(said.starts_with(expected), "{said}");
        }
        let set = DataSet::from_arrays("own", vec![0; BYTES], vec![0], ["a"]).unwrap();
        let error = set.clone().with_test(Vec::new(), Vec::new()).unwrap_err().to_string();
        assert!(error.contains("no test images"), "{error}");
        let error = set.with_validation(vec![0; BYTES], vec![1]).unwrap_err().to_string();
        assert!(error.contains("validation image 0 has the label 1"), "{error}");
    }
}
