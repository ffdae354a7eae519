//! A graph computed in f64, one node after another, by the formulas of `crescendo-reference`.

use crescendo_network::{
    Activation, Graph, GraphNode, Loss, Muon, Operation, Rule, Sgd, Shape, StateKind, Tensor,
    TensorData, Value,
};
use crescendo_reference::{
    Conv2d, LayerGradients, MuonConfig, Nchw, Pointwise, SgdConfig, average_pool,
    average_pool_backward, batch_norm, batch_norm_backward, batch_norm_inference, convolution,
    convolution_backward, cross_entropy, cross_entropy_backward, linear, linear_backward, max_pool,
    max_pool_backward, muon, pointwise, pointwise_backward, sgd, update_running_statistics,
};

/// A model and the optimizer's state in f64.
#[derive(Clone, Debug)]
pub struct Model {
    /// What it computes.
    pub graph: Graph,
    /// The numbers of each of [`Graph::parameters`].
    pub parameters: Vec<Vec<f64>>,
    /// The running mean and variance of each of [`Graph::statistics`].
    pub statistics: Vec<[Vec<f64>; 2]>,
    /// The momentum buffer of each parameter.
    pub momentum: Vec<Vec<f64>>,
}

/// What a batch comes to.
#[derive(Clone, Debug)]
pub struct Evaluation {
    /// The loss.
    pub loss: f64,
    /// Images whose largest logit is their label's.
    pub correct: usize,
    /// The gradient of each parameter; zeros for those that cannot be trained.
    pub gradients: Vec<Vec<f64>>,
}

/// The images or the output of a node, for every value of a graph.
pub struct Values(Vec<Vec<f64>>);

impl Model {
    /// The model with the tensors of [`Section::Model`](crescendo_network::Section::Model), and momentum
    /// buffers of zeros.
    ///
    /// # Panics
    /// If a tensor is missing.
    pub fn new(graph: &Graph, state: &[Tensor]) -> Model {
        let numbers = |name: &str| -> Vec<f64> {
            let tensor = state.iter().find(|tensor| tensor.name == name);
            match tensor.map(|tensor| &tensor.data) {
                Some(TensorData::F32(values)) => values.iter().map(|&x| x.into()).collect(),
                _ => panic!("the state has no numbers named {name}"),
            }
        };
        let parameters: Vec<_> = graph.parameters.iter().map(|p| numbers(&p.name)).collect();
        let statistics = graph.statistics.iter().map(|layer| {
            ["running_mean", "running_var"].map(|kind| numbers(&format!("{}.{kind}", layer.name)))
        });
        Model {
            momentum: parameters.iter().map(|numbers| vec![0.0; numbers.len()]).collect(),
            statistics: statistics.collect(),
            parameters,
            graph: graph.clone(),
        }
    }

    /// The numbers of a tensor of the state; `None` for a count.
    pub fn tensor(&self, kind: StateKind) -> Option<&[f64]> {
        match kind {
            StateKind::Parameter(index) => Some(&self.parameters[index]),
            StateKind::RunningMean(index) => Some(&self.statistics[index][0]),
            StateKind::RunningVariance(index) => Some(&self.statistics[index][1]),
            StateKind::BatchesTracked(_) => None,
        }
    }

    /// All values in training: BatchNorm uses the statistics of these images.
    pub fn forward(&self, images: &[f32]) -> Values {
        self.values(images, false)
    }

    /// The logits in inference: BatchNorm uses the running statistics.
    pub fn logits(&self, images: &[f32]) -> Vec<f64> {
        self.values(images, true).0.pop().expect("there are the images at least")
    }

    fn values(&self, images: &[f32], inference: bool) -> Values {
        let count = images.len() / self.graph.input.len();
        let mut values = vec![images.iter().map(|&x| f64::from(x)).collect::<Vec<f64>>()];
        for node in &self.graph.nodes {
            let x = &values[node.inputs[0].0];
            let (shape, weight, bias) =
                (maps(node.input, count), self.weight(node), self.bias(node));
            let y = match node.operation {
                Operation::Convolution { .. } => convolution(layer(node), shape, x, weight, &bias),
                Operation::BatchNorm { eps, .. } if inference => {
                    let [mean, variance] = self.running(node);
                    batch_norm_inference(shape, x, [mean, variance], weight, &bias, eps)
                }
                Operation::BatchNorm { eps, .. } => batch_norm(shape, x, weight, &bias, eps),
                Operation::Linear { .. } => linear(node.input.len(), x, weight, &bias),
                Operation::Activation(f) => pointwise(function(f), x),
                Operation::Add => {
                    x.iter().zip(&values[node.inputs[1].0]).map(|(a, b)| a + b).collect()
                }
                Operation::AveragePool { size } => average_pool(size, shape, x),
                Operation::MaxPool { size } => max_pool(size, shape, x),
                Operation::Flatten => x.clone(),
            };
            values.push(y);
        }
        Values(values)
    }

    /// The gradients of all parameters from that of the logits.
    pub fn backward(&self, values: &Values, dlogits: Vec<f64>) -> Vec<Vec<f64>> {
        let mut gradients: Vec<Vec<f64>> =
            self.parameters.iter().map(|numbers| vec![0.0; numbers.len()]).collect();
        let count = values.0[0].len() / self.graph.input.len();
        let mut all: Vec<Option<Vec<f64>>> = vec![None; values.0.len()];
        all[self.graph.nodes.len()] = Some(dlogits);
        for (index, node) in self.graph.nodes.iter().enumerate().rev() {
            let dy = all[index + 1].take().expect("every output is used");
            let x = &values.0[node.inputs[0].0];
            let (shape, weight) = (maps(node.input, count), self.weight(node));
            let mut own = |layer: LayerGradients| {
                let parts = [(node.weight, layer.weight), (node.bias, layer.bias)];
                for (parameter, gradient) in parts {
                    if let Some(index) =
                        parameter.filter(|&p| self.graph.parameters[p].requires_grad)
                    {
                        gradients[index] = gradient;
                    }
                }
                layer.input
            };
            let dx = match node.operation {
                Operation::Convolution { .. } => {
                    own(convolution_backward(layer(node), shape, x, weight, &dy))
                }
                Operation::BatchNorm { eps, .. } => {
                    own(batch_norm_backward(shape, x, weight, eps, &dy))
                }
                Operation::Linear { .. } => own(linear_backward(node.input.len(), x, weight, &dy)),
                Operation::Activation(f) => pointwise_backward(function(f), x, &dy),
                Operation::Add => {
                    add(&mut all, node.inputs[1], dy.clone());
                    dy
                }
                Operation::AveragePool { size } => average_pool_backward(size, shape, &dy),
                Operation::MaxPool { size } => max_pool_backward(size, shape, x, &dy),
                Operation::Flatten => dy,
            };
            add(&mut all, node.inputs[0], dx);
        }
        gradients
    }

    /// The loss of a batch and its gradients.
    pub fn evaluate(&self, images: &[f32], labels: &[u16], loss: &Loss) -> Evaluation {
        let weights = class_weights(loss);
        let (smoothing, weights) = (loss.label_smoothing, weights.as_deref());
        let values = self.forward(images);
        let logits = values.logits();
        let classes = self.graph.classes();
        let correct = logits.chunks(classes).zip(labels).filter(|(logits, label)| {
            let own = logits[usize::from(**label)];
            logits.iter().all(|&logit| logit <= own)
        });
        let dlogits = cross_entropy_backward(logits, labels, smoothing, weights);
        Evaluation {
            loss: cross_entropy(logits, labels, smoothing, weights),
            correct: correct.count(),
            gradients: self.backward(&values, dlogits),
        }
    }

    /// The gradients of the mean loss of some images of a batch, which is normalised as a whole.
    pub fn gradients_of_part(
        &self,
        images: &[f32],
        labels: &[u16],
        loss: &Loss,
        part: std::ops::Range<usize>,
    ) -> Vec<Vec<f64>> {
        let weights = class_weights(loss);
        let values = self.forward(images);
        let classes = self.graph.classes();
        let logits = &values.logits()[part.start * classes..part.end * classes];
        let own = &labels[part.clone()];
        let own = cross_entropy_backward(logits, own, loss.label_smoothing, weights.as_deref());
        let mut dlogits = vec![0.0; labels.len() * classes];
        dlogits[part.start * classes..part.end * classes].copy_from_slice(&own);
        self.backward(&values, dlogits)
    }

    /// Blends the statistics of these images into the running ones, with the weight `share`, or that of
    /// each BatchNorm.
    pub fn blend_statistics(&mut self, images: &[f32], share: Option<f64>) {
        let values = self.forward(images);
        let count = images.len() / self.graph.input.len();
        for node in &self.graph.nodes {
            let (Some(index), Operation::BatchNorm { new_weight, .. }) =
                (node.statistics, node.operation)
            else {
                continue;
            };
            let [mean, variance] = &mut self.statistics[index];
            let (shape, x) = (maps(node.input, count), &values.0[node.inputs[0].0]);
            update_running_statistics(shape, x, share.unwrap_or(new_weight), [mean, variance]);
        }
    }

    /// Applies gradients to the parameters, each by its rule.
    pub fn update(&mut self, rules: &[Rule], gradients: &[Vec<f64>]) {
        for (index, (rule, gradient)) in rules.iter().zip(gradients).enumerate() {
            let (parameter, momentum) = (&mut self.parameters[index], &mut self.momentum[index]);
            match *rule {
                Rule::Sgd(Sgd { learning_rate, momentum: decay, nesterov, weight_decay }) => {
                    let config = SgdConfig {
                        learning_rate: learning_rate.into(),
                        momentum: decay.into(),
                        nesterov,
                        weight_decay: weight_decay.into(),
                    };
                    sgd(config, parameter, gradient, momentum);
                }
                Rule::Muon(Muon { learning_rate, momentum: decay, nesterov, steps }) => {
                    let (learning_rate, decay) = (learning_rate.into(), decay.into());
                    let config = MuonConfig { learning_rate, momentum: decay, nesterov, steps };
                    let rows = self.graph.parameters[index].shape[0];
                    muon(config, rows, parameter, gradient, momentum);
                }
                Rule::Frozen => {}
            }
        }
    }

    /// The least distance of any number from a kink: of the input of ReLU and LeakyReLU from 0, and of the
    /// two largest numbers of a max-pooling square from each other. Where an engine's rounding crosses a
    /// kink, its gradient differs without being wrong.
    pub fn distance_to_kinks(&self, images: &[f32]) -> f64 {
        let values = self.forward(images);
        let count = images.len() / self.graph.input.len();
        let nodes = self.graph.nodes.iter().map(|node| {
            let x = &values.0[node.inputs[0].0];
            match node.operation {
                Operation::Activation(Activation::Relu | Activation::LeakyRelu { .. }) => {
                    x.iter().fold(f64::INFINITY, |least, x| least.min(x.abs()))
                }
                Operation::MaxPool { size } => gap_of_maxima(size, maps(node.input, count), x),
                _ => f64::INFINITY,
            }
        });
        nodes.fold(f64::INFINITY, f64::min)
    }

    fn weight(&self, node: &GraphNode) -> &[f64] {
        node.weight.map_or(&[], |index| &self.parameters[index])
    }

    /// The bias of a node: zeros if it has none.
    fn bias(&self, node: &GraphNode) -> Vec<f64> {
        let outputs = node.output.maps().map_or(node.output.len(), |[channels, ..]| channels);
        node.bias.map_or_else(|| vec![0.0; outputs], |index| self.parameters[index].clone())
    }

    fn running(&self, node: &GraphNode) -> &[Vec<f64>; 2] {
        &self.statistics[node.statistics.expect("BatchNorm has statistics")]
    }
}

impl Values {
    /// The last value.
    pub fn logits(&self) -> &[f64] {
        self.0.last().expect("there are the images at least")
    }
}

fn class_weights(loss: &Loss) -> Option<Vec<f64>> {
    let weights = loss.class_weights.as_ref()?;
    Some(weights.iter().map(|&weight| weight.into()).collect())
}

/// Adds to the gradient of a value.
fn add(all: &mut [Option<Vec<f64>>], Value(value): Value, gradient: Vec<f64>) {
    match &mut all[value] {
        Some(sum) => sum.iter_mut().zip(gradient).for_each(|(sum, x)| *sum += x),
        none => *none = Some(gradient),
    }
}

/// The shape of a batch; a vector is as many channels of one pixel.
fn maps(shape: Shape, images: usize) -> Nchw {
    let [channels, height, width] = shape.maps().unwrap_or([shape.len(), 1, 1]);
    Nchw { images, channels, height, width }
}

fn layer(node: &GraphNode) -> Conv2d {
    match node.operation {
        Operation::Convolution { outputs, kernel, stride, padding, .. } => {
            Conv2d { outputs, kernel, stride, padding }
        }
        _ => unreachable!("not a convolution"),
    }
}

fn function(activation: Activation) -> Pointwise {
    match activation {
        Activation::Relu => Pointwise::Relu,
        Activation::LeakyRelu { slope } => Pointwise::LeakyRelu { slope: slope.into() },
        Activation::Elu => Pointwise::Elu,
        Activation::Sigmoid => Pointwise::Sigmoid,
        Activation::Silu => Pointwise::Silu,
        Activation::Gelu => Pointwise::Gelu,
        Activation::Scale { factor } => Pointwise::Scale { factor: factor.into() },
    }
}

fn gap_of_maxima(size: usize, shape: Nchw, x: &[f64]) -> f64 {
    let mut gap = f64::INFINITY;
    for plane in x.chunks(shape.pixels()) {
        for row in 0..shape.height / size {
            for column in 0..shape.width / size {
                let pixel = |i: usize| {
                    plane[(row * size + i / size) * shape.width + column * size + i % size]
                };
                let mut square: Vec<f64> = (0..size * size).map(pixel).collect();
                square.sort_by(|a, b| b.total_cmp(a));
                if let [first, second, ..] = square[..] {
                    gap = gap.min(first - second);
                }
            }
        }
    }
    gap
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::setup::{
        airbench, away_from_kinks, branching, graph, labels, pixels, residual, varied,
    };
    use crescendo_network::ActivationKind;

    #[test]
    fn gradients_match_finite_differences() {
        let smoothed = Loss {
            label_smoothing: 0.2,
            class_weights: Some((1..=10).map(|class| class as f32 / 4.0).collect()),
        };
        for (graph, loss) in [
            (graph(&residual(ActivationKind::LeakyRelu, 5), 8), Loss::default()),
            (graph(&residual(ActivationKind::Gelu, 0), 8), smoothed.clone()),
            (graph(&airbench(), 32), smoothed),
            (branching(), Loss::default()),
        ] {
            let state = varied(&graph, 1);
            let mut model = Model::new(&graph, &state);
            let (images, labels) = (away_from_kinks(&graph, &state, 2), labels(2));
            let gradients = model.evaluate(&images, &labels, &loss).gradients;
            let step = 1e-6;
            for (index, gradient) in gradients.iter().enumerate() {
                let parameter = &graph.parameters[index];
                if !parameter.requires_grad {
                    assert!(gradient.iter().all(|&g| g == 0.0), "{}", parameter.name);
                    continue;
                }
                let (mut off, mut size) = (0.0, 0.0);
                // A few numbers of each parameter, first and last among them.
                let len = gradient.len();
                for i in (0..len).step_by(len.div_ceil(5)).chain([len - 1]) {
                    let here = model.parameters[index][i];
                    let mut loss_at = |x: f64| {
                        model.parameters[index][i] = x;
                        let weights = class_weights(&loss);
                        let values = model.forward(&images);
                        let smoothing = loss.label_smoothing;
                        cross_entropy(values.logits(), &labels, smoothing, weights.as_deref())
                    };
                    let expected = (loss_at(here + step) - loss_at(here - step)) / (2.0 * step);
                    model.parameters[index][i] = here;
                    off += (gradient[i] - expected).powi(2);
                    size += expected.powi(2);
                }
                let (off, size) = (off.sqrt(), size.sqrt());
                assert!(off < 1e-6 * size + 1e-8, "{}: off by {off:e} of {size:e}", parameter.name);
            }
        }
    }

    #[test]
    fn the_gradients_of_parts_add_up() {
        let graph = graph(&residual(ActivationKind::Elu, 5), 8);
        let model = Model::new(&graph, &varied(&graph, 1));
        let (images, labels, loss) = (pixels(&graph, 3, 1), labels(3), Loss::default());
        let whole = model.evaluate(&images, &labels, &loss).gradients;
        let part = |part| model.gradients_of_part(&images, &labels, &loss, part);
        for ((whole, one), two) in whole.iter().zip(part(0..1)).zip(part(1..3)) {
            for ((whole, one), two) in whole.iter().zip(one).zip(two) {
                assert!((whole - (one + 2.0 * two) / 3.0).abs() < 1e-12);
            }
        }
    }
}
