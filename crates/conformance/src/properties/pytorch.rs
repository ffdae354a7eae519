//! Whole updates, averages and smaller images against what PyTorch computed.

use crescendo_network::{
    ActivationKind, Engine, Family, Graph, Init, Loss, MicroBatch, Muon, NetworkConfig, Parameter,
    Rule, Section, Sgd, Tensor, TensorData,
};

use crate::setup::square;
use crate::suite::{close, update};
use crate::{Fixture, Suite};

pub(crate) fn two_updates_of_a_residual_network_match_pytorch(suite: &Suite) {
    let fixture = Fixture::STEP;
    let mut config = NetworkConfig::paper();
    (config.blocks, config.widths) = (vec![1, 1, 1], vec![4, 8, 16]);
    config.head.hidden = fixture.metadata("hidden") as usize;
    let sgd = Sgd {
        learning_rate: fixture.metadata("learning_rate") as f32,
        momentum: fixture.metadata("momentum") as f32,
        nesterov: false,
        weight_decay: fixture.metadata("weight_decay") as f32,
    };
    let updates = suite.tolerances.updates;
    check_updates(suite, &fixture, &config, 0.0, updates, |_| Rule::Sgd(sgd));
}

/// Filters that are not trained, max-pooling, scaled logits, smoothed labels, Muon beside Nesterov's
/// momentum.
pub(crate) fn two_updates_of_an_airbench_network_match_pytorch(suite: &Suite) {
    let fixture = Fixture::AIRBENCH;
    let (smoothing, muon) = (fixture.metadata("label_smoothing"), suite.tolerances.muon);
    check_updates(suite, &fixture, &airbench(&fixture), smoothing, muon, |parameter| {
        airbench_rule(&fixture, parameter)
    });
}

fn airbench_rule(fixture: &Fixture, parameter: &Parameter) -> Rule {
    let number = |key: &str| fixture.metadata(key) as f32;
    let sgd = |learning_rate: &str, decay: &str| {
        Rule::Sgd(Sgd {
            learning_rate: number(learning_rate),
            momentum: number("momentum"),
            nesterov: true,
            weight_decay: number(decay),
        })
    };
    let muon = Muon {
        learning_rate: number("muon_lr"),
        momentum: number("muon_momentum"),
        nesterov: true,
        steps: number("muon_steps") as usize,
    };
    match (parameter.requires_grad, parameter.name.as_str()) {
        (false, _) => Rule::Frozen,
        (_, "head.weight") => sgd("head_lr", "head_decay"),
        (_, name) if name.ends_with(".bias") => sgd("bias_lr", "bias_decay"),
        _ => Rule::Muon(muon),
    }
}

fn airbench(fixture: &Fixture) -> NetworkConfig {
    let mut config =
        NetworkConfig { family: Family::Airbench, whitening: 2, ..NetworkConfig::paper() };
    config.activation = ActivationKind::Gelu;
    (config.blocks, config.widths) = (vec![2, 3], vec![4, 6]);
    (config.bias, config.init) = (false, Init::Dirac);
    (config.norm.eps, config.norm.momentum, config.norm.scale) = (1e-12, 0.4, false);
    (config.head.pool, config.head.hidden, config.head.init) = (3, 0, Init::Unit);
    config.head.scale = fixture.metadata("scale");
    config
}

fn smaller_airbench(fixture: &Fixture) -> NetworkConfig {
    NetworkConfig { widths: vec![3, 2], ..airbench(fixture) }
}

/// The state that the fixture has under this prefix.
fn state(fixture: &Fixture, graph: &Graph, prefix: &str) -> Vec<Tensor<'static>> {
    let tensors = graph.initial(0).into_iter().map(|tensor| {
        let from = format!("{prefix}/{}", tensor.name);
        let data = match tensor.data {
            TensorData::I64(_) => TensorData::I64(fixture.wide(&from)[0] as i64),
            TensorData::F32(_) => TensorData::F32(fixture.get(&from).into()),
        };
        Tensor { name: tensor.name, shape: fixture.shape(&from), data }
    });
    tensors.collect()
}

/// An engine for images of this size, in the state that the fixture has under this prefix.
fn engine(
    suite: &Suite,
    fixture: &Fixture,
    prefix: &str,
    config: &NetworkConfig,
    side: usize,
) -> Box<dyn Engine> {
    let network = config.network_resized(square(32), side).unwrap();
    let graph = Graph::new(&network).unwrap();
    suite.engine_with(&graph, &state(fixture, &graph, prefix))
}

/// Holds a section to what the fixture has under this prefix.
#[track_caller]
fn compare(
    engine: &mut dyn Engine,
    section: Section,
    fixture: &Fixture,
    prefix: &str,
    [relative, absolute]: [f64; 2],
) {
    let parameters = engine.graph().parameters.clone();
    let trained = |name: &str| parameters.iter().any(|p| p.requires_grad && p.name == name);
    for tensor in engine.export(section).unwrap() {
        // PyTorch has neither gradient nor momentum for what is not trained.
        if section != Section::Model && !trained(&tensor.name) {
            continue;
        }
        let name = format!("{prefix}/{}", tensor.name);
        let expected = fixture.wide(&name);
        match &tensor.data {
            TensorData::F32(values) => close(&name, values, &expected, relative, absolute),
            TensorData::I64(count) => assert_eq!(*count as f64, expected[0]),
        }
    }
}

/// Two whole updates by these rules: loss, gradients, weights, momentum, running statistics, and the logits
/// of evaluation after them.
fn check_updates(
    suite: &Suite,
    fixture: &Fixture,
    config: &NetworkConfig,
    label_smoothing: f64,
    after: f64,
    rule: impl Fn(&Parameter) -> Rule,
) {
    let mut engine = engine(suite, fixture, "before", config, 32);
    let engine = &mut *engine;
    let rules: Vec<Rule> = engine.graph().parameters.iter().map(rule).collect();
    let (images, labels) = (fixture.get("images"), fixture.labels("labels"));
    let batch = MicroBatch::whole(&images, &labels);
    engine.set_loss(&Loss { label_smoothing, class_weights: None }).unwrap();
    let (relative, absolute) = (suite.tolerances.relative, suite.tolerances.absolute);

    engine.accumulate(&batch).unwrap();
    compare(engine, Section::Gradients, fixture, "grad", [relative, absolute]);
    let loss = update(engine, &rules).loss;
    assert!((loss - fixture.wide("loss")[0]).abs() < suite.tolerances.loss, "{loss}");
    compare(engine, Section::Model, fixture, "after", [after, absolute]);
    compare(engine, Section::Momentum, fixture, "momentum", [relative, absolute]);

    engine.accumulate(&batch).unwrap();
    let loss = update(engine, &rules).loss;
    assert!((loss - fixture.wide("loss2")[0]).abs() < suite.tolerances.loss, "{loss}");
    compare(engine, Section::Model, fixture, "after2", [after, absolute]);
    let logits = engine.logits(&images).unwrap();
    close("the logits", &logits, &fixture.wide("eval_logits"), after, absolute);
}

pub(crate) fn a_moving_average_matches_pytorch(suite: &Suite) {
    let fixture = Fixture::AIRBENCH;
    let mut engine = engine(suite, &fixture, "before", &airbench(&fixture), 32);
    let graph = engine.graph().clone();
    for moment in ["before", "after", "after2"] {
        engine.import(Section::Model, &state(&fixture, &graph, moment)).unwrap();
        engine.update_average(1.0 - fixture.metadata("ema_decay")).unwrap();
    }
    let average = engine.export(Section::Average).unwrap();
    assert!(!average.is_empty());
    for tensor in average {
        let values = tensor.values().expect("an average has no counts");
        let expected = fixture.wide(&format!("ema/{}", tensor.name));
        close(&tensor.name, values, &expected, suite.tolerances.rules, 1e-6);
    }
}

/// Three updates, after each of which the model is set back to its average; before the third, the epochs of
/// the whitening's bias end.
pub(crate) fn lookahead_and_a_group_that_is_frozen_match_pytorch(suite: &Suite) {
    let (start, fixture) = (Fixture::SIDES, Fixture::LOOKAHEAD);
    let mut engine = engine(suite, &start, "airbench/before", &smaller_airbench(&start), 24);
    let (images, labels) = (start.get("airbench/images"), start.labels("airbench/labels"));
    let label_smoothing = fixture.metadata("label_smoothing");
    engine.set_loss(&Loss { label_smoothing, class_weights: None }).unwrap();
    let mut loss = f64::NAN;
    for (index, decay) in [0.0, 0.4, 0.7].into_iter().enumerate() {
        // Its learning rate falls to 0 in two updates.
        let left = 1.0 - (index as f32 + 0.5) / 2.0;
        let rule = |parameter: &Parameter| match airbench_rule(&fixture, parameter) {
            Rule::Sgd(_) if parameter.name == "whiten.bias" && index == 2 => Rule::Frozen,
            Rule::Sgd(sgd) if parameter.name == "whiten.bias" => {
                Rule::Sgd(Sgd { learning_rate: left * sgd.learning_rate, ..sgd })
            }
            rule => rule,
        };
        let rules: Vec<Rule> = engine.graph().parameters.iter().map(rule).collect();
        let trained: Vec<bool> = rules.iter().map(|rule| *rule != Rule::Frozen).collect();
        engine.set_requires_grad(&trained);
        engine.accumulate(&MicroBatch::whole(&images, &labels)).unwrap();
        loss = update(&mut *engine, &rules).loss;
        engine.update_average(1.0 - decay).unwrap();
        engine.swap_average().unwrap();
        engine.update_average(1.0).unwrap();
    }
    assert!((loss - fixture.wide("loss")[0]).abs() < suite.tolerances.loss, "{loss}");
    let tolerances = [suite.tolerances.muon, suite.tolerances.absolute];
    compare(&mut *engine, Section::Model, &fixture, "after", tolerances);
}

/// Losses and gradients for images of other sizes.
pub(crate) fn smaller_images_match_pytorch(suite: &Suite) {
    let fixture = Fixture::SIDES;
    let mut resnet = NetworkConfig { activation: ActivationKind::Silu, ..NetworkConfig::paper() };
    (resnet.blocks, resnet.widths) = (vec![1, 1], vec![2, 3]);
    (resnet.head.pool, resnet.head.hidden) = (8, 5);
    for (family, config) in [("resnet", resnet), ("airbench", smaller_airbench(&fixture))] {
        let side = fixture.shape(&format!("{family}/images"))[2];
        let mut engine = engine(suite, &fixture, &format!("{family}/before"), &config, side);
        let images = fixture.get(&format!("{family}/images"));
        let labels = fixture.labels(&format!("{family}/labels"));
        engine.accumulate(&MicroBatch::whole(&images, &labels)).unwrap();
        let tolerances = [suite.tolerances.relative, suite.tolerances.absolute];
        let prefix = format!("{family}/grad");
        compare(&mut *engine, Section::Gradients, &fixture, &prefix, tolerances);
        let rules = vec![Rule::Frozen; engine.graph().parameters.len()];
        let loss = update(&mut *engine, &rules).loss;
        let expected = fixture.wide(&format!("{family}/loss"))[0];
        assert!((loss - expected).abs() < suite.tolerances.loss, "{family}");
    }
}
