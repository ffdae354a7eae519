//! Squared gradient norms, for the gradient noise scale.

use crescendo_network::{
    ActivationKind, Engine, GradientNorms, Graph, Loss, Measure, MicroBatch, Section,
};

use crate::Suite;
use crate::reference::Model;
use crate::setup::{
    class_weights, labels, pixels, reduced, residual, rules, sgd, varied, without_norms,
};
use crate::suite::{close, copy, everything, finish, flat, update};

fn batch<'a>(images: &'a [f32], labels: &'a [u16], share: f64, measure: Measure) -> MicroBatch<'a> {
    MicroBatch { share, measure, ..MicroBatch::whole(images, labels) }
}

fn small() -> Graph {
    reduced(&residual(ActivationKind::Elu, 5))
}

fn square(gradients: &[Vec<f64>]) -> f64 {
    gradients.iter().flatten().map(|g| g * g).sum()
}

/// Holds squared norms to f64; a square is off by twice as much as a norm.
#[track_caller]
fn check_norms(suite: &Suite, norms: Option<GradientNorms>, parts: &[(usize, f64)], whole: f64) {
    let norms = norms.expect("they were measured");
    let near = |square: f64, expected: f64| {
        let off = (square - expected).abs();
        assert!(off <= 3.0 * suite.tolerances.relative * expected, "{square} is not {expected}");
    };
    assert_eq!(norms.parts.len(), parts.len());
    for (&(images, square), &(expected_images, expected)) in norms.parts.iter().zip(parts) {
        assert_eq!(images, expected_images);
        near(square, expected);
    }
    near(norms.whole, whole);
}

pub(crate) fn norms_of_micro_batches_match_the_reference(suite: &Suite) {
    let graph = small();
    let model = Model::new(&graph, &varied(&graph, 1));
    let (image, loss) = (graph.input.len(), Loss::default());
    let mut engine = suite.engine(&graph);
    // Twice: what was measured does not disturb the next measurement.
    for seed in [1, 2] {
        let (images, labels) = (pixels(&graph, 7, seed), labels(7));
        let (mut parts, mut whole) = (Vec::new(), vec![0.0; graph.parameter_count()]);
        for part in [0..3, 3..7] {
            let images = &images[part.start * image..part.end * image];
            let own = &labels[part.clone()];
            let share = part.len() as f64 / 7.0;
            let micro_batch = MicroBatch {
                last: part.end == 7,
                ..batch(images, own, share, Measure::MicroBatch)
            };
            engine.accumulate(&micro_batch).unwrap();
            let gradients = model.evaluate(images, own, &loss).gradients;
            parts.push((part.len(), square(&gradients)));
            for (sum, g) in whole.iter_mut().zip(gradients.iter().flatten()) {
                *sum += share * g;
            }
        }
        let result = finish(&mut *engine);
        check_norms(suite, result.norms, &parts, square(&[whole]));
    }
    // An update in which nothing is measured has no norms.
    engine.accumulate(&MicroBatch::whole(&pixels(&graph, 2, 1), &labels(2))).unwrap();
    assert_eq!(finish(&mut *engine).norms, None);
}

fn check_halves(suite: &Suite, graph: &Graph, loss: &Loss) {
    let model = Model::new(graph, &varied(graph, 1));
    let mut engine = suite.engine(graph);
    engine.set_loss(loss).unwrap();
    for (seed, count) in [(1, 7), (2, 2)] {
        let (images, labels) = (pixels(graph, count, seed), labels(count));
        let mean_weight = loss.mean_weight(&labels);
        let halves = batch(&images, &labels, 0.5, Measure::Halves);
        engine.accumulate(&MicroBatch { mean_weight, ..halves }).unwrap();
        let result = finish(&mut *engine);
        let parts = [0..count / 2, count / 2..count].map(|part| {
            let gradients = model.gradients_of_part(&images, &labels, loss, part.clone());
            // The mean loss of a part is divided by the mean weight of the whole batch.
            let ratio = loss.mean_weight(&labels[part.clone()]) / mean_weight;
            (part.len(), ratio * ratio * square(&gradients))
        });
        let expected = model.evaluate(&images, &labels, loss);
        check_norms(suite, result.norms, &parts, 0.25 * square(&expected.gradients));
        assert!((result.loss - 0.5 * expected.loss).abs() < suite.tolerances.loss);
        assert_eq!(result.images, count);
    }
}

pub(crate) fn norms_of_halves_match_the_reference(suite: &Suite) {
    check_halves(suite, &small(), &Loss::default());
}

pub(crate) fn norms_with_class_weights_match_the_reference(suite: &Suite) {
    let graph = small();
    let loss = Loss { label_smoothing: 0.1, class_weights: Some(class_weights(&graph)) };
    check_halves(suite, &graph, &loss);
    // Of micro-batches, in a network where they add up.
    let graph = without_norms();
    let loss = Loss { class_weights: Some(class_weights(&graph)), ..Loss::default() };
    let model = Model::new(&graph, &varied(&graph, 1));
    let (images, labels) = (pixels(&graph, 4, 1), labels(4));
    let mut engine = suite.engine(&graph);
    engine.set_loss(&loss).unwrap();
    let mut parts = Vec::new();
    for part in [0..1, 1..4] {
        let image = graph.input.len();
        let (own, of) = (&labels[part.clone()], &images[part.start * image..part.end * image]);
        let (share, mean_weight) = (own.len() as f64 / 4.0, loss.mean_weight(&labels));
        let measured = batch(of, own, share, Measure::MicroBatch);
        engine.accumulate(&MicroBatch { last: part.end == 4, mean_weight, ..measured }).unwrap();
        let ratio = loss.mean_weight(own) / mean_weight;
        let gradients = model.evaluate(of, own, &loss).gradients;
        parts.push((part.len(), ratio * ratio * square(&gradients)));
    }
    let whole = square(&model.evaluate(&images, &labels, &loss).gradients);
    check_norms(suite, finish(&mut *engine).norms, &parts, whole);
}

pub(crate) fn measuring_changes_nothing_else(suite: &Suite) {
    let graph = small();
    let (images, labels) = (pixels(&graph, 5, 1), labels(5));
    let run = |measure: Measure| {
        let mut engine = suite.engine(&graph);
        let mut results = Vec::new();
        for _ in 0..2 {
            engine.accumulate(&batch(&images, &labels, 1.0, measure)).unwrap();
            let mut result = update(&mut *engine, &rules(&graph, sgd()));
            result.norms = None;
            results.push(result);
        }
        (results, everything(&mut *engine))
    };
    assert_eq!(run(Measure::Nothing), run(Measure::MicroBatch));
}

pub(crate) fn halves_add_up_to_the_gradient_of_their_batch(suite: &Suite) {
    let graph = reduced(&residual(ActivationKind::LeakyRelu, 5));
    let (images, labels) = (pixels(&graph, 7, 1), labels(7));
    let run = |measure: Measure| -> Box<dyn Engine> {
        let mut engine = suite.engine(&graph);
        engine.accumulate(&batch(&images, &labels, 0.5, measure)).unwrap();
        engine
    };
    let (mut whole, mut halves) = (run(Measure::Nothing), run(Measure::Halves));
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
    let [(3, first), (4, second)] = norms.parts[..] else { panic!("{norms:?}") };
    let bound = (3.0 * first.sqrt() + 4.0 * second.sqrt()) / 7.0;
    assert!(first > 0.0 && second > 0.0 && bound >= sum.sqrt() / 0.5);
}
