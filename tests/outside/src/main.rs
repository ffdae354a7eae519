//! Trains on images of its own for an epoch, and evaluates the weights that this leaves.

use std::error::Error;
use std::path::PathBuf;

use crescendo::data::{DataSet, ImageShape, Sizing, Split};
use crescendo::devices;
use crescendo::training::{Model, Outcome, Recipe, Run, Start, checkpoint};

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args_os().nth(1).ok_or("usage: outside FOLDER")?;
    let folder = PathBuf::from(folder).join("run");
    let data = shades();
    let changes = [
        "network.classes=2",
        "network.widths=[8,8,8]",
        "train.epochs=1",
        "data.normalize=dataset",
    ];
    let recipe = Recipe::load("quick", &changes)?;
    let start = Start {
        recipe: &recipe,
        recipe_name: "quick",
        data: &data,
        data_location: "shades",
        init: None,
        devices: devices(),
    };
    let mut run = Run::create(&folder, &start)?;
    let outcome = run.train(devices(), &data, &mut (), &false.into())?;
    assert_eq!(outcome, Outcome::Finished);

    let weights = checkpoint::path(&folder, 1);
    let mut model = Model::open(&weights, None, devices(), &recipe.engine)?;
    let accuracy = model.evaluate(&data.test, |_| ())?.accuracy();
    assert_eq!(Some(accuracy), run.progress().test_accuracy);
    assert!(accuracy > 0.9, "nothing was learned: accuracy {accuracy}");
    println!("trained an epoch from outside: accuracy {accuracy}");
    Ok(())
}

/// Dark and light images.
fn shades() -> DataSet {
    let fill = |images: u32, first: u32| {
        let mut split = Split::default();
        for i in first..first + images {
            let class = i % 2;
            let shade = [40, 200][class as usize] + (i % 50) as u8;
            split.push(&[shade; ImageShape::CIFAR.elements()], class as u16);
        }
        split
    };
    DataSet {
        name: "shades".into(),
        format: "generated".into(),
        classes: vec!["dark".into(), "light".into()],
        train: fill(400, 0),
        validation: Split::default(),
        test: fill(100, 7),
        test_split: None,
        sizing: Sizing::default(),
        warnings: Vec::new(),
    }
}
