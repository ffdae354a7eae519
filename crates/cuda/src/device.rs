//! A GPU as a device.

use std::sync::Arc;

use crescendo_network::{
    Device, DeviceKind, DeviceMemory, Engine, EngineConfig, EngineError, Graph, PrecisionKind,
    RequiredMemory,
};
use crescendo_plan::RequiredGradients;

use crate::driver::Driver;
use crate::engine::CudaEngine;
use crate::plan::{ExecutionPlan, Precision};
use crate::work;

/// The batch of which the work of steps is described: weights count once for all its images.
const STEPS_IMAGES: usize = 125;

/// A GPU, with the driver that runs kernels on it.
///
/// # Example
///
/// ```
/// use crescendo_cuda::{CudaDevice, planning_driver};
/// use crescendo_network::{Device, EngineConfig, Graph, NetworkConfig, PrecisionKind, Shape};
///
/// let images = Shape::Maps { channels: 3, height: 32, width: 32 };
/// let graph = Graph::new(&NetworkConfig::paper().network(images)?)?;
/// // What a card with 80 GiB would do; none is needed to know it.
/// let device = |precision| {
///     let config = EngineConfig { precision, ..EngineConfig::default() };
///     CudaDevice::new(planning_driver(Some(80 << 30)), &config)
/// };
/// let bytes = |precision| Ok::<_, crescendo_network::EngineError>(
///     device(precision).required_memory(&graph, 1000, 1)?.configured,
/// );
/// assert!(bytes(PrecisionKind::Bf16)? < bytes(PrecisionKind::F32)?);
/// assert!(bytes(PrecisionKind::F32)? < 80 << 30);
/// assert!(device(PrecisionKind::Auto).describe_steps(&graph)?.contains("start_layer.0"));
/// # Ok::<(), crescendo_network::EngineError>(())
/// ```
#[derive(Clone)]
pub struct CudaDevice {
    driver: Arc<dyn Driver>,
    config: EngineConfig,
    precision: Precision,
}

impl CudaDevice {
    /// The device of a driver, as the section `[engine]` asks for it.
    pub fn new(driver: Arc<dyn Driver>, config: &EngineConfig) -> Self {
        let (chosen, precision) = match config.precision {
            PrecisionKind::F32 => (PrecisionKind::F32, Precision::F32),
            PrecisionKind::Auto | PrecisionKind::Bf16 => (PrecisionKind::Bf16, Precision::Bf16),
        };
        let config = EngineConfig { device: DeviceKind::Cuda, precision: chosen, ..config.clone() };
        CudaDevice { driver, config, precision }
    }

    fn plan(&self, graph: &Graph) -> Result<ExecutionPlan, EngineError> {
        Ok(ExecutionPlan::new(graph, self.precision, self.driver.chip())?)
    }
}

impl Device for CudaDevice {
    fn config(&self) -> EngineConfig {
        self.config.clone()
    }

    fn description(&self) -> String {
        let precision = self.config.precision.name();
        format!("{}, {precision}", self.driver.name())
    }

    fn memory(&self) -> DeviceMemory {
        self.driver.memory()
    }

    fn required_memory(
        &self,
        graph: &Graph,
        images: usize,
        _sums: usize,
    ) -> Result<RequiredMemory, EngineError> {
        let bytes = CudaEngine::memory(&self.plan(graph)?, images) as u64;
        Ok(RequiredMemory { configured: bytes, minimum: bytes })
    }

    fn describe_steps(&self, graph: &Graph) -> Result<String, EngineError> {
        let plan = self.plan(graph)?;
        let trained: Vec<bool> = graph.parameters.iter().map(|p| p.requires_grad).collect();
        let required = RequiredGradients::new(graph, &plan.fused, &trained);
        let work = work::of_update(&plan, &required, &trained, STEPS_IMAGES);
        let title = format!("step, for {STEPS_IMAGES} images");
        let mut text = format!("{title:<38}   forward: MB     GFLOP  backward: MB     GFLOP\n");
        for (step, [forward, backward]) in plan.fused.steps.iter().zip(&work.steps) {
            let name = &graph.nodes[step.node].name;
            text += &format!("{name:<38}");
            for work in [forward, backward] {
                text += &format!("{:>14.1}{:>10.2}", work.bytes / 1e6, work.flops / 1e9);
            }
            text.push('\n');
        }
        Ok(text)
    }

    fn engine(&self, graph: &Graph) -> Result<Box<dyn Engine>, EngineError> {
        Ok(Box::new(CudaEngine::new(self.driver.clone(), self.plan(graph)?)?))
    }
}
