//! The engine: what computes a network. This is the seam between the training loop and a device.
//!
//! A device may work by itself, so calls queue work and return early. Losses and counts are collected in
//! the engine and read with [`Engine::next_result`], possibly a few updates late; everything else happens
//! in the order of the calls.

use crate::{Communicator, EngineError, Graph, Rule, Tensor};

/// Computes a network: owns its parameters, gradients, BatchNorm statistics and the optimizer's state.
///
/// One update is any number of [`accumulate`](Self::accumulate), then one [`update`](Self::update), which
/// gives one [`UpdateResult`]. The engine may apply an update whose loss is not finite: the trainer learns
/// of it with the result, and goes back to the last saved state.
pub trait Engine: Send {
    /// The graph that it computes.
    fn graph(&self) -> &Graph;

    /// Computes this graph from now on: the same network for images of this or another size. What an engine
    /// works out for an image size is kept, so that changing back is cheap.
    ///
    /// # Errors
    /// If the parameters or statistics differ, or the engine does not support the graph.
    fn set_graph(&mut self, graph: &Graph) -> Result<(), EngineError>;

    /// Sets the loss. Before, it is plain cross-entropy.
    ///
    /// # Errors
    /// If there is not one class weight for each class.
    fn set_loss(&mut self, loss: &Loss) -> Result<(), EngineError>;

    /// Sums over processes go through this communicator from now on. Before, there is one process.
    fn set_communicator(&mut self, communicator: Box<dyn Communicator>);

    /// Sets which of [`Graph::parameters`] are trained from now on. Before, all are that can be. The
    /// gradients of the others stay zero, and nothing is computed for them alone.
    ///
    /// # Panics
    /// If there is not one answer for each parameter.
    fn set_requires_grad(&mut self, requires_grad: &[bool]);

    /// Gives the engine a data set to keep on its device, so that batches come as [`Images::Samples`].
    /// Returns whether it does; an engine that does not takes images that are prepared ahead.
    ///
    /// # Errors
    /// If the device has too little memory.
    fn load_data(&mut self, _data: &DeviceData) -> Result<bool, EngineError> {
        Ok(false)
    }

    /// Adds the gradient of a micro-batch to the gradients, and its loss and counts to the update's result.
    /// Updates the running statistics.
    ///
    /// # Errors
    /// If the device or the communicator fails.
    fn accumulate(&mut self, batch: &MicroBatch) -> Result<(), EngineError>;

    /// Completes an update: sums the gradients over all processes, applies them to the parameters, each by
    /// its rule, and clears them.
    ///
    /// # Errors
    /// If the device or the communicator fails.
    ///
    /// # Panics
    /// If there is not one rule for each of [`Graph::parameters`].
    fn update(&mut self, rules: &[Rule]) -> Result<(), EngineError>;

    /// The result of the oldest update that has not been returned yet. `wait` says whether to wait for an
    /// update that is still being computed; without, or if there is none, the answer is `None`.
    ///
    /// # Errors
    /// If the device failed.
    fn next_result(&mut self, wait: bool) -> Result<Option<UpdateResult>, EngineError>;

    /// Blends the model (parameters and running statistics) into its average, where it gets the weight
    /// `share`. The first time, the average becomes a copy of the model.
    ///
    /// # Errors
    /// If the device fails.
    fn update_average(&mut self, share: f64) -> Result<(), EngineError>;

    /// Exchanges the model and its average, if there is one.
    ///
    /// # Errors
    /// If the device fails.
    fn swap_average(&mut self) -> Result<(), EngineError>;

    /// Computes `images` `[N, C, H, W]` as in training, with their own BatchNorm statistics, and blends
    /// those into the running ones, where they get the weight `share`.
    ///
    /// # Errors
    /// If the device fails.
    fn blend_statistics(&mut self, images: &[f32], share: f64) -> Result<(), EngineError>;

    /// The logits `[N, classes]` of `images` `[N, C, H, W]`, with the running statistics.
    ///
    /// # Errors
    /// If the device fails.
    fn logits(&mut self, images: &[f32]) -> Result<Vec<f32>, EngineError>;

    /// All tensors of a section, in a fixed order.
    ///
    /// # Errors
    /// If the device fails.
    fn export(&mut self, section: Section) -> Result<Vec<Tensor<'_>>, EngineError>;

    /// Replaces all tensors of a section.
    ///
    /// # Errors
    /// If a tensor is missing, unknown, or has another shape; nothing is replaced then.
    fn import(&mut self, section: Section, tensors: &[Tensor]) -> Result<(), EngineError>;

    /// The model, momentum buffers and average after all updates so far.
    ///
    /// # Errors
    /// If the device fails.
    fn snapshot(&mut self) -> Result<Snapshot<'_>, EngineError>;

    /// The time spent in each step since the last call, in the order of the forward pass.
    fn take_step_times(&mut self) -> Vec<StepTime>;

    /// Measures how many floating-point operations a second the device reaches at most.
    fn measure_peak(&mut self) -> f64;
}

/// A part of a batch that is computed at once, with BatchNorm statistics of its own.
#[derive(Clone, Copy, Debug)]
pub struct MicroBatch<'a> {
    /// The images.
    pub images: Images<'a>,
    /// The class of each image.
    pub labels: &'a [u16],
    /// The number of its images over that of the whole batch, in all processes.
    pub share: f64,
    /// [`Loss::mean_weight`] of the labels of the whole batch, in all processes: the loss is divided by the
    /// weights of the whole batch, however it is divided into micro-batches.
    pub mean_weight: f64,
    /// Whether it is the last of its batch, so that gradients are final as soon as they are computed.
    pub last: bool,
    /// Which squared gradient norms are measured: see [`GradientNorms`].
    pub measure: Measure,
}

impl<'a> MicroBatch<'a> {
    /// A whole batch of prepared images, for a loss without class weights.
    pub fn whole(images: &'a [f32], labels: &'a [u16]) -> Self {
        let images = Images::Prepared(images);
        let (share, mean_weight, measure) = (1.0, 1.0, Measure::Nothing);
        MicroBatch { images, labels, share, mean_weight, last: true, measure }
    }
}

/// The images of a micro-batch.
#[derive(Clone, Copy, Debug)]
pub enum Images<'a> {
    /// Normalised, `[N, C, H, W]`.
    Prepared(&'a [f32]),
    /// Of the data set that [`Engine::load_data`] took.
    Samples(&'a [Sample], &'a Preparation),
}

/// An image of the device's data set, and how it is augmented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Its index in the data set.
    pub index: u32,
    /// The row and column of the image at which the crop begins; negative ones lie in the border.
    pub crop: [i16; 2],
    /// Whether the crop is mirrored horizontally.
    pub flip: bool,
    /// The row and column at which the square of [`Preparation::cutout`] begins.
    pub cutout: [u16; 2],
}

/// How samples become input of the network.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Preparation {
    /// The colour of the border around an image; `None` if the image is mirrored at its edge.
    pub border: Option<[u8; 3]>,
    /// For each channel the mean and the standard deviation of bytes that normalise it; `None` if each
    /// channel of each image is normalised by its own.
    pub normalization: Option<[(f64, f64); 3]>,
    /// Rows and columns of the square that is set to zero after normalisation; 0 for none.
    pub cutout: usize,
    /// Rows and columns that the image is resized to, by the mean of areas.
    pub image_size: usize,
}

/// A data set for a device.
#[derive(Clone, Copy, Debug)]
pub struct DeviceData<'a> {
    /// `[N, C, H, W]` bytes.
    pub pixels: &'a [u8],
    /// The class of each image.
    pub labels: &'a [u16],
}

/// Which gradient norms of a micro-batch are measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Measure {
    /// None.
    #[default]
    Nothing,
    /// That of the micro-batch.
    MicroBatch,
    /// Those of its two halves. Both are normalised with the statistics of the whole micro-batch, and
    /// backward is computed for one half after the other. It needs two images.
    Halves,
}

/// What an update came to before its parameters changed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct UpdateResult {
    /// The loss of the batch (of this process's images).
    pub loss: f64,
    /// Images whose largest logit was their label's.
    pub correct: usize,
    /// Images of the batch (in this process).
    pub images: usize,
    /// What was measured, if anything.
    pub norms: Option<GradientNorms>,
}

/// Squared gradient norms, from which the gradient noise scale is estimated.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GradientNorms {
    /// For each micro-batch or half: its images, and the squared norm of the gradient of its mean loss.
    pub parts: Vec<(usize, f64)>,
    /// The squared norm of the gradient of the whole batch.
    pub whole: f64,
}

/// Cross-entropy of the softmax, as PyTorch's `CrossEntropyLoss`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Loss {
    /// The share of each label that is spread evenly over all classes (Szegedy et al. 2016, arXiv
    /// 1512.00567).
    pub label_smoothing: f64,
    /// A weight for each class, as PyTorch's `weight`: the loss of an image is multiplied by its class's, and
    /// the sum divided by the weights of all labels of the batch. `None` for equal weights.
    pub class_weights: Option<Vec<f32>>,
}

impl Loss {
    /// The mean class weight of these labels: 1 if there are no class weights.
    ///
    /// # Panics
    /// If a label has no weight.
    pub fn mean_weight(&self, labels: &[u16]) -> f64 {
        let Some(weights) = &self.class_weights else { return 1.0 };
        let of = |&label: &u16| f64::from(weights[usize::from(label)]);
        labels.iter().map(of).sum::<f64>() / labels.len() as f64
    }
}

/// What can be exported and imported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Section {
    /// Parameters and BatchNorm statistics: what a checkpoint holds.
    Model,
    /// The gradients, under their parameters' names.
    Gradients,
    /// The momentum buffers, under their parameters' names.
    Momentum,
    /// The average of the model, under the model's names, without counts; nothing before there is one.
    Average,
}

/// The tensors of [`Section::Model`], [`Section::Momentum`] and [`Section::Average`].
pub type State<'a> = Vec<(Section, Vec<Tensor<'a>>)>;

/// The state of an engine at one moment.
pub enum Snapshot<'a> {
    /// The engine's own memory: the caller reads it before it goes on.
    Borrowed(State<'a>),
    /// A copy, which the device may still be making. Any thread can wait for it, while the engine trains on.
    Copy(Box<dyn FnOnce() -> Result<State<'static>, EngineError> + Send>),
}

/// The time that was spent in a step of the network.
#[derive(Clone, Debug, PartialEq)]
pub struct StepTime {
    /// The operation, as an index of [`Graph::nodes`].
    pub node: usize,
    /// Seconds of the forward pass.
    pub forward: f64,
    /// Seconds of the backward pass.
    pub backward: f64,
    /// Whether backward computes the gradient of the step's input.
    pub input_gradient: bool,
}
