//! Gradient accumulation: batches in several micro-batches.

use crescendo_network::{
    ActivationKind, Engine, Graph, Images, Loss, Measure, MicroBatch, Section, UpdateResult,
};

use crate::Suite;
use crate::reference::Model;
use crate::setup::{class_weights, labels, pixels, reduced, residual, varied, without_norms};
use crate::suite::{each_close, finish, flat};

/// A batch in micro-batches, each from one of `bounds` to the next.
fn accumulate(
    engine: &mut dyn Engine,
    images: &[f32],
    labels: &[u16],
    loss: &Loss,
    bounds: &[usize],
) {
    let image = engine.graph().input.len();
    for pair in bounds.windows(2) {
        let (start, end) = (pair[0], pair[1]);
        let own = &labels[start..end];
        let batch = MicroBatch {
            images: Images::Prepared(&images[start * image..end * image]),
            labels: own,
            share: own.len() as f64 / labels.len() as f64,
            mean_weight: loss.mean_weight(labels),
            last: end == labels.len(),
            measure: Measure::Nothing,
        };
        engine.accumulate(&batch).unwrap();
    }
}

fn check_sums(suite: &Suite, graph: &Graph, loss: &Loss) {
    let (images, labels) = (pixels(graph, 6, 1), labels(6));
    let run = |bounds: &[usize]| -> (Vec<f32>, UpdateResult) {
        let mut engine = suite.engine(graph);
        engine.set_loss(loss).unwrap();
        accumulate(&mut *engine, &images, &labels, loss, bounds);
        (flat(&mut *engine, Section::Gradients), finish(&mut *engine))
    };
    let model = Model::new(graph, &varied(graph, 1));
    let expected = model.evaluate(&images, &labels, loss);
    let flattened: Vec<f64> = expected.gradients.into_iter().flatten().collect();
    let (whole, result) = run(&[0, 6]);
    for bounds in [&[0, 6][..], &[0, 4, 6], &[0, 1, 3, 6]] {
        let (sum, of_parts) = run(bounds);
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

/// With BatchNorm, micro-batches are normalised one by one: ghost BatchNorm.
pub(crate) fn each_micro_batch_has_its_own_statistics(suite: &Suite) {
    let graph = reduced(&residual(ActivationKind::Silu, 5));
    let state = varied(&graph, 1);
    let (images, labels, loss) = (pixels(&graph, 7, 1), labels(7), Loss::default());
    let (mut model, mut engine) = (Model::new(&graph, &state), suite.engine_with(&graph, &state));
    let bounds = [0, 4, 7];
    accumulate(&mut *engine, &images, &labels, &loss, &bounds);
    let mut expected = vec![0.0; graph.parameter_count()];
    let image = graph.input.len();
    for pair in bounds.windows(2) {
        let (start, end) = (pair[0], pair[1]);
        let images = &images[start * image..end * image];
        let own = model.evaluate(images, &labels[start..end], &loss).gradients;
        for (sum, x) in expected.iter_mut().zip(own.iter().flatten()) {
            *sum += (end - start) as f64 / 7.0 * x;
        }
        model.blend_statistics(images, None);
    }
    suite.close("the gradients", &flat(&mut *engine, Section::Gradients), &expected);
    let relative = suite.tolerances.relative;
    suite.check_model(&mut *engine, &model, relative, relative);
}
