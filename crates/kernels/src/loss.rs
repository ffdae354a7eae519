//! Softmax and its cross-entropy.

/// The mean cross-entropy of the softmax of `logits` `[N, classes]`; writes
/// `weight * d(loss)/d(logits)` into `dlogits`. `smoothing` is the share of each label that is spread
/// evenly over all classes (Szegedy et al. 2016, arXiv 1512.00567), as PyTorch's `label_smoothing`.
///
/// # Panics
/// If a label is not below the number of classes.
pub fn cross_entropy(
    logits: &[f32],
    labels: &[u16],
    smoothing: f64,
    weight: f64,
    dlogits: &mut [f32],
) -> f64 {
    let classes = logits.len() / labels.len();
    let count = labels.len() as f64;
    let mut total = 0.0;
    let rows = logits.chunks_exact(classes).zip(dlogits.chunks_exact_mut(classes));
    for ((logits, dlogits), &label) in rows.zip(labels) {
        let label = usize::from(label);
        let (max, sum) = max_and_sum(logits);
        let mean = logits.iter().map(|&logit| f64::from(logit)).sum::<f64>() / classes as f64;
        let target = (1.0 - smoothing) * f64::from(logits[label]) + smoothing * mean;
        total += sum.ln() + max - target;
        for (class, (&logit, dlogit)) in logits.iter().zip(dlogits).enumerate() {
            let probability = (f64::from(logit) - max).exp() / sum;
            let target = if class == label { 1.0 - smoothing } else { 0.0 };
            let target = target + smoothing / classes as f64;
            *dlogit = (weight * (probability - target) / count) as f32;
        }
    }
    total / count
}

/// How many images have their label's logit as the largest; of equal ones the first counts, as in
/// PyTorch's argmax.
pub fn count_correct(logits: &[f32], labels: &[u16]) -> usize {
    let rows = logits.chunks_exact(logits.len() / labels.len().max(1)).zip(labels);
    rows.filter(|(logits, label)| argmax(logits) == usize::from(**label)).count()
}

/// The class of the largest logit, the first of equal ones.
pub fn argmax(logits: &[f32]) -> usize {
    (0..logits.len()).rev().max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap_or(0)
}

/// The probabilities that one image's `logits` stand for.
pub fn softmax(logits: &[f32]) -> impl Iterator<Item = f64> {
    let (max, sum) = max_and_sum(logits);
    logits.iter().map(move |&logit| (f64::from(logit) - max).exp() / sum)
}

/// The largest logit, and the sum of exponentials relative to it: nothing can overflow.
fn max_and_sum(logits: &[f32]) -> (f64, f64) {
    let max = logits.iter().fold(f64::NEG_INFINITY, |max, &logit| max.max(f64::from(logit)));
    (max, logits.iter().map(|&logit| (f64::from(logit) - max).exp()).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_equal_logits_the_first_is_the_answer() {
        assert_eq!(count_correct(&[1.0, 1.0, 0.0, 2.0], &[0, 1]), 2);
        assert_eq!(count_correct(&[1.0, 1.0, 0.0, 2.0], &[1, 1]), 1);
    }

    #[test]
    fn huge_logits_do_not_overflow_and_nan_is_not_hidden() {
        let mut gradient = [0.0; 2];
        let loss = cross_entropy(&[1e30, -1e30], &[0], 0.0, 1.0, &mut gradient);
        assert_eq!((loss, gradient), (0.0, [0.0, 0.0]));
        assert!(cross_entropy(&[f32::NAN, 0.0], &[1], 0.0, 1.0, &mut gradient).is_nan());
    }
}
