//! Cut-down recipes: the CUDA engine's losses follow the CPU engine's, and its results depend on no schedule.

mod host;

use crescendo_conformance::Opened;
use crescendo_cpu::CpuDevices;
use crescendo_network::{
    Device, Devices, Engine, EngineConfig, Graph, Loss, MicroBatch, PrecisionKind, Rule, Section,
    Shape, Tensor, TensorData,
};
use crescendo_training::Recipe;
use host::{HostDriver, SCHEDULES};

const UPDATES: usize = 20;

/// A recipe with the smallest widths, for small images.
struct Cut {
    recipe: Recipe,
    graph: Graph,
    state: Vec<Tensor<'static>>,
    batch: usize,
}

impl Cut {
    fn new(name: &str, changes: &[&str], side: usize, batch: usize) -> Cut {
        let recipe = Recipe::load(name, changes).unwrap();
        let full = Shape::Maps { channels: 3, height: 32, width: 32 };
        let graph = Graph::new(&recipe.network.network_resized(full, side).unwrap()).unwrap();
        let mut cut = Cut { state: graph.initial(0), recipe, graph, batch };
        let images = cut.images(0).0;
        cut.graph.whiten(&mut cut.state, || images.clone());
        cut
    }

    /// Images of ten classes: waves of different lengths, and noise.
    fn images(&self, update: usize) -> (Vec<f32>, Vec<u16>) {
        let len = self.graph.input.len();
        let label = |image: usize| ((update * 7 + image * 3) % 10) as u16;
        let labels: Vec<u16> = (0..self.batch).map(label).collect();
        let pixel = |i: usize| {
            let (image, at) = (i / len, i % len);
            let noise = (i + 31 * update) * 7919 % 1009;
            (at as f32 * (0.1 + 0.07 * f32::from(labels[image]))).sin() + noise as f32 / 504.5 - 1.0
        };
        ((0..self.batch * len).map(pixel).collect(), labels)
    }

    /// The losses of the updates, and the model afterwards.
    fn train(
        &self,
        mut engine: Box<dyn Engine>,
        updates: usize,
    ) -> (Vec<f64>, Vec<Tensor<'static>>) {
        engine.import(Section::Model, &self.state).unwrap();
        let label_smoothing = self.recipe.train.label_smoothing;
        engine.set_loss(&Loss { label_smoothing, class_weights: None }).unwrap();
        let first = self.recipe.optimizer.first_rules(&self.graph, self.batch);
        let losses = (0..updates).map(|update| {
            let (images, labels) = self.images(update);
            engine.accumulate(&MicroBatch::whole(&images, &labels)).unwrap();
            // Learning rates fall in a straight line, as in fast94.
            let left = 1.0 - update as f32 / updates as f32;
            let rules = first.iter().map(|rule| match *rule {
                Rule::Sgd(mut sgd) => {
                    sgd.learning_rate *= left;
                    Rule::Sgd(sgd)
                }
                Rule::Muon(mut muon) => {
                    muon.learning_rate *= left;
                    Rule::Muon(muon)
                }
                Rule::Frozen => Rule::Frozen,
            });
            engine.update(&rules.collect::<Vec<_>>()).unwrap();
            engine.next_result(true).unwrap().expect("an update has a result").loss
        });
        let losses = losses.collect();
        let model = engine.export(Section::Model).unwrap();
        (losses, model.into_iter().map(Tensor::into_owned).collect())
    }

    fn on_cuda(
        &self,
        driver: HostDriver,
        precision: PrecisionKind,
        updates: usize,
    ) -> (Vec<f64>, Vec<Tensor<'static>>) {
        self.train(host::device(driver, precision).engine(&self.graph).unwrap(), updates)
    }

    /// The losses of the CPU engine in f32.
    fn on_cpu(&self) -> Vec<f64> {
        let cpu = CpuDevices.open(&EngineConfig { threads: 1, ..EngineConfig::default() }).unwrap();
        self.train(cpu.engine(&self.graph).unwrap(), UPDATES).0
    }

    /// With each number of the state moved by up to two roundings to bfloat16.
    fn moved(&self, seed: usize) -> Cut {
        let mut state = self.state.clone();
        for (index, tensor) in state.iter_mut().enumerate() {
            let TensorData::F32(values) = &mut tensor.data else { continue };
            for (i, value) in values.to_mut().iter_mut().enumerate() {
                let part = (i * 7919 + index * 104_729 + seed * 31_337) % 1009;
                *value *= 1.0 + (part as f32 / 504.5 - 1.0) / 256.0;
            }
        }
        Cut { recipe: self.recipe.clone(), graph: self.graph.clone(), batch: self.batch, state }
    }
}

/// The greatest difference of two losses.
fn difference(losses: &[f64], others: &[f64]) -> f64 {
    losses.iter().zip(others).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

fn quick() -> Cut {
    // The learning rate is the recipe's for this batch: it begins with 32 images.
    Cut::new("quick", &["network.widths=[4, 4, 4]", "optimizer.learning_rate=0.025"], 16, 8)
}

fn fast94() -> Cut {
    // Larger logits than the recipe's, which are scaled for 256 channels. With 0.25 the same losses would need a bound
    // of 1.2 in bf16, which says nothing.
    Cut::new("fast94", &["network.widths=[4, 4, 4]", "network.head.scale=0.03125"], 28, 4)
}

fn check_f32(test: &str, cut: &Cut) {
    let Some(driver) = HostDriver::new().or_say(test) else { return };
    let off = difference(&cut.on_cuda(driver, PrecisionKind::F32, UPDATES).0, &cut.on_cpu());
    println!("off by {off:e}");
    assert!(off <= 1e-3, "off by {off:e}");
}

/// Training multiplies every rounding, by a factor that is the recipe's and no engine's. So the bound is by how much the
/// CPU engine's own losses change in f32 where the initial state is moved by up to two roundings: the worst of six times.
fn check_bf16(test: &str, cut: &Cut) {
    let Some(driver) = HostDriver::new().or_say(test) else { return };
    let expected = cut.on_cpu();
    let bound =
        (0..6).map(|seed| difference(&cut.moved(seed).on_cpu(), &expected)).fold(0.0, f64::max);
    let off = difference(&cut.on_cuda(driver, PrecisionKind::Bf16, UPDATES).0, &expected);
    println!("off by {off:e}, the bound is {bound:e}");
    assert!(off <= bound, "off by {off:e}, more than {bound:e}");
}

#[test]
fn losses_of_quick_follow_the_cpu_in_f32() {
    // Off by 2.9e-7.
    check_f32("losses_of_quick_follow_the_cpu_in_f32", &quick());
}

#[test]
fn losses_of_fast94_follow_the_cpu_in_f32() {
    // Off by 3.1e-6.
    check_f32("losses_of_fast94_follow_the_cpu_in_f32", &fast94());
}

#[test]
#[ignore = "takes ten seconds"]
fn losses_of_quick_follow_the_cpu_in_bf16() {
    // Off by 0.25; the bound is 0.39. With bf16 storage the CPU engine is off by 0.22.
    check_bf16("losses_of_quick_follow_the_cpu_in_bf16", &quick());
}

#[test]
#[ignore = "takes ten seconds"]
fn losses_of_fast94_follow_the_cpu_in_bf16() {
    // Off by 0.11; the bound is 0.14.
    check_bf16("losses_of_fast94_follow_the_cpu_in_bf16", &fast94());
}

/// All schedules, and one of them twice.
fn check_bits(test: &str, cut: &Cut, updates: usize) {
    for precision in [PrecisionKind::F32, PrecisionKind::Bf16] {
        let mut first = None;
        for schedule in (0..SCHEDULES).chain([0]) {
            let Some(driver) = HostDriver::with_schedule(schedule).or_say(test) else { return };
            let result = cut.on_cuda(driver, precision, updates);
            let first = first.get_or_insert_with(|| result.clone());
            assert!(*first == result, "{precision:?}: schedule {schedule} gives other bits");
        }
    }
}

#[test]
#[ignore = "takes ten seconds"]
fn bits_of_quick_do_not_depend_on_the_schedule() {
    check_bits("bits_of_quick_do_not_depend_on_the_schedule", &quick(), 2);
}

#[test]
#[ignore = "takes seconds"]
fn bits_of_fast94_do_not_depend_on_the_schedule() {
    check_bits("bits_of_fast94_do_not_depend_on_the_schedule", &fast94(), 1);
}
