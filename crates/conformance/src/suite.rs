//! A device under test, and the comparisons that all properties use.

use std::io::Write;

use crescendo_network::{
    BatchPart, Device, Engine, Graph, Images, Loss, MicroBatch, Rule, Section, Tensor, TensorData,
    UpdateResult,
};

use crate::Tolerances;
use crate::reference::Model;
use crate::setup::{away_from_kinks, labels, varied};

/// A device whose engines are tested, and how closely they must come to what is exact.
#[derive(Clone, Copy)]
pub struct Suite<'a> {
    /// What makes the engines.
    pub device: &'a dyn Device,
    /// Those of its engines.
    pub tolerances: Tolerances,
}

/// What the function gives that opens a device for a test.
pub trait Opened<T = (Box<dyn Device>, Tolerances)> {
    /// The device, or `None` after saying that the test of this name does not run.
    fn or_say(self, test: &str) -> Option<T>;
}

impl Opened for (Box<dyn Device>, Tolerances) {
    fn or_say(self, _: &str) -> Option<Self> {
        Some(self)
    }
}

impl<T> Opened<T> for Result<T, String> {
    fn or_say(self, test: &str) -> Option<T> {
        let say = |why: String| {
            // Not `eprintln`, whose output the test runner hides for passing tests.
            let message = format!("{test}: NOT RUN, as {why}\n");
            std::io::stderr().write_all(message.as_bytes()).expect("errors can be written");
        };
        self.map_err(say).ok()
    }
}

impl Suite<'_> {
    /// Checks every property.
    ///
    /// # Panics
    /// If one does not hold.
    pub fn check_all(&self) {
        crate::all().iter().for_each(|property| (property.check)(self));
    }

    /// An engine in the state of [`varied`].
    pub(crate) fn engine(&self, graph: &Graph) -> Box<dyn Engine> {
        self.engine_with(graph, &varied(graph, 1))
    }

    pub(crate) fn engine_with(&self, graph: &Graph, state: &[Tensor]) -> Box<dyn Engine> {
        let mut engine = self.device.engine(graph).expect("the device computes the graph");
        engine.import(Section::Model, state).expect("the state is the graph's");
        engine
    }

    /// Holds a batch's gradients, and after an update that changes nothing its loss and counts, to f64.
    #[track_caller]
    pub(crate) fn check_batch(&self, graph: &Graph, loss: &Loss, count: usize) {
        let state = varied(graph, 1);
        let (images, labels) = (away_from_kinks(graph, &state, count), labels(count));
        let expected = Model::new(graph, &state).evaluate(&images, &labels, loss);
        let mut engine = self.engine_with(graph, &state);
        engine.set_loss(loss).unwrap();
        engine.accumulate(&weighted(&images, &labels, loss)).unwrap();
        self.check_gradients(&mut *engine, &expected.gradients);
        let result = finish(&mut *engine);
        self.check_loss(result.loss, expected.loss);
        assert_eq!((result.images, result.norms), (count, None));
        // Rounding may decide which of two logits is the largest.
        if self.tolerances.loss < 1e-5 {
            assert_eq!(result.correct, expected.correct);
        }
    }

    /// Holds a loss to f64.
    #[track_caller]
    pub(crate) fn check_loss(&self, loss: f64, expected: f64) {
        let off = (loss - expected).abs();
        assert!(
            off < self.tolerances.loss * expected.max(1.0),
            "the loss is {loss}, not {expected}"
        );
    }

    /// Holds all gradients to these.
    #[track_caller]
    pub(crate) fn check_gradients(&self, engine: &mut dyn Engine, expected: &[Vec<f64>]) {
        let requires_grad: Vec<bool> =
            engine.graph().parameters.iter().map(|p| p.requires_grad).collect();
        let gradients = engine.export(Section::Gradients).unwrap();
        assert_eq!(gradients.len(), expected.len());
        let all: f64 = expected.iter().flatten().map(|g| g * g).sum();
        let Tolerances { relative, absolute, .. } = self.tolerances;
        for ((gradient, expected), requires_grad) in
            gradients.iter().zip(expected).zip(requires_grad)
        {
            let (name, values) = (&gradient.name, numbers(gradient));
            if requires_grad {
                let (what, absolute) =
                    (format!("gradient of {name}"), absolute * all.sqrt().max(1.0));
                close(&what, values, expected, relative, absolute);
            } else {
                assert!(values.iter().all(|&g| g == 0.0), "{name} cannot be trained");
            }
        }
    }

    /// Holds numbers that come from one batch to what is exact.
    #[track_caller]
    pub(crate) fn close(&self, what: &str, values: &[f32], expected: &[f64]) {
        let Tolerances { relative, absolute, .. } = self.tolerances;
        close(what, values, expected, relative, absolute);
    }

    /// Holds the model's numbers to f64, and those of the momentum buffers.
    #[track_caller]
    pub(crate) fn check_model(
        &self,
        engine: &mut dyn Engine,
        expected: &Model,
        relative: f64,
        momentum: f64,
    ) {
        let absolute = self.tolerances.absolute;
        let state = engine.graph().state();
        for (tensor, described) in engine.export(Section::Model).unwrap().iter().zip(state) {
            if let Some(expected) = expected.tensor(described.kind) {
                close(&tensor.name, numbers(tensor), expected, relative, absolute);
            }
        }
        let buffers = engine.export(Section::Momentum).unwrap();
        let all: f64 = expected.momentum.iter().flatten().map(|m| m * m).sum();
        for (tensor, expected) in buffers.iter().zip(&expected.momentum) {
            let what = format!("the momentum buffer of {}", tensor.name);
            let absolute = absolute * all.sqrt().max(1.0);
            close(&what, numbers(tensor), expected, momentum, absolute);
        }
    }
}

/// Holds numbers to what is exact: `|values - expected| <= relative * |expected| + absolute`.
#[track_caller]
pub(crate) fn close(what: &str, values: &[f32], expected: &[f64], relative: f64, absolute: f64) {
    assert_eq!(values.len(), expected.len(), "{what}");
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
    let off = norm(&mut values.iter().zip(expected).map(|(&x, e)| f64::from(x) - e));
    let size = norm(&mut expected.iter().copied());
    assert!(off <= relative * size + absolute, "{what}: off by {off:e} of {size:e}");
}

/// Holds each number to another engine's.
#[track_caller]
pub(crate) fn each_close(values: &[f32], others: &[f32], absolute: f64) {
    assert_eq!(values.len(), others.len());
    for (a, b) in values.iter().zip(others) {
        assert!(f64::from((a - b).abs()) < absolute, "{a} is not {b}");
    }
}

/// Ends an update in which nothing changes.
#[track_caller]
pub(crate) fn finish(engine: &mut dyn Engine) -> UpdateResult {
    let count = engine.graph().parameters.len();
    update(engine, &vec![Rule::Frozen; count])
}

/// Ends an update, and waits for its result.
#[track_caller]
pub(crate) fn update(engine: &mut dyn Engine, rules: &[Rule]) -> UpdateResult {
    engine.update(rules).unwrap();
    engine.next_result(true).unwrap().expect("an update has a result")
}

/// A whole batch for this loss.
pub(crate) fn weighted<'a>(images: &'a [f32], labels: &'a [u16], loss: &Loss) -> MicroBatch<'a> {
    MicroBatch { mean_weight: loss.mean_weight(labels), ..MicroBatch::whole(images, labels) }
}

/// A process's part of a batch of `images` with `labels`.
pub(crate) fn own_part<'a>(
    graph: &Graph,
    images: &'a [f32],
    labels: &'a [u16],
    loss: &Loss,
    part: BatchPart,
) -> MicroBatch<'a> {
    let (own, image) = (part.images(), graph.input.len());
    MicroBatch {
        images: Images::Prepared(&images[own.start * image..own.end * image]),
        labels: &labels[own],
        part,
        mean_weight: loss.mean_weight(labels),
        measure: false,
    }
}

/// A whole update with one micro-batch.
#[track_caller]
pub(crate) fn train(
    engine: &mut dyn Engine,
    images: &[f32],
    labels: &[u16],
    rules: &[Rule],
) -> UpdateResult {
    engine.accumulate(&MicroBatch::whole(images, labels)).unwrap();
    update(engine, rules)
}

/// A copy of the tensors of a section.
#[track_caller]
pub(crate) fn copy(engine: &mut dyn Engine, section: Section) -> Vec<Tensor<'static>> {
    engine.export(section).unwrap().into_iter().map(Tensor::into_owned).collect()
}

/// Everything that a run saves.
#[track_caller]
pub(crate) fn everything(engine: &mut dyn Engine) -> Vec<Vec<Tensor<'static>>> {
    let sections = [Section::Model, Section::Momentum, Section::Average, Section::Gradients];
    sections.map(|section| copy(engine, section)).into()
}

/// All numbers of a section, one after another, without counts.
#[track_caller]
pub(crate) fn flat(engine: &mut dyn Engine, section: Section) -> Vec<f32> {
    let tensors = engine.export(section).unwrap();
    tensors.iter().filter_map(Tensor::values).flatten().copied().collect()
}

/// The numbers of a tensor that is no count.
pub(crate) fn numbers<'a>(tensor: &'a Tensor) -> &'a [f32] {
    match &tensor.data {
        TensorData::F32(values) => values,
        TensorData::I64(_) => panic!("{} is a count", tensor.name),
    }
}
