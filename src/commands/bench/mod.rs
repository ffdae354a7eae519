//! `crescendo bench`.

mod gpu;
mod model;

use std::time::Instant;

use crescendo::cpu::{CpuDevice, host};
use crescendo::network::{
    Device, DeviceKind, Devices, Engine, EngineError, Graph, MicroBatch, PrecisionKind, Section,
    StepTime,
};
use crescendo::training::{Error, Recipe, graph};
use serde_json::{Value, json};

use self::model::Prediction;
use super::measuring::{images, labels, median};
use super::{refuse_custom_policy, say};
use crate::cli::BenchArgs;

/// Updates, and inference passes, before the measurement begins.
const WARM_UP: usize = 2;
/// Updates before the measurement begins, at most, while the engine tries what is fastest.
const MOST_WARM_UP: usize = 20;
/// Batch size of inference.
const INFERENCE_IMAGES: usize = 512;

/// The results.
struct Measurements {
    graph: Graph,
    isa: &'static str,
    precision: PrecisionKind,
    /// As the recipe or the command line asks: see [`host::threads`].
    asked_threads: usize,
    /// What the engine has chosen by timing.
    choices: String,
    batch: usize,
    /// The processor's measured peak in f32, in floating-point operations per second.
    peak: f64,
    /// Images per second: the median over updates, and over inference passes.
    training: f64,
    inference: f64,
    /// Mean seconds of each step in an update, forward and backward.
    steps: Vec<StepTime>,
    /// Mean seconds of the optimizer in an update.
    optimizer: f64,
    /// Peak memory in bytes.
    memory: Option<u64>,
    /// What a model says about other numbers of threads.
    predictions: Vec<Prediction>,
}

pub fn run(args: &BenchArgs) -> Result<(), Error> {
    let mut changes = args.changes.clone();
    changes.extend(args.compute.changes());
    let recipe = Recipe::load(&args.recipe, &changes)?;
    refuse_custom_policy(&recipe)?;
    let (graph, device) = (graph(&recipe)?, args.compute.devices().open(&recipe.engine)?);
    if device.config().device == DeviceKind::Cuda {
        let rules = recipe.optimizer.first_rules(&graph, args.batch);
        return gpu::run(args, &graph, &*device, &rules);
    }
    let measured = measure(args, &recipe, graph, &*device)?;
    if args.json { say!("{}", to_json(args, &measured)) } else { print(&measured) }
}

fn measure(
    args: &BenchArgs,
    recipe: &Recipe,
    graph: Graph,
    device: &dyn Device,
) -> Result<Measurements, Error> {
    let batch = args.batch;
    let mut engine = device.engine(&graph)?;
    engine.import(Section::Model, &graph.initial(0))?;
    let image = graph.input.len();
    let many = batch.max(INFERENCE_IMAGES);
    let (images, labels) = (images(&graph, many), labels(graph.classes(), batch));

    let mut peak = engine.measure_peaks()?.flops;
    let rules = recipe.optimizer.first_rules(&graph, batch);
    let images_of_batch = MicroBatch::whole(&images[..batch * image], &labels);
    let update = |engine: &mut dyn Engine| -> Result<f64, EngineError> {
        engine.accumulate(&images_of_batch)?;
        let begin = Instant::now();
        engine.update(&rules)?;
        engine.next_result(true)?;
        Ok(begin.elapsed().as_secs_f64())
    };
    for count in 0..MOST_WARM_UP {
        if count >= WARM_UP && engine.choices().is_some() {
            break;
        }
        update(&mut *engine)?;
    }
    engine.take_step_times();
    let mut optimizer = 0.0;
    let mut updates = repeat(args.seconds, || {
        optimizer += update(&mut *engine)?;
        Ok(())
    })?;
    let count = updates.len() as f64;
    let mut steps = engine.take_step_times();
    for step in &mut steps {
        step.forward /= count;
        step.backward /= count;
    }
    peak = peak.max(engine.measure_peaks()?.flops);
    let inference_images = &images[..INFERENCE_IMAGES * image];
    let mut pass = || engine.logits(inference_images).map(drop);
    (0..WARM_UP).try_for_each(|_| pass())?;
    let mut passes = repeat(args.seconds, pass)?;
    peak = peak.max(engine.measure_peaks()?.flops);
    let (config, memory) = (device.config(), host::peak_memory());
    let choices = engine.choices().unwrap_or_default();
    drop(engine);
    let mut predictions = Vec::new();
    if !args.model_threads.is_empty() {
        let work = model::Work {
            device: CpuDevice::new(&config)?,
            graph: &graph,
            rules: &rules,
            batch: images_of_batch,
            inference: inference_images,
            seconds: args.seconds,
        };
        predictions = work.predict(&args.model_threads)?;
    }
    Ok(Measurements {
        isa: config.isa.name(),
        precision: config.precision.on(config.device),
        asked_threads: config.threads,
        choices,
        batch,
        peak,
        training: batch as f64 / median(&mut updates),
        inference: INFERENCE_IMAGES as f64 / median(&mut passes),
        steps,
        optimizer: optimizer / count,
        memory,
        predictions,
        graph,
    })
}

/// The seconds that each call takes: at least three calls, for at least `seconds`.
fn repeat(
    seconds: f64,
    mut call: impl FnMut() -> Result<(), EngineError>,
) -> Result<Vec<f64>, EngineError> {
    let (begin, mut times) = (Instant::now(), Vec::new());
    while times.len() < 3 || begin.elapsed().as_secs_f64() < seconds {
        let begin = Instant::now();
        call()?;
        times.push(begin.elapsed().as_secs_f64());
    }
    Ok(times)
}

impl Measurements {
    /// Floating-point operations of training on one image, with convolutions counted as direct ones.
    fn training_flops(&self) -> f64 {
        self.graph.training_flops() as f64
    }

    /// The same for inference.
    fn inference_flops(&self) -> f64 {
        2.0 * self.graph.forward_macs() as f64
    }

    /// The achieved floating-point operations per second, with convolutions counted as direct ones, as a
    /// multiple of the processor's peak in f32. Winograd convolution and products of bfloat16 can exceed 1.
    fn roof_ratio(&self, images_per_second: f64, flops: f64) -> f64 {
        images_per_second * flops / self.peak
    }

    /// The same for one step, forward and backward.
    fn step_ratios(&self, step: &StepTime) -> [f64; 2] {
        let flops = 2.0 * self.graph.nodes[step.node].macs as f64 * self.batch as f64;
        let passes = if step.input_gradient { 2.0 } else { 1.0 };
        [flops / step.forward / self.peak, passes * flops / step.backward / self.peak]
    }
}

fn print(measured: &Measurements) -> Result<(), Error> {
    let Measurements { graph, isa, choices, batch, peak, training, inference, .. } = measured;
    let threads = host::threads_in_words(measured.asked_threads);
    say!("{:<34} {:>10} {:>7} {:>10} {:>7}", "step", "forward", "of peak", "backward", "of peak")?;
    for step in &measured.steps {
        let [forward_ratio, backward_ratio] = measured.step_ratios(step);
        say!(
            "{:<34} {:>7.2} ms {forward_ratio:>7.2} {:>7.2} ms {backward_ratio:>7.2}",
            graph.nodes[step.node].name,
            step.forward * 1e3,
            step.backward * 1e3
        )?;
    }
    say!("{:<34} {:>7.2} ms", "optimizer", measured.optimizer * 1e3)?;
    let choices = if choices.is_empty() { String::new() } else { format!(", {choices}") };
    let (products, of_peak) = match measured.precision {
        PrecisionKind::Bf16 => (", products in bf16", " in f32"),
        _ => ("", ""),
    };
    say!("\n{isa}, {threads}{choices}{products}, peak {:.0} GFLOP/s{of_peak}", peak / 1e9)?;
    for (what, images_per_second, flops) in [
        (format!("training, batch {batch}"), training, measured.training_flops()),
        ("inference".to_owned(), inference, measured.inference_flops()),
    ] {
        say!(
            "{what:<20} {images_per_second:>8.1} images/s {:>8.0} GFLOP/s (counted as direct \
             convolution), {:.2} of the peak",
            images_per_second * flops / 1e9,
            measured.roof_ratio(*images_per_second, flops)
        )?;
    }
    if let Some(bytes) = measured.memory {
        say!("{:<20} {:>8.2} GiB", "peak memory", bytes as f64 / f64::from(1 << 30))?;
    }
    measured.predictions.iter().try_for_each(|prediction| prediction.print(graph))
}

fn to_json(args: &BenchArgs, measured: &Measurements) -> Value {
    let of = |images_per_second: f64, flops: f64| {
        json!({
            "images_per_second": images_per_second,
            "gflops": images_per_second * flops / 1e9,
            "roof_ratio": measured.roof_ratio(images_per_second, flops),
        })
    };
    let steps = measured.steps.iter().map(|step| {
        let [forward_ratio, backward_ratio] = measured.step_ratios(step);
        json!({
            "name": measured.graph.nodes[step.node].name,
            "forward_seconds": step.forward,
            "backward_seconds": step.backward,
            "forward_of_peak": forward_ratio,
            "backward_of_peak": backward_ratio,
        })
    });
    json!({
        "recipe": args.recipe,
        "isa": measured.isa,
        "precision": measured.precision.name(),
        "threads": host::threads(measured.asked_threads),
        "choices": measured.choices,
        "batch_size": measured.batch,
        "peak_gflops": measured.peak / 1e9,
        "training": of(measured.training, measured.training_flops()),
        "inference": of(measured.inference, measured.inference_flops()),
        "peak_memory_bytes": measured.memory,
        "optimizer_seconds": measured.optimizer,
        "steps": steps.collect::<Vec<_>>(),
        "model": measured.predictions.iter().map(|p| p.to_json(&measured.graph)).collect::<Vec<_>>(),
    })
}
