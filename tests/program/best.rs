//! The best and the last weights of a run, and early stopping.

use std::fs;
use std::process::Stdio;

use safetensors::SafeTensors;
use serde_json::Value;

use super::{LONGER, OFTEN, Place, SMALL, assert_equal, checkpoint, column, contents, text};

const VALIDATED: &str =
    "--set data.validation=60 --set train.evaluate_every=1 --set train.checkpoint_every=1";

fn updates(place: &Place, arguments: &str) -> Vec<u64> {
    let results: Value =
        serde_json::from_str(&place.run(&format!("evaluate {arguments} --json"))).unwrap();
    let results = results["results"].as_array().unwrap().iter();
    results.map(|result| result["updates"].as_u64().unwrap()).collect()
}

/// A file's tensors, without the metadata.
fn weights(place: &Place, path: &str) -> Vec<u8> {
    let bytes = fs::read(place.path(path)).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors = tensors.tensors();
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    tensors.iter().flat_map(|(_, tensor)| tensor.data().to_vec()).collect()
}

/// The best epoch by what `epochs.csv` says: the highest accuracy, then the lowest loss, then the first.
fn best_epoch(table: &str) -> usize {
    let numbers = |name: &str| -> Vec<f64> {
        column(table, name).iter().map(|cell| cell.parse().unwrap()).collect()
    };
    let (accuracy, loss) = (numbers("validation_accuracy"), numbers("validation_loss"));
    let better = |a: usize, b: usize| (accuracy[a], -loss[a]) > (accuracy[b], -loss[b]);
    (1..accuracy.len()).fold(0, |best, epoch| if better(epoch, best) { epoch } else { best }) + 1
}

#[test]
fn the_best_weights_are_those_of_the_best_validation_accuracy() {
    let place =
        Place::with_run(&format!("--epochs 6 {VALIDATED} --set optimizer.learning_rate=0.3"));
    let table = place.read("run/epochs.csv");
    let best = best_epoch(&table);
    let of_epoch = |epoch: usize| format!("run/weights/epoch-{epoch:04}.safetensors");
    assert!(weights(&place, "run/weights/best.safetensors") == weights(&place, &of_epoch(best)));
    assert!(weights(&place, "run/weights/last.safetensors") == weights(&place, &of_epoch(6)));
    let evaluated = updates(&place, "run --checkpoints best,last");
    let of_table = column(&table, "updates");
    assert_eq!(evaluated.map_to_text(), [of_table[best - 1], of_table[5]]);

    // Without being asked, the last weights are evaluated, and the best ones used to predict.
    let output = place.command("evaluate run").output().unwrap();
    assert!(text(&output.stdout).starts_with("Restored model parameters for checkpoint 6 loss "));
    let noted = text(&output.stderr).contains(&format!("those of epoch {best};"));
    assert_eq!(noted, best != 6, "{}", text(&output.stderr));
    image::RgbImage::from_pixel(32, 32, image::Rgb([200, 90, 10]))
        .save(place.path("x.png"))
        .unwrap();
    let output = place.command("predict run x.png").output().unwrap();
    let named = text(&output.stderr);
    assert!(named.contains(&format!("epoch {best}, in run/weights/best.safetensors")), "{named}");
    let same = place.run(&format!("predict {} x.png", of_epoch(best)));
    assert_eq!(text(&output.stdout), same);
}

/// Numbers as the cells of a table.
trait MapToText {
    fn map_to_text(self) -> Vec<String>;
}

impl MapToText for Vec<u64> {
    fn map_to_text(self) -> Vec<String> {
        self.iter().map(u64::to_string).collect()
    }
}

#[test]
fn the_test_set_never_chooses() {
    let place = Place::with_run("--epochs 2 --set train.evaluate_every=1");
    assert!(!place.path("run/weights/best.safetensors").exists());
    assert!(place.path("run/weights/last.safetensors").exists());
    let parts = ["run: has no best checkpoint", "data.validation"];
    place.refuse_saying(1, "evaluate run --checkpoints best", &parts);
    place.refuse_value("evaluate run --checkpoints first", "best or last");
    // With validation images that are measured only at the end, the end is the best.
    let rarely = "--set data.validation=60 --set train.evaluate_every=0 --epochs 2 --out rarely";
    place.run(&format!("train {SMALL} {rarely}"));
    let best = weights(&place, "rarely/weights/best.safetensors");
    assert!(best == weights(&place, "rarely/weights/epoch-0002.safetensors"));
}

#[test]
fn training_stops_early_when_the_validation_accuracy_does_not_improve() {
    let place = Place::new();
    // With this learning rate the weights hardly move.
    let still = "--set optimizer.learning_rate=1e-9 --set train.stop_after=2";
    let output = place.run(&format!("train {SMALL} {VALIDATED} {still} --epochs 9 --out run"));
    assert!(output.contains("Training stops early: 2 evaluations in a row"), "{output}");
    assert!(output.contains("\nTest accuracy: "), "{output}");
    let table = place.read("run/epochs.csv");
    let epochs = column(&table, "epoch").len();
    assert_eq!(epochs, best_epoch(&table) + 2);
    assert!(epochs < 9);
    // It has ended, and does not go on by itself.
    let before = contents(&place.path("run/weights"));
    let again = place.run("train --resume run");
    assert!(again.contains("Test accuracy: "), "{again}");
    assert!(contents(&place.path("run/weights")) == before);
    place.run("train --resume run --set train.stop_after=0");
    assert_eq!(column(&place.read("run/epochs.csv"), "epoch").len(), 9);
    let parts = ["train.stop_after", "data.validation"];
    let refused = format!("train {SMALL} --set train.stop_after=2 --out no");
    place.refuse_saying(2, &refused, &parts);
}

#[test]
#[ignore = "takes long: see CONTRIBUTING.md"]
fn longer_early_stopping_is_the_same_after_kills() {
    let place = Place::new();
    let stop = "--set optimizer.learning_rate=1e-9 --set train.stop_after=3";
    let arguments = format!("train {LONGER} {VALIDATED} {stop} {OFTEN}");
    place.run(&format!("{arguments} --out whole"));
    for updates in [9, 19, 29, 35] {
        let name = format!("killed-{updates}");
        let mut child = super::resume::start(&place, &format!("{arguments} --out {name}"));
        super::resume::wait_for_updates(&mut child, &place.path(&name), updates);
        child.kill().unwrap();
        child.wait().unwrap();
        place.run(&format!("train --resume {name} --log-steps"));
        assert_equal(&place.path("whole"), &place.path(&name));
        let best = |run: &str| fs::read(place.path(run).join("weights/best.safetensors")).unwrap();
        assert!(best("whole") == best(&name));
    }
}

#[test]
fn after_a_kill_the_newest_weights_are_evaluated() {
    let place = Place::new();
    let arguments = format!("train {SMALL} {OFTEN} --set train.checkpoint_every=1 --out run");
    let mut command = place.command(&arguments);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    super::resume::wait_for_updates(&mut child, &place.path("run"), 14);
    child.kill().unwrap();
    child.wait().unwrap();
    let newest = (1..=4).rev().find(|&epoch| checkpoint(&place.path("run"), epoch).exists());
    let evaluated = place.run("evaluate run");
    let expected = format!("Restored model parameters for checkpoint {}", newest.unwrap());
    assert!(evaluated.starts_with(&expected), "{evaluated}");
}
