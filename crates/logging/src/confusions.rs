//! What all confusion matrices share: how many classes are shown, which confusions instead of more, short names.

use std::cmp::Reverse;
use std::collections::HashSet;

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

/// Names of at most `width` characters: of longer ones, the beginning, or the end if that tells more of them apart.
pub(crate) fn shortened(names: &[String], width: usize) -> Vec<String> {
    let kept = width.saturating_sub(1);
    let cut = |name: &String, at_end: bool| {
        let count = name.chars().count();
        match (count <= width, at_end) {
            (true, _) => name.clone(),
            (false, true) => name.chars().take(kept).chain(['…']).collect(),
            (false, false) => ['…'].into_iter().chain(name.chars().skip(count - kept)).collect(),
        }
    };
    let [beginnings, ends] =
        [true, false].map(|at_end| names.iter().map(|name| cut(name, at_end)).collect::<Vec<_>>());
    let distinct = |names: &[String]| names.iter().collect::<HashSet<_>>().len();
    if distinct(&ends) > distinct(&beginnings) { ends } else { beginnings }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names<const N: usize>(names: [&str; N]) -> Vec<String> {
        names.map(str::to_owned).into()
    }

    #[test]
    fn the_most_frequent_confusions_come_first() {
        let confusion = |images, label, prediction| Confusion { images, label, prediction };
        let matrix = [vec![90, 0, 2], vec![2, 80, 7], vec![0, 0, 70]];
        let expected = [confusion(7, 1, 2), confusion(2, 0, 2), confusion(2, 1, 0)];
        assert_eq!(most_frequent(&matrix), expected);
        assert_eq!(most_frequent(&vec![vec![1; 30]; 30]).len(), 20);
    }

    #[test]
    fn names_are_shortened_where_they_differ() {
        let same_end = names(["red tulip", "white tulip", "rose"]);
        assert_eq!(shortened(&same_end, 5), ["red …", "whit…", "rose"]);
        let same_beginning = names(["class 10", "class 11", "c"]);
        assert_eq!(shortened(&same_beginning, 5), ["…s 10", "…s 11", "c"]);
        assert_eq!(shortened(&same_beginning, 8), same_beginning);
        assert_eq!(shortened(&names(["ünïcödé"]), 4), ["ünï…"]);
    }
}
