//! Trains on a data set that is made in memory: `cargo run --release --example own_data`.

use crescendo::data::{DataSet, ImageShape, Sizing, Split};
use crescendo::devices;
use crescendo::logging::ConsoleProgress;
use crescendo::training::{Error, Recipe, Run, Start};

fn main() -> Result<(), Error> {
    // Dark and light images, 3 x 32 x 32 bytes each; a `Split` can be filled in any way.
    const BYTES: usize = ImageShape::CIFAR.elements();
    let image = |i: u32| [if i.is_multiple_of(2) { 40 } else { 200 } + (i % 50) as u8; BYTES];
    let (mut train, mut test) = (Split::default(), Split::default());
    (0..400).for_each(|i| train.push(&image(i), (i % 2) as u16));
    (0..100).for_each(|i| test.push(&image(i + 7), ((i + 7) % 2) as u16));
    let classes = vec!["dark".to_owned(), "light".to_owned()];
    let (name, format, warnings) = ("shades".into(), "generated".into(), Vec::new());
    let validation = Split::default();
    let sizing = Sizing::default();
    let data = DataSet {
        name,
        format,
        classes,
        train,
        validation,
        test,
        test_split: None,
        sizing,
        warnings,
    };

    let changes = ["network.classes=2", "train.epochs=2", "data.normalize=dataset"];
    let recipe = Recipe::load("quick", &changes)?;
    let folder = std::env::temp_dir().join(format!("shades-{}", std::process::id()));
    let start = Start {
        recipe: &recipe,
        recipe_name: "quick",
        data: &data,
        data_location: "shades",
        init: None,
        devices: devices(),
    };
    let mut run = Run::create(&folder, &start)?;
    run.train(devices(), &data, &mut ConsoleProgress::default(), &false.into())?;
    Ok(())
}
