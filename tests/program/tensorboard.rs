//! TensorBoard's own reader finds the values of the CSV files in a run's folder, each once, and the run's recipe,
//! hyperparameters and pictures. The tests
//! need Python with `venv`, and install TensorBoard in `target/`:
//!
//! ```text
//! cargo test --release --test program -- --ignored tensorboard
//! ```

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use super::python::{interpreter, run};
use super::resume::{start, wait_for_updates};
use super::{LONGER, OFTEN, Place, column, rows};
use serde_json::{Value, json};

/// A Python interpreter with TensorBoard.
fn python() -> PathBuf {
    static PYTHON: LazyLock<PathBuf> =
        LazyLock::new(|| interpreter("tensorboard", "tests/tensorboard/requirements.txt"));
    PYTHON.clone()
}

/// What TensorBoard reads in a run's folder.
fn read(python: &Path, folder: &Path) -> Value {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tensorboard/read.py");
    serde_json::from_str(&run(Command::new(python).arg(script).arg(folder))).unwrap()
}

/// The recipe of a run as Markdown.
fn recipe(place: &Place, folder: &str) -> String {
    let recipe = place.read(&format!("{folder}/recipe.toml"));
    recipe.lines().map(|line| format!("    {line}\n")).collect()
}

/// The steps and values of a tag.
fn points(value: &Value) -> Vec<(u64, f64)> {
    let point = |point: &Value| (point[0].as_u64().unwrap(), point[1].as_f64().unwrap());
    value.as_array().unwrap().iter().map(point).collect()
}

/// The steps and cells of a CSV column, without empty cells.
fn expected<'a>(table: &'a str, step: &str, name: &str) -> Vec<(u64, &'a str)> {
    let steps = column(table, step).into_iter().map(|step| step.parse().unwrap());
    steps.zip(column(table, name)).filter(|(_, cell)| !cell.is_empty()).collect()
}

#[track_caller]
fn compare(tag: &str, points: &[(u64, f64)], expected: &[(u64, &str)]) {
    assert_eq!(points.len(), expected.len(), "{tag}: {points:?} {expected:?}");
    for (&(step, value), &(expected_step, cell)) in points.iter().zip(expected) {
        // CSV files have rounded decimals, and TensorBoard stores f32.
        let decimals = cell.split_once('.').map_or(0, |(_, decimals)| decimals.len());
        let written: f64 = cell.parse().unwrap();
        let near = 0.51 * 10_f64.powi(-(decimals as i32)) + 1e-6 * written.abs();
        assert!(step == expected_step && (value - written).abs() <= near, "{tag}: {value} {cell}");
    }
}

#[test]
#[ignore = "installs TensorBoard"]
fn tensorboard_reads_the_values_of_the_csv_files() {
    let python = interpreter("tensorboard", "tests/tensorboard/requirements.txt");
    let place = Place::new();
    let settings = "--set train.evaluate_every=1 --set data.validation=50";
    let mut child = start(&place, &format!("train {LONGER} {OFTEN} {settings} --out run"));
    for updates in [5, 11, 16, 22] {
        assert!(wait_for_updates(&mut child, &place.path("run"), updates));
        child.kill().unwrap();
        child.wait().unwrap();
        child = start(&place, "train --resume run");
    }
    assert!(child.wait().unwrap().success());

    let read = read(&python, &place.path("run"));
    let (epochs, steps) = (place.read("run/epochs.csv"), place.read("run/steps.csv"));
    let header = &rows(&epochs)[0];
    let mut compared = 0;
    for (tag, name) in [
        ("loss/train", "train_loss"),
        ("loss/validation", "validation_loss"),
        ("loss/test", "test_loss"),
        ("accuracy/train", "train_accuracy"),
        ("accuracy/validation", "validation_accuracy"),
        ("accuracy/test", "test_accuracy"),
        ("batch_size", "batch_size"),
        ("learning_rate", "learning_rate"),
        ("noise_scale", "noise_scale"),
        ("images_per_second", "images_per_second"),
    ] {
        if !header.contains(&name) {
            continue;
        }
        let expected = expected(&epochs, "epoch", name);
        let tag_is_there = !read["scalars"][tag].is_null();
        assert_eq!(tag_is_there, !expected.is_empty(), "{tag}");
        if tag_is_there {
            compare(tag, &points(&read["scalars"][tag]), &expected);
            compared += 1;
        }
    }
    assert!(compared >= 7, "{read}");
    for name in ["loss", "batch_size", "learning_rate"] {
        let points = points(&read["scalars"][format!("step/{name}")]);
        assert_eq!(points.len(), 10 + 10 + 5 + 5);
        compare(name, &points, &expected(&steps, "step", name));
    }

    assert_eq!(read["texts"]["recipe"], json!([[0, recipe(&place, "run")]]));
    let decisions = read["texts"]["decisions/batch_size"].as_array().unwrap();
    assert_eq!((decisions.len(), &decisions[0][0]), (1, &3.into()));
    assert!(decisions[0][1].as_str().unwrap().starts_with("Increasing batch size from 25 to 50"));

    let last = |tag: &str| points(&read["scalars"][tag]).last().unwrap().1;
    let best = points(&read["scalars"]["accuracy/validation"]).into_iter();
    let best = best.map(|point| point.1).fold(0.0, f64::max);
    assert_eq!(last("accuracy/best_validation"), best);
    assert_eq!(last("accuracy/best_test"), last("accuracy/test"));

    // Every epoch is validated, the last one tested; none is there twice.
    let steps = |tag: &str| -> Vec<u64> {
        let images = read["images"][tag].as_array().unwrap().iter();
        images.map(|image| image[0].as_u64().unwrap()).collect()
    };
    assert_eq!(steps("confusion_matrix/validation"), [1, 2, 3, 4]);
    assert_eq!(steps("worst_mistakes/validation"), [1, 2, 3, 4]);
    assert_eq!((steps("confusion_matrix/test"), steps("worst_mistakes/test")), (vec![4], vec![4]));
    let hyperparameters = &read["hparams"];
    assert_eq!(hyperparameters["data"], "shapes");
    assert_eq!(hyperparameters["train.epochs"], 4.0);
    assert_eq!(hyperparameters["data.validation"], 50.0);
    assert_eq!(read["status"], 1);
}

#[test]
#[ignore = "installs TensorBoard"]
fn a_run_of_a_comparison_has_its_own_recipe_once() {
    let python = python();
    let place = Place::new();
    // The second arm branches off the first after its first epoch.
    std::fs::write(place.path("arms.toml"), super::compare::ARMS).unwrap();
    place.run("compare arms.toml --data shapes:144,100 --seeds 0 --out arms");
    let fixed = read(&python, &place.path("arms/fixed/seed-0"));
    let grown = read(&python, &place.path("arms/grown/seed-0"));
    assert_ne!(recipe(&place, "arms/fixed/seed-0"), recipe(&place, "arms/grown/seed-0"));
    for (arm, read) in [("fixed", fixed), ("grown", grown)] {
        let folder = format!("arms/{arm}/seed-0");
        assert_eq!(read["texts"]["recipe"], json!([[0, recipe(&place, &folder)]]), "{arm}");
        assert_eq!(read["hparams"]["recipe"], arm);
        let epochs = place.read(&format!("{folder}/epochs.csv"));
        let expected = expected(&epochs, "epoch", "train_loss");
        assert_eq!(expected.len(), 2);
        compare(arm, &points(&read["scalars"]["loss/train"]), &expected);
        assert_eq!(read["status"], 1);
    }
}
