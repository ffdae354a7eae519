//! The CPU engine passes the engine conformance suite, with the instruction set that the environment variable
//! `CRESCENDO_TEST_ISA` names, by default the fastest.

use crescendo_conformance::Tolerances;
use crescendo_cpu::CpuDevices;
use crescendo_network::{ActivationStorage, Device, Devices, EngineConfig, IsaKind, PrecisionKind};

fn open(activations: ActivationStorage, precision: PrecisionKind) -> Box<dyn Device> {
    let config =
        EngineConfig { threads: 2, isa: isa(), activations, precision, ..EngineConfig::default() };
    CpuDevices.open(&config).unwrap_or_else(|error| panic!("{error}"))
}

fn isa() -> IsaKind {
    let Ok(name) = std::env::var("CRESCENDO_TEST_ISA") else { return IsaKind::Auto };
    let kinds = [IsaKind::Auto, IsaKind::Avx512, IsaKind::Avx2, IsaKind::Portable];
    let kind = kinds.into_iter().find(|kind| kind.name() == name);
    kind.unwrap_or_else(|| panic!("CRESCENDO_TEST_ISA is {name}, which is no instruction set"))
}

fn exact(tolerances: Tolerances) -> Tolerances {
    Tolerances { sums_follow_the_tree: true, ..tolerances }
}

mod f32 {
    use super::*;
    crescendo_conformance::conformance_tests!(|| {
        (open(ActivationStorage::F32, PrecisionKind::F32), exact(Tolerances::F32))
    });
}

mod bf16 {
    use super::*;
    crescendo_conformance::conformance_tests!(|| {
        (open(ActivationStorage::Bf16, PrecisionKind::F32), exact(Tolerances::BF16))
    });
}

mod bf16_products {
    use super::*;
    crescendo_conformance::conformance_tests!(|| {
        (open(ActivationStorage::F32, PrecisionKind::Bf16), exact(Tolerances::BF16_PRODUCTS))
    });
}
