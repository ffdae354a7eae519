//! Plain Rust, which the compiler turns into the vectors that every processor of its target has.

use super::{Kernel, LANES, Simd, nearest_bf16};

/// Needs no proof.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Portable;

/// A function of its own, as for the other instruction sets: inlined wherever it is called, a kernel
/// is compiled many times.
#[inline(never)]
fn enter<K: Kernel>(s: Portable, kernel: K) -> K::Output {
    kernel.run(s)
}

type V = [f32; LANES];

#[inline(always)]
fn map(f: impl Fn(usize) -> f32) -> V {
    std::array::from_fn(f)
}

/// `a * b + c`. Rounded twice where the target has no such instruction, since the exact one would
/// then be a call of a function for every number.
#[inline(always)]
fn multiply_add(a: f32, b: f32, c: f32) -> f32 {
    if cfg!(any(target_feature = "fma", target_arch = "aarch64")) {
        a.mul_add(b, c)
    } else {
        a * b + c
    }
}

// SAFETY: uses no special instructions.
unsafe impl Simd for Portable {
    type V = V;
    const ROWS: [usize; 4] = [4, 0, 0, 0];

    #[inline(always)]
    fn call<K: Kernel>(self, kernel: K) -> K::Output {
        enter(self, kernel)
    }
    #[inline(always)]
    fn splat(self, value: f32) -> V {
        [value; LANES]
    }
    #[inline(always)]
    fn add(self, a: V, b: V) -> V {
        map(|i| a[i] + b[i])
    }
    #[inline(always)]
    fn sub(self, a: V, b: V) -> V {
        map(|i| a[i] - b[i])
    }
    #[inline(always)]
    fn mul(self, a: V, b: V) -> V {
        map(|i| a[i] * b[i])
    }
    #[inline(always)]
    fn div(self, a: V, b: V) -> V {
        map(|i| a[i] / b[i])
    }
    #[inline(always)]
    fn fma(self, a: V, b: V, c: V) -> V {
        map(|i| multiply_add(a[i], b[i], c[i]))
    }
    #[inline(always)]
    fn fnma(self, a: V, b: V, c: V) -> V {
        map(|i| multiply_add(-a[i], b[i], c[i]))
    }
    #[inline(always)]
    fn max(self, a: V, b: V) -> V {
        map(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn maximum(self, a: V, b: V) -> V {
        map(|i| if a[i] > b[i] || a[i].is_nan() { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn min(self, a: V, b: V) -> V {
        map(|i| if a[i] < b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn positive(self, x: V, yes: V, no: V) -> V {
        map(|i| if x[i] > 0.0 { yes[i] } else { no[i] })
    }
    #[inline(always)]
    fn power_of_two(self, n: V) -> V {
        map(|i| f32::from_bits(((n[i] as i32 + 127) as u32) << 23))
    }
    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> V {
        // SAFETY: the caller's promise.
        unsafe { from.cast::<V>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32, value: V) {
        // SAFETY: the caller's promise.
        unsafe { to.cast::<V>().write_unaligned(value) }
    }
    #[inline(always)]
    unsafe fn stream(self, to: *mut f32, value: V) {
        // SAFETY: the caller's promise.
        unsafe { self.store(to, value) }
    }
    #[inline(always)]
    fn fence(self) {}
    #[inline(always)]
    unsafe fn load_bf16(self, from: *const u16) -> V {
        // SAFETY: the caller's promise.
        let halves = unsafe { from.cast::<[u16; LANES]>().read_unaligned() };
        map(|i| f32::from_bits(u32::from(halves[i]) << 16))
    }
    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut u16, value: V) {
        let mut halves = [0; LANES];
        for (half, value) in halves.iter_mut().zip(value) {
            *half = nearest_bf16(value);
        }
        // SAFETY: the caller's promise.
        unsafe { to.cast::<[u16; LANES]>().write_unaligned(halves) }
    }
    #[inline(always)]
    fn pair_bf16(self, even: V, odd: V) -> V {
        map(|i| {
            f32::from_bits(
                u32::from(nearest_bf16(even[i])) | (u32::from(nearest_bf16(odd[i])) << 16),
            )
        })
    }
    #[inline(always)]
    fn dot_bf16(self, a: V, b: V, c: V) -> V {
        let upper = |x: f32| f32::from_bits(x.to_bits() & 0xffff_0000);
        let lower = |x: f32| f32::from_bits(x.to_bits() << 16);
        map(|i| {
            let sum = multiply_add(upper(a[i]), upper(b[i]), c[i]);
            multiply_add(lower(a[i]), lower(b[i]), sum)
        })
    }
    #[inline(always)]
    unsafe fn add_wide(self, sums: *mut f64, value: V) {
        for (i, value) in value.into_iter().enumerate() {
            // SAFETY: the caller's promise.
            unsafe { *sums.add(i) += f64::from(value) };
        }
    }
    #[inline(always)]
    fn prefetch_l1(self, _: *const f32) {}
    #[inline(always)]
    fn prefetch_l2(self, _: *const f32) {}
}
