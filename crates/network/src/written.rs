//! The written form of an operation, in recipes (TOML) and checkpoints (JSON): one table with the keys that its kind
//! has, and no others. Such as `{ name = "conv1", operation = "convolution", outputs = 16, kernel = 3, stride = 1,
//! padding = 1, bias = true, init = "uniform", inputs = [0] }`.

use serde::{Deserialize, Serialize};

use crate::{Activation, Init, Node, Operation, Value};

/// A [`Node`] as it is written.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WrittenNode {
    name: String,
    operation: Kind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    outputs: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kernel: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    size: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stride: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    padding: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bias: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    init: Option<WrittenInit>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    slope: Option<f32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    factor: Option<f32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    eps: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    scale: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    new_weight: Option<f64>,
    /// 0 for the images, `i + 1` for the output of operation `i` of the list.
    inputs: Vec<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Convolution,
    BatchNorm,
    Relu,
    LeakyRelu,
    Elu,
    Sigmoid,
    Silu,
    Gelu,
    Scale,
    Add,
    AveragePool,
    MaxPool,
    Flatten,
    Linear,
}

/// [`Init`] with all its names: `whitening` cannot be chosen for all convolutions at once.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum WrittenInit {
    Uniform,
    Dirac,
    Unit,
    Whitening,
}

impl WrittenNode {
    /// An operation without keys of its own.
    fn new(name: String, operation: Kind, inputs: Vec<usize>) -> Self {
        WrittenNode {
            name,
            operation,
            inputs,
            outputs: None,
            kernel: None,
            size: None,
            stride: None,
            padding: None,
            bias: None,
            init: None,
            slope: None,
            factor: None,
            eps: None,
            scale: None,
            new_weight: None,
        }
    }

    /// The keys that an operation can have besides its name, its kind and its inputs, and whether this one has them.
    fn keys(&self) -> [(&'static str, bool); 12] {
        [
            ("outputs", self.outputs.is_some()),
            ("kernel", self.kernel.is_some()),
            ("size", self.size.is_some()),
            ("stride", self.stride.is_some()),
            ("padding", self.padding.is_some()),
            ("bias", self.bias.is_some()),
            ("init", self.init.is_some()),
            ("slope", self.slope.is_some()),
            ("factor", self.factor.is_some()),
            ("eps", self.eps.is_some()),
            ("scale", self.scale.is_some()),
            ("new_weight", self.new_weight.is_some()),
        ]
    }
}

impl Kind {
    /// The keys that an operation of this kind has.
    fn keys(self) -> &'static [&'static str] {
        match self {
            Kind::Convolution => &["outputs", "kernel", "stride", "padding", "bias", "init"],
            Kind::BatchNorm => &["eps", "scale", "new_weight"],
            Kind::LeakyRelu => &["slope"],
            Kind::Scale => &["factor"],
            Kind::AveragePool | Kind::MaxPool => &["size"],
            Kind::Linear => &["outputs", "bias", "init"],
            Kind::Relu
            | Kind::Elu
            | Kind::Sigmoid
            | Kind::Silu
            | Kind::Gelu
            | Kind::Add
            | Kind::Flatten => &[],
        }
    }
}

impl From<Node> for WrittenNode {
    fn from(node: Node) -> Self {
        let inputs = node.inputs.iter().map(|input| input.0).collect();
        let new = |kind| WrittenNode::new(node.name, kind, inputs);
        match node.operation {
            Operation::Convolution { outputs, kernel, stride, padding, bias, init } => {
                WrittenNode {
                    outputs: Some(outputs),
                    kernel: Some(kernel),
                    stride: Some(stride),
                    padding: Some(padding),
                    bias: Some(bias),
                    init: Some(init.into()),
                    ..new(Kind::Convolution)
                }
            }
            Operation::BatchNorm { eps, scale, new_weight } => WrittenNode {
                eps: Some(eps),
                scale: Some(scale),
                new_weight: Some(new_weight),
                ..new(Kind::BatchNorm)
            },
            Operation::Activation(activation) => match activation {
                Activation::Relu => new(Kind::Relu),
                Activation::LeakyRelu { slope } => {
                    WrittenNode { slope: Some(slope), ..new(Kind::LeakyRelu) }
                }
                Activation::Elu => new(Kind::Elu),
                Activation::Sigmoid => new(Kind::Sigmoid),
                Activation::Silu => new(Kind::Silu),
                Activation::Gelu => new(Kind::Gelu),
                Activation::Scale { factor } => {
                    WrittenNode { factor: Some(factor), ..new(Kind::Scale) }
                }
            },
            Operation::Add => new(Kind::Add),
            Operation::AveragePool { size } => {
                WrittenNode { size: Some(size), ..new(Kind::AveragePool) }
            }
            Operation::MaxPool { size } => WrittenNode { size: Some(size), ..new(Kind::MaxPool) },
            Operation::Flatten => new(Kind::Flatten),
            Operation::Linear { outputs, bias, init } => WrittenNode {
                outputs: Some(outputs),
                bias: Some(bias),
                init: Some(init.into()),
                ..new(Kind::Linear)
            },
        }
    }
}

impl TryFrom<WrittenNode> for Node {
    type Error = String;

    /// Says what an operation must be, in words that also follow "must be".
    fn try_from(node: WrittenNode) -> Result<Self, String> {
        let known = node.operation.keys();
        let wrong = node.keys().into_iter().any(|(key, given)| given != known.contains(&key));
        let mismatch = || {
            let kind = serde_name(node.operation);
            let keys = [&["name", "operation"], known, &["inputs"]].concat();
            format!("an operation of the kind {kind} with the keys {}", keys.join(", "))
        };
        if wrong {
            return Err(mismatch());
        }
        let operation = operation(&node).ok_or_else(mismatch)?;
        let inputs = node.inputs.into_iter().map(Value).collect();
        Ok(Node { name: node.name, operation, inputs })
    }
}

/// What the keys describe; `None` if one is missing.
fn operation(node: &WrittenNode) -> Option<Operation> {
    let activation = |activation| Some(Operation::Activation(activation));
    match node.operation {
        Kind::Convolution => Some(Operation::Convolution {
            outputs: node.outputs?,
            kernel: node.kernel?,
            stride: node.stride?,
            padding: node.padding?,
            bias: node.bias?,
            init: node.init?.into(),
        }),
        Kind::BatchNorm => Some(Operation::BatchNorm {
            eps: node.eps?,
            scale: node.scale?,
            new_weight: node.new_weight?,
        }),
        Kind::Relu => activation(Activation::Relu),
        Kind::LeakyRelu => activation(Activation::LeakyRelu { slope: node.slope? }),
        Kind::Elu => activation(Activation::Elu),
        Kind::Sigmoid => activation(Activation::Sigmoid),
        Kind::Silu => activation(Activation::Silu),
        Kind::Gelu => activation(Activation::Gelu),
        Kind::Scale => activation(Activation::Scale { factor: node.factor? }),
        Kind::Add => Some(Operation::Add),
        Kind::AveragePool => Some(Operation::AveragePool { size: node.size? }),
        Kind::MaxPool => Some(Operation::MaxPool { size: node.size? }),
        Kind::Flatten => Some(Operation::Flatten),
        Kind::Linear => Some(Operation::Linear {
            outputs: node.outputs?,
            bias: node.bias?,
            init: node.init?.into(),
        }),
    }
}

/// A kind's name as it is written.
fn serde_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Convolution => "convolution",
        Kind::BatchNorm => "batch_norm",
        Kind::Relu => "relu",
        Kind::LeakyRelu => "leaky_relu",
        Kind::Elu => "elu",
        Kind::Sigmoid => "sigmoid",
        Kind::Silu => "silu",
        Kind::Gelu => "gelu",
        Kind::Scale => "scale",
        Kind::Add => "add",
        Kind::AveragePool => "average_pool",
        Kind::MaxPool => "max_pool",
        Kind::Flatten => "flatten",
        Kind::Linear => "linear",
    }
}

impl From<Init> for WrittenInit {
    fn from(init: Init) -> Self {
        match init {
            Init::Uniform => WrittenInit::Uniform,
            Init::Dirac => WrittenInit::Dirac,
            Init::Unit => WrittenInit::Unit,
            Init::Whitening => WrittenInit::Whitening,
        }
    }
}

impl From<WrittenInit> for Init {
    fn from(init: WrittenInit) -> Self {
        match init {
            WrittenInit::Uniform => Init::Uniform,
            WrittenInit::Dirac => Init::Dirac,
            WrittenInit::Unit => Init::Unit,
            WrittenInit::Whitening => Init::Whitening,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_is_read_as_it_was_written() {
        let activations = [
            Activation::Relu,
            Activation::LeakyRelu { slope: 0.01 },
            Activation::Elu,
            Activation::Sigmoid,
            Activation::Silu,
            Activation::Gelu,
            Activation::Scale { factor: 0.1 },
        ];
        let inits = [Init::Uniform, Init::Dirac, Init::Unit, Init::Whitening];
        let convolution = |init| Operation::Convolution {
            outputs: 16,
            kernel: 3,
            stride: 2,
            padding: 1,
            bias: true,
            init,
        };
        let others = [
            Operation::BatchNorm { eps: 1e-5, scale: false, new_weight: 0.1 },
            Operation::Add,
            Operation::AveragePool { size: 4 },
            Operation::MaxPool { size: 2 },
            Operation::Flatten,
            Operation::Linear { outputs: 10, bias: false, init: Init::Unit },
        ];
        let all = activations.into_iter().map(Operation::Activation);
        let all = all.chain(inits.into_iter().map(convolution)).chain(others);
        for operation in all {
            let node = Node { name: "x".into(), operation, inputs: vec![Value(0), Value(3)] };
            let text = serde_json::to_string(&node).unwrap();
            assert_eq!(serde_json::from_str::<Node>(&text).unwrap(), node, "{text}");
            let kind = serde_name(WrittenNode::from(node).operation);
            assert!(text.contains(&format!("\"operation\":\"{kind}\"")), "{text}");
        }
        let node = Node {
            name: "conv1".into(),
            operation: convolution(Init::Uniform),
            inputs: vec![Value(0)],
        };
        let expected = [
            r#"{"name":"conv1","operation":"convolution","outputs":16,"kernel":3,"stride":2,"#,
            r#""padding":1,"bias":true,"init":"uniform","inputs":[0]}"#,
        ];
        assert_eq!(serde_json::to_string(&node).unwrap(), expected.concat());
    }

    #[test]
    fn missing_and_superfluous_keys_are_refused() {
        for (text, expected) in [
            (
                r#"{"name": "x", "operation": "max_pool", "inputs": [0]}"#,
                "an operation of the kind max_pool with the keys name, operation, size, inputs",
            ),
            (
                r#"{"name": "x", "operation": "flatten", "bias": true, "inputs": [0]}"#,
                "an operation of the kind flatten with the keys name, operation, inputs",
            ),
            (r#"{"name": "x", "operation": "attention", "inputs": [0]}"#, "attention"),
            (r#"{"name": "x", "operation": "add", "heads": 3, "inputs": [0]}"#, "heads"),
            (r#"{"name": "x", "operation": "add", "inputs": [-1]}"#, "-1"),
        ] {
            let error = serde_json::from_str::<Node>(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
