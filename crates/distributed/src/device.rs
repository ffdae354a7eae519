//! Devices that span all ranks, as rank 0 has them.

use std::sync::Arc;

use crescendo_network::{
    Device, DeviceKind, DeviceMemory, Devices, Engine, EngineConfig, EngineError, Graph, IsaKind,
    RequiredMemory,
};

use crate::command::Command;
use crate::engine::DistributedEngine;
use crate::host::{Opened, open};
use crate::local::Local;
use crate::session::Session;
use crate::times::Times;
use crate::transport::Transport;

/// Opens devices that span all ranks: rank 0 trains on them as on any other, while the others [`serve`](crate::serve).
///
/// # Example
///
/// Two threads as two ranks, which train as one process does:
///
/// ```
/// use crescendo_cpu::CpuDevices;
/// use crescendo_distributed::{DistributedDevices, Threads, Transport, serve};
/// use crescendo_training::{Recipe, Run, Start};
///
/// let data = crescendo_data::shapes::generate(0, 100, 50);
/// let recipe = Recipe::load("quick", &["train.epochs=1", "network.widths=[4, 4, 4]", "engine.threads=1"])?;
/// # let folder = tempfile::tempdir().unwrap();
/// # let folder = folder.path().join("run");
/// let mut ranks = Threads::new(2);
/// let (first, second) = (ranks.next().unwrap(), ranks.next().unwrap());
/// let other = std::thread::spawn(|| serve(Box::new(second), &CpuDevices));
///
/// let devices = DistributedDevices::new(Box::new(first), &CpuDevices);
/// let mut run = Run::create(&folder, &Start::new(&recipe, &data, &devices))?;
/// run.train(&devices, &data, &mut (), &false.into())?;
/// assert!(devices.times().gradients > 0.0 && devices.times().hidden() <= 1.0);
/// devices.stop()?;
/// other.join().unwrap()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct DistributedDevices<'a> {
    session: Arc<Session>,
    devices: &'a dyn Devices,
}

impl<'a> DistributedDevices<'a> {
    /// On these ranks, of which this is rank 0. `devices` opens the devices of each rank.
    ///
    /// # Panics
    /// If it is another rank.
    pub fn new(transport: Box<dyn Transport>, devices: &'a dyn Devices) -> Self {
        let session = Arc::new(Session::new(transport));
        assert_eq!(session.rank, 0, "the other ranks serve");
        DistributedDevices { session, devices }
    }

    /// How long rank 0 has spent on communication so far.
    pub fn times(&self) -> Times {
        *self.session.times()
    }

    /// Whether an error has left the ranks at different places, so that the other ranks cannot be told to stop.
    pub fn is_lost(&self) -> bool {
        self.session.is_lost()
    }

    /// Has the other ranks' [`serve`](crate::serve) return.
    ///
    /// # Errors
    /// [`EngineError::Communication`] if another rank is gone.
    pub fn stop(&self) -> Result<(), EngineError> {
        self.session.broadcast(&mut Command::Stop.write())
    }

    fn open_as(&self, config: &EngineConfig) -> Result<DistributedDevice, EngineError> {
        let number = self.session.number();
        let command = Command::Open { device: number, config: config.clone() };
        self.session.broadcast(&mut command.write())?;
        let Opened { device, hosts } = open(&self.session, self.devices, config)?;
        let session = self.session.clone();
        Ok(DistributedDevice { session, number, device, hosts, asked: config.clone() })
    }
}

impl Devices for DistributedDevices<'_> {
    fn open(&self, config: &EngineConfig) -> Result<Box<dyn Device>, EngineError> {
        let mut device = self.open_as(config)?;
        let opened = &device.hosts;
        let mut alike = config.clone();
        if opened.iter().any(|rank| rank.config.device != opened[0].config.device) {
            // Not every rank has a card.
            alike.device = DeviceKind::Cpu;
        }
        let isas = opened.iter().map(|rank| rank.config.isa);
        let sets = [IsaKind::Portable, IsaKind::Avx2, IsaKind::Avx512];
        let rank_of = |isa: &IsaKind| sets.iter().position(|other| other == isa);
        let least = isas.clone().min_by_key(rank_of).unwrap_or_default();
        if isas.clone().any(|isa| isa != least) {
            alike.isa = least;
        }
        if alike != *config {
            drop(device);
            device = self.open_as(&alike)?;
            device.asked.threads = config.threads;
        }
        Ok(Box::new(device))
    }
}

/// Devices of all ranks as one.
struct DistributedDevice {
    session: Arc<Session>,
    number: u32,
    device: Box<dyn Device>,
    /// What each rank says of its own.
    hosts: Vec<crate::host::Rank>,
    asked: EngineConfig,
}

impl Device for DistributedDevice {
    fn config(&self) -> EngineConfig {
        // How many threads a rank has is no matter of the run.
        EngineConfig { threads: self.asked.threads, ..self.device.config() }
    }

    fn description(&self) -> String {
        let description = self.device.description();
        let ranks = self.hosts.len();
        let mut names: Vec<&str> = self.hosts.iter().map(|rank| &*rank.host).collect();
        names.sort_unstable();
        names.dedup();
        let machines = match names.len() {
            1 => "one machine".to_owned(),
            machines => format!("{machines} machines"),
        };
        format!("{description}; {ranks} ranks on {machines}")
    }

    /// As if one process had the memory of all ranks, of which each has as much as the smallest: a batch is shared out, and
    /// how it is divided into micro-batches does not depend on the number of ranks.
    fn memory(&self) -> DeviceMemory {
        let least = |of: fn(&DeviceMemory) -> Option<u64>| {
            let least = self.hosts.iter().filter_map(|rank| of(&rank.memory)).min();
            least.map(|bytes| bytes.saturating_mul(self.hosts.len() as u64))
        };
        DeviceMemory { total: least(|memory| memory.total), available: least(|m| m.available) }
    }

    fn required_memory(
        &self,
        graph: &Graph,
        images: usize,
        sums: usize,
    ) -> Result<RequiredMemory, EngineError> {
        self.device.required_memory(graph, images, sums)
    }

    fn describe_steps(&self, graph: &Graph) -> Result<String, EngineError> {
        self.device.describe_steps(graph)
    }

    fn engine(&self, graph: &Graph) -> Result<Box<dyn Engine>, EngineError> {
        let number = self.session.number();
        let command = Command::Make { engine: number, device: self.number, graph: graph.clone() };
        self.session.broadcast(&mut command.write())?;
        let engine = self.session.agree(self.device.engine(graph))?;
        let local = Local::new(self.session.clone(), engine);
        Ok(Box::new(DistributedEngine::new(self.session.clone(), number, local)))
    }
}

impl Drop for DistributedDevice {
    fn drop(&mut self) {
        if !self.session.is_lost()
            && self.session.broadcast(&mut Command::Close { device: self.number }.write()).is_err()
        {
            self.session.set_lost();
        }
    }
}
