//! What becomes of the rows that a kernel delivers: the other half of [`crate::prologue`].

use crate::disjoint_slice::DisjointSlice;
use crate::prefetch::{Prefetch, Rows};
use crate::prologue::{MapsRef, Prologue};
use crate::simd::{Kernel, LANES, Simd};
use crate::{ActivationFunction, MapShape};

/// Memory that rows of maps are written to, by several threads at once, each its own rows.
pub enum MapsMut<'a> {
    /// As they are.
    F32(DisjointSlice<'a, f32>),
    /// The upper halves.
    Bf16(DisjointSlice<'a, u16>),
}

impl<'a> MapsMut<'a> {
    /// Memory for numbers.
    pub fn f32(memory: &'a mut [f32]) -> Self {
        MapsMut::F32(DisjointSlice::new(memory))
    }

    /// Memory for upper halves.
    pub fn bf16(memory: &'a mut [u16]) -> Self {
        MapsMut::Bf16(DisjointSlice::new(memory))
    }
}

impl MapsMut<'_> {
    pub(crate) fn check(&self, shape: MapShape) {
        let len = match self {
            MapsMut::F32(memory) => memory.len(),
            MapsMut::Bf16(memory) => memory.len(),
        };
        assert_eq!(len, shape.len(), "wrong length");
    }

    /// Writes the row that begins at number `start`.
    ///
    /// # Safety
    /// The row lies within the memory, no other thread is at it, `row` has `len` numbers.
    #[inline(always)]
    pub(crate) unsafe fn write_row<S: Simd>(
        &self,
        s: S,
        start: usize,
        len: usize,
        row: *const f32,
    ) {
        // SAFETY: the caller's promise.
        unsafe {
            match self {
                MapsMut::F32(memory) => {
                    let to = memory.as_mut_ptr().add(start);
                    for x in (0..len).step_by(LANES) {
                        write(s, to.add(x), s.load(row.add(x)));
                    }
                }
                MapsMut::Bf16(memory) => {
                    let to = memory.as_mut_ptr().add(start);
                    for x in (0..len).step_by(LANES) {
                        s.store_bf16(to.add(x), s.load(row.add(x)));
                    }
                }
            }
        }
    }
}

/// Writes sixteen numbers that nobody reads soon: past the caches where the address allows it.
///
/// # Safety
/// As for [`Simd::store`].
#[inline(always)]
unsafe fn write<S: Simd>(s: S, to: *mut f32, value: S::V) {
    // SAFETY: the caller's promise; aligned where streamed.
    unsafe { if to.addr().is_multiple_of(64) { s.stream(to, value) } else { s.store(to, value) } }
}

/// Sums over each channel of each image, for a BatchNorm: `[images, blocks, 2, 16]` in f64, which
/// start as zeros and are added up by [`crate::norm::sum_over_images`].
pub type ChannelSums<'a> = DisjointSlice<'a, f64>;

/// Where a forward kernel delivers the rows of its output.
pub struct Epilogue<'a> {
    /// Their shape.
    pub shape: MapShape,
    /// Added to each channel (filled up to whole blocks).
    pub bias: Option<&'a [f32]>,
    /// Where they are stored.
    pub out: MapsMut<'a>,
    /// The sums that a BatchNorm of them needs.
    pub sums: Option<BatchStatistics<'a>>,
}

/// For each channel, the sums of `x - shift` and of its square: a shift near the mean keeps the
/// variance exact.
pub struct BatchStatistics<'a> {
    /// Where they are added.
    pub sums: ChannelSums<'a>,
    /// The shifts (filled up to whole blocks).
    pub shift: &'a [f32],
}

impl Epilogue<'_> {
    /// Panics unless all slices have the lengths that `maps` asks for; kernels rely on it.
    pub(crate) fn check(&self) {
        self.out.check(self.shape);
        let channels = self.shape.padded_channels();
        assert!(self.bias.is_none_or(|bias| bias.len() == channels), "wrong number of biases");
        if let Some(BatchStatistics { sums, shift }) = &self.sums {
            check_sums(sums, self.shape);
            assert_eq!(shift.len(), channels, "wrong number of shifts");
        }
    }

    /// Takes a row.
    ///
    /// # Safety
    /// [`check`](Self::check) has passed, `row` has a row's numbers, and no other thread is at the
    /// same block of the same image.
    #[inline(always)]
    pub(crate) unsafe fn row<S: Simd>(
        &self,
        s: S,
        image: usize,
        block: usize,
        y: usize,
        row: *const f32,
    ) {
        s.call(Row { epilogue: self, image, block, y, row });
    }
}

fn check_sums(sums: &ChannelSums, shape: MapShape) {
    assert_eq!(sums.len(), shape.images * shape.blocks() * 2 * LANES, "wrong number of sums");
}

struct Row<'a, 'b> {
    epilogue: &'b Epilogue<'a>,
    image: usize,
    block: usize,
    y: usize,
    row: *const f32,
}

impl Kernel for Row<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Row { epilogue, image, block, y, row } = self;
        let (start, len) = (epilogue.shape.row_offset(image, block, y), epilogue.shape.row_len());
        // SAFETY: `Epilogue::row`'s promises: every slice has this row, block and image.
        unsafe {
            let at = block * LANES;
            let (mut bias, mut shift) = (s.zero(), s.zero());
            if let Some(of_channels) = epilogue.bias {
                bias = s.load(of_channels.as_ptr().add(at));
            }
            if let Some(sums) = &epilogue.sums {
                shift = s.load(sums.shift.as_ptr().add(at));
            }
            let (mut sum, mut squares) = (s.zero(), s.zero());
            for x in (0..len).step_by(LANES) {
                let value = s.add(s.load(row.add(x)), bias);
                let away = s.sub(value, shift);
                sum = s.add(sum, away);
                squares = s.fma(away, away, squares);
                match &epilogue.out {
                    MapsMut::F32(out) => write(s, out.as_mut_ptr().add(start + x), value),
                    MapsMut::Bf16(out) => s.store_bf16(out.as_mut_ptr().add(start + x), value),
                }
            }
            if let Some(BatchStatistics { sums, .. }) = &epilogue.sums {
                // A row's sum in f32, all beyond in f64: see the numerics in docs/performance.md.
                let sums = sums.as_mut_ptr().add(epilogue.shape.sums_offset(image, block));
                s.add_wide(sums, sum);
                s.add_wide(sums.add(LANES), squares);
            }
        }
    }
}

/// The widest rows of kernels that keep one on the stack.
pub(crate) const MAX_WIDTH: usize = 256;

/// Where a backward kernel delivers the rows of its input's gradient.
///
/// What is stored is the gradient before the input's activation, where there is one:
/// `(row + addends) * activation'`. With it come the sums that the BatchNorms before the activation
/// need for their own backward.
pub struct GradientEpilogue<'a> {
    /// Their shape.
    pub shape: MapShape,
    /// Where they are stored.
    pub out: DisjointSlice<'a, f32>,
    /// Whether `out` holds a part of the gradient already.
    pub accumulate: bool,
    /// Other parts of the gradient.
    pub addends: [Option<&'a [f32]>; 2],
    /// The activation.
    pub derivative: Option<ActivationDerivative<'a>>,
    /// The BatchNorms before it: of the value, and of the residual.
    pub norms: [Option<NormGradientSums<'a>>; 2],
}

/// The slope of an activation: of which function, and where.
pub struct ActivationDerivative<'a> {
    /// The function.
    pub function: ActivationFunction,
    /// Where it is taken.
    pub at: DerivativeAt<'a>,
}

/// Where a slope is taken.
pub enum DerivativeAt<'a> {
    /// Where the function has these values: only if [`ActivationFunction::derivative_from_output`].
    Output(MapsRef<'a>),
    /// At these arguments: a prologue without activation.
    Input(Prologue<'a>),
}

/// For each channel, the sums of the gradient and of the gradient times `value - mean`.
pub struct NormGradientSums<'a> {
    /// BatchNorm's input.
    pub value: MapsRef<'a>,
    /// Its mean in the batch (filled up to whole blocks).
    pub mean: &'a [f32],
    /// Where they are added.
    pub sums: ChannelSums<'a>,
}

impl<'a> GradientEpilogue<'a> {
    /// Rows stored as they come.
    pub fn plain(shape: MapShape, out: DisjointSlice<'a, f32>) -> Self {
        GradientEpilogue {
            shape,
            out,
            accumulate: false,
            addends: [None, None],
            derivative: None,
            norms: [None, None],
        }
    }

    /// Panics unless all slices have the lengths that `maps` asks for; kernels rely on it.
    pub(crate) fn check(&self) {
        assert_eq!(self.out.len(), self.shape.len(), "wrong length");
        for addend in self.addends.iter().flatten() {
            assert_eq!(addend.len(), self.shape.len(), "wrong length");
        }
        match &self.derivative {
            Some(ActivationDerivative { at: DerivativeAt::Output(value), function }) => {
                assert!(function.derivative_from_output(), "{function:?} needs its argument");
                value.check(self.shape);
            }
            Some(ActivationDerivative { at: DerivativeAt::Input(prologue), .. }) => {
                assert_eq!(prologue.shape, self.shape, "another shape");
                assert!(prologue.save.is_none() && prologue.activation.is_none(), "an argument");
                assert!(self.shape.width <= MAX_WIDTH, "rows of more than {MAX_WIDTH} pixels");
                prologue.check();
            }
            None => {}
        }
        for NormGradientSums { value, mean, sums } in self.norms.iter().flatten() {
            value.check(self.shape);
            assert_eq!(mean.len(), self.shape.padded_channels(), "wrong number of means");
            check_sums(sums, self.shape);
        }
    }

    /// Has what is read for these rows asked for.
    pub(crate) fn prefetch(&self, prefetch: &mut Prefetch, rows: &Rows) {
        for addend in self.addends.iter().flatten() {
            prefetch.add(addend, self.shape, rows);
        }
        for norm in self.norms.iter().flatten() {
            norm.value.prefetch(prefetch, self.shape, rows);
        }
        match &self.derivative {
            Some(ActivationDerivative { at: DerivativeAt::Output(value), .. }) => {
                value.prefetch(prefetch, self.shape, rows)
            }
            Some(ActivationDerivative { at: DerivativeAt::Input(prologue), .. }) => {
                if let Some(residual) = &prologue.residual {
                    residual.value.prefetch(prefetch, self.shape, rows);
                }
            }
            None => {}
        }
        if self.accumulate {
            // SAFETY: the memory is borrowed for `'a`; only addresses are taken from the slice.
            let out = unsafe { std::slice::from_raw_parts(self.out.as_mut_ptr(), self.out.len()) };
            prefetch.add(out, self.shape, rows);
        }
    }

    /// Takes a row, which it changes.
    ///
    /// # Safety
    /// [`check`](Self::check) has passed, `row` has a row's numbers, and no other thread is at the
    /// same block of the same image.
    #[inline(always)]
    pub(crate) unsafe fn row<S: Simd>(
        &self,
        s: S,
        image: usize,
        block: usize,
        y: usize,
        row: *mut f32,
    ) {
        s.call(GradientRow { epilogue: self, image, block, y, row });
    }
}

struct GradientRow<'a, 'b> {
    epilogue: &'b GradientEpilogue<'a>,
    image: usize,
    block: usize,
    y: usize,
    row: *mut f32,
}

impl Kernel for GradientRow<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let GradientRow { epilogue, image, block, y, row } = self;
        let (start, len) = (epilogue.shape.row_offset(image, block, y), epilogue.shape.row_len());
        // SAFETY: `GradientEpilogue::row`'s promises: every slice has this row, block and image.
        unsafe {
            let out = epilogue.out.as_mut_ptr().add(start);
            if epilogue.accumulate {
                add(s, row, out, len);
            }
            for addend in epilogue.addends.iter().flatten() {
                add(s, row, addend.as_ptr().add(start), len);
            }
            if let Some(derivative) = &epilogue.derivative {
                derivative.apply(s, image, block, y, row, len, start);
            }
            for norm in epilogue.norms.iter().flatten() {
                let value = norm.value.at(start);
                let mean = s.load(norm.mean.as_ptr().add(block * LANES));
                let (mut sum, mut products) = (s.zero(), s.zero());
                for x in (0..len).step_by(LANES) {
                    let gradient = s.load(row.add(x));
                    sum = s.add(sum, gradient);
                    products = s.fma(gradient, s.sub(value.load(s, x), mean), products);
                }
                let sums = norm.sums.as_mut_ptr().add(epilogue.shape.sums_offset(image, block));
                s.add_wide(sums, sum);
                s.add_wide(sums.add(LANES), products);
            }
            for x in (0..len).step_by(LANES) {
                write(s, out.add(x), s.load(row.add(x)));
            }
        }
    }
}

/// `row += other`.
///
/// # Safety
/// Both have `len` numbers.
#[inline(always)]
unsafe fn add<S: Simd>(s: S, row: *mut f32, other: *const f32, len: usize) {
    for x in (0..len).step_by(LANES) {
        // SAFETY: the caller's promise.
        unsafe { s.store(row.add(x), s.add(s.load(row.add(x)), s.load(other.add(x)))) };
    }
}

impl ActivationDerivative<'_> {
    /// Multiplies a row by the slopes.
    ///
    /// # Safety
    /// As for [`GradientEpilogue::row`].
    #[allow(clippy::too_many_arguments)]
    #[inline(always)]
    unsafe fn apply<S: Simd>(
        &self,
        s: S,
        image: usize,
        block: usize,
        y: usize,
        row: *mut f32,
        len: usize,
        start: usize,
    ) {
        let f = self.function;
        // SAFETY: the caller's promise.
        unsafe {
            match &self.at {
                DerivativeAt::Output(value) => {
                    let value = value.at(start);
                    if let Some(slope) = f.negative_slope() {
                        let slope = s.splat(slope);
                        for x in (0..len).step_by(LANES) {
                            let gradient = s.load(row.add(x));
                            let low = s.mul(gradient, slope);
                            let masked = s.positive(value.load(s, x), gradient, low);
                            s.store(row.add(x), masked);
                        }
                    } else {
                        for x in (0..len).step_by(LANES) {
                            let slope = f.derivative_at_output(s, value.load(s, x));
                            s.store(row.add(x), s.mul(s.load(row.add(x)), slope));
                        }
                    }
                }
                DerivativeAt::Input(prologue) => {
                    let mut argument = std::mem::MaybeUninit::<[f32; MAX_WIDTH * LANES]>::uninit();
                    let argument = argument.as_mut_ptr().cast::<f32>();
                    prologue.row(s, image, block, y, argument);
                    if let Some(slope) = f.negative_slope() {
                        let slope = s.splat(slope);
                        for x in (0..len).step_by(LANES) {
                            let gradient = s.load(row.add(x));
                            let low = s.mul(gradient, slope);
                            let at = s.load(argument.add(x));
                            s.store(row.add(x), s.positive(at, gradient, low));
                        }
                    } else {
                        for x in (0..len).step_by(LANES) {
                            let slope = f.derivative(s, s.load(argument.add(x)));
                            s.store(row.add(x), s.mul(s.load(row.add(x)), slope));
                        }
                    }
                }
            }
        }
    }
}
