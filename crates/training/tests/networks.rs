//! Networks of all kinds of operations in any valid order: the engine computes them or refuses them in a sentence.

use crescendo_cpu::CpuDevices;
use crescendo_network::{
    Activation, Devices, Init, MicroBatch, Network, NetworkBuilder, Operation, Section, Shape,
};
use crescendo_training::{Recipe, graph};
use proptest::prelude::*;

fn operation() -> impl Strategy<Value = Operation> {
    let init = || prop_oneof![Just(Init::Uniform), Just(Init::Dirac), Just(Init::Unit)];
    let activation = prop_oneof![
        Just(Activation::Relu),
        Just(Activation::LeakyRelu { slope: 0.1 }),
        Just(Activation::Elu),
        Just(Activation::Sigmoid),
        Just(Activation::Silu),
        Just(Activation::Gelu),
        Just(Activation::Scale { factor: -0.5 }),
    ];
    let convolution = (1..20_usize, 1..6_usize, 1..4_usize, 0..4_usize, any::<bool>(), init());
    prop_oneof![
        3 => convolution.prop_map(|(outputs, kernel, stride, padding, bias, init)| {
            Operation::Convolution { outputs, kernel, stride, padding, bias, init }
        }),
        2 => any::<bool>().prop_map(|scale| Operation::BatchNorm {
            eps: 1e-5,
            scale,
            new_weight: 0.1
        }),
        2 => activation.prop_map(Operation::Activation),
        2 => Just(Operation::Add),
        1 => (1..5_usize).prop_map(|size| Operation::AveragePool { size }),
        1 => (1..5_usize).prop_map(|size| Operation::MaxPool { size }),
        1 => Just(Operation::Flatten),
        1 => (1..12_usize, any::<bool>())
            .prop_map(|(outputs, bias)| Operation::Linear { outputs, bias, init: Init::Uniform }),
    ]
}

/// A network of these operations as far as they are valid, each of the value before it; an addition takes an earlier
/// value too. Its end has 10 classes.
fn network(operations: &[(Operation, usize)]) -> Network {
    let mut nodes =
        NetworkBuilder::new(Shape::Maps { channels: 3, height: 32, width: 32 }).finish();
    let valid = |network: &Network| {
        let mut ended = network.clone();
        end(&mut ended);
        crescendo_network::Graph::new(&ended).is_ok()
    };
    for &(operation, other) in operations {
        let last = nodes.nodes.len();
        let mut inputs = vec![crescendo_network::Value(last)];
        if operation == Operation::Add {
            inputs.push(crescendo_network::Value(other % (last + 1)));
        }
        let name = format!("operation{last}");
        nodes.nodes.push(crescendo_network::Node { name, operation, inputs });
        if !valid(&nodes) {
            nodes.nodes.pop();
        }
    }
    end(&mut nodes);
    nodes
}

/// Adds what makes logits of the last value.
fn end(network: &mut Network) {
    let linear = Operation::Linear { outputs: 10, bias: true, init: Init::Uniform };
    let is_vector = network
        .nodes
        .iter()
        .any(|node| matches!(node.operation, Operation::Flatten | Operation::Linear { .. }));
    let flatten = (!is_vector).then_some(("flatten", Operation::Flatten));
    for (name, operation) in flatten.into_iter().chain([("logits", linear)]) {
        let inputs = vec![crescendo_network::Value(network.nodes.len())];
        network.nodes.push(crescendo_network::Node { name: name.into(), operation, inputs });
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_valid_network_is_trained_or_refused(
        operations in prop::collection::vec((operation(), any::<usize>()), 0..10),
    ) {
        let network = network(&operations);
        let recipe = Recipe::builder("quick").unwrap().custom_network(&network).unwrap();
        let recipe = recipe.build().unwrap();
        let graph = graph(&recipe).unwrap();
        let device = CpuDevices.open(&recipe.engine).unwrap();
        // As a run is checked before it begins.
        if let Err(error) = device.required_memory(&graph, 3, 1) {
            prop_assert!(!error.to_string().is_empty());
            return Ok(());
        }
        let mut engine = device.engine(&graph).unwrap();
        engine.import(Section::Model, &graph.initial(0)).unwrap();
        let images: Vec<f32> = (0..3 * 3072).map(|i| (i as f32 * 0.37).sin()).collect();
        engine.accumulate(&MicroBatch::whole(&images, &[1, 2, 9])).unwrap();
        engine.update(&recipe.optimizer.first_rules(&graph, 3)).unwrap();
        let result = engine.next_result(true).unwrap().unwrap();
        prop_assert!(result.images == 3);
        prop_assert_eq!(engine.logits(&images).unwrap().len(), 30);
    }
}
