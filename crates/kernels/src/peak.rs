//! The processor's peak: what the speed of kernels is measured against.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use crate::Processor;
use crate::simd::{Kernel, Simd};

/// Floating-point operations a second that all threads reach with multiplications and additions from
/// registers: the best of a few short runs.
pub fn flops(processor: &Processor) -> f64 {
    const STEPS: usize = 2_000_000;
    let threads = processor.pool.threads();
    let once = || {
        let (begin, done) = (Instant::now(), AtomicUsize::new(0));
        // As many tasks as threads: each takes one, since none ends before all have begun.
        processor.pool.run(threads, usize::MAX, |_, _| {
            done.fetch_add(processor.isa.run(Chains { steps: STEPS }), Ordering::Relaxed);
        });
        done.into_inner() as f64 / begin.elapsed().as_secs_f64()
    };
    (0..5).map(|_| once()).fold(0.0, f64::max)
}

/// Chains of multiplications and additions that do not wait for each other: as many as there are registers
/// for. Says how many operations those were.
struct Chains {
    steps: usize,
}

impl Kernel for Chains {
    type Output = usize;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> usize {
        let (factor, term) = (s.splat(0.999), s.splat(0.001));
        let mut chains = [s.zero(); 12];
        let chains = &mut chains[..S::ROWS[0]];
        for _ in 0..self.steps {
            for chain in &mut *chains {
                *chain = s.fma(*chain, factor, term);
            }
        }
        let mut out = [0.0; crate::LANES];
        for chain in &*chains {
            // SAFETY: sixteen numbers.
            unsafe { s.store(out.as_mut_ptr(), *chain) };
            std::hint::black_box(&out);
        }
        2 * crate::LANES * self.steps * chains.len()
    }
}
