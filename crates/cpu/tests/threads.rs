//! What is true of the CPU engine alone: results do not depend on the number of threads, and many have work.

use crescendo_cpu::{CpuDevice, CpuDevices, JobTimes};
use crescendo_network::{
    ActivationStorage, BorderPixels, ChannelStatistics, Devices, EngineConfig, Graph, Images,
    MicroBatch, Muon, NetworkConfig, PrecisionKind, Preparation, Role, Rule, Sample, Section, Sgd,
    Shape, Tensor, UpdateResult,
};

const BATCH: usize = 37;

fn graph() -> Graph {
    graph_of(vec![2, 3])
}

fn graph_of(widths: Vec<usize>) -> Graph {
    let mut config = NetworkConfig::paper();
    (config.blocks, config.widths, config.head.hidden) = (vec![1, 1], widths, 5);
    let images = Shape::Maps { channels: 3, height: 32, width: 32 };
    Graph::new(&config.network(images).unwrap()).unwrap()
}

/// What two updates come to, and everything that an engine holds after them.
fn train(graph: &Graph, config: &EngineConfig) -> (Vec<UpdateResult>, Vec<Tensor<'static>>) {
    let mut engine = CpuDevices.open(config).unwrap().engine(graph).unwrap();
    engine.import(Section::Model, &graph.initial(1)).unwrap();
    let pixel = |i: usize| ((i * 7919 % 1009) as f32 / 504.5 - 1.0) + (i as f32 * 0.01).sin();
    let images: Vec<f32> = (0..BATCH * 3072).map(pixel).collect();
    let labels: Vec<u16> = (0..BATCH as u16).map(|i| i % 10).collect();
    let sgd = Sgd { learning_rate: 0.1, momentum: 0.9, nesterov: false, weight_decay: 1e-3 };
    let muon = Muon { learning_rate: 0.05, momentum: 0.6, nesterov: true, steps: 3 };
    let rules = graph.parameters.iter().map(|parameter| match parameter.role {
        Role::Weight { .. } if parameter.shape.len() == 2 => Rule::Muon(muon),
        _ => Rule::Sgd(sgd),
    });
    let rules: Vec<Rule> = rules.collect();
    let mut results = Vec::new();
    for measure in [false, true] {
        let batch = MicroBatch { measure, ..MicroBatch::whole(&images, &labels) };
        engine.accumulate(&batch).unwrap();
        engine.update(&rules).unwrap();
        engine.update_average(0.5).unwrap();
        results.extend(engine.next_result(true).unwrap());
    }
    // All images, and so few that they take other algorithms.
    engine.favor_latency();
    let mut all = Vec::new();
    for images in [&images[..], &images[..3072], &images[..3 * 3072]] {
        let logits = engine.logits(images).unwrap();
        all.push(Tensor::f32("logits", vec![images.len() / 3072, 10], logits));
    }
    for section in [Section::Model, Section::Momentum, Section::Average] {
        all.extend(engine.export(section).unwrap().into_iter().map(Tensor::into_owned));
    }
    (results, all)
}

fn all_bf16() -> EngineConfig {
    EngineConfig { activations: ActivationStorage::Bf16, ..bf16_products() }
}

fn check_threads(config: EngineConfig, counts: &[usize]) {
    // Products of bfloat16 are of an even number of channels.
    let widths = if config.precision == PrecisionKind::Bf16 { vec![2, 6] } else { vec![2, 3] };
    let graph = graph_of(widths);
    let on = |threads| train(&graph, &EngineConfig { threads, ..config.clone() });
    let one = on(1);
    for &threads in counts {
        assert!(on(threads) == one, "{threads} threads differ from one");
    }
}

fn f32() -> EngineConfig {
    EngineConfig::default()
}

fn bf16_storage() -> EngineConfig {
    EngineConfig { activations: ActivationStorage::Bf16, ..EngineConfig::default() }
}

fn bf16_products() -> EngineConfig {
    EngineConfig { precision: PrecisionKind::Bf16, ..EngineConfig::default() }
}

#[test]
fn weights_are_the_same_to_the_bit_for_any_number_of_threads() {
    check_threads(f32(), &[2, 5, 64]);
    check_threads(bf16_storage(), &[3, 16]);
    check_threads(bf16_products(), &[3, 64]);
    check_threads(all_bf16(), &[2, 16]);
}

#[test]
#[ignore = "takes seconds"]
fn longer_weights_are_the_same_to_the_bit_for_any_number_of_threads() {
    for config in [f32(), bf16_storage(), bf16_products(), all_bf16()] {
        check_threads(config, &[2, 3, 5, 16, 64]);
    }
}

/// The paper's network, with two blocks in each stack: its layers have all the shapes that there are.
#[test]
fn there_are_tasks_for_sixteen_threads() {
    const IMAGES: usize = 125;
    let config = NetworkConfig { blocks: vec![2, 2, 2], ..NetworkConfig::paper() };
    let images = Shape::Maps { channels: 3, height: 32, width: 32 };
    let graph = Graph::new(&config.network(images).unwrap()).unwrap();
    let device = CpuDevice::new(&EngineConfig::default()).unwrap();
    let (mut engine, times) = device.recording_engine(&graph, 16).unwrap();
    engine.import(Section::Model, &graph.initial(1)).unwrap();
    let images: Vec<f32> = (0..IMAGES * 3072).map(|i| (i as f32 * 0.37).sin()).collect();
    let labels: Vec<u16> = (0..IMAGES as u16).map(|i| i % 10).collect();
    engine.accumulate(&MicroBatch::whole(&images, &labels)).unwrap();
    engine.update(&vec![Rule::Sgd(Sgd::default()); graph.parameters.len()]).unwrap();
    let mut jobs = times.take();
    engine.logits(&images).unwrap();
    jobs.extend(times.take());
    let nodes: Vec<usize> = engine.take_step_times().iter().map(|step| step.node).collect();
    let update: f64 = jobs.iter().map(JobTimes::sum).sum();
    assert!(jobs.len() > 100, "{}", jobs.len());
    for job in jobs.iter().filter(|job| job.sum() > 0.01 * update) {
        let name = job.step.map_or("optimizer", |(step, _)| &graph.nodes[nodes[step]].name);
        let tasks = job.tasks.len();
        assert!(tasks >= 16 && !job.alone, "{name}, {:?}: {tasks} tasks", job.step);
    }
}

#[test]
fn samples_of_a_data_set_are_refused() {
    let graph = graph();
    let mut engine = CpuDevices.open(&EngineConfig::default()).unwrap().engine(&graph).unwrap();
    let sample = Sample { index: 0, crop: [0, 0], flip: false, cutout: [0, 0] };
    let preparation = Preparation {
        border: BorderPixels::Reflect,
        normalization: ChannelStatistics::PerImage,
        cutout: 0,
        image_size: 32,
    };
    let images = Images::Samples(&[sample], &preparation);
    let batch = MicroBatch { images, ..MicroBatch::whole(&[], &[1]) };
    let error = engine.accumulate(&batch).unwrap_err().to_string();
    assert_eq!(error, "the CPU engine takes images that are prepared ahead");
}
