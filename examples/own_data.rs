//! Trains on images that are made in memory: `cargo run --release --example own_data`.

use crescendo::data::{DataSet, ImageShape};
use crescendo::devices;
use crescendo::logging::usual_observers;
use crescendo::training::{Error, Recipe, Run, Start};

fn main() -> Result<(), Error> {
    // Dark and light images, 3 x 32 x 32 bytes each, with their labels.
    const BYTES: usize = ImageShape::CIFAR.elements();
    let shade = |i: usize| if i.is_multiple_of(2) { 40 } else { 200 } + (i % 50) as u8;
    let images = |count| (0..count).flat_map(|i| [shade(i); BYTES]).collect::<Vec<u8>>();
    let labels = |count| (0..count).map(|i| (i % 2) as u16).collect::<Vec<u16>>();
    let data = DataSet::from_arrays("shades", images(400), labels(400), ["dark", "light"])?
        .with_test(images(100), labels(100))?;

    let changes = ["network.classes=2", "train.epochs=2", "data.normalize=dataset"];
    let recipe = Recipe::load("quick", &changes)?;
    let folder = std::env::temp_dir().join(format!("shades-{}", std::process::id()));
    let start = Start::new(&recipe, &data, devices());
    let mut run = Run::create(&folder, &start)?;
    run.train(devices(), &data, &mut usual_observers(), &false.into())?;
    Ok(())
}
