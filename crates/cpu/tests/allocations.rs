//! Updates and inference allocate nothing: all memory is allocated when a batch size is first seen.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use crescendo_cpu::CpuDevices;
use crescendo_network::{
    ActivationStorage, Devices, EngineConfig, Graph, MicroBatch, Muon, NetworkConfig, Parameter,
    PrecisionKind, Role, Rule, Section, Sgd, Shape,
};

/// Counts what is asked of the system's allocator.
struct Counting;

static COUNT: AtomicUsize = AtomicUsize::new(0);

// SAFETY: hands everything on to the system's allocator.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(start, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn updates_and_inference_allocate_nothing_once_the_batch_size_is_known() {
    for (activations, precision) in [
        (ActivationStorage::F32, PrecisionKind::F32),
        (ActivationStorage::Bf16, PrecisionKind::F32),
        (ActivationStorage::F32, PrecisionKind::Bf16),
    ] {
        let mut config =
            NetworkConfig { blocks: vec![1, 1], widths: vec![16, 24], ..NetworkConfig::paper() };
        config.head.hidden = 40;
        let images = Shape::Maps { channels: 3, height: 32, width: 32 };
        let graph = Graph::new(&config.network(images).unwrap()).unwrap();
        let config = EngineConfig { activations, precision, threads: 2, ..EngineConfig::default() };
        let mut engine = CpuDevices.open(&config).unwrap().engine(&graph).unwrap();
        engine.import(Section::Model, &graph.initial(0)).unwrap();
        let (images, labels) = (vec![0.5; 6 * 3072], [0, 1, 2, 3, 4, 5]);
        let muon = Muon { learning_rate: 0.1, momentum: 0.9, nesterov: true, steps: 3 };
        let rule = |parameter: &Parameter| match parameter.role {
            Role::Weight { .. } => Rule::Muon(muon),
            _ => Rule::Sgd(Sgd::default()),
        };
        let rules: Vec<Rule> = graph.parameters.iter().map(rule).collect();
        let mut update = |count: usize| {
            let batch = MicroBatch::whole(&images[..count * 3072], &labels[..count]);
            engine.accumulate(&batch).unwrap();
            engine.update(&rules).unwrap();
            engine.next_result(true).unwrap().expect("an update has a result");
        };
        update(6);
        let before = COUNT.load(Ordering::Relaxed);
        update(6);
        update(4);
        assert_eq!(COUNT.load(Ordering::Relaxed), before, "{activations:?}, {precision:?}");
        // The first call packs the weights, and the first one with few images does for them.
        engine.favor_latency();
        let classes = graph.classes();
        let mut logits = vec![0.0; 6 * classes];
        let mut infer = |count: usize| {
            let (images, logits) = (&images[..count * 3072], &mut logits[..count * classes]);
            engine.logits_into(images, logits).unwrap();
        };
        infer(6);
        infer(4);
        let before = COUNT.load(Ordering::Relaxed);
        infer(6);
        infer(5);
        infer(4);
        infer(1);
        assert_eq!(
            COUNT.load(Ordering::Relaxed),
            before,
            "inference, {activations:?}, {precision:?}"
        );
    }
}
