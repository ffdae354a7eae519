//! Setting a part of the training images aside for validation.

use std::borrow::Cow;

use crate::Split;
use crate::rng::{permutation, stream};

/// Splits `train` into the images to train on and `count` validation images, in this order. Which images
/// are chosen is random, but depends on nothing except the two numbers of images: every seed of a recipe
/// is validated on the same images. Both splits keep the order of `train`.
///
/// # Panics
/// If `count` is not smaller than the number of images.
pub fn split_validation(train: &Split, count: usize) -> (Split, Split) {
    assert!(count < train.len(), "no images would be left to train on");
    let mut chosen = vec![false; train.len()];
    let order = permutation(&mut stream(b"validate", 0, 0, 0), train.len());
    for &index in &order[..count] {
        chosen[index as usize] = true;
    }
    let (mut rest, mut validation) = (Split::default(), Split::default());
    for (index, chosen) in chosen.into_iter().enumerate() {
        let to = if chosen { &mut validation } else { &mut rest };
        to.push(train.image(index), train.labels[index]);
    }
    (rest, validation)
}

/// The images to train on when `count` of `train` are validation images: the first part of
/// [`split_validation`], or all of `train` if `count` is 0.
///
/// # Panics
/// If `count` is not 0 and not smaller than the number of images.
pub fn without_validation(train: &Split, count: usize) -> Cow<'_, Split> {
    match count {
        0 => Cow::Borrowed(train),
        count => Cow::Owned(split_validation(train, count).0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ImageShape;

    #[test]
    fn validation_images_are_not_trained_on() {
        let mut train = Split::default();
        for label in 0..23_u16 {
            train.push(&[label as u8; ImageShape::CIFAR.elements()], label);
        }
        let (rest, validation) = split_validation(&train, 6);
        assert_eq!((rest.len(), validation.len()), (17, 6));
        for split in [&rest, &validation] {
            assert!((0..split.len()).all(|i| u16::from(split.image(i)[0]) == split.labels[i]));
        }
        assert_eq!(*without_validation(&train, 6), rest);
        assert_eq!(*without_validation(&train, 0), train);
        let mut labels = [rest.labels, validation.labels].concat();
        labels.sort_unstable();
        assert_eq!(labels, (0..23).collect::<Vec<_>>());
    }
}
