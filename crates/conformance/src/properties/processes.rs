//! Several processes, for which threads stand here, and what an engine tells its communicator.

use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use crescendo_network::{
    ActivationKind, BatchTree, Communicator, Engine, EngineError, Graph, Loss, MicroBatch, Rule,
    Section, UpdateResult,
};

use crate::Suite;
use crate::setup::{class_weights, labels, pixels, reduced, residual, rules, sgd, varied};
use crate::suite::{close, each_close, flat, own_part, update};

/// Where threads meet.
#[derive(Default)]
struct Meeting {
    round: Mutex<Round>,
    ended: Condvar,
}

#[derive(Default)]
struct Round {
    number: usize,
    /// What processes have brought, by rank.
    given: Vec<Option<Vec<f64>>>,
    result: Vec<f64>,
}

/// One of several processes.
struct Member {
    meeting: Arc<Meeting>,
    rank: usize,
    ranks: usize,
}

/// The sum of what processes brought, in the order of the tree; in `f32` for gradients.
fn tree_sum(given: &[Vec<f64>], narrow: bool) -> Vec<f64> {
    if let [one] = given {
        return one.clone();
    }
    let (first, second) = given.split_at(given.len() / 2);
    let (first, second) = (tree_sum(first, narrow), tree_sum(second, narrow));
    let add = |(a, b): (f64, f64)| if narrow { f64::from(a as f32 + b as f32) } else { a + b };
    first.into_iter().zip(second).map(add).collect()
}

impl Member {
    fn meet(&mut self, values: Vec<f64>, narrow: bool) -> Result<Vec<f64>, EngineError> {
        let lost = |what: &str| EngineError::Communication(what.into());
        let Meeting { round, ended } = &*self.meeting;
        let mut round = round.lock().map_err(|_| lost("another process panicked"))?;
        round.given.resize(self.ranks, None);
        let mut others = round.given.iter().flatten();
        if others.any(|other| other.len() != values.len()) {
            return Err(lost("the processes sum up different things"));
        }
        round.given[self.rank] = Some(values);
        if round.given.iter().all(Option::is_some) {
            let given: Vec<Vec<f64>> = round.given.drain(..).flatten().collect();
            round.result = tree_sum(&given, narrow);
            round.number += 1;
            ended.notify_all();
        } else {
            let number = round.number;
            let limit = Duration::from_secs(30);
            let waited = ended.wait_timeout_while(round, limit, |round| round.number == number);
            let (ended, timeout) = waited.map_err(|_| lost("another process panicked"))?;
            if timeout.timed_out() {
                return Err(lost("another process does not come"));
            }
            round = ended;
        }
        Ok(round.result.clone())
    }
}

impl Communicator for Member {
    fn sum(&mut self, values: &mut [f64]) -> Result<(), EngineError> {
        let sums = self.meet(values.to_vec(), false)?;
        values.copy_from_slice(&sums);
        Ok(())
    }

    fn sum_gradients(&mut self, gradients: &mut [f32]) -> Result<(), EngineError> {
        let sums = self.meet(gradients.iter().map(|&x| x.into()).collect(), true)?;
        gradients.iter_mut().zip(sums).for_each(|(gradient, sum)| *gradient = sum as f32);
        Ok(())
    }
}

/// What a process holds after two updates, of which the second is measured.
#[derive(Debug, PartialEq)]
struct Outcome {
    results: Vec<UpdateResult>,
    model: Vec<f32>,
    momentum: Vec<f32>,
}

/// What so many processes hold after what each of them does with its engine, which must be the same in all.
fn on_processes<T: Send + PartialEq>(
    suite: &Suite,
    graph: &Graph,
    ranks: usize,
    run: impl Fn(usize, usize, Box<dyn Engine>) -> T + Sync,
) -> T {
    let meeting = Arc::new(Meeting::default());
    let mut outcomes: Vec<T> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..ranks)
            .map(|rank| {
                let (run, member) = (&run, Member { meeting: meeting.clone(), rank, ranks });
                scope.spawn(move || {
                    let mut engine = suite.engine(graph);
                    engine.set_communicator(Box::new(member));
                    run(rank, ranks, engine)
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let first = outcomes.swap_remove(0);
    assert!(outcomes.iter().all(|other| *other == first), "all processes hold the same");
    first
}

/// Batches of so many images, on several numbers of processes.
fn check(suite: &Suite, loss: &Loss, tree: BatchTree, count: usize, numbers: &[usize]) {
    let graph = reduced(&residual(ActivationKind::Elu, 5));
    let (images, labels) = (pixels(&graph, count, 1), labels(count));
    let run = |rank: usize, ranks: usize, mut engine: Box<dyn Engine>| -> Outcome {
        engine.set_loss(loss).unwrap();
        let mut results = Vec::new();
        for measure in [false, true] {
            for part in tree.parts(rank, ranks) {
                let own = own_part(&graph, &images, &labels, loss, part);
                engine.accumulate(&MicroBatch { measure, ..own }).unwrap();
            }
            results.push(update(&mut *engine, &rules(&graph, sgd())));
        }
        let model = flat(&mut *engine, Section::Model);
        Outcome { results, model, momentum: flat(&mut *engine, Section::Momentum) }
    };
    let one = run(0, 1, suite.engine(&graph));
    for &ranks in numbers {
        let first = &on_processes(suite, &graph, ranks, run);
        if suite.tolerances.sums_follow_the_tree && ranks.is_power_of_two() {
            assert!(*first == one, "{ranks} processes: {first:?} is not {one:?}");
        }
        for (many, one) in first.results.iter().zip(&one.results) {
            suite.check_loss(many.loss, one.loss);
            assert_eq!((many.images, one.images), (count, count));
            if suite.tolerances.loss < 1e-5 {
                assert_eq!(many.correct, one.correct);
            }
            let Some(expected) = &one.norms else { continue };
            let norms = many.norms.as_ref().expect("they were measured");
            let pairs = norms.halves.iter().zip(&expected.halves);
            let near = |a: f64, b: f64| {
                assert!((a / b - 1.0).abs() < 3.0 * suite.tolerances.relative, "{a} is not {b}");
            };
            for (half, expected) in pairs {
                assert_eq!(half.0, expected.0);
                near(half.1, expected.1);
            }
            near(norms.whole, expected.whole);
        }
        for (what, many, one) in [
            ("the model", &first.model, &one.model),
            ("the momentum", &first.momentum, &one.momentum),
        ] {
            let wide: Vec<f64> = one.iter().map(|&x| x.into()).collect();
            close(what, many, &wide, suite.tolerances.updates, suite.tolerances.absolute);
            each_close(many, one, 10.0 * suite.tolerances.reordered);
        }
    }
}

pub(crate) fn processes_compute_what_one_does(suite: &Suite) {
    check(suite, &Loss::default(), BatchTree::new(19, 19), 19, &[1, 2, 3, 4, 8]);
}

pub(crate) fn processes_without_images_take_part(suite: &Suite) {
    check(suite, &Loss::default(), BatchTree::new(3, 3), 3, &[2, 8, 16]);
}

pub(crate) fn processes_compute_micro_batches_as_one_does(suite: &Suite) {
    check(suite, &Loss::default(), BatchTree::new(19, 8), 19, &[2, 3, 8]);
}

pub(crate) fn processes_compute_ghost_groups_as_one_does(suite: &Suite) {
    check(suite, &Loss::default(), BatchTree::ghost(19, 2), 19, &[2, 3, 8, 16]);
}

pub(crate) fn processes_with_class_weights_compute_what_one_does(suite: &Suite) {
    let graph = reduced(&residual(ActivationKind::Elu, 5));
    let weights = Some(class_weights(&graph));
    let loss = Loss { label_smoothing: 0.1, class_weights: weights };
    check(suite, &loss, BatchTree::new(9, 9), 9, &[2]);
}

pub(crate) fn processes_blend_statistics_as_one_does(suite: &Suite) {
    for (graph, count) in [(0, 19), (1, 19), (0, 3)] {
        let graph = &networks()[graph];
        let (state, images) = (varied(graph, 1), pixels(graph, count, 1));
        let run = |rank: usize, ranks: usize, mut engine: Box<dyn Engine>| -> Vec<f32> {
            engine.import(Section::Model, &state).unwrap();
            for weight in [1.0, 0.5] {
                for part in BatchTree::new(count, count).parts(rank, ranks) {
                    let own = part.images();
                    let image = graph.input.len();
                    let own = &images[own.start * image..own.end * image];
                    engine.blend_statistics(own, &part, weight).unwrap();
                }
            }
            flat(&mut *engine, Section::Model)
        };
        let one = run(0, 1, suite.engine(graph));
        for ranks in [2, 3, 8] {
            let many = on_processes(suite, graph, ranks, run);
            if suite.tolerances.sums_follow_the_tree && ranks.is_power_of_two() {
                assert!(many == one, "{ranks} processes");
            }
            let wide: Vec<f64> = one.iter().map(|&x| x.into()).collect();
            let relative = suite.tolerances.relative;
            close("the statistics", &many, &wide, relative, suite.tolerances.absolute);
        }
    }
}

/// What a communicator was told.
#[derive(Default)]
struct Log {
    /// Ranges of gradients, with the gradients that were said to be final.
    ranges: Vec<(Range<usize>, Vec<f32>)>,
    /// All gradients, when they were to be summed up.
    sums: Vec<Vec<f32>>,
}

/// Writes down what it is told.
struct Recorder(Arc<Mutex<Log>>);

impl Communicator for Recorder {
    fn sum(&mut self, _: &mut [f64]) -> Result<(), EngineError> {
        Ok(())
    }

    fn gradients_final(&mut self, range: Range<usize>, all: &[f32]) -> Result<(), EngineError> {
        let gradients = all[range.clone()].to_vec();
        self.0.lock().unwrap().ranges.push((range, gradients));
        Ok(())
    }

    fn sum_gradients(&mut self, gradients: &mut [f32]) -> Result<(), EngineError> {
        self.0.lock().unwrap().sums.push(gradients.to_vec());
        Ok(())
    }
}

/// An update in so many micro-batches, measured or not, and what the communicator is told.
fn check_final(
    suite: &Suite,
    graph: &Graph,
    trained: impl Fn(usize) -> bool,
    micro_batches: usize,
    measure: bool,
) {
    let log = Arc::new(Mutex::new(Log::default()));
    let mut engine = suite.engine(graph);
    let requires_grad: Vec<bool> = graph
        .parameters
        .iter()
        .enumerate()
        .map(|(i, parameter)| parameter.requires_grad && trained(i))
        .collect();
    engine.set_requires_grad(&requires_grad);
    engine.set_communicator(Box::new(Recorder(log.clone())));
    let (images, labels) = (pixels(graph, 8, 1), labels(8));
    // Twice, so that nothing of one update is left for the next.
    for _ in 0..2 {
        for part in BatchTree::new(8, 8 / micro_batches).parts(0, 1) {
            let own = own_part(graph, &images, &labels, &Loss::default(), part);
            engine.accumulate(&MicroBatch { measure, ..own }).unwrap();
            let told = log.lock().unwrap();
            assert!(part.is_last() || told.ranges.is_empty(), "gradients are not final yet");
            assert!(told.sums.is_empty(), "an update sums up");
        }
        let exported = flat(&mut *engine, Section::Gradients);
        update(&mut *engine, &rules(graph, Rule::Frozen));
        let mut told = log.lock().unwrap();
        let (sums, mut ranges) = (std::mem::take(&mut told.sums), std::mem::take(&mut told.ranges));
        if measure {
            let [first, second] = &sums[..] else { panic!("{} sums of halves", sums.len()) };
            let sum: Vec<f32> = first.iter().zip(second).map(|(a, b)| a + b).collect();
            assert!(ranges.is_empty(), "halves are summed apart, at the end");
            each_close(&exported, &sum, suite.tolerances.reordered);
            continue;
        }
        let [sum] = &sums[..] else { panic!("{} sums of gradients", sums.len()) };
        assert_eq!(exported, *sum);
        ranges.sort_by_key(|(range, _)| range.start);
        let mut end = 0;
        for (range, gradients) in ranges {
            assert_eq!(range.start, end, "the ranges cover every parameter once");
            assert!(gradients == sum[range.clone()], "{range:?} changed after it was final");
            end = range.end;
        }
        assert_eq!(end, graph.parameter_count(), "the ranges cover every parameter once");
    }
}

/// Networks with everything: shortcuts, and parameters that cannot be trained.
fn networks() -> [Graph; 2] {
    [reduced(&residual(ActivationKind::Elu, 5)), reduced(&crate::setup::airbench())]
}

pub(crate) fn final_gradients_cover_all_parameters_once(suite: &Suite) {
    for graph in networks() {
        check_final(suite, &graph, |_| true, 1, false);
        check_final(suite, &graph, |_| true, 2, false);
    }
}

pub(crate) fn final_gradients_cover_frozen_parameters(suite: &Suite) {
    for graph in networks() {
        let half = graph.parameters.len() / 2;
        check_final(suite, &graph, |i| i >= half, 1, false);
        check_final(suite, &graph, |i| i % 3 == 0, 2, false);
        check_final(suite, &graph, |_| false, 1, false);
    }
}

pub(crate) fn gradients_of_measured_halves_are_summed_apart(suite: &Suite) {
    for graph in networks() {
        check_final(suite, &graph, |_| true, 1, true);
        check_final(suite, &graph, |_| true, 2, true);
    }
}

/// Fails at one call.
struct Failing {
    call: &'static str,
    /// How many of these calls succeed before.
    after: usize,
}

impl Failing {
    fn check(&mut self, call: &str) -> Result<(), EngineError> {
        if call != self.call {
            return Ok(());
        }
        match self.after.checked_sub(1) {
            Some(left) => self.after = left,
            None => return Err(EngineError::Communication(format!("{call}: process 3 is gone"))),
        }
        Ok(())
    }
}

impl Communicator for Failing {
    fn sum(&mut self, _: &mut [f64]) -> Result<(), EngineError> {
        self.check("sum")
    }

    fn gradients_final(&mut self, _: Range<usize>, _: &[f32]) -> Result<(), EngineError> {
        self.check("gradients_final")
    }

    fn sum_gradients(&mut self, _: &mut [f32]) -> Result<(), EngineError> {
        self.check("sum_gradients")
    }
}

pub(crate) fn errors_of_the_communicator_reach_the_caller(suite: &Suite) {
    let graph = reduced(&residual(ActivationKind::Elu, 5));
    let (images, labels) = (pixels(&graph, 3, 1), labels(3));
    let norms = graph.statistics.len();
    // In the first BatchNorm forward, the first and the last one backward, and so on.
    for (call, after) in [
        ("sum", 0),
        ("sum", norms),
        ("sum", 2 * norms - 1),
        // Loss and counts.
        ("sum", 2 * norms),
        ("gradients_final", 0),
        ("gradients_final", 2),
        ("sum_gradients", 0),
    ] {
        let mut engine = suite.engine(&graph);
        engine.set_communicator(Box::new(Failing { call, after }));
        let mut run = || -> Result<(), EngineError> {
            engine.accumulate(&MicroBatch::whole(&images, &labels))?;
            engine.update(&rules(&graph, sgd()))?;
            engine.next_result(true)?;
            Ok(())
        };
        let expected = EngineError::Communication(format!("{call}: process 3 is gone"));
        assert_eq!(run().unwrap_err(), expected, "{call} {after}");
    }
}
