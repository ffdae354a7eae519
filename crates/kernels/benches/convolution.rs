//! The kinds of layers that the report's network mostly consists of, fused as they are in it:
//! forward (normalise and activate on the way in, sums on the way out) and backward (BatchNorm's
//! gradient in; slope and sums out), beside the processor's FMA peak.
//!
//! `cargo bench -p crescendo-kernels -- [threads] [isa] [batch] [winograd4|winograd2|direct]`

use std::time::Instant;

use crescendo_kernels::epilogue::{
    ActivationDerivative, BatchStatistics, DerivativeAt, Epilogue, GradientEpilogue,
    NormGradientSums,
};
use crescendo_kernels::prologue::{Affine, GradientPrologue, NormGradient, Prologue};
use crescendo_kernels::{
    ActivationFunction, AlignedBuffer, ConvAlgorithm, Convolution, DisjointSlice, Isa, MapShape,
    MapsMut, MapsRef, Processor, ThreadPool, Workspace, convolution, peak,
};

const RUNS: usize = 15;

fn main() {
    // Cargo adds a flag of its own.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let number = |i: usize, default| arguments.get(i).map_or(default, |a| a.parse().unwrap());
    let (threads, batch) = (number(0, 2), number(2, 125));
    let isa = arguments.get(1).map_or(Some(Isa::best()), |name| Isa::new(name));
    let isa = isa.expect("this processor does not have that instruction set");
    let algorithm = match arguments.get(3).map(String::as_str) {
        None | Some("winograd4") => ConvAlgorithm::Winograd4,
        Some("winograd2") => ConvAlgorithm::Winograd2,
        Some("direct") => ConvAlgorithm::Direct,
        Some(other) => panic!("{other} is no algorithm"),
    };
    let processor = Processor { pool: ThreadPool::new(threads), isa };
    let peak = peak::flops(&processor);
    println!("{isa:?}, {threads} threads, peak {:.0} GFLOP/s, {algorithm:?}", peak / 1e9);
    let layers =
        [(64, 64, 3, 1, 32), (128, 128, 3, 1, 16), (256, 256, 3, 1, 8)].into_iter().chain([
            (64, 128, 3, 2, 32),
            (128, 256, 3, 2, 16),
            (64, 128, 1, 2, 32),
            (128, 256, 1, 2, 16),
        ]);
    for (inputs, outputs, kernel, stride, side) in layers {
        let convolution = Convolution { inputs, outputs, kernel, stride, padding: kernel / 2 };
        let shape = MapShape { images: batch, channels: inputs, height: side, width: side };
        let algorithm =
            if convolution.supports(algorithm) { algorithm } else { ConvAlgorithm::Direct };
        let [forward, backward] = layer(&processor, algorithm, convolution, shape);
        let out = convolution.output_shape(shape);
        let flops = 2.0 * (convolution.weight_len() * out.pixels() * batch) as f64;
        println!(
            "{inputs:>3}@{side:<2} to {outputs:>3}@{:<2} by {kernel}x{kernel}: forward {:6.2} ms, {:.2} of \
             the peak; backward {:6.2} ms, {:.2}",
            out.width,
            forward * 1e3,
            flops / forward / peak,
            backward * 1e3,
            2.0 * flops / backward / peak
        );
    }
}

/// Median seconds, forward and backward.
fn layer(
    processor: &Processor,
    algorithm: ConvAlgorithm,
    layer: Convolution,
    shape: MapShape,
) -> [f64; 2] {
    let (channels, out) = (layer.inputs.max(layer.outputs), layer.output_shape(shape));
    let workspace_size = layer
        .workspace_size(algorithm, shape, true, processor.pool.threads())
        .max(layer.workspace_size(algorithm, shape, false, processor.pool.threads()));
    let mut workspace = Workspace::new(processor.pool.threads(), workspace_size);
    let memory = |shape: MapShape| {
        let mut buffer = AlignedBuffer::new(shape.len());
        for (i, value) in buffer.as_mut_slice().iter_mut().enumerate() {
            *value = (i * 7919 % 1009) as f32 / 504.0 - 1.0;
        }
        buffer
    };
    let (x, g, mut y, mut dx) = (memory(shape), memory(out), memory(out), memory(shape));
    let weight: Vec<f32> =
        (0..layer.weight_len()).map(|i| (i * 31 % 101) as f32 / 1000.0 - 0.05).collect();
    let (ones, tenths) = (vec![1.0; layer.inputs], vec![0.1; layer.inputs]);
    let (out_ones, out_tenths) = (vec![1.0; layer.outputs], vec![0.1; layer.outputs]);
    let mut sums = vec![0.0; shape.images * channels * 2];
    let (in_sums, out_sums) = [shape, out].map(|shape| shape.images * shape.channels * 2).into();
    let mut dweight = vec![0.0; weight.len()];
    let mut times = [Vec::new(), Vec::new()];
    let activation = ActivationFunction::LeakyRelu { slope: 0.01 };
    for _ in 0..RUNS {
        let argument = || Prologue {
            affine: Some(Affine { scale: &ones, shift: &tenths }),
            ..Prologue::plain(shape, MapsRef::F32(x.as_slice()))
        };
        let prologue = Prologue { activation: Some(activation), ..argument() };
        let begin = Instant::now();
        let epilogue = Epilogue {
            shape: out,
            bias: Some(&out_tenths),
            out: MapsMut::f32(y.as_mut_slice()),
            sums: Some(BatchStatistics {
                sums: DisjointSlice::new(&mut sums[..out_sums]),
                shift: &out_tenths,
            }),
        };
        let mut packed = vec![0.0; layer.packed_len(algorithm)];
        convolution::pack_weights(processor, algorithm, &layer, &weight, None, &mut packed);
        convolution::forward(
            processor,
            &mut workspace,
            algorithm,
            &layer,
            &prologue,
            &packed,
            &epilogue,
        );
        times[0].push(begin.elapsed().as_secs_f64());

        let begin = Instant::now();
        let value = MapsRef::F32(y.as_slice());
        let norm = Some(NormGradient { value, a: &out_ones, b: &out_tenths, c: &out_tenths });
        let gradient = GradientPrologue { shape: out, gradient: g.as_slice(), norm };
        let mut epilogue = GradientEpilogue::plain(shape, DisjointSlice::new(dx.as_mut_slice()));
        epilogue.derivative = Some(ActivationDerivative {
            function: activation,
            at: DerivativeAt::Input(argument()),
        });
        let value = MapsRef::F32(x.as_slice());
        epilogue.norms[0] = Some(NormGradientSums {
            value,
            mean: &tenths,
            sums: DisjointSlice::new(&mut sums[..in_sums]),
        });
        convolution::backward(
            processor,
            &mut workspace,
            algorithm,
            &layer,
            &prologue,
            &weight,
            &gradient,
            Some(&mut dweight),
            Some(&epilogue),
        );
        times[1].push(begin.elapsed().as_secs_f64());
    }
    times.map(|mut times| {
        times.sort_by(f64::total_cmp);
        times[RUNS / 2]
    })
}
