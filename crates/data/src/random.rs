//! Random numbers that are a pure function of what they are for.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// A source of random numbers for one purpose: the same for the same four arguments, whatever was
/// drawn elsewhere, in whatever order.
pub(crate) fn source(purpose: &[u8; 8], seed: u64, epoch: u64, index: u64) -> ChaCha8Rng {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[8..16].copy_from_slice(&epoch.to_le_bytes());
    key[16..24].copy_from_slice(purpose);
    let mut random = ChaCha8Rng::from_seed(key);
    random.set_stream(index);
    random
}

/// A number below `bound`, which must not be 0.
pub(crate) fn below(random: &mut ChaCha8Rng, bound: u32) -> u32 {
    ((u64::from(random.next_u32()) * u64::from(bound)) >> 32) as u32
}

/// The numbers below `len` in random order (Fisher and Yates).
pub(crate) fn permutation(random: &mut ChaCha8Rng, len: usize) -> Vec<u32> {
    let mut order: Vec<u32> = (0..len as u32).collect();
    for last in (1..len).rev() {
        order.swap(last, below(random, last as u32 + 1) as usize);
    }
    order
}
