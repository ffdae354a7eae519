//! Trains a network of its own on images of its own, with batch sizes by a rule of its own; stops itself, resumes, and
//! leaves test images for the program `crescendo`: see `run.sh`.

use std::error::Error;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use crescendo::data::{DataSet, ImageShape};
use crescendo::devices;
use crescendo::logging::{Observers, usual_observers};
use crescendo::network::{Activation, Init, Network, NetworkBuilder, Operation, Shape};
use crescendo::training::events::{Event, Observer};
use crescendo::training::policy::{Choice, EpochStart, Policy};
use crescendo::training::recipe::{BatchPolicyKind, NormalizeKind};
use crescendo::training::{Error as TrainingError, Model, Outcome, Recipe, Run, Start, checkpoint};

const EPOCHS: u32 = 4;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args_os().nth(1).ok_or("usage: outside FOLDER")?;
    let folder = PathBuf::from(folder);
    let data = shades()?;
    let recipe = Recipe::builder("quick")?
        .custom_network(&network())?
        .data(|data| data.normalize = NormalizeKind::Dataset)
        .batch(|batch| {
            batch.policy = BatchPolicyKind::Custom;
            batch.initial = 20;
        })
        .train(|train| train.epochs = EPOCHS)
        .build()?;

    let whole = train(&folder.join("whole"), &recipe, &data, None)?;
    let resumed = train(&folder.join("run"), &recipe, &data, Some(2))?;
    assert_eq!(whole, resumed, "a run that stops itself and is resumed ends with other weights");

    let weights = checkpoint::path(&folder.join("run"), EPOCHS);
    let mut model = Model::open(&weights, None, devices(), &recipe.engine)?;
    let accuracy = model.evaluate(&data.test, |_| ())?.accuracy();
    assert!(accuracy > 0.9, "nothing was learned: accuracy {accuracy}");
    println!("trained from outside: accuracy {accuracy}");

    // What the program should say of two images, and the images.
    write_npy(&folder.join("images.npy"), data.test.image(0), data.test.image(1))?;
    let probabilities = model.predict(&[data.test.image(0), data.test.image(1)].concat())?;
    let best = probabilities.chunks(2).map(|of| &*data.classes[usize::from(of[1] > of[0])]);
    std::fs::write(folder.join("expected.txt"), best.collect::<Vec<_>>().join("\n") + "\n")?;
    Ok(())
}

/// Trains to the end, and stops once if `stop_after` names an epoch. The bytes of the last checkpoint.
fn train(
    folder: &Path,
    recipe: &Recipe,
    data: &DataSet,
    stop_after: Option<u32>,
) -> Result<Vec<u8>, Box<dyn Error>> {
    let start = Start::new(recipe, data, devices());
    let mut run = Run::create(folder, &start)?;
    run.set_policy(GrowByEpoch)?;
    let (mut usual, mut stop) = (usual_observers(), StopAfter { epoch: stop_after, done: false });
    let mut observers = Observers(vec![&mut usual, &mut stop]);
    let mut outcome = run.train(devices(), data, &mut observers, &false.into())?;
    if stop_after.is_some() {
        assert_eq!(outcome, Outcome::Interrupted);
        drop(run);
        run = Run::open(folder)?;
        run.set_policy(GrowByEpoch)?;
        outcome = run.train(devices(), data, &mut usual_observers(), &false.into())?;
    }
    assert_eq!(outcome, Outcome::Finished);
    Ok(std::fs::read(checkpoint::path(folder, EPOCHS))?)
}

/// Ten images more in each epoch.
struct GrowByEpoch;

impl Policy for GrowByEpoch {
    fn decide(&mut self, epoch: &EpochStart<'_>) -> Result<Choice, TrainingError> {
        let size = 10 + 10 * epoch.epoch as usize;
        Ok(Choice::new(size, 1.0, format!("{} epochs are done", epoch.history.len())))
    }
}

/// Stops the run after an epoch.
struct StopAfter {
    epoch: Option<u32>,
    done: bool,
}

impl Observer for StopAfter {
    fn event(&mut self, event: &Event) -> Result<(), TrainingError> {
        if let Event::Epoch(epoch) = event {
            self.done |= Some(epoch.epoch) == self.epoch;
        }
        Ok(())
    }

    fn wants_stop(&self) -> bool {
        self.done
    }
}

/// A convolution and a linear layer.
fn network() -> Network {
    let mut network = NetworkBuilder::new(Shape::Maps { channels: 3, height: 32, width: 32 });
    let (bias, init) = (true, Init::Uniform);
    let convolution =
        Operation::Convolution { outputs: 8, kernel: 3, stride: 2, padding: 1, bias, init };
    let images = network.images();
    let x = network.add("conv", convolution, [images]);
    let x = network.add("relu", Operation::Activation(Activation::Relu), [x]);
    let x = network.add("pool", Operation::AveragePool { size: 16 }, [x]);
    let x = network.add("flatten", Operation::Flatten, [x]);
    network.add("logits", Operation::Linear { outputs: 2, bias, init }, [x]);
    network.finish()
}

/// Dark and light images.
fn shades() -> Result<DataSet, crescendo::data::Error> {
    let fill = |numbers: std::ops::Range<u32>| {
        let labels: Vec<u16> = numbers.clone().map(|i| (i % 2) as u16).collect();
        let shades = numbers.map(|i| [40, 200][(i % 2) as usize] + (i % 50) as u8);
        let pixels: Vec<u8> = shades.flat_map(|s| [s; ImageShape::CIFAR.elements()]).collect();
        (pixels, labels)
    };
    let ((images, labels), (test, test_labels)) = (fill(0..400), fill(7..107));
    DataSet::from_arrays("shades", images, labels, ["dark", "light"])?
        .with_test(test, test_labels)
}

/// Writes two images as a NumPy array of shape (2, 3072).
fn write_npy(path: &Path, first: &[u8], second: &[u8]) -> std::io::Result<()> {
    let header = "{'descr': '|u1', 'fortran_order': False, 'shape': (2, 3072), }";
    // The data begins at a multiple of 64 bytes: 10 before the header, and a line feed behind it.
    let header = format!("{header:<117}\n");
    let mut file = File::create(path)?;
    file.write_all(b"\x93NUMPY\x01\x00")?;
    file.write_all(&(header.len() as u16).to_le_bytes())?;
    file.write_all(header.as_bytes())?;
    file.write_all(first)?;
    file.write_all(second)
}
