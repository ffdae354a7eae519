//! The cross-entropy of the softmax, as PyTorch's `CrossEntropyLoss(weight, label_smoothing)`.

/// The loss of logits `[images, classes]`. With `w` the class weights (one each without) and `y` an
/// image's label, it is the sum over the images of
///
/// ```text
/// (1 - smoothing) * w[y] * -log p[y]  +  smoothing / classes * sum over classes c of w[c] * -log p[c]
/// ```
///
/// divided by the sum of `w[y]` over the images. Label smoothing is that of Szegedy et al.
/// (arXiv 1512.00567).
pub fn cross_entropy(
    logits: &[f64],
    labels: &[u16],
    smoothing: f64,
    class_weights: Option<&[f64]>,
) -> f64 {
    let classes = logits.len() / labels.len();
    let images = logits.chunks(classes).zip(labels).map(|(logits, &label)| {
        let targets = targets(classes, label, smoothing, class_weights);
        let minus_log =
            |class: usize| logits.iter().map(|x| (x - logits[class]).exp()).sum::<f64>().ln();
        (0..classes).map(|class| targets[class] * minus_log(class)).sum::<f64>()
    });
    images.sum::<f64>() / total_weight(labels, class_weights)
}

/// The gradient of [`cross_entropy`]: of each logit.
pub fn cross_entropy_backward(
    logits: &[f64],
    labels: &[u16],
    smoothing: f64,
    class_weights: Option<&[f64]>,
) -> Vec<f64> {
    let classes = logits.len() / labels.len();
    let total = total_weight(labels, class_weights);
    let images = logits.chunks(classes).zip(labels).flat_map(|(logits, &label)| {
        let targets = targets(classes, label, smoothing, class_weights);
        let all: f64 = targets.iter().sum();
        let probability =
            |class: usize| 1.0 / logits.iter().map(|x| (x - logits[class]).exp()).sum::<f64>();
        (0..classes)
            .map(|class| (all * probability(class) - targets[class]) / total)
            .collect::<Vec<f64>>()
    });
    images.collect()
}

/// What multiplies `-log p` of each class in an image's loss.
fn targets(classes: usize, label: u16, smoothing: f64, class_weights: Option<&[f64]>) -> Vec<f64> {
    let weight = |class: usize| class_weights.map_or(1.0, |weights| weights[class]);
    let target = |class: usize| {
        let hard = if class == usize::from(label) { 1.0 - smoothing } else { 0.0 };
        (hard + smoothing / classes as f64) * weight(class)
    };
    (0..classes).map(target).collect()
}

/// The sum of the weights of the images' labels.
fn total_weight(labels: &[u16], class_weights: Option<&[f64]>) -> f64 {
    match class_weights {
        None => labels.len() as f64,
        Some(weights) => labels.iter().map(|&label| weights[usize::from(label)]).sum(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{assert_gradient, noise};

    #[test]
    fn gradients_match_finite_differences() {
        let (logits, labels) = (noise(1, 20), [3, 0, 4, 3]);
        for smoothing in [0.0, 0.2] {
            for weights in [None, Some(&[0.5, 2.0, 1.0, 3.0, 0.25][..])] {
                let gradient = cross_entropy_backward(&logits, &labels, smoothing, weights);
                assert_gradient("logits", &gradient, &logits, |x| {
                    cross_entropy(x, &labels, smoothing, weights)
                });
            }
        }
    }

    #[test]
    fn a_class_of_weight_two_counts_twice() {
        let logits = noise(2, 6);
        let twice = [&logits[..], &logits[..3]].concat();
        let weighted = cross_entropy(&logits, &[1, 2], 0.0, Some(&[1.0, 2.0, 1.0]));
        assert!((weighted - cross_entropy(&twice, &[1, 2, 1], 0.0, None)).abs() < 1e-12);
    }
}
