//! The softmax and its cross-entropy. Logits are `[images, classes]`.

/// Weights of the classes in [`cross_entropy`], as PyTorch's `CrossEntropyLoss(weight)`.
///
/// See the example of [the module `linear`](crate::linear).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClassWeights<'a> {
    /// The weight of each class: finite and not negative.
    pub weights: &'a [f32],
    /// The mean weight of the labels of the whole batch: see [`ClassWeights::new`]. For a micro-batch
    /// it is that of the batch it belongs to, so that the loss is divided by the weights of the whole
    /// batch however the batch is cut.
    pub mean: f64,
}

impl<'a> ClassWeights<'a> {
    /// For batches with these labels, or micro-batches of them.
    ///
    /// # Panics
    /// If a label is not below the number of weights.
    pub fn new(weights: &'a [f32], labels: &[u16]) -> Self {
        let sum: f64 = labels.iter().map(|&label| f64::from(weights[usize::from(label)])).sum();
        ClassWeights { weights, mean: sum / labels.len() as f64 }
    }
}

/// The sum of the cross-entropies of images, some or all of a batch of `batch` images: divided by [`divisor`], the sum
/// over the whole batch is PyTorch's `CrossEntropyLoss(weight, label_smoothing)`. Writes the gradient of that loss to
/// `dlogits`.
///
/// Without class weights the loss is the mean over the batch. `smoothing` is the share of each label that is
/// spread evenly over all classes (Szegedy et al. 2016, arXiv 1512.00567).
///
/// With class weights `w`, an image with the label `y` and the probabilities `p` adds
/// `(1 - smoothing) * w[y] * -log p[y] + smoothing / classes * sum over c of w[c] * -log p[c]`, and
/// the sum is divided by the number of images times [`ClassWeights::mean`]: by the sum of the weights of the batch's
/// labels.
///
/// # Panics
/// If lengths do not fit, or a label is not below the number of classes.
pub fn cross_entropy(
    logits: &[f32],
    labels: &[u16],
    smoothing: f64,
    batch: usize,
    class_weights: Option<ClassWeights>,
    dlogits: &mut [f32],
) -> f64 {
    let classes = logits.len() / labels.len();
    let lengths = [logits.len(), dlogits.len()];
    assert_eq!(lengths, [classes * labels.len(); 2], "wrong number of logits");
    let divisor = divisor(batch, class_weights);
    let rows = logits.chunks_exact(classes).zip(dlogits.chunks_exact_mut(classes)).zip(labels);
    let mut total = 0.0;
    match class_weights {
        None => {
            for ((logits, dlogits), &label) in rows {
                total += row(logits, label.into(), smoothing, divisor, dlogits);
            }
        }
        Some(ClassWeights { weights, .. }) => {
            assert_eq!(weights.len(), classes, "wrong number of class weights");
            for ((logits, dlogits), &label) in rows {
                total += weighted_row(logits, label.into(), smoothing, weights, divisor, dlogits);
            }
        }
    }
    total
}

/// What the sum of a batch's cross-entropies is divided by: its images times their mean weight.
///
/// See the example of [the module `linear`](crate::linear).
pub fn divisor(batch: usize, class_weights: Option<ClassWeights>) -> f64 {
    batch as f64 * class_weights.map_or(1.0, |weights| weights.mean)
}

/// One image's loss; writes its gradient, divided by `divisor`.
fn row(logits: &[f32], label: usize, smoothing: f64, divisor: f64, dlogits: &mut [f32]) -> f64 {
    let classes = logits.len();
    let (max, sum) = max_and_sum(logits);
    let mean = logits.iter().map(|&logit| f64::from(logit)).sum::<f64>() / classes as f64;
    let target = (1.0 - smoothing) * f64::from(logits[label]) + smoothing * mean;
    for (class, (&logit, dlogit)) in logits.iter().zip(dlogits).enumerate() {
        let probability = (f64::from(logit) - max).exp() / sum;
        let target = if class == label { 1.0 - smoothing } else { 0.0 };
        let target = target + smoothing / classes as f64;
        *dlogit = ((probability - target) / divisor) as f32;
    }
    sum.ln() + max - target
}

/// The same with class weights.
fn weighted_row(
    logits: &[f32],
    label: usize,
    smoothing: f64,
    class_weights: &[f32],
    divisor: f64,
    dlogits: &mut [f32],
) -> f64 {
    let share = smoothing / logits.len() as f64;
    // What multiplies `-log p` of a class.
    let target = |class: usize| {
        let hard = if class == label { 1.0 - smoothing } else { 0.0 };
        (hard + share) * f64::from(class_weights[class])
    };
    let all: f64 = (0..logits.len()).map(target).sum();
    let (max, sum) = max_and_sum(logits);
    let mut loss = 0.0;
    for (class, (&logit, dlogit)) in logits.iter().zip(dlogits).enumerate() {
        let above = f64::from(logit) - max;
        // A class without a target adds nothing, however unlikely it is.
        if target(class) != 0.0 {
            loss += target(class) * (sum.ln() - above);
        }
        *dlogit = ((all * above.exp() / sum - target(class)) / divisor) as f32;
    }
    loss
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
        let loss = cross_entropy(&[1e30, -1e30], &[0], 0.0, 1, None, &mut gradient);
        assert_eq!((loss, gradient), (0.0, [0.0, 0.0]));
        assert!(cross_entropy(&[f32::NAN, 0.0], &[1], 0.0, 1, None, &mut gradient).is_nan());
    }
}
