//! Prologues: what happens to rows of feature maps as a kernel loads them.
//!
//! A network's cheap operations (BatchNorm, activations, residual additions) are not passes over memory
//! of their own. They are fused into the kernels that read their result: computed when a kernel loads a
//! row ([`Prologue`] in forward, [`GradientPrologue`] in backward), or when it delivers one (see
//! [`crate::epilogue`]). A row is that of one block of channels in one image, `[width, 16]`: small
//! enough to stay in the first-level cache between the stages of a kernel.

use crate::maps::{MapsMut, MapsRef};
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
        let LoadRow { prologue, image, block, y, out } = self;
        let shape = prologue.shape;
        let (start, len) = (shape.row_offset(image, block, y), shape.row_len());
        // SAFETY: `Prologue::row`'s promises: every slice has a row at `start`, `out` has room for it.
        unsafe {
            if let MapsRef::Nchw(planes) = prologue.value {
                row_of_planes(shape, planes, image, y, out);
            } else {
                let value = prologue.value.row(start);
                let (scale, shift) = affine_of_block(s, prologue.affine, block);
                let residual = prologue.residual.map(|r| (r.value.row(start), r.affine));
                // The usual cases have a loop each: an activation of two straight lines, or none, is
                // the leaky ReLU of its slope below zero.
                let slope = match prologue.activation {
                    None => Some(1.0),
                    Some(f) => f.negative_slope(),
                };
                match (residual, slope) {
                    (None, _) if prologue.affine.is_none() && prologue.activation.is_none() => {
                        value.load_row(s, len, out);
                    }
                    (None, Some(slope)) => {
                        let slope = s.splat(slope);
                        for x in (0..len).step_by(LANES) {
                            let u = s.fma(scale, value.load_next(s, x), shift);
                            s.store(out.add(x), leaky_relu(s, u, slope));
                        }
                    }
                    (Some((residual, affine)), Some(slope)) => {
                        let slope = s.splat(slope);
                        let (rscale, rshift) = affine_of_block(s, affine, block);
                        let shift = s.add(shift, rshift);
                        for x in (0..len).step_by(LANES) {
                            let r = s.fma(rscale, residual.load_next(s, x), shift);
                            let u = s.fma(scale, value.load_next(s, x), r);
                            s.store(out.add(x), leaky_relu(s, u, slope));
                        }
                    }
                    (residual, None) => {
                        let (rscale, rshift) =
                            affine_of_block(s, residual.and_then(|(_, affine)| affine), block);
                        let shift = s.add(shift, rshift);
                        let f = prologue.activation.expect("no activation has a slope");
                        for x in (0..len).step_by(LANES) {
                            let mut u = s.fma(scale, value.load_next(s, x), shift);
                            if let Some((residual, _)) = residual {
                                u = s.fma(rscale, residual.load_next(s, x), u);
                            }
                            s.store(out.add(x), f.value(s, u));
                        }
                    }
                }
            }
            if let Some(save) = &prologue.save {
                save.row(start).store_row(s, len, out);
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
                gradient.load_row(s, len, out);
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
