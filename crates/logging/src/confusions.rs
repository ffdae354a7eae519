//! Which classes a network confuses, where a whole confusion matrix would be unreadable.

use std::cmp::Reverse;

/// The most classes of which a confusion matrix is shown.
pub(crate) const MAX_MATRIX_CLASSES: usize = 20;

/// Images of one class that were predicted as another.
#[derive(Debug, PartialEq)]
pub(crate) struct Confusion {
    pub images: u64,
    pub label: usize,
    pub prediction: usize,
}

/// The most frequent confusions in a confusion matrix, the most frequent one first; what is shown of a large one.
pub(crate) fn most_frequent(confusion: &[Vec<u64>]) -> Vec<Confusion> {
    let mut all = Vec::new();
    for (label, predictions) in confusion.iter().enumerate() {
        let counts = predictions.iter().enumerate();
        let wrong = counts.filter(|&(prediction, images)| prediction != label && *images > 0);
        all.extend(wrong.map(|(prediction, &images)| Confusion { images, label, prediction }));
    }
    all.sort_by_key(|&Confusion { images, label, prediction }| {
        (Reverse(images), label, prediction)
    });
    all.truncate(20);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_frequent_confusions_come_first() {
        let confusion = |images, label, prediction| Confusion { images, label, prediction };
        let matrix = [vec![90, 0, 2], vec![2, 80, 7], vec![0, 0, 70]];
        let expected = [confusion(7, 1, 2), confusion(2, 0, 2), confusion(2, 1, 0)];
        assert_eq!(most_frequent(&matrix), expected);
        assert_eq!(most_frequent(&vec![vec![1; 30]; 30]).len(), 20);
    }
}
