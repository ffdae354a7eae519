//! What a device says about itself and its engines.

use crescendo_network::{ActivationKind, DeviceKind};

use crate::Suite;
use crate::setup::{airbench, branching, graph, labels, pixels, reduced, residual, rules, sgd};
use crate::suite::train;

pub(crate) fn a_device_describes_itself(suite: &Suite) {
    let device = suite.device;
    assert!(!device.description().is_empty() && !device.description().contains('\n'));
    assert_ne!(device.config().device, DeviceKind::Auto, "it is resolved");
    let memory = device.memory();
    if let (Some(total), Some(available)) = (memory.total, memory.available) {
        assert!(0 < available && available <= total, "{memory:?}");
    }
    for graph in [reduced(&residual(ActivationKind::Relu, 5)), reduced(&airbench()), branching()] {
        assert!(device.describe_steps(&graph).unwrap().lines().count() > 1);
    }
}

pub(crate) fn required_memory_grows_with_the_micro_batch(suite: &Suite) {
    let paper = residual(ActivationKind::Relu, 5);
    for graph in [graph(&paper, 32), graph(&airbench(), 32), branching()] {
        let mut last = 0;
        for micro_batch in [1, 100, 1000, 10_000] {
            let required = suite.device.required_memory(&graph, micro_batch, 1).unwrap();
            assert!(required.minimum <= required.configured, "{required:?}");
            // Parameters, gradients and momentum buffers, and a number for each pixel.
            let state = 12 * graph.parameter_count() as u64;
            let images = 2 * (micro_batch * graph.input.len()) as u64;
            assert!(required.minimum > state + images, "{required:?}");
            assert!(required.minimum >= last, "{required:?}");
            if micro_batch > 100 {
                assert!(required.minimum > last, "{required:?}");
            }
            last = required.minimum;
            let several = suite.device.required_memory(&graph, micro_batch, 8).unwrap();
            assert!(several.minimum >= required.minimum, "{several:?}");
        }
    }
    // Smaller images take less.
    let bytes =
        |side: usize| suite.device.required_memory(&graph(&paper, side), 1000, 1).unwrap().minimum;
    assert!(bytes(16) < bytes(32));
}

pub(crate) fn step_times_are_of_the_graphs_operations(suite: &Suite) {
    let graph = reduced(&residual(ActivationKind::Relu, 5));
    let mut engine = suite.engine(&graph);
    train(&mut *engine, &pixels(&graph, 3, 1), &labels(3), &rules(&graph, sgd()));
    let times = engine.take_step_times();
    assert!(times.len() > 1 && times.iter().all(|time| time.node < graph.nodes.len()));
    assert!(times.is_sorted_by_key(|time| time.node), "in the order of the forward pass");
    assert!(times.iter().all(|time| time.forward > 0.0 && time.backward > 0.0), "{times:?}");
    assert!(!times[0].input_gradient && times[1..].iter().all(|time| time.input_gradient));
    // They were taken.
    let times = engine.take_step_times();
    assert!(times.iter().all(|time| time.forward == 0.0 && time.backward == 0.0), "{times:?}");
}
