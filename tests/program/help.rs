//! Help, recipes, plans, data sets and exit codes.

use std::fs;

use super::{Place, contents};
use serde_json::Value;

const COMMANDS: [&str; 15] = [
    "train",
    "evaluate",
    "predict",
    "export",
    "compare",
    "report",
    "plan",
    "bench",
    "devices",
    "recipes",
    "data",
    "data fetch",
    "data info",
    "data export",
    "completions",
];

fn json(place: &Place, arguments: &str) -> Value {
    serde_json::from_str(&place.run(arguments)).unwrap()
}

#[test]
fn the_help_of_every_command_has_an_example() {
    let place = Place::new();
    let help = place.run("--help");
    for command in COMMANDS {
        assert!(help.contains(command.split(' ').next().unwrap()), "{command}: {help}");
        let help = place.run(&format!("{command} --help"));
        assert!(help.contains("Example"), "{command}: {help}");
        assert!(help.contains(&format!("  crescendo {command}")), "{command}: {help}");
    }
}

#[test]
fn exit_codes_distinguish_success_failure_and_wrong_usage() {
    let place = Place::new();
    for (code, arguments) in [
        (0, "--version"),
        (0, "--help"),
        (0, "help train"),
        (0, "train --help"),
        (0, "recipes"),
        (0, "plan quick"),
        (0, "devices"),
        (1, "data info nowhere"),
        (1, "evaluate nowhere"),
        (1, "train report"),
        (1, "train --device cuda"),
        (2, "train --device cuda:x"),
        (2, ""),
        (2, "train --nonsense"),
        (2, "train nonsense"),
        (2, "train --set train.nonsense=1"),
        (1, "report nowhere"),
        (2, "report one two"),
        (2, "plan quick --set train.epochs=-1"),
    ] {
        let output = place.command(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "crescendo {arguments}");
        // Errors go to standard error only, so that the output is safe to pipe.
        assert_eq!(output.stdout.is_empty(), code != 0, "crescendo {arguments}");
        assert_eq!(output.stderr.is_empty(), code == 0, "crescendo {arguments}");
    }
}

#[test]
fn completions_contain_the_commands_for_every_shell() {
    let place = Place::new();
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = place.run(&format!("completions {shell}"));
        for word in ["crescendo", "evaluate", "completions", "resume", "checkpoints"] {
            assert!(script.contains(word), "no {word} for {shell}");
        }
    }
}

#[test]
fn recipes_are_listed_printed_and_usable_as_files() {
    let place = Place::new();
    let list = place.run("recipes");
    let names: Vec<&str> = list.lines().map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(names, ["report", "original", "quick", "report-fast", "fast94", "fast95", "fast96"]);
    for name in names {
        let text = place.run(&format!("recipes {name}"));
        text.parse::<toml::Table>().unwrap();
        fs::write(place.path("mine.toml"), text).unwrap();
        let plan = |recipe: &str| place.run(&format!("plan {recipe} --json"));
        assert_eq!(plan("mine.toml"), plan(name));
    }
    let report: toml::Table = place.run("recipes report").parse().unwrap();
    assert_eq!(report["optimizer"]["learning_rate"].as_float(), Some(0.1));
    assert_eq!(report["network"]["head"]["hidden"].as_integer(), Some(2048));
}

#[test]
fn report_fast_trains_the_network_of_the_paper() {
    let place = Place::new();
    let layers = |plan: &str| json(&place, plan)["layers"].clone();
    // Only the momentum of the running BatchNorm statistics is different.
    let fast = layers("plan report-fast --json --set network.norm.momentum=0.997");
    assert_eq!(fast, layers("plan report --json"));
}

#[test]
fn the_plan_shows_the_savings_of_progressive_resizing() {
    let place = Place::new();
    let small = "plan report --set data.sides=[[1,16],[61,32]]";
    let (whole, plan) =
        (json(&place, "plan report --json"), json(&place, &format!("{small} --json")));
    let phase = |plan: &serde_json::Value, index: usize, key: &str| {
        plan["schedule"][index][key].as_u64().unwrap()
    };
    assert_eq!([0, 1].map(|index| phase(&plan, index, "side")), [16, 32]);
    let whole_flops = whole["training_flops_per_image"].as_u64().unwrap();
    assert_eq!(phase(&plan, 1, "training_flops_per_image"), whole_flops);
    // All layers except the linear ones cost a quarter.
    let flops = phase(&plan, 0, "training_flops_per_image");
    assert!((0.25..0.26).contains(&(flops as f64 / whole_flops as f64)), "{flops}");
    assert_eq!(plan["training_flops"], 50_000 * (60 * flops + 30 * whole_flops));
    assert!(phase(&plan, 0, "memory_bytes") < phase(&whole, 0, "memory_bytes"));
    let text = place.run(small);
    assert_eq!(text.matches("  images of 16x16\n").count(), 1, "{text}");
}

#[test]
fn the_plan_of_the_report_recipe_has_known_numbers() {
    let place = Place::new();
    let plan = json(&place, "plan report --json");
    for (key, value) in [
        ("parameters", 17_392_394_u64),
        ("forward_macs", 1_335_578_624),
        ("training_flops_per_image", 6 * 1_335_578_624_u64),
        ("epochs", 90),
        ("updates", 24_000 + 2_000 + 1_000 + 500),
        ("training_flops", 90 * 50_000 * 6 * 1_335_578_624_u64),
    ] {
        assert_eq!(plan[key], value, "{key}");
    }
    let phases = plan["schedule"].as_array().unwrap();
    let phase =
        |phase: &Value| ["batch_size", "epochs", "updates"].map(|key| phase[key].as_u64().unwrap());
    assert_eq!(
        phases.iter().map(phase).collect::<Vec<_>>(),
        [[125, 60, 24_000], [250, 10, 2_000], [500, 10, 1_000], [1000, 10, 500]]
    );
    let memory = |phase: &Value| phase["memory_bytes"].as_u64().unwrap();
    assert!(phases.is_sorted_by(|a, b| memory(a) < memory(b)));
    let layers = plan["layers"].as_array().unwrap();
    let macs: u64 = layers.iter().map(|layer| layer["macs"].as_u64().unwrap()).sum();
    assert_eq!(macs, 1_335_578_624);

    let table = place.run("plan report");
    for part in ["17392394", "1.336 GMAC", "8.01 GFLOP", "24000", "output_layer.fc1"] {
        assert!(table.contains(part), "no {part} in {table}");
    }
    let other = json(
        &place,
        "plan report --json --images 1000 --set batch.policy=fixed --set batch.size=300 --set \
         train.epochs=2",
    );
    assert_eq!(other["updates"], 6);
    let kept = json(
        &place,
        "plan report --json --images 1000 --set batch.policy=fixed --set batch.size=300 --set \
         train.epochs=2 --set data.last_batch=keep",
    );
    assert_eq!(kept["updates"], 8);
}

#[test]
fn training_follows_its_plan() {
    let place = Place::with_run("--epochs 4 --set data.validation=40");
    let options = "--set network.widths=[4,8,8] --set batch.steps=[[1,25],[3,50]] --set \
                   train.epochs=4 --set data.validation=40";
    let plan = json(&place, &format!("plan quick {options} --images 300 --json"));
    let epochs = place.read("run/epochs.csv");
    assert_eq!(plan["updates"].to_string(), *super::column(&epochs, "updates").last().unwrap());
    let log = place.read("run/log.txt");
    assert!(log.contains(&format!("{} parameters", plan["parameters"])), "{log}");
}

#[test]
fn data_sets_are_inspected_and_exported_unchanged() {
    let place = Place::new();
    let info = json(&place, "data info shapes --json");
    assert_eq!(
        (&info["name"], &info["train"], &info["test"]),
        (&"shapes".into(), &5000.into(), &1000.into())
    );
    let classes = info["classes"].as_array().unwrap();
    assert!(classes.len() == 10 && classes.iter().all(|class| class["train"] == 500));
    assert_eq!(info["problems"], Value::Array(Vec::new()));

    let output = place.run("data export shapes:53,7 set");
    assert_eq!(output, "Wrote shapes:53,7 to set\n");
    let sizes: Vec<(String, usize)> = contents(&place.path("set"))
        .into_iter()
        .map(|(path, bytes)| (path.file_name().unwrap().to_str().unwrap().into(), bytes.len()))
        .filter(|(name, _): &(String, usize)| name.ends_with(".bin"))
        .collect();
    let sizes: Vec<(&str, usize)> =
        sizes.iter().map(|(name, bytes)| (&name[..], bytes / 3073)).collect();
    assert_eq!(
        sizes,
        [
            ("data_batch_1.bin", 10),
            ("data_batch_2.bin", 11),
            ("data_batch_3.bin", 10),
            ("data_batch_4.bin", 11),
            ("data_batch_5.bin", 11),
            ("test_batch.bin", 7),
        ]
    );
    let (drawn, read) =
        (json(&place, "data info shapes:53,7 --json"), json(&place, "data info set --json"));
    assert_eq!(drawn["fingerprint"], read["fingerprint"]);
    assert_eq!(drawn["classes"], read["classes"]);
    let table = place.run("data info set");
    assert!(table.contains(drawn["fingerprint"].as_str().unwrap()), "{table}");
    assert!(place.run("data info shapes:53,7,1 --json").contains("fingerprint"));
    assert_ne!(json(&place, "data info shapes:53,7,1 --json")["fingerprint"], drawn["fingerprint"]);
}
