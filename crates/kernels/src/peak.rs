//! What the processor could do at most: the measure of everything else.

use std::time::Instant;

use crate::Processor;
use crate::simd::{Kernel, Simd};

/// Floating-point operations a second that all threads reach with multiplications and additions from
/// registers: the best of a few short runs.
pub fn flops(processor: &Processor) -> f64 {
    const STEPS: usize = 2_000_000;
    let threads = processor.pool.threads();
    let once = || {
        let begin = Instant::now();
        // As many tasks as threads: each takes one, since none ends before all have begun.
        processor.pool.run(threads, |_, _| processor.isa.run(Chains { steps: STEPS }));
        (threads * STEPS * Chains::FLOPS) as f64 / begin.elapsed().as_secs_f64()
    };
    (0..5).map(|_| once()).fold(0.0, f64::max)
}

/// Twelve chains of multiplications and additions that do not wait for each other.
struct Chains {
    steps: usize,
}

impl Chains {
    const CHAINS: usize = 12;
    const FLOPS: usize = 2 * crate::LANES * Self::CHAINS;
}

impl Kernel for Chains {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (factor, term) = (s.splat(0.999), s.splat(0.001));
        let mut chains = [s.zero(); Self::CHAINS];
        for _ in 0..self.steps {
            for chain in &mut chains {
                *chain = s.fma(*chain, factor, term);
            }
        }
        let mut out = [0.0; crate::LANES];
        for chain in chains {
            // SAFETY: sixteen numbers.
            unsafe { s.store(out.as_mut_ptr(), chain) };
            std::hint::black_box(&out);
        }
    }
}
