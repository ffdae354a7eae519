//! The networks and batches of the suite: as small as they can be with everything in them.

use crescendo_network::{
    Activation, ActivationKind, Family, Graph, Init, NetworkBuilder, NetworkConfig, Operation,
    Rule, Sgd, Shape, Tensor, TensorData,
};

use crate::reference::Model;

/// How far every number of a batch is from a kink, so that the rounding of an engine in f32 does not reach
/// one: see [`Model::distance_to_kinks`].
const KINK_MARGIN: f64 = 5e-6;

/// Square images of three channels.
pub fn square(side: usize) -> Shape {
    Shape::Maps { channels: 3, height: side, width: side }
}

/// A network of the paper's family: two stacks of a block, of which the second halves the maps and has a
/// projection as its shortcut.
pub fn residual(activation: ActivationKind, hidden: usize) -> NetworkConfig {
    let mut config = NetworkConfig { activation, ..NetworkConfig::paper() };
    (config.blocks, config.widths) = (vec![1, 1], vec![2, 3]);
    config.head.hidden = hidden;
    config
}

/// An airbench network: max-pooling, filters and weights that are not trained, no biases, scaled logits;
/// stacks of two convolutions, and of three with a residual.
pub fn airbench() -> NetworkConfig {
    let mut config = residual(ActivationKind::Gelu, 0);
    (config.family, config.whitening) = (Family::Airbench, 2);
    (config.blocks, config.widths) = (vec![2, 3], vec![4, 6]);
    (config.bias, config.init) = (false, Init::Dirac);
    (config.norm.scale, config.norm.eps) = (false, 1e-12);
    (config.norm.momentum, config.head.pool) = (0.4, 3);
    (config.head.scale, config.head.init) = (0.05, Init::Unit);
    config
}

/// The graph of a configuration for images of 32x32 pixels that are resized to this size.
pub fn graph(config: &NetworkConfig, side: usize) -> Graph {
    // A head that pools to as many features needs maps of the last stack to pool.
    let full = if side < 16 { side } else { 32 };
    let network = config.network_resized(square(full), side).expect("the configuration is valid");
    Graph::new(&network).expect("the network is valid")
}

/// The graph of a configuration for images that are resized to a small size that fits its family.
pub fn reduced(config: &NetworkConfig) -> Graph {
    let side = match config.family {
        Family::Resnet => 16,
        Family::Airbench => 28,
        Family::Custom => panic!("its sizes are its own"),
    };
    graph(config, side)
}

/// A network of neither family: images that are not square, more channels than a vector has numbers,
/// convolutions without BatchNorm, a large stride, an average pooling that leaves pixels out.
pub fn branching() -> Graph {
    let mut builder = NetworkBuilder::new(Shape::Maps { channels: 2, height: 9, width: 14 });
    let init = Init::Uniform;
    let conv = |outputs, kernel, stride, padding, bias| Operation::Convolution {
        outputs,
        kernel,
        stride,
        padding,
        bias,
        init,
    };
    let norm = Operation::BatchNorm { eps: 1e-5, scale: true, new_weight: 0.25 };
    let silu = Operation::Activation(Activation::Silu);
    let images = builder.images();
    let x = builder.add("first", conv(18, 3, 1, 1, true), [images]);
    let x = builder.add("first.silu", silu, [x]);
    let y = builder.add("left", conv(5, 3, 3, 1, false), [x]);
    let y = builder.add("left.norm", norm, [y]);
    let z = builder.add("right", conv(5, 1, 3, 0, true), [x]);
    let z = builder.add("right.norm", norm, [z]);
    let x = builder.add("add", Operation::Add, [y, z]);
    let x = builder.add("elu", Operation::Activation(Activation::Elu), [x]);
    let x = builder.add("pool", Operation::AveragePool { size: 2 }, [x]);
    let x = builder.add("flatten", Operation::Flatten, [x]);
    builder.add("fc", Operation::Linear { outputs: 7, bias: true, init }, [x]);
    Graph::new(&builder.finish()).expect("the network is valid")
}

/// A network without BatchNorm, whose batch is the sum of its parts.
pub fn without_norms() -> Graph {
    let mut builder = NetworkBuilder::new(square(32));
    let images = builder.images();
    let (bias, init) = (true, Init::Uniform);
    let conv = Operation::Convolution { outputs: 4, kernel: 3, stride: 2, padding: 1, bias, init };
    let x = builder.add("conv", conv, [images]);
    let x = builder.add("flatten", Operation::Flatten, [x]);
    builder.add("linear", Operation::Linear { outputs: 10, bias, init }, [x]);
    Graph::new(&builder.finish()).expect("the network is valid")
}

/// An initial state in which no BatchNorm is like another: weights of 1, biases and means of 0 would hide
/// mistakes.
pub fn varied(graph: &Graph, seed: u64) -> Vec<Tensor<'static>> {
    let mut state = graph.initial(seed);
    let layers: Vec<&str> = graph.statistics.iter().map(|layer| layer.name.as_str()).collect();
    for (index, tensor) in state.iter_mut().enumerate() {
        let (layer, kind) = tensor.name.rsplit_once('.').expect("names have two parts");
        if !layers.contains(&layer) {
            continue;
        }
        let (middle, spread) = match kind {
            "weight" | "running_var" => (1.0, 0.4),
            _ => (0.0, 0.3),
        };
        if let TensorData::F32(values) = &mut tensor.data {
            for (i, value) in values.to_mut().iter_mut().enumerate() {
                *value = middle + spread * (1.7 * i as f32 + index as f32).sin();
            }
        }
    }
    state
}

/// Images with large and small structure, the same in every run; another `seed` makes others.
pub fn pixels(graph: &Graph, count: usize, seed: usize) -> Vec<f32> {
    let pixel = |i: usize| {
        let noise = (i + 31 * seed) * 7919 % 1009;
        (noise as f32 / 504.5 - 1.0) + (i as f32 * 0.01 + seed as f32).sin()
    };
    (0..count * graph.input.len()).map(pixel).collect()
}

/// Images of which no number comes near a kink of the network in this state.
pub fn away_from_kinks(graph: &Graph, state: &[Tensor], count: usize) -> Vec<f32> {
    let model = Model::new(graph, state);
    let images = (0..100).map(|seed| pixels(graph, count, seed));
    images
        .into_iter()
        .find(|images| model.distance_to_kinks(images) > KINK_MARGIN)
        .expect("one of a hundred batches is away from kinks")
}

/// As many labels of ten classes, or of seven.
pub fn labels(count: usize) -> Vec<u16> {
    [3, 6, 1, 0, 3, 5, 2, 6, 4, 1].into_iter().cycle().take(count).collect()
}

/// Weights of which no two are alike.
pub fn class_weights(graph: &Graph) -> Vec<f32> {
    (0..graph.classes()).map(|class| 0.25 + (class * 7 % 10) as f32 / 4.0).collect()
}

/// A rule with everything that SGD has.
pub fn sgd() -> Rule {
    Rule::Sgd(Sgd { learning_rate: 0.1, momentum: 0.9, nesterov: false, weight_decay: 1e-3 })
}

/// The same rule for every parameter that can be trained.
pub fn rules(graph: &Graph, rule: Rule) -> Vec<Rule> {
    let rule = |requires_grad| if requires_grad { rule } else { Rule::Frozen };
    graph.parameters.iter().map(|parameter| rule(parameter.requires_grad)).collect()
}
