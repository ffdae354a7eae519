//! A step allocates nothing: all memory is made for a batch size once.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use crescendo_network::{
    Alone, Batch, Compute, Config, CpuEngine, Engine, Isa, Muon, Parameter, Plan, Role, Rule,
    Section, Sgd, Storage,
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
fn updates_allocate_nothing_once_the_batch_size_is_known() {
    for activations in [Storage::F32, Storage::Bf16] {
        let config = Config { blocks: vec![1, 1], widths: vec![16, 24], ..Config::report() };
        let compute = Compute { activations, ..Compute::default() };
        let plan = Plan::new(&config.network().unwrap(), compute).unwrap();
        let initial = plan.initial(0);
        let mut engine = CpuEngine::new(plan, 2, Isa::best());
        engine.import(Section::Model, &initial).unwrap();
        let (images, labels) = (vec![0.5; 6 * 3072], [0, 1, 2, 3, 4, 5]);
        let muon = Muon { learning_rate: 0.1, momentum: 0.9, nesterov: true, steps: 3 };
        let rule = |parameter: &Parameter| match parameter.role {
            Role::Weight { .. } => Rule::Muon(muon),
            _ => Rule::Sgd(Sgd::default()),
        };
        let rules: Vec<Rule> = engine.plan().parameters.iter().map(rule).collect();
        let mut update = |count: usize| {
            let batch = Batch::new(&images[..count * 3072], &labels[..count]);
            engine.backward(batch, 1.0, &Alone);
            engine.update(&rules);
        };
        update(6);
        let before = COUNT.load(Ordering::Relaxed);
        update(6);
        update(4);
        assert_eq!(COUNT.load(Ordering::Relaxed), before, "{activations:?}");
    }
}
