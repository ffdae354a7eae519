//! Max-pooling: maxima are exact, so all results are those of the plain rule to the bit.

use crescendo_kernels::epilogue::{ActivationDerivative, DerivativeAt, Epilogue, GradientEpilogue};
use crescendo_kernels::prologue::{Affine, GradientPrologue, Prologue};
use crescendo_kernels::{
    ActivationFunction, DisjointSlice, Isa, MapShape, MapsMut, MapsRef, Processor, max_pool,
    pooling, to_blocked, to_nchw,
};
use crescendo_reference as reference;
use proptest::prelude::*;

use crate::common::{assert_close, differences, dot, nchw, noise, processor, wide};

/// What pooling makes of planes.
fn forward(processor: &Processor, size: usize, shape: MapShape, x: &[f32]) -> Vec<f32> {
    let (blocks, out) = (to_blocked(shape, x), pooling::output_shape(size, shape));
    let mut y = vec![f32::NAN; out.len()];
    let epilogue = Epilogue { shape: out, bias: None, out: MapsMut::f32(&mut y), sums: None };
    max_pool::forward(processor, size, &Prologue::plain(shape, MapsRef::F32(&blocks)), &epilogue);
    to_nchw(out, &y)
}

/// The gradient of planes for that of what pooling makes of them.
fn backward(
    processor: &Processor,
    size: usize,
    shape: MapShape,
    x: &[f32],
    dy: &[f32],
) -> Vec<f32> {
    let out = pooling::output_shape(size, shape);
    let (blocks, dy) = (to_blocked(shape, x), to_blocked(out, dy));
    let mut dx = vec![f32::NAN; shape.len()];
    let gradient = GradientPrologue { shape: out, gradient: &dy, norm: None };
    let epilogue = GradientEpilogue::plain(shape, DisjointSlice::new(&mut dx));
    let prologue = Prologue::plain(shape, MapsRef::F32(&blocks));
    max_pool::backward(processor, size, &prologue, &gradient, &epilogue);
    to_nchw(shape, &dx)
}

/// The gradient of the reference, which only moves and never adds numbers: exact in f32.
fn backward_expected(size: usize, shape: MapShape, x: &[f32], dy: &[f32]) -> Vec<f32> {
    let dx = reference::max_pool_backward(size, nchw(shape), &wide(x), &wide(dy));
    dx.iter().map(|&dx| dx as f32).collect()
}

fn check(size: usize, shape: MapShape, x: &[f32], seed: u64) {
    let out = pooling::output_shape(size, shape);
    let dy = noise(seed, shape.images * shape.channels * out.pixels());
    let expected = reference::max_pool(size, nchw(shape), &wide(x));
    let dx_expected = backward_expected(size, shape, x, &dy);
    for (isa, threads) in Isa::available().flat_map(|isa| [1, 2, 5].map(|threads| (isa, threads))) {
        let processor = processor(isa, threads);
        let what = format!("squares of {size} of {shape:?}, {isa:?}, {threads} threads");
        assert_eq!(wide(&forward(&processor, size, shape, x)), expected, "{what}");
        assert_eq!(backward(&processor, size, shape, x, &dy), dx_expected, "gradient: {what}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Few different numbers: most squares have several maxima.
    #[test]
    fn the_first_of_equal_maxima_gets_the_gradient(
        (images, channels) in (1..4usize, 1..36usize),
        (height, width) in (1..14usize, 1..14usize),
        size in 1..14usize,
        levels in 1..5u8,
        seed in any::<u64>(),
    ) {
        let shape = MapShape { images, channels, height, width };
        let x = noise(seed, images * channels * shape.pixels());
        let x: Vec<f32> = x.iter().map(|x| (x * f32::from(levels)).trunc().max(-1.0)).collect();
        check(1 + (size - 1) % height.min(width), shape, &x, seed ^ 1);
    }
}

#[test]
fn gradients_match_finite_differences() {
    for (size, height, width) in [(2, 8, 8), (2, 7, 5), (3, 9, 4), (4, 4, 4), (1, 3, 2)] {
        let shape = MapShape { images: 1, channels: 17, height, width };
        let x = noise(31, 17 * shape.pixels());
        check(size, shape, &x, 32);
        let dy = noise(33, 17 * pooling::output_shape(size, shape).pixels());
        let dx = backward(&processor(Isa::best(), 2), size, shape, &x, &dy);
        let expected = differences(&x, |x| dot(&reference::max_pool(size, nchw(shape), x), &dy));
        assert_close("dx", &dx, &expected, 1e-6);
    }
}

#[test]
fn the_widest_rows_are_pooled() {
    let shape = MapShape { images: 1, channels: 1, height: 5, width: 256 };
    for size in [1, 2, 5] {
        check(size, shape, &noise(34, shape.pixels()), 35);
    }
}

#[test]
fn squares_larger_than_the_maps_leave_nothing() {
    let shape = MapShape { images: 2, channels: 3, height: 3, width: 5 };
    check(4, shape, &noise(36, 6 * shape.pixels()), 37);
}

#[test]
fn what_is_no_number_is_not_hidden_and_infinities_are_compared() {
    let shape = MapShape { images: 1, channels: 1, height: 4, width: 4 };
    for isa in Isa::available() {
        let processor = processor(isa, 1);
        for pixel in [0, 1, 4, 5] {
            let mut x = noise(38, 16);
            let mut expected = forward(&processor, 2, shape, &x);
            (x[pixel], expected[0]) = (f32::NAN, f32::NAN);
            let y = forward(&processor, 2, shape, &x);
            assert!(y[0].is_nan() && y[1..] == expected[1..], "{isa:?}: {y:?}");
            let dx = backward(&processor, 2, shape, &x, &[1.0, 2.0, 4.0, 8.0]);
            assert_eq!((dx[0], dx.iter().sum::<f32>()), (1.0, 15.0), "{isa:?}: {dx:?}");
        }
    }
    let (low, high) = (f32::NEG_INFINITY, f32::INFINITY);
    check(2, MapShape { height: 2, ..shape }, &[low, low, 1.0, high, low, low, high, low], 39);
    check(
        2,
        MapShape { height: 2, ..shape },
        &[f32::MIN, f32::MAX, low, -0.0, 1e-45, 0.0, 0.0, low],
        40,
    );
}

/// After ReLU, with zeros in most squares, and its slope on the way back.
#[test]
fn pooling_reads_and_delivers_as_all_kernels_do() {
    let shape = MapShape { images: 2, channels: 20, height: 7, width: 6 };
    let out = pooling::output_shape(2, shape);
    let x = noise(41, 40 * shape.pixels());
    let (scale, shift) = (vec![2.0; 32], vec![-1.0; 32]);
    let affine = Some(Affine { scale: &scale, shift: &shift });
    let read: Vec<f32> = x.iter().map(|x| (2.0 * x - 1.0).max(0.0)).collect();
    let (dy, addend) = (noise(42, 40 * out.pixels()), noise(43, x.len()));
    let expected: Vec<f32> = backward_expected(2, shape, &read, &dy)
        .iter()
        .zip(&addend)
        .zip(&read)
        .map(|((dx, addend), &read)| if read > 0.0 { dx + addend } else { 0.0 })
        .collect();
    let (blocks, gradient) = (to_blocked(shape, &x), to_blocked(out, &dy));
    let addend = to_blocked(shape, &addend);
    for isa in Isa::available() {
        let processor = processor(isa, 2);
        let argument = || Prologue { affine, ..Prologue::plain(shape, MapsRef::F32(&blocks)) };
        let (mut kept, mut y) = (vec![f32::NAN; shape.len()], vec![f32::NAN; out.len()]);
        let prologue = Prologue {
            activation: Some(ActivationFunction::Relu),
            save: Some(MapsMut::f32(&mut kept)),
            ..argument()
        };
        let epilogue = Epilogue { shape: out, bias: None, out: MapsMut::f32(&mut y), sums: None };
        max_pool::forward(&processor, 2, &prologue, &epilogue);
        assert_eq!(wide(&to_nchw(out, &y)), reference::max_pool(2, nchw(shape), &wide(&read)));
        assert_eq!(to_nchw(shape, &kept), read, "all rows are kept, also those in no square");

        let mut dx = vec![f32::NAN; shape.len()];
        let epilogue = GradientEpilogue {
            addends: [Some(&addend), None],
            derivative: Some(ActivationDerivative {
                function: ActivationFunction::Relu,
                at: DerivativeAt::Input(argument()),
            }),
            ..GradientEpilogue::plain(shape, DisjointSlice::new(&mut dx))
        };
        let prologue = Prologue { activation: Some(ActivationFunction::Relu), ..argument() };
        let gradient = GradientPrologue { shape: out, gradient: &gradient, norm: None };
        max_pool::backward(&processor, 2, &prologue, &gradient, &epilogue);
        assert_eq!(to_nchw(shape, &dx), expected, "{isa:?}");
    }
}
