//! Whole runs with what a program brings of its own: a network, a policy, observers.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use crescendo_cpu::CpuDevices;
use crescendo_data::DataSet;
use crescendo_network::{Activation, Init, NetworkBuilder, Operation};
use serde_json::{Value, json};

use super::*;
use crate::events::{Event, Observer};
use crate::policy::{Choice, EpochStart};
use crate::recipe::BatchPolicyKind;
use crate::{Model, Outcome, checkpoint};

/// Grows the batch by its own count of epochs, and lowers the learning rate with the training loss.
#[derive(Default)]
struct Growing {
    asked: u64,
}

impl Policy for Growing {
    fn decide(&mut self, epoch: &EpochStart<'_>) -> Result<Choice, Error> {
        assert_eq!(epoch.history.len(), epoch.epoch as usize - 1, "all epochs so far");
        assert!(epoch.history.iter().zip(1..).all(|(row, number)| row.epoch == number));
        assert_eq!(epoch.updates, epoch.history.last().map_or(0, |last| last.updates));
        self.asked += 1;
        let factor = epoch.history.iter().map(|row| row.train_loss.tanh()).product();
        Ok(Choice::new(10 * self.asked as usize, factor, format!("asked {} times", self.asked)))
    }

    fn state(&self) -> Value {
        json!({ "asked": self.asked })
    }

    fn restore(&mut self, state: &Value) -> Result<(), Error> {
        self.asked = state["asked"].as_u64().ok_or_else(|| Error::observer("no count"))?;
        Ok(())
    }
}

/// Wants to stop after so many updates, and keeps the reasons of decisions.
struct Watching {
    updates: u64,
    stop_at: u64,
    reasons: Vec<String>,
}

impl Watching {
    fn new(stop_at: u64) -> Self {
        Watching { updates: 0, stop_at, reasons: Vec::new() }
    }
}

impl Observer for Watching {
    fn event(&mut self, event: &Event) -> Result<(), Error> {
        match event {
            Event::Step(step) => self.updates = step.update,
            Event::Decision(decision) => self.reasons.push(decision.reason.clone()),
            _ => {}
        }
        Ok(())
    }

    fn wants_stop(&self) -> bool {
        self.updates >= self.stop_at
    }
}

fn data() -> DataSet {
    crescendo_data::shapes::generate(0, 60, 20)
}

/// A recipe with a network of its own, with a branch and whitening filters.
fn recipe(policy: BatchPolicyKind) -> Recipe {
    let mut network = NetworkBuilder::new(crate::graph::input_shape());
    let images = network.images();
    let convolution = |outputs, kernel, stride, padding, init| Operation::Convolution {
        outputs,
        kernel,
        stride,
        padding,
        bias: true,
        init,
    };
    let activation = Operation::Activation(Activation::LeakyRelu { slope: 0.03 });
    let norm = Operation::BatchNorm { eps: 1e-4, scale: true, new_weight: 0.3 };
    let x = network.add("white", convolution(24, 2, 1, 0, Init::Whitening), [images]);
    let x = network.add("first", convolution(8, 3, 2, 1, Init::Dirac), [x]);
    let x = network.add("norm", norm, [x]);
    let start = network.add("act1", activation, [x]);
    let x = network.add("second", convolution(8, 3, 1, 1, Init::Uniform), [start]);
    let x = network.add("norm2", norm, [x]);
    let x = network.add("sum", Operation::Add, [x, start]);
    let x = network.add("act2", activation, [x]);
    let x = network.add("pool", Operation::MaxPool { size: 9 }, [x]);
    let x = network.add("flatten", Operation::Flatten, [x]);
    let linear = Operation::Linear { outputs: 10, bias: false, init: Init::Unit };
    let x = network.add("logits", linear, [x]);
    network.add("scaled", Operation::Activation(Activation::Scale { factor: 0.3 }), [x]);
    Recipe::builder("quick")
        .unwrap()
        .custom_network(&network.finish())
        .unwrap()
        .train(|train| train.epochs = 3)
        .data(|data| data.sides = vec![(1, 24), (2, 32)])
        .batch(|batch| (batch.policy, batch.initial) = (policy, 12))
        .build()
        .unwrap()
}

fn create(folder: &Path, recipe: &Recipe) -> Run {
    let data = data();
    let (recipe_name, data_location) = ("own", "shapes:60,20");
    let (init, devices) = (None, &CpuDevices);
    let start = Start { recipe, recipe_name, data: &data, data_location, init, devices };
    Run::create(folder, &start).unwrap()
}

fn train(run: &mut Run, observer: &mut dyn Observer) -> Result<Outcome, Error> {
    run.train(&CpuDevices, &data(), observer, &AtomicBool::new(false))
}

#[test]
fn a_run_with_its_own_network_and_policy_is_stopped_by_an_observer_and_resumed_to_the_same_bytes() {
    let place = tempfile::tempdir().unwrap();
    let recipe = recipe(BatchPolicyKind::Custom);
    let folder = place.path().join("whole");
    let mut whole = create(&folder, &recipe);
    whole.set_policy(Growing::default()).unwrap();
    let mut watching = Watching::new(u64::MAX);
    assert_eq!(train(&mut whole, &mut watching).unwrap(), Outcome::Finished);
    // 6 updates of 10 images, 3 of 20, 2 of 30: the first choice differs from batch.initial, and each later one in
    // both numbers. The image size has one decision.
    assert_eq!(whole.progress.updates, 11);
    let reasons = [1, 2, 2, 0, 3, 3].map(|count| match count {
        0 => "table data.sides: 32 from epoch 2".into(),
        count => format!("asked {count} times"),
    });
    assert_eq!(watching.reasons, reasons);
    let expected = std::fs::read(checkpoint::path(&folder, 3)).unwrap();

    // Stopped before the first update, within epochs and between them.
    for stops in [&[0, 4][..], &[6, 9], &[1, 2, 3, 8, 10]] {
        let folder = place.path().join(format!("{stops:?}"));
        drop(create(&folder, &recipe));
        for &stop in stops {
            let mut run = Run::open(&folder).unwrap();
            run.set_policy(Growing::default()).unwrap();
            let outcome = train(&mut run, &mut Watching::new(stop)).unwrap();
            assert_eq!((outcome, run.progress.updates), (Outcome::Interrupted, stop));
        }
        let mut run = Run::open(&folder).unwrap();
        assert_eq!(run.record.recipe.network.operations, recipe.network.operations);
        run.set_policy(Growing::default()).unwrap();
        assert_eq!(train(&mut run, &mut ()).unwrap(), Outcome::Finished);
        assert!(std::fs::read(checkpoint::path(&folder, 3)).unwrap() == expected, "{stops:?}");
    }

    let path = checkpoint::path(&folder, 3);
    let mut model = Model::open(&path, None, &CpuDevices, &recipe.engine).unwrap();
    let accuracy = model.evaluate(&data().test, |_| ()).unwrap().accuracy();
    assert_eq!(Some(accuracy), whole.progress.test_accuracy);
    // In the checkpoint the network is JSON beside the recipe.
    let file = crate::tensors::TensorFile::open(&path).unwrap();
    assert!(!file.text("recipe").unwrap().contains("operations"));
    assert!(file.text("network").unwrap().contains(r#""operation":"convolution","outputs":24"#));
}

#[test]
fn images_and_labels_that_do_not_fit_are_refused_in_a_sentence() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("run");
    let recipe = recipe(BatchPolicyKind::Fixed);
    train(&mut create(&folder, &recipe), &mut ()).unwrap();
    let path = checkpoint::path(&folder, 3);
    let mut model = Model::open(&path, None, &CpuDevices, &recipe.engine).unwrap();

    let good = data().test;
    let mut probabilities = [0.0; 10];
    let error = model.predict(&good.image(0)[1..]).unwrap_err().to_string();
    assert!(error.contains("3071 bytes are not a number of images"), "{error}");
    let error = model.predict_into(good.image(0), &mut probabilities[1..]).unwrap_err().to_string();
    assert!(error.contains("give room for so many, not for 9"), "{error}");
    model.predict_into(good.image(0), &mut probabilities).unwrap();

    let mut split = good.clone();
    split.labels[7] = 10;
    let error = model.evaluate(&split, |_| ()).unwrap_err().to_string();
    assert!(error.contains("the label 10, but the network in"), "{error}");
    split.labels.truncate(7);
    let error = model.evaluate(&split, |_| ()).unwrap_err().to_string();
    assert!(error.contains("there are 7 labels for images of 61440 bytes"), "{error}");

    // A data set that was put together by hand.
    let start_with = |data: &DataSet| {
        let start = Start::new(&recipe, data, &CpuDevices);
        Run::create(&place.path().join("other"), &start).unwrap_err().to_string()
    };
    let mut own = data();
    own.validation = split;
    assert!(start_with(&own).contains("has 7 labels for images of 61440 bytes"));
    own.validation = good;
    own.validation.labels[3] = 12;
    assert!(start_with(&own).contains("an image of class 12, but only 10 classes"));
}

#[test]
fn a_policy_is_refused_where_none_belongs_and_missed_where_one_does() {
    let place = tempfile::tempdir().unwrap();
    let mut run = create(&place.path().join("fixed"), &recipe(BatchPolicyKind::Fixed));
    let error = run.set_policy(Growing::default()).unwrap_err().to_string();
    assert!(error.contains("only a recipe with batch.policy = custom"), "{error}");
    let mut run = create(&place.path().join("custom"), &recipe(BatchPolicyKind::Custom));
    let error = train(&mut run, &mut ()).unwrap_err().to_string();
    assert!(error.contains("only that program can train it"), "{error}");
}

#[test]
fn a_batch_that_does_not_fit_in_memory_is_refused_when_it_is_chosen() {
    struct All;
    impl Policy for All {
        fn decide(&mut self, epoch: &EpochStart<'_>) -> Result<Choice, Error> {
            Ok(Choice::new(epoch.training_images, 1.0, "all"))
        }
    }
    let place = tempfile::tempdir().unwrap();
    let recipe = recipe(BatchPolicyKind::Custom);
    let needs = |batch| {
        let device = crescendo_network::Devices::open(&CpuDevices, &recipe.engine).unwrap();
        let graph = crate::graph(&recipe).unwrap();
        let required = crate::required_memory(&recipe, &*device, &graph, batch, 1).unwrap();
        required.minimum as f64 / f64::from(1 << 30)
    };
    let limit = (needs(12) + needs(60)) / 2.0;
    let recipe = recipe.clone().into_builder().batch(|batch| batch.memory_limit = limit).build();
    let mut run = create(&place.path().join("run"), &recipe.unwrap());
    run.set_policy(All).unwrap();
    let error = train(&mut run, &mut ()).unwrap_err().to_string();
    assert!(error.starts_with("a batch of 60 needs more than"), "{error}");
}

#[test]
fn an_observers_own_error_ends_the_run_as_that_error() {
    #[derive(Debug, thiserror::Error)]
    #[error("the disk of the dashboard is full")]
    struct Full;
    struct Dashboard;
    impl Observer for Dashboard {
        fn event(&mut self, event: &Event) -> Result<(), Error> {
            match event {
                Event::Step(step) if step.update == 2 => Err(Error::observer(Full)),
                _ => Ok(()),
            }
        }
    }
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("run");
    let recipe = recipe(BatchPolicyKind::Fixed);
    let mut run = create(&folder, &recipe);
    let error = train(&mut run, &mut Dashboard).unwrap_err();
    assert_eq!(error.to_string(), "the disk of the dashboard is full");
    assert!(matches!(error, Error::Observer(own) if own.is::<Full>()));
    // The last saved state is whole, and the run goes on from it.
    assert_eq!(train(&mut run, &mut ()).unwrap(), Outcome::Finished);
    let whole = place.path().join("whole");
    assert_eq!(train(&mut create(&whole, &recipe), &mut ()).unwrap(), Outcome::Finished);
    let weights = |folder: &Path| std::fs::read(checkpoint::path(folder, 3)).unwrap();
    assert!(weights(&folder) == weights(&whole));
}

#[test]
fn a_damaged_network_in_a_checkpoint_is_a_sentence() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("run");
    let recipe = recipe(BatchPolicyKind::Fixed);
    let mut run = create(&folder, &recipe);
    assert_eq!(train(&mut run, &mut ()).unwrap(), Outcome::Finished);
    let file = crate::tensors::TensorFile::open(&checkpoint::path(&folder, 3)).unwrap();
    let damaged = place.path().join("damaged.safetensors");
    let open = |network: Option<&str>| {
        let mut metadata = file.metadata.clone();
        metadata.retain(|key, _| !key.ends_with("checksum") && key != "network");
        metadata.extend(network.map(|network| ("network".to_owned(), network.to_owned())));
        crate::tensors::write(&[&damaged], &file.tensors("").unwrap(), metadata).unwrap();
        Model::open(&damaged, None, &CpuDevices, &recipe.engine)
    };
    let text = file.text("network").unwrap();
    assert!(open(Some(text)).is_ok());
    let without = text.replace("\"outputs\":24,", "");
    let other = text.replace("\"outputs\":10", "\"outputs\":11");
    let cyclic = text.replace("\"inputs\":[0]", "\"inputs\":[5]");
    for (network, expected) in [
        (None, "network.operations must list the operations"),
        (Some(""), "has a damaged network in its metadata"),
        (Some("[]"), "network.operations must list the operations"),
        (Some("{\"a\": [1, 2"), "has a damaged network in its metadata"),
        (Some(&*without), "an operation of the kind convolution with the keys"),
        (Some(&*other), "network.classes is 10, but the last of network.operations has 11"),
        (Some(&*cyclic), "white: needs 1 input from earlier operations"),
    ] {
        let Err(error) = open(network) else { panic!("{network:?} is taken") };
        let error = error.to_string();
        assert!(error.contains(expected) && error.contains("damaged.safetensors"), "{error}");
    }
}
