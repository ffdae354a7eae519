//! Vectors of sixteen numbers on every processor: kernels are written once, against [`Simd`], and
//! compiled once for each instruction set.
//!
//! A [`Simd`] value exists only where the processor has its instructions, so holding one is the
//! proof that they may be used. [`Isa::run`] is the one place where a kernel passes from ordinary
//! code into code compiled for an instruction set; everything inside is `#[inline(always)]`, so that
//! it is compiled for that set too.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx2_tiles;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;
mod tile;

pub(crate) use tile::{GemmTile, GemmTnTile, Segment};

/// Numbers in a vector, and channels in a block of the layout: see [`MapShape`](crate::MapShape).
pub const LANES: usize = 16;

/// Work to be compiled for an instruction set. `run` must be `#[inline(always)]`, and so must be
/// every function that it hands `s` to, unless that goes through [`Simd::call`]. No closure may compute with vectors: where
/// it is not inlined, each operation in it becomes a call (`nm -C` then shows functions of `core_arch::x86::avx`).
pub(crate) trait Kernel {
    type Output;
    fn run<S: Simd>(self, s: S) -> Self::Output;
}

/// The operations on vectors of [`LANES`] numbers. Loads and stores need no alignment, but
/// [`stream`](Self::stream).
///
/// # Safety
/// An implementation's values must exist only where the processor has its instructions.
pub(crate) unsafe trait Simd: Copy + Send + Sync {
    /// Sixteen numbers.
    type V: Copy;
    /// Rows of accumulators that fit in the registers beside one, two, three and four vectors of
    /// columns; zero where that many columns do not fit.
    const ROWS: [usize; 4];

    /// Calls a kernel as a function of its own, compiled for this instruction set.
    fn call<K: Kernel>(self, kernel: K) -> K::Output;

    fn splat(self, value: f32) -> Self::V;
    fn zero(self) -> Self::V {
        self.splat(0.0)
    }
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`, rounded once where the processor has such an instruction.
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `c - a * b`, rounded as [`fma`](Self::fma).
    fn fnma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The larger one; `b` where one is NaN.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// The larger one; NaN where one is NaN.
    fn maximum(self, a: Self::V, b: Self::V) -> Self::V;
    /// The smaller one; `b` where one is NaN.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// `yes` where `x > 0`, `no` elsewhere and where `x` is NaN.
    fn positive(self, x: Self::V, yes: Self::V, no: Self::V) -> Self::V;
    /// `2^n` for whole numbers `n` from -126 to 127.
    fn power_of_two(self, n: Self::V) -> Self::V;

    /// # Safety
    /// Sixteen numbers can be read at `from`.
    unsafe fn load(self, from: *const f32) -> Self::V;
    /// # Safety
    /// Sixteen numbers can be written at `to`.
    unsafe fn store(self, to: *mut f32, value: Self::V);
    /// Writes past the caches. Whoever writes so calls [`fence`](Self::fence) before others read.
    ///
    /// # Safety
    /// Sixteen numbers can be written at `to`, which is aligned to 64 bytes.
    unsafe fn stream(self, to: *mut f32, value: Self::V);
    fn fence(self);
    /// From bfloat16, the upper halves of `f32`s.
    ///
    /// # Safety
    /// Sixteen numbers can be read at `from`.
    unsafe fn load_bf16(self, from: *const u16) -> Self::V;
    /// To the nearest bfloat16, to even on a tie; NaN stays NaN. Numbers below the smallest normal one may become zero.
    ///
    /// # Safety
    /// Sixteen numbers can be written at `to`.
    unsafe fn store_bf16(self, to: *mut u16, value: Self::V);
    /// Pairs of bfloat16s, rounded as by [`store_bf16`](Self::store_bf16), in numbers of 32 bits: the lower halves are
    /// from `even`.
    fn pair_bf16(self, even: Self::V, odd: Self::V) -> Self::V;
    /// Adds both products of each pair to `c`: first that of the upper halves, then that of the lower ones, rounded
    /// after each. Numbers below the smallest normal one may count as zero.
    fn dot_bf16(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// Adds to sixteen sums in f64.
    ///
    /// # Safety
    /// Sixteen sums can be read and written at `sums`.
    unsafe fn add_wide(self, sums: *mut f64, value: Self::V);
    /// Prefetches the cache line at `at`, which may be anywhere, to the first-level cache.
    fn prefetch_l1(self, at: *const f32);
    /// The same to the second-level cache.
    fn prefetch_l2(self, at: *const f32);

    /// Computes a register tile of `R` rows and one vector of columns, if the instruction set has code of its own for it;
    /// says whether it has.
    ///
    /// # Safety
    /// All that the description reaches may be read, or written (`c`), and nobody else is at `c`.
    #[inline(always)]
    unsafe fn gemm_tile<const R: usize>(self, _: &GemmTile) -> bool {
        false
    }
    /// The same with `a` transposed, whose `k` are `step` vectors apart.
    ///
    /// # Safety
    /// As above.
    #[inline(always)]
    unsafe fn gemm_tn_tile<const R: usize>(self, _step: usize, _: &GemmTnTile) -> bool {
        false
    }
}

/// The nearest bfloat16, to even on a tie.
#[inline(always)]
pub(crate) fn nearest_bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    // Rounding could carry a NaN into infinity: it becomes a quiet NaN.
    let rounded = if value.is_nan() {
        bits | 0x0040_0000
    } else {
        bits.wrapping_add(0x7fff + ((bits >> 16) & 1))
    };
    (rounded >> 16) as u16
}

/// An instruction set that this processor has.
///
/// See the example of [the crate](crate).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Isa(Level);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    #[cfg(target_arch = "x86_64")]
    Avx512(avx512::Avx512<avx512::Base>),
    #[cfg(target_arch = "x86_64")]
    Avx2(avx2::Avx2),
    Portable(portable::Portable),
}

impl Isa {
    /// All names there are, the fastest first; not every processor has every one.
    pub const NAMES: [&str; 3] = ["avx512", "avx2", "portable"];

    /// The instruction set of this name, if this processor has it.
    pub fn new(name: &str) -> Option<Isa> {
        match name {
            #[cfg(target_arch = "x86_64")]
            "avx512" => avx512::Avx512::base().map(Level::Avx512).map(Isa),
            #[cfg(target_arch = "x86_64")]
            "avx2" => avx2::Avx2::new().map(Level::Avx2).map(Isa),
            "portable" => Some(Isa(Level::Portable(portable::Portable))),
            _ => None,
        }
    }

    /// All that this processor has, the fastest first.
    pub fn available() -> impl Iterator<Item = Isa> {
        Self::NAMES.into_iter().filter_map(Isa::new)
    }

    /// The fastest that this processor has.
    pub fn best() -> Isa {
        Self::available().next().expect("every processor has `portable`")
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512(_) => "avx512",
            #[cfg(target_arch = "x86_64")]
            Level::Avx2(_) => "avx2",
            Level::Portable(_) => "portable",
        }
    }

    /// Runs a kernel, compiled for this instruction set.
    pub(crate) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512(s) => s.call(kernel),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2(s) => s.call(kernel),
            Level::Portable(s) => s.call(kernel),
        }
    }

    /// Runs a kernel that multiplies bfloat16s, compiled for this instruction set and the instructions for that. AVX-512
    /// without them takes the code for AVX2: that is slower than f32 anyway, and not worth another copy of all kernels.
    pub(crate) fn run_bf16<K: Kernel>(self, kernel: K) -> K::Output {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512(_) => match (avx512::Avx512::with_bf16(), avx2::Avx2::new()) {
                (Some(s), _) => s.call(kernel),
                (None, Some(s)) => s.call(kernel),
                (None, None) => portable::Portable.call(kernel),
            },
            #[cfg(target_arch = "x86_64")]
            Level::Avx2(s) => s.call(kernel),
            Level::Portable(s) => s.call(kernel),
        }
    }

    /// Whether it has instructions for products of bfloat16s. Without them these are computed in f32, slower than
    /// products of f32.
    pub fn multiplies_bf16(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        if let Level::Avx512(_) = self.0 {
            return avx512::Avx512::with_bf16().is_some();
        }
        false
    }
}

impl std::fmt::Debug for Isa {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every operation against the same one on single numbers.
    struct Check;

    impl Kernel for Check {
        type Output = ();
        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            let number = |i: usize| (i as f32 - 7.5) * 1.5;
            let a: [f32; LANES] = std::array::from_fn(number);
            let b: [f32; LANES] = std::array::from_fn(|i| number((i * 7) % LANES));
            let c: [f32; LANES] = std::array::from_fn(|i| number((i * 5) % LANES));
            let load = |x: &[f32; LANES]| {
                // SAFETY: an array of sixteen numbers.
                unsafe { s.load(x.as_ptr()) }
            };
            let (va, vb, vc) = (load(&a), load(&b), load(&c));
            let check = |what: &str, got: S::V, expected: &dyn Fn(usize) -> f32| {
                let mut out = [0.0; LANES];
                // SAFETY: an array of sixteen numbers.
                unsafe { s.store(out.as_mut_ptr(), got) };
                assert_eq!(out, std::array::from_fn(expected), "{what}");
            };
            check("add", s.add(va, vb), &|i| a[i] + b[i]);
            check("sub", s.sub(va, vb), &|i| a[i] - b[i]);
            check("mul", s.mul(va, vb), &|i| a[i] * b[i]);
            check("div", s.div(va, vb), &|i| a[i] / b[i]);
            check("fma", s.fma(va, vb, vc), &|i| a[i].mul_add(b[i], c[i]));
            check("fnma", s.fnma(va, vb, vc), &|i| (-a[i]).mul_add(b[i], c[i]));
            check("max", s.max(va, vb), &|i| a[i].max(b[i]));
            check("min", s.min(va, vb), &|i| a[i].min(b[i]));
            check("positive", s.positive(va, vb, vc), &|i| if a[i] > 0.0 { b[i] } else { c[i] });
            check("maximum", s.maximum(va, vb), &|i| a[i].max(b[i]));
            let nan = s.splat(f32::NAN);
            for larger in [s.maximum(nan, va), s.maximum(va, nan), s.maximum(nan, nan)] {
                let mut out = [0.0; LANES];
                // SAFETY: an array of sixteen numbers.
                unsafe { s.store(out.as_mut_ptr(), larger) };
                assert!(out.iter().all(|x| x.is_nan()), "maximum with no number");
            }
            let nan = s.positive(s.splat(f32::NAN), vb, vc);
            check("positive of no number", nan, &|i| c[i]);
            let whole: [f32; LANES] = std::array::from_fn(|i| (i * 16) as f32 - 126.0);
            check("power_of_two", s.power_of_two(load(&whole)), &|i| whole[i].exp2());

            let mut sums = [1.0f64; LANES];
            // SAFETY: an array of sixteen sums.
            unsafe { s.add_wide(sums.as_mut_ptr(), va) };
            assert_eq!(sums, std::array::from_fn(|i| 1.0 + f64::from(a[i])), "add_wide");

            let mut halves = [0u16; LANES];
            // Ties to even, down and up; infinities; no number, which must not become infinite.
            let mut odd = a;
            odd[..6].copy_from_slice(&[
                f32::from_bits(0x3f80_8000),
                f32::from_bits(0x3f81_8000),
                f32::INFINITY,
                f32::from_bits(0x7f80_0001),
                -0.0,
                f32::MAX,
            ]);
            // SAFETY: arrays of sixteen numbers.
            let back = unsafe {
                s.store_bf16(halves.as_mut_ptr(), load(&odd));
                s.load_bf16(halves.as_ptr())
            };
            let mut out = [0.0; LANES];
            // SAFETY: an array of sixteen numbers.
            unsafe { s.store(out.as_mut_ptr(), back) };
            let expected = [1.0, f32::from_bits(0x3f82_0000), f32::INFINITY];
            assert_eq!(out[..3], expected);
            assert!(out[3].is_nan() && out[4].is_sign_negative() && out[5] == f32::INFINITY);
            for (out, odd) in out.iter().zip(odd).skip(6) {
                assert!((out - odd).abs() <= odd.abs() / 256.0, "{out} {odd}");
            }
        }
    }

    /// Pairs of bfloat16s, which are made of numbers that are rounded, and multiplied.
    struct CheckPairs;

    impl Kernel for CheckPairs {
        type Output = ();
        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            // Some lie halfway between two bfloat16s, some close to that.
            let numbers = |seed: u32| -> [f32; LANES] {
                std::array::from_fn(|i| {
                    let low = [0, 0x7fff, 0x8000, 0x8001][i % 4];
                    f32::from_bits(0x3f80_0000 + (((seed * 37 + i as u32 * 11) % 128) << 16) + low)
                })
            };
            let ([a, b, c], even) = ([1, 2, 3].map(numbers), numbers(4));
            let mut out = [[0.0f32; LANES]; 2];
            // SAFETY: arrays of sixteen numbers.
            unsafe {
                let load = |x: &[f32; LANES]| s.load(x.as_ptr());
                let (pairs, others) =
                    (s.pair_bf16(load(&a), load(&b)), s.pair_bf16(load(&even), load(&c)));
                s.store(out[0].as_mut_ptr(), pairs);
                s.store(out[1].as_mut_ptr(), s.dot_bf16(pairs, others, load(&c)));
            }
            let nearest = |x: f32| {
                let bits = x.to_bits();
                (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff_0000
            };
            let number = |x: f32| f32::from_bits(nearest(x));
            for i in 0..LANES {
                let pair = nearest(b[i]) | (nearest(a[i]) >> 16);
                assert_eq!(out[0][i].to_bits(), pair, "pair {i}");
                // Products of bfloat16s are exact in f32, so it does not matter whether they are fused with the sum.
                let upper = number(b[i]).mul_add(number(c[i]), c[i]);
                let sum = number(a[i]).mul_add(number(even[i]), upper);
                assert_eq!(out[1][i], sum, "dot {i}");
            }
            let none = s.pair_bf16(s.splat(f32::NAN), s.splat(f32::INFINITY));
            // SAFETY: an array of sixteen numbers.
            unsafe { s.store(out[0].as_mut_ptr(), none) };
            let bits = out[0][0].to_bits();
            assert!(bits >> 16 == 0x7f80 && f32::from_bits(bits << 16).is_nan(), "{bits:x}");
        }
    }

    #[test]
    fn every_instruction_set_does_the_same() {
        for isa in Isa::available() {
            isa.run(Check);
            isa.run_bf16(Check);
            isa.run(CheckPairs);
            isa.run_bf16(CheckPairs);
        }
        assert!(Isa::new("portable").is_some() && Isa::new("mmx").is_none());
    }
}
