//! Parameters that are not trained.

use crescendo_network::{ActivationKind, MicroBatch, Role, Rule, Section, Tensor};

use crate::Suite;
use crate::setup::{airbench, graph, labels, pixels, reduced, residual, rules, sgd};
use crate::suite::{copy, numbers, train};

pub(crate) fn frozen_parameters_have_no_gradient_and_change_no_other(suite: &Suite) {
    for config in [residual(ActivationKind::LeakyRelu, 5), airbench()] {
        let graph = reduced(&config);
        let (images, labels) = (pixels(&graph, 3, 1), labels(3));
        let gradients = |trained: &dyn Fn(usize) -> bool| -> Vec<Vec<f32>> {
            let mut engine = suite.engine(&graph);
            let parameters = graph.parameters.iter().enumerate();
            let all: Vec<bool> = parameters.map(|(i, p)| p.requires_grad && trained(i)).collect();
            engine.set_requires_grad(&all);
            engine.accumulate(&MicroBatch::whole(&images, &labels)).unwrap();
            let gradients = engine.export(Section::Gradients).unwrap();
            gradients.iter().map(|tensor| numbers(tensor).to_vec()).collect()
        };
        let whole = gradients(&|_| true);
        for (gradient, parameter) in whole.iter().zip(&graph.parameters) {
            // That of a bias before BatchNorm may be exactly 0.
            let bias = matches!(parameter.role, Role::Bias { .. });
            let any = gradient.iter().any(|&g| g != 0.0);
            assert!(any == parameter.requires_grad || bias, "{}", parameter.name);
        }
        // The first layers, the last ones, every second parameter, all of them.
        let (half, all) = (whole.len() / 2, whole.len());
        let choices: [&dyn Fn(usize) -> bool; 5] =
            [&|i| i >= half, &|i| i < half, &|i| i % 2 == 0, &|i| i % 2 == 1, &|i| i >= all];
        for trained in choices {
            for (i, (part, whole)) in gradients(trained).iter().zip(&whole).enumerate() {
                if trained(i) {
                    assert!(part == whole, "parameter {i} has another gradient");
                } else {
                    assert!(part.iter().all(|&g| g == 0.0), "parameter {i} is frozen");
                }
            }
        }
    }
}

pub(crate) fn frozen_parameters_keep_their_bits(suite: &Suite) {
    for config in [residual(ActivationKind::LeakyRelu, 5), airbench()] {
        let graph = reduced(&config);
        let (images, labels) = (pixels(&graph, 3, 1), labels(3));
        let mut engine = suite.engine(&graph);
        let names: Vec<&str> = graph.parameters.iter().map(|p| p.name.as_str()).collect();
        // Which parameters change, of the model and of the momentum buffers.
        let sections = [Section::Model, Section::Momentum];
        let mut changes = |rules: &[Rule], trained: &[bool]| -> [Vec<bool>; 2] {
            engine.set_requires_grad(trained);
            let before = sections.map(|section| copy(&mut *engine, section));
            train(&mut *engine, &images, &labels, rules);
            let after = sections.map(|section| copy(&mut *engine, section));
            [0, 1].map(|section| {
                let changed =
                    |&name: &&str| find(&before[section], name) != find(&after[section], name);
                names.iter().map(changed).collect()
            })
        };
        let trained = rules(&graph, sgd());
        let all: Vec<bool> = trained.iter().map(|rule| *rule != Rule::Frozen).collect();
        let half = all.len() / 2;
        let later = |i: usize| i >= half && all[i];
        let some: Vec<bool> = (0..all.len()).map(later).collect();
        let rules: Vec<Rule> =
            (0..all.len()).map(|i| if later(i) { trained[i] } else { Rule::Frozen }).collect();
        assert_eq!(changes(&trained, &all), [all.clone(), all.clone()]);
        // By the rule alone, with the gradient computed; then without it.
        assert_eq!(changes(&rules, &all), [some.clone(), some.clone()]);
        assert_eq!(changes(&rules, &some), [some.clone(), some.clone()]);
        // And trained again.
        assert_eq!(changes(&trained, &all), [all.clone(), all.clone()]);
    }
}

fn find<'a>(tensors: &'a [Tensor<'static>], name: &str) -> Option<&'a Tensor<'static>> {
    tensors.iter().find(|tensor| tensor.name == name)
}

pub(crate) fn backward_ends_at_the_first_trained_parameter(suite: &Suite) {
    let graph = graph(&airbench(), 28);
    let (images, labels) = (pixels(&graph, 3, 1), labels(3));
    let mut engine = suite.engine(&graph);
    // Which steps have a backward pass.
    let mut steps = |first: usize| -> Vec<bool> {
        let parameters = graph.parameters.iter().enumerate();
        let trained: Vec<bool> = parameters.map(|(i, p)| p.requires_grad && i >= first).collect();
        engine.set_requires_grad(&trained);
        engine.take_step_times();
        train(&mut *engine, &images, &labels, &rules(&graph, Rule::Frozen));
        engine.take_step_times().iter().map(|times| times.backward > 0.0).collect()
    };
    let (all, half, none) = (steps(0), steps(4), steps(usize::MAX));
    assert!(all.iter().all(|&backward| backward), "{all:?}");
    assert!(!half[0] && half[half.len() - 1] && half.is_sorted(), "{half:?}");
    assert!(none.iter().all(|&backward| !backward), "{none:?}");
}
