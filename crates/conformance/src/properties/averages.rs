//! The average of the model.

use crescendo_network::{ActivationKind, Engine, Graph, Section, StateKind};

use crate::Suite;
use crate::setup::{labels, pixels, reduced, residual, rules, sgd, varied};
use crate::suite::{close, copy, flat, numbers, train};

fn small() -> Graph {
    reduced(&residual(ActivationKind::Relu, 0))
}

fn update(engine: &mut dyn Engine) {
    let graph = engine.graph().clone();
    train(engine, &pixels(&graph, 4, 1), &labels(4), &rules(&graph, sgd()));
}

pub(crate) fn the_average_blends_in_the_model(suite: &Suite) {
    let graph = small();
    let mut engine = suite.engine(&graph);
    let engine = &mut *engine;
    assert!(engine.export(Section::Average).unwrap().is_empty());
    // The first time it becomes a copy, whatever the share.
    engine.update_average(0.25).unwrap();
    let mut expected: Vec<f64> = flat(engine, Section::Model).iter().map(|&x| x.into()).collect();
    let copied: Vec<f64> = flat(engine, Section::Average).iter().map(|&x| x.into()).collect();
    assert_eq!(expected, copied);
    for share in [0.25, 0.5, 1.0, 0.125] {
        update(engine);
        let before = flat(engine, Section::Model);
        engine.update_average(share).unwrap();
        assert_eq!(before, flat(engine, Section::Model), "the model stays as it is");
        for (expected, x) in expected.iter_mut().zip(before) {
            *expected += share * (f64::from(x) - *expected);
        }
        let average = flat(engine, Section::Average);
        close("the average", &average, &expected, suite.tolerances.rules, 0.0);
        if share == 1.0 {
            assert_eq!(average, flat(engine, Section::Model));
        }
    }
    // Parameters and running statistics, under the model's names.
    let state = graph.state();
    let named = state.iter().filter(|tensor| !matches!(tensor.kind, StateKind::BatchesTracked(_)));
    let average = copy(engine, Section::Average);
    assert!(average.iter().map(|t| (&*t.name, &t.shape)).eq(named.map(|t| (&*t.name, &t.shape))));
}

pub(crate) fn the_model_and_its_average_are_exchanged(suite: &Suite) {
    let graph = small();
    let images = pixels(&graph, 4, 1);
    let mut engine = suite.engine(&graph);
    let engine = &mut *engine;
    let first = (copy(engine, Section::Model), engine.logits(&images).unwrap());
    // There is none.
    engine.swap_average().unwrap();
    assert_eq!((copy(engine, Section::Model), engine.logits(&images).unwrap()), first);
    assert!(engine.export(Section::Average).unwrap().is_empty());

    engine.update_average(0.5).unwrap();
    update(engine);
    let momentum = copy(engine, Section::Momentum);
    let numbers_of = |engine: &mut dyn Engine, section| flat(engine, section);
    let model = numbers_of(engine, Section::Model);
    let (second, average) = (engine.logits(&images).unwrap(), flat(engine, Section::Average));
    assert_ne!(second, first.1);
    engine.swap_average().unwrap();
    assert_eq!(
        (numbers_of(engine, Section::Model), flat(engine, Section::Average)),
        (average, model.clone())
    );
    assert_eq!(engine.logits(&images).unwrap(), first.1);
    assert_eq!(copy(engine, Section::Momentum), momentum, "it stays where it is");
    engine.swap_average().unwrap();
    assert_eq!(numbers_of(engine, Section::Model), model);
    assert_eq!(engine.logits(&images).unwrap(), second);
}

pub(crate) fn the_average_can_be_saved_and_put_back(suite: &Suite) {
    let graph = small();
    let mut engine = suite.engine(&graph);
    let engine = &mut *engine;
    engine.update_average(1.0).unwrap();
    update(engine);
    engine.update_average(0.25).unwrap();
    let saved = copy(engine, Section::Average);
    engine.update_average(1.0).unwrap();
    assert_eq!(flat(engine, Section::Average), flat(engine, Section::Model));
    engine.import(Section::Average, &saved).unwrap();
    assert_eq!(copy(engine, Section::Average), saved);

    // Into an engine that has none: it blends on as the first does.
    let mut other = suite.engine_with(&graph, &varied(&graph, 1));
    other.import(Section::Model, &copy(engine, Section::Model)).unwrap();
    other.import(Section::Average, &saved).unwrap();
    for engine in [&mut *engine, &mut *other] {
        engine.update_average(0.5).unwrap();
    }
    assert_eq!(copy(engine, Section::Average), copy(&mut *other, Section::Average));
    // One that lacks a tensor replaces nothing.
    assert!(other.import(Section::Average, &saved[1..]).is_err());
    assert_eq!(copy(engine, Section::Average), copy(&mut *other, Section::Average));
    assert!(saved.iter().any(|tensor| numbers(tensor).iter().any(|&x| x != 0.0)));
}
