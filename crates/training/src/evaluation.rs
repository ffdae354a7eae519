//! Evaluations: accuracy, loss, confusion matrix and calibration of a network on a split.

use crescendo_data::{ImageShape, Split};
use crescendo_network::Engine;

use crate::Error;
use crate::calibration::CalibrationBin;
use crate::inference::{EVALUATION_BATCH, Input, argmax, softmax};

/// An evaluation on a split.
///
/// See the example of [`Model`](crate::Model).
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Evaluation {
    /// The confusion matrix: `confusion[label][prediction]` counts images.
    pub confusion: Vec<Vec<u64>>,
    /// The mean cross-entropy.
    pub loss: f64,
    /// The number of images whose class is among the five with the highest probabilities.
    pub top5_correct: u64,
    /// The images by their confidence, the probability of the predicted class, in bins of equal width from 0 to 1.
    pub calibration: Vec<CalibrationBin>,
    /// How many views of each image were averaged (test-time augmentation).
    pub views: usize,
    /// The misclassified images with the most confident predictions, in descending order of confidence.
    pub misclassified: Vec<Misclassified>,
}

/// A misclassified image.
///
/// See the example of [`Model`](crate::Model).
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Misclassified {
    /// Its index in the split.
    pub index: usize,
    /// Its class.
    pub label: usize,
    /// The predicted class.
    pub prediction: usize,
    /// The predicted class's probability.
    pub probability: f64,
    /// Its file, if it has one of its own: the path in the folder or archive of the data set.
    pub file: Option<String>,
    /// The bytes of the image, as [`ImageShape`] orders them.
    pub image: Vec<u8>,
}

/// What an evaluation says about one class.
///
/// See the example of [`Model`](crate::Model).
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct ClassScore {
    /// The number of its images.
    pub images: u64,
    /// The share of the images predicted as this class that are of it, from 0 to 1; `None` if there are none.
    pub precision: Option<f64>,
    /// The share of its images that are predicted as it, from 0 to 1: the accuracy on this class. `None` if it has no
    /// images.
    pub recall: Option<f64>,
}

/// The scores of each class, from a confusion matrix as [`Evaluation::confusion`].
pub fn class_scores(confusion: &[Vec<u64>]) -> Vec<ClassScore> {
    let share = |part: u64, all: u64| (all > 0).then(|| part as f64 / all as f64);
    let score = |(class, predictions): (usize, &Vec<u64>)| {
        let (right, images) = (predictions[class], predictions.iter().sum());
        let predicted = confusion.iter().map(|predictions| predictions[class]).sum();
        ClassScore { images, precision: share(right, predicted), recall: share(right, images) }
    };
    confusion.iter().enumerate().map(score).collect()
}

/// How many misclassified images are kept.
const MISCLASSIFIED: usize = 24;
/// The top-5 accuracy of fewer classes says little.
const MIN_TOP5_CLASSES: usize = 11;

impl Evaluation {
    /// Adds the logits of one image.
    fn add(&mut self, index: usize, label: usize, image: &[u8], logits: &[f32]) {
        let prediction = argmax(logits);
        self.confusion[label][prediction] += 1;
        self.top5_correct += u64::from(rank(logits, label) < 5);
        let probabilities: Vec<f64> = softmax(logits).collect();
        // A probability can be too small for a floating-point number.
        self.loss -= probabilities[label].max(f64::MIN_POSITIVE).ln();
        let probability = probabilities[prediction];
        CalibrationBin::add(&mut self.calibration, probability, prediction == label);
        let last = self.misclassified.get(MISCLASSIFIED - 1);
        let least = last.map_or(f64::NEG_INFINITY, |image| image.probability);
        if prediction == label || probability.is_nan() || probability <= least {
            return;
        }
        let at = self.misclassified.partition_point(|image| image.probability >= probability);
        let image = image.to_vec();
        let misclassified =
            Misclassified { index, label, prediction, probability, image, file: None };
        self.misclassified.insert(at, misclassified);
        self.misclassified.truncate(MISCLASSIFIED);
    }

    /// The number of images.
    pub fn images(&self) -> u64 {
        self.confusion.iter().flatten().sum()
    }

    /// The number of correctly classified images.
    pub fn correct(&self) -> u64 {
        self.confusion.iter().enumerate().map(|(class, predictions)| predictions[class]).sum()
    }

    /// The accuracy, from 0 to 1.
    pub fn accuracy(&self) -> f64 {
        self.correct() as f64 / self.images().max(1) as f64
    }

    /// The share of the images whose class is among the five with the highest probabilities, from 0 to 1; `None` with
    /// ten classes or fewer.
    pub fn top5_accuracy(&self) -> Option<f64> {
        let accuracy = self.top5_correct as f64 / self.images().max(1) as f64;
        (self.confusion.len() >= MIN_TOP5_CLASSES).then_some(accuracy)
    }

    /// The expected calibration error, from 0 to 1: by how much confidence and accuracy differ in a bin, on average over
    /// the images (Guo et al. 2017, arXiv 1706.04599, equation 3). 0 means that of the images predicted with 80 %
    /// confidence, 80 % are right.
    pub fn calibration_error(&self) -> f64 {
        CalibrationBin::error(&self.calibration)
    }

    /// The scores of each class.
    pub fn class_scores(&self) -> Vec<ClassScore> {
        class_scores(&self.confusion)
    }

    /// The accuracy on each class, its recall; `None` for a class without images.
    pub fn class_accuracies(&self) -> Vec<Option<f64>> {
        self.class_scores().into_iter().map(|score| score.recall).collect()
    }

    /// The balanced accuracy, from 0 to 1: the mean of the accuracies on the classes that have images.
    pub fn balanced_accuracy(&self) -> f64 {
        let accuracies: Vec<f64> = self.class_accuracies().into_iter().flatten().collect();
        accuracies.iter().sum::<f64>() / accuracies.len().max(1) as f64
    }
}

/// The number of classes that come before `class` in the order of the logits; of equal ones the first comes first, as
/// in [`argmax`].
fn rank(logits: &[f32], class: usize) -> usize {
    let is_before = |&(other, logit): &(usize, &f32)| {
        *logit > logits[class] || (*logit == logits[class] && other < class)
    };
    logits.iter().enumerate().filter(is_before).count()
}

/// Evaluates an engine's model on `split`. `progress` is called with the number of images so far, and stops the
/// evaluation with an error.
pub(crate) fn evaluate<E: From<Error>>(
    engine: &mut dyn Engine,
    input: &Input,
    split: &Split,
    mut progress: impl FnMut(usize) -> Result<(), E>,
) -> Result<Evaluation, E> {
    let (classes, elements) = (engine.graph().classes(), ImageShape::CIFAR.elements());
    let mut evaluation = Evaluation {
        confusion: vec![vec![0; classes]; classes],
        calibration: CalibrationBin::empty(),
        views: input.views(),
        ..Evaluation::default()
    };
    let mut done = 0;
    for images in split.pixels.chunks(EVALUATION_BATCH * elements) {
        let logits = input.logits(engine, images)?;
        for (logits, image) in logits.chunks_exact(classes).zip(images.chunks_exact(elements)) {
            let label = usize::from(split.labels[done]);
            evaluation.add(done, label, image, logits);
            done += 1;
        }
        progress(done)?;
    }
    evaluation.loss /= done.max(1) as f64;
    for image in &mut evaluation.misclassified {
        image.file = split.file(image.index).map(str::to_owned);
    }
    Ok(evaluation)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An evaluation of no image yet.
    fn empty(classes: usize) -> Evaluation {
        let (confusion, calibration) = (vec![vec![0; classes]; classes], CalibrationBin::empty());
        Evaluation { confusion, calibration, ..Evaluation::default() }
    }

    #[test]
    fn the_most_confident_misclassified_images_are_kept() {
        let mut evaluation = empty(2);
        for index in 0..100 {
            // Even images are classified correctly, odd ones are not; later ones more confidently.
            let logit = index as f32 / 50.0 + 0.01;
            evaluation.add(index, index % 2, &[index as u8], &[logit, 0.0]);
        }
        let kept: Vec<usize> = evaluation.misclassified.iter().map(|image| image.index).collect();
        assert_eq!(kept, (0..24).map(|i| 99 - 2 * i).collect::<Vec<_>>());
        assert_eq!(
            (evaluation.misclassified[0].label, evaluation.misclassified[0].prediction),
            (1, 0)
        );
        assert_eq!(evaluation.accuracy(), 0.5);
        assert!(evaluation.loss > 0.0);
    }

    #[test]
    fn accuracies_are_counted_from_the_confusion_matrix() {
        let evaluation = Evaluation {
            confusion: vec![vec![3, 1, 0], vec![0, 2, 2], vec![0, 0, 0]],
            ..Evaluation::default()
        };
        assert_eq!((evaluation.images(), evaluation.correct()), (8, 5));
        assert_eq!(evaluation.accuracy(), 0.625);
        assert_eq!(evaluation.class_accuracies(), [Some(0.75), Some(0.5), None]);
        assert_eq!(evaluation.balanced_accuracy(), 0.625);
        let confusion = vec![vec![90, 10], vec![5, 5]];
        let unequal = Evaluation { confusion, ..Evaluation::default() };
        assert_eq!(unequal.balanced_accuracy(), 0.7);
        assert_eq!(Evaluation::default().balanced_accuracy(), 0.0);
    }

    #[test]
    fn precision_and_recall_are_counted_from_the_confusion_matrix() {
        // Predicted as the classes: 4, 4, 2 and 0 images.
        let confusion = vec![vec![3, 1, 1, 0], vec![1, 3, 0, 0], vec![0, 0, 1, 0], vec![0; 4]];
        let scores = class_scores(&confusion);
        let expected = [
            (5, Some(0.75), Some(0.6)),
            (4, Some(0.75), Some(0.75)),
            (1, Some(0.5), Some(1.0)),
            (0, None, None),
        ];
        let expected =
            expected.map(|(images, precision, recall)| ClassScore { images, precision, recall });
        assert_eq!(scores, expected);
    }

    #[test]
    fn the_five_best_classes_count_with_more_than_ten() {
        // Class 0 has the largest logit, class 10 the smallest; 4 and 5 have the same.
        let logits = [9.0, 8.0, 7.0, 6.0, 5.0, 5.0, 3.0, 2.0, 1.0, 0.5, 0.0];
        assert_eq!([0, 3, 4, 5, 10].map(|class| rank(&logits, class)), [0, 3, 4, 5, 10]);
        let mut evaluation = empty(11);
        for (index, label) in [0, 3, 4, 5].into_iter().enumerate() {
            evaluation.add(index, label, &[], &logits);
        }
        assert_eq!((evaluation.top5_accuracy(), evaluation.accuracy()), (Some(0.75), 0.25));
        let mut few = empty(10);
        few.add(0, 0, &[], &logits[..10]);
        assert_eq!(few.top5_accuracy(), None);
    }

    #[test]
    fn confidence_is_the_probability_of_the_prediction() {
        let mut evaluation = empty(2);
        // Probabilities of 3/4 and 1/4: right, wrong, right.
        for (index, label) in [0, 1, 0].into_iter().enumerate() {
            evaluation.add(index, label, &[], &[3_f32.ln(), 0.0]);
        }
        let bin = evaluation.calibration[11];
        assert_eq!((bin.images, bin.correct), (3, 2));
        assert!((bin.confidence().unwrap() - 0.75).abs() < 1e-7, "{bin:?}");
        assert!((evaluation.calibration_error() - (0.75 - 2.0 / 3.0)).abs() < 1e-7);
    }
}
