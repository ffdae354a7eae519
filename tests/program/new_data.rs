//! `evaluate RUN --data NEW`: a trained network on images that are not the run's own.

use std::fs;

use safetensors::SafeTensors;
use serde_json::Value;

use super::data_forms::{TINY, images};
use super::{Place, check_line, text};

const CLASSES: [&str; 3] = ["lily", "rose", "tulip"];

/// With a run on the folder `flowers` of three classes.
fn trained(more: &str) -> Place {
    let place = Place::new();
    for (class, name) in CLASSES.into_iter().enumerate() {
        images(&place.path(&format!("flowers/{name}")), class as u32, 0, 20);
    }
    place.run(&format!("train {TINY} {more} --data flowers --epochs 2 --out run"));
    place
}

/// Adds a folder of 8 images of each of these classes.
fn add(place: &Place, folder: &str, classes: &[&str]) {
    for name in classes {
        let class = CLASSES.iter().position(|known| known == name).unwrap_or(7) as u32;
        images(&place.path(&format!("{folder}/{name}")), class, 30, 38);
    }
}

/// What is printed as JSON, and the notes and warnings.
#[track_caller]
fn evaluate(place: &Place, arguments: &str) -> (Value, String) {
    let output = place.command(&format!("evaluate {arguments} --json")).output().unwrap();
    assert!(output.status.success(), "{arguments}: {}", text(&output.stderr));
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    (json["results"][0].clone(), text(&output.stderr))
}

/// The program must fail with this code, and with an error that contains all of `parts`, after any notes.
#[track_caller]
fn last_line(place: &Place, code: i32, arguments: &str, parts: &[&str]) {
    let complaint = place.refuse(code, arguments);
    check_line(complaint.lines().last().unwrap_or_default(), parts);
}

fn confusion(result: &Value) -> Vec<Vec<u64>> {
    serde_json::from_value(result["confusion"].clone()).unwrap()
}

#[test]
fn all_images_of_a_new_folder_are_scored_with_classes_by_name() {
    let place = trained("");
    add(&place, "new", &["tulip", "lily"]);
    let (result, notes) = evaluate(&place, "run --data new");
    assert!(notes.contains("the folder new is not the data that"), "{notes}");
    assert!(notes.contains("all of its 16 images are test images"), "{notes}");
    assert!(notes.contains("no test images of these classes: rose"), "{notes}");
    assert_eq!(result["classes"], serde_json::json!(CLASSES));
    // The same as what each image is predicted to be.
    let mut expected = vec![vec![0; 3]; 3];
    for (class, name) in CLASSES.into_iter().enumerate().filter(|(_, name)| *name != "rose") {
        let predicted = place.run(&format!("predict run/weights/last.safetensors new/{name}"));
        for line in predicted.lines() {
            let at = CLASSES.iter().position(|class| line.contains(&format!(": {class}")));
            expected[class][at.unwrap_or_else(|| panic!("{line}"))] += 1;
        }
    }
    assert_eq!(confusion(&result), expected);
    assert_eq!(result["class_accuracies"][1], Value::Null);

    // The same as an archive; a share of it; only one class; only a folder of test images.
    let (share, notes) = evaluate(&place, "run --data new --test-split 0.25");
    assert_eq!(share["images"], 4);
    assert!(notes.contains("some of the test images may be training images"), "{notes}");
    add(&place, "one", &["rose"]);
    let (one, notes) = evaluate(&place, "run --data one");
    assert_eq!((&one["images"], &one["balanced_accuracy"]), (&8.into(), &one["accuracy"]));
    assert!(notes.contains("these classes: lily, tulip"), "{notes}");
    for folder in ["test", "Testing", "val"] {
        add(&place, &format!("{folder}-only/{folder}"), &["tulip", "lily"]);
        let (same, notes) = evaluate(&place, &format!("run --data {folder}-only"));
        assert_eq!(confusion(&same), expected, "{folder}");
        assert!(notes.contains("all of its 16 images are test images"), "{notes}");
        // Nothing can be trained on it.
        let train = format!("train {TINY} --data {folder}-only --out never");
        place.refuse_saying(1, &train, &["folders of test images", "no folder `train`"]);
    }
    add(&place, "one-test/test", &["lily"]);
    assert_eq!(evaluate(&place, "run --data one-test").0["images"], 8);
    // Its own folder of test images stays what it is.
    add(&place, "both/train", &["lily", "rose"]);
    add(&place, "both/test", &["lily"]);
    assert_eq!(evaluate(&place, "run --data both").0["images"], 8);
}

#[test]
fn a_class_that_the_network_does_not_have_is_refused() {
    let place = trained("");
    add(&place, "new", &["lily", "rose", "violet"]);
    let parts = ["has the classes lily, rose, tulip, but the folder new has", "leave out violet"];
    last_line(&place, 1, "evaluate run --data new", &parts);
    add(&place, "test-only/test", &["lily", "rose"]);
    let precise = "evaluate run --data test-only --bn both";
    last_line(&place, 1, precise, &["precise BatchNorm statistics need training images", "--bn"]);
}

#[test]
fn the_runs_own_data_is_recognised_wherever_it_is() {
    for split in ["", "--test-split 0.4"] {
        let place = trained(split);
        let (own, notes) = evaluate(&place, "run");
        assert_eq!(notes, "");
        assert_eq!(own["images"], if split.is_empty() { 12 } else { 24 });
        assert_eq!(evaluate(&place, "run --data flowers"), (own.clone(), notes.clone()));
        fs::rename(place.path("flowers"), place.path("moved")).unwrap();
        let (moved, notes) = evaluate(&place, "run --data moved");
        assert_eq!((&moved["images"], notes), (&own["images"], String::new()));
        assert_eq!(moved["confusion"], own["confusion"]);
        // A checkpoint by itself knows its data by name.
        fs::rename(place.path("moved"), place.path("flowers")).unwrap();
        fs::copy(place.path("run/weights/last.safetensors"), place.path("one.safetensors"))
            .unwrap();
        if split.is_empty() {
            let (alone, notes) = evaluate(&place, "one.safetensors --data flowers");
            assert_eq!(alone["confusion"], own["confusion"]);
            assert!(notes.contains("the folder flowers is taken for the data that"), "{notes}");
        }
        add(&place, "new", &["tulip"]);
        assert_eq!(evaluate(&place, "one.safetensors --data new").0["images"], 8);
        // Most of it is still what the network was trained on.
        images(&place.path("flowers/rose"), 1, 20, 30);
        let (changed, notes) = evaluate(&place, "run");
        assert!(notes.contains("some of the test images may be training images"), "{notes}");
        assert!(changed["images"].as_u64().unwrap() < 36, "{changed}");
    }
}

#[test]
fn a_recipes_file_names_the_classes_of_a_file_of_another_program() {
    let place = trained("--set data.normalize=dataset");
    let ours = evaluate(&place, "run").0;
    let bytes = fs::read(place.path("run/weights/last.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let bare = safetensors::serialize(tensors.iter(), None).unwrap();
    fs::write(place.path("bare.safetensors"), bare).unwrap();
    fs::copy(place.path("run/recipe.toml"), place.path("own.toml")).unwrap();
    add(&place, "new", &["tulip", "lily"]);
    let (new, _) = evaluate(&place, "run --data new");

    // The run's own data, without --data.
    let (same, _) = evaluate(&place, "bare.safetensors --recipe own.toml");
    assert_eq!(same["confusion"], ours["confusion"]);
    let (same, notes) = evaluate(&place, "bare.safetensors --recipe own.toml --data new");
    assert_eq!((&same["confusion"], &same["classes"]), (&new["confusion"], &new["classes"]));
    assert!(notes.contains("all of its 16 images are test images"), "{notes}");
    let predict = |file: &str, more: &str| place.run(&format!("predict {file} new {more}"));
    let expected = predict("run/weights/last.safetensors", "");
    assert_eq!(predict("bare.safetensors", "--recipe own.toml"), expected);

    // Written by hand: the statistics are those of the data.
    let own = "base = \"quick\"\n[network]\nwidths = [4, 8, 8]\nclasses = 3\n[data]\nnormalize = \
               \"dataset\"\n[run]\nclasses = [\"lily\", \"rose\", \"tulip\"]\n";
    fs::write(place.path("hand.toml"), own).unwrap();
    let (same, _) = evaluate(&place, "bare.safetensors --recipe hand.toml --data flowers");
    assert_eq!(same["confusion"], ours["confusion"]);
    let with = "--recipe hand.toml --data flowers";
    assert_eq!(predict("bare.safetensors", with), expected);
    let only_test = "evaluate bare.safetensors --recipe hand.toml --data test-only";
    add(&place, "test-only/test", &["lily", "rose"]);
    last_line(&place, 2, only_test, &["does not say how images are normalised", "recipe.toml"]);
    fs::write(place.path("hand.toml"), own.replace("[run]\nclasses", "[run]\nnames")).unwrap();
    let wrong = "evaluate bare.safetensors --recipe hand.toml --data flowers";
    place.refuse_saying(2, wrong, &["hand.toml: run: there is no key names", "classes"]);
}
