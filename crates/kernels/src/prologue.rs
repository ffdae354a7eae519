//! Prologues: what happens to rows of feature maps as a kernel loads them.
//!
//! A network's cheap operations (BatchNorm, activations, residual additions) are not passes over memory
//! of their own. They are fused into the kernels that read their result: computed when a kernel loads a
//! row ([`Prologue`] in forward, [`GradientPrologue`] in backward), or when it delivers one (see
//! [`crate::epilogue`]). A row is that of one block of channels in one image, `[width, 16]`: small
//! enough to stay in the first-level cache between the stages of a kernel.

use crate::maps::{MapsMut, MapsRef, RowRef};
use crate::prefetch::{MapRows, Prefetch};
use crate::simd::{Kernel, LANES, Simd};
use crate::{ActivationFunction, MapShape};

/// One factor and one shift for each channel: `scale * x + shift`. Both slices have
/// [`MapShape::padded_channels`] numbers; those beyond the channels are ignored.
///
/// See the example of [the module `norm`](crate::norm).
#[derive(Clone, Copy)]
pub struct Affine<'a> {
    /// The factors.
    pub scale: &'a [f32],
    /// The shifts.
    pub shift: &'a [f32],
}

/// A residual: maps of the same shape that are added before the activation, scaled and shifted first
/// where they come from a BatchNorm.
///
/// See the example of [the module `norm`](crate::norm).
#[derive(Clone, Copy)]
pub struct Residual<'a> {
    /// The maps.
    pub value: MapsRef<'a>,
    /// Their BatchNorm.
    pub affine: Option<Affine<'a>>,
}

/// What a forward kernel reads: `activation(scale * value + shift + residual)`.
///
/// See the example of [the crate](crate).
pub struct Prologue<'a> {
    /// The shape of all maps here.
    pub shape: MapShape,
    /// The maps in memory.
    pub value: MapsRef<'a>,
    /// A BatchNorm, as [`BatchMoments::affine`](crate::norm::BatchMoments::affine) makes it.
    pub affine: Option<Affine<'a>>,
    /// What is added.
    pub residual: Option<Residual<'a>>,
    /// The activation.
    pub activation: Option<ActivationFunction>,
    /// Where each row is saved after it was computed, for others to read: backward, or a later kernel.
    pub save: Option<MapsMut<'a>>,
}

impl<'a> Prologue<'a> {
    /// Maps as they are in memory.
    pub fn plain(shape: MapShape, value: MapsRef<'a>) -> Self {
        Prologue { shape, value, affine: None, residual: None, activation: None, save: None }
    }

    /// Panics unless all slices have the lengths that the shape asks for; kernels rely on it.
    pub(crate) fn check(&self) {
        if self.affine.is_none() && self.residual.is_none() && self.activation.is_none() {
            self.value.check(self.shape);
        } else {
            self.value.check_blocked(self.shape);
        }
        check_affine(self.affine, self.shape);
        if let Some(residual) = &self.residual {
            residual.value.check_blocked(self.shape);
            check_affine(residual.affine, self.shape);
        }
        if let Some(save) = &self.save {
            save.check(self.shape);
        }
    }

    /// Has what these rows are computed from prefetched.
    pub(crate) fn prefetch(&self, prefetch: &mut Prefetch, rows: &MapRows) {
        self.value.prefetch(prefetch, self.shape, rows);
        if let Some(residual) = &self.residual {
            residual.value.prefetch(prefetch, self.shape, rows);
        }
    }

    /// Computes a row into `out`.
    ///
    /// # Safety
    /// [`check`](Self::check) has passed, `out` has room for a row, and where rows are saved, no other
    /// thread is at the same row.
    #[inline(always)]
    pub(crate) unsafe fn row<S: Simd>(
        &self,
        s: S,
        image: usize,
        block: usize,
        y: usize,
        out: *mut f32,
    ) {
        s.call(LoadRow { prologue: self, image, block, y, out });
    }
}

fn check_affine(affine: Option<Affine>, shape: MapShape) {
    if let Some(Affine { scale, shift }) = affine {
        let channels = shape.padded_channels();
        assert!(scale.len() == channels && shift.len() == channels, "wrong number of channels");
    }
}

/// Scale and shift of a block's channels.
///
/// # Safety
/// The block lies within the affine's channels.
#[inline(always)]
unsafe fn affine_of_block<S: Simd>(s: S, affine: Option<Affine>, block: usize) -> (S::V, S::V) {
    match affine {
        // SAFETY: the caller's promise.
        Some(affine) => unsafe {
            let at = block * LANES;
            (s.load(affine.scale.as_ptr().add(at)), s.load(affine.shift.as_ptr().add(at)))
        },
        None => (s.splat(1.0), s.zero()),
    }
}

/// A row of an activation's input: `scale * value + shift + residual`.
#[derive(Clone, Copy)]
pub(crate) struct ArgumentRow<V> {
    value: RowRef,
    scale: V,
    shift: V,
    /// The residual, and its factor.
    residual: Option<(RowRef, V)>,
}

impl<V: Copy> ArgumentRow<V> {
    /// Sixteen numbers, from number `x` of the row.
    ///
    /// # Safety
    /// They lie within the row.
    #[inline(always)]
    pub unsafe fn load<S: Simd<V = V>>(&self, s: S, x: usize) -> V {
        let mut shift = self.shift;
        // SAFETY: the caller's promise.
        unsafe {
            if let Some((residual, scale)) = self.residual {
                shift = s.fma(scale, residual.load_next(s, x), shift);
            }
            s.fma(self.scale, self.value.load_next(s, x), shift)
        }
    }
}

impl Prologue<'_> {
    /// A row of the activation's input.
    ///
    /// # Safety
    /// [`check`](Self::check) has passed, and the maps have the row.
    #[inline(always)]
    pub(crate) unsafe fn argument<S: Simd>(
        &self,
        s: S,
        image: usize,
        block: usize,
        y: usize,
    ) -> ArgumentRow<S::V> {
        let start = self.shape.row_offset(image, block, y);
        // SAFETY: the caller's promise.
        unsafe {
            let (scale, mut shift) = affine_of_block(s, self.affine, block);
            let residual = self.residual.map(|Residual { value, affine }| {
                let (scale, more) = affine_of_block(s, affine, block);
                shift = s.add(shift, more);
                (value.row(start), scale)
            });
            ArgumentRow { value: self.value.row(start), scale, shift, residual }
        }
    }
}

struct LoadRow<'a, 'b> {
    prologue: &'b Prologue<'a>,
    image: usize,
    block: usize,
    y: usize,
    out: *mut f32,
}

impl Kernel for LoadRow<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let LoadRow { prologue, image, block, y, .. } = self;
        // SAFETY: `Prologue::row`'s promises: the maps have the row.
        unsafe {
            if let MapsRef::Nchw(planes) = prologue.value {
                row_of_planes(prologue.shape, planes, image, y, self.out);
                return self.fill(s, |x| s.load(self.out.add(x)));
            }
            let argument = prologue.argument(s, image, block, y);
            let is_plain = prologue.affine.is_none() && prologue.residual.is_none();
            match prologue.activation {
                None if is_plain => self.fill(s, |x| argument.value.load_next(s, x)),
                None => self.fill(s, |x| argument.load(s, x)),
                Some(f) => match f.negative_slope() {
                    Some(slope) => {
                        let slope = s.splat(slope);
                        self.fill(s, |x| leaky_relu(s, argument.load(s, x), slope));
                    }
                    // The residual is added last. That gives other last bits than `ArgumentRow::load`, and is kept so that
                    // results stay what they were.
                    None => self.fill(s, |x| {
                        let ArgumentRow { value, scale, shift, residual } = argument;
                        let mut u = s.fma(scale, value.load_next(s, x), shift);
                        if let Some((residual, scale)) = residual {
                            u = s.fma(scale, residual.load_next(s, x), u);
                        }
                        f.value(s, u)
                    }),
                },
            }
        }
    }
}

impl LoadRow<'_, '_> {
    /// Writes the row of these numbers, and saves it where that is wanted.
    #[inline(always)]
    fn fill<S: Simd>(&self, s: S, numbers: impl Fn(usize) -> S::V) {
        let LoadRow { prologue, image, block, y, out } = *self;
        let (start, len) = (prologue.shape.row_offset(image, block, y), prologue.shape.row_len());
        // SAFETY: `Prologue::row`'s promises: all have a row there.
        unsafe {
            let save = prologue.save.as_ref().map(|save| save.row(start));
            for x in (0..len).step_by(LANES) {
                let value = numbers(x);
                s.store(out.add(x), value);
                if let Some(save) = save {
                    save.store(s, x, value);
                }
            }
        }
    }
}

/// `x` where positive, `slope * x` elsewhere.
#[inline(always)]
fn leaky_relu<S: Simd>(s: S, x: S::V, slope: S::V) -> S::V {
    s.positive(x, x, s.mul(x, slope))
}

/// A row of images that lie in planes; the channels that fill up the block become zeros.
///
/// # Safety
/// `planes` has the length that the shape asks for, and `out` has room for a row.
#[inline(always)]
unsafe fn row_of_planes(shape: MapShape, planes: &[f32], image: usize, y: usize, out: *mut f32) {
    for x in 0..shape.width {
        for lane in 0..LANES {
            let value = if lane < shape.channels {
                let plane = (image * shape.channels + lane) * shape.pixels();
                planes[plane + y * shape.width + x]
            } else {
                0.0
            };
            // SAFETY: the caller's promise.
            unsafe { *out.add(x * LANES + lane) = value };
        }
    }
}

/// What a backward kernel reads: the gradient of its forward kernel's output.
///
/// `gradient` is the gradient after the output's BatchNorm. Before it, the gradient is
/// `a * gradient + b * value + c` with one of each a channel: see
/// [`NormBackward::coefficients`](crate::norm::NormBackward::coefficients). Without a BatchNorm it is
/// `gradient` itself.
///
/// See the example of [the module `norm`](crate::norm).
pub struct GradientPrologue<'a> {
    /// The shape of all maps here.
    pub shape: MapShape,
    /// The gradient after BatchNorm, in blocks of channels.
    pub gradient: &'a [f32],
    /// BatchNorm's input, and the coefficients.
    pub norm: Option<NormGradient<'a>>,
}

/// The way of a gradient back through a BatchNorm: see [`GradientPrologue`]. Coefficients have
/// [`MapShape::padded_channels`] numbers.
///
/// See the example of [the module `norm`](crate::norm).
#[derive(Clone, Copy)]
pub struct NormGradient<'a> {
    /// BatchNorm's input.
    pub value: MapsRef<'a>,
    /// What multiplies the gradient.
    pub a: &'a [f32],
    /// What multiplies the value.
    pub b: &'a [f32],
    /// What is added.
    pub c: &'a [f32],
}

impl GradientPrologue<'_> {
    /// Panics unless all slices have the lengths that the shape asks for; kernels rely on it.
    pub(crate) fn check(&self) {
        assert_eq!(self.gradient.len(), self.shape.len(), "wrong length of the gradient");
        if let Some(NormGradient { value, a, b, c }) = self.norm {
            value.check_blocked(self.shape);
            for coefficients in [a, b, c] {
                let channels = self.shape.padded_channels();
                assert_eq!(coefficients.len(), channels, "wrong number of channels");
            }
        }
    }

    /// Has what these rows are computed from prefetched.
    pub(crate) fn prefetch(&self, prefetch: &mut Prefetch, rows: &MapRows) {
        prefetch.add(self.gradient, self.shape, rows);
        if let Some(norm) = &self.norm {
            norm.value.prefetch(prefetch, self.shape, rows);
        }
    }

    /// Computes a row into `out`.
    ///
    /// # Safety
    /// [`check`](Self::check) has passed, and `out` has room for a row.
    #[inline(always)]
    pub(crate) unsafe fn row<S: Simd>(
        &self,
        s: S,
        image: usize,
        block: usize,
        y: usize,
        out: *mut f32,
    ) {
        s.call(LoadGradientRow { prologue: self, image, block, y, out });
    }
}

struct LoadGradientRow<'a, 'b> {
    prologue: &'b GradientPrologue<'a>,
    image: usize,
    block: usize,
    y: usize,
    out: *mut f32,
}

impl Kernel for LoadGradientRow<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let LoadGradientRow { prologue, image, block, y, out } = self;
        let shape = prologue.shape;
        let (start, len) = (shape.row_offset(image, block, y), shape.row_len());
        // SAFETY: `GradientPrologue::row`'s promises: every slice has a row at `start`.
        unsafe {
            let gradient = MapsRef::F32(prologue.gradient).row(start);
            let Some(NormGradient { value, a, b, c }) = prologue.norm else {
                for x in (0..len).step_by(LANES) {
                    s.store(out.add(x), gradient.load_next(s, x));
                }
                return;
            };
            let (value, at) = (value.row(start), block * LANES);
            let (a, b) = (s.load(a.as_ptr().add(at)), s.load(b.as_ptr().add(at)));
            let c = s.load(c.as_ptr().add(at));
            for x in (0..len).step_by(LANES) {
                let rest = s.fma(b, value.load_next(s, x), c);
                s.store(out.add(x), s.fma(a, gradient.load_next(s, x), rest));
            }
        }
    }
}
