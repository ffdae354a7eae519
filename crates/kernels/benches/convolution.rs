//! The kinds of layers that the report's network mostly consists of, fused as they are in it:
//! forward (normalise and activate on the way in, sums on the way out) and backward (BatchNorm's
//! gradient in; slope and sums out), beside the processor's FMA peak.
//!
//! `cargo bench -p crescendo-kernels -- [threads] [isa] [batch] [winograd4|winograd4-bf16|winograd2|direct]`
//!
//! With several numbers of threads, as in `8,16,64`, one thread computes what so many would, and times every task:
//! what is printed is how many times as fast as one thread they should be, and how much more time all tasks take
//! together.

use std::time::Instant;

use crescendo_kernels::epilogue::{
    ActivationDerivative, BatchStatistics, DerivativeAt, Epilogue, GradientEpilogue,
    NormGradientSums,
};
use crescendo_kernels::prologue::{Affine, GradientPrologue, NormGradient, Prologue};
use crescendo_kernels::{
    ActivationFunction, AlignedBuffer, ConvAlgorithm, Convolution, DisjointSlice, Isa, JobTimes,
    Leaves, MapShape, MapsMut, MapsRef, Processor, TaskTimes, ThreadPool, Workspace, convolution,
    peak,
};

const RUNS: usize = 15;

/// Inputs, outputs, kernel, stride, side.
const LAYERS: [(usize, usize, usize, usize, usize); 7] = [
    (64, 64, 3, 1, 32),
    (128, 128, 3, 1, 16),
    (256, 256, 3, 1, 8),
    (64, 128, 3, 2, 32),
    (128, 256, 3, 2, 16),
    (64, 128, 1, 2, 32),
    (128, 256, 1, 2, 16),
];

fn main() {
    // Cargo adds a flag of its own.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let threads: Vec<usize> = arguments
        .first()
        .map_or(vec![2], |list| list.split(',').map(|number| number.parse().unwrap()).collect());
    let batch = arguments.get(2).map_or(125, |batch| batch.parse().unwrap());
    let isa = arguments.get(1).map_or(Some(Isa::best()), |name| Isa::new(name));
    let isa = isa.expect("this processor does not have that instruction set");
    let algorithm = match arguments.get(3).map(String::as_str) {
        None | Some("winograd4") => ConvAlgorithm::Winograd4,
        Some("winograd4-bf16") => ConvAlgorithm::Winograd4Bf16,
        Some("winograd2") => ConvAlgorithm::Winograd2,
        Some("direct") => ConvAlgorithm::Direct,
        Some(other) => panic!("{other} is no algorithm"),
    };
    let first = threads[0];
    let processor =
        Processor { pool: ThreadPool::new(if threads.len() > 1 { 1 } else { first }), isa };
    let peak = peak::flops(&processor);
    println!(
        "{isa:?}, {} threads, peak {:.0} GFLOP/s, {algorithm:?}",
        processor.pool.threads(),
        peak / 1e9
    );
    for (inputs, outputs, kernel, stride, side) in LAYERS {
        let convolution = Convolution { inputs, outputs, kernel, stride, padding: kernel / 2 };
        let shape = MapShape { images: batch, channels: inputs, height: side, width: side };
        let algorithm = match algorithm {
            algorithm if convolution.supports(algorithm) => algorithm,
            ConvAlgorithm::Winograd4Bf16 => ConvAlgorithm::DirectBf16,
            _ => ConvAlgorithm::Direct,
        };
        let out = convolution.output_shape(shape);
        print!("{inputs:>3}@{side:<2} to {outputs:>3}@{:<2} by {kernel}x{kernel}:", out.width);
        let mut layer = Layer::new(algorithm, convolution, shape);
        if threads.len() > 1 {
            model(&mut layer, isa, &threads);
            continue;
        }
        let mut workspace = layer.workspace(first);
        let times: Vec<[f64; 2]> =
            (0..RUNS).map(|_| layer.run(&processor, &mut workspace)).collect();
        let [forward, backward] = [0, 1].map(|i| median(times.iter().map(|times| times[i])));
        let flops = 2.0 * (convolution.weight_len() * out.pixels() * batch) as f64;
        println!(
            " forward {:6.2} ms, {:.2} of the peak; backward {:6.2} ms, {:.2}",
            forward * 1e3,
            flops / forward / peak,
            backward * 1e3,
            2.0 * flops / backward / peak
        );
    }
}

/// Seconds of a barrier that are assumed.
const BARRIER: f64 = 2e-6;

/// Prints how many times as fast as one thread these numbers of threads should be.
fn model(layer: &mut Layer, isa: Isa, threads: &[usize]) {
    let mut processors: Vec<_> = std::iter::once(&1)
        .chain(threads)
        .map(|&threads| {
            let times = TaskTimes::default();
            let pool = ThreadPool::recording(threads, times.clone());
            (Processor { pool, isa }, layer.workspace(threads), times)
        })
        .collect();
    let mut measured = vec![Vec::new(); processors.len()];
    for _ in 0..RUNS {
        for ((processor, workspace, times), measured) in processors.iter_mut().zip(&mut measured) {
            layer.forward(processor, workspace);
            let forward = times.take();
            layer.backward(processor, workspace);
            measured.push([forward, times.take()]);
        }
    }
    for pass in [0, 1] {
        let jobs = |of: &[[Vec<JobTimes>; 2]]| {
            let repetitions: Vec<&[JobTimes]> = of.iter().map(|jobs| &*jobs[pass]).collect();
            JobTimes::medians(&repetitions)
        };
        let sum = |jobs: &[JobTimes]| jobs.iter().map(JobTimes::sum).sum::<f64>();
        let one = sum(&jobs(&measured[0]));
        print!(" {} {:6.2} ms", ["forward", "; backward"][pass], one * 1e3);
        for (&threads, measured) in threads.iter().zip(&measured[1..]) {
            let jobs = jobs(measured);
            let many: f64 = jobs.iter().map(|job| job.on(threads, BARRIER)).sum();
            print!(", {threads}: {:.1} ({:.2})", one / many, sum(&jobs) / one);
        }
    }
    println!();
}

/// Those of a batch of so many images.
fn leaves(images: usize) -> Leaves {
    let count = 1 << (images / 32).clamp(8, 64).ilog2();
    Leaves::new(images, count, 0..count, 1)
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// A layer and its maps.
struct Layer {
    algorithm: ConvAlgorithm,
    layer: Convolution,
    shape: MapShape,
    out: MapShape,
    x: AlignedBuffer,
    g: AlignedBuffer,
    y: AlignedBuffer,
    dx: AlignedBuffer,
    weight: Vec<f32>,
    dweight: Vec<f32>,
    sums: Vec<f64>,
    ones: Vec<f32>,
    tenths: Vec<f32>,
}

const ACTIVATION: ActivationFunction = ActivationFunction::LeakyRelu { slope: 0.01 };

impl Layer {
    fn new(algorithm: ConvAlgorithm, layer: Convolution, shape: MapShape) -> Self {
        let (channels, out) = (layer.inputs.max(layer.outputs), layer.output_shape(shape));
        let memory = |shape: MapShape| {
            let mut buffer = AlignedBuffer::new(shape.len());
            for (i, value) in buffer.as_mut_slice().iter_mut().enumerate() {
                *value = (i * 7919 % 1009) as f32 / 504.0 - 1.0;
            }
            buffer
        };
        let weight: Vec<f32> =
            (0..layer.weight_len()).map(|i| (i * 31 % 101) as f32 / 1000.0 - 0.05).collect();
        Layer {
            algorithm,
            layer,
            shape,
            out,
            x: memory(shape),
            g: memory(out),
            y: memory(out),
            dx: memory(shape),
            dweight: vec![0.0; weight.len()],
            weight,
            sums: vec![0.0; shape.images * channels * 2],
            ones: vec![1.0; channels],
            tenths: vec![0.1; channels],
        }
    }

    fn workspace(&self, threads: usize) -> Workspace {
        let size =
            |backward| self.layer.workspace_size(self.algorithm, self.shape, backward, threads);
        let leaves = leaves(self.shape.images);
        Workspace::new(threads, size(Some(&leaves)).max(size(None)))
    }

    /// Seconds, forward and backward.
    fn run(&mut self, processor: &Processor, workspace: &mut Workspace) -> [f64; 2] {
        let begin = Instant::now();
        self.forward(processor, workspace);
        let forward = begin.elapsed().as_secs_f64();
        self.backward(processor, workspace);
        [forward, begin.elapsed().as_secs_f64() - forward]
    }

    fn forward(&mut self, processor: &Processor, workspace: &mut Workspace) {
        let Layer { algorithm, ref layer, shape, out, .. } = *self;
        let (inputs, outputs) = (layer.inputs, layer.outputs);
        let prologue = Prologue {
            affine: Some(Affine { scale: &self.ones[..inputs], shift: &self.tenths[..inputs] }),
            activation: Some(ACTIVATION),
            ..Prologue::plain(shape, MapsRef::F32(self.x.as_slice()))
        };
        let epilogue = Epilogue {
            shape: out,
            bias: Some(&self.tenths[..outputs]),
            out: MapsMut::f32(self.y.as_mut_slice()),
            sums: Some(BatchStatistics {
                sums: DisjointSlice::new(&mut self.sums[..out.images * out.channels * 2]),
                shift: &self.tenths[..outputs],
            }),
        };
        let mut packed = vec![0.0; layer.packed_len(algorithm)];
        convolution::pack_weights(processor, algorithm, layer, &self.weight, None, &mut packed);
        convolution::forward(processor, workspace, algorithm, layer, &prologue, &packed, &epilogue);
    }

    fn backward(&mut self, processor: &Processor, workspace: &mut Workspace) {
        let Layer { algorithm, ref layer, shape, out, .. } = *self;
        let (inputs, outputs) = (layer.inputs, layer.outputs);
        let argument = || Prologue {
            affine: Some(Affine { scale: &self.ones[..inputs], shift: &self.tenths[..inputs] }),
            ..Prologue::plain(shape, MapsRef::F32(self.x.as_slice()))
        };
        let prologue = Prologue { activation: Some(ACTIVATION), ..argument() };
        let norm = Some(NormGradient {
            value: MapsRef::F32(self.y.as_slice()),
            a: &self.ones[..outputs],
            b: &self.tenths[..outputs],
            c: &self.tenths[..outputs],
        });
        let gradient = GradientPrologue { shape: out, gradient: self.g.as_slice(), norm };
        let mut epilogue =
            GradientEpilogue::plain(shape, DisjointSlice::new(self.dx.as_mut_slice()));
        epilogue.derivative = Some(ActivationDerivative {
            function: ACTIVATION,
            at: DerivativeAt::Input(argument()),
        });
        epilogue.norms[0] = Some(NormGradientSums {
            value: MapsRef::F32(self.x.as_slice()),
            mean: &self.tenths[..inputs],
            sums: DisjointSlice::new(&mut self.sums[..shape.images * shape.channels * 2]),
        });
        convolution::backward(
            processor,
            workspace,
            algorithm,
            layer,
            &prologue,
            &self.weight,
            &gradient,
            &leaves(shape.images),
            Some(&mut [&mut self.dweight]),
            Some(&epilogue),
        );
    }
}
