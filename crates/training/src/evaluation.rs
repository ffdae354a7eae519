//! Evaluations: accuracy, loss and confusion matrix of a network on a split.

use crescendo_data::{ImageShape, Split};
use crescendo_network::Engine;

use crate::Error;
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
    /// The bytes of the image, as [`ImageShape`] orders them.
    pub image: Vec<u8>,
}

/// How many misclassified images are kept.
const MISCLASSIFIED: usize = 24;

impl Evaluation {
    /// Adds the logits of one image.
    fn add(&mut self, index: usize, label: usize, image: &[u8], logits: &[f32]) {
        let prediction = argmax(logits);
        self.confusion[label][prediction] += 1;
        let probabilities: Vec<f64> = softmax(logits).collect();
        // A probability can be too small for a floating-point number.
        self.loss -= probabilities[label].max(f64::MIN_POSITIVE).ln();
        let probability = probabilities[prediction];
        let last = self.misclassified.get(MISCLASSIFIED - 1);
        let least = last.map_or(f64::NEG_INFINITY, |image| image.probability);
        if prediction == label || probability.is_nan() || probability <= least {
            return;
        }
        let at = self.misclassified.partition_point(|image| image.probability >= probability);
        let image = image.to_vec();
        let misclassified = Misclassified { index, label, prediction, probability, image };
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

    /// The accuracy on each class; `None` for a class without images.
    pub fn class_accuracies(&self) -> Vec<Option<f64>> {
        let classes = self.confusion.iter().enumerate().map(|(class, predictions)| {
            let images: u64 = predictions.iter().sum();
            (images > 0).then(|| predictions[class] as f64 / images as f64)
        });
        classes.collect()
    }

    /// The balanced accuracy, from 0 to 1: the mean of the accuracies on the classes that have images.
    pub fn balanced_accuracy(&self) -> f64 {
        let accuracies: Vec<f64> = self.class_accuracies().into_iter().flatten().collect();
        accuracies.iter().sum::<f64>() / accuracies.len().max(1) as f64
    }
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
    Ok(evaluation)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_confident_misclassified_images_are_kept() {
        let mut evaluation = Evaluation { confusion: vec![vec![0; 2]; 2], ..Evaluation::default() };
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
}
