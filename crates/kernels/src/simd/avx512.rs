//! AVX-512: a vector is one register, of which there are 32.

use std::arch::x86_64::*;
use std::mem::transmute;

use super::{Kernel, Simd};

/// Proof that the processor has AVX-512F, BW, DQ and VL, and the `F`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Avx512<F>(F);

impl Avx512<Base> {
    pub fn base() -> Option<Self> {
        (is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("fma"))
        .then_some(Avx512(Base(())))
    }
}

impl Avx512<Bf16> {
    pub fn with_bf16() -> Option<Self> {
        Avx512::base()?;
        is_x86_feature_detected!("avx512bf16").then_some(Avx512(Bf16(())))
    }
}

/// Features beyond those that every [`Avx512`] has, and what depends on them.
pub(super) trait Features: Copy + Send + Sync {
    /// See [`Simd::call`].
    ///
    /// # Safety
    /// The processor has AVX-512F, BW, DQ and VL, and the features.
    unsafe fn enter<K: Kernel>(s: Avx512<Self>, kernel: K) -> K::Output;
    /// See [`Simd::store_bf16`].
    ///
    /// # Safety
    /// As above.
    unsafe fn nearest_bf16(value: __m512) -> __m256i;
    /// See [`Simd::pair_bf16`].
    ///
    /// # Safety
    /// As above.
    unsafe fn pair_bf16(even: __m512, odd: __m512) -> __m512;
    /// See [`Simd::dot_bf16`].
    ///
    /// # Safety
    /// As above.
    unsafe fn dot_bf16(a: __m512, b: __m512, c: __m512) -> __m512;
}

/// None.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Base(());

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
fn enter<K: Kernel>(s: Avx512<Base>, kernel: K) -> K::Output {
    kernel.run(s)
}

impl Features for Base {
    #[inline(always)]
    unsafe fn enter<K: Kernel>(s: Avx512<Self>, kernel: K) -> K::Output {
        // SAFETY: the caller's promise.
        unsafe { enter(s, kernel) }
    }
    #[inline(always)]
    unsafe fn nearest_bf16(value: __m512) -> __m256i {
        // SAFETY: the caller's promise.
        unsafe { _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(rounded_bf16(value))) }
    }
    #[inline(always)]
    unsafe fn pair_bf16(even: __m512, odd: __m512) -> __m512 {
        // SAFETY: the caller's promise.
        unsafe {
            let lower = _mm512_srli_epi32::<16>(rounded_bf16(even));
            let upper = _mm512_and_si512(rounded_bf16(odd), upper_halves());
            _mm512_castsi512_ps(_mm512_or_si512(lower, upper))
        }
    }
    #[inline(always)]
    unsafe fn dot_bf16(a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: the caller's promise.
        unsafe {
            let (a, b) = (_mm512_castps_si512(a), _mm512_castps_si512(b));
            let mask = upper_halves();
            let upper = (_mm512_and_si512(a, mask), _mm512_and_si512(b, mask));
            let lower = (_mm512_slli_epi32::<16>(a), _mm512_slli_epi32::<16>(b));
            let sum =
                _mm512_fmadd_ps(_mm512_castsi512_ps(upper.0), _mm512_castsi512_ps(upper.1), c);
            _mm512_fmadd_ps(_mm512_castsi512_ps(lower.0), _mm512_castsi512_ps(lower.1), sum)
        }
    }
}

/// # Safety
/// The processor has AVX-512F.
#[inline(always)]
unsafe fn upper_halves() -> __m512i {
    // SAFETY: the caller's promise.
    unsafe { _mm512_set1_epi32(0xffff_0000_u32 as i32) }
}

/// The nearest bfloat16s, to even on a tie, in the upper halves of numbers of 32 bits; the lower ones have no meaning.
///
/// # Safety
/// The processor has AVX-512F.
#[inline(always)]
unsafe fn rounded_bf16(value: __m512) -> __m512i {
    // SAFETY: the caller's promise.
    unsafe {
        let bits = _mm512_castps_si512(value);
        let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
        let half = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff));
        let rounded = _mm512_add_epi32(bits, half);
        // Rounding could carry a NaN into infinity: it becomes a quiet NaN.
        let quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x0040_0000));
        let none = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(value, value);
        _mm512_mask_blend_epi32(none, rounded, quiet)
    }
}

/// AVX512_BF16.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Bf16(());

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma")]
fn enter_bf16<K: Kernel>(s: Avx512<Bf16>, kernel: K) -> K::Output {
    kernel.run(s)
}

/// Where [`Bf16::pair_bf16`] finds its numbers: from two vectors of 32 each, in turn.
const IN_TURN: [u16; 32] = {
    let mut places = [0; 32];
    let mut i = 0;
    while i < 32 {
        places[i] = (i / 2 + i % 2 * 16) as u16;
        i += 1;
    }
    places
};

impl Features for Bf16 {
    #[inline(always)]
    unsafe fn enter<K: Kernel>(s: Avx512<Self>, kernel: K) -> K::Output {
        // SAFETY: the caller's promise.
        unsafe { enter_bf16(s, kernel) }
    }
    #[inline(always)]
    unsafe fn nearest_bf16(value: __m512) -> __m256i {
        // SAFETY: the caller's promise; both are 256 bits.
        unsafe { transmute(_mm512_cvtneps_pbh(value)) }
    }
    #[inline(always)]
    unsafe fn pair_bf16(even: __m512, odd: __m512) -> __m512 {
        // SAFETY: the caller's promise; vectors of 512 bits.
        unsafe {
            let one_after_another: __m512i = transmute(_mm512_cvtne2ps_pbh(odd, even));
            let places = _mm512_loadu_si512(IN_TURN.as_ptr().cast());
            _mm512_castsi512_ps(_mm512_permutexvar_epi16(places, one_after_another))
        }
    }
    #[inline(always)]
    unsafe fn dot_bf16(a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: the caller's promise; vectors of 512 bits.
        unsafe {
            _mm512_dpbf16_ps(c, transmute::<__m512, __m512bh>(a), transmute::<__m512, __m512bh>(b))
        }
    }
}

/// Calls an intrinsic that is unsafe only for the instructions it needs.
macro_rules! intrinsic {
    ($call:expr) => {
        // SAFETY: `self` exists only where the processor has the instructions: `base`, `with_bf16`.
        unsafe { $call }
    };
}

// SAFETY: `base` and `with_bf16` ask the processor.
unsafe impl<F: Features> Simd for Avx512<F> {
    type V = __m512;
    const ROWS: [usize; 4] = [12, 12, 8, 6];

    #[inline(always)]
    fn call<K: Kernel>(self, kernel: K) -> K::Output {
        intrinsic!(F::enter(self, kernel))
    }
    #[inline(always)]
    fn splat(self, value: f32) -> __m512 {
        intrinsic!(_mm512_set1_ps(value))
    }
    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        intrinsic!(_mm512_add_ps(a, b))
    }
    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        intrinsic!(_mm512_sub_ps(a, b))
    }
    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        intrinsic!(_mm512_mul_ps(a, b))
    }
    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        intrinsic!(_mm512_div_ps(a, b))
    }
    #[inline(always)]
    fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        intrinsic!(_mm512_fmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn fnma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        intrinsic!(_mm512_fnmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        intrinsic!(_mm512_max_ps(a, b))
    }
    #[inline(always)]
    fn maximum(self, a: __m512, b: __m512) -> __m512 {
        intrinsic!({
            let number = _mm512_cmp_ps_mask::<_CMP_ORD_Q>(a, a);
            _mm512_mask_max_ps(a, number, a, b)
        })
    }
    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        intrinsic!(_mm512_min_ps(a, b))
    }
    #[inline(always)]
    fn positive(self, x: __m512, yes: __m512, no: __m512) -> __m512 {
        intrinsic!({
            let positive = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(x, _mm512_setzero_ps());
            _mm512_mask_blend_ps(positive, no, yes)
        })
    }
    #[inline(always)]
    fn power_of_two(self, n: __m512) -> __m512 {
        intrinsic!(_mm512_scalef_ps(_mm512_set1_ps(1.0), n))
    }
    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> __m512 {
        // SAFETY: the caller's promise; the instructions as above.
        unsafe { _mm512_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32, value: __m512) {
        // SAFETY: the caller's promise; the instructions as above.
        unsafe { _mm512_storeu_ps(to, value) }
    }
    #[inline(always)]
    unsafe fn stream(self, to: *mut f32, value: __m512) {
        // SAFETY: the caller's promise, alignment included; the instructions as above.
        unsafe { _mm512_stream_ps(to, value) }
    }
    #[inline(always)]
    fn fence(self) {
        intrinsic!(_mm_sfence())
    }
    #[inline(always)]
    unsafe fn load_bf16(self, from: *const u16) -> __m512 {
        // SAFETY: the caller's promise; the instructions as above.
        unsafe {
            let halves = _mm256_loadu_si256(from.cast());
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(halves)))
        }
    }
    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut u16, value: __m512) {
        // SAFETY: the caller's promise; the instructions as above.
        unsafe { _mm256_storeu_si256(to.cast(), F::nearest_bf16(value)) }
    }
    #[inline(always)]
    fn pair_bf16(self, even: __m512, odd: __m512) -> __m512 {
        intrinsic!(F::pair_bf16(even, odd))
    }
    #[inline(always)]
    fn dot_bf16(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        intrinsic!(F::dot_bf16(a, b, c))
    }
    #[inline(always)]
    unsafe fn add_wide(self, sums: *mut f64, value: __m512) {
        // SAFETY: the caller's promise; the instructions as above.
        unsafe {
            let low = _mm512_cvtps_pd(_mm512_castps512_ps256(value));
            let high = _mm512_cvtps_pd(_mm512_extractf32x8_ps::<1>(value));
            _mm512_storeu_pd(sums, _mm512_add_pd(_mm512_loadu_pd(sums), low));
            let sums = sums.add(8);
            _mm512_storeu_pd(sums, _mm512_add_pd(_mm512_loadu_pd(sums), high));
        }
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
