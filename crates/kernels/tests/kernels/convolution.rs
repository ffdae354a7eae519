//! Convolutions by every algorithm.

use std::ops::Range;

use crescendo_kernels::epilogue::{Epilogue, GradientEpilogue};
use crescendo_kernels::prologue::{GradientPrologue, Prologue};
use crescendo_kernels::{
    ConvAlgorithm, Convolution, DisjointSlice, Isa, Leaves, MapShape, MapsMut, MapsRef, Processor,
    Workspace, convolution, norm, to_blocked, to_nchw,
};
use crescendo_reference as reference;
use proptest::prelude::*;

use crate::common::{assert_close, channels, conv2d, distance, dot, nchw, noise, processor, wide};

const ALGORITHMS: [ConvAlgorithm; 5] = [
    ConvAlgorithm::Direct,
    ConvAlgorithm::DirectBf16,
    ConvAlgorithm::Winograd2,
    ConvAlgorithm::Winograd4,
    ConvAlgorithm::Winograd4Bf16,
];

/// Relative L2 errors that are allowed: F(4x4) loses some digits in its transforms.
fn tolerance(algorithm: ConvAlgorithm) -> f64 {
    match algorithm {
        ConvAlgorithm::Direct => 1e-6,
        ConvAlgorithm::DirectBf16 => 5e-3,
        ConvAlgorithm::Winograd2 => 2e-6,
        ConvAlgorithm::Winograd4 => 5e-6,
        ConvAlgorithm::Winograd4Bf16 => 3e-2,
    }
}

/// What goes into a convolution: planes.
struct Case {
    layer: Convolution,
    shape: MapShape,
    x: Vec<f32>,
    weight: Vec<f32>,
    bias: Vec<f32>,
    dy: Vec<f32>,
}

/// What comes out of it, in f64.
struct Exact {
    y: Vec<f64>,
    /// `y` without the bias.
    linear: Vec<f64>,
    dx: Vec<f64>,
    dweight: Vec<f64>,
}

impl Case {
    fn new(layer: Convolution, shape: MapShape, seed: u64) -> Self {
        let out = layer.output_shape(shape);
        Case {
            x: noise(seed, shape.images * shape.channels * shape.pixels()),
            weight: noise(seed ^ 1, layer.weight_len()),
            bias: channels(seed ^ 2, layer.outputs),
            dy: noise(seed ^ 3, out.images * out.channels * out.pixels()),
            layer,
            shape,
        }
    }

    fn exact(&self) -> Exact {
        let (conv, shape) = (conv2d(self.layer), nchw(self.shape));
        let (x, weight, dy) = (wide(&self.x), wide(&self.weight), wide(&self.dy));
        let linear = reference::convolution(conv, shape, &x, &weight, &vec![0.0; conv.outputs]);
        let mut y = linear.clone();
        let planes = y.chunks_mut(self.layer.output_shape(self.shape).pixels());
        for (plane, &bias) in planes.zip(self.bias[..conv.outputs].iter().cycle()) {
            plane.iter_mut().for_each(|y| *y += f64::from(bias));
        }
        let gradients = reference::convolution_backward(conv, shape, &x, &weight, &dy);
        Exact { y, linear, dx: gradients.input, dweight: gradients.weight }
    }

    /// y, dweight, dbias, dx.
    fn compute(&self, processor: &Processor, algorithm: ConvAlgorithm) -> [Vec<f32>; 4] {
        self.compute_in_groups(processor, algorithm, Workspace::GROUP_TILES)
    }

    /// The same, with so many Winograd tiles at a time.
    fn compute_in_groups(
        &self,
        processor: &Processor,
        algorithm: ConvAlgorithm,
        tiles: usize,
    ) -> [Vec<f32>; 4] {
        let Case { layer, shape, weight, bias, .. } = self;
        let (shape, out) = (*shape, layer.output_shape(*shape));
        let leaves = &Leaves::new(shape.images, 8, 0..8, 1);
        let workspace_size = layer
            .workspace_size(algorithm, shape, None, processor.pool.threads())
            .max(layer.workspace_size(algorithm, shape, Some(leaves), processor.pool.threads()));
        let mut workspace = Workspace::new(processor.pool.threads(), workspace_size);
        workspace.set_group_tiles(tiles);
        let (x, dy) = (to_blocked(shape, &self.x), to_blocked(out, &self.dy));
        let mut y = vec![f32::NAN; out.len()];
        let prologue = Prologue::plain(shape, MapsRef::F32(&x));
        let epilogue =
            Epilogue { shape: out, bias: Some(bias), out: MapsMut::f32(&mut y), sums: None };
        let mut packed = vec![0.0; layer.packed_len(algorithm)];
        convolution::pack_weights(processor, algorithm, layer, weight, None, &mut packed);
        convolution::forward(
            processor,
            &mut workspace,
            algorithm,
            layer,
            &prologue,
            &packed,
            &epilogue,
        );
        let (mut dweight, mut dbias) = (vec![0.0; weight.len()], vec![0.0; layer.outputs]);
        let mut dx = vec![f32::NAN; x.len()];
        let gradient = GradientPrologue { shape: out, gradient: &dy, norm: None };
        let epilogue = GradientEpilogue::plain(shape, DisjointSlice::new(&mut dx));
        let mut backward = |dweight: Option<&mut [f32]>, epilogue: Option<&GradientEpilogue>| {
            convolution::backward(
                processor,
                &mut workspace,
                algorithm,
                layer,
                &prologue,
                weight,
                &gradient,
                leaves,
                dweight.map(|dweight| [dweight]).as_mut().map(|groups| &mut groups[..]),
                epilogue,
            );
        };
        backward(Some(&mut dweight), Some(&epilogue));
        // Each gradient on its own is the same.
        let (mut alone, mut dx_alone) = (vec![0.0; weight.len()], vec![f32::NAN; x.len()]);
        backward(Some(&mut alone), None);
        backward(None, Some(&GradientEpilogue::plain(shape, DisjointSlice::new(&mut dx_alone))));
        backward(None, None);
        assert!(alone == dweight, "dweight alone differs: {layer:?} {algorithm:?}");
        assert_eq!(to_nchw(shape, &dx_alone), to_nchw(shape, &dx), "dx alone differs");
        norm::bias_gradient(processor, &gradient, leaves, &mut [&mut dbias]);
        [to_nchw(out, &y), dweight, dbias, to_nchw(shape, &dx)]
    }

    /// Forward against the reference, and backward against it too: a convolution is linear in its
    /// input and its weights, so its gradients are the adjoints, which random directions tell.
    fn check(&self, exact: &Exact, isa: Isa, algorithm: ConvAlgorithm) {
        let [y, dweight, dbias, dx] = self.compute(&processor(isa, 1), algorithm);
        let what = format!("{:?} {algorithm:?} {isa:?} {:?}", self.layer, self.shape);
        let tolerance = tolerance(algorithm);
        assert_close(&what, &y, &exact.y, tolerance);
        assert_close(&format!("dx of {what}"), &dx, &exact.dx, tolerance);
        assert_close(&format!("dweight of {what}"), &dweight, &exact.dweight, tolerance);
        // <conv(x), dy> = <x, conv^T(dy)> = <weight, dweight>
        let (x, weight, linear) = (wide(&self.x), wide(&self.weight), &exact.linear);
        let whole = dot(linear, &self.dy);
        let scale = linear.iter().map(|v| v * v).sum::<f64>().sqrt() * (y.len() as f64).sqrt();
        assert!((dot(&x, &dx) - whole).abs() < tolerance * scale, "{what}");
        assert!((dot(&weight, &dweight) - whole).abs() < tolerance * scale, "{what}");
        let out = self.layer.output_shape(self.shape);
        for (channel, &dbias) in dbias.iter().enumerate() {
            let planes = self.dy.chunks(out.pixels()).skip(channel).step_by(self.layer.outputs);
            let expected: f64 = planes.flatten().map(|&dy| f64::from(dy)).sum();
            assert!((f64::from(dbias) - expected).abs() < 1e-4, "{what}");
        }
    }
}

/// Shapes at which something ends or begins: blocks of channels, panels of four, splits of `k`,
/// tiles, groups and chunks of images, and both schedules.
#[test]
fn every_method_matches_the_reference_at_every_edge() {
    let cases = [
        (conv(3, 64, 3, 1, 1), 2, 9, 8),
        (conv(16, 16, 3, 1, 1), 5, 8, 8),
        (conv(17, 65, 3, 1, 1), 1, 5, 7),
        (conv(64, 48, 3, 1, 0), 3, 6, 6),
        (conv(130, 70, 3, 1, 1), 2, 4, 4),
        (conv(33, 31, 3, 1, 0), 2, 31, 15),
        (conv(20, 20, 3, 1, 1), 70, 3, 3),
        (conv(5, 5, 3, 1, 1), 40, 15, 7),
        // More packed than the second-level cache holds.
        (conv(144, 128, 3, 1, 1), 3, 7, 7),
        (conv(16, 32, 3, 2, 1), 3, 9, 8),
        (conv(64, 130, 3, 2, 1), 2, 8, 8),
        (conv(20, 40, 1, 2, 0), 3, 7, 8),
        (conv(40, 20, 1, 1, 0), 2, 5, 5),
        (conv(3, 24, 2, 1, 0), 2, 9, 9),
        (conv(4, 6, 5, 3, 2), 2, 11, 13),
        (conv(8, 9, 3, 3, 0), 2, 8, 8),
    ];
    for (index, (layer, images, height, width)) in cases.into_iter().enumerate() {
        let shape = MapShape { images, channels: layer.inputs, height, width };
        let case = Case::new(layer, shape, index as u64);
        let exact = case.exact();
        for algorithm in ALGORITHMS.into_iter().filter(|&algorithm| layer.supports(algorithm)) {
            Isa::available().for_each(|isa| case.check(&exact, isa, algorithm));
        }
    }
}

/// Several groups of images in each part of the batch. In f64 it takes seconds: one instruction set is enough.
#[test]
fn a_large_batch_matches_the_reference() {
    let layer = conv(160, 144, 3, 1, 1);
    let shape = MapShape { images: 150, channels: layer.inputs, height: 5, width: 5 };
    let case = Case::new(layer, shape, 9);
    let exact = case.exact();
    for algorithm in [ConvAlgorithm::Direct, ConvAlgorithm::Winograd4] {
        case.check(&exact, Isa::best(), algorithm);
    }
}

fn conv(
    inputs: usize,
    outputs: usize,
    kernel: usize,
    stride: usize,
    padding: usize,
) -> Convolution {
    Convolution { inputs, outputs, kernel, stride, padding }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn any_shape_matches_the_reference_and_its_adjoint(
        (inputs, outputs) in (1..40usize, 1..40usize),
        (kernel, stride, padding) in prop::sample::select(vec![
            (3, 1, 1), (3, 1, 0), (3, 2, 1), (1, 1, 0), (1, 2, 0), (5, 1, 2), (2, 1, 0), (4, 3, 1),
        ]),
        (images, height, width) in (1..12usize, 5..18usize, 5..18usize),
        seed in any::<u64>(),
    ) {
        let layer = Convolution { inputs, outputs, kernel, stride, padding };
        let images = images.min(1 + 800 / (height * width));
        let case = Case::new(layer, MapShape { images, channels: inputs, height, width }, seed);
        let exact = case.exact();
        for algorithm in ALGORITHMS.into_iter().filter(|&algorithm| layer.supports(algorithm)) {
            for isa in Isa::available() {
                case.check(&exact, isa, algorithm);
            }
        }
    }
}

#[test]
fn results_are_the_same_to_the_bit_for_any_number_of_threads() {
    check_threads(2);
}

#[test]
#[ignore = "takes seconds"]
fn longer_results_are_the_same_to_the_bit_for_any_number_of_threads() {
    check_threads(1);
}

/// Every `step`th number of threads for each layer, in turns.
fn check_threads(step: usize) {
    let layers = [
        (conv(20, 36, 3, 1, 1), 13, 8),
        (conv(150, 140, 3, 1, 1), 9, 8),
        // Images in bands; with 16 threads, chunks that begin within a part of the batch.
        (conv(64, 64, 3, 1, 1), 35, 32),
        (conv(33, 70, 3, 1, 0), 7, 31),
        // Fewer images than threads: the weights' panels are shared out, or, if there is one, the rows.
        (conv(64, 80, 3, 1, 1), 2, 8),
        (conv(90, 200, 3, 1, 1), 1, 7),
        (conv(20, 30, 3, 2, 1), 1, 15),
        (conv(3, 24, 2, 1, 0), 3, 9),
        (conv(40, 70, 3, 2, 1), 19, 9),
        (conv(20, 130, 1, 2, 0), 9, 8),
        (conv(6, 20, 5, 3, 2), 6, 13),
    ];
    for (index, (layer, images, side)) in layers.into_iter().enumerate() {
        let shape = MapShape { images, channels: layer.inputs, height: side, width: side };
        let case = Case::new(layer, shape, 7);
        for algorithm in ALGORITHMS.into_iter().filter(|&algorithm| layer.supports(algorithm)) {
            let one = case.compute(&processor(Isa::best(), 1), algorithm);
            let counts = [(1, 16), (2, 64), (3, 32), (5, 96), (7, 16), (16, 64), (64, 48)];
            for (threads, tiles) in counts.into_iter().skip((index + 1) % step).step_by(step) {
                let processor = processor(Isa::best(), threads);
                let many = case.compute_in_groups(&processor, algorithm, tiles);
                assert!(many == one, "{algorithm:?}: {threads} threads, {tiles} tiles differ");
            }
        }
    }
}

/// The gradients of the weights and of the bias of some of the case's images.
fn gradients(
    case: &Case,
    processor: &Processor,
    algorithm: ConvAlgorithm,
    images: Range<usize>,
    leaves: &Leaves,
) -> Vec<Vec<f32>> {
    let Case { layer, weight, .. } = case;
    let shape = MapShape { images: images.len(), ..case.shape };
    let out = layer.output_shape(shape);
    let planes = |planes: &[f32], shape: MapShape| {
        let image = shape.channels * shape.pixels();
        to_blocked(shape, &planes[images.start * image..images.end * image])
    };
    let (x, dy) = (planes(&case.x, shape), planes(&case.dy, out));
    let threads = processor.pool.threads();
    let size = layer.workspace_size(algorithm, shape, Some(leaves), threads);
    let mut workspace = Workspace::new(threads, size);
    let gradient = GradientPrologue { shape: out, gradient: &dy, norm: None };
    let mut dweight = vec![vec![0.0; weight.len()]; leaves.groups()];
    let mut dbias = vec![vec![0.0; layer.outputs]; leaves.groups()];
    let mut groups: Vec<&mut [f32]> = dweight.iter_mut().map(|sum| &mut sum[..]).collect();
    convolution::backward(
        processor,
        &mut workspace,
        algorithm,
        layer,
        &Prologue::plain(shape, MapsRef::F32(&x)),
        weight,
        &gradient,
        leaves,
        Some(&mut groups),
        None,
    );
    let mut groups: Vec<&mut [f32]> = dbias.iter_mut().map(|sum| &mut sum[..]).collect();
    norm::bias_gradient(processor, &gradient, leaves, &mut groups);
    dweight.into_iter().zip(dbias).map(|(weight, bias)| [weight, bias].concat()).collect()
}

#[test]
fn subtrees_add_up_to_the_gradient_of_the_batch_to_the_bit() {
    for (layer, images, side) in [
        (conv(20, 36, 3, 1, 1), 43, 8),
        (conv(40, 70, 3, 2, 1), 19, 9),
        (conv(24, 20, 3, 1, 1), 5, 20),
        (conv(6, 20, 5, 3, 2), 1, 13),
    ] {
        let shape = MapShape { images, channels: layer.inputs, height: side, width: side };
        let case = Case::new(layer, shape, 7);
        for algorithm in ALGORITHMS.into_iter().filter(|&algorithm| layer.supports(algorithm)) {
            let of = |threads, own: Range<usize>, groups| {
                let leaves = Leaves::new(images, 8, own.clone(), groups);
                let images = images * own.start / 8..images * own.end / 8;
                let processor = processor(Isa::best(), threads);
                gradients(&case, &processor, algorithm, images, &leaves)
            };
            let add = |sums: &[Vec<f32>]| -> Vec<f32> {
                sums[0].iter().zip(&sums[1]).map(|(a, b)| a + b).collect()
            };
            let whole = of(1, 0..8, 1);
            for threads in [1, 2, 16] {
                assert!(whole == of(threads, 0..8, 1), "{layer:?} {algorithm:?} {threads}");
                let halves = of(threads, 0..8, 2);
                assert!(whole[0] == add(&halves), "{layer:?} {algorithm:?} {threads}: halves");
                let eighths = of(threads, 0..8, 8);
                for (group, eighth) in eighths.iter().enumerate() {
                    if images * group / 8 < images * (group + 1) / 8 {
                        let own = of(threads, group..group + 1, 1);
                        assert!(own[0] == *eighth, "{layer:?} {algorithm:?} {threads}: {group}");
                    }
                }
                let pairs: Vec<_> = eighths.chunks(2).map(add).collect();
                let quarters: Vec<_> = pairs.chunks(2).map(add).collect();
                assert!(quarters == halves, "{layer:?} {algorithm:?} {threads}: quarters");
            }
        }
    }
}

/// The figures that the documentation gives: F(4x4) with these points against direct convolution.
#[test]
fn errors_by_method() {
    for (channels, bounds) in
        [(64, [5e-7, 3e-3, 6e-7, 1.5e-6, 2e-2]), (256, [1e-6, 3e-3, 1e-6, 2e-6, 2e-2])]
    {
        let layer = Convolution { inputs: channels, outputs: 16, kernel: 3, stride: 1, padding: 1 };
        let case = Case::new(layer, MapShape { images: 1, channels, height: 8, width: 8 }, 5);
        let expected = case.exact().y;
        for (algorithm, bound) in ALGORITHMS.into_iter().zip(bounds) {
            let [y, ..] = case.compute(&processor(Isa::best(), 2), algorithm);
            let error = distance(&y, &expected);
            println!("{channels} channels, {algorithm:?}: {error:.1e}");
            assert!(error < bound, "{algorithm:?}, {channels} channels: {error:e}");
        }
    }
}

#[test]
fn the_choice_of_a_method_follows_from_the_shape() {
    let best = |inputs, outputs, kernel, stride, padding, side| {
        let layer = Convolution { inputs, outputs, kernel, stride, padding };
        layer.best_algorithm(MapShape { images: 1, channels: inputs, height: side, width: side })
    };
    for (channels, side) in [(64, 32), (128, 16), (256, 8), (64, 31), (128, 15), (256, 7)] {
        assert_eq!(best(channels, channels, 3, 1, 1, side), ConvAlgorithm::Winograd4);
    }
    // What F(4x4) cannot compute, and what would be mostly transforms.
    assert_eq!(best(64, 128, 3, 2, 1, 32), ConvAlgorithm::Direct);
    assert_eq!(best(64, 128, 1, 2, 0, 32), ConvAlgorithm::Direct);
    assert_eq!(best(3, 64, 3, 1, 1, 32), ConvAlgorithm::Direct);
    // A map of two pixels fills one tile of F(2x2), but a quarter of one of F(4x4).
    assert_eq!(best(256, 256, 3, 1, 1, 2), ConvAlgorithm::Winograd2);
}

#[test]
#[should_panic = "the workspace was made for smaller layers"]
fn a_workspace_that_is_too_small_is_refused() {
    let layer = Convolution { inputs: 2, outputs: 2, kernel: 3, stride: 1, padding: 1 };
    let small = MapShape { images: 1, channels: 2, height: 4, width: 4 };
    let processor = processor(Isa::best(), 2);
    let mut workspace =
        Workspace::new(2, layer.workspace_size(ConvAlgorithm::Winograd4, small, None, 2));
    let shape = MapShape { height: 30, width: 30, ..small };
    let x = vec![0.0; shape.len()];
    let mut y = vec![0.0; shape.len()];
    let prologue = Prologue::plain(shape, MapsRef::F32(&x));
    let epilogue = Epilogue { shape, bias: None, out: MapsMut::f32(&mut y), sums: None };
    let algorithm = ConvAlgorithm::Winograd4;
    let packed = vec![0.0; layer.packed_len(algorithm)];
    convolution::forward(
        &processor,
        &mut workspace,
        algorithm,
        &layer,
        &prologue,
        &packed,
        &epilogue,
    );
}
