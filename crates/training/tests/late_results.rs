//! Training on an engine that works by itself: it keeps the data set, results arrive a few updates late in
//! groups, and states are copied while it trains on. Runs come out as on the CPU engine, to the bit.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crescendo_cpu::CpuDevices;
use crescendo_data::{DataSet, ImageShape, Normalization, shapes};
use crescendo_network::{
    BatchPart, BorderPixels, ChannelStatistics, Communicator, Device, DeviceData, DeviceKind,
    DeviceMemory, Devices, Engine, EngineConfig, EngineError, Graph, Images, Loss, MicroBatch,
    Peaks, Preparation, RequiredMemory, Rule, Sample, Section, Snapshot, StepTime, Tensor,
    UpdateResult,
};
use crescendo_training::events::{Event, Marks, Observer};
use crescendo_training::{Error, Outcome, Recipe, Run, Start};

#[path = "late_results/saving.rs"]
mod saving;

/// How many results are held back.
const LATE: usize = 3;

/// Opens the CPU behind a [`LateEngine`].
struct LateDevices {
    /// Whether engines keep the data set.
    keeps_data: bool,
    /// What the device says that it is.
    kind: DeviceKind,
}

struct LateDevice {
    cpu: Box<dyn Device>,
    keeps_data: bool,
    kind: DeviceKind,
}

/// An engine that hands out nothing before it must.
struct LateEngine {
    cpu: Box<dyn Engine>,
    keeps_data: bool,
    pixels: Vec<u8>,
    results: VecDeque<UpdateResult>,
    /// Whether a group of results is being handed out.
    handing_out: bool,
}

impl Devices for LateDevices {
    fn open(&self, config: &EngineConfig) -> Result<Box<dyn Device>, EngineError> {
        let LateDevices { keeps_data, kind } = *self;
        let cpu = CpuDevices.open(&EngineConfig { device: DeviceKind::Cpu, ..config.clone() })?;
        Ok(Box::new(LateDevice { cpu, keeps_data, kind }))
    }
}

impl Device for LateDevice {
    fn config(&self) -> EngineConfig {
        EngineConfig { device: self.kind, ..self.cpu.config() }
    }
    fn description(&self) -> String {
        self.cpu.description()
    }
    fn memory(&self) -> DeviceMemory {
        self.cpu.memory()
    }
    fn required_memory(
        &self,
        graph: &Graph,
        images: usize,
        sums: usize,
    ) -> Result<RequiredMemory, EngineError> {
        self.cpu.required_memory(graph, images, sums)
    }
    fn describe_steps(&self, graph: &Graph) -> Result<String, EngineError> {
        self.cpu.describe_steps(graph)
    }
    fn engine(&self, graph: &Graph) -> Result<Box<dyn Engine>, EngineError> {
        Ok(Box::new(LateEngine {
            cpu: self.cpu.engine(graph)?,
            keeps_data: self.keeps_data,
            pixels: Vec::new(),
            results: VecDeque::new(),
            handing_out: false,
        }))
    }
}

impl LateEngine {
    /// A sample by the definition of its parts.
    fn prepare(&self, sample: &Sample, how: &Preparation) -> Vec<f32> {
        const SHAPE: ImageShape = ImageShape::CIFAR;
        let (side, last) = (SHAPE.width as isize, SHAPE.width as isize - 1);
        let image = &self.pixels[sample.index as usize * SHAPE.elements()..][..SHAPE.elements()];
        let mirrored = |at: isize| last - (last - at.abs()).abs();
        let mut bytes = Vec::new();
        for channel in 0..SHAPE.channels {
            for y in 0..side {
                for x in 0..side {
                    let x = if sample.flip { last - x } else { x };
                    let (y, x) = (y + sample.crop[0] as isize, x + sample.crop[1] as isize);
                    let inside = [mirrored(y), mirrored(x)] == [y, x];
                    bytes.push(match how.border {
                        BorderPixels::Constant(colour) if !inside => colour[channel],
                        _ => {
                            let pixel = mirrored(y) * side + mirrored(x);
                            image[channel * SHAPE.plane() + pixel as usize]
                        }
                    });
                }
            }
        }
        let normalization = match how.normalization {
            ChannelStatistics::PerImage => Normalization::PerImage,
            ChannelStatistics::Fixed(channels) => Normalization::Dataset {
                mean: channels.map(|(mean, _)| mean / 255.0),
                deviation: channels.map(|(_, deviation)| deviation / 255.0),
            },
        };
        let mut out = vec![0.0; bytes.len()];
        normalization.apply(&bytes, &mut out);
        let [top, left] = sample.cutout.map(usize::from);
        for plane in out.chunks_exact_mut(SHAPE.plane()) {
            for row in plane.chunks_exact_mut(SHAPE.width).skip(top).take(how.cutout) {
                row[left..left + how.cutout].fill(0.0);
            }
        }
        assert_eq!(how.image_size, SHAPE.width, "not resized here");
        out
    }
}

impl Engine for LateEngine {
    fn graph(&self) -> &Graph {
        self.cpu.graph()
    }
    fn set_graph(&mut self, graph: &Graph) -> Result<(), EngineError> {
        self.cpu.set_graph(graph)
    }
    fn set_loss(&mut self, loss: &Loss) -> Result<(), EngineError> {
        self.cpu.set_loss(loss)
    }
    fn set_communicator(&mut self, communicator: Box<dyn Communicator>) {
        self.cpu.set_communicator(communicator);
    }
    fn set_requires_grad(&mut self, requires_grad: &[bool]) {
        self.cpu.set_requires_grad(requires_grad);
    }
    fn load_data(&mut self, data: &DeviceData) -> Result<bool, EngineError> {
        self.pixels = data.pixels.to_vec();
        Ok(self.keeps_data)
    }
    fn accumulate(&mut self, batch: &MicroBatch) -> Result<(), EngineError> {
        match batch.images {
            Images::Prepared(_) => {
                assert!(!self.keeps_data, "the engine has the images");
                self.cpu.accumulate(batch)
            }
            Images::Samples(samples, how) => {
                let images: Vec<f32> =
                    samples.iter().flat_map(|sample| self.prepare(sample, how)).collect();
                self.cpu.accumulate(&MicroBatch { images: Images::Prepared(&images), ..*batch })
            }
        }
    }
    fn update(&mut self, rules: &[Rule]) -> Result<(), EngineError> {
        self.cpu.update(rules)?;
        self.results.extend(self.cpu.next_result(true)?);
        Ok(())
    }
    fn next_result(&mut self, wait: bool) -> Result<Option<UpdateResult>, EngineError> {
        // In groups: nothing, and then everything.
        self.handing_out |= wait || self.results.len() > LATE;
        self.handing_out &= !self.results.is_empty();
        Ok(if self.handing_out { self.results.pop_front() } else { None })
    }
    fn update_average(&mut self, share: f64) -> Result<(), EngineError> {
        self.cpu.update_average(share)
    }
    fn swap_average(&mut self) -> Result<(), EngineError> {
        self.cpu.swap_average()
    }
    fn blend_statistics(
        &mut self,
        images: &[f32],
        part: &BatchPart,
        share: f64,
    ) -> Result<(), EngineError> {
        self.cpu.blend_statistics(images, part, share)
    }
    fn logits_into(&mut self, images: &[f32], logits: &mut [f32]) -> Result<(), EngineError> {
        assert!(self.results.is_empty(), "evaluated before all updates were read");
        self.cpu.logits_into(images, logits)
    }
    fn export(&mut self, section: Section) -> Result<Vec<Tensor<'_>>, EngineError> {
        self.cpu.export(section)
    }
    fn import(&mut self, section: Section, tensors: &[Tensor]) -> Result<(), EngineError> {
        self.cpu.import(section, tensors)
    }
    fn snapshot(&mut self) -> Result<Snapshot<'_>, EngineError> {
        let Snapshot::Borrowed(state) = self.cpu.snapshot()? else {
            unreachable!("the CPU engine lends its memory")
        };
        let owned = |(section, tensors): (Section, Vec<Tensor>)| {
            (section, tensors.into_iter().map(Tensor::into_owned).collect())
        };
        let state: Vec<_> = state.into_iter().map(owned).collect();
        Ok(Snapshot::Copy(Box::new(move || {
            std::thread::sleep(Duration::from_millis(5));
            Ok(state)
        })))
    }
    fn take_step_times(&mut self) -> Vec<StepTime> {
        self.cpu.take_step_times()
    }
    fn measure_peaks(&mut self) -> Result<Peaks, EngineError> {
        self.cpu.measure_peaks()
    }
}

/// Keeps events without their times and folders, and asks the run to stop after an update.
#[derive(Default)]
struct Recorder {
    events: Vec<Event>,
    stop_after: Option<u64>,
}

struct Recording<'a>(&'a mut Recorder, &'a AtomicBool);

impl Observer for Recording<'_> {
    fn event(&mut self, event: &Event) -> Result<(), Error> {
        let Recording(Recorder { events, stop_after }, stop) = self;
        let mut event = event.clone();
        match &mut event {
            Event::Started { .. } | Event::Checkpoint(_) | Event::Finished { .. } => return Ok(()),
            Event::Step(step) => {
                step.seconds = 0.0;
                if stop_after.is_some_and(|last| step.update >= last) {
                    stop.store(true, Ordering::Relaxed);
                }
            }
            Event::Epoch(epoch) => (epoch.seconds, epoch.images_per_second) = (0.0, 0.0),
            _ => {}
        }
        events.push(event);
        Ok(())
    }

    /// How many updates have been recorded: what a state must belong to.
    fn marks(&mut self) -> Result<Marks, Error> {
        let updates = self.0.events.iter().filter(|event| matches!(event, Event::Step(_)));
        Ok(Marks::from([("updates".to_owned(), updates.count() as u64)]))
    }
}

impl Recorder {
    fn train(
        &mut self,
        run: &mut Run,
        devices: &dyn Devices,
        data: &DataSet,
    ) -> Result<Outcome, Error> {
        let stop = AtomicBool::new(false);
        run.train(devices, data, &mut Recording(self, &stop), &stop)
    }
}

fn create(folder: &Path, devices: &dyn Devices, data: &DataSet, changes: &[&str]) -> Run {
    let base = [
        "network.widths=[4, 4, 4]",
        "train.epochs=3",
        "batch.policy=steps",
        "batch.steps=[[1, 16], [3, 40]]",
        "batch.noise_every=3",
        "train.evaluate_every=1",
        // At every opportunity.
        "train.save_every_minutes=0.000001",
    ];
    let recipe = Recipe::load("quick", &[&base, changes].concat()).unwrap();
    let (recipe_name, data_location, init) = ("quick", "shapes:150,20", None);
    let start = Start { recipe: &recipe, recipe_name, data, data_location, init, devices };
    Run::create(folder, &start).unwrap()
}

const EVERYTHING: [&str; 5] = [
    "optimizer.average=ema",
    "data.validation=20",
    "data.border=reflect",
    "data.augment={ padding = 3, flip = \"alternate\", cutout = 5 }",
    "data.normalize=dataset",
];

/// The final weights of a run.
fn weights(folder: &Path) -> Vec<u8> {
    std::fs::read(folder.join("weights/epoch-0003.safetensors")).unwrap()
}

#[test]
fn a_run_on_a_late_engine_is_that_of_the_cpu() {
    let place = tempfile::tempdir().unwrap();
    let data = shapes::generate(0, 150, 20);
    let sides = ["data.sides=[[1, 16], [2, 32]]", "network.norm.ghost=8", "data.augment=true"];
    let recipes: [(bool, &[&str]); 4] =
        [(true, &EVERYTHING), (true, &[]), (false, &sides), (true, &["data.augment=false"])];
    for (index, (keeps_data, changes)) in recipes.into_iter().enumerate() {
        let folder = |name: &str| place.path().join(format!("{name}-{index}"));
        let (mut plain, mut late) = (Recorder::default(), Recorder::default());
        let mut run = create(&folder("plain"), &CpuDevices, &data, changes);
        assert_eq!(plain.train(&mut run, &CpuDevices, &data).unwrap(), Outcome::Finished);
        let devices = LateDevices { keeps_data, kind: DeviceKind::Cpu };
        let mut run = create(&folder("late"), &devices, &data, changes);
        assert_eq!(late.train(&mut run, &devices, &data).unwrap(), Outcome::Finished);
        assert!(weights(&folder("plain")) == weights(&folder("late")), "{changes:?}");
        assert_eq!(plain.events, late.events, "{changes:?}");
    }
}

/// The updates that a saved state belongs to, and those that the observer had recorded when it was saved.
fn saved(folder: &Path) -> [u64; 2] {
    let bytes = std::fs::read(folder.join("state/state.safetensors")).unwrap();
    let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let metadata = header.metadata().clone().unwrap();
    let number = |name: &str| {
        let json: serde_json::Value = serde_json::from_str(&metadata[name]).unwrap();
        json["updates"].as_u64().unwrap_or_default()
    };
    [number("progress"), number("marks")]
}

#[test]
fn a_run_on_a_late_engine_is_resumed_to_the_bit() {
    let place = tempfile::tempdir().unwrap();
    let data = shapes::generate(0, 150, 20);
    let folder = |name: &str| place.path().join(name);
    let devices = LateDevices { keeps_data: true, kind: DeviceKind::Cpu };
    let whole = Recorder::default().train(
        &mut create(&folder("whole"), &CpuDevices, &data, &EVERYTHING),
        &CpuDevices,
        &data,
    );
    assert_eq!(whole.unwrap(), Outcome::Finished);
    // Stopped in the first epoch, at its end, and in the last one, where the queue is cut short.
    for last in [3, 9, 18] {
        let folder = folder(&format!("stopped-{last}"));
        let mut recorder = Recorder { stop_after: Some(last), ..Recorder::default() };
        let mut run = create(&folder, &devices, &data, &EVERYTHING);
        assert_eq!(recorder.train(&mut run, &devices, &data).unwrap(), Outcome::Interrupted);
        let [updates, marks] = saved(&folder);
        assert!(updates >= last && updates == marks, "{updates} updates, {marks} recorded");
        drop(run);
        let mut run = Run::open(&folder).unwrap();
        let outcome = Recorder::default().train(&mut run, &devices, &data).unwrap();
        assert_eq!(outcome, Outcome::Finished);
        assert!(weights(&folder) == weights(&place.path().join("whole")), "stopped at {last}");
    }
}

#[test]
fn a_run_moves_to_another_device_and_says_so() {
    let place = tempfile::tempdir().unwrap();
    let data = shapes::generate(0, 150, 20);
    let folder = |name: &str| place.path().join(name);
    let mut run = create(&folder("whole"), &CpuDevices, &data, &[]);
    Recorder::default().train(&mut run, &CpuDevices, &data).unwrap();

    let mut recorder = Recorder { stop_after: Some(9), ..Recorder::default() };
    let mut run = create(&folder("moved"), &CpuDevices, &data, &[]);
    let limit = run.record().recipe.batch.memory_limit;
    assert_eq!(recorder.train(&mut run, &CpuDevices, &data).unwrap(), Outcome::Interrupted);
    drop(run);
    let gpu = LateDevices { keeps_data: true, kind: DeviceKind::Cuda };
    let mut run = Run::open(&folder("moved")).unwrap();
    // What is not named stays.
    run.change("engine.device=auto", &CpuDevices).unwrap();
    assert_eq!(run.record().recipe.engine.device, DeviceKind::Cpu);
    let error = run.change("engine.device=cuda", &CpuDevices).unwrap_err().to_string();
    assert!(error.contains("only the CPU engine"), "{error}");
    run.change("engine.device=cuda", &gpu).unwrap();
    assert_eq!(run.record().recipe.batch.memory_limit, limit);
    let mut recorder = Recorder::default();
    assert_eq!(recorder.train(&mut run, &gpu, &data).unwrap(), Outcome::Finished);
    let changed = recorder.events.iter().filter_map(|event| match event {
        Event::Changed { key, from, to } => Some(format!("{key} {from} {to}")),
        _ => None,
    });
    let changed: Vec<String> = changed.collect();
    assert_eq!(changed, ["engine.device cpu cuda", "engine.precision f32 bf16"]);
    drop(run);
    // It is kept, and a checkpoint does not tell: here the two devices compute the same.
    let run = Run::open(&folder("moved")).unwrap();
    assert_eq!(run.record().recipe.engine.device, DeviceKind::Cuda);
    assert!(weights(&folder("moved")) == weights(&folder("whole")));
}

#[test]
fn states_saved_meanwhile_belong_to_one_update() {
    let place = tempfile::tempdir().unwrap();
    let data = shapes::generate(0, 150, 20);
    let (folder, devices) =
        (place.path().join("run"), LateDevices { keeps_data: true, kind: DeviceKind::Cpu });
    let mut run = create(&folder, &devices, &data, &EVERYTHING);
    // An observer that fails ends the run at once, as a kill does: what was saved is what counts.
    struct Failing(Recorder, u64);
    impl Observer for Failing {
        fn event(&mut self, event: &Event) -> Result<(), Error> {
            if matches!(event, Event::Step(step) if step.update > self.1) {
                return Err(Error::Refused("enough".into()));
            }
            Recording(&mut self.0, &AtomicBool::new(false)).event(event)
        }
        fn marks(&mut self) -> Result<Marks, Error> {
            Recording(&mut self.0, &AtomicBool::new(false)).marks()
        }
    }
    let mut failing = Failing(Recorder::default(), 6);
    let error = run.train(&devices, &data, &mut failing, &AtomicBool::new(false)).unwrap_err();
    assert_eq!(error.to_string(), "enough");
    let [updates, marks] = saved(&folder);
    assert!((1..=6).contains(&updates) && updates == marks, "{updates} {marks}");
    drop(run);
    let mut run = Run::open(&folder).unwrap();
    assert_eq!(Recorder::default().train(&mut run, &CpuDevices, &data).unwrap(), Outcome::Finished);
    let whole = place.path().join("whole");
    let mut run = create(&whole, &CpuDevices, &data, &EVERYTHING);
    Recorder::default().train(&mut run, &CpuDevices, &data).unwrap();
    assert!(weights(&folder) == weights(&whole));
}

#[test]
fn divergence_is_noticed_late_and_leaves_the_last_good_state() {
    let place = tempfile::tempdir().unwrap();
    let data = shapes::generate(0, 150, 20);
    // Diverges when the second epoch begins.
    let rate = "schedule.steps=[[1, 0.0001], [2, 1.0]]";
    let changes = ["optimizer.learning_rate=1e30", "schedule.policy=step", rate];
    let changes = [&changes[..], &["optimizer.momentum=0.0", "train.evaluate_every=0"]].concat();
    let gentle: Vec<&str> = changes.iter().map(|change| change.trim()).collect();
    let outcome = |name: &str, devices: &dyn Devices| {
        let folder = place.path().join(name);
        let mut run = create(&folder, devices, &data, &gentle);
        let mut recorder = Recorder::default();
        let error = recorder.train(&mut run, devices, &data).unwrap_err();
        let steps = recorder.events.iter().filter(|event| matches!(event, Event::Step(_))).count();
        (error.to_string(), steps, saved(&folder))
    };
    let plain = outcome("plain", &CpuDevices);
    let late = outcome("late", &LateDevices { keeps_data: true, kind: DeviceKind::Cpu });
    assert!(late.0.contains("is not a number at update"), "{}", late.0);
    assert_eq!((&plain.0, plain.1), (&late.0, late.1), "the same update diverges");
    let [updates, marks] = late.2;
    assert!(updates <= late.1 as u64 && updates == marks, "{updates} {marks}");
}
