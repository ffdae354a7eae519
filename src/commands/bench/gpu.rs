//! The benchmark on a GPU: the time of each step beside its floor.
//!
//! Updates are queued in groups and their results are read together, as a run does; a batch comes from the data set on
//! the device. The engine times the launches of some passes. The floor of a step is what its bytes take at the rate of a
//! copy, or its products at the rate of products, whichever is longer, both rates measured in the same run.

use crescendo::network::{
    BorderPixels, ChannelStatistics, Device, DeviceData, Engine, EngineError, Graph, Images,
    MicroBatch, Peaks, Preparation, Rule, Sample, Section, StepTime, UpdateWork, Work,
};
use crescendo::training::Error;
use serde_json::{Value, json};

use super::{WARM_UP, repeat};
use crate::cli::BenchArgs;
use crate::commands::measuring::{self, median};
use crate::commands::say;

/// Updates that are queued before their results are read.
const GROUP: usize = 16;
/// Images of an inference pass, which come from the host's memory.
const INFERENCE_IMAGES: usize = 2048;

/// The results.
struct Figures {
    device: String,
    precision: &'static str,
    peaks: Peaks,
    /// Images a second: the median over groups of updates, and over inference passes.
    training: f64,
    inference: f64,
    /// Mean seconds of each step in an update, forward and backward.
    steps: Vec<StepTime>,
    /// Seconds of the optimizer in an update.
    optimizer: f64,
    work: UpdateWork,
    /// Bytes of the device's memory that went since before the engine was made.
    memory: Option<u64>,
    planned_memory: u64,
}

pub fn run(
    args: &BenchArgs,
    graph: &Graph,
    device: &dyn Device,
    rules: &[Rule],
) -> Result<(), Error> {
    if !args.model_threads.is_empty() {
        let problem = "--model-threads predicts the speed of a processor: use --device cpu";
        return Err(Error::Refused(problem.into()));
    }
    let figures = measure(args, graph, device, rules)?;
    match args.json {
        true => say!("{}", to_json(args, graph, &figures)),
        false => print(args, graph, &figures),
    }
}

fn measure(
    args: &BenchArgs,
    graph: &Graph,
    device: &dyn Device,
    rules: &[Rule],
) -> Result<Figures, Error> {
    let free = device.memory().available;
    let mut engine = device.engine(graph)?;
    engine.import(Section::Model, &graph.initial(0))?;
    let peaks = engine.measure_peaks()?;

    let input = Input::new(&mut *engine, args.batch)?;
    let train = |engine: &mut dyn Engine| {
        for _ in 0..GROUP {
            engine.accumulate(&input.batch())?;
            engine.update(rules)?;
        }
        drain(engine)
    };
    (0..WARM_UP).try_for_each(|_| train(&mut *engine))?;
    engine.take_step_times();
    let mut groups = repeat(args.seconds, || train(&mut *engine))?;
    let updates = (groups.len() * GROUP) as f64;
    let mut steps = engine.take_step_times();
    for step in &mut steps {
        step.forward /= updates;
        step.backward /= updates;
    }
    let peaks = peaks.max(engine.measure_peaks()?);

    // An update without a batch is the optimizer alone.
    let mut optimizers = repeat(args.seconds / 8.0, || {
        (0..GROUP).try_for_each(|_| engine.update(rules))?;
        drain(&mut *engine)
    })?;
    let images = measuring::images(graph, INFERENCE_IMAGES);
    let mut pass = || engine.logits(&images).map(drop);
    (0..WARM_UP).try_for_each(|_| pass())?;
    let mut passes = repeat(args.seconds / 2.0, pass)?;
    // The plan is of a run, which evaluates too.
    let left = device.memory().available;
    let peaks = peaks.max(engine.measure_peaks()?);

    let work = engine.work(args.batch).unwrap_or_default();
    Ok(Figures {
        device: device.description(),
        precision: device.config().precision.name(),
        peaks,
        training: (GROUP * args.batch) as f64 / median(&mut groups),
        inference: INFERENCE_IMAGES as f64 / median(&mut passes),
        steps,
        optimizer: median(&mut optimizers) / GROUP as f64,
        work,
        memory: free.zip(left).map(|(free, left)| free.saturating_sub(left)),
        planned_memory: device.required_memory(graph, args.batch, 1)?.configured,
    })
}

/// Reads all results.
fn drain(engine: &mut dyn Engine) -> Result<(), EngineError> {
    while engine.next_result(true)?.is_some() {}
    Ok(())
}

/// A batch: of the data set on the device, or, if the device does not take it, of prepared images.
struct Input {
    labels: Vec<u16>,
    samples: Vec<Sample>,
    preparation: Preparation,
    prepared: Option<Vec<f32>>,
}

impl Input {
    fn new(engine: &mut dyn Engine, images: usize) -> Result<Input, EngineError> {
        let (shape, classes) = (engine.graph().input, engine.graph().classes());
        // Values do not matter, but should look random.
        let pixels: Vec<u8> = (0..images * shape.len())
            .map(|i| ((i as f32 * 0.37).sin() * 100.0 + 120.0) as u8)
            .collect();
        let taken = engine.load_data(&DeviceData { pixels: &pixels, shape })?;
        let values = || pixels.iter().map(|&byte| (f32::from(byte) - 120.0) / 60.0).collect();
        let sample = |index: usize| Sample {
            index: index as u32,
            crop: [0, 0],
            flip: index.is_multiple_of(2),
            cutout: [0, 0],
        };
        Ok(Input {
            labels: measuring::labels(classes, images),
            samples: (0..images).map(sample).collect(),
            preparation: Preparation {
                border: BorderPixels::Constant([0; 3]),
                normalization: ChannelStatistics::Fixed([(120.0, 60.0); 3]),
                cutout: 0,
                image_size: shape.maps().map_or(0, |[_, rows, _]| rows),
            },
            prepared: (!taken).then(values),
        })
    }

    fn batch(&self) -> MicroBatch<'_> {
        let images = match &self.prepared {
            Some(images) => Images::Prepared(images),
            None => Images::Samples(&self.samples, &self.preparation),
        };
        MicroBatch { images, ..MicroBatch::whole(&[], &self.labels) }
    }
}

impl Figures {
    /// The seconds that an update takes at least.
    fn floor(&self) -> f64 {
        let steps = self.work.steps.iter().flatten();
        steps.chain([&self.work.optimizer]).map(|work| work.seconds(&self.peaks)).sum()
    }

    /// Each step's time and work, forward and backward.
    fn steps(&self) -> impl Iterator<Item = (&StepTime, [(f64, Work); 2])> {
        self.steps.iter().zip(&self.work.steps).map(|(step, &[forward, backward])| {
            (step, [(step.forward, forward), (step.backward, backward)])
        })
    }
}

fn print(args: &BenchArgs, graph: &Graph, figures: &Figures) -> Result<(), Error> {
    let Figures { device, peaks, training, inference, .. } = figures;
    let milliseconds = |seconds: f64| format!("{:.3} ms", seconds * 1e3);
    say!("{:<34} {:>11} {:>11} {:>11} {:>11}", "step", "forward", "floor", "backward", "floor")?;
    for (step, times) in figures.steps() {
        let [forward, forward_floor, backward, backward_floor] = times
            .map(|(seconds, work)| [milliseconds(seconds), milliseconds(work.seconds(peaks))])
            .concat()
            .try_into()
            .expect("four times");
        let name = &graph.nodes[step.node].name;
        say!("{name:<34} {forward:>11} {forward_floor:>11} {backward:>11} {backward_floor:>11}")?;
    }
    let floor = figures.work.optimizer.seconds(peaks);
    let (seconds, floor) = (milliseconds(figures.optimizer), milliseconds(floor));
    say!("{:<34} {seconds:>11} {floor:>11}", "optimizer")?;
    let copies =
        peaks.copy_bytes.map_or("not measured".into(), |rate| format!("{:.2} TB/s", rate / 1e12));
    say!(
        "\n{device}: products {:.1} TFLOP/s, f32 {:.1} TFLOP/s, copies {copies} (read and written)",
        peaks.product_flops() / 1e12,
        peaks.flops / 1e12
    )?;
    let batch = args.batch;
    say!(
        "{:<20} {training:>10.1} images/s, {} an update; the floors add up to {}",
        format!("training, batch {batch}"),
        milliseconds(batch as f64 / training),
        milliseconds(figures.floor())
    )?;
    say!("{:<20} {inference:>10.1} images/s", "inference")?;
    let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
    if let Some(bytes) = figures.memory {
        let planned = gib(figures.planned_memory);
        say!("{:<20} {:>10.2} GiB (planned {planned:.2})", "memory of the GPU", gib(bytes))?;
    }
    Ok(())
}

fn to_json(args: &BenchArgs, graph: &Graph, figures: &Figures) -> Value {
    let Figures { peaks, training, inference, .. } = figures;
    let of = |images_per_second: f64, flops: f64| {
        let flops = images_per_second * flops;
        json!({
            "images_per_second": images_per_second,
            "gflops": flops / 1e9,
            "roof_ratio": flops / peaks.product_flops(),
        })
    };
    let steps = figures.steps().map(|(step, [forward, backward])| {
        let direction = |(seconds, work): (f64, Work)| {
            json!({
                "seconds": seconds,
                "floor_seconds": work.seconds(peaks),
                "bytes": work.bytes,
                "flops": work.flops,
            })
        };
        json!({
            "name": graph.nodes[step.node].name,
            "forward": direction(forward),
            "backward": direction(backward),
        })
    });
    json!({
        "recipe": args.recipe,
        "device": figures.device,
        "precision": figures.precision,
        "batch_size": args.batch,
        "peak_gflops": peaks.flops / 1e9,
        "product_gflops": peaks.product_flops() / 1e9,
        "copy_gb_per_second": peaks.copy_bytes.map(|rate| rate / 1e9),
        "training": of(*training, graph.training_flops() as f64),
        "inference": of(*inference, 2.0 * graph.forward_macs() as f64),
        "floor_seconds": figures.floor(),
        "optimizer_seconds": figures.optimizer,
        "optimizer_floor_seconds": figures.work.optimizer.seconds(peaks),
        "optimizer_bytes": figures.work.optimizer.bytes,
        "peak_memory_bytes": figures.memory,
        "planned_memory_bytes": figures.planned_memory,
        "steps": steps.collect::<Vec<_>>(),
    })
}
