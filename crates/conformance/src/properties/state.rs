//! The state of an engine: tensors in and out, and what may not depend on anything else.

use crescendo_network::{
    ActivationKind, BatchPart, Engine, Graph, Loss, MicroBatch, Muon, Role, Rule, Section,
    Snapshot, State, Tensor, TensorData,
};

use crate::Suite;
use crate::setup::{
    airbench, class_weights, graph, labels, pixels, reduced, residual, rules, sgd, varied,
};
use crate::suite::{copy, everything, flat, train, update, weighted};

fn small() -> Graph {
    reduced(&residual(ActivationKind::Relu, 5))
}

/// SGD, and Muon for weights.
fn mixed(graph: &Graph) -> Vec<Rule> {
    let muon = Muon { learning_rate: 0.05, momentum: 0.6, nesterov: true, steps: 3 };
    let parameters = graph.parameters.iter().zip(rules(graph, sgd()));
    parameters
        .map(|(parameter, rule)| match (parameter.role, rule) {
            (Role::Weight { .. }, Rule::Sgd(_)) => Rule::Muon(muon),
            (_, rule) => rule,
        })
        .collect()
}

pub(crate) fn a_new_engine_has_zeros_for_parameters(suite: &Suite) {
    let graph = small();
    let mut engine = suite.device.engine(&graph).unwrap();
    assert_eq!(*engine.graph(), graph);
    for tensor in engine.export(Section::Model).unwrap() {
        if graph.parameters.iter().any(|parameter| parameter.name == tensor.name) {
            assert!(tensor.values().unwrap().iter().all(|&x| x == 0.0), "{}", tensor.name);
        }
    }
    for section in [Section::Gradients, Section::Momentum] {
        assert!(flat(&mut *engine, section).iter().all(|&x| x == 0.0), "{section:?}");
    }
    assert!(engine.export(Section::Average).unwrap().is_empty());
}

pub(crate) fn tensors_are_the_graphs(suite: &Suite) {
    for graph in [small(), reduced(&airbench())] {
        let mut engine = suite.engine(&graph);
        let model = copy(&mut *engine, Section::Model);
        let state = graph.state();
        assert!(
            model
                .iter()
                .map(|t| (&*t.name, &t.shape))
                .eq(state.iter().map(|t| (&*t.name, &t.shape)))
        );
        for section in [Section::Gradients, Section::Momentum] {
            let tensors = copy(&mut *engine, section);
            let parameters = graph.parameters.iter().map(|p| (&*p.name, &p.shape));
            assert!(tensors.iter().map(|t| (&*t.name, &t.shape)).eq(parameters), "{section:?}");
        }
    }
}

/// Other numbers in the same tensors.
fn changed(tensors: &[Tensor]) -> Vec<Tensor<'static>> {
    let change = |(index, tensor): (usize, &Tensor)| {
        let mut tensor = tensor.clone().into_owned();
        match &mut tensor.data {
            TensorData::F32(values) => {
                for (i, value) in values.to_mut().iter_mut().enumerate() {
                    *value = 0.5 + ((i + index) as f32).sin() / 4.0;
                }
            }
            TensorData::I64(count) => *count += 1 + index as i64,
        }
        tensor
    };
    tensors.iter().enumerate().map(change).collect()
}

pub(crate) fn import_takes_what_export_gave(suite: &Suite) {
    let graph = small();
    let mut engine = suite.engine(&graph);
    assert_eq!(copy(&mut *engine, Section::Model), varied(&graph, 1));
    engine.update_average(1.0).unwrap();
    let sections = [Section::Model, Section::Gradients, Section::Momentum, Section::Average];
    let mut given = Vec::new();
    for section in sections {
        let mut tensors = changed(&copy(&mut *engine, section));
        // In any order.
        tensors.reverse();
        engine.import(section, &tensors).unwrap();
        tensors.reverse();
        given.push(tensors);
    }
    // None of them replaced another section.
    for (section, given) in sections.into_iter().zip(given) {
        assert_eq!(copy(&mut *engine, section), given, "{section:?}");
    }
}

pub(crate) fn import_refuses_anything_else_and_replaces_nothing(suite: &Suite) {
    let graph = small();
    let mut engine = suite.engine(&graph);
    engine.update_average(1.0).unwrap();
    type Change = fn(&mut Vec<Tensor>);
    let changes: [(Change, &str); 5] = [
        (|tensors| drop(tensors.pop()), "the tensor output_layer.fc2.bias is missing"),
        (
            |tensors| tensors[0].shape = vec![2, 27],
            "the tensor start_layer.0.weight has the shape [2, 27], but this network's has [2, 3, 3, 3]",
        ),
        (
            |tensors| tensors.push(Tensor::f32("extra", vec![1], vec![0.0])),
            "this network has no tensor named extra",
        ),
        (
            |tensors| tensors[0].name = "start_layer.0.wait".into(),
            "the tensor start_layer.0.weight is missing",
        ),
        (
            |tensors| tensors[0].data = TensorData::I64(3),
            "the tensor start_layer.0.weight has the wrong type of numbers",
        ),
    ];
    for section in [Section::Model, Section::Gradients, Section::Momentum, Section::Average] {
        let before = everything(&mut *engine);
        for (change, complaint) in changes {
            let mut tensors = changed(&copy(&mut *engine, section));
            change(&mut tensors);
            let error = engine.import(section, &tensors).unwrap_err();
            assert_eq!(error.to_string(), complaint, "{section:?}");
            assert_eq!(everything(&mut *engine), before, "nothing is replaced");
        }
    }
}

pub(crate) fn training_resumes_from_exported_tensors_to_the_bit(suite: &Suite) {
    let graph = small();
    let rules = mixed(&graph);
    let mut engine = suite.engine(&graph);
    for seed in [1, 2] {
        train(&mut *engine, &pixels(&graph, 3, seed), &labels(3), &rules);
        engine.update_average(0.5).unwrap();
    }
    let mut resumed = suite.device.engine(&graph).unwrap();
    for section in [Section::Model, Section::Momentum, Section::Average] {
        resumed.import(section, &copy(&mut *engine, section)).unwrap();
    }
    for seed in [3, 4] {
        let images = pixels(&graph, 4, seed);
        let results = [&mut engine, &mut resumed].map(|engine| {
            let result = train(&mut **engine, &images, &labels(4), &rules);
            engine.update_average(0.5).unwrap();
            result
        });
        assert_eq!(results[0], results[1]);
    }
    assert_eq!(everything(&mut *engine), everything(&mut *resumed));
}

/// The sections of a snapshot as export gives them.
fn exported(engine: &mut dyn Engine) -> State<'static> {
    let sections = [Section::Model, Section::Momentum, Section::Average];
    sections.map(|section| (section, copy(engine, section))).into()
}

pub(crate) fn a_snapshot_is_what_export_gives_at_that_moment(suite: &Suite) {
    let graph = small();
    let rules = mixed(&graph);
    let images = pixels(&graph, 3, 1);
    let mut engine = suite.engine(&graph);
    for average in [false, true] {
        train(&mut *engine, &images, &labels(3), &rules);
        if average {
            engine.update_average(1.0).unwrap();
        }
        // Without waiting for the update's result.
        engine.accumulate(&MicroBatch::whole(&images, &labels(3))).unwrap();
        engine.update(&rules).unwrap();
        let expected = exported(&mut *engine);
        let copied = match engine.snapshot().unwrap() {
            Snapshot::Borrowed(state) => {
                assert_eq!(state, expected);
                None
            }
            Snapshot::Copy(copied) => Some(copied),
        };
        // What comes later is not in it.
        train_on(&mut *engine, &images, &rules);
        if let Some(copied) = copied {
            let state = std::thread::spawn(copied).join().unwrap().unwrap();
            assert_eq!(state, expected);
        }
    }
}

fn train_on(engine: &mut dyn Engine, images: &[f32], rules: &[Rule]) {
    while engine.next_result(true).unwrap().is_some() {}
    train(engine, images, &labels(3), rules);
    engine.blend_statistics(images, &BatchPart::whole(3), 0.5).unwrap();
    engine.update_average(0.5).unwrap();
    engine.swap_average().unwrap();
}

/// Inference may keep what it made of the state until that changes.
pub(crate) fn logits_follow_every_change_of_the_state(suite: &Suite) {
    for graph in [reduced(&residual(ActivationKind::Relu, 0)), reduced(&airbench())] {
        let images = pixels(&graph, 3, 1);
        let batch = MicroBatch::whole(&images, &[1, 4, 6]);
        let mut kept = suite.engine(&graph);
        let mut before = kept.logits(&images).unwrap();
        let mut check = |kept: &mut dyn Engine, change: &str| {
            let mut fresh = suite.engine_with(&graph, &copy(kept, Section::Model));
            let after = kept.logits(&images).unwrap();
            assert_eq!(after, fresh.logits(&images).unwrap(), "{change}");
            assert_ne!(after, before, "{change} changed nothing");
            before = after;
        };
        kept.update_average(1.0).unwrap();
        kept.accumulate(&batch).unwrap();
        check(&mut *kept, "a batch's statistics");
        kept.update(&rules(&graph, sgd())).unwrap();
        check(&mut *kept, "an update");
        kept.blend_statistics(&pixels(&graph, 3, 2), &BatchPart::whole(3), 0.5).unwrap();
        check(&mut *kept, "blended statistics");
        kept.swap_average().unwrap();
        check(&mut *kept, "the average in the model's place");
        kept.import(Section::Model, &varied(&graph, 2)).unwrap();
        check(&mut *kept, "an import");
    }
}

pub(crate) fn the_image_size_can_change_and_change_back(suite: &Suite) {
    for (config, smaller) in [(residual(ActivationKind::LeakyRelu, 5), 16), (airbench(), 24)] {
        let labels = labels(3);
        let mut one = suite.engine(&graph(&config, 32));
        for side in [32, smaller, 32, smaller] {
            let graph = graph(&config, side);
            let images = pixels(&graph, 3, 1);
            // An engine of its own for each size, to which everything is carried over.
            let mut next = suite.device.engine(&graph).unwrap();
            for section in [Section::Model, Section::Momentum] {
                next.import(section, &copy(&mut *one, section)).unwrap();
            }
            one.set_graph(&graph).unwrap();
            assert_eq!(*one.graph(), graph);
            assert_eq!(one.logits(&images).unwrap(), next.logits(&images).unwrap(), "{side}");
            let results = [&mut one, &mut next]
                .map(|engine| train(&mut **engine, &images, &labels, &mixed(&graph)));
            assert_eq!(results[0], results[1], "{side}");
            assert_eq!(everything(&mut *one), everything(&mut *next), "{side}");
            assert_eq!(one.logits(&images).unwrap(), next.logits(&images).unwrap(), "{side}");
        }
    }
    // Which parameters are trained, the loss and the gradients so far stay.
    let config = residual(ActivationKind::LeakyRelu, 5);
    let (large, little) = (graph(&config, 32), graph(&config, 16));
    let loss = Loss { label_smoothing: 0.1, class_weights: Some(class_weights(&large)) };
    let trained: Vec<bool> = (0..large.parameters.len()).map(|i| i % 3 > 0).collect();
    let gradients = |changes: &[&Graph]| {
        let mut engine = suite.engine(&little);
        engine.set_loss(&loss).unwrap();
        engine.set_requires_grad(&trained);
        changes.iter().for_each(|graph| engine.set_graph(graph).unwrap());
        let (images, labels) = (pixels(&little, 3, 1), labels(3));
        engine.accumulate(&weighted(&images, &labels, &loss)).unwrap();
        everything(&mut *engine)
    };
    assert_eq!(gradients(&[]), gradients(&[&large, &little]));
}

pub(crate) fn a_graph_with_other_parameters_is_refused(suite: &Suite) {
    let graph = small();
    let mut engine = suite.engine(&graph);
    let before = everything(&mut *engine);
    for other in [residual(ActivationKind::Relu, 6), airbench()] {
        assert!(engine.set_graph(&reduced(&other)).is_err());
        assert_eq!(*engine.graph(), graph);
        assert_eq!(everything(&mut *engine), before);
    }
}

pub(crate) fn batches_before_leave_nothing_behind(suite: &Suite) {
    for graph in [small(), reduced(&airbench())] {
        let run = |before: bool| {
            let mut engine = suite.engine(&graph);
            if before {
                let (images, labels) = (pixels(&graph, 9, 5), labels(9));
                let whole = MicroBatch::whole(&images, &labels);
                let measured = MicroBatch { measure: true, ..whole };
                engine.accumulate(&measured).unwrap();
                update(&mut *engine, &mixed(&graph));
                engine.logits(&images).unwrap();
                engine.blend_statistics(&images, &BatchPart::whole(9), 0.5).unwrap();
                let mut fresh = suite.engine(&graph);
                for section in [Section::Model, Section::Momentum] {
                    engine.import(section, &copy(&mut *fresh, section)).unwrap();
                }
            }
            let images = pixels(&graph, 4, 1);
            let result = train(&mut *engine, &images, &labels(4), &mixed(&graph));
            (result, everything(&mut *engine), engine.logits(&images).unwrap())
        };
        assert_eq!(run(false), run(true));
    }
}

pub(crate) fn two_engines_compute_the_same_bits(suite: &Suite) {
    for graph in [small(), reduced(&airbench())] {
        let run = || {
            let mut engine = suite.engine(&graph);
            let mut results = Vec::new();
            for (seed, count) in [(1, 7), (2, 5), (3, 7)] {
                let images = pixels(&graph, count, seed);
                results.push(train(&mut *engine, &images, &labels(count), &mixed(&graph)));
                engine.update_average(0.5).unwrap();
            }
            let images = pixels(&graph, 9, 4);
            engine.blend_statistics(&images, &BatchPart::whole(9), 0.5).unwrap();
            (results, everything(&mut *engine), engine.logits(&images).unwrap())
        };
        assert_eq!(run(), run());
    }
}
