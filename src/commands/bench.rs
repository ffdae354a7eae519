//! `crescendo bench`.

use std::time::Instant;

use crescendo::kernels::peak;
use crescendo::network::{Alone, Batch, CpuEngine, Engine, Plan, Section};
use crescendo::training::{Error, Recipe, peak_memory, plan};
use serde_json::{Value, json};

use super::{engine_keys, say};
use crate::cli::Bench;

/// Updates, and passes of inference, before anything is measured.
const WARM_UP: usize = 2;
/// Images that inference is measured with at once.
const INFERENCE_IMAGES: usize = 512;

/// What was measured.
struct Measured {
    plan: Plan,
    isa: &'static str,
    threads: usize,
    batch: usize,
    /// Floating-point operations a second that the processor reached at most.
    peak: f64,
    /// Images a second: the median over updates, and over passes.
    training: f64,
    inference: f64,
    /// Seconds of each step in an update, forward and backward.
    steps: Vec<[f64; 2]>,
    /// Seconds of the optimizer in an update.
    optimizer: f64,
    memory: Option<u64>,
}

pub fn run(args: &Bench) -> Result<(), Error> {
    if !(args.seconds > 0.0 && args.seconds <= 3600.0) {
        return Err(Error::Recipe("--seconds must be above 0 and at most 3600".into()));
    }
    let mut changes = args.changes.clone();
    changes.extend(engine_keys(&args.processor));
    let recipe = Recipe::load(&args.recipe, &changes)?;
    let measured = measure(args, &recipe)?;
    if args.json { say!("{}", to_json(args, &measured)) } else { print(&measured) }
}

fn measure(args: &Bench, recipe: &Recipe) -> Result<Measured, Error> {
    let (plan, machine) = (plan(recipe)?, recipe.machine()?);
    let batch = args.batch as usize;
    let initial = plan.initial(0);
    let mut engine = CpuEngine::new(plan, machine.threads, machine.isa);
    engine.import(Section::Model, &initial).expect("the plan's own state");
    let (image, classes) = (engine.plan().input.len(), engine.plan().classes());
    let many = batch.max(INFERENCE_IMAGES);
    // Any numbers will do, but not all the same: in waves, as normalised images have them.
    let images: Vec<f32> = (0..many * image).map(|i| (i as f32 * 0.37).sin() * 1.7).collect();
    let labels: Vec<u16> = (0..batch).map(|i| (i % classes) as u16).collect();

    let mut peak = peak::flops(engine.processor());
    let rules = recipe.optimizer.first_rules(engine.plan(), batch);
    let batch_images = Batch::new(&images[..batch * image], &labels);
    let mut optimizer = 0.0;
    let mut updates = repeat(
        args.seconds,
        |engine: &mut CpuEngine| {
            engine.backward(batch_images, 1.0, &Alone);
            let begin = Instant::now();
            engine.update(&rules);
            optimizer += begin.elapsed().as_secs_f64();
        },
        &mut engine,
    );
    let count = (updates.len() + WARM_UP) as f64;
    let steps = engine.take_seconds().into_iter().map(|step| step.map(|s| s / count)).collect();
    peak = peak.max(peak::flops(engine.processor()));
    let inference_images = &images[..INFERENCE_IMAGES * image];
    let mut passes = repeat(
        args.seconds,
        |engine: &mut CpuEngine| {
            engine.logits(inference_images);
        },
        &mut engine,
    );
    peak = peak.max(peak::flops(engine.processor()));
    Ok(Measured {
        isa: machine.isa.name(),
        threads: machine.threads,
        batch,
        peak,
        training: batch as f64 / median(&mut updates),
        inference: INFERENCE_IMAGES as f64 / median(&mut passes),
        steps,
        optimizer: optimizer / count,
        memory: peak_memory(),
        plan: engine.plan().clone(),
    })
}

/// Seconds of each call, after a warm-up, until `seconds` are over and there are three of them.
fn repeat(seconds: f64, mut call: impl FnMut(&mut CpuEngine), engine: &mut CpuEngine) -> Vec<f64> {
    (0..WARM_UP).for_each(|_| call(engine));
    let (begin, mut times) = (Instant::now(), Vec::new());
    while times.len() < 3 || begin.elapsed().as_secs_f64() < seconds {
        let begin = Instant::now();
        call(engine);
        times.push(begin.elapsed().as_secs_f64());
    }
    times
}

fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

impl Measured {
    /// Floating-point operations that direct convolution would need an image, in training.
    fn training_flops(&self) -> f64 {
        self.plan.training_flops() as f64
    }

    fn inference_flops(&self) -> f64 {
        2.0 * self.plan.forward_macs() as f64
    }

    /// How many times the processor's peak direct convolution would have to reach.
    fn roof_ratio(&self, images_per_second: f64, flops: f64) -> f64 {
        images_per_second * flops / self.peak
    }

    /// The same for one step: forward, and backward.
    fn step_ratios(&self, index: usize) -> [f64; 2] {
        let step = &self.plan.steps[self.plan.fused.steps[index].step];
        let flops = 2.0 * step.macs as f64 * self.batch as f64;
        let parts = if self.plan.fused.steps[index].delivery.is_some() { 2.0 } else { 1.0 };
        let [forward, backward] = self.steps[index];
        [flops / forward / self.peak, parts * flops / backward / self.peak]
    }
}

fn print(measured: &Measured) -> Result<(), Error> {
    let Measured { plan, isa, threads, batch, peak, training, inference, .. } = measured;
    say!("{:<34} {:>10} {:>7} {:>10} {:>7}", "step", "forward", "of peak", "backward", "of peak")?;
    for (index, [forward, backward]) in measured.steps.iter().enumerate() {
        let [ahead, back] = measured.step_ratios(index);
        say!(
            "{:<34} {:>7.2} ms {ahead:>7.2} {:>7.2} ms {back:>7.2}",
            plan.steps[plan.fused.steps[index].step].node.name,
            forward * 1e3,
            backward * 1e3
        )?;
    }
    say!("{:<34} {:>7.2} ms", "optimizer", measured.optimizer * 1e3)?;
    say!("\n{isa}, {threads} threads, {:.0} GFLOP/s of multiplications and additions", peak / 1e9)?;
    for (what, images_per_second, flops) in [
        (format!("training, batch {batch}"), training, measured.training_flops()),
        ("inference".to_owned(), inference, measured.inference_flops()),
    ] {
        say!(
            "{what:<20} {images_per_second:>8.1} images/s {:>8.0} GFLOP/s as direct convolution \
             counts, {:.2} of the peak",
            images_per_second * flops / 1e9,
            measured.roof_ratio(*images_per_second, flops)
        )?;
    }
    if let Some(bytes) = measured.memory {
        say!("{:<20} {:>8.2} GiB", "peak memory", bytes as f64 / f64::from(1 << 30))?;
    }
    Ok(())
}

fn to_json(args: &Bench, measured: &Measured) -> Value {
    let of = |images_per_second: f64, flops: f64| {
        json!({
            "images_per_second": images_per_second,
            "gflops": images_per_second * flops / 1e9,
            "roof_ratio": measured.roof_ratio(images_per_second, flops),
        })
    };
    let steps = measured.steps.iter().enumerate().map(|(index, [forward, backward])| {
        let [ahead, back] = measured.step_ratios(index);
        json!({
            "name": measured.plan.steps[measured.plan.fused.steps[index].step].node.name,
            "forward_seconds": forward,
            "backward_seconds": backward,
            "forward_of_peak": ahead,
            "backward_of_peak": back,
        })
    });
    json!({
        "recipe": args.recipe,
        "isa": measured.isa,
        "threads": measured.threads,
        "batch_size": measured.batch,
        "peak_gflops": measured.peak / 1e9,
        "training": of(measured.training, measured.training_flops()),
        "inference": of(measured.inference, measured.inference_flops()),
        "peak_memory_bytes": measured.memory,
        "optimizer_seconds": measured.optimizer,
        "steps": steps.collect::<Vec<_>>(),
    })
}
