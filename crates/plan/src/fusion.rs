//! Fusion: from the operations of a graph to the steps that kernels compute.
//!
//! A convolution, a pooling or a linear layer produces a *tensor*: numbers in memory. BatchNorm, activations
//! and residual additions do not. They become part of how the next step reads its input,
//! `activation(norm(tensor) + residual)`, which its kernel's prologue computes. Where that value is needed
//! again (a block's output is the input of the next block and its residual), the first step that reads it
//! saves it as a tensor.
//!
//! What cannot be read in this form (an activation of an activation, a sum of two activations) is written
//! to memory first, by a step of its own.

use crescendo_network::{Activation, Error, Graph, GraphNode, Operation, Shape, Value};

/// A tensor, as an index of [`FusedGraph::tensors`]. The first one is the images.
///
/// See the example of [`FusedGraph`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TensorId(pub usize);

/// The images, as they come.
pub const IMAGES: TensorId = TensorId(0);

/// A tensor: what it holds, and which step writes it.
///
/// See the example of [`FusedGraph`].
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct TensorInfo {
    /// The value of the network that it holds.
    pub value: Value,
    /// Its shape for one image.
    pub shape: Shape,
    /// The step that writes it; `None` for the images.
    pub producer: Option<usize>,
    /// Whether its producer writes it while it reads its input.
    pub saved: bool,
}

/// A tensor, normalised by a BatchNorm or as it is.
///
/// See the example of [`FusedGraph`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NormedTensor {
    /// The tensor.
    pub tensor: TensorId,
    /// The BatchNorm, as an index of [`Graph::statistics`].
    pub norm: Option<usize>,
}

/// What a step reads: `activation(main + residual)`.
///
/// See the example of [`FusedGraph`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FusedInput {
    /// The first term.
    pub main: NormedTensor,
    /// What is added to it.
    pub residual: Option<NormedTensor>,
    /// What is applied to the sum.
    pub activation: Option<Activation>,
}

impl FusedInput {
    /// A tensor as it is.
    pub fn plain(tensor: TensorId) -> Self {
        let main = NormedTensor { tensor, norm: None };
        FusedInput { main, residual: None, activation: None }
    }

    /// Whether it is a tensor as it is.
    pub fn is_plain(&self) -> bool {
        *self == FusedInput::plain(self.main.tensor)
    }

    /// What is added before the activation.
    pub fn terms(&self) -> impl Iterator<Item = NormedTensor> + use<> {
        [Some(self.main), self.residual].into_iter().flatten()
    }
}

/// What a step computes. Sizes that are not here are those of its operation and of its tensors.
///
/// See the example of [`FusedGraph`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum StepKind {
    /// A convolution, with its bias if it has one.
    Convolution,
    /// Average pooling over squares of this size.
    AveragePool(usize),
    /// Max-pooling over squares of this size.
    MaxPool(usize),
    /// Writes its input to memory.
    Write,
    /// From maps to a vector.
    Flatten,
    /// A linear layer, with its bias if it has one.
    Linear,
    /// An activation of a vector.
    Activation(Activation),
}

/// One step.
///
/// See the example of [`FusedGraph`].
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct FusedStep {
    /// The operation, as an index of [`Graph::nodes`]; for [`StepKind::Write`] the one whose output is
    /// written.
    pub node: usize,
    /// What it computes.
    pub kind: StepKind,
    /// What it reads.
    pub input: FusedInput,
    /// The tensor in which the input is saved as it was read, if it is needed again.
    pub save_input: Option<TensorId>,
    /// The tensor that it computes.
    pub output: TensorId,
    /// The BatchNorm of the output, whose sums the epilogue computes, as an index of [`Graph::statistics`].
    pub norm: Option<usize>,
}

impl FusedStep {
    /// How backward reads the input again: the saved tensor, if there is one.
    pub fn backward_input(&self) -> FusedInput {
        self.save_input.map_or(self.input, FusedInput::plain)
    }
}

/// The steps of a forward pass. A convolution, a pooling or a linear layer is a step and produces a tensor; BatchNorm,
/// activations and residual additions become part of how the next step reads its input. What cannot be read so is
/// written to memory by a step of its own, [`StepKind::Write`].
///
/// # Example
///
/// ```
/// use crescendo_network::{Activation, Graph, Init, NetworkBuilder, Operation, Shape};
/// use crescendo_plan::{FusedGraph, FusedInput, IMAGES, NormedTensor, StepKind, TensorId};
///
/// let mut builder = NetworkBuilder::new(Shape::Maps { channels: 3, height: 8, width: 8 });
/// let (kernel, stride, padding, bias, init) = (3, 1, 1, false, Init::Uniform);
/// let convolution = Operation::Convolution { outputs: 4, kernel, stride, padding, bias, init };
/// let x = builder.add("convolution", convolution, [builder.images()]);
/// let x = builder.add("norm", Operation::BatchNorm { eps: 1e-5, scale: true, new_weight: 0.1 }, [x]);
/// let x = builder.add("relu", Operation::Activation(Activation::Relu), [x]);
/// let x = builder.add("flatten", Operation::Flatten, [x]);
/// builder.add("logits", Operation::Linear { outputs: 10, bias: true, init }, [x]);
/// let fused = FusedGraph::new(&Graph::new(&builder.finish())?)?;
///
/// let kinds: Vec<StepKind> = fused.steps.iter().map(|step| step.kind).collect();
/// assert_eq!(kinds, [StepKind::Convolution, StepKind::Flatten, StepKind::Linear]);
/// assert_eq!(fused.steps[0].input, FusedInput::plain(IMAGES));
/// // The convolution computes BatchNorm's sums; the step after it normalises as it reads.
/// assert_eq!(fused.steps[0].norm, Some(0));
/// let main = NormedTensor { tensor: TensorId(1), norm: Some(0) };
/// let input = FusedInput { main, residual: None, activation: Some(Activation::Relu) };
/// assert_eq!(fused.steps[1].input, input);
/// assert_eq!(fused.tensors[1].shape, Shape::Maps { channels: 4, height: 8, width: 8 });
/// # Ok::<(), crescendo_network::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct FusedGraph {
    /// What lies in memory; the images first, the logits last.
    pub tensors: Vec<TensorInfo>,
    /// The steps in order.
    pub steps: Vec<FusedStep>,
}

impl FusedGraph {
    /// Fuses the operations of a graph.
    ///
    /// # Errors
    /// If the graph has a combination of operations that is not supported.
    pub fn new(graph: &Graph) -> Result<FusedGraph, Error> {
        if graph.input.maps().is_none() {
            return Err(Error("the input of the network must be images, not vectors".into()));
        }
        let images =
            TensorInfo { value: Value(0), shape: graph.input, producer: None, saved: false };
        let mut fusion = Fusion {
            graph,
            uses: uses(graph),
            inputs: vec![FusedInput::plain(IMAGES)],
            fused: FusedGraph { tensors: vec![images], steps: Vec::new() },
        };
        for (index, node) in graph.nodes.iter().enumerate() {
            let input = fusion.fuse(index, node)?;
            fusion.inputs.push(input);
        }
        Ok(fusion.fused)
    }

    /// The tensor of the logits.
    pub fn logits(&self) -> TensorId {
        TensorId(self.tensors.len() - 1)
    }

    /// The step that writes a tensor; `None` for the images.
    pub fn producer(&self, tensor: TensorId) -> Option<&FusedStep> {
        self.tensors[tensor.0].producer.map(|index| &self.steps[index])
    }
}

/// How many operations read each value of a graph.
pub(crate) fn uses(graph: &Graph) -> Vec<usize> {
    let mut uses = vec![0; graph.nodes.len() + 1];
    for input in graph.nodes.iter().flat_map(|node| &node.inputs) {
        uses[input.0] += 1;
    }
    uses
}

struct Fusion<'a> {
    graph: &'a Graph,
    uses: Vec<usize>,
    /// How each value so far is read.
    inputs: Vec<FusedInput>,
    fused: FusedGraph,
}

impl Fusion<'_> {
    /// Adds a step for an operation, if it needs one; returns how the operation's output is read.
    fn fuse(&mut self, index: usize, node: &GraphNode) -> Result<FusedInput, Error> {
        let input = node.inputs[0];
        match node.operation {
            Operation::Convolution { .. } => Ok(self.push(index, StepKind::Convolution, input)),
            Operation::AveragePool { size } => {
                Ok(self.push(index, StepKind::AveragePool(size), input))
            }
            Operation::MaxPool { size } => Ok(self.push(index, StepKind::MaxPool(size), input)),
            Operation::Flatten => Ok(self.push(index, StepKind::Flatten, input)),
            Operation::Linear { .. } => Ok(self.push(index, StepKind::Linear, input)),
            Operation::BatchNorm { .. } => {
                let tensor = self.tensor(input);
                if self.uses[input.0] > 1 {
                    return Err(unsupported(node, "another operation reads its input"));
                }
                let Some(producer) = self.fused.tensors[tensor.0].producer else {
                    return Err(unsupported(node, "it would normalise the images themselves"));
                };
                let norm = node.statistics;
                self.fused.steps[producer].norm = norm;
                let main = NormedTensor { tensor, norm };
                Ok(FusedInput { main, residual: None, activation: None })
            }
            Operation::Activation(f) if matches!(node.input, Shape::Vector { .. }) => {
                Ok(self.push(index, StepKind::Activation(f), input))
            }
            Operation::Activation(f) => {
                let before = self.inputs[input.0];
                let open = before.activation.is_none() && self.uses[input.0] == 1;
                let before = if open { before } else { FusedInput::plain(self.tensor(input)) };
                Ok(FusedInput { activation: Some(f), ..before })
            }
            Operation::Add if matches!(node.input, Shape::Vector { .. }) => {
                Err(unsupported(node, "it adds vectors"))
            }
            Operation::Add => {
                let [main, other] = [input, node.inputs[1]].map(|value| self.term(value));
                Ok(FusedInput { main, residual: Some(other), activation: None })
            }
        }
    }

    /// A value as a term of a sum.
    fn term(&mut self, value: Value) -> NormedTensor {
        let input = self.inputs[value.0];
        let bare = input.residual.is_none() && input.activation.is_none();
        // If others read a BatchNorm's output too, it must be one tensor for all of them.
        let single = input.main.norm.is_none() || self.uses[value.0] == 1;
        if bare && single {
            input.main
        } else {
            NormedTensor { tensor: self.tensor(value), norm: None }
        }
    }

    /// A value as a tensor: written to memory, unless it is one.
    fn tensor(&mut self, value: Value) -> TensorId {
        let input = self.inputs[value.0];
        if input.is_plain() {
            return input.main.tensor;
        }
        let written = self.push(value.0 - 1, StepKind::Write, value);
        self.inputs[value.0] = written;
        written.main.tensor
    }

    /// Adds a step that reads `value`; returns how its output is read.
    fn push(&mut self, node: usize, kind: StepKind, value: Value) -> FusedInput {
        let input = self.inputs[value.0];
        let index = self.fused.steps.len();
        let mut add = |value: Value, saved| {
            let shape = self.graph.shape(value);
            self.fused.tensors.push(TensorInfo { value, shape, producer: Some(index), saved });
            TensorId(self.fused.tensors.len() - 1)
        };
        // A step that writes its input to memory anyway need not save it.
        let again = !input.is_plain() && self.uses[value.0] > 1 && kind != StepKind::Write;
        let save_input = again.then(|| add(value, true));
        let output = add(Value(node + 1), false);
        if let Some(saved) = save_input {
            self.inputs[value.0] = FusedInput::plain(saved);
        }
        self.fused.steps.push(FusedStep { node, kind, input, save_input, output, norm: None });
        FusedInput::plain(output)
    }
}

fn unsupported(node: &GraphNode, problem: &str) -> Error {
    Error(format!("{}: {problem}, which is not supported", node.name))
}
