//! The kinds of layers that the report's network mostly consists of, fused as they are in it:
//! forward (normalise and activate on the way in, sums on the way out) and backward (BatchNorm's
//! gradient in; slope and sums out), beside the processor's FMA peak.
//!
//! `cargo bench -p crescendo-kernels -- [threads] [isa] [batch] [winograd4|winograd2|direct]`

use std::time::Instant;

use crescendo_kernels::sink::{
    GradientSink, NormSums, OutputSums, Sink, Slope, SlopeAt, StoredMut,
};
use crescendo_kernels::source::{Affine, GradientSource, NormGradient, Source, Stored};
use crescendo_kernels::{
    Activation, Buffer, Convolution, Isa, Maps, Method, Pool, Processor, Shared, Workspace,
    convolution, peak,
};

const RUNS: usize = 15;

fn main() {
    // Cargo adds a flag of its own.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let number = |i: usize, default| arguments.get(i).map_or(default, |a| a.parse().unwrap());
    let (threads, batch) = (number(0, 2), number(2, 125));
    let isa = arguments.get(1).map_or(Some(Isa::best()), |name| Isa::new(name));
    let isa = isa.expect("this processor does not have that instruction set");
    let method = match arguments.get(3).map(String::as_str) {
        None | Some("winograd4") => Method::Winograd4,
        Some("winograd2") => Method::Winograd2,
        Some("direct") => Method::Direct,
        Some(other) => panic!("{other} is no method"),
    };
    let processor = Processor { pool: Pool::new(threads), isa };
    let peak = peak::flops(&processor);
    println!("{isa:?}, {threads} threads, peak {:.0} GFLOP/s, {method:?}", peak / 1e9);
    let layers =
        [(64, 64, 3, 1, 32), (128, 128, 3, 1, 16), (256, 256, 3, 1, 8)].into_iter().chain([
            (64, 128, 3, 2, 32),
            (128, 256, 3, 2, 16),
            (64, 128, 1, 2, 32),
            (128, 256, 1, 2, 16),
        ]);
    for (inputs, outputs, kernel, stride, side) in layers {
        let convolution = Convolution { inputs, outputs, kernel, stride, padding: kernel / 2 };
        let maps = Maps { images: batch, channels: inputs, height: side, width: side };
        let method = if convolution.supports(method) { method } else { Method::Direct };
        let [forward, backward] = layer(&processor, method, convolution, maps);
        let out = convolution.output(maps);
        let flops = 2.0 * (convolution.weights() * out.pixels() * batch) as f64;
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
fn layer(processor: &Processor, method: Method, layer: Convolution, maps: Maps) -> [f64; 2] {
    let (channels, out) = (layer.inputs.max(layer.outputs), layer.output(maps));
    let need = layer.need(method, maps, true).max(layer.need(method, maps, false));
    let mut workspace = Workspace::new(processor.pool.threads(), need);
    let memory = |maps: Maps| {
        let mut buffer = Buffer::new(maps.len());
        for (i, value) in buffer.as_mut_slice().iter_mut().enumerate() {
            *value = (i * 7919 % 1009) as f32 / 504.0 - 1.0;
        }
        buffer
    };
    let (x, g, mut y, mut dx) = (memory(maps), memory(out), memory(out), memory(maps));
    let weight: Vec<f32> =
        (0..layer.weights()).map(|i| (i * 31 % 101) as f32 / 1000.0 - 0.05).collect();
    let (ones, tenths) = (vec![1.0; layer.inputs], vec![0.1; layer.inputs]);
    let (out_ones, out_tenths) = (vec![1.0; layer.outputs], vec![0.1; layer.outputs]);
    let mut sums = vec![0.0; maps.images * channels * 2];
    let (in_sums, out_sums) = [maps, out].map(|maps| maps.images * maps.channels * 2).into();
    let mut dweight = vec![0.0; weight.len()];
    let mut times = [Vec::new(), Vec::new()];
    let activation = Activation::LeakyRelu { slope: 0.01 };
    for _ in 0..RUNS {
        let argument = || Source {
            affine: Some(Affine { scale: &ones, shift: &tenths }),
            ..Source::plain(maps, Stored::F32(x.as_slice()))
        };
        let source = Source { activation: Some(activation), ..argument() };
        let begin = Instant::now();
        let sink = Sink {
            maps: out,
            bias: Some(&out_tenths),
            out: StoredMut::f32(y.as_mut_slice()),
            sums: Some(OutputSums { sums: Shared::new(&mut sums[..out_sums]), shift: &out_tenths }),
        };
        let mut filters = vec![0.0; layer.filters(method)];
        convolution::pack(processor, method, &layer, &weight, None, &mut filters);
        convolution::forward(processor, &mut workspace, method, &layer, &source, &filters, &sink);
        times[0].push(begin.elapsed().as_secs_f64());

        let begin = Instant::now();
        let value = Stored::F32(y.as_slice());
        let norm = Some(NormGradient { value, a: &out_ones, b: &out_tenths, c: &out_tenths });
        let gradient = GradientSource { maps: out, gradient: g.as_slice(), norm };
        let mut sink = GradientSink::plain(maps, Shared::new(dx.as_mut_slice()));
        sink.slope = Some(Slope { activation, at: SlopeAt::Argument(argument()) });
        let value = Stored::F32(x.as_slice());
        sink.norms[0] =
            Some(NormSums { value, mean: &tenths, sums: Shared::new(&mut sums[..in_sums]) });
        convolution::backward(
            processor,
            &mut workspace,
            method,
            &layer,
            &source,
            &weight,
            &gradient,
            Some(&mut dweight),
            Some(&sink),
        );
        times[1].push(begin.elapsed().as_secs_f64());
    }
    times.map(|mut times| {
        times.sort_by(f64::total_cmp);
        times[RUNS / 2]
    })
}
