//! Loss, counts and gradients of whole networks against f64.

use crescendo_network::{ActivationKind, Graph, HeadActivation, Init, Loss};

use crate::Suite;
use crate::setup::{airbench, branching, class_weights, graph, residual, square};

pub(crate) fn residual_networks_match_the_reference(suite: &Suite) {
    for (activation, hidden, head) in [
        (ActivationKind::LeakyRelu, 5, HeadActivation::Sigmoid),
        (ActivationKind::Relu, 5, HeadActivation::Sigmoid),
        (ActivationKind::Elu, 0, HeadActivation::Sigmoid),
        (ActivationKind::Elu, 5, HeadActivation::Same),
        (ActivationKind::Gelu, 5, HeadActivation::Same),
        (ActivationKind::Silu, 5, HeadActivation::Same),
    ] {
        let mut config = residual(activation, hidden);
        config.head.activation = head;
        suite.check_batch(&graph(&config, 32), &Loss::default(), 2);
    }
    // Several blocks, three stacks, more channels than a vector has numbers, no biases, scaled logits.
    let mut config = residual(ActivationKind::Silu, 0);
    (config.blocks, config.widths) = (vec![2, 1, 1], vec![5, 17, 6]);
    (config.bias, config.norm.scale, config.head.scale) = (false, false, 0.25);
    suite.check_batch(&graph(&config, 32), &Loss::default(), 2);
}

pub(crate) fn airbench_networks_match_the_reference(suite: &Suite) {
    suite.check_batch(&graph(&airbench(), 32), &Loss::default(), 2);
    // Larger whitening filters, biases, trained weights of BatchNorm.
    let mut config = airbench();
    (config.whitening, config.bias) = (3, true);
    (config.norm.scale, config.norm.eps) = (true, 1e-5);
    (config.head.scale, config.head.init) = (1.0, Init::Uniform);
    suite.check_batch(&graph(&config, 32), &Loss::default(), 2);
}

pub(crate) fn a_network_of_neither_family_matches_the_reference(suite: &Suite) {
    suite.check_batch(&branching(), &Loss::default(), 3);
}

pub(crate) fn networks_of_other_image_sizes_match_the_reference(suite: &Suite) {
    suite.check_batch(&graph(&residual(ActivationKind::Relu, 5), 16), &Loss::default(), 2);
    suite.check_batch(&graph(&airbench(), 28), &Loss::default(), 2);
    // Not resized, but of this size: odd maps in the second stack.
    let config = residual(ActivationKind::Gelu, 5);
    let odd = Graph::new(&config.network(square(13)).expect("a network of small images"));
    suite.check_batch(&odd.expect("a graph of small images"), &Loss::default(), 3);
}

pub(crate) fn smoothed_labels_match_the_reference(suite: &Suite) {
    let loss = Loss { label_smoothing: 0.2, class_weights: None };
    suite.check_batch(&graph(&residual(ActivationKind::Elu, 5), 16), &loss, 5);
}

pub(crate) fn class_weights_match_the_reference(suite: &Suite) {
    for label_smoothing in [0.0, 0.2] {
        let graph = graph(&residual(ActivationKind::Elu, 5), 16);
        let loss = Loss { label_smoothing, class_weights: Some(class_weights(&graph)) };
        suite.check_batch(&graph, &loss, 5);
    }
}

pub(crate) fn a_wrong_number_of_class_weights_is_refused(suite: &Suite) {
    let mut engine = suite.engine(&graph(&airbench(), 32));
    for count in [0, 9, 11] {
        let loss = Loss { class_weights: Some(vec![1.0; count]), ..Loss::default() };
        assert!(engine.set_loss(&loss).is_err(), "{count} weights for 10 classes");
    }
}

pub(crate) fn a_batch_of_one_image_matches_the_reference(suite: &Suite) {
    suite.check_batch(&graph(&residual(ActivationKind::Silu, 0), 16), &Loss::default(), 1);
}
