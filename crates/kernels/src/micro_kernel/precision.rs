//! What is multiplied: numbers, or pairs of bfloat16s.

use crate::Isa;
use crate::simd::{Kernel, LANES, Simd, nearest_bf16};

/// The precision of products; sums are `f32`. Matrices consist of *words* of 32 bits, whatever these hold, so that a
/// GEMM is the same for both.
pub(crate) trait Precision: Copy + Default + Send + Sync {
    /// How many `k` a word holds.
    const K: usize;
    /// Words of sixteen `k`: of a block of channels.
    const BLOCK: usize = LANES / Self::K;

    /// A word of what `k` has at each index.
    fn word(k: impl Fn(usize) -> f32) -> f32;

    /// Sixteen words of what `k` has at each index; the second is not read where a word is one number.
    fn words<S: Simd>(s: S, k: [S::V; 2]) -> S::V;

    /// Stores the [`BLOCK`](Self::BLOCK) words of sixteen `k` that lie side by side.
    ///
    /// # Safety
    /// They can be written at `to`.
    unsafe fn store_block<S: Simd>(s: S, to: *mut f32, k: S::V);

    /// `sum + a * b`, of all `k` of the words.
    fn multiply_add<S: Simd>(s: S, a: S::V, b: S::V, sum: S::V) -> S::V;

    /// Runs a kernel, compiled for the instructions that this precision needs.
    fn run<T>(isa: Isa, kernel: impl Kernel<Output = T>) -> T;
}

/// A word is a number.
#[derive(Clone, Copy, Default)]
pub(crate) struct F32;

impl Precision for F32 {
    const K: usize = 1;

    fn word(k: impl Fn(usize) -> f32) -> f32 {
        k(0)
    }
    #[inline(always)]
    fn words<S: Simd>(_: S, k: [S::V; 2]) -> S::V {
        k[0]
    }
    #[inline(always)]
    unsafe fn store_block<S: Simd>(s: S, to: *mut f32, k: S::V) {
        // SAFETY: the caller's promise.
        unsafe { s.store(to, k) }
    }
    #[inline(always)]
    fn multiply_add<S: Simd>(s: S, a: S::V, b: S::V, sum: S::V) -> S::V {
        s.fma(a, b, sum)
    }
    fn run<T>(isa: Isa, kernel: impl Kernel<Output = T>) -> T {
        isa.run(kernel)
    }
}

/// A word is a pair of bfloat16s, two `k`.
#[derive(Clone, Copy, Default)]
pub(crate) struct Bf16;

impl Precision for Bf16 {
    const K: usize = 2;

    fn word(k: impl Fn(usize) -> f32) -> f32 {
        f32::from_bits(u32::from(nearest_bf16(k(0))) | (u32::from(nearest_bf16(k(1))) << 16))
    }
    #[inline(always)]
    fn words<S: Simd>(s: S, k: [S::V; 2]) -> S::V {
        s.pair_bf16(k[0], k[1])
    }
    #[inline(always)]
    unsafe fn store_block<S: Simd>(s: S, to: *mut f32, k: S::V) {
        // SAFETY: the caller's promise.
        unsafe { s.store_bf16(to.cast(), k) }
    }
    #[inline(always)]
    fn multiply_add<S: Simd>(s: S, a: S::V, b: S::V, sum: S::V) -> S::V {
        s.dot_bf16(a, b, sum)
    }
    fn run<T>(isa: Isa, kernel: impl Kernel<Output = T>) -> T {
        isa.run_bf16(kernel)
    }
}
