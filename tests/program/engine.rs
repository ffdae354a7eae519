//! The keys and options of the engine, `bench`, and `plan --steps`.

use super::{Place, SMALL, column};
use serde_json::Value;

#[test]
fn bench_measures_training_inference_and_every_step() {
    let place = Place::new();
    let small = "--set network.widths=[4,4,4] --batch 4 --seconds 0.01";
    let result: Value =
        serde_json::from_str(&place.run(&format!("bench quick {small} --json"))).unwrap();
    for key in ["training", "inference"] {
        for part in ["images_per_second", "gflops", "roof_ratio"] {
            assert!(result[key][part].as_f64().unwrap() > 0.0, "{key}.{part}");
        }
    }
    assert!(result["peak_gflops"].as_f64().unwrap() > 0.1);
    // The start layer, two convolutions in each of three blocks, two shortcuts, and the head.
    let steps = result["steps"].as_array().unwrap();
    assert_eq!(steps.len(), 1 + 6 + 2 + 3);
    for step in steps {
        for key in ["forward_seconds", "backward_seconds"] {
            assert!(step[key].as_f64().unwrap() > 0.0, "{key} of {step}");
        }
    }
    let table = place.run(&format!("bench quick {small} --isa portable --threads 1"));
    assert!(table.contains("portable, 1 thread, ") && table.contains("images/s"), "{table}");
    place.refuse_value("bench quick --seconds 0", "above 0 and at most 3600");
}

#[test]
#[ignore = "takes long: see CONTRIBUTING.md"]
fn longer_bench_predicts_other_numbers_of_threads() {
    let place = Place::new();
    let small = "--set network.widths=[16,16,16] --batch 40 --seconds 0.01 --model-threads 1,16";
    let result: Value =
        serde_json::from_str(&place.run(&format!("bench quick {small} --json"))).unwrap();
    let model = result["model"].as_array().unwrap();
    assert_eq!([&model[0]["threads"], &model[1]["threads"]], [1, 16]);
    for key in ["training", "inference"] {
        // Sixteen threads cannot be more than sixteen times as fast, but for the noise of the measurement.
        let [one, many] = [0, 1].map(|at| model[at][key].as_f64().unwrap());
        assert!(one > 0.1 && one < 10.0 && many > 0.1 && many < 60.0, "{key}: {one} {many}");
    }
    for step in model[1]["steps"].as_array().unwrap() {
        let seconds = |key: &str| step[key].as_f64().unwrap();
        assert!(seconds("one_thread_seconds") > 0.0 && seconds("seconds") > 0.0, "{step}");
    }
    let smaller = "--set network.widths=[4,4,4] --batch 4 --seconds 0.01 --model-threads 16";
    let text = place.run(&format!("bench quick {smaller}"));
    assert!(text.contains("model, 16 threads: ") && text.contains(" times one thread ("), "{text}");
}

#[test]
fn the_plan_shows_fused_operations_and_convolution_algorithms() {
    let place = Place::new();
    let steps = place.run("plan report --steps");
    let line = |name: &str| {
        let found = steps.lines().find(|line| line.contains(&format!(" {name} ")));
        found.unwrap_or_else(|| panic!("no {name} in {steps}")).to_owned()
    };
    let first = line("stack_layers.0.blocks.1.conv1");
    assert!(first.contains("winograd4") && first.contains("keeps it"), "{first}");
    assert!(first.contains("reads leakyrelu(norm stack_layers.0.blocks.0.bn2 + start_layer.2)"));
    assert!(line("stack_layers.1.blocks.0.conv1").contains("conv 3x3/2 direct"));
    let other = place.run("plan report --steps --set engine.conv=winograd2");
    assert!(other.contains("winograd2") && !other.contains("winograd4"), "{other}");
}

#[test]
fn algorithms_instruction_sets_and_storage_types_train_almost_alike() {
    let place = Place::new();
    let losses = |name: &str, options: &str| {
        place.run(&format!(
            "train {SMALL} --set network.widths=[16,16,16] --set optimizer.learning_rate=0.003 \
             --epochs 1 --log-steps {options} --out {name}"
        ));
        let steps = place.read(&format!("{name}/steps.csv"));
        let losses = column(&steps, "loss").iter().map(|loss| loss.parse().unwrap()).collect();
        std::convert::identity::<Vec<f64>>(losses)
    };
    let auto = losses("auto", "");
    for (name, options, allowed) in [
        ("direct", "--set engine.conv=direct", 1e-3),
        ("winograd2", "--set engine.conv=winograd2", 1e-3),
        ("portable", "--isa portable", 1e-3),
        ("bf16", "--set engine.activations=bf16", 0.1),
        ("products", "--set engine.precision=bf16", 0.1),
    ] {
        let other = losses(name, options);
        // Only the first updates, at a learning rate at which differences grow slowly.
        for (a, b) in auto.iter().zip(&other).take(4) {
            assert!((a - b).abs() < allowed, "{name}: {a} {b}");
        }
        assert_ne!(auto, other, "{name} computes something of its own");
    }
}

#[test]
fn a_run_resumes_with_the_instruction_set_it_started_with() {
    let place = Place::new();
    place.run(&format!("train {SMALL} --epochs 1 --isa portable --out run"));
    assert!(place.read("run/recipe.toml").contains("isa = \"portable\""));
    place.run("train --resume run --epochs 2");
    assert!(place.read("run/recipe.toml").contains("isa = \"portable\""));
    place.run(&format!("train {SMALL} --epochs 1 --out auto"));
    assert!(!place.read("auto/recipe.toml").contains("isa = \"auto\""), "what it means is kept");
    let complaint = place.refuse(2, &format!("train {SMALL} --isa mmx --out none"));
    assert!(complaint.contains("portable"), "{complaint}");
}
