//! Setting a part of the training images aside for validation.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::Split;
use crate::rng::{permutation, stream};

/// How validation images are chosen from the training images.
///
/// # Example
///
/// ```
/// use crescendo_data::{ValidationChoice, shapes, split_validation};
///
/// let train = shapes::generate(0, 100, 10).train;
/// let (rest, validation) = split_validation(&train, 20, ValidationChoice::Stratified);
/// assert_eq!((rest.len(), validation.len()), (80, 20));
/// // Two of each of the ten classes.
/// let of = |class: u16| validation.labels.iter().filter(|&&label| label == class).count();
/// assert!((0..10).all(|class| of(class) == 2));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ValidationChoice {
    /// At random from all of them, as versions of the program did that did not record the choice.
    #[default]
    Random,
    /// At random from each class, in proportion to its number of images. A class keeps at least one training
    /// image if the others have enough.
    Stratified,
}

impl ValidationChoice {
    /// All of them.
    pub const ALL: [ValidationChoice; 2] = [ValidationChoice::Random, ValidationChoice::Stratified];

    /// Its name in records.
    pub fn name(self) -> &'static str {
        match self {
            ValidationChoice::Random => "random",
            ValidationChoice::Stratified => "stratified",
        }
    }
}

/// Splits `train` into the images to train on and `count` validation images, in this order. Which images
/// are chosen is random, but depends on nothing except the labels and `count` (for
/// [`ValidationChoice::Random`], the two numbers of images): every seed of a recipe is validated on the same
/// images. Both splits keep the order of `train`.
///
/// # Panics
/// If `count` is not smaller than the number of images.
pub fn split_validation(train: &Split, count: usize, choice: ValidationChoice) -> (Split, Split) {
    assert!(count < train.len(), "no images would be left to train on");
    let chosen = match choice {
        ValidationChoice::Random => random(train.len(), count),
        ValidationChoice::Stratified => stratified(&train.labels, count),
    };
    let (mut rest, mut validation) = (Split::default(), Split::default());
    for (index, chosen) in chosen.into_iter().enumerate() {
        let to = if chosen { &mut validation } else { &mut rest };
        to.push(train.image(index), train.labels[index]);
        to.files.extend(train.file(index).map(str::to_owned));
    }
    (rest, validation)
}

/// The images to train on when `count` of `train` are validation images: the first part of
/// [`split_validation`], or all of `train` if `count` is 0.
///
/// # Panics
/// If `count` is not 0 and not smaller than the number of images.
pub fn without_validation(train: &Split, count: usize, choice: ValidationChoice) -> Cow<'_, Split> {
    match count {
        0 => Cow::Borrowed(train),
        count => Cow::Owned(split_validation(train, count, choice).0),
    }
}

/// Which of the images are chosen, from all of them.
fn random(images: usize, count: usize) -> Vec<bool> {
    let mut chosen = vec![false; images];
    for &index in &permutation(&mut stream(b"validate", 0, 0, 0), images)[..count] {
        chosen[index as usize] = true;
    }
    chosen
}

/// Which of the images are chosen, from each class in proportion.
fn stratified(labels: &[u16], count: usize) -> Vec<bool> {
    let classes = labels.iter().max().map_or(0, |&last| usize::from(last) + 1);
    let mut members = vec![Vec::new(); classes];
    for (index, &label) in labels.iter().enumerate() {
        members[usize::from(label)].push(index);
    }
    let sizes: Vec<usize> = members.iter().map(Vec::len).collect();
    let mut chosen = vec![false; labels.len()];
    for (class, (members, share)) in members.iter().zip(shares(&sizes, count)).enumerate() {
        // The 1 keeps these streams apart from the one of a random choice.
        let order = permutation(&mut stream(b"validate", 1, class as u64, 0), members.len());
        for &place in &order[..share] {
            chosen[members[place as usize]] = true;
        }
    }
    chosen
}

/// How many images of classes of these `sizes` are chosen so that they are `count` in all: the method of largest
/// remainders.
fn shares(sizes: &[usize], count: usize) -> Vec<usize> {
    let total: usize = sizes.iter().sum();
    let exact = |size: usize| (size as u128 * count as u128, total.max(1) as u128);
    let floor = |&size: &usize| (exact(size).0 / exact(size).1) as usize;
    let mut shares: Vec<usize> = sizes.iter().map(floor).collect();
    let mut order: Vec<usize> = (0..sizes.len()).collect();
    order.sort_by_key(|&class| {
        let (product, total) = exact(sizes[class]);
        (std::cmp::Reverse(product % total), class)
    });
    let mut left = count - shares.iter().sum::<usize>();
    // First where at least one image is left to train on, then anywhere.
    for kept in [1, 0] {
        for &class in &order {
            if left > 0 && shares[class] + kept < sizes[class] {
                shares[class] += 1;
                left -= 1;
            }
        }
    }
    // Only if nearly all images are chosen.
    for &class in &order {
        let more = left.min(sizes[class] - shares[class]);
        shares[class] += more;
        left -= more;
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ImageShape;

    /// Images of these classes, each with its index in its first two bytes.
    fn images(labels: &[u16]) -> Split {
        let mut split = Split::default();
        for (index, &label) in labels.iter().enumerate() {
            let mut image = [0; ImageShape::CIFAR.elements()];
            image[..2].copy_from_slice(&(index as u16).to_le_bytes());
            split.push(&image, label);
        }
        split
    }

    fn indices(split: &Split) -> Vec<u16> {
        let image = |index: usize| split.image(index);
        (0..split.len()).map(|i| u16::from_le_bytes([image(i)[0], image(i)[1]])).collect()
    }

    fn counts(split: &Split, classes: u16) -> Vec<usize> {
        (0..classes).map(|class| split.labels.iter().filter(|&&l| l == class).count()).collect()
    }

    #[test]
    fn validation_images_are_not_trained_on() {
        let train = images(&(0..23).map(|index| index % 3).collect::<Vec<_>>());
        for choice in [ValidationChoice::Random, ValidationChoice::Stratified] {
            let (rest, validation) = split_validation(&train, 6, choice);
            assert_eq!((rest.len(), validation.len()), (17, 6));
            for split in [&rest, &validation] {
                assert!(indices(split).is_sorted());
                let labels = indices(split).into_iter().map(|index| index % 3);
                assert!(labels.eq(split.labels.iter().copied()));
            }
            assert_eq!(*without_validation(&train, 6, choice), rest);
            assert_eq!(*without_validation(&train, 0, choice), train);
            let mut all = [indices(&rest), indices(&validation)].concat();
            all.sort_unstable();
            assert_eq!(all, (0..23).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_random_choice_is_that_of_earlier_versions() {
        let (_, validation) = split_validation(&images(&[0; 23]), 6, ValidationChoice::Random);
        let order = permutation(&mut stream(b"validate", 0, 0, 0), 23);
        let mut first: Vec<u16> = order[..6].iter().map(|&index| index as u16).collect();
        first.sort_unstable();
        assert_eq!(indices(&validation), first);
    }

    #[test]
    fn a_stratified_choice_keeps_the_classes_in_proportion() {
        let labels: Vec<u16> = [vec![0; 600], vec![1; 300], vec![3; 100]].concat();
        let (rest, validation) =
            split_validation(&images(&labels), 100, ValidationChoice::Stratified);
        assert_eq!(counts(&validation, 4), [60, 30, 0, 10]);
        assert_eq!(counts(&rest, 4), [540, 270, 0, 90]);
        // Not the first of each class.
        assert_ne!(indices(&validation)[..60], (0..60).collect::<Vec<_>>());
    }

    #[test]
    fn every_count_is_met_and_classes_keep_an_image_if_they_can() {
        for sizes in [&[1, 1, 1][..], &[1, 9], &[5, 0, 3, 1], &[2, 2, 2, 2], &[100, 1, 1]] {
            let total: usize = sizes.iter().sum();
            let used = sizes.iter().filter(|&&size| size > 0).count();
            for count in 0..total {
                let shares = shares(sizes, count);
                assert_eq!(shares.iter().sum::<usize>(), count, "{sizes:?}");
                assert!(shares.iter().zip(sizes).all(|(share, size)| share <= size));
                if count <= total / 2 && total >= 4 * used {
                    let keeps = |(share, size): (&usize, &usize)| *size == 0 || share < size;
                    assert!(shares.iter().zip(sizes).all(keeps), "{sizes:?} {count} {shares:?}");
                }
            }
        }
    }
}
