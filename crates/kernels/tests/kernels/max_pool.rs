//! Max-pooling: maxima are exact, so all results are those of the plain rule to the bit.

use crescendo_kernels::sink::{GradientSink, Sink, Slope, SlopeAt, StoredMut};
use crescendo_kernels::source::{Affine, GradientSource, Source, Stored};
use crescendo_kernels::{
    Activation, Isa, Maps, Processor, Shared, max_pool, pooling, reference, to_blocks, to_planes,
};
use proptest::prelude::*;

use crate::common::{assert_close, differences, dot, noise, processor, wide};

/// What pooling makes of planes.
fn forward(processor: &Processor, size: usize, maps: Maps, x: &[f32]) -> Vec<f32> {
    let (blocks, out) = (to_blocks(maps, x), pooling::output(size, maps));
    let mut y = vec![f32::NAN; out.len()];
    let sink = Sink { maps: out, bias: None, out: StoredMut::f32(&mut y), sums: None };
    max_pool::forward(processor, size, &Source::plain(maps, Stored::F32(&blocks)), &sink);
    to_planes(out, &y)
}

/// The gradient of planes for that of what pooling makes of them.
fn backward(processor: &Processor, size: usize, maps: Maps, x: &[f32], dy: &[f32]) -> Vec<f32> {
    let out = pooling::output(size, maps);
    let (blocks, dy) = (to_blocks(maps, x), to_blocks(out, dy));
    let mut dx = vec![f32::NAN; maps.len()];
    let gradient = GradientSource { maps: out, gradient: &dy, norm: None };
    let sink = GradientSink::plain(maps, Shared::new(&mut dx));
    let source = Source::plain(maps, Stored::F32(&blocks));
    max_pool::backward(processor, size, &source, &gradient, &sink);
    to_planes(maps, &dx)
}

/// The same by PyTorch's rule: a gradient goes to the pixel that no earlier one of its square equals
/// and no later one exceeds.
fn given_to_the_first(size: usize, maps: Maps, x: &[f32], dy: &[f32]) -> Vec<f32> {
    let out = pooling::output(size, maps);
    let mut dx = vec![0.0; x.len()];
    for (i, &dy) in dy.iter().enumerate() {
        let (column, row) = (i % out.width, i / out.width % out.height);
        let corner = i / out.pixels() * maps.pixels() + row * size * maps.width + column * size;
        let mut first = corner;
        for pixel in (0..size * size).map(|p| corner + p / size * maps.width + p % size) {
            if x[pixel] > x[first] {
                first = pixel;
            }
        }
        dx[first] = dy;
    }
    dx
}

fn check(size: usize, maps: Maps, x: &[f32], seed: u64) {
    let out = pooling::output(size, maps);
    let dy = noise(seed, maps.images * maps.channels * out.pixels());
    let expected = reference::max_pool(size, maps, &wide(x));
    let dx_expected = given_to_the_first(size, maps, x, &dy);
    for (isa, threads) in Isa::available().flat_map(|isa| [1, 2, 5].map(|threads| (isa, threads))) {
        let processor = processor(isa, threads);
        let what = format!("squares of {size} of {maps:?}, {isa:?}, {threads} threads");
        assert_eq!(wide(&forward(&processor, size, maps, x)), expected, "{what}");
        assert_eq!(backward(&processor, size, maps, x, &dy), dx_expected, "gradient: {what}");
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
        let maps = Maps { images, channels, height, width };
        let x = noise(seed, images * channels * maps.pixels());
        let x: Vec<f32> = x.iter().map(|x| (x * f32::from(levels)).trunc().max(-1.0)).collect();
        check(1 + (size - 1) % height.min(width), maps, &x, seed ^ 1);
    }
}

#[test]
fn gradients_match_finite_differences() {
    for (size, height, width) in [(2, 8, 8), (2, 7, 5), (3, 9, 4), (4, 4, 4), (1, 3, 2)] {
        let maps = Maps { images: 1, channels: 17, height, width };
        let x = noise(31, 17 * maps.pixels());
        check(size, maps, &x, 32);
        let dy = noise(33, 17 * pooling::output(size, maps).pixels());
        let dx = backward(&processor(Isa::best(), 2), size, maps, &x, &dy);
        let expected = differences(&x, |x| dot(&reference::max_pool(size, maps, x), &dy));
        assert_close("dx", &dx, &expected, 1e-6);
    }
}

#[test]
fn the_widest_rows_are_pooled() {
    let maps = Maps { images: 1, channels: 1, height: 5, width: 256 };
    for size in [1, 2, 5] {
        check(size, maps, &noise(34, maps.pixels()), 35);
    }
}

#[test]
fn squares_larger_than_the_maps_leave_nothing() {
    let maps = Maps { images: 2, channels: 3, height: 3, width: 5 };
    check(4, maps, &noise(36, 6 * maps.pixels()), 37);
}

#[test]
fn what_is_no_number_is_not_hidden_and_infinities_are_compared() {
    let maps = Maps { images: 1, channels: 1, height: 4, width: 4 };
    for isa in Isa::available() {
        let processor = processor(isa, 1);
        for pixel in [0, 1, 4, 5] {
            let mut x = noise(38, 16);
            let mut expected = forward(&processor, 2, maps, &x);
            (x[pixel], expected[0]) = (f32::NAN, f32::NAN);
            let y = forward(&processor, 2, maps, &x);
            assert!(y[0].is_nan() && y[1..] == expected[1..], "{isa:?}: {y:?}");
            let dx = backward(&processor, 2, maps, &x, &[1.0, 2.0, 4.0, 8.0]);
            assert_eq!((dx[0], dx.iter().sum::<f32>()), (1.0, 15.0), "{isa:?}: {dx:?}");
        }
    }
    let (low, high) = (f32::NEG_INFINITY, f32::INFINITY);
    check(2, Maps { height: 2, ..maps }, &[low, low, 1.0, high, low, low, high, low], 39);
    check(
        2,
        Maps { height: 2, ..maps },
        &[f32::MIN, f32::MAX, low, -0.0, 1e-45, 0.0, 0.0, low],
        40,
    );
}

/// After ReLU, with zeros in most squares, and its slope on the way back.
#[test]
fn pooling_reads_and_delivers_as_all_kernels_do() {
    let maps = Maps { images: 2, channels: 20, height: 7, width: 6 };
    let out = pooling::output(2, maps);
    let x = noise(41, 40 * maps.pixels());
    let (scale, shift) = (vec![2.0; 32], vec![-1.0; 32]);
    let affine = Some(Affine { scale: &scale, shift: &shift });
    let read: Vec<f32> = x.iter().map(|x| (2.0 * x - 1.0).max(0.0)).collect();
    let (dy, addend) = (noise(42, 40 * out.pixels()), noise(43, x.len()));
    let expected: Vec<f32> = given_to_the_first(2, maps, &read, &dy)
        .iter()
        .zip(&addend)
        .zip(&read)
        .map(|((dx, addend), &read)| if read > 0.0 { dx + addend } else { 0.0 })
        .collect();
    let (blocks, gradient) = (to_blocks(maps, &x), to_blocks(out, &dy));
    let addend = to_blocks(maps, &addend);
    for isa in Isa::available() {
        let processor = processor(isa, 2);
        let argument = || Source { affine, ..Source::plain(maps, Stored::F32(&blocks)) };
        let (mut kept, mut y) = (vec![f32::NAN; maps.len()], vec![f32::NAN; out.len()]);
        let source = Source {
            activation: Some(Activation::Relu),
            keep: Some(StoredMut::f32(&mut kept)),
            ..argument()
        };
        let sink = Sink { maps: out, bias: None, out: StoredMut::f32(&mut y), sums: None };
        max_pool::forward(&processor, 2, &source, &sink);
        assert_eq!(wide(&to_planes(out, &y)), reference::max_pool(2, maps, &wide(&read)));
        assert_eq!(to_planes(maps, &kept), read, "all rows are kept, also those in no square");

        let mut dx = vec![f32::NAN; maps.len()];
        let sink = GradientSink {
            addends: [Some(&addend), None],
            slope: Some(Slope { activation: Activation::Relu, at: SlopeAt::Argument(argument()) }),
            ..GradientSink::plain(maps, Shared::new(&mut dx))
        };
        let source = Source { activation: Some(Activation::Relu), ..argument() };
        let gradient = GradientSource { maps: out, gradient: &gradient, norm: None };
        max_pool::backward(&processor, 2, &source, &gradient, &sink);
        assert_eq!(to_planes(maps, &dx), expected, "{isa:?}");
    }
}
