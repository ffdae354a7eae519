//! A model of how fast training and inference would be on other numbers of threads.
//!
//! The work is divided as for so many threads and computed on one, and every task is timed. The tasks of a piece of work
//! are then given to the threads as the thread pool would, and the measured time of a barrier is added. What the model
//! leaves out: that threads share caches and memory bandwidth, and that clocks fall when many cores are busy.

use std::collections::BTreeMap;
use std::time::Instant;

use crescendo::cpu::{CpuDevice, JobTimes, TaskTimes, host};
use crescendo::network::{Engine, EngineError, Graph, MicroBatch, Rule, Section};
use crescendo::training::Error;
use serde_json::{Value, json};

use super::median;
use crate::commands::say;

/// What is measured.
pub struct Work<'a> {
    pub device: CpuDevice,
    pub graph: &'a Graph,
    pub rules: &'a [Rule],
    pub batch: MicroBatch<'a>,
    pub inference: &'a [f32],
    /// For how long updates are measured at each number of threads, and then inference passes.
    pub seconds: f64,
}

/// What the model says about a number of threads.
pub struct Prediction {
    threads: usize,
    /// How many times as fast as on one thread.
    training: f64,
    inference: f64,
    /// Seconds of an update, and its images.
    update: f64,
    batch: usize,
    /// The steps of an update, those that lose most first.
    steps: Vec<Step>,
}

/// A step of an update, forward or backward.
struct Step {
    node: usize,
    backward: bool,
    /// Seconds on one thread, and by the model.
    one: f64,
    many: f64,
    /// The fewest tasks of a piece of its work that threads share, if there is any.
    tasks: Option<usize>,
}

/// Steps that are printed.
const SHOWN: usize = 3;
/// Bytes a second that common machines with many cores have.
const COMMON_BANDWIDTH: f64 = 100e9;

/// Updates and inference passes whose work is divided as for a number of threads.
struct Measured {
    updates: Vec<Times>,
    passes: Vec<Times>,
    /// The node of each step.
    nodes: Vec<usize>,
}

/// Times of an update or of an inference pass.
struct Times {
    /// Without the tasks.
    rest: f64,
    jobs: Vec<JobTimes>,
}

impl Times {
    fn on(&self, threads: usize, barrier: f64) -> f64 {
        self.rest + self.jobs.iter().map(|job| job.on(threads, barrier)).sum::<f64>()
    }
}

impl Work<'_> {
    /// What the model says about these numbers of threads.
    ///
    /// # Errors
    /// If the device fails.
    pub fn predict(&self, threads: &[usize]) -> Result<Vec<Prediction>, Error> {
        let barrier = host::barrier_seconds();
        // One thread before and after, in case the machine's speed changes.
        let before = self.measure(1)?;
        let many = threads.iter().map(|&threads| Ok((threads, self.measure(threads)?)));
        let many = many.collect::<Result<Vec<_>, EngineError>>()?;
        let after = self.measure(1)?;
        let of = |times: &[Times], threads| {
            let mut all: Vec<f64> = times.iter().map(|t| t.on(threads, barrier)).collect();
            median(&mut all)
        };
        let mean = |before: &[Times], after: &[Times]| (of(before, 1) + of(after, 1)) / 2.0;
        let one_update = mean(&before.updates, &after.updates);
        let one_pass = mean(&before.passes, &after.passes);
        let predictions = many.into_iter().map(|(threads, many)| {
            let update = of(&many.updates, threads);
            Prediction {
                threads,
                training: one_update / update,
                inference: one_pass / of(&many.passes, threads),
                update,
                batch: self.batch.labels.len(),
                steps: steps(&many, threads, barrier),
            }
        });
        Ok(predictions.collect())
    }

    /// The times of updates and of inference passes, whose work is divided as for so many threads.
    fn measure(&self, threads: usize) -> Result<Measured, EngineError> {
        let (mut engine, times) = self.device.recording_engine(self.graph, threads)?;
        engine.import(Section::Model, &self.graph.initial(0))?;
        let updates = self.repeat(&mut *engine, &times, |engine| {
            engine.accumulate(&self.batch)?;
            engine.update(self.rules)?;
            engine.next_result(true).map(drop)
        })?;
        let passes =
            self.repeat(&mut *engine, &times, |engine| engine.logits(self.inference).map(drop))?;
        let nodes = engine.take_step_times().iter().map(|step| step.node).collect();
        Ok(Measured { updates, passes, nodes })
    }

    fn repeat(
        &self,
        engine: &mut dyn Engine,
        times: &TaskTimes,
        call: impl Fn(&mut dyn Engine) -> Result<(), EngineError>,
    ) -> Result<Vec<Times>, EngineError> {
        call(engine)?;
        let (start, mut all) = (Instant::now(), Vec::new());
        while all.len() < 3 || start.elapsed().as_secs_f64() < self.seconds {
            times.take();
            let begin = Instant::now();
            call(engine)?;
            let whole = begin.elapsed().as_secs_f64();
            let jobs = times.take();
            let rest = (whole - jobs.iter().map(JobTimes::sum).sum::<f64>()).max(0.0);
            all.push(Times { rest, jobs });
        }
        Ok(all)
    }
}

/// The steps of updates, those that lose most first.
fn steps(measured: &Measured, threads: usize, barrier: f64) -> Vec<Step> {
    let mut steps: BTreeMap<(usize, bool), Step> = BTreeMap::new();
    let count = measured.updates.len() as f64;
    for job in measured.updates.iter().flat_map(|update| &update.jobs) {
        let Some((index, backward)) = job.step else { continue };
        let node = measured.nodes[index];
        let step = Step { node, backward, one: 0.0, many: 0.0, tasks: None };
        let step = steps.entry((index, backward)).or_insert(step);
        step.one += job.sum() / count;
        step.many += job.on(threads, barrier) / count;
        if !job.alone {
            step.tasks = Some(step.tasks.map_or(job.tasks.len(), |n| n.min(job.tasks.len())));
        }
    }
    let mut steps: Vec<Step> = steps.into_values().collect();
    steps.sort_by(|a, b| b.loss(threads).total_cmp(&a.loss(threads)));
    steps
}

impl Step {
    /// Seconds more than if all threads were always busy.
    fn loss(&self, threads: usize) -> f64 {
        self.many - self.one / threads as f64
    }

    fn name(&self, graph: &Graph) -> String {
        let direction = if self.backward { "backward" } else { "forward" };
        format!("{} {direction}", graph.nodes[self.node].name)
    }

    /// Bytes a second between the cores and memory, at most: if maps and weights, of four bytes a number, go there each time
    /// they are read or written.
    fn bandwidth(&self, graph: &Graph, batch: usize) -> f64 {
        let node = &graph.nodes[self.node];
        let maps = batch * (node.input.len() + node.output.len());
        let weights = node.weight.map_or(0, |weight| graph.parameters[weight].range.len());
        // Backward reads both maps and the output's gradient, and writes the gradients of input and weights.
        let times = if self.backward { 2 } else { 1 };
        (4 * times * (maps + weights)) as f64 / self.many
    }
}

impl Prediction {
    /// Prints it, with the steps that lose most, and those that need much bandwidth.
    pub fn print(&self, graph: &Graph) -> Result<(), Error> {
        let Prediction { threads, training, inference, batch, .. } = *self;
        say!(
            "\nmodel, {threads} thread{}: {training:.1} times one thread ({:.0} images/s); inference {inference:.1} times",
            if threads == 1 { "" } else { "s" },
            batch as f64 / self.update
        )?;
        for step in self.steps.iter().take(SHOWN) {
            let (times, share) = (step.one / step.many, 100.0 * step.many / self.update);
            say!("  {:<40} {times:>5.1} times, {share:.1} % of the update", step.name(graph))?;
        }
        let large = self.steps.iter().filter(|step| step.one > 0.01 * self.one_thread());
        for step in large {
            let bandwidth = step.bandwidth(graph, batch);
            if bandwidth > COMMON_BANDWIDTH {
                say!(
                    "  {:<40} needs up to {:.0} GB/s of memory bandwidth",
                    step.name(graph),
                    bandwidth / 1e9
                )?;
            }
        }
        Ok(())
    }

    /// Seconds of all steps on one thread.
    fn one_thread(&self) -> f64 {
        self.steps.iter().map(|step| step.one).sum()
    }

    pub fn to_json(&self, graph: &Graph) -> Value {
        let steps = self.steps.iter().map(|step| {
            json!({
                "name": graph.nodes[step.node].name,
                "pass": if step.backward { "backward" } else { "forward" },
                "one_thread_seconds": step.one,
                "seconds": step.many,
                "fewest_tasks": step.tasks,
                "bytes_per_second": step.bandwidth(graph, self.batch),
            })
        });
        json!({
            "threads": self.threads,
            "training": self.training,
            "inference": self.inference,
            "update_seconds": self.update,
            "steps": steps.collect::<Vec<_>>(),
        })
    }
}
