//! What a kernel reads, row by row: stored maps, with what the network does to them on the way.
//!
//! A network's cheap operations (BatchNorm, activations, residual additions) are not passes over
//! memory of their own. They are computed when a kernel loads a row of stored numbers
//! ([`Prologue`]: forward; [`GradientPrologue`]: backward), or when it delivers one (see
//! [`crate::epilogue`]). A row is that of one block of channels in one image, `[width, 16]`: small enough
//! to stay in the first-level cache between the parts of a kernel.

use crate::epilogue::MapsMut;
use crate::prefetch::{Prefetch, Rows};
use crate::simd::{Kernel, LANES, Simd};
use crate::{ActivationFunction, MapShape};

/// Numbers in memory.
#[derive(Clone, Copy)]
pub enum MapsRef<'a> {
    /// Maps, in blocks: see [`MapShape`].
    F32(&'a [f32]),
    /// Maps, in blocks, of which only the upper halves are kept.
    Bf16(&'a [u16]),
    /// Images as they come: planes `[images, channels, height, width]`, at most 16 channels.
    Nchw(&'a [f32]),
}

/// One factor and one shift a channel (filled up to whole blocks): `scale * x + shift`.
#[derive(Clone, Copy)]
pub struct Affine<'a> {
    /// The factors.
    pub scale: &'a [f32],
    /// The shifts.
    pub shift: &'a [f32],
}

/// What is added before the activation: other stored maps of the same shape, themselves scaled and
/// shifted where they come from a BatchNorm.
#[derive(Clone, Copy)]
pub struct Residual<'a> {
    /// The maps.
    pub value: MapsRef<'a>,
    /// Their BatchNorm.
    pub affine: Option<Affine<'a>>,
}

/// Maps as they are read in the forward pass: `activation(scale * value + shift + residual)`.
pub struct Prologue<'a> {
    /// Their shape.
    pub shape: MapShape,
    /// The stored numbers.
    pub value: MapsRef<'a>,
    /// BatchNorm.
    pub affine: Option<Affine<'a>>,
    /// A residual.
    pub residual: Option<Residual<'a>>,
    /// The activation.
    pub activation: Option<ActivationFunction>,
    /// Where each row is kept after it was computed, for those who read it next.
    pub save: Option<MapsMut<'a>>,
}

impl<'a> Prologue<'a> {
    /// MapsRef maps as they are.
    pub fn plain(shape: MapShape, value: MapsRef<'a>) -> Self {
        Prologue { shape, value, affine: None, residual: None, activation: None, save: None }
    }

    /// Panics unless all slices have the lengths that `maps` asks for; kernels rely on it.
    pub(crate) fn check(&self) {
        self.value.check(self.shape);
        check_affine(self.affine, self.shape);
        if let Some(residual) = &self.residual {
            residual.value.check(self.shape);
            check_affine(residual.affine, self.shape);
        }
        if let Some(save) = &self.save {
            save.check(self.shape);
        }
    }

    /// Has what these rows are computed from asked for.
    pub(crate) fn prefetch(&self, prefetch: &mut Prefetch, rows: &Rows) {
        self.value.prefetch(prefetch, self.shape, rows);
        if let Some(residual) = &self.residual {
            residual.value.prefetch(prefetch, self.shape, rows);
        }
    }

    /// Computes a row into `out`.
    ///
    /// # Safety
    /// [`check`](Self::check) has passed, `out` has room for a row, and where the rows are kept, no
    /// other thread is at the same row.
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

impl MapsRef<'_> {
    pub(crate) fn check(&self, shape: MapShape) {
        match self {
            MapsRef::F32(x) => assert_eq!(x.len(), shape.len(), "wrong length"),
            MapsRef::Bf16(x) => assert_eq!(x.len(), shape.len(), "wrong length"),
            MapsRef::Nchw(x) => {
                assert!(shape.channels <= LANES, "planes of more than {LANES} channels");
                let len = shape.images * shape.channels * shape.pixels();
                assert_eq!(x.len(), len, "wrong length");
            }
        }
    }

    /// Has these rows asked for.
    pub(crate) fn prefetch(&self, prefetch: &mut Prefetch, shape: MapShape, rows: &Rows) {
        match self {
            MapsRef::F32(x) => prefetch.add(x, shape, rows),
            MapsRef::Bf16(x) => prefetch.add(x, shape, rows),
            // Images are small, and there is but one convolution of them.
            MapsRef::Nchw(_) => {}
        }
    }

    /// Where the row that begins at number `offset` lies.
    ///
    /// # Safety
    /// `offset` lies within the numbers.
    #[inline(always)]
    pub(crate) unsafe fn at(&self, offset: usize) -> Address {
        // SAFETY: the caller's promise.
        unsafe {
            match self {
                MapsRef::F32(x) | MapsRef::Nchw(x) => Address::F32(x.as_ptr().add(offset)),
                MapsRef::Bf16(x) => Address::Bf16(x.as_ptr().add(offset)),
            }
        }
    }
}

/// Where a row of stored numbers lies.
#[derive(Clone, Copy)]
pub(crate) enum Address {
    F32(*const f32),
    Bf16(*const u16),
}

impl Address {
    /// Sixteen numbers, `offset` numbers on.
    ///
    /// # Safety
    /// They lie within the row.
    #[inline(always)]
    pub(crate) unsafe fn load<S: Simd>(self, s: S, offset: usize) -> S::V {
        // SAFETY: the caller's promise.
        unsafe {
            match self {
                Address::F32(x) => s.load(x.add(offset)),
                Address::Bf16(x) => s.load_bf16(x.add(offset)),
            }
        }
    }
}

/// Scale and shift of a block's channels.
///
/// # Safety
/// The block lies within the affine's channels.
#[inline(always)]
unsafe fn block_of<S: Simd>(s: S, affine: Option<Affine>, block: usize) -> (S::V, S::V) {
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
                from_planes(shape, planes, image, y, out);
            } else {
                let value = prologue.value.at(start);
                let (scale, shift) = block_of(s, prologue.affine, block);
                let residual = prologue.residual.map(|r| (r.value.at(start), r.affine));
                // The usual cases, each with a loop of its own; the rest in passes over `out`.
                let slope = match prologue.activation {
                    None => Some(1.0),
                    Some(f) => f.negative_slope(),
                };
                match (residual, slope) {
                    (None, _) if prologue.affine.is_none() && prologue.activation.is_none() => {
                        for x in (0..len).step_by(LANES) {
                            s.store(out.add(x), value.load(s, x));
                        }
                    }
                    (None, Some(slope)) => {
                        let slope = s.splat(slope);
                        for x in (0..len).step_by(LANES) {
                            let u = s.fma(scale, value.load(s, x), shift);
                            s.store(out.add(x), leaky(s, u, slope));
                        }
                    }
                    (Some((residual, affine)), Some(slope)) => {
                        let slope = s.splat(slope);
                        let (rscale, rshift) = block_of(s, affine, block);
                        let shift = s.add(shift, rshift);
                        for x in (0..len).step_by(LANES) {
                            let r = s.fma(rscale, residual.load(s, x), shift);
                            let u = s.fma(scale, value.load(s, x), r);
                            s.store(out.add(x), leaky(s, u, slope));
                        }
                    }
                    (residual, None) => {
                        let (rscale, rshift) =
                            block_of(s, residual.and_then(|(_, affine)| affine), block);
                        let shift = s.add(shift, rshift);
                        let f = prologue.activation.expect("no activation has a slope");
                        for x in (0..len).step_by(LANES) {
                            let mut u = s.fma(scale, value.load(s, x), shift);
                            if let Some((residual, _)) = residual {
                                u = s.fma(rscale, residual.load(s, x), u);
                            }
                            s.store(out.add(x), f.value(s, u));
                        }
                    }
                }
            }
            if let Some(save) = &prologue.save {
                save.write_row(s, start, len, out);
            }
        }
    }
}

/// `x` where positive, `slope * x` elsewhere.
#[inline(always)]
fn leaky<S: Simd>(s: S, x: S::V, slope: S::V) -> S::V {
    s.positive(x, x, s.mul(x, slope))
}

/// A row of images that lie in planes; the channels that fill up the block become zeros.
///
/// # Safety
/// `planes` has the length that `maps` asks for, and `out` has room for a row.
#[inline(always)]
unsafe fn from_planes(shape: MapShape, planes: &[f32], image: usize, y: usize, out: *mut f32) {
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

/// The gradient of a convolution's (or pooling's) output as backward reads it.
///
/// `gradient` is the gradient after the output's BatchNorm; the gradient before it is
/// `a * gradient + b * value + c` with one of each a channel (see [`crate::norm::NormBackward`]).
/// Without a BatchNorm it is `gradient` itself.
pub struct GradientPrologue<'a> {
    /// Their shape.
    pub shape: MapShape,
    /// The gradient after BatchNorm.
    pub gradient: &'a [f32],
    /// BatchNorm's input, and the coefficients.
    pub norm: Option<NormGradient<'a>>,
}

/// See [`GradientPrologue`].
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
    /// Panics unless all slices have the lengths that `maps` asks for; kernels rely on it.
    pub(crate) fn check(&self) {
        assert_eq!(self.gradient.len(), self.shape.len(), "wrong length");
        if let Some(NormGradient { value, a, b, c }) = self.norm {
            value.check(self.shape);
            for of_channels in [a, b, c] {
                assert_eq!(of_channels.len(), self.shape.padded_channels(), "wrong length");
            }
        }
    }

    /// Has what these rows are computed from asked for.
    pub(crate) fn prefetch(&self, prefetch: &mut Prefetch, rows: &Rows) {
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
        s.call(GradientRow { prologue: self, image, block, y, out });
    }
}

struct GradientRow<'a, 'b> {
    prologue: &'b GradientPrologue<'a>,
    image: usize,
    block: usize,
    y: usize,
    out: *mut f32,
}

impl Kernel for GradientRow<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let GradientRow { prologue, image, block, y, out } = self;
        let (start, len) = (prologue.shape.row_offset(image, block, y), prologue.shape.row_len());
        // SAFETY: `GradientPrologue::row`'s promises: every slice has a row at `start`.
        unsafe {
            let gradient = prologue.gradient.as_ptr().add(start);
            let Some(NormGradient { value, a, b, c }) = prologue.norm else {
                for x in (0..len).step_by(LANES) {
                    s.store(out.add(x), s.load(gradient.add(x)));
                }
                return;
            };
            let (value, at) = (value.at(start), block * LANES);
            let (a, b) = (s.load(a.as_ptr().add(at)), s.load(b.as_ptr().add(at)));
            let c = s.load(c.as_ptr().add(at));
            for x in (0..len).step_by(LANES) {
                let rest = s.fma(b, value.load(s, x), c);
                s.store(out.add(x), s.fma(a, s.load(gradient.add(x)), rest));
            }
        }
    }
}
