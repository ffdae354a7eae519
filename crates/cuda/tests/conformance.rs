//! The CUDA engine passes the engine conformance suite, with its kernels run on the processor: see `host/`.

mod host;

use crescendo_conformance::Tolerances;
use crescendo_network::{Device, PrecisionKind};

fn open(
    precision: PrecisionKind,
    tolerances: Tolerances,
) -> Result<(Box<dyn Device>, Tolerances), String> {
    Ok((Box::new(host::device(host::HostDriver::new()?, precision)), tolerances))
}

mod f32 {
    use super::*;
    crescendo_conformance::conformance_tests!(|| open(PrecisionKind::F32, Tolerances::F32));
}

mod bf16 {
    use super::*;
    crescendo_conformance::conformance_tests!(|| open(
        PrecisionKind::Bf16,
        Tolerances::BF16_PRODUCTS
    ));
}
