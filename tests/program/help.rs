//! Help, recipes, plans, data sets and exit codes.

use std::fs;

use super::{Place, contents};
use serde_json::Value;

const COMMANDS: [&str; 16] = [
    "train",
    "evaluate",
    "predict",
    "export",
    "compare",
    "report",
    "plan",
    "bench",
    "devices",
    "runs",
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
        (0, "runs"),
        (1, "runs nowhere"),
        (2, "compare --show"),
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

/// The names in a list, which must have a short line for each.
#[track_caller]
fn names(list: &str) -> Vec<&str> {
    for line in list.lines() {
        let about = line.split_once("  ").map_or("", |(_, about)| about.trim());
        assert!(line.chars().count() <= 80 && about.len() > 15, "{line}");
        assert!(!about.ends_with([',', '.', ':', '(']), "{line}");
    }
    list.lines().map(|line| line.split(' ').next().unwrap()).collect()
}

#[test]
fn comparisons_are_listed_and_shown() {
    let place = Place::new();
    let list = place.run("compare");
    let expected = [
        "grow-or-decay",
        "grow-or-decay-paper",
        "beyond-1000",
        "beyond-1000-paper",
        "activations",
        "head",
        "width",
        "depth",
    ];
    assert_eq!(names(&list), expected);
    for name in expected {
        let file = place.run(&format!("compare {name} --show"));
        assert!(file.starts_with("# ") && file.contains("\n[[arm]]\n"), "{file}");
        // It can be saved, and is a comparison.
        fs::write(place.path("mine.toml"), &file).unwrap();
        assert_eq!(place.run("compare mine.toml --show"), file);
    }
    place.refuse_saying(2, "compare nothing --show", &["there is no comparison nothing"]);
    assert!(!place.path("runs").exists(), "nothing is trained");
}

#[test]
fn recipes_are_listed_printed_and_usable_as_files() {
    let place = Place::new();
    let list = place.run("recipes");
    let names = names(&list);
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
    for part in ["17392394", "1.336 GMAC", "8.01 GFLOP", "24000", "27500 in 90 epochs"] {
        assert!(table.contains(part), "no {part} in {table}");
    }
    assert!(table.starts_with("parameters "), "the summary comes first: {table}");
    assert!(!table.contains("time on this machine") && table.lines().count() < 40, "{table}");
    let block = "\nstack_layers.2.blocks.0  3 Convolution  256x8x8        919808    58720256\n";
    assert!(table.contains(block) && !table.contains("blocks.0.conv1"), "{table}");
    let all = place.run("plan report --layers");
    assert!(all.contains("\noutput_layer.fc1 ") && all.contains(".blocks.0.conv1 "), "{all}");
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
fn a_plan_measures_the_time_if_it_is_asked_to() {
    let place = Place::new();
    let small = "plan quick --set network.widths=[4,8,8]";
    let plan = json(&place, &format!("{small} --json"));
    assert!(plan.get("training_seconds").is_none());
    let measured = json(&place, &format!("{small} --measure --json"));
    let (seconds, rate) = ("training_seconds", "images_per_second");
    let [seconds, rate] = [seconds, rate].map(|key| measured[key].as_f64().unwrap());
    // Fourteen epochs of 5000 images, of which the first six are in the smallest batches.
    let at_first = 14.0 * 5000.0 / rate;
    assert!(seconds > 0.0 && seconds <= 1.001 * at_first, "{seconds} of {at_first}");
    let table = place.run(&format!("{small} --measure --set batch.policy=plateau"));
    assert!(table.contains("\ntime on this machine      at most about "), "{table}");
    assert!(
        table.contains("updates                   depend on training, in 14 epochs"),
        "{table}"
    );
    place.refuse(2, "plan quick --measure --steps");
}

#[test]
fn a_plan_takes_the_size_and_the_classes_of_data() {
    let place = Place::new();
    for class in ["a", "b", "c"] {
        fs::create_dir_all(place.path("own").join(class)).unwrap();
        for index in 0..20_u8 {
            let colour = image::Rgb([class.as_bytes()[0], index, 7]);
            let path = place.path("own").join(class).join(format!("{index}.png"));
            image::RgbImage::from_pixel(32, 32, colour).save(path).unwrap();
        }
    }
    let table = place.run("plan quick --data own --test-split 0.25");
    assert!(table.contains("training images           45 of the folder own, 3 classes"), "{table}");
    let layers = json(&place, "plan quick --data own --test-split 0.25 --json")["layers"].clone();
    assert_eq!(layers.as_array().unwrap().last().unwrap()["output"], "3");
    let as_trained = json(&place, "plan quick --data shapes:130,10 --json");
    assert_eq!(as_trained, json(&place, "plan quick --images 130 --json"));
    place.refuse(2, "plan quick --data own --images 3");
    place.refuse_saying(1, "plan quick --data nowhere", &["nowhere"]);
    // What training would refuse.
    let four = "plan quick --data own --set network.classes=4";
    place.refuse_saying(1, four, &["the folder own has 3 classes, but network.classes is 4"]);
}

#[test]
fn training_follows_its_plan() {
    let place = Place::with_run("--epochs 4 --set data.validation=24");
    let options = "--set network.widths=[4,8,8] --set batch.steps=[[1,12],[3,24]] --set \
                   train.epochs=4 --set data.validation=24";
    let plan = json(&place, &format!("plan quick {options} --images 144 --json"));
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
    assert!(place.run("data info shapes").ends_with("\nno problems found\n"));
    let table = place.run("data info set");
    assert!(table.contains(drawn["fingerprint"].as_str().unwrap()), "{table}");
    assert!(place.run("data info shapes:53,7,1 --json").contains("fingerprint"));
    assert_ne!(json(&place, "data info shapes:53,7,1 --json")["fingerprint"], drawn["fingerprint"]);
}
