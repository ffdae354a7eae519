//! Squared gradient norms, for the gradient noise scale.

use crescendo_network::{
    ActivationKind, BatchTree, Engine, GradientNorms, Graph, Loss, MicroBatch, Section,
};

use crate::Suite;
use crate::reference::Model;
use crate::setup::{class_weights, labels, pixels, reduced, residual, rules, sgd, varied};
use crate::suite::{close, copy, each_close, everything, finish, flat, own_part, update};

fn batch<'a>(images: &'a [f32], labels: &'a [u16], measure: bool) -> MicroBatch<'a> {
    MicroBatch { measure, ..MicroBatch::whole(images, labels) }
}

fn small() -> Graph {
    reduced(&residual(ActivationKind::Elu, 5))
}

fn square(gradient: &[f64]) -> f64 {
    gradient.iter().map(|g| g * g).sum()
}

/// Holds squared norms to f64; a square is off by twice as much as a norm.
#[track_caller]
fn check_norms(suite: &Suite, norms: Option<GradientNorms>, halves: [(usize, f64); 2], whole: f64) {
    let norms = norms.expect("they were measured");
    let near = |square: f64, expected: f64| {
        let off = (square - expected).abs();
        assert!(off <= 3.0 * suite.tolerances.relative * expected, "{square} is not {expected}");
    };
    for ((images, square), (expected_images, expected)) in norms.halves.into_iter().zip(halves) {
        assert_eq!(images, expected_images);
        near(square, expected);
    }
    near(norms.whole, whole);
}

/// The halves of a batch, or of its micro-batches.
fn check_halves(suite: &Suite, loss: &Loss, tree: fn(usize) -> BatchTree) {
    let graph = small();
    let model = Model::new(&graph, &varied(&graph, 1));
    let mut engine = suite.engine(&graph);
    engine.set_loss(loss).unwrap();
    let image = graph.input.len();
    // Twice: what was measured does not disturb the next measurement.
    for (seed, count) in [(1, 17), (2, 18)] {
        let (images, labels) = (pixels(&graph, count, seed), labels(count));
        let mean_weight = loss.mean_weight(&labels);
        // The parts of the gradient of the batch's loss.
        let mut halves = [(); 2].map(|()| (0, vec![0.0; graph.parameter_count()]));
        for part in tree(count).parts(0, 1) {
            let own = own_part(&graph, &images, &labels, loss, part);
            engine.accumulate(&MicroBatch { measure: true, ..own }).unwrap();
            let range = part.images();
            let images = &images[range.start * image..range.end * image];
            let (labels, middle) = (&labels[range.clone()], part.first_half().end);
            for ((images_of, sum), half) in halves.iter_mut().zip([0..middle, middle..range.len()])
            {
                if half.is_empty() {
                    continue;
                }
                let gradients = model.gradients_of_part(images, labels, loss, half.clone());
                // It is that of the mean loss of the half.
                let weight = loss.mean_weight(&labels[half.clone()]) / mean_weight;
                let factor = weight * half.len() as f64 / count as f64;
                *images_of += half.len();
                for (sum, g) in sum.iter_mut().zip(gradients.iter().flatten()) {
                    *sum += factor * g;
                }
            }
            assert_eq!(part.halves()[0] + part.halves()[1], count);
        }
        let result = finish(&mut *engine);
        let [(_, first), (_, second)] = &halves;
        let whole: Vec<f64> = first.iter().zip(second).map(|(a, b)| a + b).collect();
        let expected = halves.each_ref().map(|(images, sum)| {
            let to_mean = count as f64 / *images as f64;
            (*images, to_mean * to_mean * square(sum))
        });
        check_norms(suite, result.norms, expected, square(&whole));
        assert_eq!(result.images, count);
    }
    // An update in which nothing is measured has no norms.
    engine.accumulate(&MicroBatch::whole(&pixels(&graph, 2, 1), &labels(2))).unwrap();
    assert_eq!(finish(&mut *engine).norms, None);
}

pub(crate) fn norms_of_halves_match_the_reference(suite: &Suite) {
    check_halves(suite, &Loss::default(), |count| BatchTree::new(count, count));
}

pub(crate) fn norms_of_halves_in_micro_batches_match_the_reference(suite: &Suite) {
    check_halves(suite, &Loss::default(), |count| BatchTree::new(count, 4));
    check_halves(suite, &Loss::default(), |count| BatchTree::ghost(count, 2));
}

pub(crate) fn norms_with_class_weights_match_the_reference(suite: &Suite) {
    let loss = Loss { label_smoothing: 0.1, class_weights: Some(class_weights(&small())) };
    check_halves(suite, &loss, |count| BatchTree::new(count, count));
}

pub(crate) fn a_batch_without_a_half_has_no_norms(suite: &Suite) {
    let graph = small();
    let mut engine = suite.engine(&graph);
    let (images, labels) = (pixels(&graph, 1, 1), labels(1));
    engine.accumulate(&batch(&images, &labels, true)).unwrap();
    let result = finish(&mut *engine);
    assert_eq!((result.images, result.norms), (1, None));
}

pub(crate) fn measuring_changes_nothing_else(suite: &Suite) {
    let graph = small();
    let (images, labels) = (pixels(&graph, 5, 1), labels(5));
    let run = |measure: bool| {
        let mut engine = suite.engine(&graph);
        let mut results = Vec::new();
        for _ in 0..2 {
            engine.accumulate(&batch(&images, &labels, measure)).unwrap();
            let mut result = update(&mut *engine, &rules(&graph, sgd()));
            result.norms = None;
            results.push(result);
        }
        (results, everything(&mut *engine))
    };
    let (plain, measured) = (run(false), run(true));
    for ((one, other), (plain, measured)) in
        plain.1.iter().flatten().zip(measured.1.iter().flatten()).map(|pair| (pair, pair))
    {
        assert_eq!(one.name, other.name);
        if let (Some(plain), Some(measured)) = (plain.values(), measured.values()) {
            each_close(measured, plain, 10.0 * suite.tolerances.reordered);
        }
    }
    for (plain, measured) in plain.0.iter().zip(&measured.0) {
        suite.check_loss(measured.loss, plain.loss);
        assert_eq!(measured.images, plain.images);
    }
    assert_eq!(run(true), measured);
}

pub(crate) fn halves_add_up_to_the_gradient_of_their_batch(suite: &Suite) {
    let graph = reduced(&residual(ActivationKind::LeakyRelu, 5));
    let (images, labels) = (pixels(&graph, 7, 1), labels(7));
    let run = |measure: bool| -> Box<dyn Engine> {
        let mut engine = suite.engine(&graph);
        engine.accumulate(&batch(&images, &labels, measure)).unwrap();
        engine
    };
    let (mut whole, mut halves) = (run(false), run(true));
    // Running statistics take in the batch once, and parameters stay as they are.
    assert_eq!(copy(&mut *whole, Section::Model), copy(&mut *halves, Section::Model));
    let expected: Vec<f64> =
        flat(&mut *whole, Section::Gradients).iter().map(|&g| g.into()).collect();
    let sum = flat(&mut *halves, Section::Gradients);
    close("the gradients", &sum, &expected, suite.tolerances.halves, 0.0);
    let (once, twice) = (finish(&mut *whole), finish(&mut *halves));
    assert_eq!((once.loss, once.correct, once.images), (twice.loss, twice.correct, twice.images));
    // The halves' mean gradients, weighted by their images, make the batch's: so their squares bound it.
    let norms = twice.norms.expect("they were measured");
    let sum: f64 = sum.iter().map(|&g| f64::from(g) * f64::from(g)).sum();
    assert!((norms.whole / sum - 1.0).abs() < 1e-12, "{} is not {sum}", norms.whole);
    let [(3, first), (4, second)] = norms.halves else { panic!("{norms:?}") };
    let bound = (3.0 * first.sqrt() + 4.0 * second.sqrt()) / 7.0;
    assert!(first > 0.0 && second > 0.0 && bound >= sum.sqrt());
}
