//! What a kernel reads, row by row: stored maps, with what the network does to them on the way.
//!
//! A network's cheap operations (BatchNorm, activations, residual additions) are not passes over
//! memory of their own. They are computed when a kernel loads a row of stored numbers
//! ([`Source`]: forward; [`GradientSource`]: backward), or when it delivers one (see
//! [`crate::sink`]). A row is that of one block of channels in one image, `[width, 16]`: small enough
//! to stay in the first-level cache between the parts of a kernel.

use crate::ahead::{Ahead, Rows};
use crate::simd::{Kernel, LANES, Simd};
use crate::sink::StoredMut;
use crate::{Activation, Maps};

/// Numbers in memory.
#[derive(Clone, Copy)]
pub enum Stored<'a> {
    /// Maps, in blocks: see [`Maps`].
    F32(&'a [f32]),
    /// Maps, in blocks, of which only the upper halves are kept.
    Bf16(&'a [u16]),
    /// Images as they come: planes `[images, channels, height, width]`, at most 16 channels.
    Planes(&'a [f32]),
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
    pub value: Stored<'a>,
    /// Their BatchNorm.
    pub affine: Option<Affine<'a>>,
}

/// Maps as they are read in the forward pass: `activation(scale * value + shift + residual)`.
pub struct Source<'a> {
    /// Their shape.
    pub maps: Maps,
    /// The stored numbers.
    pub value: Stored<'a>,
    /// BatchNorm.
    pub affine: Option<Affine<'a>>,
    /// A residual.
    pub residual: Option<Residual<'a>>,
    /// The activation.
    pub activation: Option<Activation>,
    /// Where each row is kept after it was computed, for those who read it next.
    pub keep: Option<StoredMut<'a>>,
}

impl<'a> Source<'a> {
    /// Stored maps as they are.
    pub fn plain(maps: Maps, value: Stored<'a>) -> Self {
        Source { maps, value, affine: None, residual: None, activation: None, keep: None }
    }

    /// Panics unless all slices have the lengths that `maps` asks for; kernels rely on it.
    pub(crate) fn check(&self) {
        self.value.check(self.maps);
        check_affine(self.affine, self.maps);
        if let Some(residual) = &self.residual {
            residual.value.check(self.maps);
            check_affine(residual.affine, self.maps);
        }
        if let Some(keep) = &self.keep {
            keep.check(self.maps);
        }
    }

    /// Has what these rows are computed from asked for.
    pub(crate) fn ask(&self, ahead: &mut Ahead, rows: &Rows) {
        self.value.ask(ahead, self.maps, rows);
        if let Some(residual) = &self.residual {
            residual.value.ask(ahead, self.maps, rows);
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
        s.call(LoadRow { source: self, image, block, y, out });
    }
}

fn check_affine(affine: Option<Affine>, maps: Maps) {
    if let Some(Affine { scale, shift }) = affine {
        let channels = maps.padded_channels();
        assert!(scale.len() == channels && shift.len() == channels, "wrong number of channels");
    }
}

impl Stored<'_> {
    pub(crate) fn check(&self, maps: Maps) {
        match self {
            Stored::F32(x) => assert_eq!(x.len(), maps.len(), "wrong length"),
            Stored::Bf16(x) => assert_eq!(x.len(), maps.len(), "wrong length"),
            Stored::Planes(x) => {
                assert!(maps.channels <= LANES, "planes of more than {LANES} channels");
                let len = maps.images * maps.channels * maps.pixels();
                assert_eq!(x.len(), len, "wrong length");
            }
        }
    }

    /// Has these rows asked for.
    pub(crate) fn ask(&self, ahead: &mut Ahead, maps: Maps, rows: &Rows) {
        match self {
            Stored::F32(x) => ahead.add(x, maps, rows),
            Stored::Bf16(x) => ahead.add(x, maps, rows),
            // Images are small, and there is but one convolution of them.
            Stored::Planes(_) => {}
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
                Stored::F32(x) | Stored::Planes(x) => Address::F32(x.as_ptr().add(offset)),
                Stored::Bf16(x) => Address::Bf16(x.as_ptr().add(offset)),
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
    source: &'b Source<'a>,
    image: usize,
    block: usize,
    y: usize,
    out: *mut f32,
}

impl Kernel for LoadRow<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let LoadRow { source, image, block, y, out } = self;
        let maps = source.maps;
        let (start, len) = (maps.row(image, block, y), maps.row_len());
        // SAFETY: `Source::row`'s promises: every slice has a row at `start`, `out` has room for it.
        unsafe {
            if let Stored::Planes(planes) = source.value {
                from_planes(maps, planes, image, y, out);
            } else {
                let value = source.value.at(start);
                let (scale, shift) = block_of(s, source.affine, block);
                let residual = source.residual.map(|r| (r.value.at(start), r.affine));
                // The usual cases, each with a loop of its own; the rest in passes over `out`.
                let slope = match source.activation {
                    None => Some(1.0),
                    Some(f) => f.negative_slope(),
                };
                match (residual, slope) {
                    (None, _) if source.affine.is_none() && source.activation.is_none() => {
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
                        let f = source.activation.expect("no activation has a slope");
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
            if let Some(keep) = &source.keep {
                keep.write_row(s, start, len, out);
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
unsafe fn from_planes(maps: Maps, planes: &[f32], image: usize, y: usize, out: *mut f32) {
    for x in 0..maps.width {
        for lane in 0..LANES {
            let value = if lane < maps.channels {
                let plane = (image * maps.channels + lane) * maps.pixels();
                planes[plane + y * maps.width + x]
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
/// `a * gradient + b * value + c` with one of each a channel (see [`crate::norm::Backward`]).
/// Without a BatchNorm it is `gradient` itself.
pub struct GradientSource<'a> {
    /// Their shape.
    pub maps: Maps,
    /// The gradient after BatchNorm.
    pub gradient: &'a [f32],
    /// BatchNorm's input, and the coefficients.
    pub norm: Option<NormGradient<'a>>,
}

/// See [`GradientSource`].
#[derive(Clone, Copy)]
pub struct NormGradient<'a> {
    /// BatchNorm's input.
    pub value: Stored<'a>,
    /// What multiplies the gradient.
    pub a: &'a [f32],
    /// What multiplies the value.
    pub b: &'a [f32],
    /// What is added.
    pub c: &'a [f32],
}

impl GradientSource<'_> {
    /// Panics unless all slices have the lengths that `maps` asks for; kernels rely on it.
    pub(crate) fn check(&self) {
        assert_eq!(self.gradient.len(), self.maps.len(), "wrong length");
        if let Some(NormGradient { value, a, b, c }) = self.norm {
            value.check(self.maps);
            for of_channels in [a, b, c] {
                assert_eq!(of_channels.len(), self.maps.padded_channels(), "wrong length");
            }
        }
    }

    /// Has what these rows are computed from asked for.
    pub(crate) fn ask(&self, ahead: &mut Ahead, rows: &Rows) {
        ahead.add(self.gradient, self.maps, rows);
        if let Some(norm) = &self.norm {
            norm.value.ask(ahead, self.maps, rows);
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
        s.call(GradientRow { source: self, image, block, y, out });
    }
}

struct GradientRow<'a, 'b> {
    source: &'b GradientSource<'a>,
    image: usize,
    block: usize,
    y: usize,
    out: *mut f32,
}

impl Kernel for GradientRow<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let GradientRow { source, image, block, y, out } = self;
        let (start, len) = (source.maps.row(image, block, y), source.maps.row_len());
        // SAFETY: `GradientSource::row`'s promises: every slice has a row at `start`.
        unsafe {
            let gradient = source.gradient.as_ptr().add(start);
            let Some(NormGradient { value, a, b, c }) = source.norm else {
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
