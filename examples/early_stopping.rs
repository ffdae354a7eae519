//! Stops a run from an observer, here when the training loss hardly falls any more, and uses its last weights:
//! `cargo run --release --example early_stopping`.

use crescendo::data::shapes;
use crescendo::devices;
use crescendo::logging::{Observers, usual_observers};
use crescendo::training::events::{Event, Observer};
use crescendo::training::{Error, Model, Outcome, Recipe, Run, Start, checkpoint};

/// Stops after two epochs in a row whose training loss is less than one percent below the lowest before.
struct StopOnPlateau {
    lowest: f64,
    waited: u32,
}

impl Observer for StopOnPlateau {
    fn event(&mut self, event: &Event) -> Result<(), Error> {
        if let Event::Epoch(epoch) = event {
            let improves = epoch.train_loss < 0.99 * self.lowest;
            self.waited = if improves { 0 } else { self.waited + 1 };
            self.lowest = self.lowest.min(epoch.train_loss);
        }
        Ok(())
    }

    // Asked before each update.
    fn wants_stop(&self) -> bool {
        self.waited >= 2
    }
}

fn main() -> Result<(), Error> {
    let recipe = Recipe::builder("quick")?.train(|train| train.epochs = 50).build()?;
    let data = shapes::generate(0, 1000, 200);
    let folder = std::env::temp_dir().join(format!("early-stopping-{}", std::process::id()));
    let start = Start::new(&recipe, &data, devices());
    let mut run = Run::create(&folder, &start)?;
    let (mut usual, mut stop) =
        (usual_observers(), StopOnPlateau { lowest: f64::INFINITY, waited: 0 });
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
