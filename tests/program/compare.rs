//! Comparisons: every arm is trained once with every seed, also after interruptions, and results of
//! different recipes are never mixed.

use std::fs;
use std::time::Duration;

use super::{Place, check_refusal, column, text};

pub const ARMS: &str = "recipe = \"quick\"\nbase = \"fixed\"\nseeds = [0, 1]\nbn_images = 100\n\
                    set = [\"network.widths=[4,4,4]\", \"train.epochs=2\"]\n\
                    [[arm]]\nname = \"grown\"\nset = [\"batch.steps=[[1,12],[2,24]]\"]\n\
                    [[arm]]\nname = \"fixed\"\nset = [\"batch.policy=fixed\", \"batch.size=12\"]\n";

const COMPARE: &str = "compare arms.toml --data shapes:144,100";

fn place() -> Place {
    let place = Place::new();
    fs::write(place.path("arms.toml"), ARMS).unwrap();
    place
}

/// The rows of results.csv without the seconds.
pub fn results(place: &Place, folder: &str) -> Vec<String> {
    let table = place.read(&format!("{folder}/results.csv"));
    let rows = super::rows(&table);
    let seconds = rows[0].iter().position(|cell| *cell == "seconds").unwrap();
    let timeless = |mut row: Vec<&str>| {
        row.remove(seconds);
        row.join(",")
    };
    rows.into_iter().map(timeless).collect()
}

#[test]
fn every_arm_is_trained_with_every_seed_once() {
    let place = place();
    let output = place.run(COMPARE);
    assert!(output.contains("4 of 4: grown, seed 1"), "{output}");
    assert!(output.contains("\nfixed ") && output.contains("\ngrown "), "{output}");
    let table = place.read("runs/arms/results.csv");
    assert_eq!(column(&table, "arm"), ["fixed", "grown", "fixed", "grown"]);
    assert_eq!(column(&table, "seed"), ["0", "0", "1", "1"]);
    assert_eq!(column(&table, "updates"), ["24", "18", "24", "18"]);
    assert_eq!(column(&table, "device"), ["cpu"; 4]);
    assert_eq!(column(&table, "precision"), ["f32"; 4]);
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
    assert!(!again.contains(" of 4: ") && again.contains("\ngrown "), "{again}");
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
        "train quick --data shapes:144,100 --seed 1 --out alone --set network.widths=[4,4,4] \
         --set train.epochs=2 --set batch.steps=[[1,12],[2,24]]",
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

/// Has a comparison's folder say that version 0.1.0 trained it.
fn as_version_0_1(place: &Place) {
    let own = env!("CARGO_PKG_VERSION");
    for arm in ["fixed", "grown"] {
        for seed in [0, 1] {
            let record = format!("runs/arms/{arm}/seed-{seed}/recipe.toml");
            let text =
                place.read(&record).replace(&format!("version = \"{own}\""), "version = \"0.1.0\"");
            fs::write(place.path(&record), text).unwrap();
        }
    }
    let table = place.read("runs/arms/results.csv");
    let rows = table.lines().map(|line| {
        let old = [",version,validation", &format!(",{own},random")];
        let line = old.into_iter().find_map(|end| line.strip_suffix(end));
        format!("{}\n", line.expect("the last columns"))
    });
    fs::write(place.path("runs/arms/results.csv"), rows.collect::<String>()).unwrap();
}

#[test]
fn what_another_version_trained_is_shown_apart_and_trained_again() {
    let place = place();
    place.run(COMPARE);
    let fresh = results(&place, "runs/arms");
    as_version_0_1(&place);
    let output = place.run(&format!("{COMPARE} --seeds 0"));
    assert!(output.contains("2 of 2: grown, seed 0"), "{output}");
    assert!(output.contains("Other results: crescendo 0.1.0 on cpu in f32"), "{output}");
    // Seed 1 has results of the other version alone: the difference is that of seed 0, and what is missing is trained.
    let json = place.run(&format!("{COMPARE} --json"));
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let accuracy = |arm: &serde_json::Value, seed: usize| {
        assert_eq!(arm["results"][seed]["seed"], seed);
        arm["results"][seed]["test_accuracy"].as_f64().unwrap()
    };
    let own = env!("CARGO_PKG_VERSION");
    for (arms, version) in [(&json["arms"], own), (&json["apart"][0]["arms"], "0.1.0")] {
        let pairs = [0, 1].map(|seed| accuracy(&arms[1], seed) - accuracy(&arms[0], seed));
        let difference = arms[1]["running"]["difference"].as_f64().unwrap();
        assert!((difference - (pairs[0] + pairs[1]) / 2.0).abs() < 1e-9, "{json}");
        assert_eq!(arms[0]["results"][0]["version"], version);
    }
    assert_eq!(json["apart"].as_array().unwrap().len(), 1);
    let rows = results(&place, "runs/arms");
    assert_eq!(rows.len(), 9);
    assert!(rows[1..5].iter().all(|row| row.ends_with(",cpu,f32,0.1.0,random")), "{rows:?}");
    assert_eq!(rows[5..], fresh[1..]);
    // All of it is found again, also in `runs`.
    let again = place.run(COMPARE);
    assert!(!again.contains(" of 4: ") && again.contains("crescendo 0.1.0"), "{again}");
    let listed = place.run("runs");
    assert!(listed.contains("comparison, 8 runs"), "{listed}");
    assert!(listed.contains("fixed / seed 0 (2)"), "{listed}");
    let page = place.read("runs/arms/report.html");
    assert!(
        page.contains("href=\"grown/seed-1-2/report.html\"") && page.contains("Other results: ")
    );
    // Of another version are only results of the same recipe.
    let problem = ["results.csv", "arm fixed, seed 0", "another recipe"];
    place.refuse_saying(1, &format!("{COMPARE} --set optimizer.momentum=0.5"), &problem);
}

#[test]
fn validation_images_that_were_chosen_otherwise_make_another_kind() {
    let place = place();
    let compare = format!("{COMPARE} --set data.validation=24 --seeds 0");
    place.run(&compare);
    let table = place.read("runs/arms/results.csv");
    assert_eq!(column(&table, "validation"), ["stratified"; 2]);
    fs::write(place.path("runs/arms/results.csv"), table.replace(",stratified", ",random"))
        .unwrap();
    // An unfinished run of that choice is not gone on with.
    let record = "runs/arms/fixed/seed-0/recipe.toml";
    let text = place.read(record);
    assert!(text.contains("validation = \"stratified\"\n"), "{text}");
    fs::write(place.path(record), text.replace("validation = \"stratified\"\n", "")).unwrap();
    let output = place.run(&compare);
    assert!(output.contains("2 of 2: grown, seed 0"), "{output}");
    assert!(output.contains("validation images from each class"), "{output}");
    let table = place.read("runs/arms/results.csv");
    assert_eq!(column(&table, "validation"), ["random", "random", "stratified", "stratified"]);
    let record = place.read("runs/arms/fixed/seed-0-2/recipe.toml");
    assert!(record.contains("validation = \"stratified\"\n"), "{record}");
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
    fs::write(place.path("arms.toml"), ARMS.replace("[2,24]", "[2,36]")).unwrap();
    let arguments = format!("{COMPARE} --set network.classes=7 --out elsewhere");
    let output = place.command(&arguments).output().unwrap();
    // The error comes before the first arm is trained.
    assert!(text(&output.stdout).is_empty());
    assert!(check_refusal(&output, 1, &arguments).contains("but network.classes is 7"));
    place.refuse_saying(2, "compare grow-or-decy", &["grow-or-decay"]);
}

#[test]
#[ignore = "takes long: see CONTRIBUTING.md"]
fn longer_every_built_in_comparison_runs_or_says_what_it_needs() {
    let place = Place::new();
    // As short, and on as few images, as the arms still differ.
    let short = "--data shapes:60,20 --set train.epochs=1";
    let growing = "--data shapes:130,20 --set train.epochs=11";
    let narrow = "--set network.widths=[4,4,4]";
    for (name, options) in [
        ("grow-or-decay", format!("{growing} {narrow}")),
        ("activations", format!("{short} {narrow}")),
        ("head", format!("{short} {narrow}")),
        ("width", short.to_owned()),
        ("depth", format!("{short} {narrow}")),
    ] {
        let output = place.run(&format!("compare {name} --seeds 0 {options}"));
        let table = place.read(&format!("runs/{name}/results.csv"));
        let rows = column(&table, "arm").len();
        assert!(rows > 1 && output.contains(&format!("{rows} of {rows}: ")), "{output}");
    }
    // This one needs thousands of images, and says so.
    place.refuse_saying(
        2,
        "compare beyond-1000 --data shapes:600,20",
        &[
            "beyond-1000: arms to-1000, to-2000, to-4000 and to-8000 would train alike",
            "at most 600 images",
        ],
    );
}

#[test]
fn arms_that_would_train_alike_are_refused_with_the_reason() {
    let place = place();
    place.refuse_saying(
        2,
        "compare grow-or-decay --data shapes:60,20 --set train.epochs=4",
        &[
            "grow-or-decay: arms neither, grow, decay and both would train alike: ",
            "batch.steps: its rows from epoch 11 on have no effect: the run ends with epoch 4",
            "schedule.steps has no effect: its first row is for epoch 11",
        ],
    );
    let fixed = format!("{COMPARE} --set batch.policy=fixed --set batch.size=12");
    let why = [
        "arms fixed and grown would train alike: batch.steps has no effect: batch.policy is fixed",
    ];
    place.refuse_saying(2, &fixed, &why);
    // Batches that are lowered to fit the data.
    let lowered = format!("{COMPARE} --set batch.least_updates=20");
    place.refuse_saying(2, &lowered, &["would train alike", "Batches have at most 7 images"]);
    assert!(!place.path("runs").exists());
}

#[test]
fn keys_that_act_in_no_arm_are_warned_about() {
    let place = place();
    let arms = ARMS.replace("batch.size=12\"", "batch.size=12\", \"batch.max=9\"");
    fs::write(place.path("arms.toml"), arms).unwrap();
    // `batch.coupling` acts in one of the two arms.
    let set = "--set schedule.peak=0.4 --set batch.coupling=sqrt --seeds 0";
    let output = place.command(&format!("{COMPARE} {set}")).output().unwrap();
    assert!(output.status.success());
    assert_eq!(
        text(&output.stderr),
        "warning: schedule.peak has no effect: schedule.policy is constant\n\
         warning: arm fixed: batch.max has no effect: batch.policy is fixed\n"
    );
}

#[test]
fn batches_that_are_lowered_to_fit_do_not_change_the_fingerprint() {
    let place = place();
    fs::write(place.path("arms.toml"), ARMS.replace("[1,12],[2,24]", "[1,5],[2,24]")).unwrap();
    // With 144 images batches have at most 7.
    let compare = format!("{COMPARE} --set batch.least_updates=20");
    place.run(&compare);
    let table = place.read("runs/arms/results.csv");
    assert_eq!(column(&table, "updates"), ["40", "48", "40", "48"]);
    assert!(!place.run(&compare).contains(" of 4: "));
}

#[test]
fn with_a_validation_set_arms_are_compared_on_it() {
    let place = place();
    let output = place.run(&format!("{COMPARE} --set data.validation=24"));
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
    place.run("compare mine/arms.toml --data shapes:144,100 --set train.epochs=1");
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

#[test]
fn a_comparison_has_a_page_with_its_question_that_is_a_function_of_its_folder() {
    let place = place();
    let source = "question = \"Does it help to grow?\"\nsource = \"a paper\"\n";
    fs::write(place.path("arms.toml"), format!("{source}{ARMS}")).unwrap();
    let output = place.run(COMPARE);
    let (question, table) = (output.find("Does it help to grow?"), output.find("against fixed"));
    assert!(question.is_some() && question < table, "{output}");
    assert!(output.contains("Source: a paper") && output.contains("runs/arms/report.html"));
    assert!(output.lines().all(|line| line.chars().count() <= 80), "{output}");
    let page = place.read("runs/arms/report.html");
    for part in [
        "<h1>Does it help to grow?</h1>",
        "Differences from fixed",
        "class=\"band c1\"",
        "<a href=\"grown/seed-1/report.html\">grown / seed 1</a>",
        "batch.steps=[[1,12],[2,24]]",
    ] {
        assert!(page.contains(part), "no {part}");
    }
    assert!(place.read("runs/arms/table.md").contains("Does it help to grow?"));
    assert!(place.read("runs/arms/results.svg").contains("grown, precise statistics: "));
    fs::remove_file(place.path("runs/arms/report.html")).unwrap();
    fs::remove_file(place.path("runs/arms/results.svg")).unwrap();
    assert_eq!(place.run("report runs/arms"), "runs/arms/report.html\n");
    assert_eq!(place.read("runs/arms/report.html"), page);
    assert!(place.path("runs/arms/results.svg").exists());
    place.run("report runs/arms --out elsewhere.html");
    let link = "<a href=\"runs/arms/grown/seed-1/report.html\">";
    assert!(place.read("elsewhere.html").contains(link));
    fs::write(place.path("runs/arms/comparison.toml"), "name = 1").unwrap();
    place.refuse_saying(1, "report runs/arms", &["comparison.toml: is damaged", "compare"]);
}
