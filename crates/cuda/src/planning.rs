//! A driver without a card.

use std::sync::Arc;

use crescendo_network::{DeviceMemory, EngineError};

use crate::driver::{Address, Chip, Download, Driver, Launch, Program};

/// A driver that plans for a card that is not there: it has a name and memory, and runs nothing.
pub fn planning_driver(memory: Option<u64>) -> Arc<dyn Driver> {
    Arc::new(Planning(memory))
}

struct Planning(Option<u64>);

impl Planning {
    fn refuse<T>(&self) -> Result<T, EngineError> {
        Err(EngineError::Unsupported("there is no card: it was opened for planning alone".into()))
    }
}

impl Driver for Planning {
    fn name(&self) -> String {
        "NVIDIA GPU".into()
    }
    fn memory(&self) -> DeviceMemory {
        DeviceMemory { total: self.0, available: self.0 }
    }
    /// That of an H100.
    fn chip(&self) -> Chip {
        Chip { multiprocessors: 132, warpgroups: true }
    }
    fn allocate(&self, _: usize) -> Result<Address, EngineError> {
        self.refuse()
    }
    fn free(&self, _: Address) {}
    fn upload(&self, _: Address, _: &[u8]) -> Result<(), EngineError> {
        self.refuse()
    }
    fn download(&self, _: Address, _: &mut [u8]) -> Result<(), EngineError> {
        self.refuse()
    }
    fn begin_download(&self, _: Address, _: usize) -> Result<Box<dyn Download>, EngineError> {
        self.refuse()
    }
    fn prepare(&self, _: &[Launch]) -> Result<Box<dyn Program>, EngineError> {
        self.refuse()
    }
}
