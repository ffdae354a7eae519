//! The CPU engine passes the engine conformance suite.

use crescendo_conformance::Tolerances;
use crescendo_cpu::CpuDevices;
use crescendo_network::{ActivationStorage, Device, Devices, EngineConfig};

fn open(activations: ActivationStorage) -> Box<dyn Device> {
    let config = EngineConfig { threads: 2, activations, ..EngineConfig::default() };
    CpuDevices.open(&config).expect("every machine has a processor")
}

mod f32 {
    use super::*;
    crescendo_conformance::conformance_tests!(|| (open(ActivationStorage::F32), Tolerances::F32));
}

mod bf16 {
    use super::*;
    crescendo_conformance::conformance_tests!(|| (open(ActivationStorage::Bf16), Tolerances::BF16));
}
