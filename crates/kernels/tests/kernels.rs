//! Each kernel against the naive f64 reference, and each gradient against finite differences of it.

use crescendo_kernels::norm::Moments;
use crescendo_kernels::{
    Activation, Convolution, Map, Pool, Workspace, activation, convolution, elementwise, linear,
    loss, norm, pooling, reference,
};
use proptest::prelude::*;

/// Numbers between -1 and 1 that are the same in every run.
fn noise(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&x| f64::from(x)).collect()
}

/// The distance from `expected`, relative to its size.
fn distance(values: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(values.len(), expected.len());
    let square = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
    let difference = square(&mut values.iter().zip(expected).map(|(&x, e)| f64::from(x) - e));
    difference / square(&mut expected.iter().copied()).max(1e-30)
}

#[track_caller]
fn assert_close(values: &[f32], expected: &[f64], tolerance: f64) {
    let distance = distance(values, expected);
    assert!(distance < tolerance, "off by {distance:e}, more than {tolerance:e}");
}

/// The gradient of `f` at `x` by central differences in f64.
fn differences(x: &[f32], f: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    let step = 1e-5;
    let mut x = wide(x);
    (0..x.len())
        .map(|i| {
            let here = x[i];
            x[i] = here + step;
            let above = f(&x);
            x[i] = here - step;
            let below = f(&x);
            x[i] = here;
            (above - below) / (2.0 * step)
        })
        .collect()
}

fn dot(a: &[f64], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, &b)| a * f64::from(b)).sum()
}

/// All results of a convolution's kernels: y, dweight, dbias, dx.
fn convolve(threads: usize, layer: &Convolution, map: Map, inputs: [&[f32]; 4]) -> [Vec<f32>; 4] {
    let [x, weight, bias, dy] = inputs;
    let pool = Pool::new(threads);
    let mut workspace = Workspace::new(&pool, [layer.workspace(map, true)]);
    let mut y = vec![f32::NAN; dy.len()];
    convolution::forward(&pool, &mut workspace, layer, map, x, weight, bias, &mut y);
    let (mut dweight, mut dbias) = (vec![0.0; weight.len()], vec![0.0; bias.len()]);
    let mut dx = vec![f32::NAN; x.len()];
    convolution::backward(
        &pool,
        &mut workspace,
        layer,
        map,
        x,
        weight,
        dy,
        &mut dweight,
        &mut dbias,
        Some(&mut dx),
    );
    [y, dweight, dbias, dx]
}

#[test]
fn convolution_gradients_match_finite_differences() {
    for (kernel, stride, padding) in [(3, 1, 1), (3, 2, 1), (1, 2, 0), (3, 1, 0), (5, 3, 2)] {
        let layer = Convolution { inputs: 2, outputs: 3, kernel, stride, padding };
        let map = Map { images: 2, height: 5, width: 6 };
        let (x, weight) = (noise(1, 2 * map.len()), noise(2, layer.weights()));
        let (bias, dy) = (noise(3, 3), noise(4, 3 * layer.output(map).len()));
        let [_, dweight, dbias, dx] = convolve(2, &layer, map, [&x, &weight, &bias, &dy]);
        let f = |x: &[f64], w: &[f64], b: &[f64]| {
            dot(&reference::convolution(&layer, map, x, w, b), &dy)
        };
        let (x64, w64, b64) = (wide(&x), wide(&weight), wide(&bias));
        assert_close(&dx, &differences(&x, |x| f(x, &w64, &b64)), 1e-6);
        assert_close(&dweight, &differences(&weight, |w| f(&x64, w, &b64)), 1e-6);
        assert_close(&dbias, &differences(&bias, |b| f(&x64, &w64, b)), 1e-6);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Shapes on both sides of every group, partial sum and vector width.
    #[test]
    fn convolution_matches_the_reference_and_its_adjoint(
        (inputs, outputs) in (1..20usize, 1..20usize),
        (kernel, stride, padding) in prop::sample::select(vec![(3, 1, 1), (3, 1, 0), (3, 2, 1), (1, 1, 0), (1, 2, 0), (5, 1, 2)]),
        (images, height, width) in (1..40usize, 5..18usize, 5..18usize),
        seed in any::<u64>(),
    ) {
        let layer = Convolution { inputs, outputs, kernel, stride, padding };
        let map = Map { images: images.min(1 + 3000 / (height * width)), height, width };
        let x = noise(seed, inputs * map.len());
        let weight = noise(seed ^ 1, layer.weights());
        let bias = noise(seed ^ 2, outputs);
        let dy = noise(seed ^ 3, outputs * layer.output(map).len());
        let results = convolve(1, &layer, map, [&x, &weight, &bias, &dy]);
        let [y, dweight, _, dx] = &results;
        let zero = vec![0.0; outputs];
        let expected = reference::convolution(&layer, map, &wide(&x), &wide(&weight), &wide(&bias));
        prop_assert!(distance(y, &expected) < 1e-6);
        let linear = reference::convolution(&layer, map, &wide(&x), &wide(&weight), &zero);
        let whole = dot(&linear, &dy);
        let scale = linear.iter().map(|v| v * v).sum::<f64>().sqrt() * (dy.len() as f64).sqrt();
        prop_assert!((dot(&wide(&x), dx) - whole).abs() < 1e-6 * scale);
        prop_assert!((dot(&wide(&weight), dweight) - whole).abs() < 1e-6 * scale);
        // To the bit for any number of threads.
        prop_assert_eq!(&convolve(3, &layer, map, [&x, &weight, &bias, &dy]), &results);
    }
}

#[test]
fn batch_norm_matches_the_reference_and_finite_differences() {
    let (channels, len, eps) = (3, 70, 1e-5);
    let pool = Pool::new(2);
    // A mean far from zero, where sums of squares in f32 would lose everything.
    let x: Vec<f32> = noise(5, channels * len).iter().map(|x| 100.0 + x).collect();
    let (weight, bias, dy) = (noise(6, channels), noise(7, channels), noise(8, x.len()));
    let mut sums = vec![0.0; 2 * channels];
    norm::sums(&pool, &x, &mut sums);
    let moments: Vec<Moments> =
        sums.chunks(2).map(|s| Moments::new(s[0], s[1], len as f64)).collect();
    let scale: Vec<f32> = weight
        .iter()
        .zip(&moments)
        .map(|(&w, m)| (f64::from(w) * m.inverse_deviation(eps)) as f32)
        .collect();
    let shift: Vec<f32> = bias
        .iter()
        .zip(&scale)
        .zip(&moments)
        .map(|((&b, &s), m)| (f64::from(b) - f64::from(s) * m.mean) as f32)
        .collect();
    let mut y = vec![0.0; x.len()];
    norm::scale_shift(&pool, &x, &scale, &shift, &mut y);
    let f = |x: &[f64], w: &[f64], b: &[f64]| reference::batch_norm(x, w, b, eps);
    let (x64, w64, b64) = (wide(&x), wide(&weight), wide(&bias));
    // `y` is a difference of numbers near 170 here: a few units of their last place remain.
    assert_close(&y, &f(&x64, &w64, &b64), 5e-5);

    let mut sums = vec![0.0; 2 * channels];
    norm::backward_sums(&pool, &x, &dy, &moments, eps, &mut sums);
    let dbias: Vec<f32> = sums.iter().step_by(2).map(|&s| s as f32).collect();
    let dweight: Vec<f32> = sums.iter().skip(1).step_by(2).map(|&s| s as f32).collect();
    let mut dx = vec![0.0; x.len()];
    norm::backward(&pool, &x, &dy, &moments, eps, &weight, &sums, len as f64, &mut dx);
    assert_close(&dx, &differences(&x, |x| dot(&f(x, &w64, &b64), &dy)), 5e-5);
    assert_close(&dweight, &differences(&weight, |w| dot(&f(&x64, w, &b64), &dy)), 1e-6);
    assert_close(&dbias, &differences(&bias, |b| dot(&f(&x64, &w64, b), &dy)), 1e-6);
}

#[test]
fn activations_match_the_reference_and_finite_differences() {
    let pool = Pool::new(2);
    // More than a piece, so that pieces are put together right; no number near a kink.
    let x: Vec<f32> = noise(9, 9000).iter().map(|x| 4.0 * x + 0.01 * x.signum()).collect();
    let dy = noise(10, x.len());
    let kinds = [
        Activation::Relu,
        Activation::LeakyRelu { slope: 0.01 },
        Activation::Elu,
        Activation::Sigmoid,
    ];
    for f in kinds {
        let (mut y, mut dx) = (vec![0.0; x.len()], vec![0.0; x.len()]);
        activation::forward(&pool, f, &x, &mut y);
        assert_close(&y, &reference::activation(f, &wide(&x)), 1e-6);
        activation::backward(&pool, f, &y, &dy, &mut dx);
        let step = 1e-5;
        let moved = |by: f64| {
            reference::activation(f, &x.iter().map(|&x| f64::from(x) + by).collect::<Vec<_>>())
        };
        let slopes = moved(step).into_iter().zip(moved(-step)).map(|(a, b)| (a - b) / (2.0 * step));
        let expected: Vec<f64> =
            slopes.zip(&dy).map(|(slope, &dy)| slope * f64::from(dy)).collect();
        assert_close(&dx, &expected, 2e-6);
    }
}

#[test]
fn pooling_and_flattening_match_the_reference_and_their_adjoints() {
    let pool = Pool::new(2);
    for (size, height, width) in [(2, 8, 8), (2, 7, 5), (3, 9, 4)] {
        let (channels, map) = (5, Map { images: 3, height, width });
        let out = pooling::output(size, map);
        let x = noise(11, channels * map.len());
        let dy = noise(12, channels * out.len());
        let mut y = vec![0.0; dy.len()];
        pooling::average(&pool, size, map, &x, &mut y);
        assert_close(&y, &reference::average_pool(size, map, &wide(&x)), 1e-6);
        let mut dx = vec![f32::NAN; x.len()];
        pooling::average_backward(&pool, size, map, &dy, &mut dx);
        let expected = differences(&x, |x| dot(&reference::average_pool(size, map, x), &dy));
        assert_close(&dx, &expected, 1e-6);

        let mut flat = vec![0.0; x.len()];
        pooling::flatten(&pool, map, &x, &mut flat);
        assert_close(&flat, &reference::flatten(map, &wide(&x)), 1e-9);
        let mut back = vec![0.0; x.len()];
        pooling::unflatten(&pool, map, &flat, &mut back);
        assert_eq!(back, x);
    }
}

#[test]
fn linear_matches_the_reference_and_finite_differences() {
    let pool = Pool::new(2);
    for (images, inputs, outputs) in [(1, 3, 10), (5, 131, 129), (4, 10, 300)] {
        let layer = linear::Linear { inputs, outputs };
        let (x, weight) = (noise(13, images * inputs), noise(14, inputs * outputs));
        let (bias, dy) = (noise(15, outputs), noise(16, images * outputs));
        let mut y = vec![0.0; dy.len()];
        linear::forward(&pool, &layer, &x, &weight, &bias, &mut y);
        let (x64, w64, b64) = (wide(&x), wide(&weight), wide(&bias));
        assert_close(&y, &reference::linear(inputs, &x64, &w64, &b64), 1e-6);
        let (mut dweight, mut dbias) = (vec![0.0; weight.len()], vec![0.0; outputs]);
        let mut dx = vec![f32::NAN; x.len()];
        linear::backward(&pool, &layer, &x, &weight, &dy, &mut dweight, &mut dbias, Some(&mut dx));
        let f = |x: &[f64], b: &[f64]| dot(&reference::linear(inputs, x, &w64, b), &dy);
        assert_close(&dx, &differences(&x, |x| f(x, &b64)), 1e-6);
        assert_close(&dbias, &differences(&bias, |b| f(&x64, b)), 1e-6);
        // y is linear in the weight: its gradient is x, weighted by dy.
        let expected: Vec<f64> = (0..weight.len())
            .map(|i| {
                let (out, input) = (i / inputs, i % inputs);
                (0..images)
                    .map(|n| f64::from(dy[n * outputs + out]) * x64[n * inputs + input])
                    .sum()
            })
            .collect();
        assert_close(&dweight, &expected, 1e-6);
    }
}

#[test]
fn cross_entropy_matches_the_reference_and_finite_differences() {
    let labels = [3, 0, 9, 4];
    let logits: Vec<f32> = noise(17, 40).iter().map(|x| 5.0 * x).collect();
    let mut dlogits = vec![0.0; 40];
    let value = loss::cross_entropy(&logits, &labels, 0.5, &mut dlogits);
    assert!((value - reference::cross_entropy(&wide(&logits), &labels)).abs() < 1e-12);
    let expected = differences(&logits, |x| 0.5 * reference::cross_entropy(x, &labels));
    assert_close(&dlogits, &expected, 1e-7);
    let probabilities: Vec<f64> = loss::softmax(&logits[..10]).collect();
    assert!((probabilities.iter().sum::<f64>() - 1.0).abs() < 1e-12);
}

#[test]
fn sums_of_tensors() {
    let pool = Pool::new(2);
    let (a, b) = (noise(18, 20_000), noise(19, 20_000));
    let mut out = vec![0.0; a.len()];
    elementwise::add(&pool, &a, &b, &mut out);
    let expected: Vec<f32> = a.iter().zip(&b).map(|(a, b)| a + b).collect();
    assert_eq!(out, expected);
    elementwise::copy(&pool, &a, &mut out);
    elementwise::accumulate(&pool, &b, &mut out);
    assert_eq!(out, expected);
}

#[test]
#[should_panic = "the workspace was made for smaller layers"]
fn a_workspace_that_is_too_small_is_refused() {
    let pool = Pool::new(2);
    let layer = Convolution { inputs: 2, outputs: 2, kernel: 3, stride: 1, padding: 1 };
    let small = Map { images: 1, height: 4, width: 4 };
    let mut workspace = Workspace::new(&pool, [layer.workspace(small, true)]);
    let map = Map { height: 9, ..small };
    let (x, weight) = (noise(1, 2 * map.len()), noise(2, layer.weights()));
    let mut y = vec![0.0; x.len()];
    convolution::forward(&pool, &mut workspace, &layer, map, &x, &weight, &[], &mut y);
}
