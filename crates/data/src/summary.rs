//! A summary of a data set: counts, statistics and problems.

use std::array;
use std::collections::{HashMap, HashSet};
use std::fmt;

use serde::Serialize;

use crate::{DataSet, ImageShape, Split};

const SHAPE: ImageShape = ImageShape::CIFAR;

/// A warning is given if the largest training class has more than this many times the images of the
/// smallest.
const MAX_IMBALANCE: usize = 3;

/// A summary of a data set; its `Display` is a table.
///
/// # Example
///
/// ```
/// use crescendo_data::{shapes, summarize};
///
/// let mut set = shapes::generate(0, 30, 10);
/// set.test = set.train.clone();
/// let summary = summarize(&set);
/// let first = &summary.classes[0];
/// assert_eq!((first.train, first.test), (3, 3));
/// assert_eq!(
///     summary.problems[0],
///     "30 of 30 test images are exact copies of training images, so the test accuracy will be too high"
/// );
/// assert!(summary.to_string().contains("\nall "));
/// ```
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Summary {
    /// The data set's name.
    pub name: String,
    /// Where the images came from and how they were stored.
    pub format: String,
    /// The number of images of each class.
    pub classes: Vec<ClassCount>,
    /// The number of training images.
    pub train: usize,
    /// The number of validation images that the data set has of its own.
    pub validation: usize,
    /// The number of test images.
    pub test: usize,
    /// The mean of each channel: [`channel_statistics`] of the training images.
    pub mean: [f64; 3],
    /// The standard deviation of each channel: [`channel_statistics`] of the training images.
    pub std: [f64; 3],
    /// [`DataSet::fingerprint`].
    pub fingerprint: String,
    /// Anything that looks wrong, one sentence each; empty if nothing does.
    pub problems: Vec<String>,
}

/// The number of images of one class.
///
/// See the example of [`Summary`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ClassCount {
    /// The name of the class.
    pub name: String,
    /// The number of its training images.
    pub train: usize,
    /// The number of its validation images.
    pub validation: usize,
    /// The number of its test images.
    pub test: usize,
}

/// Summarises a data set and looks for problems: duplicates, images of one colour, missing or very unequal
/// classes.
pub fn summarize(set: &DataSet) -> Summary {
    let counts = [&set.train, &set.validation, &set.test].map(|split| count(split, &set.classes));
    let class = |(index, name): (usize, &String)| {
        let [train, validation, test] = counts.each_ref().map(|counts| counts[index]);
        ClassCount { name: name.clone(), train, validation, test }
    };
    let classes: Vec<ClassCount> = set.classes.iter().enumerate().map(class).collect();
    let (mean, std) = channel_statistics(&set.train);
    Summary {
        name: set.name.clone(),
        format: set.format.clone(),
        problems: problems(set, &classes),
        classes,
        train: set.train.len(),
        validation: set.validation.len(),
        test: set.test.len(),
        mean,
        std,
        fingerprint: set.fingerprint(),
    }
}

/// The mean and the population standard deviation of each channel, of `byte / 255`; zero if there are no
/// images. The sums are of integers, so the result does not depend on the order of the images.
pub fn channel_statistics(split: &Split) -> ([f64; 3], [f64; 3]) {
    let mut sums = [0_u64; SHAPE.channels];
    let mut squares = [0_u64; SHAPE.channels];
    for (plane, bytes) in split.pixels.chunks_exact(SHAPE.plane()).enumerate() {
        sums[plane % SHAPE.channels] += bytes.iter().map(|byte| u64::from(*byte)).sum::<u64>();
        squares[plane % SHAPE.channels] +=
            bytes.iter().map(|byte| u64::from(*byte).pow(2)).sum::<u64>();
    }
    let count = (split.len().max(1) * SHAPE.plane()) as u128;
    let scale = count as f64 * 255.0;
    let mean = sums.map(|sum| sum as f64 / scale);
    let std = array::from_fn(|channel| {
        let square = count * u128::from(squares[channel]) - u128::from(sums[channel]).pow(2);
        (square as f64).sqrt() / scale
    });
    (mean, std)
}

fn count(split: &Split, classes: &[String]) -> Vec<usize> {
    let mut counts = vec![0; classes.len()];
    for label in &split.labels {
        counts[usize::from(*label)] += 1;
    }
    counts
}

fn problems(set: &DataSet, classes: &[ClassCount]) -> Vec<String> {
    let mut problems = set.warnings.clone();

    let mut seen = HashSet::new();
    let splits = [(&set.train, "training"), (&set.validation, "validation"), (&set.test, "test")];
    let mut report = |count: usize, (split, purpose): (&Split, &str), what: &str| {
        if count > 0 {
            problems.push(format!("{count} of {} {purpose} images are {what}", split.len()));
        }
    };
    let duplicates = all(&set.train).filter(|image| !seen.insert(*image)).count();
    report(duplicates, splits[0], "exact copies of earlier ones");
    for split in &splits[1..] {
        let leaked = all(split.0).filter(|image| seen.contains(image)).count();
        let what = format!(
            "exact copies of training images, so the {} accuracy will be too high",
            split.1
        );
        report(leaked, *split, &what);
    }
    for split in &splits[1..] {
        seen.clear();
        let duplicates = all(split.0).filter(|image| !seen.insert(*image)).count();
        report(duplicates, *split, "exact copies of earlier ones");
    }
    for split in splits {
        let constant = all(split.0).filter(|image| is_constant(image)).count();
        report(constant, split, "of a single colour");
    }
    // A reader that knows the names of files has said it with them.
    if !set.warnings.iter().any(|warning| warning.contains(LABEL_CONFLICT)) {
        problems.extend(label_conflict(set));
    }

    for ClassCount { name, train, validation, test } in classes {
        let validated = (!set.validation.is_empty()).then_some((validation, "validation"));
        for (count, purpose) in
            [(train, "training")].into_iter().chain(validated).chain([(test, "test")])
        {
            if *count == 0 {
                problems.push(format!("no {purpose} images of {name}"));
            }
        }
    }
    let present = || classes.iter().filter(|class| class.train > 0);
    let smallest = present().min_by_key(|class| class.train);
    let largest = present().max_by_key(|class| class.train);
    if let (Some(smallest), Some(largest)) = (smallest, largest)
        && largest.train > MAX_IMBALANCE * smallest.train
    {
        problems.push(format!(
            "very unequal classes: {} training images of {}, but {} of {}",
            largest.train, largest.name, smallest.train, smallest.name
        ));
    }
    problems
}

/// What a warning about an image in two classes says.
pub(crate) const LABEL_CONFLICT: &str = "in another class (label conflict)";

/// A sentence about images that are in two classes, if there are any.
fn label_conflict(set: &DataSet) -> Option<String> {
    let mut seen = HashMap::new();
    let (mut count, mut example) = (0, None);
    for split in [&set.train, &set.validation, &set.test] {
        for (image, label) in all(split).zip(&split.labels) {
            let first = *seen.entry(image).or_insert(*label);
            if first != *label {
                count += 1;
                example.get_or_insert((first, *label));
            }
        }
    }
    let (first, second) = example?;
    let class = |label: u16| &set.classes[usize::from(label)];
    let are = if count == 1 { "image is" } else { "images are" };
    let (first, second) = (class(first), class(second));
    Some(format!("{count} {are} also {LABEL_CONFLICT}, such as one of {first} and of {second}"))
}

fn all(split: &Split) -> impl Iterator<Item = &[u8]> {
    (0..split.len()).map(|index| split.image(index))
}

fn is_constant(image: &[u8]) -> bool {
    let one_value = |plane: &[u8]| plane.iter().all(|byte| *byte == plane[0]);
    image.chunks_exact(SHAPE.plane()).all(one_value)
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let longest = self.classes.iter().map(|class| class.name.chars().count()).max();
        let width = longest.unwrap_or(0).max("fingerprint".len());
        writeln!(f, "{} ({})", self.name, self.format)?;
        writeln!(f)?;
        let validated = self.validation > 0;
        let mut row = |name: &str, train: &str, validation: &str, test: &str| {
            write!(f, "{name:width$} {train:>9} ")?;
            if validated {
                write!(f, "{validation:>10} ")?;
            }
            writeln!(f, "{test:>9}")
        };
        row("images", "train", "validation", "test")?;
        let text = |count: usize| count.to_string();
        for ClassCount { name, train, validation, test } in &self.classes {
            row(name, &text(*train), &text(*validation), &text(*test))?;
        }
        row("all", &text(self.train), &text(self.validation), &text(self.test))?;
        writeln!(f)?;
        writeln!(f, "{:width$} {:>9} {:>9} {:>9}", "channels", "red", "green", "blue")?;
        for (name, [red, green, blue]) in [("mean", self.mean), ("std", self.std)] {
            writeln!(f, "{name:width$} {red:>9.6} {green:>9.6} {blue:>9.6}")?;
        }
        writeln!(f)?;
        writeln!(f, "{:width$} {}", "fingerprint", self.fingerprint)?;
        if self.problems.is_empty() {
            return write!(f, "no problems found");
        }
        write!(f, "problems")?;
        self.problems.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ELEMENTS: usize = SHAPE.elements();

    /// A different image for each seed.
    fn image(seed: u8) -> [u8; ELEMENTS] {
        array::from_fn(|index| (index as u8).wrapping_mul(seed).wrapping_add(seed))
    }

    fn set(train: &[(u8, u16)], test: &[(u8, u16)]) -> DataSet {
        let split = |images: &[(u8, u16)]| {
            let mut split = Split::default();
            images.iter().for_each(|(seed, label)| split.push(&image(*seed), *label));
            split
        };
        DataSet {
            name: "small".into(),
            format: "made for a test".into(),
            classes: vec!["cat".into(), "dog".into()],
            train: split(train),
            validation: Split::default(),
            test: split(test),
            test_split: None,
            sizing: crate::Sizing::default(),
            warnings: Vec::new(),
        }
    }

    #[test]
    fn statistics_are_of_each_channel() {
        let mut split = Split::default();
        let mut image = [0; ELEMENTS];
        image[..1024].fill(255);
        image[1024..1536].fill(51);
        split.push(&image, 0);
        image[..1024].fill(0);
        split.push(&image, 0);
        let (mean, std) = channel_statistics(&split);
        for (actual, expected) in mean.iter().chain(&std).zip([0.5, 0.1, 0.0, 0.5, 0.1, 0.0]) {
            assert!((actual - expected).abs() < 1e-15, "{mean:?} {std:?}");
        }
        assert_eq!(channel_statistics(&Split::default()), ([0.0; 3], [0.0; 3]));
    }

    #[test]
    fn a_good_data_set_has_no_problems() {
        let summary = summarize(&set(&[(1, 0), (2, 1), (3, 1)], &[(4, 0), (5, 1)]));
        assert_eq!(summary.problems, [""; 0]);
        assert_eq!((summary.train, summary.test), (3, 2));
        assert_eq!(
            summary.classes[1],
            ClassCount { name: "dog".into(), train: 2, validation: 0, test: 1 }
        );
    }

    #[test]
    fn problems_are_found() {
        // Seed 0 makes a black image.
        let summary =
            summarize(&set(&[(1, 0), (1, 0), (2, 0), (0, 0), (3, 1)], &[(1, 0), (9, 0), (9, 0)]));
        assert_eq!(
            summary.problems,
            [
                "1 of 5 training images are exact copies of earlier ones",
                "1 of 3 test images are exact copies of training images, so the test accuracy will be \
                 too high",
                "1 of 3 test images are exact copies of earlier ones",
                "1 of 5 training images are of a single colour",
                "no test images of dog",
                "very unequal classes: 4 training images of cat, but 1 of dog",
            ]
        );
    }

    #[test]
    fn validation_images_are_counted_and_checked_too() {
        let mut set = set(&[(1, 0), (2, 1)], &[(4, 0), (5, 1)]);
        set.validation = set.train.clone();
        set.validation.labels = vec![1, 1];
        let summary = summarize(&set);
        assert_eq!(summary.validation, 2);
        assert_eq!(
            summary.problems,
            [
                "2 of 2 validation images are exact copies of training images, so the validation \
                 accuracy will be too high",
                "1 image is also in another class (label conflict), such as one of cat and of dog",
                "no validation images of cat",
            ]
        );
        let table = summary.to_string();
        assert!(table.contains("images          train validation      test\n"), "{table}");
        assert!(table.contains("dog                 1          2         1\n"), "{table}");
    }

    #[test]
    fn it_is_displayed_as_a_table() {
        let mut summary = summarize(&set(&[(1, 0), (2, 1)], &[(4, 0), (5, 1)]));
        (summary.mean, summary.std) = ([0.25, 0.5, 0.125], [0.1, 0.2, 0.3]);
        summary.fingerprint = "abc".into();
        let expected = "\
small (made for a test)

images          train      test
cat                 1         1
dog                 1         1
all                 2         2

channels          red     green      blue
mean         0.250000  0.500000  0.125000
std          0.100000  0.200000  0.300000

fingerprint abc
no problems found";
        assert_eq!(summary.to_string(), expected);
        summary.problems = vec!["no test images of cat".into()];
        assert!(summary.to_string().ends_with("problems\n  no test images of cat"));
    }
}
