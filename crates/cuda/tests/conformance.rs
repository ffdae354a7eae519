//! The CUDA engine passes the engine conformance suite, with its kernels run on the processor: see `host/`.

mod host;

use std::sync::Arc;

use crescendo_conformance::Tolerances;
use crescendo_cuda::CudaDevice;
use crescendo_network::{Device, EngineConfig, PrecisionKind};

fn open(precision: PrecisionKind) -> Box<dyn Device> {
    let config = EngineConfig { precision, ..EngineConfig::default() };
    Box::new(CudaDevice::new(Arc::new(host::HostDriver::new()), &config))
}

mod f32 {
    use super::*;
    crescendo_conformance::conformance_tests!(|| (open(PrecisionKind::F32), Tolerances::F32));
}

mod bf16 {
    use super::*;
    crescendo_conformance::conformance_tests!(|| (open(PrecisionKind::Bf16), Tolerances::BF16));
}
