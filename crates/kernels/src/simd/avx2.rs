//! AVX2 with FMA: a vector is two registers, of which there are 16.

use std::arch::x86_64::*;

use super::{GemmTile, GemmTnTile, Kernel, Simd, avx2_tiles};

/// Proof that the processor has AVX2 and FMA.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Avx2(());

impl Avx2 {
    pub fn new() -> Option<Self> {
        (is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")).then_some(Avx2(()))
    }
}

#[target_feature(enable = "avx2,fma")]
fn enter<K: Kernel>(s: Avx2, kernel: K) -> K::Output {
    kernel.run(s)
}

/// Calls intrinsics that are unsafe only for the instructions they need.
macro_rules! intrinsic {
    ($call:expr) => {
        // SAFETY: `self` exists only where the processor has the instructions: `Avx2::new`.
        unsafe { $call }
    };
}

impl Avx2 {
    /// The nearest bfloat16s, to even on a tie, in the lower halves of numbers of 32 bits.
    #[inline(always)]
    fn nearest_bf16(self, value: __m256) -> __m256i {
        intrinsic!({
            let bits = _mm256_castps_si256(value);
            let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
            let half = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff));
            let rounded = _mm256_castsi256_ps(_mm256_add_epi32(bits, half));
            // Rounding could carry a NaN into infinity: it becomes a quiet NaN.
            let quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x0040_0000));
            let none = _mm256_cmp_ps::<_CMP_UNORD_Q>(value, value);
            let result = _mm256_blendv_ps(rounded, _mm256_castsi256_ps(quiet), none);
            _mm256_srli_epi32::<16>(_mm256_castps_si256(result))
        })
    }

    /// See [`Simd::pair_bf16`].
    #[inline(always)]
    fn half_pair_bf16(self, even: __m256, odd: __m256) -> __m256 {
        let (even, odd) = (self.nearest_bf16(even), self.nearest_bf16(odd));
        intrinsic!(_mm256_castsi256_ps(_mm256_or_si256(even, _mm256_slli_epi32::<16>(odd))))
    }

    /// See [`Simd::dot_bf16`].
    #[inline(always)]
    fn half_dot_bf16(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        intrinsic!({
            let mask = _mm256_castsi256_ps(_mm256_set1_epi32(0xffff_0000_u32 as i32));
            let sum = _mm256_fmadd_ps(_mm256_and_ps(a, mask), _mm256_and_ps(b, mask), c);
            let (a, b) = (_mm256_castps_si256(a), _mm256_castps_si256(b));
            let (a, b) = (_mm256_slli_epi32::<16>(a), _mm256_slli_epi32::<16>(b));
            _mm256_fmadd_ps(_mm256_castsi256_ps(a), _mm256_castsi256_ps(b), sum)
        })
    }
}

// SAFETY: `new` asks the processor.
unsafe impl Simd for Avx2 {
    type V = (__m256, __m256);
    const ROWS: [usize; 4] = [6, 0, 0, 0];

    #[inline(always)]
    fn call<K: Kernel>(self, kernel: K) -> K::Output {
        intrinsic!(enter(self, kernel))
    }
    #[inline(always)]
    fn splat(self, value: f32) -> Self::V {
        intrinsic!((_mm256_set1_ps(value), _mm256_set1_ps(value)))
    }
    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        intrinsic!((_mm256_add_ps(a.0, b.0), _mm256_add_ps(a.1, b.1)))
    }
    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        intrinsic!((_mm256_sub_ps(a.0, b.0), _mm256_sub_ps(a.1, b.1)))
    }
    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        intrinsic!((_mm256_mul_ps(a.0, b.0), _mm256_mul_ps(a.1, b.1)))
    }
    #[inline(always)]
    fn div(self, a: Self::V, b: Self::V) -> Self::V {
        intrinsic!((_mm256_div_ps(a.0, b.0), _mm256_div_ps(a.1, b.1)))
    }
    #[inline(always)]
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        intrinsic!((_mm256_fmadd_ps(a.0, b.0, c.0), _mm256_fmadd_ps(a.1, b.1, c.1)))
    }
    #[inline(always)]
    fn fnma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        intrinsic!((_mm256_fnmadd_ps(a.0, b.0, c.0), _mm256_fnmadd_ps(a.1, b.1, c.1)))
    }
    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        intrinsic!((_mm256_max_ps(a.0, b.0), _mm256_max_ps(a.1, b.1)))
    }
    #[inline(always)]
    fn maximum(self, a: Self::V, b: Self::V) -> Self::V {
        let larger = self.max(a, b);
        intrinsic!({
            let low = _mm256_cmp_ps::<_CMP_UNORD_Q>(a.0, a.0);
            let high = _mm256_cmp_ps::<_CMP_UNORD_Q>(a.1, a.1);
            (_mm256_blendv_ps(larger.0, a.0, low), _mm256_blendv_ps(larger.1, a.1, high))
        })
    }
    #[inline(always)]
    fn min(self, a: Self::V, b: Self::V) -> Self::V {
        intrinsic!((_mm256_min_ps(a.0, b.0), _mm256_min_ps(a.1, b.1)))
    }
    #[inline(always)]
    fn positive(self, x: Self::V, yes: Self::V, no: Self::V) -> Self::V {
        intrinsic!({
            let zero = _mm256_setzero_ps();
            let low = _mm256_cmp_ps::<_CMP_GT_OQ>(x.0, zero);
            let high = _mm256_cmp_ps::<_CMP_GT_OQ>(x.1, zero);
            (_mm256_blendv_ps(no.0, yes.0, low), _mm256_blendv_ps(no.1, yes.1, high))
        })
    }
    #[inline(always)]
    fn power_of_two(self, n: Self::V) -> Self::V {
        intrinsic!({
            let bias = _mm256_set1_epi32(127);
            let (low, high) = (_mm256_cvtps_epi32(n.0), _mm256_cvtps_epi32(n.1));
            let low = _mm256_slli_epi32::<23>(_mm256_add_epi32(low, bias));
            let high = _mm256_slli_epi32::<23>(_mm256_add_epi32(high, bias));
            (_mm256_castsi256_ps(low), _mm256_castsi256_ps(high))
        })
    }
    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> Self::V {
        // SAFETY: the caller's promise; the instructions as above.
        unsafe { (_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))) }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32, value: Self::V) {
        // SAFETY: the caller's promise; the instructions as above.
        unsafe {
            _mm256_storeu_ps(to, value.0);
            _mm256_storeu_ps(to.add(8), value.1);
        }
    }
    #[inline(always)]
    unsafe fn stream(self, to: *mut f32, value: Self::V) {
        // SAFETY: the caller's promise, alignment included; the instructions as above.
        unsafe {
            _mm256_stream_ps(to, value.0);
            _mm256_stream_ps(to.add(8), value.1);
        }
    }
    #[inline(always)]
    fn fence(self) {
        intrinsic!(_mm_sfence())
    }
    #[inline(always)]
    unsafe fn load_bf16(self, from: *const u16) -> Self::V {
        // SAFETY: the caller's promise; the instructions as above.
        unsafe {
            let widen = |from: *const u16| {
                let halves = _mm_loadu_si128(from.cast());
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(halves)))
            };
            (widen(from), widen(from.add(8)))
        }
    }
    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut u16, value: Self::V) {
        // SAFETY: the caller's promise; the instructions as above.
        unsafe {
            // Packing works within halves of 128 bits; the permutation puts them in order.
            let packed =
                _mm256_packus_epi32(self.nearest_bf16(value.0), self.nearest_bf16(value.1));
            _mm256_storeu_si256(to.cast(), _mm256_permute4x64_epi64::<0b11_01_10_00>(packed));
        }
    }
    #[inline(always)]
    fn pair_bf16(self, even: Self::V, odd: Self::V) -> Self::V {
        (self.half_pair_bf16(even.0, odd.0), self.half_pair_bf16(even.1, odd.1))
    }
    #[inline(always)]
    fn dot_bf16(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        (self.half_dot_bf16(a.0, b.0, c.0), self.half_dot_bf16(a.1, b.1, c.1))
    }
    #[inline(always)]
    unsafe fn add_wide(self, sums: *mut f64, value: Self::V) {
        // SAFETY: the caller's promise; the instructions as above.
        unsafe {
            let quarters = [
                _mm256_castps256_ps128(value.0),
                _mm256_extractf128_ps::<1>(value.0),
                _mm256_castps256_ps128(value.1),
                _mm256_extractf128_ps::<1>(value.1),
            ];
            for (i, quarter) in quarters.into_iter().enumerate() {
                let sums = sums.add(4 * i);
                let sum = _mm256_add_pd(_mm256_loadu_pd(sums), _mm256_cvtps_pd(quarter));
                _mm256_storeu_pd(sums, sum);
            }
        }
    }
    #[inline(always)]
    unsafe fn gemm_tile<const R: usize>(self, tile: &GemmTile) -> bool {
        let Some(run) = (const { avx2_tiles::gemm(R) }) else { return false };
        // SAFETY: the caller's promise, and `new` asked the processor.
        unsafe { run(tile) };
        true
    }
    #[inline(always)]
    unsafe fn gemm_tn_tile<const R: usize>(self, step: usize, tile: &GemmTnTile) -> bool {
        let Some(run) = avx2_tiles::gemm_tn(R, step) else { return false };
        // SAFETY: as above.
        unsafe { run(tile) };
        true
    }
    #[inline(always)]
    fn prefetch_l1(self, at: *const f32) {
        // SAFETY: prefetching reads nothing that a program could notice, at any address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
    }
    #[inline(always)]
    fn prefetch_l2(self, at: *const f32) {
        // SAFETY: prefetching reads nothing that a program could notice, at any address.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) }
    }
}
