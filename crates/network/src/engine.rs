//! The seam between training and computing: what a training loop asks of whatever computes.

use std::borrow::Cow;

use crate::{Error, Plan};

pub use crescendo_kernels::muon::MuonStep as Muon;
pub use crescendo_kernels::optimizer::SgdStep as Sgd;

/// Images and what they show.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// `[N, C, H, W]`, normalised, one image after another.
    pub images: &'a [f32],
    /// The class of each.
    pub labels: &'a [u16],
    /// The share of each label that is spread evenly over all classes.
    pub label_smoothing: f64,
}

impl<'a> Batch<'a> {
    /// With plain labels.
    pub fn new(images: &'a [f32], labels: &'a [u16]) -> Self {
        Batch { images, labels, label_smoothing: 0.0 }
    }
}

/// Computes a network: owns its parameters, gradients, BatchNorm statistics and the optimizer's
/// state, and hands them out by name.
///
/// One update is any number of [`backward`](Self::backward) (gradients add up), then
/// [`reduce`](Self::reduce), then [`update`](Self::update).
pub trait Engine {
    /// The plan of the network it computes.
    fn plan(&self) -> &Plan;

    /// Computes this plan from now on: the same network for images of this or another size.
    ///
    /// # Panics
    /// If its parameters or statistics are others.
    fn set_plan(&mut self, plan: Plan);

    /// Adds `weight` times the gradient of the batch's mean cross-entropy to the gradients, and
    /// updates the running statistics. BatchNorm's sums go through the communicator.
    fn backward(&mut self, batch: Batch, weight: f64, communicator: &dyn Communicator) -> Outcome;

    /// The same, one half of the images after the other on the way back (forward, all of them share
    /// BatchNorm's statistics). Also returns the squared norm of each half's mean gradient, of this
    /// process alone. Takes twice as long as [`backward`](Self::backward).
    ///
    /// # Panics
    /// If there are fewer than two images.
    fn backward_in_halves(
        &mut self,
        batch: Batch,
        weight: f64,
        communicator: &dyn Communicator,
    ) -> (Outcome, [f64; 2]);

    /// The squared norm of what was added to the gradients since this was last asked, or since they
    /// were cleared.
    fn gradient_change(&mut self) -> f64;

    /// The squared norm of the gradients.
    fn gradient_square(&self) -> f64;

    /// Computes `images` `[N, C, H, W]` with their own statistics, as in training, and blends those
    /// into the running ones, where they weigh `share`.
    fn blend_statistics(&mut self, images: &[f32], share: f64);

    /// Sums the gradients over all processes.
    fn reduce(&mut self, communicator: &dyn Communicator);

    /// Applies the gradients to the parameters, each by its rule, and clears them.
    ///
    /// # Panics
    /// If there is not one rule for each of [`Plan::parameters`].
    fn update(&mut self, rules: &[Rule]);

    /// Moves the average of models (parameters and running statistics) towards the model as it is now,
    /// which weighs `share` in it. The first time, it becomes the model.
    fn average(&mut self, share: f64);

    /// Exchanges the model and the average of models, where there is one.
    fn swap_average(&mut self);

    /// Says which of [`Plan::parameters`] are trained from now on; before, all are that the plan says. The
    /// gradients of the others stay zero, and nothing is computed for them alone.
    ///
    /// # Panics
    /// If there is not one answer for each.
    fn set_trained(&mut self, trained: &[bool]);

    /// The logits `[N, classes]` of `images` `[N, C, H, W]`, with the running statistics.
    fn logits(&mut self, images: &[f32]) -> Vec<f32>;

    /// All tensors of a section, in a fixed order.
    fn export(&self, section: Section) -> Vec<Tensor<'_>>;

    /// Replaces all tensors of a section.
    ///
    /// # Errors
    /// If a tensor is missing, unknown, or has another shape; nothing is replaced then.
    fn import(&mut self, section: Section, tensors: &[Tensor]) -> Result<(), Error>;
}

/// How a batch did before its update.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outcome {
    /// The mean cross-entropy.
    pub loss: f64,
    /// Images whose largest logit was their label's.
    pub correct: usize,
}

/// Sums over processes, in place. All processes call the same functions in the same order.
pub trait Communicator {
    /// Replaces each number by its sum over all processes.
    fn sum_f64(&self, values: &mut [f64]);
    /// Replaces each number by its sum over all processes.
    fn sum_f32(&self, values: &mut [f32]);
}

/// The communicator of a single process: every sum is what it was.
pub struct Alone;

impl Communicator for Alone {
    fn sum_f64(&self, _: &mut [f64]) {}
    fn sum_f32(&self, _: &mut [f32]) {}
}

/// How a parameter follows from its gradient.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rule {
    /// Stochastic gradient descent with momentum.
    Sgd(Sgd),
    /// Momentum, and steps that are orthogonal matrices: for weights of convolutions and linear layers.
    Muon(Muon),
    /// It stays as it is.
    Fixed,
}

/// What can be exported and imported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    /// Parameters and BatchNorm statistics: what a checkpoint holds.
    Model,
    /// The gradients, under their parameters' names.
    Gradients,
    /// The optimizer's velocities, under their parameters' names.
    Momentum,
    /// The average of models, under the model's names, without counts; nothing before there is one.
    Average,
}

/// Named numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor<'a> {
    /// Such as `start_layer.0.weight`.
    pub name: Cow<'a, str>,
    /// PyTorch's shape; empty for a single number.
    pub shape: Vec<usize>,
    /// The numbers, last dimension fastest.
    pub values: Values<'a>,
}

/// A tensor's numbers.
#[derive(Clone, Debug, PartialEq)]
pub enum Values<'a> {
    /// Real numbers.
    F32(Cow<'a, [f32]>),
    /// A count: `num_batches_tracked`.
    I64(i64),
}

impl<'a> Tensor<'a> {
    /// A tensor of real numbers.
    pub fn f32(
        name: impl Into<Cow<'a, str>>,
        shape: Vec<usize>,
        values: impl Into<Cow<'a, [f32]>>,
    ) -> Self {
        Tensor { name: name.into(), shape, values: Values::F32(values.into()) }
    }
}

/// Whether `given` has exactly the tensors that are `expected`, in any order.
///
/// # Errors
/// Names the first tensor that is missing, unknown, or of another shape or type.
pub(crate) fn check(expected: &[Tensor], given: &[Tensor]) -> Result<(), Error> {
    for tensor in expected {
        let name = &tensor.name;
        let Some(found) = given.iter().find(|given| given.name == *name) else {
            return Err(Error(format!("the tensor {name} is missing")));
        };
        if found.shape != tensor.shape {
            let (found, expected) = (&found.shape, &tensor.shape);
            return Err(Error(format!(
                "the tensor {name} has the shape {found:?}, but this network's has {expected:?}"
            )));
        }
        if std::mem::discriminant(&found.values) != std::mem::discriminant(&tensor.values) {
            return Err(Error(format!("the tensor {name} has the wrong type of numbers")));
        }
    }
    match given.iter().find(|given| expected.iter().all(|tensor| tensor.name != given.name)) {
        Some(unknown) => {
            Err(Error(format!("this network has no tensor of the name {}", unknown.name)))
        }
        None => Ok(()),
    }
}
