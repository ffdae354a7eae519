//! Loads a trained network and classifies one image at a time on one thread, as a service would. Calls after the first
//! allocate no memory: `cargo run --release --example inference`.

use std::error::Error;

use crescendo::data::shapes;
use crescendo::devices;
use crescendo::logging::ConsoleProgress;
use crescendo::network::EngineConfig;
use crescendo::training::{Model, Recipe, Run, Start};

fn main() -> Result<(), Box<dyn Error>> {
    // A network to load: the built-in recipe `quick` for six epochs, on generated images.
    let data = shapes::generate(0, 1000, 100);
    let recipe = Recipe::load("quick", &["train.epochs=6", "network.widths=[16, 16, 16]"])?;
    let folder = tempfile::tempdir()?;
    let run = folder.path().join("run");
    let start = Start::new(&recipe, &data, devices());
    let console = &mut ConsoleProgress::default();
    Run::create(&run, &start)?.train(devices(), &data, console, &false.into())?;

    // The checkpoint says what the network is and how images are normalised; the caller says what computes it.
    let checkpoint = run.join("weights/epoch-0006.safetensors");
    let compute = EngineConfig { threads: 1, ..EngineConfig::default() };
    let mut model = Model::open(&checkpoint, None, devices(), &compute)?;

    // An image is 3 x 32 x 32 bytes: red, green, blue. The first call allocates memory and prepares the weights.
    let mut probabilities = vec![0.0; model.classes.len()];
    model.predict_into(data.test.image(0), &mut probabilities)?;

    let (mut correct, mut outcome) = (0, Ok(()));
    let allocations = allocation_counter::measure(|| {
        for (index, &label) in data.test.labels.iter().enumerate() {
            outcome = model.predict_into(data.test.image(index), &mut probabilities);
            if outcome.is_err() {
                return;
            }
            let own = probabilities[usize::from(label)];
            correct += usize::from(probabilities.iter().all(|&other| other <= own));
        }
    });
    outcome?;
    assert_eq!(allocations.count_total, 0, "calls after the first allocate nothing");
    println!("{correct} of {} test images are classified correctly", data.test.len());
    Ok(())
}
