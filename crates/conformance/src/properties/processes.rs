//! Several processes, for which threads stand here, and what an engine tells its communicator.

use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use crescendo_network::{
    ActivationKind, Communicator, EngineError, Graph, Images, Loss, Measure, MicroBatch, Rule,
    Section, UpdateResult,
};

use crate::Suite;
use crate::setup::{class_weights, labels, pixels, reduced, residual, rules, sgd};
use crate::suite::{close, each_close, flat, update};

/// Where threads meet.
#[derive(Default)]
struct Meeting {
    round: Mutex<Round>,
    ended: Condvar,
}

#[derive(Default)]
struct Round {
    number: usize,
    arrived: usize,
    sums: Vec<f64>,
    result: Vec<f64>,
}

/// One of two processes.
struct Member(Arc<Meeting>);

impl Communicator for Member {
    fn sum(&mut self, values: &mut [f64]) -> Result<(), EngineError> {
        let lost = |what: &str| EngineError::Communication(what.into());
        let Meeting { round, ended } = &*self.0;
        let mut round = round.lock().map_err(|_| lost("the other process panicked"))?;
        if round.arrived == 0 {
            round.sums = vec![0.0; values.len()];
        }
        if round.sums.len() != values.len() {
            return Err(lost("the processes sum up different things"));
        }
        round.sums.iter_mut().zip(&*values).for_each(|(sum, x)| *sum += x);
        round.arrived += 1;
        if round.arrived == 2 {
            round.result = std::mem::take(&mut round.sums);
            round.arrived = 0;
            round.number += 1;
            ended.notify_all();
        } else {
            let number = round.number;
            let limit = Duration::from_secs(30);
            let waited = ended.wait_timeout_while(round, limit, |round| round.number == number);
            let (ended, timeout) = waited.map_err(|_| lost("the other process panicked"))?;
            if timeout.timed_out() {
                return Err(lost("the other process does not come"));
            }
            round = ended;
        }
        values.copy_from_slice(&round.result);
        Ok(())
    }

    fn sum_gradients(&mut self, gradients: &mut [f32]) -> Result<(), EngineError> {
        let mut wide: Vec<f64> = gradients.iter().map(|&x| x.into()).collect();
        self.sum(&mut wide)?;
        gradients.iter_mut().zip(wide).for_each(|(gradient, sum)| *gradient = sum as f32);
        Ok(())
    }
}

/// What a process holds after two updates.
struct Outcome {
    results: Vec<UpdateResult>,
    model: Vec<f32>,
    momentum: Vec<f32>,
}

fn check_two(suite: &Suite, loss: &Loss) {
    let graph = reduced(&residual(ActivationKind::Elu, 5));
    let (images, labels, image) = (pixels(&graph, 6, 1), labels(6), graph.input.len());
    let run = |part: Range<usize>, communicator: Option<Member>| -> Outcome {
        let mut engine = suite.engine(&graph);
        engine.set_loss(loss).unwrap();
        if let Some(communicator) = communicator {
            engine.set_communicator(Box::new(communicator));
        }
        let own = &labels[part.clone()];
        let batch = MicroBatch {
            share: own.len() as f64 / labels.len() as f64,
            mean_weight: loss.mean_weight(&labels),
            measure: Measure::MicroBatch,
            ..MicroBatch::whole(&images[part.start * image..part.end * image], own)
        };
        let mut results = Vec::new();
        for _ in 0..2 {
            engine.accumulate(&batch).unwrap();
            results.push(update(&mut *engine, &rules(&graph, sgd())));
        }
        let model = flat(&mut *engine, Section::Model);
        Outcome { results, model, momentum: flat(&mut *engine, Section::Momentum) }
    };
    let one = run(0..6, None);
    let meeting = Arc::new(Meeting::default());
    let [a, b] = std::thread::scope(|scope| {
        let threads = [0..4, 4..6].map(|part| {
            let (run, member) = (&run, Member(meeting.clone()));
            scope.spawn(move || run(part, Some(member)))
        });
        threads.map(|thread| thread.join().unwrap())
    });
    assert!(a.model == b.model && a.momentum == b.momentum, "all processes hold the same");
    for ((one, a), b) in one.results.iter().zip(&a.results).zip(&b.results) {
        suite.check_loss(a.loss + b.loss, one.loss);
        assert_eq!((a.images, b.images), (4, 2));
        if suite.tolerances.loss < 1e-5 {
            assert_eq!(a.correct + b.correct, one.correct);
        }
        // The whole batch is that of all processes.
        let [a, b, one] = [a, b, one].map(|result| result.norms.as_ref().unwrap().whole);
        assert_eq!(a, b);
        assert!((a / one - 1.0).abs() < 3.0 * suite.tolerances.relative, "{a} is not {one}");
    }
    for (what, two, one) in
        [("the model", &a.model, &one.model), ("the momentum", &a.momentum, &one.momentum)]
    {
        let wide: Vec<f64> = one.iter().map(|&x| x.into()).collect();
        close(what, two, &wide, suite.tolerances.updates, suite.tolerances.absolute);
        each_close(two, one, 10.0 * suite.tolerances.reordered);
    }
}

pub(crate) fn two_processes_compute_what_one_does(suite: &Suite) {
    check_two(suite, &Loss::default());
}

pub(crate) fn two_processes_with_class_weights_compute_what_one_does(suite: &Suite) {
    let graph = reduced(&residual(ActivationKind::Elu, 5));
    let weights = Some(class_weights(&graph));
    check_two(suite, &Loss { label_smoothing: 0.1, class_weights: weights });
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

/// An update in two micro-batches, the second measured so, and what the communicator is told.
fn check_final(suite: &Suite, graph: &Graph, trained: impl Fn(usize) -> bool, measure: Measure) {
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
    let (images, labels) = (pixels(graph, 4, 1), labels(4));
    // Twice, so that nothing of one update is left for the next.
    for number in 1..=2 {
        for last in [false, true] {
            let batch = MicroBatch {
                images: Images::Prepared(&images),
                labels: &labels,
                share: 0.5,
                mean_weight: 1.0,
                last,
                measure: if last { measure } else { Measure::Nothing },
            };
            engine.accumulate(&batch).unwrap();
            let told = log.lock().unwrap();
            assert!(last || told.ranges.is_empty(), "gradients are not final yet");
            assert_eq!(told.sums.len(), number - 1, "an update sums up, once");
        }
        let exported = flat(&mut *engine, Section::Gradients);
        update(&mut *engine, &rules(graph, Rule::Frozen));
        let mut told = log.lock().unwrap();
        assert_eq!(told.sums.len(), number);
        let sum = &told.sums[number - 1].clone();
        assert_eq!(exported, *sum);
        let mut ranges = std::mem::take(&mut told.ranges);
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
        check_final(suite, &graph, |_| true, Measure::Nothing);
        check_final(suite, &graph, |_| true, Measure::MicroBatch);
    }
}

pub(crate) fn final_gradients_cover_frozen_parameters(suite: &Suite) {
    for graph in networks() {
        let half = graph.parameters.len() / 2;
        check_final(suite, &graph, |i| i >= half, Measure::Nothing);
        check_final(suite, &graph, |i| i % 3 == 0, Measure::Nothing);
        check_final(suite, &graph, |_| false, Measure::Nothing);
    }
}

pub(crate) fn final_gradients_of_measured_halves_are_those_of_the_batch(suite: &Suite) {
    for graph in networks() {
        check_final(suite, &graph, |_| true, Measure::Halves);
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
