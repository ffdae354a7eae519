//! The CUDA engine passes the engine conformance suite, with its kernels run on the processor: see `host/`.

mod host;

use std::sync::atomic::Ordering;

use crescendo_conformance::{Opened, Property, Suite, Tolerances};
use crescendo_cuda::{Driver, Launch};
use crescendo_network::{
    Device, Graph, MicroBatch, NetworkConfig, PrecisionKind, Rule, Sgd, Shape,
};

fn open(
    precision: PrecisionKind,
    tolerances: Tolerances,
) -> Result<(Box<dyn Device>, Tolerances), String> {
    Ok((Box::new(host::device(host::HostDriver::new()?, precision)), tolerances))
}

mod f32 {
    use super::*;
    crescendo_conformance::conformance_tests!(
        || open(PrecisionKind::F32, Tolerances::F32),
        #[ignore = "takes half a minute"]
    );
}

// The processor takes a minute for the tensor cores' products.
mod bf16 {
    use super::*;
    crescendo_conformance::conformance_tests!(
        || open(PrecisionKind::Bf16, Tolerances::BF16_PRODUCTS),
        #[ignore = "takes a minute"]
    );
}

/// Checks a few properties; all of them are above.
fn check(
    test: &str,
    opened: Result<(Box<dyn Device>, Tolerances), String>,
    properties: &[&'static str],
) {
    let Some((device, tolerances)) = opened.or_say(test) else { return };
    let suite = Suite { device: &*device, tolerances };
    properties.iter().for_each(|name| (Property::named(name).check)(&suite));
}

#[test]
fn networks_in_bf16_match_the_reference() {
    check(
        "networks_in_bf16_match_the_reference",
        open(PrecisionKind::Bf16, Tolerances::BF16_PRODUCTS),
        &[
            "residual_networks_match_the_reference",
            "updates_of_airbench_networks_match_the_reference",
        ],
    );
}

#[test]
fn updates_in_f32_match_the_reference_and_pytorch() {
    check(
        "updates_in_f32_match_the_reference_and_pytorch",
        open(PrecisionKind::F32, Tolerances::F32),
        &[
            "a_network_of_neither_family_matches_the_reference",
            "updates_of_residual_networks_match_the_reference",
            "updates_of_airbench_networks_match_the_reference",
            "two_updates_of_a_residual_network_match_pytorch",
            "running_statistics_take_in_every_batch",
        ],
    );
}

#[test]
fn what_f32_engines_promise_beyond_numbers_is_true() {
    check(
        "what_f32_engines_promise_beyond_numbers_is_true",
        open(PrecisionKind::F32, Tolerances::F32),
        &[
            "micro_batches_add_up_to_their_batch",
            "norms_of_halves_match_the_reference",
            "frozen_parameters_keep_their_bits",
            "processes_with_class_weights_compute_what_one_does",
            "results_come_in_order_one_for_each_update",
            "errors_of_the_communicator_reach_the_caller",
        ],
    );
}

/// What is run as one program is one graph on a card.
#[test]
fn a_batch_and_its_update_are_one_program() {
    let name = "a_batch_and_its_update_are_one_program";
    let Some(driver) = host::HostDriver::new().or_say(name) else { return };
    let runs = driver.runs.clone();
    let config = NetworkConfig { widths: vec![2; 3], blocks: vec![1; 3], ..NetworkConfig::paper() };
    let images = Shape::Maps { channels: 3, height: 8, width: 8 };
    let graph = Graph::new(&config.network(images).unwrap()).unwrap();
    let mut engine = host::device(driver, PrecisionKind::F32).engine(&graph).unwrap();
    let images = vec![0.5f32; 3 * graph.input.len()];
    let sgd = Sgd { learning_rate: 0.05, momentum: 0.9, weight_decay: 2e-4, nesterov: false };
    let rules = vec![Rule::Sgd(sgd); graph.parameters.len()];
    let mut losses = Vec::new();
    for (batches, programs) in [(1, 1), (1, 1), (3, 3), (1, 1)] {
        let before = runs.load(Ordering::Relaxed);
        for _ in 0..batches {
            engine.accumulate(&MicroBatch::whole(&images, &[0, 1, 2])).unwrap();
        }
        engine.update(&rules).unwrap();
        losses.push(engine.next_result(true).unwrap().unwrap().loss / f64::from(batches));
        assert_eq!(runs.load(Ordering::Relaxed) - before, programs);
    }
    assert!(losses.windows(2).all(|pair| pair[1] < pair[0]), "{losses:?}");
}

/// A launch of a kernel that measures rates, whose parameters are numbers of 64 bits.
fn rate(kernel: &'static str, params: [u64; 3]) -> Launch {
    let params = match kernel {
        "peak_copy" => &params[..],
        _ => &params[..2],
    };
    let params = params.iter().flat_map(|number| number.to_le_bytes()).collect();
    Launch { kernel, grid: [2, 1, 1], threads: 256, shared: 0, params }
}

#[test]
fn what_measures_rates_computes_and_copies_everything() {
    let name = "what_measures_rates_computes_and_copies_everything";
    let Some(driver) = host::HostDriver::new().or_say(name) else { return };
    let run = |launches: &[Launch]| driver.prepare(launches).unwrap().run().unwrap();
    let numbers = |kernel: &'static str, iterations: u64| {
        let out = driver.allocate(4 * 512).unwrap();
        run(&[rate(kernel, [out, iterations, 0])]);
        let mut bytes = vec![0; 4 * 512];
        driver.download(out, &mut bytes).unwrap();
        driver.free(out);
        let numbers =
            bytes.chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()));
        numbers.collect::<Vec<f32>>()
    };
    // Sums of the same products, which f32 holds exactly.
    let (once, three_times) = (numbers("peak_bf16", 1), numbers("peak_bf16", 3));
    assert!(once.iter().zip(&three_times).all(|(one, three)| 3.0 * one == *three));
    assert!(once.iter().filter(|sum| **sum != 0.0).count() > 500);
    assert!(numbers("peak_f32", 2) != numbers("peak_f32", 1));

    // The last block has room for more than there is.
    let bytes = 16 * (2 * 1024 - 300);
    let (from, to) = (driver.allocate(bytes).unwrap(), driver.allocate(bytes).unwrap());
    let units = bytes as u64 / 16;
    run(&[rate("peak_copy", [0, from, units]), rate("peak_copy", [from, to, units])]);
    let (mut first, mut second) = (vec![0; bytes], vec![0; bytes]);
    driver.download(from, &mut first).unwrap();
    driver.download(to, &mut second).unwrap();
    assert!(first == second);
    let words: std::collections::HashSet<&[u8]> = first.chunks_exact(4).collect();
    assert!(words.len() > bytes / 4 - 10, "they look random");
}

/// As a card of Hopper's; on a card the whole suite runs.
#[test]
#[ignore = "takes half a minute"]
fn networks_on_hopper_match_the_reference() {
    let open = || {
        let device = host::device(host::HostDriver::new()?.hopper(), PrecisionKind::Bf16);
        Ok((Box::new(device) as Box<dyn Device>, Tolerances::BF16_PRODUCTS))
    };
    check(
        "networks_on_hopper_match_the_reference",
        open(),
        &[
            "residual_networks_match_the_reference",
            "airbench_networks_match_the_reference",
            "updates_of_residual_networks_match_the_reference",
            "updates_of_airbench_networks_match_the_reference",
            "two_updates_of_a_residual_network_match_pytorch",
            "running_statistics_take_in_every_batch",
        ],
    );
}
