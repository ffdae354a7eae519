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
    assert!(output.contains("batch.policy is plateau: batch.steps and batch.size are ignored"));
    assert!(output.contains("Increasing batch size from 30 to 60 (train_loss "), "{output}");
    assert!(output.contains("Lowering learning rate from 0.1 to 0.05 ("), "{output}");
    let decisions = place.read("a/decisions.csv");
    assert_eq!(column(&decisions, "epoch"), ["3", "4", "5", "6"]);
    assert_eq!(column(&decisions, "to")[..2], ["60", "100"]);
    // Stopped between two decisions and resumed, it makes the same decisions.
    place.run(&format!("train {SMALL} {PLATEAU} --set batch.after_max=decay --epochs 3 --out b"));
    place.run("train --resume b --epochs 6");
    assert_eq!(epochs(&place, "b"), (sizes, rates));
    assert_eq!(place.read("b/decisions.csv"), decisions);
}

#[test]
fn batches_that_do_not_fit_are_computed_in_micro_batches() {
    let place = Place::new();
    let train = format!("{SMALL} --set batch.policy=fixed --set batch.size=150 --epochs 1");
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
    // Two micro-batches of 75 have other BatchNorm statistics, and so other losses from the first update on.
    let parts =
        place.run(&format!("train {train} --log-steps --set network.norm.ghost=75 --out parts"));
    assert!(parts.contains("Batches of 150 are computed in micro-batches of 75"), "{parts}");
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
    let run = "--epochs 4 --set batch.policy=fixed --set batch.size=30 --set batch.noise_every=2";
    place.run(&format!("train {SMALL} {run} --set schedule.policy=linear --out linear"));
    let (_, rates) = epochs(&place, "linear");
    // At the middle of each epoch's last update.
    let expected = |epoch: f64| 0.1 * (1.0 - (epoch - 0.05) / 4.0);
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
