//! Trains with a rule of its own for the batch size and the learning rate:
//! `cargo run --release --example own_policy`.

use crescendo::data::shapes;
use crescendo::devices;
use crescendo::logging::usual_observers;
use crescendo::training::policy::{Choice, EpochStart, Policy};
use crescendo::training::recipe::BatchPolicyKind;
use crescendo::training::{Error, Recipe, Run, Start};
use serde_json::{Value, json};

/// Grows the batch by half when the training loss falls by less than a fifth, at most three times; after that it halves
/// the learning rate instead.
#[derive(Default)]
struct GrowThenDecay {
    grown: u64,
}

impl Policy for GrowThenDecay {
    fn decide(&mut self, epoch: &EpochStart<'_>) -> Result<Choice, Error> {
        let mut choice = epoch.current.clone();
        let [.., before, last] = epoch.history else { return Ok(choice) };
        if last.train_loss > 0.8 * before.train_loss {
            if self.grown < 3 {
                self.grown += 1;
                choice.batch_size += choice.batch_size / 2;
            } else {
                choice.learning_rate_factor /= 2.0;
            }
            // It is logged with the decision.
            choice.reason =
                format!("the loss fell from {:.3} to {:.3}", before.train_loss, last.train_loss);
        }
        Ok(choice)
    }

    // What it remembers is saved with the run, so that a resumed run decides the same.
    fn state(&self) -> Value {
        json!({ "grown": self.grown })
    }

    fn restore(&mut self, state: &Value) -> Result<(), Error> {
        self.grown = state["grown"].as_u64().ok_or_else(|| Error::observer("not a count"))?;
        Ok(())
    }
}

fn main() -> Result<(), Error> {
    let recipe = Recipe::builder("quick")?
        .batch(|batch| {
            batch.policy = BatchPolicyKind::Custom;
            batch.initial = 20;
        })
        .train(|train| train.epochs = 8)
        .build()?;
    let data = shapes::generate(0, 1000, 200);
    let folder = std::env::temp_dir().join(format!("own-policy-{}", std::process::id()));
    let start = Start::new(&recipe, &data, devices());
    let mut run = Run::create(&folder, &start)?;
    // To resume it: `Run::open(&folder)`, and the same policy again.
    run.set_policy(GrowThenDecay::default())?;
    run.train(devices(), &data, &mut usual_observers(), &false.into())?;
    Ok(())
}
