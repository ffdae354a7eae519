//! Gradient accumulation: batches in several micro-batches.

use crescendo_network::{ActivationKind, BatchTree, Engine, Graph, Loss, Section, UpdateResult};

use crate::Suite;
use crate::reference::Model;
use crate::setup::{class_weights, labels, pixels, reduced, residual, varied, without_norms};
use crate::suite::{each_close, finish, flat, own_part};

/// A batch in micro-batches.
fn accumulate(
    engine: &mut dyn Engine,
    images: &[f32],
    labels: &[u16],
    loss: &Loss,
    tree: BatchTree,
) {
    for part in tree.parts(0, 1) {
        engine.accumulate(&own_part(engine.graph(), images, labels, loss, part)).unwrap();
    }
}

fn check_sums(suite: &Suite, graph: &Graph, loss: &Loss) {
    let (images, labels) = (pixels(graph, 6, 1), labels(6));
    let run = |micro_batch: usize| -> (Vec<f32>, UpdateResult) {
        let mut engine = suite.engine(graph);
        engine.set_loss(loss).unwrap();
        accumulate(&mut *engine, &images, &labels, loss, BatchTree::new(6, micro_batch));
        (flat(&mut *engine, Section::Gradients), finish(&mut *engine))
    };
    let model = Model::new(graph, &varied(graph, 1));
    let expected = model.evaluate(&images, &labels, loss);
    let flattened: Vec<f64> = expected.gradients.into_iter().flatten().collect();
    let (whole, result) = run(6);
    for micro_batch in [6, 4, 2, 1] {
        let (sum, of_parts) = run(micro_batch);
        suite.close("the gradients", &sum, &flattened);
        each_close(&whole, &sum, suite.tolerances.reordered);
        assert!((of_parts.loss - expected.loss).abs() < suite.tolerances.loss);
        assert_eq!((of_parts.images, of_parts.correct), (6, result.correct));
        assert_eq!(of_parts.norms, None);
    }
}

pub(crate) fn micro_batches_add_up_to_their_batch(suite: &Suite) {
    // Without BatchNorm a batch is the sum of its parts.
    check_sums(suite, &without_norms(), &Loss::default());
}

pub(crate) fn micro_batches_of_weighted_classes_add_up_to_their_batch(suite: &Suite) {
    let graph = without_norms();
    for label_smoothing in [0.0, 0.2] {
        let loss = Loss { label_smoothing, class_weights: Some(class_weights(&graph)) };
        check_sums(suite, &graph, &loss);
    }
}

/// Holds a batch to its micro-batches.
fn check_statistics(suite: &Suite, tree: BatchTree, count: usize) {
    let graph = reduced(&residual(ActivationKind::Silu, 5));
    let state = varied(&graph, 1);
    let (images, labels, loss) = (pixels(&graph, count, 1), labels(count), Loss::default());
    let (mut model, mut engine) = (Model::new(&graph, &state), suite.engine_with(&graph, &state));
    accumulate(&mut *engine, &images, &labels, &loss, tree);
    let mut expected = vec![0.0; graph.parameter_count()];
    let image = graph.input.len();
    for part in tree.parts(0, 1) {
        let range = part.images();
        let images = &images[range.start * image..range.end * image];
        let own = model.evaluate(images, &labels[range.clone()], &loss).gradients;
        for (sum, x) in expected.iter_mut().zip(own.iter().flatten()) {
            *sum += range.len() as f64 / count as f64 * x;
        }
        model.blend_statistics(images, None);
    }
    suite.close("the gradients", &flat(&mut *engine, Section::Gradients), &expected);
    finish(&mut *engine);
    let relative = suite.tolerances.relative;
    suite.check_model(&mut *engine, &model, relative, relative);
}

/// With BatchNorm, micro-batches are normalised one by one.
pub(crate) fn each_micro_batch_has_its_own_statistics(suite: &Suite) {
    check_statistics(suite, BatchTree::new(7, 4), 7);
}

pub(crate) fn each_group_of_ghost_batch_norm_has_its_own_statistics(suite: &Suite) {
    check_statistics(suite, BatchTree::ghost(17, 2), 17);
}
