//! The CUDA engine on an NVIDIA card: the engine conformance suite, and what only a card can show. The tests are ignored
//! where nothing else is asked for, and need no file, so that the compiled tests can be taken to a machine with a card.

use crescendo_conformance::Tolerances;
use crescendo_cuda::{CudaDevice, Installed};
use crescendo_network::{
    Device, EngineConfig, Graph, MicroBatch, NetworkConfig, PrecisionKind, Rule, Section, Sgd,
    Shape, TensorData,
};

fn open(precision: PrecisionKind) -> Box<dyn Device> {
    let config = EngineConfig { precision, ..EngineConfig::default() };
    let Installed { cards, problem, .. } = crescendo_cuda::installed();
    let card = cards.iter().find(|card| card.problem.is_none());
    let card = card.unwrap_or_else(|| panic!("there is no card to use: {problem:?}, {cards:?}"));
    let driver = crescendo_cuda::open(card).unwrap_or_else(|error| panic!("{error}"));
    Box::new(CudaDevice::new(driver, &config))
}

mod f32 {
    use super::*;
    crescendo_conformance::conformance_tests!(
        || (open(PrecisionKind::F32), Tolerances::F32),
        #[ignore = "needs an NVIDIA card"]
    );
}

mod bf16 {
    use super::*;
    crescendo_conformance::conformance_tests!(
        || (open(PrecisionKind::Bf16), Tolerances::BF16_PRODUCTS),
        #[ignore = "needs an NVIDIA card"]
    );
}

#[test]
#[ignore = "needs an NVIDIA card"]
fn rates_are_those_of_a_card() {
    let mut engine = open(PrecisionKind::Bf16).engine(&paper()).unwrap();
    let peaks = engine.measure_peaks().unwrap();
    println!("{peaks:?}");
    let (matrix, copy) = (peaks.matrix_flops.unwrap(), peaks.copy_bytes.unwrap());
    assert!(peaks.flops > 1e12 && matrix > peaks.flops && copy > 1e11, "{peaks:?}");
}

/// Whole tiles and many blocks, as in a real run: what the suite's small networks do not have.
#[test]
#[ignore = "needs an NVIDIA card"]
fn updates_of_the_papers_network_have_the_same_bits_every_time() {
    let graph = paper();
    let device = open(PrecisionKind::Bf16);
    let train = || {
        let mut engine = device.engine(&graph).unwrap();
        engine.import(Section::Model, &graph.initial(0)).unwrap();
        let images: Vec<f32> =
            (0..125 * graph.input.len()).map(|i| (i as f32 * 0.37).sin() * 1.7).collect();
        let labels: Vec<u16> = (0..125).map(|i| i % 10).collect();
        let sgd = Sgd { learning_rate: 0.05, momentum: 0.9, weight_decay: 2e-4, nesterov: false };
        let rules = vec![Rule::Sgd(sgd); graph.parameters.len()];
        let mut losses = Vec::new();
        for _ in 0..10 {
            engine.accumulate(&MicroBatch::whole(&images, &labels)).unwrap();
            engine.update(&rules).unwrap();
        }
        while let Some(result) = engine.next_result(true).unwrap() {
            losses.push(result.loss);
        }
        assert_eq!(losses.len(), 10);
        assert!(losses.iter().all(|loss| loss.is_finite()), "{losses:?}");
        assert!(losses[0] != losses[9], "updates change the model");
        let model = engine.export(Section::Model).unwrap();
        let bits = model.iter().flat_map(|tensor| match &tensor.data {
            TensorData::F32(values) => values.iter().map(|value| value.to_bits()).collect(),
            TensorData::I64(_) => Vec::new(),
        });
        bits.collect::<Vec<u32>>()
    };
    assert_eq!(train(), train());
}

fn paper() -> Graph {
    let images = Shape::Maps { channels: 3, height: 32, width: 32 };
    Graph::new(&NetworkConfig::paper().network(images).unwrap()).unwrap()
}
