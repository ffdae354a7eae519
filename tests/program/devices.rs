//! Devices: what there is, and what is said where there is no card. The tests hide all cards.

use serde_json::Value;

use super::{Place, SMALL, check_line, text};

fn json(place: &Place, arguments: &str) -> Value {
    serde_json::from_str(&place.run(arguments)).unwrap()
}

#[test]
fn devices_are_listed_on_every_machine() {
    let place = Place::new();
    let list = place.run("devices");
    for part in
        ["cpu      ", "instruction sets: ", "portable", "thread", "cuda     ", "auto     is cpu"]
    {
        assert!(list.contains(part), "no {part:?} in {list}");
    }
    let devices = json(&place, "devices --json");
    let sets = devices["cpu"]["instruction_sets"].as_array().unwrap();
    assert_eq!(sets.last().unwrap(), "portable");
    assert!(devices["cpu"]["threads"].as_u64().unwrap() > 0);
    assert_eq!(devices["auto"], "cpu");
    assert!(devices["cuda"]["cards"].as_array().unwrap().is_empty());
    assert!(list.contains(devices["cuda"]["problem"].as_str().unwrap()), "{list}");
}

#[test]
fn without_a_card_cuda_is_refused_in_a_sentence_and_auto_is_the_cpu() {
    let place = Place::with_run("--epochs 1");
    let cuda = &["engine.device is cuda, but ", "NVIDIA's driver, 525 or newer", "--device cpu"];
    for arguments in [
        format!("train {SMALL} --device cuda --out none"),
        format!("train {SMALL} --device cuda:1 --out none"),
        format!("train {SMALL} --set engine.device=cuda --out none"),
        "train --resume run --epochs 2 --device cuda".into(),
        "evaluate run --data shapes:144,100 --device cuda".into(),
        "bench quick --device cuda".into(),
        "compare width --data shapes:60,20 --device cuda".into(),
    ] {
        place.refuse_saying(1, &arguments, cuda);
    }
    assert!(!place.path("none").exists() && !place.path("runs").exists());
    for wrong in ["gpu", "cuda:x", "cuda:", "cpu:0"] {
        place.refuse_value(&format!("train --device {wrong}"), "cuda:1 for the card with this");
    }
    let output = place.run(&format!("train {SMALL} --epochs 1 --device auto --out auto"));
    assert!(output.lines().next().unwrap().contains(" thread"), "{output}");
    assert!(place.read("auto/recipe.toml").contains("device = \"cpu\""));
    assert!(!place.read("auto/recipe.toml").contains("precision"));
    // An edit of `recipe.toml` asks for the same as the option, and an error leaves the run as it is.
    let recipe = place.read("run/recipe.toml");
    let edited = recipe.replace("device = \"cpu\"", "device = \"cuda\"");
    std::fs::write(place.path("run/recipe.toml"), edited).unwrap();
    place.refuse_saying(1, "train --resume run --epochs 2", cuda);
    std::fs::write(place.path("run/recipe.toml"), recipe).unwrap();
    // A run stays on its device where nothing else is said.
    place.run("train --resume run --epochs 2 --device auto");
    assert!(!place.read("run/log.txt").contains("Changing engine.device"));
}

#[test]
fn the_precision_of_the_cpu_is_f32_unless_it_is_chosen() {
    let place = Place::new();
    let bf16 = "--set engine.precision=bf16";
    for arguments in ["train", "plan quick", "bench quick", "train --device cpu"] {
        let arguments = format!("{arguments} {bf16} --set engine.conv=winograd2");
        place.refuse_saying(
            2,
            &arguments,
            &["engine.precision is bf16", "engine.conv is winograd2"],
        );
    }
    place.refuse_saying(
        2,
        "train --set engine.precision=f16",
        &["engine.precision", "auto, f32, bf16"],
    );
    place.run(&format!("train {SMALL} --epochs 1 --set engine.precision=f32 --out f32"));
    place.run(&format!("train {SMALL} --epochs 1 --out auto"));
    let weights =
        |run: &str, epoch| std::fs::read(super::checkpoint(&place.path(run), epoch)).unwrap();
    assert!(weights("f32", 1) == weights("auto", 1), "the weights' files are the same");
    let wide = format!("train {SMALL} --set network.widths=[16,16,16]");
    place.run(&format!("{wide} --epochs 2 {bf16} --out whole"));
    place.run(&format!("{wide} --epochs 1 {bf16} --out run"));
    assert!(place.read("run/log.txt").contains("products in bf16"));
    // A run keeps its precision, and the bits of every update.
    place.run("train --resume run --epochs 2");
    assert!(weights("run", 2) == weights("whole", 2), "a resumed run is the same");
    place.run(&format!("{wide} --epochs 2 --out f32-again"));
    assert!(weights("f32-again", 2) != weights("whole", 2), "f32 is another precision");
    place.run("train --resume run --epochs 3 --set engine.precision=f32");
    assert!(place.read("run/log.txt").contains("Changing engine.precision from bf16 to f32"));
    let plan = json(&place, &format!("plan report {bf16} --json"));
    assert_eq!([&plan["device"], &plan["precision"]], ["cpu", "bf16"]);
    let steps = place.run(&format!("plan report --steps {bf16}"));
    for algorithm in ["3x3/1 winograd4 in bf16", "3x3/2 direct in bf16", "3x3/1 direct "] {
        assert!(steps.contains(&format!("conv {algorithm}")), "{algorithm}: {steps}");
    }
}

#[test]
fn a_card_can_be_planned_for_without_one() {
    let place = Place::new();
    let memory = |arguments: &str| {
        let plan = json(&place, &format!("plan {arguments} --json"));
        let phases = plan["schedule"].as_array().unwrap();
        phases.iter().map(|phase| phase["memory_bytes"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    let (bf16, f32) =
        (memory("report --device cuda"), memory("report --device cuda --set engine.precision=f32"));
    assert!(bf16.len() == 4 && bf16.is_sorted(), "{bf16:?}");
    assert!(f32[3] > bf16[3] * 3 / 2, "{f32:?} {bf16:?}");
    let plan = place.run("plan report --device cuda");
    assert!(
        plan.contains("\ndevice                    NVIDIA GPU") && plan.contains(", bf16\n"),
        "{plan}"
    );
    assert!(!plan.contains("micro-batches"), "{plan}");
    // Batches that do not fit are divided.
    let plan = place.run("plan report --device cuda --memory 2GiB");
    assert!(plan.contains(" micro-batches of "), "{plan}");
    let steps = place.run("plan report --steps --device cuda");
    assert!(steps.contains("stack_layers.0.blocks.1.conv1"), "{steps}");
    let plan = json(&place, "plan report --device cuda --json");
    assert_eq!([&plan["device"], &plan["precision"]], ["cuda", "bf16"]);
    let plan = json(&place, "plan report --json");
    assert_eq!([&plan["device"], &plan["precision"]], ["cpu", "f32"]);
    let plan = place.run("plan report --memory 2GiB --set batch.steps=[[1,1000]]");
    assert!(plan.contains(" micro-batches of "), "{plan}");
    place.refuse_value("plan report --memory 80", "80GiB");
    place.refuse_saying(1, "plan report --device cuda:3", &["NVIDIA's driver"]);
}

#[test]
fn keys_of_the_cpu_that_are_set_with_cuda_are_warned_about() {
    let place = Place::new();
    let output = place
        .command("plan quick --device cuda --set engine.isa=portable --set engine.activations=bf16")
        .output()
        .unwrap();
    assert!(output.status.success());
    let warning = "warning: engine.isa, engine.activations have no effect: engine.device is cuda";
    check_line(&text(&output.stderr), &[warning]);
}
