//! Whole updates: rules against f64, what is left afterwards, and results.

use std::time::{Duration, Instant};

use crescendo_network::{
    ActivationKind, Graph, Init, Loss, MicroBatch, Muon, Role, Rule, Section, Sgd, Tensor,
};

use crate::reference::Model;
use crate::setup::{airbench, graph, labels, pixels, residual, rules, sgd, varied};
use crate::suite::{close, finish, flat, numbers, train, update};
use crate::{Suite, Tolerances};

const SGD: Sgd = Sgd { learning_rate: 0.1, momentum: 0.0, nesterov: false, weight_decay: 0.0 };

fn muon(nesterov: bool) -> Rule {
    Rule::Muon(Muon { learning_rate: 0.05, momentum: 0.6, nesterov, steps: 3 })
}

/// Muon for weights, Nesterov's momentum for the rest, with a rate of its own for each kind.
fn mixed(graph: &Graph) -> Vec<Rule> {
    let rule = |role: Role| match role {
        Role::Weight { .. } => muon(true),
        Role::Bias { .. } => {
            let (learning_rate, weight_decay) = (0.2, 0.02);
            Rule::Sgd(Sgd { learning_rate, momentum: 0.6, nesterov: true, weight_decay })
        }
        Role::NormWeight => Rule::Sgd(Sgd { momentum: 0.9, ..SGD }),
        Role::NormBias => Rule::Sgd(SGD),
    };
    let parameters = graph.parameters.iter();
    parameters.map(|p| if p.requires_grad { rule(p.role) } else { Rule::Frozen }).collect()
}

/// Two updates from given gradients: nothing but the rules.
fn check_rule(suite: &Suite, graph: &Graph, rules: &[Rule]) {
    let state = varied(graph, 1);
    let (mut model, mut engine) = (Model::new(graph, &state), suite.engine_with(graph, &state));
    for seed in [1.0, 2.0] {
        let tensor = |(index, numbers): (usize, &Vec<f64>)| -> Tensor<'static> {
            let value = |i: usize| (0.7 * i as f32 + 3.0 * index as f32 + seed).sin() / 4.0;
            let values: Vec<f32> = (0..numbers.len()).map(value).collect();
            let parameter = &graph.parameters[index];
            Tensor::f32(parameter.name.clone(), parameter.shape.clone(), values)
        };
        let given: Vec<_> = model.parameters.iter().enumerate().map(tensor).collect();
        engine.import(Section::Gradients, &given).unwrap();
        update(&mut *engine, rules);
        let given: Vec<Vec<f64>> =
            given.iter().map(|t| numbers(t).iter().map(|&x| x.into()).collect()).collect();
        model.update(rules, &given);
    }
    let relative = suite.tolerances.rules;
    let sections = [(Section::Model, &model.parameters), (Section::Momentum, &model.momentum)];
    for (section, expected) in sections {
        let tensors = engine.export(section).unwrap();
        for (parameter, expected) in graph.parameters.iter().zip(expected) {
            let tensor = tensors.iter().find(|tensor| tensor.name == parameter.name).unwrap();
            let what = format!("{section:?} {}", parameter.name);
            close(&what, numbers(tensor), expected, relative, 1e-9);
        }
    }
}

pub(crate) fn sgd_matches_the_reference(suite: &Suite) {
    let graph = graph(&residual(ActivationKind::Relu, 5), 16);
    for rule in [
        SGD,
        Sgd { momentum: 0.9, ..SGD },
        Sgd { momentum: 0.9, nesterov: true, ..SGD },
        Sgd { weight_decay: 0.03, ..SGD },
        Sgd { momentum: 0.9, nesterov: true, weight_decay: 0.03, ..SGD },
    ] {
        check_rule(suite, &graph, &rules(&graph, Rule::Sgd(rule)));
    }
}

pub(crate) fn muon_matches_the_reference(suite: &Suite) {
    let graph = graph(&residual(ActivationKind::Relu, 5), 16);
    check_rule(suite, &graph, &mixed(&graph));
    let plain = mixed(&graph).into_iter().map(|rule| match rule {
        Rule::Muon(_) => muon(false),
        other => other,
    });
    check_rule(suite, &graph, &plain.collect::<Vec<_>>());
}

/// Two updates on batches of different sizes, with everything before them.
fn check_updates(suite: &Suite, graph: &Graph, loss: &Loss, rules: &[Rule], relative: f64) {
    let state = varied(graph, 1);
    let (mut model, mut engine) = (Model::new(graph, &state), suite.engine_with(graph, &state));
    engine.set_loss(loss).unwrap();
    for (seed, count) in [(1, 4), (2, 3)] {
        let (images, labels) = (pixels(graph, count, seed), labels(count));
        let result = train(&mut *engine, &images, &labels, rules);
        let expected = model.evaluate(&images, &labels, loss);
        if seed == 1 {
            suite.check_loss(result.loss, expected.loss);
        }
        // The second loss is of parameters that are off themselves.
        let off = (result.loss - expected.loss).abs();
        assert!(off < suite.tolerances.loss + relative * expected.loss, "off by {off}");
        model.blend_statistics(&images, None);
        model.update(rules, &expected.gradients);
        let Tolerances { relative: first, momentum, .. } = suite.tolerances;
        let momentum = if seed == 1 { first } else { momentum };
        suite.check_model(&mut *engine, &model, relative, momentum);
    }
    let images = pixels(graph, 3, 3);
    let logits = engine.logits(&images).unwrap();
    // Each layer adds the error of its parameters and statistics.
    let (relative, absolute) = (4.0 * relative, suite.tolerances.absolute);
    close("the logits", &logits, &model.logits(&images), relative, absolute);
}

pub(crate) fn updates_of_residual_networks_match_the_reference(suite: &Suite) {
    let graph = graph(&residual(ActivationKind::Elu, 5), 16);
    let smoothed = Loss { label_smoothing: 0.1, class_weights: None };
    let updates = suite.tolerances.updates;
    check_updates(suite, &graph, &Loss::default(), &rules(&graph, sgd()), updates);
    check_updates(suite, &graph, &smoothed, &mixed(&graph), suite.tolerances.muon);
}

pub(crate) fn updates_of_airbench_networks_match_the_reference(suite: &Suite) {
    let mut config = airbench();
    (config.norm.eps, config.head.scale) = (1e-5, 0.1);
    config.head.init = Init::Uniform;
    let graph = graph(&config, 28);
    let smoothed = Loss { label_smoothing: 0.2, class_weights: None };
    check_updates(suite, &graph, &smoothed, &rules(&graph, sgd()), suite.tolerances.updates);
    check_updates(suite, &graph, &smoothed, &mixed(&graph), suite.tolerances.muon);
}

pub(crate) fn an_update_clears_the_gradients(suite: &Suite) {
    let graph = graph(&residual(ActivationKind::Relu, 5), 16);
    let (images, labels) = (pixels(&graph, 2, 1), labels(2));
    for rules in [rules(&graph, sgd()), mixed(&graph), rules(&graph, Rule::Frozen)] {
        let mut engine = suite.engine(&graph);
        engine.accumulate(&MicroBatch::whole(&images, &labels)).unwrap();
        assert!(flat(&mut *engine, Section::Gradients).iter().any(|&g| g != 0.0));
        update(&mut *engine, &rules);
        assert!(flat(&mut *engine, Section::Gradients).iter().all(|&g| g == 0.0));
    }
}

pub(crate) fn results_come_in_order_one_for_each_update(suite: &Suite) {
    let graph = graph(&residual(ActivationKind::Elu, 0), 16);
    let mut engine = suite.engine(&graph);
    assert_eq!(engine.next_result(true).unwrap(), None);
    let batch = |count: usize| (pixels(&graph, count, count), labels(count));
    let loss = |count: usize| {
        let (images, labels) = batch(count);
        let model = Model::new(&graph, &varied(&graph, 1));
        model.evaluate(&images, &labels, &Loss::default()).loss
    };
    let frozen = rules(&graph, Rule::Frozen);
    for count in [3, 2, 5] {
        let (images, labels) = batch(count);
        engine.accumulate(&MicroBatch::whole(&images, &labels)).unwrap();
        engine.update(&frozen).unwrap();
    }
    for count in [3, 2, 5] {
        let result = engine.next_result(true).unwrap().expect("there is one for each update");
        assert_eq!(result.images, count);
        suite.check_loss(result.loss, loss(count));
    }
    assert_eq!(engine.next_result(true).unwrap(), None);
    assert_eq!(engine.next_result(false).unwrap(), None);
    // What was accumulated for the next update is in no earlier one's result.
    let (images, labels) = batch(4);
    engine.accumulate(&MicroBatch::whole(&images, &labels)).unwrap();
    assert_eq!(engine.next_result(true).unwrap(), None);
    assert_eq!(finish(&mut *engine).images, 4);
}

pub(crate) fn results_come_without_waiting(suite: &Suite) {
    let graph = graph(&residual(ActivationKind::Elu, 0), 16);
    let mut engine = suite.engine(&graph);
    let images = pixels(&graph, 3, 1);
    engine.accumulate(&MicroBatch::whole(&images, &labels(3))).unwrap();
    engine.update(&rules(&graph, sgd())).unwrap();
    let begin = Instant::now();
    let result = loop {
        if let Some(result) = engine.next_result(false).unwrap() {
            break result;
        }
        assert!(begin.elapsed() < Duration::from_secs(60), "the update does not end");
        std::thread::yield_now();
    };
    assert_eq!(result.images, 3);
}
