//! Which images of a data set are trained on, and which are for validation.

use std::borrow::Cow;

use crescendo_data::{DataSet, Split, ValidationChoice, split_validation};

/// The images that a run trains on, and its validation images.
///
/// See the example of [`Run`](crate::Run).
#[non_exhaustive]
pub struct HeldOut<'a> {
    /// The images to train on.
    pub train: Cow<'a, Split>,
    /// The validation images, if there are any.
    pub validation: Option<Cow<'a, Split>>,
}

impl<'a> HeldOut<'a> {
    /// Takes `count` validation images from the training images of `data` (`data.validation`), chosen as `choice`
    /// says; if that is 0, the validation images are those that the data set has of its own.
    ///
    /// # Panics
    /// If `count` is not 0 and not smaller than the number of training images.
    pub fn new(data: &'a DataSet, count: usize, choice: ValidationChoice) -> Self {
        if count > 0 {
            let (train, validation) = split_validation(&data.train, count, choice);
            let validation = Some(Cow::Owned(validation));
            return HeldOut { train: Cow::Owned(train), validation };
        }
        let own = Some(&data.validation).filter(|split| !split.is_empty());
        HeldOut { train: Cow::Borrowed(&data.train), validation: own.map(Cow::Borrowed) }
    }
}

/// How new runs choose `count` validation images (`data.validation`).
pub(crate) fn new_choice(count: usize) -> ValidationChoice {
    match count {
        0 => ValidationChoice::default(),
        _ => ValidationChoice::Stratified,
    }
}

/// The number of validation images: `count` (`data.validation`), or as many as the data set has of its own.
pub(crate) fn validation_images(data: &DataSet, count: usize) -> usize {
    if count > 0 { count } else { data.validation.len() }
}
