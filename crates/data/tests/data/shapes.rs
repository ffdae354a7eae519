//! The generated data set: the same everywhere, balanced, and neither trivial nor impossible.

use crescendo_data::shapes::{DEFAULT_TEST, DEFAULT_TRAIN, generate, parse};
use crescendo_data::{DataSet, ImageShape, Split};
use std::collections::HashSet;
use std::sync::LazyLock;

const CLASSES: usize = 10;
const ELEMENTS: usize = ImageShape::CIFAR.elements();

static DEFAULT: LazyLock<DataSet> =
    LazyLock::new(|| parse("shapes").expect("a set of this name").expect("it can be made"));

fn counts(labels: &[u16]) -> [usize; CLASSES] {
    let mut counts = [0; CLASSES];
    labels.iter().for_each(|&label| counts[usize::from(label)] += 1);
    counts
}

fn images(split: &Split) -> HashSet<&[u8]> {
    split.pixels.chunks(ELEMENTS).collect()
}

#[test]
fn the_default_set_is_balanced() {
    assert_eq!(DEFAULT.name, "shapes");
    assert_eq!(DEFAULT.classes.len(), CLASSES);
    assert_eq!(counts(&DEFAULT.train.labels), [DEFAULT_TRAIN / CLASSES; CLASSES]);
    assert_eq!(counts(&DEFAULT.test.labels), [DEFAULT_TEST / CLASSES; CLASSES]);
}

#[test]
fn every_ten_images_hold_each_class_in_an_order_of_their_own() {
    let tens: Vec<&[u16]> = DEFAULT.train.labels.chunks(CLASSES).collect();
    assert!(tens.iter().all(|ten| counts(ten) == [1; CLASSES]));
    let orders: HashSet<_> = tens.iter().collect();
    assert!(orders.len() > tens.len() * 9 / 10, "{} orders", orders.len());
}

#[test]
fn no_image_comes_twice() {
    let (train, test) = (images(&DEFAULT.train), images(&DEFAULT.test));
    assert_eq!((train.len(), test.len()), (DEFAULT_TRAIN, DEFAULT_TEST));
    assert!(train.is_disjoint(&test));
    assert!(train.is_disjoint(&images(&generate(1, 20, 20).train)));
}

#[test]
fn the_images_are_the_same_on_every_machine() {
    assert_eq!(
        generate(7, 25, 15).fingerprint(),
        "2d905f2108a35ae3bbae9f88f7b8e45234906653b89bf03ce460c927dcea5d6c"
    );
}

#[test]
fn an_image_does_not_depend_on_how_many_there_are() {
    let (few, more) = (generate(3, 12, 25), generate(3, 25, 12));
    let is_start_of = |few: &Split, more: &Split| {
        more.labels.starts_with(&few.labels) && more.pixels.starts_with(&few.pixels)
    };
    assert!(is_start_of(&few.train, &more.train));
    assert!(is_start_of(&more.test, &few.test));
}

#[test]
fn a_linear_classifier_learns_a_little_and_not_much() {
    let accuracy = Linear::trained(&DEFAULT.train, 2_000).accuracy(&DEFAULT.test);
    assert!((0.15..0.50).contains(&accuracy), "{accuracy}");
}

/// Softmax regression on the pixels.
struct Linear([[f32; ELEMENTS]; CLASSES]);

impl Linear {
    const EPOCHS: usize = 3;
    const RATE: f32 = 1e-3;

    fn trained(split: &Split, len: usize) -> Self {
        let mut linear = Linear([[0.0; ELEMENTS]; CLASSES]);
        for index in (0..len).cycle().take(len * Self::EPOCHS) {
            let pixels = centred(split.image(index));
            let scores = linear.scores(&pixels).map(f32::exp);
            let sum: f32 = scores.iter().sum();
            for (class, weights) in linear.0.iter_mut().enumerate() {
                let wanted = f32::from(class == usize::from(split.labels[index]));
                let step = Self::RATE * (wanted - scores[class] / sum);
                weights.iter_mut().zip(&pixels).for_each(|(weight, pixel)| *weight += step * pixel);
            }
        }
        linear
    }

    fn scores(&self, pixels: &[f32]) -> [f32; CLASSES] {
        let score = |weights: &[f32; ELEMENTS]| {
            weights.iter().zip(pixels).map(|(weight, pixel)| weight * pixel).sum()
        };
        std::array::from_fn(|class| score(&self.0[class]))
    }

    fn accuracy(&self, split: &Split) -> f64 {
        let right = (0..split.len()).filter(|&index| {
            let scores = self.scores(&centred(split.image(index)));
            let best = (0..CLASSES).max_by(|&a, &b| scores[a].total_cmp(&scores[b]));
            best == Some(usize::from(split.labels[index]))
        });
        right.count() as f64 / split.len() as f64
    }
}

fn centred(image: &[u8]) -> Vec<f32> {
    image.iter().map(|&byte| f32::from(byte) / 255.0 - 0.5).collect()
}

#[test]
fn sizes_and_a_seed_can_be_asked_for() {
    let parsed = |spec| parse(spec).expect("a set of this name").expect("it can be made");
    assert_eq!(parsed("shapes:30,20"), generate(0, 30, 20));
    assert_eq!(parsed("shapes:30,20,18446744073709551615"), generate(u64::MAX, 30, 20));
}

#[test]
fn other_sets_are_left_to_others() {
    for spec in ["", "cifar-10", "shape", "shapes2", "./shapes", "Shapes"] {
        assert!(parse(spec).is_none(), "{spec}");
    }
}

#[test]
fn what_cannot_be_made_is_told_with_what_can() {
    for spec in [
        "shapes:",
        "shapes:500",
        "shapes:500,",
        "shapes:0,100",
        "shapes:500,0",
        "shapes:-1,100",
        "shapes:many,100",
        "shapes:1000001,100",
        "shapes:100,1000001",
        "shapes:500,100,-1",
        "shapes:500,100,18446744073709551616",
        "shapes:500,100,0,0",
    ] {
        let problem = parse(spec).expect("a set of this name").expect_err(spec).to_string();
        assert!(problem.contains(spec) && problem.contains("shapes:TRAIN,TEST,SEED"), "{problem}");
    }
}
