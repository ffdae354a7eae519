//! Policies of the batch size and the learning rate: CSV files, log lines, the plan.

use super::{Place, SMALL, column};

/// The batch sizes and the learning rates of a run's epochs.
fn epochs(place: &Place, run: &str) -> (Vec<usize>, Vec<f64>) {
    let table = place.read(&format!("{run}/epochs.csv"));
    (
        column(&table, "batch_size").iter().map(|cell| cell.parse().unwrap()).collect(),
        column(&table, "learning_rate").iter().map(|cell| cell.parse().unwrap()).collect(),
    )
}

/// A metric that never improves enough.
const PLATEAU: &str = "--set batch.policy=plateau --set batch.initial=30 --set batch.max=100 --set \
                       batch.patience=0 --set batch.threshold=0.9";

#[test]
fn a_plateau_grows_the_batch_and_is_logged() {
    let place = Place::new();
    let output = place
        .run(&format!("train {SMALL} {PLATEAU} --set batch.after_max=decay --epochs 6 --out a"));
    let (sizes, rates) = epochs(&place, "a");
    assert_eq!(sizes, [30, 30, 60, 100, 100, 100]);
    assert!(rates.iter().zip([0.1, 0.1, 0.1, 0.1, 0.05, 0.025]).all(|(a, b)| (a - b).abs() < 1e-9));
    let unused = "\nwarning: batch.steps has no effect: batch.policy is plateau\n";
    assert!(output.contains(unused), "{output}");
    assert!(
        output.contains("Increasing batch size from 30 to 60 (plateau of the train loss: "),
        "{output}"
    );
    assert!(output.contains("Lowering learning rate from 0.1 to 0.05 ("), "{output}");
    let decisions = place.read("a/decisions.csv");
    assert_eq!(column(&decisions, "epoch"), ["3", "4", "5", "6"]);
    assert_eq!(column(&decisions, "to")[..2], ["60", "100"]);
    // With the numbers that decided.
    let row = decisions.lines().nth(1).unwrap();
    let asked = "plateau of the train loss: 90 % better than the best is asked for, ";
    let (_, why) = row.split_once(asked).unwrap();
    let (found, rest) = why.split_once(" % was reached for 1 epoch").unwrap();
    let [value, best] = ["value", "best"].map(|name| {
        let cells: Vec<&str> = rest.split(',').collect();
        let at = if name == "value" { 2 } else { 3 };
        cells[at].parse::<f64>().unwrap()
    });
    let gain = 100.0 * (best - value) / best;
    assert!((found.parse::<f64>().unwrap() - gain).abs() < 0.06, "{found} {gain}: {row}");
    // Stopped between two decisions and resumed, it makes the same decisions.
    place.run(&format!("train {SMALL} {PLATEAU} --set batch.after_max=decay --epochs 3 --out b"));
    place.run("train --resume b --epochs 6");
    assert_eq!(epochs(&place, "b"), (sizes, rates));
    assert_eq!(place.read("b/decisions.csv"), decisions);
}

#[test]
fn batches_that_do_not_fit_are_computed_in_micro_batches() {
    let place = Place::new();
    let train = format!("{SMALL} --set batch.policy=fixed --set batch.size=72 --epochs 1");
    let whole = place.run(&format!("train {train} --log-steps --out whole"));
    assert!(!whole.contains("in micro-batches"), "{whole}");
    let plan = place.run(
        "plan quick --set network.widths=[4,8,8] --set batch.policy=fixed --set \
                          batch.size=3000 --set batch.memory_limit=0.3 --images 6000",
    );
    assert!(plan.contains(" micro-batches of ") && plan.contains("norm.ghost"), "{plan}");
    // With little memory. It is logged once for each batch size, and the limit is saved for a resume.
    let short = "quick --data shapes:3000,50 --set network.widths=[4,8,8] --set \
                 batch.steps=[[1,1500],[2,3000]] --set batch.memory_limit=0.15";
    let cut = place.run(&format!("train {short} --epochs 2 --out short"));
    for batch in ["1500", "3000"] {
        let said = format!("Batches of {batch} are computed in micro-batches of ");
        assert_eq!(cut.matches(&said).count(), 1, "{cut}");
    }
    assert!(cut.contains("do not fit in batch.memory_limit"), "{cut}");
    assert!(place.read("short/recipe.toml").contains("memory_limit = 0.15"));
    let refused = place.refuse(1, &format!("train {short} --set network.norm.ghost=1500"));
    assert!(refused.contains("network.norm.ghost = 1500"), "{refused}");
    // Two micro-batches of 36 have other BatchNorm statistics, and so other losses from the first update on.
    let parts =
        place.run(&format!("train {train} --log-steps --set network.norm.ghost=36 --out parts"));
    assert!(parts.contains("Batches of 72 are computed in micro-batches of 36"), "{parts}");
    let losses = |run: &str| -> Vec<f64> {
        let table = place.read(&format!("{run}/steps.csv"));
        column(&table, "loss").iter().map(|cell| cell.parse().unwrap()).collect()
    };
    let (whole, parts) = (losses("whole"), losses("parts"));
    assert!(whole[0] != parts[0] && (whole[0] - parts[0]).abs() < 0.1, "{whole:?} {parts:?}");
}

#[test]
fn schedules_and_the_noise_scale_are_logged() {
    let place = Place::new();
    let run = "--epochs 4 --set batch.policy=fixed --set batch.size=12 --set batch.noise_every=2";
    place.run(&format!("train {SMALL} {run} --set schedule.policy=linear --out linear"));
    let (_, rates) = epochs(&place, "linear");
    // At the middle of each epoch's last update, of twelve.
    let expected = |epoch: f64| 0.1 * (1.0 - (epoch - 0.5 / 12.0) / 4.0);
    for (epoch, rate) in rates.into_iter().enumerate() {
        assert!((rate - expected(epoch as f64 + 1.0)).abs() < 1e-9, "{epoch}: {rate}");
    }
    let table = place.read("linear/epochs.csv");
    let scales: Vec<f64> =
        column(&table, "noise_scale").iter().filter_map(|cell| cell.parse().ok()).collect();
    assert!(!scales.is_empty() && scales.iter().all(|&scale| scale > 0.0), "{table}");
    let from_lr = "--set batch.policy=from_lr --set batch.initial=30 --set batch.max=120 --set \
                   schedule.policy=step --set schedule.steps=[[2,0.5],[3,0.25]] --epochs 4";
    place.run(&format!("train {SMALL} {from_lr} --out grown"));
    assert_eq!(epochs(&place, "grown"), (vec![30, 60, 120, 120], vec![0.1; 4]));
}

#[test]
fn keys_that_cannot_act_are_warned_about_if_the_user_set_them() {
    let place = Place::new();
    let train = "train quick --data shapes:60,20 --set network.widths=[4,4,4] --epochs 2";
    let warnings = |output: &str| {
        let lines = output.lines().filter(|line| line.starts_with("warning: "));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    // Nothing of the built-in recipe is warned about, though it has rows after the last epoch.
    assert!(warnings(&place.run(&format!("{train} --out plain"))).is_empty());
    let set = "--set batch.size=9 --set schedule.steps=[[2,0.5]] --set batch.noise_every=1000 \
               --set data.source=shapes";
    let output = place.run(&format!("{train} {set} --out set"));
    let expected = [
        "warning: schedule.steps has no effect: schedule.policy is constant",
        "warning: batch.size has no effect: batch.policy is steps",
        "warning: batch.noise_every has no effect: the run has 2 updates",
        "warning: data.source has no effect: --data names the data set",
    ];
    assert_eq!(warnings(&output), expected);
    assert!(place.read("set/log.txt").contains(expected[1]));
    // The weights do not depend on them.
    let weights = |run: &str| std::fs::read(super::checkpoint(&place.path(run), 2)).unwrap();
    let tensors = |run: &str| {
        let bytes = weights(run);
        let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let mut all: Vec<_> =
            tensors.iter().map(|(name, view)| (name.to_owned(), view.data().to_vec())).collect();
        all.sort();
        all
    };
    assert!(tensors("plain") == tensors("set"));
    // In a file of the user's own; what a run saved is not the user's.
    let own = "base = \"quick\"\n[batch]\nsteps = [[1, 20], [9, 30]]\n[train]\nepochs = 2\n";
    std::fs::write(place.path("own.toml"), own).unwrap();
    let rows = "batch.steps: its rows from epoch 9 on have no effect: the run ends with epoch 2";
    let said = place.command("plan own.toml --images 60").output().unwrap();
    assert_eq!(super::text(&said.stderr), format!("warning: {rows}\n"));
    assert!(
        warnings(&place.run("train set/recipe.toml --data shapes:60,20 --out again")).is_empty()
    );
    let resumed = "train --resume set --epochs 3 --set optimizer.learning_rate=0.2";
    assert!(warnings(&place.run(resumed)).is_empty());
}

#[test]
fn batches_larger_than_the_training_set_shrink_to_it() {
    let place = Place::new();
    let train = "--data shapes:30,10 --set network.widths=[4,4,4] --epochs 3";
    let note = "Batches have at most 30 images, because there are 30 to train on and ";
    for (options, sizes, key) in [
        ("--set batch.policy=fixed --set batch.size=31", ["30"; 3], "batch.size asks for 31"),
        ("--set batch.steps=[[1,20],[2,40],[3,50]]", ["20", "30", "30"], "batch.steps asks for 50"),
        (
            "--set batch.policy=plateau --set batch.initial=20 --set batch.max=100 --set \
             batch.patience=0 --set batch.threshold=0.9",
            ["20", "20", "30"],
            "batch.max asks for 100",
        ),
        (
            "--set batch.policy=noise_scale --set batch.initial=5 --set batch.noise_every=1 --set \
             batch.noise_multiple=1e6",
            ["5", "30", "30"],
            "batch.max asks for 1000",
        ),
        (
            "--set batch.policy=from_lr --set batch.initial=20 --set batch.max=40 --set \
             schedule.policy=step --set schedule.steps=[[2,0.5]]",
            ["20", "30", "30"],
            "batch.max asks for 40",
        ),
    ] {
        let run = format!("run-{}", key.len() + options.len());
        let output = place.run(&format!("train quick {train} {options} --out {run}"));
        assert!(output.contains(&format!("\n{note}{key}: ")), "{output}");
        let epochs = place.read(&format!("{run}/epochs.csv"));
        assert_eq!(column(&epochs, "batch_size"), sizes, "{options}");
        // `plan` says the same.
        let plan =
            format!("plan quick --set network.widths=[4,4,4] --set train.epochs=3 {options}");
        let plan = place.run(&format!("{plan} --images 30"));
        assert!(plan.contains(&format!("\n{note}{key}: ")), "{plan}");
    }
    // Every built-in recipe trains on a few images.
    for recipe in ["report", "original", "quick", "report-fast", "fast94", "fast95", "fast96"] {
        let blocks = if recipe == "fast96" { "[3,3,3]" } else { "[2,2,2]" };
        let small = format!("--set network.blocks={blocks} --set data.sides=[[1,32]]");
        let train = train.replace("--epochs 3", "--epochs 1");
        let output = place.run(&format!("train {recipe} {train} {small} --out {recipe}"));
        assert!(output.contains("Batches have at most "), "{recipe}: {output}");
    }
    // A row that only more epochs come to.
    let late = "--set batch.steps=[[1,10],[4,40]]";
    let output = place.run(&format!("train quick {train} {late} --out late"));
    assert!(!output.contains("Batches have at most"), "{output}");
    assert!(place.read("late/recipe.toml").contains("[4, 40]"));
    let output = place.run("train --resume late --epochs 4");
    assert!(output.contains(&format!("{note}batch.steps asks for 40")), "{output}");
    assert!(place.read("late/recipe.toml").contains("[4, 30]"));
    place.run(
        &format!("train quick {train} {late} --out whole").replace("--epochs 3", "--epochs 4"),
    );
    let weights = |run: &str| std::fs::read(super::checkpoint(&place.path(run), 4)).unwrap();
    assert!(weights("late") == weights("whole"));
    // Killed after the recipe was written and before the state was saved.
    place.run(&format!("train quick {train} {late} --out cut"));
    let recipe = place.read("cut/recipe.toml").replacen("epochs = 3", "epochs = 4", 1);
    std::fs::write(place.path("cut/recipe.toml"), recipe.replacen("[4, 40]", "[4, 30]", 1))
        .unwrap();
    place.run("train --resume cut");
    assert!(weights("cut") == weights("whole"));
}

#[test]
fn more_epochs_say_how_the_learning_rate_jumps() {
    let place = Place::new();
    let run = |policy: &str| {
        let train = "--data shapes:60,20 --set network.widths=[4,4,4] --set batch.policy=fixed --set batch.size=20";
        place.run(&format!(
            "train quick {train} --set schedule.policy={policy} --epochs 4 --out {policy}"
        ));
        place.run(&format!("train --resume {policy} --epochs 8"))
    };
    let output = run("cosine");
    let jump = "schedule.policy is cosine, which is now spread over 8 epochs instead of 4: the learning rate \
                jumps from 0.000428 at the last update to 0.0467 at the next one.";
    assert!(output.contains(jump), "{output}");
    // The numbers are those of the updates: of the middle of the twelfth of 12, and of the thirteenth of 24.
    let rate = |update: f64, updates: f64| {
        0.05 * (1.0 + (std::f64::consts::PI * (update - 0.5) / updates).cos())
    };
    assert!((rate(12.0, 12.0) - 0.000428).abs() < 1e-6 && (rate(13.0, 24.0) - 0.0467).abs() < 1e-4);
    assert!(place.read("cosine/log.txt").contains("jumps from 0.000428"));
    // Schedules that do not depend on the number of epochs do not jump.
    assert!(!run("constant").contains("jumps"));
    let again = place.run("train --resume cosine --epochs 8");
    assert!(!again.contains("jumps"), "{again}");
}
