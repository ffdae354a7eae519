//! The execution plan in words, for `crescendo plan --steps`.

use std::fmt::Write as _;

use crescendo_kernels::{ConvAlgorithm, Convolution};
use crescendo_network::Activation;
use crescendo_plan::{Delivery, FusedInput, NormedTensor, StepKind, TensorId};

use crate::algorithm::Layer;
use crate::plan::ExecutionPlan;

impl ExecutionPlan {
    /// A line for each step: what it reads and how, what it computes, and what its backward delivers.
    pub fn describe(&self) -> String {
        let mut text = String::new();
        for (index, (step, gradients)) in
            self.fused.steps.iter().zip(&self.gradients.steps).enumerate()
        {
            let name = &self.graph.nodes[step.node].name;
            let kind = match step.kind {
                StepKind::Convolution | StepKind::Linear => {
                    layer_name(self.layers[index].expect("it has weights"))
                }
                StepKind::AveragePool(size) => format!("average {size}x{size}"),
                StepKind::MaxPool(size) => format!("max {size}x{size}"),
                StepKind::Write => "write".into(),
                StepKind::Flatten => "flatten".into(),
                StepKind::Activation(f) => activation_name(f).into(),
            };
            let _ = write!(
                text,
                "{index:>3}  {name:<32} {kind:<22} {:<10} reads {}",
                self.fused.tensors[step.output.0].shape.to_string(),
                self.describe_input(&step.input)
            );
            if step.save_input.is_some() {
                text.push_str(", keeps it");
            }
            if let Some(norm) = step.norm {
                let _ = write!(text, "; sums for {}", self.graph.statistics[norm].name);
            }
            if let Some(delivery) = &gradients.delivery {
                let _ = write!(text, "; back: {}", self.describe_delivery(delivery));
            }
            text.push('\n');
        }
        text
    }

    fn describe_tensor(&self, tensor: TensorId) -> &str {
        match self.fused.tensors[tensor.0].value.0 {
            0 => "images",
            value => &self.graph.nodes[value - 1].name,
        }
    }

    fn describe_input(&self, input: &FusedInput) -> String {
        let term = |normed: NormedTensor| match normed.norm {
            Some(norm) => format!("norm {}", self.graph.statistics[norm].name),
            None => self.describe_tensor(normed.tensor).to_owned(),
        };
        let sum = input.terms().map(term).collect::<Vec<_>>().join(" + ");
        match input.activation {
            Some(f) => format!("{}({sum})", activation_name(f)),
            None => sum,
        }
    }

    fn describe_delivery(&self, delivery: &Delivery) -> String {
        let input = &self.gradients.gradients[delivery.gradient].input;
        let mut parts = Vec::new();
        if delivery.accumulate || !delivery.addends.is_empty() {
            parts.push("adds parts".to_owned());
        }
        if delivery.last {
            if let Some(f) = input.activation {
                parts.push(format!("slope of {}", activation_name(f)));
            }
            let norms = input.terms().filter_map(|term| term.norm);
            parts
                .extend(norms.map(|norm| format!("sums for {}", self.graph.statistics[norm].name)));
        }
        if parts.is_empty() { "input".into() } else { parts.join(", ") }
    }
}

fn layer_name(layer: Layer) -> String {
    match layer {
        Layer::Convolution(Convolution { kernel, stride, .. }, algorithm) => {
            let algorithm = match algorithm {
                ConvAlgorithm::Direct => "direct",
                ConvAlgorithm::DirectBf16 => "direct in bf16",
                ConvAlgorithm::Winograd2 => "winograd2",
                ConvAlgorithm::Winograd4 => "winograd4",
                ConvAlgorithm::Winograd4Bf16 => "winograd4 in bf16",
            };
            format!("conv {kernel}x{kernel}/{stride} {algorithm}")
        }
        Layer::Linear(_) => "linear".into(),
    }
}

fn activation_name(f: Activation) -> &'static str {
    match f {
        Activation::Relu => "relu",
        Activation::LeakyRelu { .. } => "leakyrelu",
        Activation::Elu => "elu",
        Activation::Sigmoid => "sigmoid",
        Activation::Silu => "silu",
        Activation::Gelu => "gelu",
        Activation::Scale { .. } => "scale",
    }
}
