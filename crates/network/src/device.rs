//! Devices: what engines run on, and the keys of the section `[engine]` that choose one.

use serde::{Deserialize, Serialize};

use crate::{Engine, EngineError, Error, Graph};

/// The section `[engine]` of a recipe.
///
/// # Example
///
/// ```
/// use crescendo_network::{
///     ActivationStorage, ConvolutionKind, DeviceKind, EngineConfig, IsaKind, PrecisionKind,
/// };
///
/// let config = EngineConfig {
///     device: DeviceKind::Cpu,
///     threads: 2,
///     isa: IsaKind::Portable,
///     conv: ConvolutionKind::Direct,
///     activations: ActivationStorage::Bf16,
///     ..EngineConfig::default()
/// };
/// assert_eq!(config.precision.on(config.device), PrecisionKind::F32);
/// assert_eq!(config.precision.on(DeviceKind::Cuda), PrecisionKind::Bf16);
/// // As it stands in a recipe; what is `auto` by default is left out.
/// let keys = serde_json::to_value(&config).unwrap();
/// let expected = serde_json::json!({
///     "device": "cpu", "threads": 2, "isa": "portable", "conv": "direct", "activations": "bf16",
/// });
/// assert_eq!(keys, expected);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EngineConfig {
    /// The device. It is not written while it is `auto`, so that a checkpoint does not name one.
    #[serde(default, skip_serializing_if = "DeviceKind::is_auto")]
    pub device: DeviceKind,
    /// The precision of its arithmetic. It is not written while it is `auto`.
    #[serde(default, skip_serializing_if = "PrecisionKind::is_auto")]
    pub precision: PrecisionKind,
    /// Threads of the CPU engine; 0 for one for each physical core.
    pub threads: usize,
    /// The instruction set of the CPU engine.
    pub isa: IsaKind,
    /// Tiles that a core works on at a time in a Winograd convolution, from 16 to 128; 0 to try what is fastest. It is
    /// written only if it is set.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub tiles: usize,
    /// How the CPU engine computes convolutions.
    pub conv: ConvolutionKind,
    /// How the CPU engine stores the feature maps that backward reads.
    pub activations: ActivationStorage,
}

fn is_zero(tiles: &usize) -> bool {
    *tiles == 0
}

/// Kinds of devices.
///
/// See the example of [`EngineConfig`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceKind {
    /// The fastest that can be used, chosen when a run is created.
    #[default]
    Auto,
    /// The processor.
    Cpu,
    /// An NVIDIA GPU.
    Cuda,
}

impl DeviceKind {
    /// All of them.
    pub const ALL: [DeviceKind; 3] = [DeviceKind::Auto, DeviceKind::Cpu, DeviceKind::Cuda];

    /// Its name in recipes and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            DeviceKind::Auto => "auto",
            DeviceKind::Cpu => "cpu",
            DeviceKind::Cuda => "cuda",
        }
    }

    fn is_auto(&self) -> bool {
        *self == DeviceKind::Auto
    }
}

/// The precision of an engine's arithmetic.
///
/// See the example of [`EngineConfig`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PrecisionKind {
    /// f32 on the CPU, bf16 on CUDA.
    #[default]
    Auto,
    /// All in 32 bits.
    F32,
    /// On CUDA feature maps and products in bfloat16, on the CPU products of convolutions; sums, parameters,
    /// gradients of parameters, statistics and the optimizer in f32.
    Bf16,
}

impl PrecisionKind {
    /// All of them.
    pub const ALL: [PrecisionKind; 3] =
        [PrecisionKind::Auto, PrecisionKind::F32, PrecisionKind::Bf16];

    /// Its name in recipes and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            PrecisionKind::Auto => "auto",
            PrecisionKind::F32 => "f32",
            PrecisionKind::Bf16 => "bf16",
        }
    }

    /// The precision that it is on a device of this kind.
    #[must_use]
    pub fn on(self, device: DeviceKind) -> Self {
        match (self, device) {
            (PrecisionKind::Auto, DeviceKind::Cuda) => PrecisionKind::Bf16,
            (PrecisionKind::Auto, DeviceKind::Cpu) => PrecisionKind::F32,
            (precision, _) => precision,
        }
    }

    fn is_auto(&self) -> bool {
        *self == PrecisionKind::Auto
    }
}

/// Instruction sets of the CPU engine.
///
/// See the example of [`EngineConfig`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IsaKind {
    /// The fastest that the processor has.
    #[default]
    Auto,
    /// AVX-512 (x86).
    Avx512,
    /// AVX2 with FMA (x86).
    Avx2,
    /// Code for every processor of the program's target.
    Portable,
}

impl IsaKind {
    /// Its name in recipes and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            IsaKind::Auto => "auto",
            IsaKind::Avx512 => "avx512",
            IsaKind::Avx2 => "avx2",
            IsaKind::Portable => "portable",
        }
    }
}

/// How the CPU engine computes convolutions.
///
/// See the example of [`EngineConfig`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConvolutionKind {
    /// Each by the algorithm that is expected to be the fastest for its shape.
    #[default]
    Auto,
    /// Winograd F(4x4, 3x3) wherever it is possible, else directly.
    Winograd4,
    /// Winograd F(2x2, 3x3) wherever it is possible, else directly.
    Winograd2,
    /// All directly.
    Direct,
}

/// How feature maps are stored between forward and backward. Sums, BatchNorm and activations are always in f32.
///
/// See the example of [`EngineConfig`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ActivationStorage {
    /// In 32 bits.
    #[default]
    F32,
    /// Rounded to bfloat16: half the memory, 8 bits of precision.
    Bf16,
}

/// What opens devices: a program hands one to the training loop, which names no engine itself.
///
/// # Example
///
/// `CpuDevices` of `crescendo-cpu` opens processors. A program can put rules of its own before it:
///
/// ```
/// use crescendo_network::{Device, DeviceKind, Devices, EngineConfig, EngineError};
///
/// /// Devices on which results are the same to the bit, wherever the program runs.
/// struct Reproducible<D>(D);
///
/// impl<D: Devices> Devices for Reproducible<D> {
///     fn open(&self, config: &EngineConfig) -> Result<Box<dyn Device>, EngineError> {
///         if config.device == DeviceKind::Cuda {
///             return Err(EngineError::NoDevice("engine.device is cuda: use cpu".into()));
///         }
///         self.0.open(&EngineConfig { device: DeviceKind::Cpu, ..config.clone() })
///     }
/// }
/// # struct Nothing;
/// # impl Devices for Nothing {
/// #     fn open(&self, config: &EngineConfig) -> Result<Box<dyn Device>, EngineError> {
/// #         Err(EngineError::NoDevice(config.device.name().into()))
/// #     }
/// # }
/// # let error = |device: DeviceKind| {
/// #     let config = EngineConfig { device, ..EngineConfig::default() };
/// #     Reproducible(Nothing).open(&config).err().unwrap().to_string()
/// # };
/// # assert_eq!(error(DeviceKind::Cuda), "engine.device is cuda: use cpu");
/// # assert_eq!(error(DeviceKind::Auto), "cpu");
/// ```
pub trait Devices: Sync {
    /// Opens the device that the keys ask for.
    ///
    /// # Errors
    /// [`EngineError::NoDevice`] if there is no such device, [`EngineError::Unsupported`] if it does not have what
    /// the keys ask for.
    fn open(&self, config: &EngineConfig) -> Result<Box<dyn Device>, EngineError>;
}

/// A device that engines can run on.
///
/// # Example
///
/// The documentation of `crescendo-cpu` has an example that runs. How much fits:
///
/// ```
/// use crescendo_network::{Device, EngineError, Graph};
///
/// /// The most images of a micro-batch, a power of two, that fit into half of the memory.
/// fn micro_batch(device: &dyn Device, graph: &Graph) -> Result<usize, EngineError> {
///     let half = device.memory().available.unwrap_or(u64::MAX) / 2;
///     let mut images = 1;
///     while images < 1 << 16 && device.required_memory(graph, 2 * images, 1)?.minimum <= half {
///         images *= 2;
///     }
///     Ok(images)
/// }
/// ```
pub trait Device: Send + Sync {
    /// The keys with which it was opened, with `auto` replaced by what was chosen; `device` is never `auto`. Keys of
    /// other engines stay as they are. `precision` is `auto` where that means the same.
    fn config(&self) -> EngineConfig;

    /// What it is, such as `AMD EPYC 9V74, AVX-512, 2 threads`.
    fn description(&self) -> String;

    /// How much memory it has.
    fn memory(&self) -> DeviceMemory;

    /// The memory that an engine takes which trains with so many images of a micro-batch in its process, keeps so many sums
    /// of gradients apart ([`BatchTree::sums`](crate::BatchTree::sums)) and computes logits: parameters, gradients,
    /// momentum buffers, feature maps and working memory. It does not include the average of the model, batches of images,
    /// and data sets. It does not fall with the number of images.
    ///
    /// # Errors
    /// If the device does not support the graph.
    fn required_memory(
        &self,
        graph: &Graph,
        images: usize,
        sums: usize,
    ) -> Result<RequiredMemory, EngineError>;

    /// The steps in which the graph is computed, a line each.
    ///
    /// # Errors
    /// If the device does not support the graph.
    fn describe_steps(&self, graph: &Graph) -> Result<String, EngineError>;

    /// Creates an engine. Its parameters are zeros until they are imported: see [`Graph::initial`].
    ///
    /// # Errors
    /// If the device does not support the graph or has too little memory.
    fn engine(&self, graph: &Graph) -> Result<Box<dyn Engine>, EngineError>;
}

/// The memory of a device, in bytes; `None` where it is not known.
///
/// See the example of [`Device`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceMemory {
    /// All of it, within the limits that apply to this process.
    pub total: Option<u64>,
    /// What can be had now.
    pub available: Option<u64>,
}

/// Bytes of memory that an engine takes.
///
/// See the example of [`Device`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequiredMemory {
    /// With the device as it is configured.
    pub configured: u64,
    /// With the settings that do not affect results, such as the number of threads, at their minimum. The size of
    /// micro-batches is chosen by this number, so that results do not depend on those settings.
    pub minimum: u64,
}

impl From<Error> for EngineError {
    fn from(error: Error) -> Self {
        EngineError::Unsupported(error.0)
    }
}
