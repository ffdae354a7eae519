//! A GPU as a device.

use std::sync::Arc;

use crescendo_network::{
    Device, DeviceKind, DeviceMemory, Engine, EngineConfig, EngineError, Graph, PrecisionKind,
    RequiredMemory,
};

use crate::driver::Driver;
use crate::engine::CudaEngine;
use crate::plan::{ExecutionPlan, Precision};

/// A GPU, with the driver that runs kernels on it.
#[derive(Clone)]
pub struct CudaDevice {
    driver: Arc<dyn Driver>,
    config: EngineConfig,
    precision: Precision,
}

impl CudaDevice {
    /// The device of a driver, as the section `[engine]` asks for it.
    pub fn new(driver: Arc<dyn Driver>, config: &EngineConfig) -> Self {
        let precision = match config.precision {
            PrecisionKind::F32 => Precision::F32,
            PrecisionKind::Auto | PrecisionKind::Bf16 => Precision::Bf16,
        };
        let chosen = match precision {
            Precision::F32 => PrecisionKind::F32,
            Precision::Bf16 => PrecisionKind::Bf16,
        };
        let config = EngineConfig { device: DeviceKind::Cuda, precision: chosen, ..config.clone() };
        CudaDevice { driver, config, precision }
    }

    fn plan(&self, graph: &Graph) -> Result<ExecutionPlan, EngineError> {
        Ok(ExecutionPlan::new(graph, self.precision)?)
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
        micro_batch: usize,
    ) -> Result<RequiredMemory, EngineError> {
        let bytes = CudaEngine::memory(&self.plan(graph)?, micro_batch) as u64;
        Ok(RequiredMemory { configured: bytes, minimum: bytes })
    }

    fn describe_steps(&self, graph: &Graph) -> Result<String, EngineError> {
        let plan = self.plan(graph)?;
        let mut lines = String::new();
        for (step, layer) in plan.fused.steps.iter().zip(&plan.layers) {
            let name = &graph.nodes[step.node].name;
            let tiles = layer.and_then(|layer| layer.forward(1, self.precision.bytes()));
            let tiles = tiles.map_or(String::new(), |tiling| {
                let window = tiling.window;
                let (rows, columns) = (window.tile_rows, window.tile_columns);
                let kib = tiling.shared.div_ceil(1024);
                format!("  tiles of {rows}x{columns} pixels, {kib} KiB of shared memory")
            });
            lines += &format!("{name}{tiles}\n");
        }
        Ok(lines)
    }

    fn engine(&self, graph: &Graph) -> Result<Box<dyn Engine>, EngineError> {
        Ok(Box::new(CudaEngine::new(self.driver.clone(), self.plan(graph)?)?))
    }
}
