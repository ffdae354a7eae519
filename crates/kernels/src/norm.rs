//! BatchNorm (Ioffe and Szegedy, arXiv 1502.03167): the arithmetic between the passes.
//!
//! The passes over memory are fused into other kernels: an [`Epilogue`](crate::epilogue::Epilogue) sums
//! up what its kernel delivers, a [`Prologue`](crate::prologue::Prologue) scales and shifts what its
//! kernel loads, and the same backward. What remains is to turn sums into factors, a few numbers for each
//! channel. Sums of several processes can be added up in between.
//!
//! # Example
//!
//! Four pixels of a channel through BatchNorm, a residual addition and ReLU, and their gradient back:
//!
//! ```
//! use crescendo_kernels::epilogue::{
//!     ActivationDerivative, BatchStatistics, DerivativeAt, Epilogue, GradientEpilogue, NormGradientSums,
//! };
//! use crescendo_kernels::norm::{BatchMoments, NormBackward, sum_over_images};
//! use crescendo_kernels::prologue::{Affine, GradientPrologue, NormGradient, Prologue, Residual};
//! use crescendo_kernels::{
//!     ActivationFunction, DisjointSlice, Isa, Leaves, MapShape, MapsMut, MapsRef, Processor, ThreadPool,
//!     pooling, to_blocked, to_nchw,
//! };
//!
//! let processor = Processor { pool: ThreadPool::new(1), isa: Isa::best() };
//! let shape = MapShape { images: 1, channels: 1, height: 1, width: 4 };
//! let (eps, weight, bias, count) = (1e-5, 2.0, 0.0, 4.0);
//!
//! // Every kernel can sum up what it delivers; this one only copies.
//! let (mut x, mut sums, mut total) = (vec![0.0; shape.len()], [0.0; 32], [0.0; 2]);
//! let statistics = BatchStatistics { sums: DisjointSlice::new(&mut sums), shift: &[0.0; 16] };
//! let epilogue = Epilogue { shape, bias: None, out: MapsMut::f32(&mut x), sums: Some(statistics) };
//! let prologue = Prologue::plain(shape, MapsRef::Nchw(&[1.0, 2.0, 3.0, 6.0]));
//! pooling::materialise(&processor, &prologue, &epilogue);
//! sum_over_images(&processor, shape, &Leaves::one(1), &sums, &mut total);
//! let moments = BatchMoments::from_sums(total[0], total[1], count, 0.0);
//! assert_eq!((moments.mean, moments.variance), (3.0, 3.5));
//!
//! // The next kernel computes `relu(scale * x + shift + residual)` as it loads.
//! let (scale, shift) = moments.affine(eps, weight, bias);
//! let residual = to_blocked(shape, &[3.0, 0.0, 1.0, 0.0]);
//! let prologue = Prologue {
//!     affine: Some(Affine { scale: &[scale; 16], shift: &[shift; 16] }),
//!     residual: Some(Residual { value: MapsRef::F32(&residual), affine: None }),
//!     activation: Some(ActivationFunction::Relu),
//!     ..Prologue::plain(shape, MapsRef::F32(&x))
//! };
//! let mut y = vec![0.0; shape.len()];
//! let epilogue = Epilogue { shape, bias: None, out: MapsMut::f32(&mut y), sums: None };
//! pooling::materialise(&processor, &prologue, &epilogue);
//! let hundredths = |y: f32| (100.0 * y).round();
//! assert_eq!(to_nchw(shape, &y).into_iter().map(hundredths).collect::<Vec<_>>(), [86.0, 0.0, 100.0, 321.0]);
//!
//! // Backward stops at BatchNorm's output until its sums are complete.
//! let dy = to_blocked(shape, &[1.0; 4]);
//! let (mut dnorm, mut sums) = (vec![0.0; shape.len()], [0.0; 32]);
//! let at = DerivativeAt::Output(MapsRef::F32(&y));
//! let (value, mean) = (MapsRef::F32(&x), &[3.0; 16]);
//! let epilogue = GradientEpilogue {
//!     derivative: Some(ActivationDerivative { function: ActivationFunction::Relu, at }),
//!     norms: [Some(NormGradientSums { value, mean, sums: DisjointSlice::new(&mut sums) }), None],
//!     ..GradientEpilogue::plain(shape, DisjointSlice::new(&mut dnorm))
//! };
//! let prologue = GradientPrologue { shape, gradient: &dy, norm: None };
//! pooling::materialise_backward(&processor, &prologue, &epilogue);
//! assert_eq!(to_nchw(shape, &dnorm), [1.0, 0.0, 1.0, 1.0]);
//! sum_over_images(&processor, shape, &Leaves::one(1), &sums, &mut total);
//! let backward = NormBackward::from_sums(total[0], total[1], moments, eps);
//! assert_eq!(backward.dbias, 3.0);
//!
//! // The next kernel goes through BatchNorm as it loads. A shift of all pixels changes nothing.
//! let [a, b, c] = backward.coefficients(moments, eps, weight, count).map(|number| [number; 16]);
//! let norm = Some(NormGradient { value, a: &a, b: &b, c: &c });
//! let mut dx = vec![0.0; shape.len()];
//! let epilogue = GradientEpilogue::plain(shape, DisjointSlice::new(&mut dx));
//! let prologue = GradientPrologue { shape, gradient: &dnorm, norm };
//! pooling::materialise_backward(&processor, &prologue, &epilogue);
//! assert!(to_nchw(shape, &dx).iter().sum::<f32>().abs() < 1e-5);
//! ```

use crate::disjoint_slice::DisjointSlice;
use crate::leaves::{self, GroupSlices, LeafSum, Leaves};
use crate::prologue::GradientPrologue;
use crate::simd::LANES;
use crate::{MapShape, Processor, ThreadPool};

/// Adds up the sums of the images of each leaf, in their order: from `[images, blocks, 2, 16]` to
/// `[leaves, channels, 2]`, where the leaves are those of [`Leaves::list`].
///
/// # Panics
/// If lengths do not fit.
pub fn sum_over_images(
    processor: &Processor,
    shape: MapShape,
    leaves: &Leaves,
    sums: &[f64],
    by_leaf: &mut [f64],
) {
    let image = shape.blocks() * 2 * LANES;
    let leaves = leaves.list();
    assert_eq!(sums.len(), shape.images * image, "wrong number of sums");
    assert_eq!(leaves.last().map_or(0, |leaf| leaf.images().end), shape.images, "other images");
    assert_eq!(by_leaf.len(), leaves.len() * 2 * shape.channels, "two sums a channel and leaf");
    let (blocks, work) = (shape.blocks(), ThreadPool::ELEMENT * sums.len());
    let by_leaf = &DisjointSlice::new(by_leaf);
    processor.pool.run(leaves.len() * blocks, work, |index, _| {
        let (leaf, block) = (index / blocks, index % blocks);
        let at = 2 * (leaf * shape.channels + block * LANES);
        // SAFETY: each task has a block's channels of a leaf.
        let totals = unsafe { by_leaf.part(at, 2 * shape.lanes(block)) };
        totals.fill(0.0);
        for image in leaves[leaf].images() {
            let sums = &sums[shape.sums_offset(image, block)..][..2 * LANES];
            for (lane, total) in totals.chunks_exact_mut(2).enumerate() {
                total[0] += sums[lane];
                total[1] += sums[LANES + lane];
            }
        }
    });
}

/// Adds up the sums of leaves, `[leaves, channels, 2]`, over all of them: to `[channels, 2]`.
///
/// # Panics
/// If lengths do not fit.
pub fn sum_over_leaves(leaves: &Leaves, by_leaf: &[f64], totals: &mut [f64]) {
    let leaves = leaves.in_groups(1).list();
    assert_eq!(by_leaf.len(), leaves.len() * totals.len(), "wrong number of sums");
    const SOME: usize = 32;
    let all = totals.len();
    for (index, totals) in totals.chunks_mut(SOME).enumerate() {
        let mut waiting = [[0.0; SOME]; leaves::DEPTH];
        let mut count = 0;
        for (leaf, sums) in leaves.iter().zip(by_leaf.chunks_exact(all)) {
            let sums = &sums[index * SOME..][..totals.len()];
            waiting[count][..sums.len()].copy_from_slice(sums);
            count += 1;
            for _ in 0..leaf.joins() {
                count -= 1;
                let (to, from) = waiting.split_at_mut(count);
                to[count - 1].iter_mut().zip(&from[0]).for_each(|(to, from)| *to += from);
            }
        }
        totals.copy_from_slice(&waiting[0][..totals.len()]);
    }
}

/// Mean and variance of one channel over a batch, or its running statistics.
///
/// See the example of [the module `norm`](crate::norm).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct BatchMoments {
    /// The mean.
    pub mean: f64,
    /// The variance, divided by the count (not the count less one): what normalises the batch.
    pub variance: f64,
}

impl BatchMoments {
    /// From the sum and the sum of squares of `count` numbers, `shift` subtracted from each.
    pub fn from_sums(sum: f64, squares: f64, count: f64, shift: f64) -> Self {
        let mean = sum / count;
        BatchMoments { mean: mean + shift, variance: (squares / count - mean * mean).max(0.0) }
    }

    /// `1 / sqrt(variance + eps)`.
    pub fn inverse_std(self, eps: f64) -> f64 {
        1.0 / (self.variance + eps).sqrt()
    }

    /// The scale and the shift of the normalisation, `scale * x + shift`, for BatchNorm's weight and bias
    /// of the channel: see [`Affine`](crate::prologue::Affine).
    pub fn affine(self, eps: f64, weight: f32, bias: f32) -> (f32, f32) {
        let factor = f64::from(weight) * self.inverse_std(eps);
        (factor as f32, (f64::from(bias) - factor * self.mean) as f32)
    }
}

/// The backward pass of BatchNorm for one channel.
///
/// See the example of [the module `norm`](crate::norm).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NormBackward {
    /// The gradient of the weight.
    pub dweight: f64,
    /// The gradient of the bias.
    pub dbias: f64,
}

impl NormBackward {
    /// From the sums of a [`NormGradientSums`](crate::epilogue::NormGradientSums): of the gradient, and
    /// of the gradient times `value - mean`.
    pub fn from_sums(sum: f64, products: f64, moments: BatchMoments, eps: f64) -> Self {
        NormBackward { dweight: products * moments.inverse_std(eps), dbias: sum }
    }

    /// The gradient of the input through the batch's own mean and variance,
    /// `weight / sqrt(var + eps) * (dy - mean(dy) - xhat * mean(dy * xhat))`, as the coefficients of
    /// `a * dy + b * x + c`: see [`GradientPrologue`]. `count` is how many numbers a channel has,
    /// over all processes, as are the sums.
    pub fn coefficients(
        self,
        moments: BatchMoments,
        eps: f64,
        weight: f32,
        count: f64,
    ) -> [f32; 3] {
        let inverse = moments.inverse_std(eps);
        let a = f64::from(weight) * inverse;
        let b = -a * inverse * self.dweight / count;
        let c = -a * self.dbias / count - b * moments.mean;
        [a as f32, b as f32, c as f32]
    }
}

/// Adds to each of `dbias` `[channels]` the gradient of a convolution's bias: the sum of the output's gradient
/// over each channel, in the groups of the leaves. Before a BatchNorm it is zero, since the normalisation removes every
/// shift.
///
/// # Panics
/// If lengths do not fit.
pub fn bias_gradient(
    processor: &Processor,
    gradient: &GradientPrologue,
    leaves: &Leaves,
    dbias: &mut [&mut [f32]],
) {
    gradient.check();
    let shape = gradient.shape;
    assert_eq!(shape.images, leaves.images(), "other images");
    let dbias = &GroupSlices::new(leaves, dbias, shape.channels);
    if gradient.norm.is_some() {
        return;
    }
    let (groups, leaves) = (leaves.groups(), &leaves.list());
    processor.pool.run(shape.blocks(), ThreadPool::ELEMENT * shape.len(), |block, _| {
        let mut sums = [LeafSum::<f32>::default(); LANES];
        for group in 0..groups {
            for leaf in leaves.iter().filter(|leaf| leaf.group() == group) {
                let mut lanes = [0.0f64; LANES];
                for image in leaf.images() {
                    let block = &gradient.gradient[shape.row_offset(image, block, 0)..];
                    for pixel in block[..shape.pixels() * LANES].chunks_exact(LANES) {
                        for (sum, &value) in lanes.iter_mut().zip(pixel) {
                            *sum += f64::from(value);
                        }
                    }
                }
                for (sum, lane) in sums.iter_mut().zip(lanes) {
                    sum.add(lane as f32, leaf.joins());
                }
            }
            // SAFETY: each task has the channels of its block.
            let dbias = unsafe { dbias.part(group, block * LANES, shape.lanes(block)) };
            for (dbias, sum) in dbias.iter_mut().zip(&mut sums) {
                *dbias += sum.total();
            }
        }
    });
}
