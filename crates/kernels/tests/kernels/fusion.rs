//! What happens to rows on the way in and out: BatchNorm, activations, residuals, their gradients and
//! the storage of upper halves. Checked through the kernels that do nothing else.

use crescendo_kernels::epilogue::{
    ActivationDerivative, BatchStatistics, DerivativeAt, Epilogue, GradientEpilogue,
    NormGradientSums,
};
use crescendo_kernels::norm::{BatchMoments, NormBackward};
use crescendo_kernels::prologue::{Affine, GradientPrologue, NormGradient, Prologue, Residual};
use crescendo_kernels::{
    ActivationFunction, DisjointSlice, Isa, Leaves, MapShape, MapsMut, MapsRef, Processor, norm,
    pooling, to_blocked, to_nchw,
};
use crescendo_reference as reference;

use crate::common::{
    ACTIVATIONS, assert_close, channels, differences, dot, nchw, noise, pointwise, processor, wide,
};

const SHAPE: MapShape = MapShape { images: 3, channels: 18, height: 4, width: 5 };
const EPS: f64 = 1e-5;

fn planes(seed: u64) -> Vec<f32> {
    noise(seed, SHAPE.images * SHAPE.channels * SHAPE.pixels())
}

fn upper_halves(blocks: &[f32]) -> Vec<u16> {
    // Only numbers that upper halves hold exactly are handed in.
    blocks.iter().map(|x| (x.to_bits() >> 16) as u16).collect()
}

fn lower_half_gone(values: &[f32]) -> Vec<f32> {
    values.iter().map(|x| f32::from_bits(x.to_bits() & 0xffff_0000)).collect()
}

/// What BatchNorm makes of maps, as its parts compute it.
struct Normed {
    planes: Vec<f32>,
    blocks: Vec<f32>,
    weight: Vec<f32>,
    bias: Vec<f32>,
    moments: Vec<BatchMoments>,
    scale: Vec<f32>,
    shift: Vec<f32>,
    mean: Vec<f32>,
}

impl Normed {
    /// The maps are written down first, with a bias, which takes their sums.
    fn new(processor: &Processor, seed: u64, offset: f32) -> Self {
        let raw: Vec<f32> = lower_half_gone(&planes(seed));
        let given = to_blocked(SHAPE, &raw);
        let (weight, bias) = (channels(seed ^ 8, 18), channels(seed ^ 9, 18));
        let added = vec![offset; 32];
        let near: Vec<f32> = vec![offset + 0.25; 32];
        let mut blocks = vec![0.0; given.len()];
        let mut sums = vec![0.0; SHAPE.images * 2 * 32];
        let epilogue = Epilogue {
            shape: SHAPE,
            bias: Some(&added),
            out: MapsMut::f32(&mut blocks),
            sums: Some(BatchStatistics { sums: DisjointSlice::new(&mut sums), shift: &near }),
        };
        pooling::materialise(processor, &Prologue::plain(SHAPE, MapsRef::F32(&given)), &epilogue);
        let mut total = vec![0.0; 36];
        norm::sum_over_images(processor, SHAPE, &Leaves::one(SHAPE.images), &sums, &mut total);
        let count = (SHAPE.images * SHAPE.pixels()) as f64;
        let moments: Vec<BatchMoments> = total
            .chunks(2)
            .map(|sums| BatchMoments::from_sums(sums[0], sums[1], count, f64::from(near[0])))
            .collect();
        let affine = |c: usize| match moments.get(c) {
            Some(moments) => moments.affine(EPS, weight[c], bias[c]),
            None => (0.0, 0.0),
        };
        let mean = |c: usize| moments.get(c).map_or(0.0, |moments| moments.mean as f32);
        Normed {
            planes: to_nchw(SHAPE, &blocks),
            scale: (0..32).map(|c| affine(c).0).collect(),
            shift: (0..32).map(|c| affine(c).1).collect(),
            mean: (0..32).map(mean).collect(),
            blocks,
            weight,
            bias,
            moments,
        }
    }

    fn affine(&self) -> Option<Affine<'_>> {
        Some(Affine { scale: &self.scale, shift: &self.shift })
    }

    fn expected(&self, x: &[f64]) -> Vec<f64> {
        let (weight, bias) = (wide(&self.weight[..18]), wide(&self.bias[..18]));
        reference::batch_norm(nchw(SHAPE), x, &weight, &bias, EPS)
    }
}

#[test]
fn sums_give_the_moments_even_far_from_zero() {
    for isa in Isa::available() {
        let normed = Normed::new(&processor(isa, 2), 1, 300.0);
        for (channel, moments) in normed.moments.iter().enumerate() {
            let of_channel = || {
                let planes = normed.planes.chunks(SHAPE.pixels()).skip(channel).step_by(18);
                planes.flatten().map(|&x| f64::from(x))
            };
            let count = of_channel().count() as f64;
            let mean = of_channel().sum::<f64>() / count;
            let variance = of_channel().map(|x| (x - mean).powi(2)).sum::<f64>() / count;
            assert!((moments.mean - mean).abs() < 1e-6 * mean.abs());
            assert!((moments.variance - variance).abs() < 1e-5 * variance, "{isa:?}");
        }
    }
}

/// `activation(norm(x) + residual)` for every activation, and its gradient back to `x`, to the
/// residual and to BatchNorm's parameters, with the slope taken from the argument and from the value.
#[test]
fn norm_residual_and_activation_match_the_reference_and_finite_differences() {
    let given = |isa| {
        let processor = processor(isa, 2);
        let (main, side) = (Normed::new(&processor, 2, 0.5), Normed::new(&processor, 3, -1.0));
        (processor, main, side)
    };
    let given: Vec<_> = Isa::available().map(|isa| (isa, given(isa))).collect();
    let dy = planes(4);
    for activation in ACTIVATIONS {
        // The numbers that go in are the same with every instruction set.
        let (_, (_, main, side)) = &given[0];
        let f = |x: &[f64], r: &[f64]| {
            let sum: Vec<f64> =
                std::iter::zip(main.expected(x), side.expected(r)).map(|(a, b)| a + b).collect();
            reference::pointwise(pointwise(activation), &sum)
        };
        let (x64, r64) = (wide(&main.planes), wide(&side.planes));
        let y = f(&x64, &r64);
        let expected = [
            differences(&main.planes, |x| dot(&f(x, &r64), &dy)),
            differences(&side.planes, |r| dot(&f(&x64, r), &dy)),
        ];
        let (main_planes, side_planes) = (&main.planes, &side.planes);
        for (isa, (processor, main, side)) in &given {
            assert!(main.planes == *main_planes && side.planes == *side_planes, "{isa:?}");
            let residual = Residual { value: MapsRef::F32(&side.blocks), affine: side.affine() };
            let argument = || Prologue {
                affine: main.affine(),
                residual: Some(residual),
                ..Prologue::plain(SHAPE, MapsRef::F32(&main.blocks))
            };
            let (mut kept, mut out) = (vec![0.0; SHAPE.len()], vec![0.0; SHAPE.len()]);
            {
                let epilogue =
                    Epilogue { shape: SHAPE, bias: None, out: MapsMut::f32(&mut out), sums: None };
                let prologue = Prologue {
                    value: MapsRef::F32(&main.blocks),
                    affine: main.affine(),
                    residual: Some(residual),
                    activation: Some(activation),
                    save: Some(MapsMut::f32(&mut kept)),
                    shape: SHAPE,
                };
                pooling::materialise(processor, &prologue, &epilogue);
            }
            assert_eq!(kept, out, "what is kept is what was read");
            let what = format!("{activation:?} {isa:?}");
            assert_close(&what, &to_nchw(SHAPE, &out), &y, 2e-6);

            // Backward: the epilogue's part, then the prologue's.
            let gradient = to_blocked(SHAPE, &dy);
            let mut ways = vec![DerivativeAt::Input(argument())];
            if activation.derivative_from_output() {
                ways.push(DerivativeAt::Output(MapsRef::F32(&kept)));
            }
            for at in ways {
                let mut g = vec![f32::NAN; SHAPE.len()];
                let mut sums = [vec![0.0; SHAPE.images * 64], vec![0.0; SHAPE.images * 64]];
                let [first, second] = &mut sums;
                let epilogue = GradientEpilogue {
                    derivative: Some(ActivationDerivative { function: activation, at }),
                    norms: [
                        Some(NormGradientSums {
                            value: MapsRef::F32(&main.blocks),
                            mean: &main.mean,
                            sums: DisjointSlice::new(first),
                        }),
                        Some(NormGradientSums {
                            value: MapsRef::F32(&side.blocks),
                            mean: &side.mean,
                            sums: DisjointSlice::new(second),
                        }),
                    ],
                    ..GradientEpilogue::plain(SHAPE, DisjointSlice::new(&mut g))
                };
                let gradient = GradientPrologue { shape: SHAPE, gradient: &gradient, norm: None };
                pooling::materialise_backward(processor, &gradient, &epilogue);
                for (normed, sums, expected) in
                    [(main, &sums[0], &expected[0]), (side, &sums[1], &expected[1])]
                {
                    let dx = back_through_norm(processor, normed, &g, sums);
                    // Kinks: no differences are right there.
                    assert_close(&what, &to_nchw(SHAPE, &dx), expected, 3e-5);
                }
            }
        }
    }
}

fn back_through_norm(
    processor: &Processor,
    normed: &Normed,
    gradient: &[f32],
    sums: &[f64],
) -> Vec<f32> {
    let mut total = vec![0.0; 36];
    norm::sum_over_images(processor, SHAPE, &Leaves::one(SHAPE.images), sums, &mut total);
    let count = (SHAPE.images * SHAPE.pixels()) as f64;
    let mut coefficients = [vec![0.0; 32], vec![0.0; 32], vec![0.0; 32]];
    for (c, sums) in total.chunks(2).enumerate() {
        let moments = normed.moments[c];
        let backward = NormBackward::from_sums(sums[0], sums[1], moments, EPS);
        let abc = backward.coefficients(moments, EPS, normed.weight[c], count);
        for (coefficients, value) in coefficients.iter_mut().zip(abc) {
            coefficients[c] = value;
        }
    }
    let [a, b, c] = &coefficients;
    let value = MapsRef::F32(&normed.blocks);
    let norm = Some(NormGradient { value, a, b, c });
    let mut dx = vec![f32::NAN; SHAPE.len()];
    let epilogue = GradientEpilogue::plain(SHAPE, DisjointSlice::new(&mut dx));
    pooling::materialise_backward(
        processor,
        &GradientPrologue { shape: SHAPE, gradient, norm },
        &epilogue,
    );
    dx
}

#[test]
fn parts_of_a_gradient_add_up() {
    for isa in Isa::available() {
        let processor = processor(isa, 2);
        let [a, b, c] = [5, 6, 7].map(|seed| to_blocked(SHAPE, &planes(seed)));
        let mut out = a.clone();
        let gradient = GradientPrologue { shape: SHAPE, gradient: &b, norm: None };
        let epilogue = GradientEpilogue {
            accumulate: true,
            addends: [Some(&c), None],
            ..GradientEpilogue::plain(SHAPE, DisjointSlice::new(&mut out))
        };
        pooling::materialise_backward(&processor, &gradient, &epilogue);
        let expected: Vec<f32> = (0..a.len()).map(|i| b[i] + a[i] + c[i]).collect();
        assert_eq!(out, expected);
    }
}

#[test]
fn upper_halves_are_read_and_written_as_numbers() {
    for isa in Isa::available() {
        let processor = processor(isa, 2);
        let exact = lower_half_gone(&planes(8));
        let blocks = to_blocked(SHAPE, &exact);
        let halves = upper_halves(&blocks);
        let mut again = vec![0u16; halves.len()];
        let mut full = vec![0.0; halves.len()];
        let read = |out| {
            let epilogue = Epilogue { shape: SHAPE, bias: None, out, sums: None };
            pooling::materialise(
                &processor,
                &Prologue::plain(SHAPE, MapsRef::Bf16(&halves)),
                &epilogue,
            );
        };
        read(MapsMut::bf16(&mut again));
        read(MapsMut::f32(&mut full));
        assert_eq!(again, halves);
        assert_eq!(full, blocks);
    }
}

#[test]
#[should_panic = "nothing can be fused with them"]
fn planes_with_an_activation_are_refused() {
    let shape = MapShape { channels: 3, ..SHAPE };
    let (images, mut out) = (vec![0.0; shape.images * 3 * shape.pixels()], vec![0.0; shape.len()]);
    let prologue = Prologue {
        activation: Some(ActivationFunction::Relu),
        ..Prologue::plain(shape, MapsRef::Nchw(&images))
    };
    let epilogue = Epilogue { shape, bias: None, out: MapsMut::f32(&mut out), sums: None };
    pooling::materialise(&processor(Isa::best(), 1), &prologue, &epilogue);
}

#[test]
fn images_are_read_from_planes() {
    let shape = MapShape { channels: 3, ..SHAPE };
    let images = noise(9, shape.images * 3 * shape.pixels());
    for isa in Isa::available() {
        let mut out = vec![f32::NAN; shape.len()];
        let epilogue = Epilogue { shape, bias: None, out: MapsMut::f32(&mut out), sums: None };
        pooling::materialise(
            &processor(isa, 2),
            &Prologue::plain(shape, MapsRef::Nchw(&images)),
            &epilogue,
        );
        assert_eq!(out, to_blocked(shape, &images));
    }
}
