//! The gradients of a backward pass: which there are, and how each is put together.
//!
//! Backward visits the steps in reverse order. A step starts from the gradient of its output and delivers
//! the gradient of its input. Where several steps read a value, each delivers a part; the step that read it
//! first is the last to deliver, and completes the gradient: its kernel's epilogue multiplies by the
//! derivative of the activation and computes the sums that the BatchNorms before it need.

use crescendo_network::{Activation, Error, Graph, Shape};

use crate::fusion::{FusedGraph, FusedInput, FusedStep, IMAGES, NormedTensor, TensorId, uses};

/// The gradient of a value that is read, before its activation: where the backward of its BatchNorms, and
/// of its residual, starts.
///
/// See the example of [`GradientPlan`].
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct GradientInfo {
    /// How the value is read for the first time.
    pub input: FusedInput,
    /// Where it is saved, if its first reader saves it.
    pub saved: Option<TensorId>,
    /// Its shape for one image.
    pub shape: Shape,
}

impl GradientInfo {
    /// The saved output of the activation, if the activation's derivative can be computed from it.
    pub fn saved_output(&self) -> Option<TensorId> {
        let from_output = Activation::derivative_from_output;
        self.saved.filter(|_| self.input.activation.is_some_and(from_output))
    }
}

/// How a step delivers the gradient of its input.
///
/// See the example of [`GradientPlan`].
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Delivery {
    /// The gradient that it adds to or completes, as an index of [`GradientPlan::gradients`].
    pub gradient: usize,
    /// Whether another step has delivered a part before.
    pub accumulate: bool,
    /// Complete gradients that are further parts: of sums in which the value is a residual.
    pub addends: Vec<usize>,
    /// Whether this completes the gradient.
    pub last: bool,
}

/// The backward of one step.
///
/// See the example of [`GradientPlan`].
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct StepGradients {
    /// The gradient of its output, from which it starts.
    pub output: usize,
    /// Where the gradient of its input goes; `None` for the images.
    pub delivery: Option<Delivery>,
}

/// The gradients of a backward pass, which visits the steps in reverse order: each starts from the gradient of its output
/// and delivers that of its input. Where several steps read a value, each delivers a part, and the one that read it first
/// completes the gradient.
///
/// # Example
///
/// ```
/// use crescendo_network::{Graph, NetworkConfig, Shape};
/// use crescendo_plan::{Delivery, FusedGraph, GradientPlan};
///
/// let images = Shape::Maps { channels: 3, height: 32, width: 32 };
/// let config = NetworkConfig { blocks: vec![2], widths: vec![8], ..NetworkConfig::paper() };
/// let graph = Graph::new(&config.network(images)?)?;
/// let plan = GradientPlan::new(&graph, &FusedGraph::new(&graph)?)?;
///
/// // The images get no gradient.
/// assert!(plan.steps[0].delivery.is_none());
/// // Each other gradient is completed once; the loss gives that of the logits.
/// let complete = |delivery: &&Delivery| delivery.last;
/// let deliveries = plan.steps.iter().filter_map(|step| step.delivery.as_ref());
/// let mut completed: Vec<usize> = deliveries.filter(complete).map(|d| d.gradient).collect();
/// completed.sort_unstable();
/// assert_eq!(completed, (0..plan.logits()).collect::<Vec<_>>());
/// assert_eq!(plan.gradients[plan.logits()].shape, Shape::Vector { features: 10 });
/// # Ok::<(), crescendo_network::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct GradientPlan {
    /// All gradients; that of the logits last.
    pub gradients: Vec<GradientInfo>,
    /// One for each step of the [`FusedGraph`].
    pub steps: Vec<StepGradients>,
}

impl GradientPlan {
    /// Works out the gradients.
    ///
    /// # Errors
    /// If a value is read in a combination of ways that is not supported.
    pub fn new(graph: &Graph, fused: &FusedGraph) -> Result<GradientPlan, Error> {
        let mut planner = Planner {
            graph,
            fused,
            uses: uses(graph),
            gradients: Vec::new(),
            of_tensor: vec![None; fused.tensors.len()],
            completed_by: Vec::new(),
        };
        let mut deliveries = planner.deliveries()?;
        planner.add_logits();
        // Backward meets later readers first.
        let mut begun = vec![false; planner.gradients.len()];
        for delivery in deliveries.iter_mut().rev().flatten() {
            delivery.accumulate = begun[delivery.gradient];
            begun[delivery.gradient] = true;
        }
        planner.add_addends(&mut deliveries)?;
        let steps = fused.steps.iter().zip(deliveries).map(|(step, delivery)| {
            let output = planner.of_tensor[step.output.0]
                .ok_or_else(|| planner.unsupported(step.output, "is only added to other values"))?;
            Ok(StepGradients { output, delivery })
        });
        let steps = steps.collect::<Result<Vec<_>, Error>>()?;
        Ok(GradientPlan { gradients: planner.gradients, steps })
    }

    /// The gradient of the logits.
    pub fn logits(&self) -> usize {
        self.gradients.len() - 1
    }
}

struct Planner<'a> {
    graph: &'a Graph,
    fused: &'a FusedGraph,
    uses: Vec<usize>,
    gradients: Vec<GradientInfo>,
    /// The gradient that belongs to each tensor.
    of_tensor: Vec<Option<usize>>,
    /// The step that completes each gradient: the first reader, which is the last in backward.
    completed_by: Vec<usize>,
}

impl Planner<'_> {
    /// Which gradient each step delivers to, and whether it completes it.
    fn deliveries(&mut self) -> Result<Vec<Option<Delivery>>, Error> {
        let mut deliveries = Vec::new();
        for (index, &FusedStep { input, save_input, .. }) in self.fused.steps.iter().enumerate() {
            if input.main.tensor == IMAGES {
                if !input.is_plain() {
                    let node = &self.graph.nodes[self.fused.steps[index].node];
                    return Err(Error(format!(
                        "{}: the first operation on the images must be a convolution, a pooling or \
                         flattening",
                        node.name
                    )));
                }
                deliveries.push(None);
                continue;
            }
            let known = self.of_tensor[input.main.tensor.0].filter(|_| input.is_plain());
            let gradient = known.unwrap_or(self.gradients.len());
            if known.is_none() {
                let shape = self.fused.tensors[input.main.tensor.0].shape;
                self.gradients.push(GradientInfo { input, saved: save_input, shape });
                self.completed_by.push(index);
                for term in input.terms() {
                    if self.is_own(&input, term) {
                        self.of_tensor[term.tensor.0] = Some(gradient);
                    }
                }
                if let Some(saved) = save_input {
                    self.of_tensor[saved.0] = Some(gradient);
                }
            }
            let (last, addends) = (known.is_none(), Vec::new());
            deliveries.push(Some(Delivery { gradient, accumulate: false, addends, last }));
        }
        Ok(deliveries)
    }

    fn add_logits(&mut self) {
        let logits = self.fused.logits();
        let shape = self.fused.tensors[logits.0].shape;
        self.of_tensor[logits.0] = Some(self.gradients.len());
        let input = FusedInput::plain(logits);
        self.gradients.push(GradientInfo { input, saved: None, shape });
    }

    /// The gradient of a sum is a part of that of each term that has other readers.
    fn add_addends(&self, deliveries: &mut [Option<Delivery>]) -> Result<(), Error> {
        for (sum, &at) in self.completed_by.iter().enumerate() {
            let input = self.gradients[sum].input;
            for term in input.terms() {
                if self.is_own(&input, term) {
                    continue;
                }
                let step = self.of_tensor[term.tensor.0].map(|of| self.completed_by[of]);
                let Some(step) = step.filter(|&step| step < at) else {
                    return Err(self.unsupported(term.tensor, "is added before it is read"));
                };
                let delivery = deliveries[step].as_mut();
                let addends = &mut delivery.expect("it completes a gradient").addends;
                addends.push(sum);
                if addends.len() > 2 {
                    return Err(self.unsupported(term.tensor, "is added to more than two sums"));
                }
            }
        }
        Ok(())
    }

    /// Whether only this input reads the term, so that the input's gradient is the term's too.
    fn is_own(&self, input: &FusedInput, term: NormedTensor) -> bool {
        let info = &self.fused.tensors[term.tensor.0];
        input.is_plain() || term.norm.is_some() || (!info.saved && self.uses[info.value.0] == 1)
    }

    fn unsupported(&self, tensor: TensorId, problem: &str) -> Error {
        let value = self.fused.tensors[tensor.0].value;
        let name = value.0.checked_sub(1).map_or("the images", |i| &self.graph.nodes[i].name);
        Error(format!("{name}: its output {problem}, which is not supported"))
    }
}
