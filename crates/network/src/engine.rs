//! The engine: what computes a network. This is the interface between the training loop and a device.

use crate::{BatchPart, Communicator, EngineError, Graph, Rule, Shape, Tensor};

/// Computes a network: owns its parameters, gradients, BatchNorm statistics and the optimizer's state.
///
/// One update is any number of [`accumulate`](Self::accumulate), then one [`update`](Self::update), which
/// gives one [`UpdateResult`]. The engine may apply an update whose loss is not finite: the trainer stops when
/// it reads that result, and the last saved state is not affected.
///
/// Calls may be asynchronous: an engine may queue the work and return. It borrows arguments only during the call, and
/// copies what it needs later. Everything but the results takes effect in the order of the calls, and the same calls give
/// the same bits on the same device. After an error the engine is of no more use.
///
/// `set_graph`, `set_loss`, `set_communicator`, `swap_average`, `import` and `snapshot` are called between
/// updates only, not between `accumulate` and `update`.
///
/// The crate `crescendo-conformance` has tests for every engine.
///
/// # Example
///
/// The documentation of `crescendo-cpu` has examples that run. An update:
///
/// ```
/// use crescendo_network::{Engine, EngineError, MicroBatch, Rule, Sgd};
///
/// /// One update with a batch of `images` `[N, C, H, W]`. Returns its loss, and the squared norm of its gradient.
/// fn step(engine: &mut dyn Engine, images: &[f32], labels: &[u16]) -> Result<(f64, f64), EngineError> {
///     let sgd = Sgd { learning_rate: 0.1, momentum: 0.9, ..Sgd::default() };
///     let rules = vec![Rule::Sgd(sgd); engine.graph().parameters.len()];
///     engine.accumulate(&MicroBatch { measure: true, ..MicroBatch::whole(images, labels) })?;
///     engine.update(&rules)?;
///     let result = engine.next_result(true)?.expect("an update was queued");
///     Ok((result.loss, result.norms.expect("they were measured").whole))
/// }
/// ```
pub trait Engine: Send {
    /// The graph that it computes.
    fn graph(&self) -> &Graph;

    /// Computes this graph from now on: the same network for images of this or another size. What an engine
    /// works out for an image size is kept, so that changing back is cheap.
    ///
    /// # Errors
    /// If its operations or parameters differ, or the engine does not support the graph.
    fn set_graph(&mut self, graph: &Graph) -> Result<(), EngineError>;

    /// Sets the loss. The default is cross-entropy without label smoothing and class weights.
    ///
    /// # Errors
    /// If there is not one class weight for each class.
    fn set_loss(&mut self, loss: &Loss) -> Result<(), EngineError>;

    /// Sets the communicator of a run with several processes. The default is [`SingleProcess`](crate::SingleProcess).
    fn set_communicator(&mut self, communicator: Box<dyn Communicator>);

    /// Sets for which of [`Graph::parameters`] gradients are computed. The default is their `requires_grad`;
    /// a parameter without it stays frozen. Gradients of the others are zero. To keep a parameter
    /// unchanged in an update, give it [`Rule::Frozen`].
    ///
    /// # Panics
    /// If there is not one answer for each parameter.
    fn set_requires_grad(&mut self, requires_grad: &[bool]);

    /// Offers the engine a data set to keep in its device's memory. If it returns `true`, batches come as
    /// [`Images::Samples`] of the last data set that it took; if `false`, as [`Images::Prepared`]. An engine
    /// without enough memory for the data returns `false`.
    ///
    /// # Errors
    /// If the device fails.
    fn load_data(&mut self, _data: &DeviceData) -> Result<bool, EngineError> {
        Ok(false)
    }

    /// Adds the gradient of a process's part of a micro-batch to the gradients, and its loss and counts to the update's
    /// result. Updates the running statistics. The parts of an update come in the order of
    /// [`BatchTree::parts`](crate::BatchTree::parts); a part without images takes part in the sums over processes.
    ///
    /// # Errors
    /// If the device or the communicator fails, or the engine does not take such [`Images`].
    ///
    /// # Panics
    /// If there are not the images of the part, not one label for each image, or a label is not a class.
    fn accumulate(&mut self, batch: &MicroBatch) -> Result<(), EngineError>;

    /// Completes an update: sums the gradients, the loss and the counts over all processes, applies the gradients to the
    /// parameters, each by its rule, and clears them.
    ///
    /// # Errors
    /// If the device or the communicator fails.
    ///
    /// # Panics
    /// If there is not one rule for each of [`Graph::parameters`].
    fn update(&mut self, rules: &[Rule]) -> Result<(), EngineError>;

    /// Takes the result of the oldest update that has not been read. Returns `None` if there is none, or, with
    /// `wait = false`, if it is not finished.
    ///
    /// # Errors
    /// If the device failed.
    fn next_result(&mut self, wait: bool) -> Result<Option<UpdateResult>, EngineError>;

    /// Updates the average of the model (parameters and running statistics, not counts):
    /// `average = (1 - weight) * average + weight * model`. The first call copies the model.
    ///
    /// # Errors
    /// If the device fails.
    fn update_average(&mut self, weight: f64) -> Result<(), EngineError>;

    /// Exchanges the model and its average; does nothing if there is no average. Counts and momentum buffers
    /// stay.
    ///
    /// # Errors
    /// If the device fails.
    fn swap_average(&mut self) -> Result<(), EngineError>;

    /// Computes a batch of one micro-batch as in training, with its own BatchNorm statistics, and blends those into the
    /// running ones: `running = (1 - weight) * running + weight * batch`, with the unbiased variance. Counts stay.
    /// `images` `[N, C, H, W]` are those of `part`, this process's part of the batch.
    ///
    /// # Errors
    /// If the device or another process fails.
    ///
    /// # Panics
    /// If they are not the images of the part.
    fn blend_statistics(
        &mut self,
        images: &[f32],
        part: &BatchPart,
        weight: f64,
    ) -> Result<(), EngineError>;

    /// Lets calls of [`logits_into`](Self::logits_into) for few images take algorithms that are faster for them. Their
    /// logits differ from those of larger calls in the last bits.
    fn favor_latency(&mut self) {}

    /// Writes the logits `[N, classes]` of `images` `[N, C, H, W]` to `logits`, with the running statistics.
    ///
    /// # Errors
    /// If the device fails.
    ///
    /// # Panics
    /// If the images are not whole, or there is not one logit for each image and class.
    fn logits_into(&mut self, images: &[f32], logits: &mut [f32]) -> Result<(), EngineError>;

    /// The logits `[N, classes]` of `images` `[N, C, H, W]`: see [`logits_into`](Self::logits_into).
    ///
    /// # Errors
    /// If the device fails.
    ///
    /// # Panics
    /// If the images are not whole.
    fn logits(&mut self, images: &[f32]) -> Result<Vec<f32>, EngineError> {
        let count = images.len() / self.graph().input.len();
        let mut logits = vec![0.0; count * self.graph().classes()];
        self.logits_into(images, &mut logits)?;
        Ok(logits)
    }

    /// All tensors of a section: the model and the average in the order of [`Graph::state`], the others in that
    /// of [`Graph::parameters`].
    ///
    /// # Errors
    /// If the device fails.
    fn export(&mut self, section: Section) -> Result<Vec<Tensor<'_>>, EngineError>;

    /// Replaces all tensors of a section, given in any order; the other sections stay.
    ///
    /// # Errors
    /// If a tensor is missing, unknown, or has another shape; nothing is replaced then.
    fn import(&mut self, section: Section, tensors: &[Tensor]) -> Result<(), EngineError>;

    /// The model, momentum buffers and average after all updates so far.
    ///
    /// # Errors
    /// If the device fails.
    fn snapshot(&mut self) -> Result<Snapshot<'_>, EngineError>;

    /// The time spent in each step since the last call, in the order of the forward pass. Waits for the device.
    fn take_step_times(&mut self) -> Vec<StepTime>;

    /// What the engine has chosen by timing its first updates, in words, such as `64 tiles at a time`; empty if there was
    /// nothing to choose, `None` while it still tries.
    fn choices(&self) -> Option<String> {
        Some(String::new())
    }

    /// What an update with a batch of so many images must do at least; `None` where the engine does not count it.
    fn work(&self, _images: usize) -> Option<UpdateWork> {
        None
    }

    /// Measures the peak rates of the device.
    ///
    /// # Errors
    /// If the device fails.
    fn measure_peaks(&mut self) -> Result<Peaks, EngineError>;
}

/// A process's part of what is computed at once, with BatchNorm statistics of its own.
///
/// # Example
///
/// ```
/// use crescendo_network::{BatchTree, Images, Loss, MicroBatch};
///
/// // A batch of five images in micro-batches of at most two, in one process.
/// let (images, labels) = (vec![0.0; 5 * 3072], [0, 1, 1, 2, 0]);
/// let loss = Loss { class_weights: Some(vec![1.0, 0.5, 2.0]), ..Loss::default() };
/// loss.check(3)?;
/// let mean_weight = loss.mean_weight(&labels);
/// assert_eq!(mean_weight, 1.0);
/// let parts: Vec<MicroBatch> = BatchTree::new(5, 2)
///     .parts(0, 1)
///     .map(|part| {
///         let own = part.images();
///         MicroBatch {
///             images: Images::Prepared(&images[3072 * own.start..3072 * own.end]),
///             labels: &labels[own],
///             part,
///             mean_weight,
///             measure: false,
///         }
///     })
///     .collect();
/// assert_eq!(parts.iter().map(|part| part.labels.len()).collect::<Vec<_>>(), [2, 2, 1]);
/// assert_eq!(parts.iter().map(|part| part.part.is_last()).collect::<Vec<_>>(), [false, false, true]);
/// # Ok::<(), crescendo_network::EngineError>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct MicroBatch<'a> {
    /// The images of the part.
    pub images: Images<'a>,
    /// The class of each image.
    pub labels: &'a [u16],
    /// Which part of the batch it is.
    pub part: BatchPart,
    /// [`Loss::mean_weight`] of the labels of the whole batch, in all processes: the loss is divided by the
    /// weights of the whole batch, however it is divided into micro-batches.
    pub mean_weight: f64,
    /// Whether squared gradient norms are measured: see [`GradientNorms`]. It is the same for all parts of a batch, in all
    /// processes.
    pub measure: bool,
}

impl<'a> MicroBatch<'a> {
    /// A whole batch of prepared images, for a loss without class weights.
    ///
    /// # Panics
    /// If there are no labels.
    pub fn whole(images: &'a [f32], labels: &'a [u16]) -> Self {
        let (images, part) = (Images::Prepared(images), BatchPart::whole(labels.len()));
        MicroBatch { images, labels, part, mean_weight: 1.0, measure: false }
    }
}

/// The images of a micro-batch.
///
/// See the examples of [`MicroBatch`] and [`Preparation`], which have one kind each.
#[derive(Clone, Copy, Debug)]
pub enum Images<'a> {
    /// Normalised, `[N, C, H, W]`.
    Prepared(&'a [f32]),
    /// Of the data set that [`Engine::load_data`] took.
    Samples(&'a [Sample], &'a Preparation),
}

/// An image of the device's data set, and how it is augmented. See [`Preparation`].
///
/// See the example of [`Preparation`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Its index in the data set.
    pub index: u32,
    /// Row and column of the crop's top left corner, relative to the image's. They may be negative.
    pub crop: [i16; 2],
    /// Whether the crop is mirrored horizontally.
    pub flip: bool,
    /// Row and column of the cutout's top left corner, in the flipped crop.
    pub cutout: [u16; 2],
}

/// How samples become the input of the network, in this order:
///
/// 1. A crop of the image's size is taken at [`Sample::crop`]; pixels outside the image come from `border`.
/// 2. It is mirrored horizontally if [`Sample::flip`] says so.
/// 3. Its bytes are normalised: `(byte - mean) * (1 / deviation)` in f64, rounded to f32.
/// 4. The square of `cutout` rows and columns at [`Sample::cutout`] is set to zero in all channels.
/// 5. If `image_size` is not the image's, it is resized to `image_size` rows and columns; each pixel is the mean of
///    the area that it covers.
///
/// # Example
///
/// ```
/// use crescendo_network::{
///     BorderPixels, ChannelStatistics, DeviceData, Engine, EngineError, Images, MicroBatch,
///     Preparation, Sample, Shape,
/// };
///
/// /// Gives an engine the data, and adds the gradient of the first two images: one moved to the right by two pixels,
/// /// one mirrored, each with a square of 8x8 pixels set to zero.
/// fn accumulate(engine: &mut dyn Engine, pixels: &[u8], labels: &[u16]) -> Result<(), EngineError> {
///     let shape = Shape::Maps { channels: 3, height: 32, width: 32 };
///     if !engine.load_data(&DeviceData { pixels, shape })? {
///         return Err(EngineError::Unsupported("the engine takes prepared images only".into()));
///     }
///     let moved = Sample { index: 0, crop: [0, -2], flip: false, cutout: [3, 20] };
///     let mirrored = Sample { index: 1, crop: [0, 0], flip: true, cutout: [24, 0] };
///     let preparation = Preparation {
///         border: BorderPixels::Reflect,
///         normalization: ChannelStatistics::Fixed([(125.3, 63.0), (123.0, 62.1), (113.9, 66.7)]),
///         cutout: 8,
///         image_size: 32,
///     };
///     let images = Images::Samples(&[moved, mirrored], &preparation);
///     engine.accumulate(&MicroBatch { images, ..MicroBatch::whole(&[], &labels[..2]) })
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Preparation {
    /// The pixels outside an image.
    pub border: BorderPixels,
    /// Means and standard deviations.
    pub normalization: ChannelStatistics,
    /// Rows and columns of the square that is set to zero; 0 for none.
    pub cutout: usize,
    /// Rows and columns of the network's input.
    pub image_size: usize,
}

/// The pixels outside an image, in bytes.
///
/// See the example of [`Preparation`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BorderPixels {
    /// A value for each channel.
    Constant([u8; 3]),
    /// The image mirrored at its edge pixels, which are not repeated.
    Reflect,
}

/// The mean and the standard deviation by which bytes are normalised. A deviation of 0 counts as 1.
///
/// See the example of [`Preparation`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ChannelStatistics {
    /// Those of each channel of each image: of the bytes of the flipped crop, the border included; the standard
    /// deviation is the population's.
    PerImage,
    /// The same for all images: mean and standard deviation of each channel.
    Fixed([(f64, f64); 3]),
}

/// A data set for a device.
///
/// See the example of [`Preparation`].
#[derive(Clone, Copy, Debug)]
pub struct DeviceData<'a> {
    /// `[N, C, H, W]` bytes.
    pub pixels: &'a [u8],
    /// The shape of an image.
    pub shape: Shape,
}

/// Loss and counts of a batch in all processes, before its update changed the parameters.
///
/// See the example of [`Engine`].
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct UpdateResult {
    /// The mean loss of the batch.
    pub loss: f64,
    /// Images whose largest logit was their label's.
    pub correct: usize,
    /// Images of the batch.
    pub images: usize,
    /// What was measured, if anything; nothing of a batch that has no images in one of its halves.
    pub norms: Option<GradientNorms>,
}

/// Squared gradient norms, from which the gradient noise scale is estimated.
///
/// # Example
///
/// ```
/// use crescendo_network::GradientNorms;
///
/// /// The gradient noise scale (McCandlish et al. 2018, arXiv 1812.06162, appendix A.1): the trace of the gradient's
/// /// covariance over the squared norm of its mean, from two batch sizes.
/// fn noise_scale(norms: &GradientNorms) -> f64 {
///     let [(first, first_square), (second, second_square)] = norms.halves;
///     let (big, small) = ((first + second) as f64, (first + second) as f64 / 2.0);
///     let small_square = (first_square + second_square) / 2.0;
///     let mean = (big * norms.whole - small * small_square) / (big - small);
///     let trace = (small_square - norms.whole) / (1.0 / small - 1.0 / big);
///     trace / mean
/// }
/// // A mean gradient with the squared norm 2 and a covariance with the trace 600.
/// let square = |images: usize| 2.0 + 600.0 / images as f64;
/// let mut norms = GradientNorms::default();
/// norms.halves = [(50, square(50)); 2];
/// norms.whole = square(100);
/// assert!((noise_scale(&norms) - 300.0).abs() < 1e-9);
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct GradientNorms {
    /// For each half of the batch ([`BatchPart::halves`]) its images, and the squared norm of the gradient of its
    /// mean loss. Where both are in one micro-batch, both are normalised with its statistics, and backward is computed for
    /// one half after the other.
    pub halves: [(usize, f64); 2],
    /// The squared norm of the gradient of the whole batch, in all processes.
    pub whole: f64,
}

/// Cross-entropy of the softmax, as PyTorch's `CrossEntropyLoss`.
///
/// See the example of [`MicroBatch`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Loss {
    /// The share of each label that is spread evenly over all classes (Szegedy et al. 2016, arXiv
    /// 1512.00567).
    pub label_smoothing: f64,
    /// A weight for each class, as PyTorch's `weight`. With the weights `w`, an image with the label `y` and the
    /// probabilities `p` adds `(1 - s) * w[y] * -log p[y] + s / classes * sum over c of w[c] * -log p[c]`, where `s`
    /// is the label smoothing, and the sum is divided by the weights of all labels of the batch. `None` for
    /// equal weights.
    pub class_weights: Option<Vec<f32>>,
}

impl Loss {
    /// Checks it for so many classes.
    ///
    /// # Errors
    /// If there is not one class weight for each class.
    pub fn check(&self, classes: usize) -> Result<(), EngineError> {
        match self.class_weights.as_ref().map(Vec::len) {
            Some(given) if given != classes => Err(EngineError::Unsupported(format!(
                "there are {given} class weights for {classes} classes"
            ))),
            _ => Ok(()),
        }
    }

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
///
/// See the example of [`Snapshot`].
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
///
/// See the example of [`Snapshot`].
pub type State<'a> = Vec<(Section, Vec<Tensor<'a>>)>;

/// The state of an engine at one moment.
///
/// # Example
///
/// ```
/// use crescendo_network::{EngineError, Section, Snapshot, State, Tensor};
///
/// /// How many tensors there are, wherever they lie.
/// fn count(snapshot: Snapshot<'_>) -> Result<usize, EngineError> {
///     let state: State = match snapshot {
///         Snapshot::Borrowed(state) => state,
///         // It waits for the copy, so usually another thread does it.
///         Snapshot::Copy(copy) => copy()?,
///     };
///     Ok(state.iter().map(|(_, tensors)| tensors.len()).sum())
/// }
/// let state = || vec![(Section::Model, vec![Tensor::f32("fc.bias", vec![2], vec![0.0, 1.0])])];
/// assert_eq!(count(Snapshot::Borrowed(state()))?, 1);
/// assert_eq!(count(Snapshot::Copy(Box::new(move || Ok(state()))))?, 1);
/// # Ok::<(), EngineError>(())
/// ```
pub enum Snapshot<'a> {
    /// The engine's own memory, to be read before the next call of the engine.
    Borrowed(State<'a>),
    /// A copy that later updates do not change. The function may be called on any thread, and blocks until the
    /// copy is complete.
    Copy(Box<dyn FnOnce() -> Result<State<'static>, EngineError> + Send>),
}

/// The time that was spent in a step of the network.
///
/// # Example
///
/// ```
/// use crescendo_network::{Engine, StepTime};
///
/// /// The name of the step that took longest, and its milliseconds.
/// fn slowest(engine: &mut dyn Engine) -> Option<(String, f64)> {
///     let seconds = |time: &StepTime| time.forward + time.backward;
///     let times = engine.take_step_times();
///     let slowest = times.iter().max_by(|a, b| seconds(a).total_cmp(&seconds(b)))?;
///     Some((engine.graph().nodes[slowest.node].name.clone(), 1e3 * seconds(slowest)))
/// }
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct StepTime {
    /// Its main operation, as an index of [`Graph::nodes`].
    pub node: usize,
    /// Seconds of the forward pass.
    pub forward: f64,
    /// Seconds of the backward pass.
    pub backward: f64,
    /// Whether backward computes the gradient of the step's input.
    pub input_gradient: bool,
}

/// The peak rates of a device, as they were measured. In floating-point operations a fused multiply-add counts as two.
///
/// See the example of [`UpdateWork`].
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Peaks {
    /// Floating-point operations a second in `f32`.
    pub flops: f64,
    /// The same of the matrix units that compute the engine's products; `None` if none do.
    pub matrix_flops: Option<f64>,
    /// Bytes a second of a long copy within the device's memory, those read and those written together; `None` if it is
    /// not measured.
    pub copy_bytes: Option<f64>,
}

impl Peaks {
    /// Floating-point operations a second in the engine's products.
    pub fn product_flops(&self) -> f64 {
        self.matrix_flops.unwrap_or(self.flops)
    }

    /// The larger of each.
    #[must_use]
    pub fn max(self, other: Peaks) -> Peaks {
        let larger = |a: Option<f64>, b: Option<f64>| [a, b].into_iter().flatten().reduce(f64::max);
        Peaks {
            flops: self.flops.max(other.flops),
            matrix_flops: larger(self.matrix_flops, other.matrix_flops),
            copy_bytes: larger(self.copy_bytes, other.copy_bytes),
        }
    }
}

/// What must be done at least.
///
/// See the example of [`UpdateWork`].
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Work {
    /// Bytes of the device's memory that are read or written.
    pub bytes: f64,
    /// Floating-point operations of products of matrices and of convolutions.
    pub flops: f64,
}

impl Work {
    /// The seconds that it takes at these rates, if reading, writing and computing overlap: the larger of two times.
    pub fn seconds(&self, peaks: &Peaks) -> f64 {
        let copying = peaks.copy_bytes.map_or(0.0, |rate| self.bytes / rate);
        copying.max(self.flops / peaks.product_flops())
    }
}

/// The work of an update.
///
/// # Example
///
/// ```
/// use crescendo_network::{Peaks, UpdateWork, Work};
///
/// let mut peaks = Peaks::default();
/// (peaks.flops, peaks.matrix_flops, peaks.copy_bytes) = (60e12, Some(900e12), Some(3e12));
/// // A convolution bound by its arithmetic, and a pooling bound by memory.
/// let convolution = Work { bytes: 3e9, flops: 1.8e12 };
/// let pooling = Work { bytes: 6e9, flops: 0.0 };
/// let work = UpdateWork {
///     steps: vec![[convolution, convolution], [pooling, pooling]],
///     optimizer: Work { bytes: 1.5e9, flops: 0.0 },
/// };
/// let forward: f64 = work.steps.iter().map(|[forward, _]| forward.seconds(&peaks)).sum();
/// assert!((forward - (2e-3 + 2e-3)).abs() < 1e-9);
/// assert!((work.optimizer.seconds(&peaks) - 5e-4).abs() < 1e-9);
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct UpdateWork {
    /// Forward and backward of each step, in the order of [`Engine::take_step_times`].
    pub steps: Vec<[Work; 2]>,
    /// The optimizer.
    pub optimizer: Work,
}
