//! The numbers that the paper (course report CSCE 636, Anmol Anand) publishes, drawn behind the
//! curves of runs that follow it.

/// The name of the data set that the paper trained on.
pub const DATA: &str = crescendo_data::CIFAR10_NAME;

/// The recipes that train as the paper does.
pub const RECIPES: [&str; 2] = ["report", "original"];

/// Pairs of an epoch and its training loss.
pub const TRAIN_LOSS: [(u32, f64); 28] = [
    (1, 2.359),
    (2, 2.311),
    (3, 2.309),
    (4, 2.308),
    (5, 2.196),
    (6, 1.981),
    (7, 1.853),
    (8, 1.740),
    (9, 1.574),
    (10, 1.325),
    (11, 1.111),
    (12, 0.939),
    (13, 0.809),
    (14, 0.706),
    (15, 0.630),
    (16, 0.570),
    (17, 0.524),
    (18, 0.483),
    (19, 0.451),
    (20, 0.418),
    (30, 0.2756),
    (60, 0.1857),
    (61, 0.1066),
    (70, 0.0905),
    (71, 0.0563),
    (80, 0.0359),
    (81, 0.0244),
    (90, 0.0024),
];

/// Pairs of an epoch and the test accuracy after it.
pub const TEST_ACCURACY: [(u32, f64); 5] =
    [(30, 0.8641), (60, 0.8831), (70, 0.9048), (80, 0.9178), (90, 0.9356)];

/// Pairs of an epoch and the batch size from it on; the last pair marks the end.
const BATCH_SIZES: [(u32, f64); 5] =
    [(1, 125.0), (61, 250.0), (71, 500.0), (81, 1000.0), (91, 0.0)];

/// Pairs of an epoch and its batch size, for every epoch.
pub fn batch_sizes() -> Vec<(u32, f64)> {
    let phases = BATCH_SIZES.windows(2).flat_map(|pair| {
        let size = pair[0].1;
        (pair[0].0..pair[1].0).map(move |epoch| (epoch, size))
    });
    phases.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_curves_are_those_of_the_paper() {
        assert_eq!(TRAIN_LOSS[19], (20, 0.418));
        assert!(TRAIN_LOSS.is_sorted_by(|a, b| a.0 < b.0 && a.1 > b.1));
        assert!(TEST_ACCURACY.is_sorted_by(|a, b| a.0 < b.0 && a.1 < b.1));
        let sizes = batch_sizes();
        assert_eq!(sizes.len(), 90);
        let at = |epoch: usize| sizes[epoch - 1].1;
        assert_eq!([1, 60, 61, 71, 81, 90].map(at), [125.0, 125.0, 250.0, 500.0, 1000.0, 1000.0]);
    }
}
