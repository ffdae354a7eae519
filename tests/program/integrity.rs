//! Integrity: damage to checkpoints and states, diverged runs, edited recipes, other versions. Nothing wrong
//! ends with success, and nothing good is lost.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use safetensors::SafeTensors;

use super::{
    Place, SMALL, check_line, checkpoint, contents, replace, text, with_header, without_checksums,
};

/// A way to damage a file.
type Damage = fn(&mut Vec<u8>);

const CHECKPOINT: &str = "run/weights/epoch-0001.safetensors";
const STATE: &str = "run/state/state.safetensors";

/// Where the first number of a tensor lies in a file.
fn offset(bytes: &[u8], name: &str) -> usize {
    let start = bytes.as_ptr().addr();
    let tensors = SafeTensors::deserialize(bytes).unwrap();
    tensors.tensor(name).unwrap().data().as_ptr().addr() - start
}

/// Flips the highest bit of the exponent of a tensor's first number.
fn flip(path: &Path, name: &str) {
    let mut bytes = fs::read(path).unwrap();
    let at = offset(&bytes, name);
    bytes[at + 3] ^= 0x40;
    fs::write(path, bytes).unwrap();
}

/// Ways to damage a safetensors file, each with a part of the error.
const DAMAGES: [(Damage, &str); 7] = [
    (Vec::clear, "damaged or of another format"),
    (|bytes| bytes.truncate(7), "damaged or of another format"),
    (|bytes| bytes.truncate(bytes.len() / 2), "damaged or of another format"),
    (|bytes| bytes.truncate(bytes.len() - 1), "damaged or of another format"),
    (|bytes| bytes[3] ^= 0x40, "damaged or of another format"),
    (|bytes| bytes[8] ^= 1, "damaged or of another format"),
    (|bytes| replace(bytes, "start_layer.0.weight", "start_layer.0.Weight"), "is missing"),
];

#[test]
fn damaged_checkpoints_are_named() {
    let place = Place::with_run("--epochs 1");
    let damaged = |damage: Damage| {
        let mut bytes = without_checksums(&fs::read(place.path(CHECKPOINT)).unwrap());
        damage(&mut bytes);
        fs::write(place.path("bad.safetensors"), bytes).unwrap();
    };
    let train = format!("train {SMALL} --init bad.safetensors");
    for (damage, problem) in DAMAGES {
        damaged(damage);
        for command in ["evaluate bad.safetensors", "predict bad.safetensors x.png", &train] {
            place.refuse_saying(1, command, &["bad.safetensors: ", problem, "; "]);
        }
    }
    let damages: [(Damage, &str); 4] = [
        (|bytes| replace(bytes, "[network]", "(network]"), "has a bad recipe: line "),
        (
            |bytes| replace(bytes, "leaky_slope = 0.01", "leaky_slope = 7.01"),
            "network.leaky_slope must be",
        ),
        (|bytes| replace(bytes, "\"per_image", "\"per-image"), "has a damaged normalization"),
        (|bytes| replace(bytes, "\"classes\"", "\"Classes\""), "has no classes in its metadata"),
    ];
    for (damage, problem) in damages {
        damaged(damage);
        place.refuse_saying(
            1,
            "evaluate bad.safetensors",
            &["bad.safetensors: ", problem, "--recipe"],
        );
    }
    assert!(!place.path("runs").exists());
}

#[test]
fn a_run_with_a_damaged_state_is_not_modified() {
    let place = Place::with_run("--epochs 1 --log-steps");
    let state = place.path("run/state/state.safetensors");
    let good = fs::read(&state).unwrap();
    let unsealed = without_checksums(&good);
    // Nothing to fall back on.
    fs::remove_file(place.path("run/state/previous.safetensors")).unwrap();
    let again = "train --resume run --epochs 2 --set optimizer.learning_rate=0.01";
    let epoch: Damage = |bytes| replace(bytes, "\\\"epoch\\\":2", "\\\"epoch\\\":0");
    for (damage, problem) in DAMAGES.into_iter().chain([(epoch, "has a damaged progress")]) {
        let mut bytes = unsealed.clone();
        damage(&mut bytes);
        fs::write(&state, bytes).unwrap();
        let before = contents(&place.path("run"));
        place.refuse_saying(1, again, &["run/state/state.safetensors: ", problem, "--init"]);
        assert!(contents(&place.path("run")) == before);
    }
    fs::write(&state, good).unwrap();
    let recipe = place.read("run/recipe.toml");
    for (from, to, problem) in [
        ("[data]", "[data", "line "),
        ("size = 125", "size = 0", "batch.size must be from 1"),
        (
            "epochs = 1",
            "epochs = \"one\"",
            "train.epochs must be a whole number, but it is \"one\"",
        ),
    ] {
        fs::write(place.path("run/recipe.toml"), recipe.replacen(from, to, 1)).unwrap();
        place.refuse_saying(1, again, &["run/recipe.toml: is damaged or was edited (", problem]);
    }
    fs::write(place.path("run/recipe.toml"), recipe).unwrap();
    place.run(again);
}

/// The float tensors of a file, by name.
fn numbers(path: &Path) -> BTreeMap<String, Vec<f32>> {
    let bytes = fs::read(path).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let real = tensors.iter().filter(|(_, view)| view.dtype() == safetensors::Dtype::F32);
    real.map(|(name, view)| {
        let (numbers, _) = view.data().as_chunks();
        (name.to_owned(), numbers.iter().map(|number| f32::from_le_bytes(*number)).collect())
    })
    .collect()
}

fn finite(path: &Path) -> bool {
    numbers(path).values().flatten().all(|number| number.is_finite())
}

#[test]
fn a_diverged_run_stops_and_can_be_resumed_from_its_last_good_state() {
    let place = Place::with_run("--epochs 1 --log-steps");
    place.run(&format!("train {SMALL} --epochs 1 --log-steps --out calm"));
    let state = place.path("run/state/state.safetensors");
    let before = numbers(&state);
    let wild = "train --resume run --epochs 3 --set optimizer.learning_rate=1e30";
    place.refuse_saying(
        1,
        wild,
        &["not a number at update 14 (epoch 2)", "--resume", "learning_rate"],
    );
    assert!(numbers(&state) == before, "the state is not the last good one");
    for run in ["run", "calm"] {
        let calm = "--epochs 3 --set optimizer.learning_rate=0.01";
        place.run(&format!("train --resume {run} {calm}"));
    }
    let last = |run: &str| fs::read(checkpoint(&place.path(run), 3)).unwrap();
    assert!(last("run") == last("calm"), "something of the wild updates was left");
    assert_eq!(place.read("run/steps.csv"), place.read("calm/steps.csv"));
    assert!(finite(&checkpoint(&place.path("run"), 3)));
}

#[test]
fn weights_that_are_not_finite_are_never_saved() {
    let place = Place::new();
    // The first update makes the weights infinite, which the loss would show only at the second.
    let infinite = "--set optimizer.learning_rate=1e3 --set optimizer.weight_decay=3e38 --epochs 1";
    let arguments =
        format!("train {SMALL} {infinite} --set batch.policy=fixed --set batch.size=144");
    place.refuse_saying(
        1,
        &format!("{arguments} --out run"),
        &["not a number at update 1 (epoch 1)"],
    );
    assert!(finite(&place.path("run/state/state.safetensors")));
    assert_eq!(fs::read_dir(place.path("run/weights")).unwrap().count(), 0);
}

#[test]
fn a_state_that_diverges_with_any_learning_rate_is_reported_as_such() {
    let place = Place::new();
    let wild = "--set optimizer.learning_rate=1e30 --set batch.policy=fixed --set batch.size=144";
    let rarely = "--set train.final_evaluation=false --set train.evaluate_every=0";
    let arguments = format!("train {SMALL} {wild} {rarely} --out run");
    place.refuse_saying(1, &format!("{arguments} --epochs 3"), &["update 2", "start a new run"]);
    assert!(finite(&place.path("run/state/state.safetensors")));
    let calm = "train --resume run --set optimizer.learning_rate=0.01";
    place.refuse_saying(1, calm, &["update 2 (epoch 2)", "any learning rate", "--init"]);
    // An evaluation shows it, too: no class is the right answer of outputs that are not numbers.
    let arguments = format!("train {SMALL} {wild} --set train.evaluate_every=1 --out evaluated");
    place.refuse_saying(1, &format!("{arguments} --epochs 3"), &["update 1", "start a new run"]);
}

#[test]
fn a_flipped_bit_in_a_checkpoint_is_an_error_that_names_the_checksum() {
    let place = Place::with_run("--epochs 1");
    let path = place.path(CHECKPOINT);
    let good = fs::read(&path).unwrap();
    let train = format!("train {SMALL} --init {CHECKPOINT}");
    let evaluate = format!("evaluate {CHECKPOINT}");
    let predict = format!("predict {CHECKPOINT} x.png");
    for name in ["start_layer.1.running_var", "start_layer.0.weight", "output_layer.fc2.bias"] {
        fs::write(&path, &good).unwrap();
        if SafeTensors::deserialize(&good).unwrap().tensor(name).is_err() {
            continue;
        }
        flip(&path, name);
        for command in [&evaluate, &predict, &train] {
            place.refuse_saying(1, command, &[CHECKPOINT, "tensors", "`checksum`"]);
        }
    }
    fs::write(&path, with_header(&good, |header| header["__metadata__"]["epoch"] = "7".into()))
        .unwrap();
    place.refuse_saying(1, &evaluate, &[CHECKPOINT, "metadata", "`metadata_checksum`"]);
    // Without its checksums a file loads, with a note.
    fs::write(&path, without_checksums(&good)).unwrap();
    let output = place.command(&evaluate).output().unwrap();
    assert!(output.status.success() && text(&output.stderr).contains("has no checksum"));
    assert!(place.run(&train).contains("has no checksum"));
}

#[test]
fn outputs_that_are_not_numbers_are_an_error_that_names_the_file() {
    let place = Place::with_run("--epochs 1");
    let path = place.path(CHECKPOINT);
    fs::write(&path, without_checksums(&fs::read(&path).unwrap())).unwrap();
    let mut bytes = fs::read(&path).unwrap();
    let name = SafeTensors::deserialize(&bytes).unwrap().names()[0].to_owned();
    let statistics = SafeTensors::deserialize(&bytes).unwrap();
    let name = statistics
        .names()
        .into_iter()
        .find(|name| name.ends_with("running_mean"))
        .map_or(name, str::to_owned);
    let at = offset(&bytes, &name);
    bytes[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(&path, bytes).unwrap();
    let image = image::RgbImage::from_pixel(32, 32, image::Rgb([9, 8, 7]));
    image.save(place.path("x.png")).unwrap();
    for command in [format!("evaluate {CHECKPOINT}"), format!("predict {CHECKPOINT} x.png")] {
        let complaint = place.refuse(1, &command);
        let error = complaint.lines().last().unwrap();
        check_line(error, &[CHECKPOINT, "not a number", "another checkpoint"]);
    }
}

#[test]
fn a_damaged_state_is_replaced_by_the_save_before_it() {
    let place = Place::with_run("--epochs 3 --log-steps");
    let whole = fs::read(checkpoint(&place.path("run"), 3)).unwrap();
    let steps = place.read("run/steps.csv");
    let good = fs::read(place.path(STATE)).unwrap();
    let damaged: [(Damage, &str); 3] = [
        (|bytes| *bytes.last_mut().unwrap() ^= 0x40, "checksum"),
        (|bytes| bytes.truncate(100), "not a valid safetensors file"),
        (Vec::clear, "not a valid safetensors file"),
    ];
    for (damage, problem) in damaged {
        let previous = fs::read(place.path("run/state/previous.safetensors")).unwrap();
        let mut bytes = good.clone();
        damage(&mut bytes);
        fs::write(place.path(STATE), &bytes).unwrap();
        let output = place.run("train --resume run");
        for part in
            ["last save cannot be used", STATE, problem, "after update", "damaged.safetensors"]
        {
            assert!(output.contains(part), "no {part:?} in {output}");
        }
        assert!(fs::read(place.path("run/state/damaged.safetensors")).unwrap() == bytes);
        // The run was trained to its end again, from the previous save.
        assert!(fs::read(checkpoint(&place.path("run"), 3)).unwrap() == whole);
        assert_eq!(place.read("run/steps.csv"), steps);
        assert!(fs::read(place.path(STATE)).unwrap() != previous);
        fs::remove_file(place.path("run/state/damaged.safetensors")).unwrap();
    }
    // A crash between the two renames of a save leaves only the previous one.
    fs::remove_file(place.path(STATE)).unwrap();
    let output = place.run("train --resume run");
    assert!(output.contains("is missing") && output.contains("previous save"), "{output}");
    assert!(fs::read(checkpoint(&place.path("run"), 3)).unwrap() == whole);
}

#[test]
fn a_flipped_bit_in_the_state_is_not_blamed_on_the_learning_rate() {
    let place = Place::with_run("--epochs 1");
    let bytes = fs::read(place.path(STATE)).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let name = tensors.names().into_iter().find(|name| name.starts_with("model/")).unwrap();
    flip(&place.path(STATE), name);
    fs::remove_file(place.path("run/state/previous.safetensors")).unwrap();
    let again = "train --resume run --epochs 2";
    place.refuse_saying(1, again, &[STATE, "damaged", "checksum", "--init"]);
}

#[test]
fn an_edited_recipe_is_taken_over_or_refused_by_key() {
    let place = Place::with_run("--epochs 1");
    let path = place.path("run/recipe.toml");
    let recipe = place.read("run/recipe.toml");
    let edit = |from: &str, to: &str| {
        assert!(recipe.contains(from), "{recipe}");
        fs::write(&path, recipe.replacen(from, to, 1)).unwrap();
    };
    for (from, to, key) in [
        ("momentum = 0.9", "momentum = 0.8", "optimizer.momentum"),
        ("seed = 0", "seed = 1", "train.seed"),
        ("widths = [4, 8, 8]", "widths = [4, 8, 16]", "network.widths"),
        ("data_fingerprint = \"", "data_fingerprint = \"0", "run.data_fingerprint"),
        ("\"ring\"", "\"torus\"", "run.classes"),
    ] {
        edit(from, to);
        let parts = ["run/recipe.toml", key, "was edited", "only train.epochs", "undo the edit"];
        place.refuse_saying(1, "train --resume run", &parts);
    }
    for (from, to, key) in [
        ("[optimizer]\n", "[optimizer]\nmomentums = 1\n", "there is no key optimizer.momentums"),
        ("[run]\n", "[run]\nauthor = \"me\"\n", "there is no key run.author"),
    ] {
        edit(from, to);
        place.refuse_saying(1, "train --resume run", &["run/recipe.toml", key]);
    }
    edit("epochs = 1", "epochs = 2");
    let output = place.run("train --resume run");
    assert!(output.contains("train.epochs") && output.contains("from 1 to 2"), "{output}");
    place.run(&format!("train {SMALL} --epochs 1 --out other"));
    place.run("train --resume other --epochs 2");
    let weights = |run: &str| fs::read(checkpoint(&place.path(run), 2)).unwrap();
    assert!(weights("run") == weights("other"));
}

#[test]
fn runs_of_newer_versions_are_refused_and_of_older_ones_noted() {
    let place = Place::with_run("--epochs 1");
    let recipe = place.read("run/recipe.toml");
    let own = format!("version = \"{}\"", env!("CARGO_PKG_VERSION"));
    let version = |version: &str, more: &str| {
        let text = recipe.replacen(&own, &format!("{more}version = \"{version}\""), 1);
        assert!(text != recipe);
        fs::write(place.path("run/recipe.toml"), text).unwrap();
    };
    for more in ["", "licence = \"free\"\n"] {
        version("99.1.0", more);
        let parts = ["run", "99.1.0", env!("CARGO_PKG_VERSION"), "update crescendo"];
        place.refuse_saying(1, "train --resume run --epochs 2", &parts);
    }
    // A state from before states said which version saved them.
    version("0.0.1", "");
    let state = without_checksums(&fs::read(place.path(STATE)).unwrap());
    let older = with_header(&state, |header| {
        let metadata = header["__metadata__"].as_object_mut().unwrap();
        metadata.retain(|key, _| key != "version" && key != "record");
    });
    fs::write(place.path(STATE), older).unwrap();
    let output = place.run("train --resume run --epochs 2");
    assert!(output.contains("last saved by crescendo 0.0.1"), "{output}");
    assert!(output.contains("has no checksum"), "{output}");
}
