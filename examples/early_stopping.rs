//! Stops a run from an observer, here when the training loss is low enough, and uses its last weights:
//! `cargo run --release --example early_stopping`.

use crescendo::data::shapes;
use crescendo::devices;
use crescendo::logging::{Observers, usual_observers};
use crescendo::training::events::{Event, Observer};
use crescendo::training::{Error, Model, Outcome, Recipe, Run, Start, checkpoint};

/// Stops after the first epoch with a training loss below `enough`.
struct StopAtLoss {
    enough: f64,
    reached: bool,
}

impl Observer for StopAtLoss {
    fn event(&mut self, event: &Event) -> Result<(), Error> {
        if let Event::Epoch(epoch) = event {
            self.reached |= epoch.train_loss < self.enough;
        }
        Ok(())
    }

    // Asked before each update.
    fn wants_stop(&self) -> bool {
        self.reached
    }
}

fn main() -> Result<(), Error> {
    let recipe = Recipe::builder("quick")?.train(|train| train.epochs = 50).build()?;
    let data = shapes::generate(0, 1000, 200);
    let folder = std::env::temp_dir().join(format!("early-stopping-{}", std::process::id()));
    let start = Start {
        recipe: &recipe,
        recipe_name: "quick",
        data: &data,
        data_location: "shapes:1000,200",
        init: None,
        devices: devices(),
    };
    let mut run = Run::create(&folder, &start)?;
    let (mut usual, mut stop) = (usual_observers(), StopAtLoss { enough: 0.5, reached: false });
    let mut observers = Observers(vec![&mut usual, &mut stop]);
    let outcome = run.train(devices(), &data, &mut observers, &false.into())?;

    // The run is saved as if it had been interrupted: it could be resumed, or its weights used.
    if outcome == Outcome::Interrupted {
        let path = checkpoint::last_path(&folder);
        let mut model = Model::open(&path, None, devices(), &recipe.engine)?;
        let accuracy = model.evaluate(&data.test, |_| ())?.accuracy();
        println!("Test accuracy when it stopped: {accuracy:.4}");
    }
    Ok(())
}
