//! The processor as a device.

use std::path::Path;

use crescendo_kernels::{Isa, Processor, TaskTimes, ThreadPool, Workspace};
use crescendo_network::{
    ConvolutionKind, Device, DeviceKind, DeviceMemory, Devices, Engine, EngineConfig, EngineError,
    Graph, IsaKind, PrecisionKind, RequiredMemory,
};

use crate::engine::CpuEngine;
use crate::options::PlanOptions;
use crate::plan::ExecutionPlan;
use crate::tuning::Tuning;
use crate::{cores, host};

/// Opens the CPU device only.
///
/// # Example
///
/// ```
/// use crescendo_cpu::CpuDevices;
/// use crescendo_network::{Devices, EngineConfig};
///
/// let device = CpuDevices.open(&EngineConfig { threads: 2, ..EngineConfig::default() })?;
/// assert!(device.description().ends_with("2 threads"));
/// # Ok::<(), crescendo_network::EngineError>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct CpuDevices;

impl Devices for CpuDevices {
    fn open(&self, config: &EngineConfig) -> Result<Box<dyn Device>, EngineError> {
        if config.device == DeviceKind::Cuda {
            return Err(EngineError::Unsupported(
                "engine.device is cuda, but here is only the CPU engine: set engine.device to cpu \
                 or auto"
                    .into(),
            ));
        }
        Ok(Box::new(CpuDevice::new(config)?))
    }
}

/// The processor, with some threads and an instruction set.
///
/// # Example
///
/// ```
/// use crescendo_cpu::CpuDevice;
/// use crescendo_network::{
///     Device, EngineConfig, Graph, MicroBatch, NetworkConfig, Section, Shape, Snapshot,
/// };
///
/// let images = Shape::Maps { channels: 3, height: 32, width: 32 };
/// let config = NetworkConfig { blocks: vec![1], widths: vec![4], ..NetworkConfig::paper() };
/// let graph = Graph::new(&config.network(images)?)?;
/// let device = CpuDevice::new(&EngineConfig { threads: 1, ..EngineConfig::default() })?;
/// let bytes = |images| Ok::<_, crescendo_network::EngineError>(device.required_memory(&graph, images, 1)?.configured);
/// assert!(bytes(100)? < bytes(200)?);
///
/// // As for four threads, to tell how long they would take.
/// let (mut engine, times) = device.recording_engine(&graph, 4)?;
/// engine.import(Section::Model, &graph.initial(0))?;
/// let batch = MicroBatch { measure: true, ..MicroBatch::whole(&[0.5; 8 * 3072], &[0, 1, 2, 3, 4, 5, 6, 7]) };
/// engine.accumulate(&batch)?;
/// let jobs = times.take();
/// let on = |threads| jobs.iter().map(|job| job.on(threads, 0.0)).sum::<f64>();
/// assert!(on(4) < on(1));
///
/// engine.update(&vec![crescendo_network::Rule::Frozen; graph.parameters.len()])?;
/// let norms = engine.next_result(true)?.and_then(|result| result.norms).expect("they were measured");
/// assert_eq!(norms.halves.map(|half| half.0), [4, 4]);
/// // The model, the momentum buffers, and an average of the model, if there is one.
/// let Snapshot::Borrowed(state) = engine.snapshot()? else { panic!("it lends its memory") };
/// assert_eq!((state[0].1.len(), state[2].1.len()), (graph.state().len(), 0));
/// # Ok::<(), crescendo_network::EngineError>(())
/// ```
#[derive(Clone, Debug)]
pub struct CpuDevice {
    config: EngineConfig,
    isa: Isa,
    threads: usize,
}

impl CpuDevice {
    /// The processor as the section `[engine]` asks for it.
    ///
    /// # Errors
    /// If the processor does not have the instruction set, the precision does not go with `conv`, or the number of tiles
    /// is not possible.
    pub fn new(config: &EngineConfig) -> Result<Self, EngineError> {
        if config.tiles > Workspace::MOST_GROUP_TILES {
            return Err(EngineError::Unsupported(format!(
                "engine.tiles is {}, but the CPU engine takes at most {}",
                config.tiles,
                Workspace::MOST_GROUP_TILES
            )));
        }
        if config.precision == PrecisionKind::Bf16 && config.conv == ConvolutionKind::Winograd2 {
            return Err(EngineError::Unsupported(
                "engine.precision is bf16, but engine.conv is winograd2, which computes in f32: set \
                 engine.conv to auto, winograd4 or direct, or engine.precision to f32"
                    .into(),
            ));
        }
        let isa = match config.isa {
            IsaKind::Auto => Isa::best(),
            named => Isa::new(named.name()).ok_or_else(|| unavailable(named))?,
        };
        let kinds = [IsaKind::Avx512, IsaKind::Avx2, IsaKind::Portable];
        let kind = kinds.into_iter().find(|kind| kind.name() == isa.name());
        let precision = match config.precision {
            PrecisionKind::Bf16 => PrecisionKind::Bf16,
            PrecisionKind::Auto | PrecisionKind::F32 => PrecisionKind::Auto,
        };
        let config = EngineConfig {
            device: DeviceKind::Cpu,
            precision,
            isa: kind.unwrap_or(config.isa),
            ..config.clone()
        };
        Ok(CpuDevice { isa, threads: host::threads(config.threads), config })
    }

    /// An engine that divides work as for `threads` threads, but computes on one, and the times of its tasks: they
    /// tell how long the work would take on so many. Steps are numbered as in
    /// [`Engine::take_step_times`].
    ///
    /// # Errors
    /// If the device cannot compute the graph.
    pub fn recording_engine(
        &self,
        graph: &Graph,
        threads: usize,
    ) -> Result<(Box<dyn Engine>, TaskTimes), EngineError> {
        let times = TaskTimes::default();
        let pool = ThreadPool::recording(threads, times.clone());
        // All updates divide work in the same way.
        let tiles = if self.config.tiles == 0 { Workspace::GROUP_TILES } else { self.config.tiles };
        Ok((self.engine_on(graph, pool, Tuning::new(tiles))?, times))
    }

    fn engine_on(
        &self,
        graph: &Graph,
        pool: ThreadPool,
        tuning: Tuning,
    ) -> Result<Box<dyn Engine>, EngineError> {
        let processor = Processor { pool, isa: self.isa };
        let options = PlanOptions::from(&self.config);
        Ok(Box::new(CpuEngine::new(self.plan(graph)?, options, processor, tuning)))
    }

    fn plan(&self, graph: &Graph) -> Result<ExecutionPlan, EngineError> {
        Ok(ExecutionPlan::new(graph, PlanOptions::from(&self.config))?)
    }
}

fn unavailable(isa: IsaKind) -> EngineError {
    let available = Isa::available().map(Isa::name).collect::<Vec<_>>().join(", ");
    EngineError::Unsupported(format!(
        "engine.isa is {}, which this processor does not have: use auto, or one of {available}",
        isa.name()
    ))
}

impl Device for CpuDevice {
    fn config(&self) -> EngineConfig {
        self.config.clone()
    }

    fn description(&self) -> String {
        let isa = match self.config.isa {
            IsaKind::Avx512 => "AVX-512",
            IsaKind::Avx2 => "AVX2",
            IsaKind::Auto | IsaKind::Portable => "portable code",
        };
        let products = match (self.config.precision, self.isa.multiplies_bf16()) {
            (PrecisionKind::Bf16, true) => " with products in bf16",
            (PrecisionKind::Bf16, false) => {
                " with products in bf16, which it has no instructions for"
            }
            _ => "",
        };
        let threads = host::threads_in_words(self.config.threads);
        let name = host::processor_name().unwrap_or_else(|| std::env::consts::ARCH.to_owned());
        format!("{name}, {isa}{products}, {threads}")
    }

    fn memory(&self) -> DeviceMemory {
        DeviceMemory {
            total: host::total_memory(),
            available: host::available_memory(self.threads),
        }
    }

    fn required_memory(
        &self,
        graph: &Graph,
        images: usize,
        sums: usize,
    ) -> Result<RequiredMemory, EngineError> {
        let plan = self.plan(graph)?;
        let bytes = |threads| CpuEngine::memory(&plan, images, sums, threads) as u64;
        Ok(RequiredMemory { configured: bytes(self.threads), minimum: bytes(1) })
    }

    fn describe_steps(&self, graph: &Graph) -> Result<String, EngineError> {
        Ok(self.plan(graph)?.describe())
    }

    fn engine(&self, graph: &Graph) -> Result<Box<dyn Engine>, EngineError> {
        let mut pool = ThreadPool::new(self.threads);
        pool.set_unequal_cores(cores::are_unequal(Path::new("/")));
        self.engine_on(graph, pool, Tuning::new(self.config.tiles))
    }
}
