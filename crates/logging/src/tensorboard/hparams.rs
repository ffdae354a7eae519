//! The hyperparameters of a run for TensorBoard's HParams dashboard, which compares runs in a table.
//!
//! TensorBoard takes the columns of its table from all runs: the hyperparameters that any of them has, and their
//! scalars as metrics.

use crescendo_training::{Error, Recipe, Record};
use toml::{Table, Value};

/// Keys that every run has, whatever its recipe.
const ALWAYS: &[&str] = &[
    "network.family",
    "network.blocks",
    "network.widths",
    "optimizer.kind",
    "optimizer.learning_rate",
    "schedule.policy",
    "batch.policy",
    "batch.size",
    "train.epochs",
    "train.seed",
];

/// Keys that say how a run is done and recorded, not what is computed, or that follow from the data.
const NEVER: &[&str] = &[
    "batch.memory_limit",
    "data.source",
    "network.classes",
    "engine.threads",
    "engine.isa",
    "engine.tiles",
    "train.evaluate_every",
    "train.final_evaluation",
    "train.checkpoint_every",
    "train.keep",
    "train.log_steps",
    "train.save_every_minutes",
];

/// The value of a hyperparameter.
#[derive(Clone, Debug, PartialEq)]
pub enum Hyperparameter {
    Number(f64),
    Switch(bool),
    Text(String),
}

/// A run's hyperparameters: its recipe's and data set's names, and of the recipe's keys those in [`ALWAYS`] and those
/// that differ from the recipe `report`.
///
/// # Errors
/// If the built-in recipe cannot be read.
pub fn hyperparameters(record: &Record) -> Result<Vec<(String, Hyperparameter)>, Error> {
    let text = |text: &str| Hyperparameter::Text(text.to_owned());
    let mut all = vec![
        ("recipe".to_owned(), text(&record.run.recipe)),
        ("data".to_owned(), text(&record.run.data_name)),
    ];
    let base = Recipe::load::<&str>("report", &[])?.table();
    changed(&record.recipe.table(), Some(&base), "", &mut all);
    Ok(all)
}

/// Adds the keys of a table, which is the section `section` of a recipe, as far as they are shown.
fn changed(
    own: &Table,
    base: Option<&Table>,
    section: &str,
    all: &mut Vec<(String, Hyperparameter)>,
) {
    for (key, value) in own {
        let name = format!("{section}{key}");
        let other = base.and_then(|base| base.get(key));
        if let Value::Table(own) = value {
            changed(own, other.and_then(Value::as_table), &format!("{name}."), all);
        } else if ALWAYS.contains(&&*name) || (other != Some(value) && !NEVER.contains(&&*name)) {
            let value = match value {
                Value::Integer(number) => Hyperparameter::Number(*number as f64),
                Value::Float(number) => Hyperparameter::Number(*number),
                Value::Boolean(switch) => Hyperparameter::Switch(*switch),
                Value::String(text) => Hyperparameter::Text(text.clone()),
                other => Hyperparameter::Text(other.to_string()),
            };
            all.push((name, value));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crescendo_cpu::CpuDevices;
    use crescendo_training::{Run, Start};

    #[test]
    fn the_keys_that_matter_or_differ_are_hyperparameters() {
        let place = tempfile::tempdir().unwrap();
        let data = crescendo_data::shapes::generate(0, 300, 50);
        let changes = [
            "network.widths=[4, 4, 4]",
            "optimizer.nesterov=true",
            "network.head.scale=0.5",
            "train.keep=3",
        ];
        let recipe = Recipe::load("quick", &changes).unwrap();
        let run = Run::create(&place.path().join("run"), &Start::new(&recipe, &data, &CpuDevices))
            .unwrap();
        let all = hyperparameters(run.record()).unwrap();
        let find = |name: &str| all.iter().find(|one| one.0 == name).map(|one| one.1.clone());
        let text = |text: &str| Some(Hyperparameter::Text(text.to_owned()));
        assert_eq!(find("data"), text("shapes"));
        assert_eq!(find("network.widths"), text("[4, 4, 4]"));
        assert_eq!(find("optimizer.learning_rate"), Some(Hyperparameter::Number(0.1)));
        assert_eq!(find("train.seed"), Some(Hyperparameter::Number(0.0)));
        assert_eq!(find("optimizer.nesterov"), Some(Hyperparameter::Switch(true)));
        assert_eq!(find("network.head.scale"), Some(Hyperparameter::Number(0.5)));
        // As in `report`, or of no matter.
        for name in ["optimizer.momentum", "batch.memory_limit", "train.keep"] {
            assert_eq!(find(name), None, "{name}");
        }
    }

    #[test]
    fn every_name_is_that_of_a_key() {
        fn keys(table: &Table, section: &str, all: &mut Vec<String>) {
            for (key, value) in table {
                match value {
                    Value::Table(table) => keys(table, &format!("{section}{key}."), all),
                    _ => all.push(format!("{section}{key}")),
                }
            }
        }
        let mut all = Vec::new();
        keys(&Recipe::load("report", &["engine.tiles=32"]).unwrap().table(), "", &mut all);
        for name in ALWAYS.iter().chain(NEVER) {
            assert!(all.iter().any(|key| key == name), "{name}");
        }
    }
}
