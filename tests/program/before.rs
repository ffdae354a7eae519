//! What the program computed before its redesign for several engines: runs and comparisons that were
//! stopped halfway go on, the first updates of every recipe are computed, and what programs read is
//! printed, all to the bit. `tests/fixtures/before/README.md` says what is kept there and how it was made.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{Place, array_rows, rows};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/before").join(name)
}

/// Compares with what is kept as `expected/name`, or keeps it there if `CRESCENDO_RECORD` is set.
#[track_caller]
fn check(name: &str, got: &str) {
    check_as(name, got, str::to_owned);
}

/// The same, of what `view` leaves of both.
#[track_caller]
fn check_as(name: &str, got: &str, view: fn(&str) -> String) {
    let path = fixture("expected").join(name);
    if std::env::var_os("CRESCENDO_RECORD").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, got).unwrap();
    }
    let expected = fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{}: {error}; it would be\n{got}", path.display()));
    let (expected, got) = (view(&expected), view(got));
    for (index, (expected, got)) in expected.lines().zip(got.lines()).enumerate() {
        assert!(expected == got, "{name}:{}\nexpected {expected}\n     got {got}", index + 1);
    }
    assert_eq!(expected.lines().count(), got.lines().count(), "{name}: lines");
}

/// The instruction sets that there are results for and that this processor has.
fn isas() -> impl Iterator<Item = &'static str> {
    let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
    ["portable", "avx2"].into_iter().filter(move |isa| *isa == "portable" || avx2)
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// With a copy of a fixture in the folder of its name.
fn place_with(name: &str) -> Place {
    let place = Place::new();
    copy(&fixture(name), &place.path(name));
    place
}

/// A digest of the tensors in a file, in the order of their names: names, types, shapes and bytes. It
/// leaves out the metadata, which may get keys that there were not.
fn digest(path: &Path) -> String {
    let bytes = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let tensors: BTreeMap<_, _> =
        SafeTensors::deserialize(&bytes).unwrap().tensors().into_iter().collect();
    let mut hasher = Sha256::new();
    for (name, tensor) in tensors {
        hasher.update(format!("{name} {:?} {:?}\n", tensor.dtype(), tensor.shape()));
        hasher.update(tensor.data());
    }
    hasher.finalize().iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

/// Digests of a run's state and checkpoints, and what the checkpoints' metadata says but the recipe and
/// the version.
fn tensors(run: &Path) -> String {
    let mut text = format!("state {}\n", digest(&run.join("state/state.safetensors")));
    for (path, bytes) in super::contents(&run.join("weights")) {
        let name = path.file_stem().unwrap().to_string_lossy();
        if ["best", "last"].contains(&&*name) {
            // There were none.
            continue;
        }
        writeln!(text, "{name} {}", digest(&path)).unwrap();
        let metadata = SafeTensors::read_metadata(&bytes).unwrap().1.metadata().clone().unwrap();
        let metadata: BTreeMap<_, _> = metadata.into_iter().collect();
        assert!(metadata.contains_key("recipe") && metadata.contains_key("version"));
        for (key, value) in metadata {
            if !["recipe", "version", "checksum", "metadata_checksum"].contains(&&*key) {
                writeln!(text, "{name} {key}: {value}").unwrap();
            }
        }
    }
    text
}

/// A table without the columns that are times, and those that there were not.
fn timeless(table: &str) -> String {
    let table = rows(table);
    let left_out = ["seconds", "images_per_second", "device", "precision", "version", "validation"];
    let times = |index: usize| left_out.contains(&table[0][index]);
    let mut text = String::new();
    for row in &table {
        let cells = row.iter().enumerate().filter(|(index, _)| !times(*index));
        writeln!(text, "{}", cells.map(|(_, cell)| *cell).collect::<Vec<_>>().join(",")).unwrap();
    }
    text
}

/// `decisions.csv` without the reasons, its sixth column: they are for people, and their words may change.
fn without_reasons(table: &str) -> String {
    let mut kept = String::new();
    for line in table.lines() {
        let mut cells: Vec<&str> = line.splitn(6, ',').collect();
        let rest = cells.pop().unwrap();
        let end = match rest.strip_prefix('"') {
            Some(quoted) => quoted.split_once("\",").unwrap().1,
            None => rest.split_once(',').unwrap().1,
        };
        writeln!(kept, "{},{end}", cells.join(",")).unwrap();
    }
    kept
}

/// Events and results without times and without sentences for people: their keys stay.
fn without_times(mut value: Value) -> Value {
    match &mut value {
        Value::Object(object) => {
            if object.get("event").is_some_and(|event| event == "epoch") {
                object.remove("test_loss");
            }
            // Keys that there were not.
            let keys = [
                "balanced_accuracy",
                "top5_accuracy",
                "calibration_error",
                "calibration",
                "class_precisions",
                "class_recalls",
                "device",
                "precision",
                "question",
                "source",
            ];
            for key in keys {
                object.remove(key);
            }
            for (key, value) in object {
                *value = match &key[..] {
                    "seconds" | "images_per_second" | "description" | "text" => Value::Null,
                    _ => without_times(value.take()),
                };
            }
        }
        Value::Array(values) => {
            values.iter_mut().for_each(|value| *value = without_times(value.take()));
        }
        _ => {}
    }
    value
}

fn pretty(json: &str) -> String {
    let value = without_times(serde_json::from_str(json).unwrap());
    serde_json::to_string_pretty(&value).unwrap() + "\n"
}

/// Two images, in an .npy.
fn images() -> Vec<u8> {
    let header = "{'descr': '|u1', 'fortran_order': False, 'shape': (2, 3072), }\n";
    let length = (header.len() as u16).to_le_bytes();
    let pixels = (0..2 * 3072_u32).map(|index| (index * index / 7 % 251) as u8).collect::<Vec<_>>();
    [b"\x93NUMPY\x01\x00", &length[..], header.as_bytes(), &pixels].concat()
}

/// Checks all that a run in a folder of this name has come to.
#[track_caller]
fn check_run(place: &Place, run: &str, name: &str) {
    check(&format!("{name}/tensors.txt"), &tensors(&place.path(run)));
    let read = |table: &str| place.read(&format!("{run}/{table}"));
    check(&format!("{name}/epochs.csv"), &timeless(&read("epochs.csv")));
    check(&format!("{name}/steps.csv"), &read("steps.csv"));
    check_as(&format!("{name}/decisions.csv"), &read("decisions.csv"), without_reasons);
}

/// A run that was stopped in the middle of an epoch comes to the same end, and says the same of images.
fn resume(name: &str, last: u32) {
    for isa in isas() {
        let name = &format!("{name}-{isa}");
        let place = place_with(name);
        place.run(&format!("train --resume {name}"));
        check_run(&place, name, name);
        let evaluated = place.run(&format!("evaluate {name} --isa {isa} --bn both --json"));
        let mut evaluated: Value = serde_json::from_str(&evaluated).unwrap();
        for result in evaluated["results"].as_array_mut().unwrap() {
            // Keys that there were not.
            let result = result.as_object_mut().unwrap();
            result.retain(|key, _| !["updates"].contains(&&**key));
        }
        check(&format!("{name}/evaluate.json"), &pretty(&evaluated.to_string()));

        fs::write(place.path("images.npy"), images()).unwrap();
        let predicted = place.run(&format!(
            "predict {name}/weights/epoch-{last:04}.safetensors images.npy --isa {isa} --out p.npy"
        ));
        let probabilities = fs::read(place.path("p.npy")).unwrap();
        let probabilities = array_rows(&probabilities, 10);
        check(&format!("{name}/predict.txt"), &format!("{predicted}{probabilities:?}\n"));
    }
}

#[test]
fn a_run_with_plateau_noise_scale_validation_and_an_average_goes_on() {
    resume("plateau", 6);
}

#[test]
fn a_run_with_muon_whitening_and_what_stays_as_it_is_goes_on() {
    resume("muon", 4);
}

#[test]
fn a_run_with_bf16_and_smaller_images_goes_on() {
    resume("bf16", 4);
}

#[test]
fn a_comparison_goes_on_with_runs_of_this_version() {
    // One arm has ended, one is in the middle of its second epoch, and one is a branch that waits.
    let place = place_with("compare-portable");
    let compare = "compare arms.toml --data shapes:60,6 --isa portable --set batch.memory_limit=1";
    let run = |place: &Place, more: &str| {
        let mut command = place.command(&format!("{compare}{more}"));
        let output = command.current_dir(place.path("compare-portable")).output().unwrap();
        assert!(output.status.success(), "{}", super::text(&output.stderr));
        super::text(&output.stdout)
    };
    let output = run(&place, "");
    assert!(output.contains("1 of 3: fixed, seed 0") && output.contains("3 of 3: "), "{output}");
    let results = place.read("compare-portable/runs/arms/results.csv");
    check("compare-portable/results.csv", &timeless(&results));
    // Whatever this version is.
    let own = format!("\"version\": \"{}\"", env!("CARGO_PKG_VERSION"));
    let json = pretty(&run(&place, " --json")).replace(&own, "\"version\": \"this\"");
    check("compare-portable/compare.json", &json);
    // What the other version has trained stays, and the rest is as if it had not been there.
    let fresh = Place::new();
    fs::create_dir(fresh.path("compare-portable")).unwrap();
    let arms = place.read("compare-portable/arms.toml");
    fs::write(fresh.path("compare-portable/arms.toml"), arms).unwrap();
    run(&fresh, "");
    let before = fs::read_to_string(fixture("compare-portable/runs/arms/results.csv")).unwrap();
    let fresh = fresh.read("compare-portable/runs/arms/results.csv");
    let expected = timeless(&before) + timeless(&fresh).split_once('\n').unwrap().1;
    assert_eq!(timeless(&results), expected);
    // A run of the other version can be finished by itself.
    for arm in ["fixed", "grown", "late"] {
        let run = format!("compare-portable/runs/arms/{arm}/seed-0");
        place.run(&format!("train --resume {run}"));
        check_run(&place, &run, &format!("compare-portable/{arm}"));
    }
}

/// Recipes cut down in size, so that together they use every kind of layer, kernel, rule and policy.
const RECIPES: [(&str, &str); 10] = [
    (
        "report",
        "report --set network.blocks=[2,1,1] --set network.widths=[16,32,32] --set \
         network.head.hidden=32 --set batch.steps=[[1,8]]",
    ),
    (
        "original-direct-elu",
        "original --set network.blocks=[1,1,1] --set network.widths=[4,20,20] --set \
         network.head.hidden=16 --set network.activation=elu --set engine.conv=direct --set \
         data.last_batch=keep --set batch.steps=[[1,10]] --set batch.noise_every=1",
    ),
    (
        "quick-winograd2-relu",
        "quick --set network.widths=[16,32,32] --set network.activation=relu --set \
         engine.conv=winograd2 --set batch.steps=[[1,8],[2,12]] --set train.max_steps=5 --set \
         optimizer.nesterov=true --set network.norm.momentum_convention=tensorflow",
    ),
    (
        "quick-parts-gelu",
        "quick --set network.widths=[16,32,32] --set network.activation=gelu --set \
         network.norm.ghost=4 --set batch.steps=[[1,12]] --set \
         batch.noise_every=1 --set schedule.policy=one_cycle",
    ),
    (
        "quick-bf16-silu",
        "quick --set network.widths=[16,32,32] --set network.activation=silu --set \
         engine.conv=winograd4 --set engine.activations=bf16 --set batch.steps=[[1,8]] --set \
         optimizer.decay=weights --set optimizer.average=ema --set optimizer.average_every=2",
    ),
    (
        "report-fast",
        "report-fast --set network.blocks=[1,1,1] --set network.widths=[16,32,32] --set \
         network.head.hidden=32 --set data.sides=[[1,16],[2,32]] --set batch.size=12 --set \
         batch.least_updates=0",
    ),
    (
        "fast94",
        "fast94 --set network.widths=[16,32,32] --set batch.size=8 --set batch.least_updates=0",
    ),
    (
        "fast95-bf16-lookahead",
        "fast95 --set network.widths=[16,20,32] --set batch.size=12 --set batch.least_updates=0 \
         --set engine.activations=bf16 --set optimizer.average=lookahead --set \
         optimizer.average_every=1",
    ),
    (
        "fast96",
        "fast96 --set network.widths=[16,32,32] --set batch.size=12 --set batch.least_updates=0",
    ),
    (
        "fast96-parts-winograd2-leaky",
        "fast96 --set network.widths=[16,16,32] --set batch.size=12 --set batch.least_updates=0 \
         --set network.activation=leaky_relu --set engine.conv=winograd2 --set \
         network.norm.ghost=4 --set data.sides=[[1,24],[2,32]]",
    ),
];

/// Trains all recipes for a few updates and compares weights, momentum and averages, and the loss on a
/// few test images.
fn first_updates(isa: &str, threads: &[usize]) {
    if !isas().any(|has| has == isa) {
        return;
    }
    let mut text = String::new();
    for (name, recipe) in RECIPES {
        let place = Place::new();
        let of = |threads: usize| {
            let run = format!("run-{threads}");
            let events = place.run(&format!(
                "train --data shapes:24,3 --epochs 3 --set train.max_steps=3 --set \
                 batch.memory_limit=1 {recipe} --isa {isa} --threads {threads} --json --out {run}"
            ));
            assert_eq!(events.contains("\"in_parts\""), recipe.contains("ghost"), "{events}");
            let evaluated = events.lines().find(|line| line.contains("\"evaluated\"")).unwrap();
            let evaluated: Value = serde_json::from_str(evaluated).unwrap();
            let weights = super::contents(&place.path(&run).join("weights"));
            let weights = digest(weights.keys().next_back().unwrap());
            let state = digest(&place.path(&run).join("state/state.safetensors"));
            format!("{name}: weights {weights} state {state} test loss {}\n", evaluated["loss"])
        };
        let one = of(threads[0]);
        for &threads in &threads[1..] {
            assert_eq!(of(threads), one, "{threads} threads");
        }
        text += &one;
    }
    check(&format!("updates-{isa}.txt"), &text);
}

#[test]
fn the_first_updates_are_the_same() {
    first_updates("avx2", &[1, 3, 16]);
}

#[test]
#[ignore = "takes long: see CONTRIBUTING.md"]
fn the_first_updates_are_the_same_on_any_number_of_threads() {
    first_updates("avx2", &[1, 2, 3, 7, 16, 64]);
    first_updates("portable", &[1, 2, 3, 7, 16, 64]);
}

#[test]
fn the_first_updates_are_the_same_without_special_instructions() {
    // Slower, so only once; that threads change nothing does not depend on instructions.
    first_updates("portable", &[3]);
}

#[test]
fn what_programs_read_is_the_same() {
    let place = Place::new();
    let plan = "--set batch.memory_limit=4 --set engine.threads=2";
    check("plan-report.json", &pretty(&place.run(&format!("plan report --json {plan}"))));
    check("plan-fast94.json", &pretty(&place.run(&format!("plan fast94 --json {plan}"))));
    check("plan-quick-steps.txt", &place.run(&format!("plan quick --steps {plan}")));

    let grown = "--set network.widths=[4,4,4] --set batch.policy=plateau --set batch.initial=6 \
                 --set batch.max=12 --set batch.patience=0 --set batch.threshold=0.9 --set \
                 batch.noise_every=1 --set data.validation=6 --set train.evaluate_every=1 --set \
                 train.checkpoint_every=1";
    let parts = "--set network.widths=[4,4,4] --set network.norm.ghost=4 --set \
                 batch.policy=fixed --set batch.size=12";
    // New runs take their validation images from each class, which these did not: their numbers differ.
    fn keys(value: &Value) -> Value {
        match value {
            Value::Object(object) => object
                .iter()
                .map(|(key, value)| match &key[..] {
                    "event" | "epoch" | "update" => (key.clone(), value.clone()),
                    _ => (key.clone(), keys(value)),
                })
                .collect(),
            _ => Value::Null,
        }
    }
    let expected = fs::read_to_string(fixture("expected").join("train-events.txt")).unwrap();
    let expected = expected.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let mut expected = expected.filter(|event| event["event"] != "note");
    for arguments in [
        &format!("quick --data shapes:30,4 --epochs 3 --out run {grown}"),
        "--resume run --epochs 4",
        "--resume run",
        &format!("quick --data shapes:24,4 --epochs 1 --out parts {parts}"),
        "fast94 --data shapes:24,4 --epochs 1 --out fast94 --set network.widths=[4,4,4]",
    ] {
        for line in place.run(&format!("train {arguments} --isa portable --json")).lines() {
            let event: Value = serde_json::from_str(line).unwrap();
            // Notes are for people, and their number may change.
            if event["event"] == "note" {
                continue;
            }
            let (event, expected) = (without_times(event), expected.next());
            if arguments.contains("parts") || arguments.contains("fast94") {
                assert_eq!(Some(event), expected, "{arguments}");
            } else {
                assert_eq!(Some(keys(&event)), expected.as_ref().map(keys), "{arguments}");
            }
        }
    }
    assert_eq!(expected.next(), None);
}
