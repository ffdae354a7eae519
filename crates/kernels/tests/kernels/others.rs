//! Pooling, vectors, activations, the loss.

use crescendo_kernels::epilogue::{Epilogue, GradientEpilogue};
use crescendo_kernels::loss::ClassWeights;
use crescendo_kernels::prologue::{GradientPrologue, Prologue};
use crescendo_kernels::{
    ActivationFunction, DisjointSlice, Isa, Leaves, MapShape, MapsMut, MapsRef, Workspace,
    activation, linear, loss, pooling, to_blocked, to_nchw,
};
use crescendo_reference as reference;

use crate::common::{
    ACTIVATIONS, assert_close, differences, dot, nchw, noise, pointwise, processor, wide,
};

#[test]
fn activations_match_the_reference_and_finite_differences() {
    // More than a piece, so that pieces are put together right; no number near a kink.
    let x: Vec<f32> = noise(9, 9003).iter().map(|x| 4.0 * x + 0.01 * x.signum()).collect();
    let dy = noise(10, x.len());
    for (f, isa) in ACTIVATIONS.into_iter().flat_map(|f| Isa::available().map(move |isa| (f, isa)))
    {
        let processor = processor(isa, 2);
        let what = format!("{f:?} {isa:?}");
        let mut y = vec![0.0; x.len()];
        activation::forward(&processor, f, &x, &mut y);
        assert_close(&what, &y, &reference::pointwise(pointwise(f), &wide(&x)), 1e-6);
        let mut dx = dy.clone();
        activation::backward(&processor, f, &x, &mut dx);
        let step = 1e-5;
        let moved = |by: f64| {
            reference::pointwise(
                pointwise(f),
                &x.iter().map(|&x| f64::from(x) + by).collect::<Vec<_>>(),
            )
        };
        let slopes = moved(step).into_iter().zip(moved(-step)).map(|(a, b)| (a - b) / (2.0 * step));
        let expected: Vec<f64> =
            slopes.zip(&dy).map(|(slope, &dy)| slope * f64::from(dy)).collect();
        assert_close(&what, &dx, &expected, 2e-6);
    }
}

#[test]
fn what_is_no_number_is_not_hidden_and_ends_do_not_overflow() {
    let x = [f32::NAN, -1e30, 1e30, f32::NEG_INFINITY, f32::INFINITY];
    for isa in Isa::available() {
        for (f, ends) in [
            (ActivationFunction::Relu, [0.0, 1e30, 0.0, f32::INFINITY]),
            (ActivationFunction::Elu, [-1.0, 1e30, -1.0, f32::INFINITY]),
            (ActivationFunction::Sigmoid, [0.0, 1.0, 0.0, 1.0]),
        ] {
            let mut y = [0.0; 5];
            activation::forward(&processor(isa, 1), f, &x, &mut y);
            assert!(y[0].is_nan(), "{f:?}");
            for (y, end) in y[1..].iter().zip(ends) {
                assert!(*y == end || (y - end).abs() < 1e-30, "{f:?} {isa:?}: {y} is not {end}");
            }
        }
    }
}

#[test]
fn pooling_and_flattening_match_the_reference_and_their_adjoints() {
    for (size, height, width) in [(2, 8, 8), (2, 7, 5), (3, 9, 4)] {
        let shape = MapShape { images: 3, channels: 19, height, width };
        let out = pooling::output_shape(size, shape);
        let x = noise(11, 3 * 19 * shape.pixels());
        let dy = noise(12, 3 * 19 * out.pixels());
        let (blocks, gradient) = (to_blocked(shape, &x), to_blocked(out, &dy));
        let prologue = Prologue::plain(shape, MapsRef::F32(&blocks));
        for isa in Isa::available() {
            let processor = processor(isa, 2);
            let mut y = vec![0.0; out.len()];
            let epilogue =
                Epilogue { shape: out, bias: None, out: MapsMut::f32(&mut y), sums: None };
            pooling::average(&processor, size, &prologue, &epilogue);
            let expected = reference::average_pool(size, nchw(shape), &wide(&x));
            assert_close("average", &to_nchw(out, &y), &expected, 1e-6);
            let mut dx = vec![f32::NAN; shape.len()];
            let epilogue = GradientEpilogue::plain(shape, DisjointSlice::new(&mut dx));
            let gradient = GradientPrologue { shape: out, gradient: &gradient, norm: None };
            pooling::average_backward(&processor, size, &gradient, &epilogue);
            let expected =
                differences(&x, |x| dot(&reference::average_pool(size, nchw(shape), x), &dy));
            assert_close("its gradient", &to_nchw(shape, &dx), &expected, 1e-6);

            let mut flat = vec![0.0; x.len()];
            pooling::flatten(&processor, &prologue, &mut flat);
            assert_eq!(flat, x, "planes one after another are what flatten makes");
            let mut back = vec![f32::NAN; shape.len()];
            let epilogue = GradientEpilogue::plain(shape, DisjointSlice::new(&mut back));
            pooling::flatten_backward(&processor, &flat, &epilogue);
            assert_eq!(back, blocks);
        }
    }
}

#[test]
fn linear_matches_the_reference_and_finite_differences() {
    for (images, inputs, outputs) in [(1, 3, 10), (5, 131, 129), (130, 40, 70), (4, 300, 16)] {
        let layer = linear::Linear { inputs, outputs };
        let (x, weight) = (noise(13, images * inputs), noise(14, inputs * outputs));
        let (bias, dy) = (noise(15, outputs), noise(16, images * outputs));
        let (x64, w64, b64) = (wide(&x), wide(&weight), wide(&bias));
        for isa in Isa::available() {
            let processor = processor(isa, 2);
            let mut workspace = Workspace::new(2, layer.workspace_size(images));
            let mut y = vec![0.0; dy.len()];
            for (bias, bias64) in [(None, &vec![0.0; outputs]), (Some(&bias[..]), &b64)] {
                linear::forward(&processor, &mut workspace, &layer, &x, &weight, bias, &mut y);
                assert_close("y", &y, &reference::linear(inputs, &x64, &w64, bias64), 1e-6);
            }
            let (mut dweight, mut dbias) = (vec![1.0; weight.len()], vec![0.0; outputs]);
            let mut dx = vec![f32::NAN; x.len()];
            let leaves = Leaves::new(images, 8, 0..8, 1);
            let mut backward = |dweight: &mut [f32], dbias: Option<&mut [f32]>, dx| {
                linear::backward(
                    &processor,
                    &mut workspace,
                    &layer,
                    &x,
                    &weight,
                    &dy,
                    &leaves,
                    Some(&mut [dweight]),
                    dbias.map(|dbias| [dbias]).as_mut().map(|groups| &mut groups[..]),
                    dx,
                );
            };
            backward(&mut dweight, Some(&mut dbias), Some(&mut dx));
            let mut alone = vec![1.0; weight.len()];
            backward(&mut alone, None, None);
            assert!(alone == dweight, "dweight alone differs");
            let mut expected = reference::linear_backward(inputs, &x64, &w64, &wide(&dy));
            // It is added to the ones that were there.
            expected.weight.iter_mut().for_each(|dweight| *dweight += 1.0);
            assert_close("dweight", &dweight, &expected.weight, 1e-6);
            assert_close("dbias", &dbias, &expected.bias, 1e-6);
            assert_close("dx", &dx, &expected.input, 1e-6);
        }
    }
}

#[test]
fn cross_entropy_matches_the_reference_and_finite_differences() {
    let labels = [3, 0, 9, 4];
    let logits: Vec<f32> = noise(17, 40).iter().map(|x| 5.0 * x).collect();
    let mut dlogits = vec![0.0; 40];
    for smoothing in [0.0, 0.2] {
        // Half of a batch.
        let sum = loss::cross_entropy(&logits, &labels, smoothing, 8, None, &mut dlogits);
        let plain = |x: &[f64]| reference::cross_entropy(x, &labels, smoothing, None);
        assert!((sum / 4.0 - plain(&wide(&logits))).abs() < 1e-12);
        let expected = differences(&logits, |x| 0.5 * plain(x));
        assert_close("dlogits", &dlogits, &expected, 1e-7);
    }
}

#[test]
fn class_weights_match_the_reference_and_micro_batches_add_up() {
    let labels = [3, 0, 9, 4, 3, 1];
    let logits: Vec<f32> = noise(18, 60).iter().map(|x| 5.0 * x).collect();
    // One class counts for nothing: a micro-batch may consist of it alone.
    let weights = [0.5, 0.0, 1.0, 2.5, 0.25, 1.0, 3.0, 1.0, 0.125, 2.0];
    let class_weights = ClassWeights::new(&weights, &labels);
    assert_eq!(class_weights.mean, (2.5 + 0.5 + 2.0 + 0.25 + 2.5 + 0.0) / 6.0);
    for smoothing in [0.0, 0.2] {
        let (x, w) = (wide(&logits), wide(&weights));
        let expected = reference::cross_entropy(&x, &labels, smoothing, Some(&w));
        let gradient = reference::cross_entropy_backward(&x, &labels, smoothing, Some(&w));
        for cut in [6, 2, 5] {
            let (mut dlogits, mut loss) = (vec![0.0; 60], 0.0);
            let parts = [(0, cut), (cut, 6)].into_iter().filter(|(start, end)| start < end);
            for (start, end) in parts {
                loss += loss::cross_entropy(
                    &logits[10 * start..10 * end],
                    &labels[start..end],
                    smoothing,
                    6,
                    Some(class_weights),
                    &mut dlogits[10 * start..10 * end],
                );
            }
            loss /= loss::divisor(6, Some(class_weights));
            assert!((loss - expected).abs() < 1e-12, "{loss} is not {expected}");
            assert_close("dlogits", &dlogits, &gradient, 1e-7);
        }
    }
    // Equal weights are none.
    let (mut plain, mut equal) = (vec![0.0; 60], vec![0.0; 60]);
    let twos = ClassWeights::new(&[2.0; 10], &labels);
    let a = loss::cross_entropy(&logits, &labels, 0.2, 6, None, &mut plain);
    let b = loss::cross_entropy(&logits, &labels, 0.2, 6, Some(twos), &mut equal);
    assert!((a - b / 2.0).abs() < 1e-11);
    assert_close("dlogits of equal weights", &equal, &wide(&plain), 1e-6);
}
