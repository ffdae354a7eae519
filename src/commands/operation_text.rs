//! How `plan` spells the operations of a network. Programs read these texts in `plan --json`, so they
//! are written out here and do not change when a type or field of the code is renamed.

use crescendo::network::{Activation, Init, Operation};

/// The kind of an operation, such as `Convolution`.
pub fn operation_kind(operation: &Operation) -> &'static str {
    match operation {
        Operation::Convolution { .. } => "Convolution",
        Operation::BatchNorm { .. } => "BatchNorm",
        Operation::Activation(_) => "Activation",
        Operation::Add => "Add",
        Operation::AveragePool { .. } => "AveragePool",
        Operation::MaxPool { .. } => "MaxPool",
        Operation::Flatten => "Flatten",
        Operation::Linear { .. } => "Linear",
    }
}

/// The kind of an operation and its settings, such as `AveragePool { size: 2 }`.
pub fn operation_text(operation: &Operation) -> String {
    let kind = operation_kind(operation);
    match *operation {
        Operation::Convolution { outputs, kernel, stride, padding, bias, init } => format!(
            "{kind} {{ outputs: {outputs}, kernel: {kernel}, stride: {stride}, padding: {padding}, \
             bias: {bias}, init: {} }}",
            init_text(init)
        ),
        // `{:?}` of a float is the shortest text that reads back as the same number: 1e-5, not 0.00001.
        Operation::BatchNorm { eps, scale, new_weight } => {
            format!("{kind} {{ eps: {eps:?}, scale: {scale}, new_weight: {new_weight:?} }}")
        }
        Operation::Activation(activation) => format!("{kind}({})", activation_text(activation)),
        Operation::Add | Operation::Flatten => kind.to_owned(),
        Operation::AveragePool { size } | Operation::MaxPool { size } => {
            format!("{kind} {{ size: {size} }}")
        }
        Operation::Linear { outputs, bias, init } => {
            let init = init_text(init);
            format!("{kind} {{ outputs: {outputs}, bias: {bias}, init: {init} }}")
        }
    }
}

fn activation_text(activation: Activation) -> String {
    match activation {
        Activation::Relu => "Relu".to_owned(),
        Activation::LeakyRelu { slope } => format!("LeakyRelu {{ slope: {slope:?} }}"),
        Activation::Elu => "Elu".to_owned(),
        Activation::Sigmoid => "Sigmoid".to_owned(),
        Activation::Silu => "Silu".to_owned(),
        Activation::Gelu => "Gelu".to_owned(),
        Activation::Scale { factor } => format!("Scale {{ factor: {factor:?} }}"),
    }
}

fn init_text(init: Init) -> &'static str {
    match init {
        Init::Uniform => "Uniform",
        Init::Dirac => "Dirac",
        Init::Unit => "Unit",
        Init::Whitening => "Whitening",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn convolution(init: Init) -> Operation {
        Operation::Convolution { outputs: 64, kernel: 3, stride: 1, padding: 1, bias: true, init }
    }

    #[test]
    fn every_operation_has_its_fixed_text() {
        for (operation, kind, text) in [
            (
                convolution(Init::Uniform),
                "Convolution",
                "Convolution { outputs: 64, kernel: 3, stride: 1, padding: 1, bias: true, init: \
                 Uniform }",
            ),
            (
                convolution(Init::Dirac),
                "Convolution",
                "Convolution { outputs: 64, kernel: 3, stride: 1, padding: 1, bias: true, init: \
                 Dirac }",
            ),
            (
                Operation::Convolution {
                    outputs: 24,
                    kernel: 2,
                    stride: 1,
                    padding: 0,
                    bias: true,
                    init: Init::Whitening,
                },
                "Convolution",
                "Convolution { outputs: 24, kernel: 2, stride: 1, padding: 0, bias: true, init: \
                 Whitening }",
            ),
            (
                Operation::BatchNorm { eps: 1e-5, scale: true, new_weight: 0.997 },
                "BatchNorm",
                "BatchNorm { eps: 1e-5, scale: true, new_weight: 0.997 }",
            ),
            (
                Operation::BatchNorm { eps: 1e-12, scale: false, new_weight: 1.0 },
                "BatchNorm",
                "BatchNorm { eps: 1e-12, scale: false, new_weight: 1.0 }",
            ),
            (Operation::Add, "Add", "Add"),
            (Operation::AveragePool { size: 2 }, "AveragePool", "AveragePool { size: 2 }"),
            (Operation::MaxPool { size: 3 }, "MaxPool", "MaxPool { size: 3 }"),
            (Operation::Flatten, "Flatten", "Flatten"),
            (
                Operation::Linear { outputs: 2048, bias: true, init: Init::Uniform },
                "Linear",
                "Linear { outputs: 2048, bias: true, init: Uniform }",
            ),
            (
                Operation::Linear { outputs: 10, bias: false, init: Init::Unit },
                "Linear",
                "Linear { outputs: 10, bias: false, init: Unit }",
            ),
        ] {
            assert_eq!((operation_kind(&operation), &operation_text(&operation)[..]), (kind, text));
        }
        for (activation, text) in [
            (Activation::Relu, "Activation(Relu)"),
            (Activation::LeakyRelu { slope: 0.01 }, "Activation(LeakyRelu { slope: 0.01 })"),
            (Activation::Elu, "Activation(Elu)"),
            (Activation::Sigmoid, "Activation(Sigmoid)"),
            (Activation::Silu, "Activation(Silu)"),
            (Activation::Gelu, "Activation(Gelu)"),
            (
                Activation::Scale { factor: 0.003_906_25 },
                "Activation(Scale { factor: 0.00390625 })",
            ),
        ] {
            let operation = Operation::Activation(activation);
            assert_eq!(operation_kind(&operation), "Activation");
            assert_eq!(operation_text(&operation), text);
        }
    }
}
