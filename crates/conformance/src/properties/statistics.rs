//! BatchNorm's running statistics, and the logits that are computed with them.

use crescendo_network::{
    ActivationKind, BatchPart, MicroBatch, MomentumConvention, NetworkConfig, Section, TensorData,
};

use crate::Suite;
use crate::reference::Model;
use crate::setup::{airbench, branching, graph, labels, pixels, reduced, residual, varied};
use crate::suite::{copy, finish, flat};

/// Networks whose running statistics move by different shares.
fn configurations() -> [NetworkConfig; 3] {
    let mut slow = residual(ActivationKind::Elu, 0);
    (slow.norm.momentum, slow.norm.momentum_convention) = (0.9, MomentumConvention::Tensorflow);
    [residual(ActivationKind::Silu, 5), slow, airbench()]
}

pub(crate) fn running_statistics_take_in_every_batch(suite: &Suite) {
    for config in configurations() {
        let graph = reduced(&config);
        let state = varied(&graph, 1);
        let (mut model, mut engine) =
            (Model::new(&graph, &state), suite.engine_with(&graph, &state));
        for (seed, count) in [(1, 2), (2, 3)] {
            let images = pixels(&graph, count, seed);
            model.blend_statistics(&images, None);
            engine.accumulate(&MicroBatch::whole(&images, &labels(count))).unwrap();
            finish(&mut *engine);
        }
        let relative = suite.tolerances.relative;
        suite.check_model(&mut *engine, &model, relative, relative);
        for tensor in engine.export(Section::Model).unwrap() {
            if let TensorData::I64(count) = tensor.data {
                assert_eq!(count, 2, "{}", tensor.name);
            }
        }
    }
}

pub(crate) fn blended_statistics_match_the_reference(suite: &Suite) {
    for config in configurations() {
        let graph = reduced(&config);
        let state = varied(&graph, 1);
        let (mut model, mut engine) =
            (Model::new(&graph, &state), suite.engine_with(&graph, &state));
        // Precise statistics: each batch gets the weight with which all have the same in the end.
        for (seed, share) in [(1, 1.0), (2, 0.5), (3, 1.0 / 3.0)] {
            let images = pixels(&graph, 3, seed);
            model.blend_statistics(&images, Some(share));
            engine.blend_statistics(&images, &BatchPart::whole(3), share).unwrap();
        }
        let relative = suite.tolerances.relative;
        suite.check_model(&mut *engine, &model, relative, relative);
        // Nothing else changes.
        for (before, after) in state.iter().zip(copy(&mut *engine, Section::Model)) {
            if !after.name.contains(".running_") {
                assert_eq!(*before, after);
            }
        }
        for section in [Section::Gradients, Section::Momentum] {
            assert!(flat(&mut *engine, section).iter().all(|&x| x == 0.0), "{section:?}");
        }
        // A share of nothing changes nothing.
        let before = copy(&mut *engine, Section::Model);
        engine.blend_statistics(&pixels(&graph, 2, 4), &BatchPart::whole(2), 0.0).unwrap();
        assert_eq!(before, copy(&mut *engine, Section::Model));
    }
}

pub(crate) fn logits_use_the_running_statistics(suite: &Suite) {
    let paper = residual(ActivationKind::LeakyRelu, 5);
    for graph in [graph(&paper, 32), graph(&airbench(), 32), graph(&airbench(), 28), branching()] {
        let state = varied(&graph, 1);
        let images = pixels(&graph, 3, 1);
        let logits = suite.engine_with(&graph, &state).logits(&images).unwrap();
        suite.close("the logits", &logits, &Model::new(&graph, &state).logits(&images));
    }
}

pub(crate) fn logits_of_an_image_do_not_depend_on_the_others(suite: &Suite) {
    let graph = graph(&residual(ActivationKind::Elu, 0), 8);
    let state = varied(&graph, 1);
    let mut engine = suite.engine_with(&graph, &state);
    let images = pixels(&graph, 131, 1);
    let all = engine.logits(&images).unwrap();
    let each = images.chunks(graph.input.len()).flat_map(|image| engine.logits(image).unwrap());
    let each: Vec<f32> = each.collect();
    suite.close("the logits", &all, &Model::new(&graph, &state).logits(&images));
    suite.close("the logits", &each, &all.iter().map(|&x| x.into()).collect::<Vec<_>>());
    assert!(engine.logits(&[]).unwrap().is_empty());
}
