//! The operations of a network as ONNX's.

use crescendo_network::{Activation, GraphNode, Operation};
use crescendo_training::TrainedNetwork;

use super::builder::{Attribute, Builder};

/// Adds the network's weights under the names that they have in a checkpoint. The counts of batches are left out:
/// nothing reads them.
pub fn add_weights(builder: &mut Builder, network: &TrainedNetwork) {
    for tensor in &network.tensors {
        if let Some(values) = tensor.values() {
            builder.tensor(&tensor.name, &tensor.shape, values);
        }
    }
}

/// Adds the network's operations on normalised images. Returns the logits.
pub fn add(builder: &mut Builder, network: &TrainedNetwork, images: String) -> String {
    let mut values = vec![images];
    for node in &network.graph.nodes {
        let inputs: Vec<&str> = node.inputs.iter().map(|value| &*values[value.0]).collect();
        let output = add_node(builder, network, node, &inputs);
        values.push(output);
    }
    values.pop().expect("a network has operations")
}

fn add_node(
    builder: &mut Builder,
    network: &TrainedNetwork,
    node: &GraphNode,
    inputs: &[&str],
) -> String {
    let (name, input) = (&*node.name, inputs[0]);
    let parameters: Vec<&str> =
        node.parameters().map(|index| &*network.graph.parameters[index].name).collect();
    let with_parameters = [&[input], &parameters[..]].concat();
    match node.operation {
        Operation::Convolution { kernel, stride, padding, .. } => {
            let attributes = [
                ("kernel_shape", Attribute::Ints(&[kernel as i64; 2])),
                ("pads", Attribute::Ints(&[padding as i64; 4])),
                ("strides", Attribute::Ints(&[stride as i64; 2])),
            ];
            builder.node("Conv", name, &with_parameters, &attributes)
        }
        Operation::BatchNorm { eps, .. } => {
            let [mean, variance] = ["mean", "var"].map(|kind| format!("{name}.running_{kind}"));
            let inputs = [&with_parameters[..], &[&mean, &variance]].concat();
            let epsilon = [("epsilon", Attribute::Float(eps as f32))];
            builder.node("BatchNormalization", name, &inputs, &epsilon)
        }
        Operation::Activation(activation) => add_activation(builder, name, input, activation),
        Operation::Add => builder.node("Add", name, inputs, &[]),
        Operation::AveragePool { size } => {
            builder.node("AveragePool", name, &[input], &pool(&[size as i64; 2]))
        }
        Operation::MaxPool { size } => {
            builder.node("MaxPool", name, &[input], &pool(&[size as i64; 2]))
        }
        Operation::Flatten => {
            builder.node("Flatten", name, &[input], &[("axis", Attribute::Int(1))])
        }
        Operation::Linear { .. } => {
            builder.node("Gemm", name, &with_parameters, &[("transB", Attribute::Int(1))])
        }
    }
}

/// The attributes of pooling over squares that do not overlap.
fn pool(size: &[i64; 2]) -> [(&'static str, Attribute<'_>); 2] {
    [("kernel_shape", Attribute::Ints(size)), ("strides", Attribute::Ints(size))]
}

fn add_activation(
    builder: &mut Builder,
    name: &str,
    input: &str,
    activation: Activation,
) -> String {
    let part = |part: &str| format!("{name}/{part}");
    match activation {
        Activation::Relu => builder.node("Relu", name, &[input], &[]),
        Activation::LeakyRelu { slope } => {
            builder.node("LeakyRelu", name, &[input], &[("alpha", Attribute::Float(slope))])
        }
        Activation::Elu => builder.node("Elu", name, &[input], &[("alpha", Attribute::Float(1.0))]),
        Activation::Sigmoid => builder.node("Sigmoid", name, &[input], &[]),
        Activation::Silu => {
            let sigmoid = builder.node("Sigmoid", &part("sigmoid"), &[input], &[]);
            builder.node("Mul", name, &[input, &sigmoid], &[])
        }
        Activation::Gelu => {
            // The nodes in which ONNX Runtime recognises it.
            let root = builder.scalar(std::f32::consts::SQRT_2);
            let (one, half) = (builder.scalar(1.0), builder.scalar(0.5));
            let scaled = builder.node("Div", &part("scaled"), &[input, &root], &[]);
            let erf = builder.node("Erf", &part("erf"), &[&scaled], &[]);
            let above = builder.node("Add", &part("above"), &[&erf, &one], &[]);
            let double = builder.node("Mul", &part("double"), &[input, &above], &[]);
            builder.node("Mul", name, &[&double, &half], &[])
        }
        Activation::Scale { factor } => {
            let factor = builder.scalar(factor);
            builder.node("Mul", name, &[input, &factor], &[])
        }
    }
}
