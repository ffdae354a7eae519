//! Comparisons: every arm is trained once with every seed, also after interruptions, and results of
//! different recipes are never mixed.

use std::fs;
use std::time::Duration;

use super::{Place, check_refusal, column, text};

const ARMS: &str = "recipe = \"quick\"\nbase = \"fixed\"\nseeds = [0, 1]\nbn_images = 100\n\
                    set = [\"network.widths=[4,4,4]\", \"train.epochs=2\"]\n\
                    [[arm]]\nname = \"grown\"\nset = [\"batch.steps=[[1,25],[2,50]]\"]\n\
                    [[arm]]\nname = \"fixed\"\nset = [\"batch.policy=fixed\", \"batch.size=25\"]\n";

const COMPARE: &str = "compare arms.toml --data shapes:300,100";

fn place() -> Place {
    let place = Place::new();
    fs::write(place.path("arms.toml"), ARMS).unwrap();
    place
}

/// The rows of results.csv without their last column, the seconds.
fn results(place: &Place, folder: &str) -> Vec<String> {
    let table = place.read(&format!("{folder}/results.csv"));
    table.lines().map(|line| line.rsplit_once(',').unwrap().0.to_owned()).collect()
}

#[test]
fn every_arm_is_trained_with_every_seed_once() {
    let place = place();
    let output = place.run(COMPARE);
    assert!(output.contains("4 of 4: grown, seed 1"), "{output}");
    assert!(output.contains("| fixed ") && output.contains("| grown "), "{output}");
    let table = place.read("runs/arms/results.csv");
    assert_eq!(column(&table, "arm"), ["fixed", "grown", "fixed", "grown"]);
    assert_eq!(column(&table, "seed"), ["0", "0", "1", "1"]);
    assert_eq!(column(&table, "updates"), ["24", "18", "24", "18"]);
    assert!(place.read("runs/arms/report.html").contains("grown"));
    assert!(place.read("runs/arms/table.md").contains("| grown "));
    // `evaluate` measures the same accuracies.
    let both = place.run("evaluate runs/arms/grown/seed-1 --bn both --bn-images 100");
    for name in ["test_accuracy", "precise_test_accuracy"] {
        let accuracy = column(&table, name)[3];
        assert!(both.contains(&format!(": {accuracy}\n")), "{accuracy} in {both}");
    }
    // Finished arms are not trained again, even if only results.csv is left of them.
    fs::remove_dir_all(place.path("runs/arms/fixed")).unwrap();
    let again = place.run(COMPARE);
    assert!(!again.contains(" of 4: ") && again.contains("| grown "), "{again}");
    assert!(!place.path("runs/arms/fixed").exists());
    let other = place.run(&format!("{COMPARE} --base grown"));
    assert!(other.contains("against grown") && !other.contains(" of 4: "), "{other}");
    place.refuse_saying(2, &format!("{COMPARE} --base shrunk"), &["base is \"shrunk\"", "fixed"]);
    let json: serde_json::Value =
        serde_json::from_str(&place.run(&format!("{COMPARE} --json"))).unwrap();
    assert_eq!(json["arms"][1]["arm"], "grown");
    assert!(json["arms"][1]["precise"]["margin"].is_number());
}

#[test]
fn epochs_that_arms_share_are_trained_once_with_the_same_results() {
    let place = place();
    place.run(COMPARE);
    // Its first epoch was copied from the base, with the rows of the CSV files.
    let record = place.read("runs/arms/grown/seed-1/recipe.toml");
    assert!(record.contains("fixed/seed-1, after epoch 1"), "{record}");
    let epochs =
        |run: &str| column(&place.read(&format!("{run}/epochs.csv")), "train_loss").join(" ");
    place.run(
        "train quick --data shapes:300,100 --seed 1 --out alone --set network.widths=[4,4,4] \
         --set train.epochs=2 --set batch.steps=[[1,25],[2,50]]",
    );
    assert_eq!(epochs("alone"), epochs("runs/arms/grown/seed-1"));
    let weights =
        |run: &str| fs::read(place.path(&format!("{run}/weights/epoch-0002.safetensors")));
    assert_eq!(weights("alone").unwrap(), weights("runs/arms/grown/seed-1").unwrap());
}

#[test]
fn a_killed_comparison_can_be_continued() {
    let (whole, killed) = (place(), place());
    whole.run(COMPARE);
    for milliseconds in [150, 300, 450] {
        let mut child =
            killed.command(COMPARE).stdout(std::process::Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(milliseconds));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    killed.run(COMPARE);
    assert_eq!(results(&whole, "runs/arms"), results(&killed, "runs/arms"));
}

#[cfg(unix)]
#[test]
fn a_comparison_that_a_signal_stopped_has_the_exit_code_of_the_signal() {
    let place = place();
    let mut command = place.command(COMPARE);
    let child = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
    // The signal is caught before the first run's folder is made.
    while !place.path("runs/arms/fixed/seed-0").exists() {
        std::thread::sleep(Duration::from_millis(1));
    }
    let process = child.id().to_string();
    let kill = std::process::Command::new("kill").args(["-s", "TERM", &process]).status();
    assert!(kill.unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(143));
    assert!(super::text(&output.stdout).contains("Run the same command again to continue"));
    place.run(COMPARE);
}

#[test]
fn results_of_changed_arms_are_refused() {
    let place = place();
    place.run(COMPARE);
    let before = place.read("runs/arms/results.csv");
    place.refuse_saying(
        1,
        &format!("{COMPARE} --set optimizer.momentum=0.5"),
        &["results.csv", "arm fixed, seed 0", "--out"],
    );
    // Nor is an unfinished run of another recipe resumed.
    fs::remove_file(place.path("runs/arms/results.csv")).unwrap();
    place.refuse_saying(
        1,
        &format!("{COMPARE} --set optimizer.momentum=0.5"),
        &["runs/arms/fixed/seed-0", "another recipe"],
    );
    place.run(COMPARE);
    let accuracies = |table: &str| column(table, "test_accuracy").join(" ");
    assert_eq!(accuracies(&place.read("runs/arms/results.csv")), accuracies(&before));

    fs::write(place.path("arms.toml"), ARMS.replace("grown", "fixed")).unwrap();
    place.refuse_saying(2, COMPARE, &["arms.toml", "two arms have the name fixed"]);
    fs::write(place.path("arms.toml"), ARMS.replace("[2,50]", "[2,500]")).unwrap();
    let arguments = format!("{COMPARE} --out elsewhere");
    let output = place.command(&arguments).output().unwrap();
    // The error comes before the first arm is trained.
    assert!(text(&output.stdout).is_empty());
    assert!(check_refusal(&output, 1, &arguments).contains("a batch of 500 is larger"));
    place.refuse_saying(2, "compare grow-or-decy", &["grow-or-decay"]);
}

#[test]
fn every_built_in_comparison_runs() {
    let place = Place::new();
    for name in ["grow-or-decay", "beyond-1000", "activations", "head", "width", "depth"] {
        let output = place.run(&format!(
            "compare {name} --data shapes:60,20 --seeds 0 --set train.epochs=1 --set \
             network.widths=[4,4,4] --set batch.policy=fixed --set batch.size=30"
        ));
        let table = place.read(&format!("runs/{name}/results.csv"));
        let rows = column(&table, "arm").len();
        assert!(rows > 1 && output.contains(&format!("{rows} of {rows}: ")), "{output}");
    }
}

#[test]
fn batches_that_are_lowered_to_fit_do_not_change_the_fingerprint() {
    let place = place();
    // With 300 images batches have at most 15, so both arms are the same, and one is a copy of the other.
    let compare = format!("{COMPARE} --set batch.least_updates=20");
    place.run(&compare);
    let table = place.read("runs/arms/results.csv");
    assert_eq!(column(&table, "updates"), ["40"; 4]);
    let accuracies = column(&table, "test_accuracy");
    assert_eq!(accuracies[0], accuracies[1]);
    assert!(!place.run(&compare).contains(" of 4: "));
}

#[test]
fn with_a_validation_set_arms_are_compared_on_it() {
    let place = place();
    let output = place.run(&format!("{COMPARE} --set data.validation=50"));
    assert!(output.contains("  validation accuracy 0."), "{output}");
    let table = place.read("runs/arms/results.csv");
    let last = |run: &str| {
        column(&place.read(&format!("{run}/epochs.csv")), "validation_accuracy")[1].to_owned()
    };
    assert_eq!(column(&table, "validation_accuracy")[3], last("runs/arms/grown/seed-1"));
    assert!(place.read("runs/arms/table.md").contains("validation images"));
    place.refuse_saying(1, COMPARE, &["results.csv", "--out"]);
    place.refuse_saying(2, &format!("{COMPARE} --seeds 1,1"), &["--seeds", "once"]);
}

#[test]
fn arms_can_have_their_own_recipes_relative_to_the_comparison_file() {
    let place = Place::new();
    fs::create_dir(place.path("mine")).unwrap();
    fs::write(place.path("mine/tiny.toml"), "base = \"quick\"\n[network]\nwidths = [4, 4, 4]\n")
        .unwrap();
    let arms = "recipe = \"tiny.toml\"\nbase = \"a\"\nseeds = [0]\n[[arm]]\nname = \"a\"\n\
                [[arm]]\nname = \"b\"\nrecipe = \"quick\"\nset = [\"network.widths=[8,8,8]\"]\n";
    fs::write(place.path("mine/arms.toml"), arms).unwrap();
    place.run("compare mine/arms.toml --data shapes:300,100 --set train.epochs=1");
    let width = |arm: &str| place.read(&format!("runs/arms/{arm}/seed-0/recipe.toml"));
    assert!(
        width("a").contains("widths = [4, 4, 4]") && width("b").contains("widths = [8, 8, 8]"),
        "{}",
        width("a")
    );
    fs::write(
        place.path("mine/arms.toml"),
        arms.replace("network.widths=[8,8,8]", "data.validation=9"),
    )
    .unwrap();
    place.refuse_saying(2, "compare mine/arms.toml", &["arms a and b", "data.validation"]);
}
