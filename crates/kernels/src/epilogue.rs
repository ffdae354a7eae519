//! Epilogues: what happens to rows of feature maps as a kernel delivers them. The other half of
//! [`crate::prologue`].

use std::mem::MaybeUninit;

use crate::disjoint_slice::DisjointSlice;
use crate::maps::{MapsMut, MapsRef, RowMut, RowRef};
use crate::prefetch::{MapRows, Prefetch};
use crate::prologue::Prologue;
use crate::simd::{Kernel, LANES, Simd};
use crate::{ActivationFunction, MapShape};

/// Two sums over each channel of each image, for a BatchNorm: `[images, blocks, 2, 16]` in f64. They
/// start as zeros, and [`crate::norm::sum_over_images`] adds them up.
///
/// See the example of [the module `norm`](crate::norm).
pub type ChannelSums<'a> = DisjointSlice<'a, f64>;

/// What happens to a forward kernel's output: `row + bias` is stored, and summed up for a BatchNorm.
///
/// See the example of [the crate](crate).
pub struct Epilogue<'a> {
    /// The shape of the output.
    pub shape: MapShape,
    /// Added to each channel: [`MapShape::padded_channels`] numbers.
    pub bias: Option<&'a [f32]>,
    /// Where the output is stored.
    pub out: MapsMut<'a>,
    /// The sums that a BatchNorm of the output needs.
    pub sums: Option<BatchStatistics<'a>>,
}

/// For each channel, the sums of `x - shift` and of its square: a shift near the mean keeps the
/// variance exact. [`BatchMoments::from_sums`](crate::norm::BatchMoments::from_sums) makes mean and
/// variance of them.
///
/// See the example of [the module `norm`](crate::norm).
pub struct BatchStatistics<'a> {
    /// Where they are added.
    pub sums: ChannelSums<'a>,
    /// The shifts: [`MapShape::padded_channels`] numbers.
    pub shift: &'a [f32],
}

impl Epilogue<'_> {
    /// Panics unless all slices have the lengths that the shape asks for; kernels rely on it.
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
        s.call(StoreRow { epilogue: self, image, block, y, row });
    }
}

fn check_sums(sums: &ChannelSums, shape: MapShape) {
    assert_eq!(sums.len(), shape.images * shape.blocks() * 2 * LANES, "wrong number of sums");
}

/// Adds a row's two sums to those of its block of channels.
///
/// # Safety
/// The sums have been checked, and no other thread is at the same block of the same image.
#[inline(always)]
unsafe fn add_to_sums<S: Simd>(
    s: S,
    sums: &ChannelSums,
    shape: MapShape,
    image: usize,
    block: usize,
    values: [S::V; 2],
) {
    // A row's sum is in f32, all beyond in f64: see the numerics in docs/performance.md.
    // SAFETY: the caller's promise.
    unsafe {
        let sums = sums.as_mut_ptr().add(shape.sums_offset(image, block));
        s.add_wide(sums, values[0]);
        s.add_wide(sums.add(LANES), values[1]);
    }
}

struct StoreRow<'a, 'b> {
    epilogue: &'b Epilogue<'a>,
    image: usize,
    block: usize,
    y: usize,
    row: *const f32,
}

impl Kernel for StoreRow<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let StoreRow { epilogue, image, block, y, row } = self;
        let shape = epilogue.shape;
        let (start, len) = (shape.row_offset(image, block, y), shape.row_len());
        // SAFETY: `Epilogue::row`'s promises: every slice has this row, block and image.
        unsafe {
            let at = block * LANES;
            let (mut bias, mut shift) = (s.zero(), s.zero());
            if let Some(biases) = epilogue.bias {
                bias = s.load(biases.as_ptr().add(at));
            }
            if let Some(sums) = &epilogue.sums {
                shift = s.load(sums.shift.as_ptr().add(at));
            }
            let out = epilogue.out.row(start);
            let (mut sum, mut squares) = (s.zero(), s.zero());
            for x in (0..len).step_by(LANES) {
                let value = s.add(s.load(row.add(x)), bias);
                let away = s.sub(value, shift);
                sum = s.add(sum, away);
                squares = s.fma(away, away, squares);
                out.store(s, x, value);
            }
            if let Some(BatchStatistics { sums, .. }) = &epilogue.sums {
                add_to_sums(s, sums, shape, image, block, [sum, squares]);
            }
        }
    }
}

/// The widest rows, in pixels, of kernels that hold one on the stack.
pub(crate) const MAX_WIDTH: usize = 256;

/// A row on the stack.
pub(crate) type RowBuffer = MaybeUninit<[f32; MAX_WIDTH * LANES]>;

/// What happens to the gradient of a kernel's input, which the backward kernel delivers.
///
/// What is stored is the gradient before the input's activation, where there is one:
/// `(row + addends) * activation'`. With it come the sums that the BatchNorms before the activation
/// need for their own backward.
///
/// See the example of [the module `norm`](crate::norm).
pub struct GradientEpilogue<'a> {
    /// The shape of all maps here.
    pub shape: MapShape,
    /// Where the gradient is stored, in blocks of channels.
    pub out: DisjointSlice<'a, f32>,
    /// Whether `out` already holds a part of the gradient, which is added.
    pub accumulate: bool,
    /// Other parts of the gradient, in blocks of channels: of other readers of the same maps.
    pub addends: [Option<&'a [f32]>; 2],
    /// The activation before the kernel's input.
    pub derivative: Option<ActivationDerivative<'a>>,
    /// The BatchNorms before that activation: of the value, and of the residual.
    pub norms: [Option<NormGradientSums<'a>>; 2],
}

/// The derivative of an activation, and where it is taken.
///
/// See the example of [the module `norm`](crate::norm).
pub struct ActivationDerivative<'a> {
    /// The activation.
    pub function: ActivationFunction,
    /// Where its derivative is taken.
    pub at: DerivativeAt<'a>,
}

/// Where a derivative is taken.
///
/// See the example of [the module `norm`](crate::norm).
pub enum DerivativeAt<'a> {
    /// Where the function's output is this: only if
    /// [`ActivationFunction::derivative_from_output`].
    Output(MapsRef<'a>),
    /// Where its input is this: a prologue without activation that saves nothing.
    Input(Prologue<'a>),
}

/// For each channel, the sums of the gradient and of the gradient times `value - mean`:
/// [`NormBackward::from_sums`](crate::norm::NormBackward::from_sums) makes BatchNorm's gradients of
/// them.
///
/// See the example of [the module `norm`](crate::norm).
pub struct NormGradientSums<'a> {
    /// BatchNorm's input.
    pub value: MapsRef<'a>,
    /// Its mean in the batch: [`MapShape::padded_channels`] numbers.
    pub mean: &'a [f32],
    /// Where they are added.
    pub sums: ChannelSums<'a>,
}

impl<'a> GradientEpilogue<'a> {
    /// Rows are stored as they come.
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

    /// Panics unless all slices have the lengths that the shape asks for; kernels rely on it.
    pub(crate) fn check(&self) {
        assert_eq!(self.out.len(), self.shape.len(), "wrong length of the gradient");
        for addend in self.addends.iter().flatten() {
            assert_eq!(addend.len(), self.shape.len(), "wrong length of an addend");
        }
        match &self.derivative {
            Some(ActivationDerivative { at: DerivativeAt::Output(value), function }) => {
                assert!(function.derivative_from_output(), "{function:?} needs its input");
                value.check_blocked(self.shape);
            }
            Some(ActivationDerivative { at: DerivativeAt::Input(input), .. }) => {
                assert_eq!(input.shape, self.shape, "the activation's input has another shape");
                let plain = input.save.is_none() && input.activation.is_none();
                assert!(plain, "an activation's input has no activation and saves nothing");
                assert!(self.shape.width <= MAX_WIDTH, "rows of more than {MAX_WIDTH} pixels");
                input.check();
            }
            None => {}
        }
        for NormGradientSums { value, mean, sums } in self.norms.iter().flatten() {
            value.check_blocked(self.shape);
            assert_eq!(mean.len(), self.shape.padded_channels(), "wrong number of means");
            check_sums(sums, self.shape);
        }
    }

    /// Has what is read for these rows prefetched.
    pub(crate) fn prefetch(&self, prefetch: &mut Prefetch, rows: &MapRows) {
        for addend in self.addends.iter().flatten() {
            prefetch.add(addend, self.shape, rows);
        }
        for norm in self.norms.iter().flatten() {
            norm.value.prefetch(prefetch, self.shape, rows);
        }
        match &self.derivative {
            Some(ActivationDerivative { at: DerivativeAt::Output(value), .. }) => {
                value.prefetch(prefetch, self.shape, rows);
            }
            Some(ActivationDerivative { at: DerivativeAt::Input(input), .. }) => {
                if let Some(residual) = &input.residual {
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
        s.call(StoreGradientRow { epilogue: self, image, block, y, row });
    }
}

struct StoreGradientRow<'a, 'b> {
    epilogue: &'b GradientEpilogue<'a>,
    image: usize,
    block: usize,
    y: usize,
    row: *mut f32,
}

impl Kernel for StoreGradientRow<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let StoreGradientRow { epilogue, image, block, y, row } = self;
        let shape = epilogue.shape;
        let (start, len) = (shape.row_offset(image, block, y), shape.row_len());
        // SAFETY: `GradientEpilogue::row`'s promises: every slice has this row, block and image.
        unsafe {
            let out = epilogue.out.as_mut_ptr().add(start);
            if epilogue.accumulate {
                add(s, row, out, len);
            }
            for addend in epilogue.addends.iter().flatten() {
                add(s, row, addend.as_ptr().add(start), len);
            }
            match &epilogue.derivative {
                Some(ActivationDerivative { function, at: DerivativeAt::Output(value) }) => {
                    function.multiply_derivative_at_output(s, row, len, value.row(start));
                }
                Some(ActivationDerivative { function, at: DerivativeAt::Input(input) }) => {
                    let mut buffer = RowBuffer::uninit();
                    let buffer = buffer.as_mut_ptr().cast::<f32>();
                    input.row(s, image, block, y, buffer);
                    function.multiply_derivative_at_input(s, row, len, RowRef::F32(buffer));
                }
                None => {}
            }
            for norm in epilogue.norms.iter().flatten() {
                let value = norm.value.row(start);
                let mean = s.load(norm.mean.as_ptr().add(block * LANES));
                let (mut sum, mut products) = (s.zero(), s.zero());
                for x in (0..len).step_by(LANES) {
                    let gradient = s.load(row.add(x));
                    sum = s.add(sum, gradient);
                    products = s.fma(gradient, s.sub(value.load(s, x), mean), products);
                }
                add_to_sums(s, &norm.sums, shape, image, block, [sum, products]);
            }
            RowMut::f32(&epilogue.out, start).store_row(s, len, row);
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

impl ActivationFunction {
    /// Multiplies a row of gradients by the derivative where the function's output is `output`.
    ///
    /// # Safety
    /// Both rows have `len` numbers, and [`derivative_from_output`](Self::derivative_from_output).
    #[inline(always)]
    unsafe fn multiply_derivative_at_output<S: Simd>(
        self,
        s: S,
        row: *mut f32,
        len: usize,
        output: RowRef,
    ) {
        // SAFETY: the caller's promise.
        unsafe {
            if let Some(slope) = self.negative_slope() {
                multiply_slope(s, slope, row, len, output);
                return;
            }
            for x in (0..len).step_by(LANES) {
                let derivative = self.derivative_at_output(s, output.load(s, x));
                s.store(row.add(x), s.mul(s.load(row.add(x)), derivative));
            }
        }
    }

    /// Multiplies a row of gradients by the derivative where the function's input is `input`.
    ///
    /// # Safety
    /// Both rows have `len` numbers.
    #[inline(always)]
    unsafe fn multiply_derivative_at_input<S: Simd>(
        self,
        s: S,
        row: *mut f32,
        len: usize,
        input: RowRef,
    ) {
        // SAFETY: the caller's promise.
        unsafe {
            if let Some(slope) = self.negative_slope() {
                multiply_slope(s, slope, row, len, input);
                return;
            }
            for x in (0..len).step_by(LANES) {
                let derivative = self.derivative(s, input.load(s, x));
                s.store(row.add(x), s.mul(s.load(row.add(x)), derivative));
            }
        }
    }
}

/// Multiplies a row of gradients by `slope` where `at`, the input or the output of a leaky ReLU, is not
/// positive.
///
/// # Safety
/// Both rows have `len` numbers.
#[inline(always)]
unsafe fn multiply_slope<S: Simd>(s: S, slope: f32, row: *mut f32, len: usize, at: RowRef) {
    let function = ActivationFunction::LeakyRelu { slope };
    for x in (0..len).step_by(LANES) {
        // A product, not a choice between the gradient and a part of it: compilers make a masked store of that, which takes
        // some processors tens of cycles.
        // SAFETY: the caller's promise.
        unsafe {
            let derivative = function.derivative_at_output(s, at.load(s, x));
            s.store(row.add(x), s.mul(s.load(row.add(x)), derivative));
        }
    }
}
