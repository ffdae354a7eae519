//! A model of how fast training and inference would be on other numbers of threads.
//!
//! The work is divided as for so many threads and computed on one, and every task is timed: its time is the median of
//! several updates. The tasks of a piece of work are then given to the threads as the thread pool would, and the measured
//! time of a barrier is added. What the model leaves out: that threads share caches and memory bandwidth, and that
//! clocks fall when many cores are busy.

use std::collections::BTreeMap;
use std::time::Instant;

use crescendo::cpu::{CpuDevice, JobTimes, TaskTimes, host};
use crescendo::network::{Engine, EngineError, Graph, MicroBatch, Rule, Section};
use crescendo::training::Error;
use serde_json::{Value, json};

use crate::commands::measuring::median;
use crate::commands::say;

/// What is measured.
pub struct Work<'a> {
    pub device: CpuDevice,
    pub graph: &'a Graph,
    pub rules: &'a [Rule],
    pub batch: MicroBatch<'a>,
    pub inference: &'a [f32],
    /// For how long updates are measured at each number of threads, and on one, and then inference passes.
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
    /// Seconds of a barrier, measured on two threads.
    barrier: f64,
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

    /// The median of each time.
    fn median(all: &[Times]) -> Times {
        let jobs: Vec<&[JobTimes]> = all.iter().map(|times| &*times.jobs).collect();
        let mut rests: Vec<f64> = all.iter().map(|times| times.rest).collect();
        Times { rest: median(&mut rests), jobs: JobTimes::medians(&jobs) }
    }
}

/// An engine that divides its work as for a number of threads, and what was measured with it.
struct Recording<'a> {
    work: &'a Work<'a>,
    engine: Box<dyn Engine>,
    times: TaskTimes,
    updates: Vec<Times>,
    passes: Vec<Times>,
}

impl<'a> Recording<'a> {
    fn new(work: &'a Work, threads: usize) -> Result<Self, EngineError> {
        let (mut engine, times) = work.device.recording_engine(work.graph, threads)?;
        engine.import(Section::Model, &work.graph.initial(0))?;
        Ok(Recording { work, engine, times, updates: Vec::new(), passes: Vec::new() })
    }

    fn update(&mut self) -> Result<(), EngineError> {
        let Work { batch, rules, .. } = self.work;
        let times = self.time(|engine| {
            engine.accumulate(batch)?;
            engine.update(rules)?;
            engine.next_result(true).map(drop)
        })?;
        self.updates.push(times);
        Ok(())
    }

    fn pass(&mut self) -> Result<(), EngineError> {
        let images = self.work.inference;
        let times = self.time(|engine| engine.logits(images).map(drop))?;
        self.passes.push(times);
        Ok(())
    }

    fn time(
        &mut self,
        call: impl Fn(&mut dyn Engine) -> Result<(), EngineError>,
    ) -> Result<Times, EngineError> {
        self.times.take();
        let begin = Instant::now();
        call(&mut *self.engine)?;
        let whole = begin.elapsed().as_secs_f64();
        let jobs = self.times.take();
        let rest = (whole - jobs.iter().map(JobTimes::sum).sum::<f64>()).max(0.0);
        Ok(Times { rest, jobs })
    }
}

impl Work<'_> {
    /// What the model says about these numbers of threads.
    ///
    /// # Errors
    /// If the device fails.
    pub fn predict(&self, threads: &[usize]) -> Result<Vec<Prediction>, Error> {
        let barrier = host::barrier_seconds();
        threads.iter().map(|&threads| Ok(self.predict_one(threads, barrier)?)).collect()
    }

    fn predict_one(&self, threads: usize, barrier: f64) -> Result<Prediction, EngineError> {
        // In turns with one thread, in case the machine's speed changes.
        let mut recordings = [Recording::new(self, 1)?, Recording::new(self, threads)?];
        self.repeat(&mut recordings, Recording::update)?;
        self.repeat(&mut recordings, Recording::pass)?;
        let update = recordings.each_ref().map(|recording| Times::median(&recording.updates[1..]));
        let [one_pass, pass] =
            recordings.each_ref().map(|recording| Times::median(&recording.passes[1..]));
        let seconds = update[1].on(threads, barrier);
        let nodes = recordings[1].engine.take_step_times();
        let nodes: Vec<usize> = nodes.iter().map(|step| step.node).collect();
        Ok(Prediction {
            threads,
            training: update[0].on(1, barrier) / seconds,
            inference: one_pass.on(1, barrier) / pass.on(threads, barrier),
            update: seconds,
            batch: self.batch.labels.len(),
            barrier,
            steps: steps(&update, threads, barrier, &nodes),
        })
    }

    /// Once to warm up, then at least three times and for the given time each.
    fn repeat<'a>(
        &'a self,
        recordings: &mut [Recording<'a>],
        measure: impl Fn(&mut Recording<'a>) -> Result<(), EngineError>,
    ) -> Result<(), EngineError> {
        recordings.iter_mut().try_for_each(&measure)?;
        let (start, mut count) = (Instant::now(), 0);
        while count < 3 || start.elapsed().as_secs_f64() < self.seconds * recordings.len() as f64 {
            recordings.iter_mut().try_for_each(&measure)?;
            count += 1;
        }
        Ok(())
    }
}

/// The steps of an update, those that lose most first, from its times on one thread and divided as for many.
fn steps([one, many]: &[Times; 2], threads: usize, barrier: f64, nodes: &[usize]) -> Vec<Step> {
    let mut steps: BTreeMap<(usize, bool), Step> = BTreeMap::new();
    for job in &many.jobs {
        let Some((index, backward)) = job.step else { continue };
        let step = Step { node: nodes[index], backward, one: 0.0, many: 0.0, tasks: None };
        let step = steps.entry((index, backward)).or_insert(step);
        step.many += job.on(threads, barrier);
        if !job.alone {
            step.tasks = Some(step.tasks.map_or(job.tasks.len(), |n| n.min(job.tasks.len())));
        }
    }
    for job in &one.jobs {
        if let Some(step) = job.step.and_then(|step| steps.get_mut(&step)) {
            step.one += job.sum();
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
            "barrier_seconds": self.barrier,
            "steps": steps.collect::<Vec<_>>(),
        })
    }
}
