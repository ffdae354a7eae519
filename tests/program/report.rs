//! HTML reports: those that training writes, and those of the command `report`.

use std::fs;
use std::process::Command;

use super::{Place, SMALL, column, rows};

const EVALUATED: &str = "--set train.evaluate_every=1 --set data.validation=40";

/// Two small runs, `run` and `other`. The first has a decision.
fn two_runs() -> Place {
    let grown = "--set batch.steps=[[1,25],[2,50]] --epochs 2";
    let place = Place::with_run(&format!("{grown} {EVALUATED}"));
    place.run(&format!("train {SMALL} --epochs 1 --seed 1 --out other"));
    place
}

#[test]
fn training_writes_a_report() {
    let place = two_runs();
    let report = place.read("run/report.html");
    for part in [
        "quick on shapes",
        "<dd>2 of 2</dd>",
        "<h3>Loss</h3>",
        "<h3>Accuracy</h3>",
        "<h3>Batch size, images</h3>",
        "<h3>Learning rate</h3>",
        "<h3>Throughput, images/s</h3>",
        "From epoch 2: batch size 25 to 50",
        "25 → 50",
        "Test set after epoch 2",
        "Validation set after epoch 2",
        "src=\"data:image/bmp;base64,",
        "widths = [",
        "crescendo train --resume run",
        "<dd>shapes: ",
        "<dt>Command</dt><dd><code><span>crescendo</span> <span>train</span> ",
        "href=\"weights/best.safetensors\"",
        "href=\"log.txt\"",
        "href=\"results.svg\"",
        "alt=\"training image of ",
        "alt=\"filter 1\"",
        "table batch.steps: 50 from epoch 2",
    ] {
        assert!(report.contains(part), "no {part}");
    }
    for nothing in ["http", "<script", "@import", "url(", "refresh"] {
        assert!(!report.contains(nothing), "{nothing}");
    }
    let decisions = place.read("run/decisions.csv");
    assert_eq!(rows(&decisions).len(), 2, "{decisions}");
    assert_eq!(column(&decisions, "epoch"), ["2"]);
    let evaluation: serde_json::Value =
        serde_json::from_str(&place.read("run/evaluation.json")).unwrap();
    for split in ["test", "validation"] {
        assert_eq!(evaluation[split]["epoch"], 2);
        assert_eq!(evaluation[split]["confusion"].as_array().unwrap().len(), 10);
    }
    let mistakes = evaluation["test"]["mistakes"].as_array().unwrap();
    let sure = |mistake: &serde_json::Value| mistake["probability"].as_f64().unwrap();
    assert!(!mistakes.is_empty() && mistakes.is_sorted_by(|a, b| sure(a) >= sure(b)));

    let tested = column(&place.read("run/epochs.csv"), "test_loss").join(" ");
    assert!(tested.trim().parse::<f64>().is_ok_and(|loss| loss > 0.0), "{tested}");

    // `report` writes the same report, and the picture, from the files of the run.
    let picture = place.read("run/results.svg");
    for file in ["run/report.html", "run/results.svg"] {
        fs::remove_file(place.path(file)).unwrap();
    }
    assert_eq!(place.run("report run"), "run/report.html\n");
    assert_eq!(place.read("run/report.html"), report);
    assert_eq!(place.read("run/results.svg"), picture);
    // Elsewhere it leads to the same files.
    place.run("report run --out one.html");
    assert!(place.read("one.html").contains("href=\"run/weights/best.safetensors\""));
}

#[test]
fn several_runs_are_drawn_in_the_same_figures() {
    let place = two_runs();
    assert_eq!(place.run("report run other --out both.html"), "both.html\n");
    let report = place.read("both.html");
    for part in ["<h1>2 runs</h1>", "run</span>", "other</span>", "line c0", "line c1"] {
        assert!(report.contains(part), "no {part}");
    }
    place.refuse_saying(2, "report run other", &["--out"]);
    // A report may be replaced, other files may not.
    place.run("report other run --out both.html");
    assert_ne!(place.read("both.html"), report);
    for file in ["run/log.txt", "run/recipe.toml"] {
        let before = place.read(file);
        place.refuse_saying(1, &format!("report run other --out {file}"), &[file, "--out"]);
        assert_eq!(place.read(file), before);
    }
    place.refuse_saying(1, "report run --out nowhere/both.html", &["nowhere/both.html"]);
}

#[test]
fn damaged_and_missing_files_are_named() {
    let place = two_runs();
    place.refuse_saying(1, "report nowhere", &["nowhere", "is not a run folder"]);
    fs::write(place.path("other/epochs.csv"), "epoch,train_loss\n1,2.5\n2,x\n").unwrap();
    let parts = ["other/epochs.csv: line 3", "\"x\" as train_loss"];
    place.refuse_saying(1, "report run other --out both.html", &parts);
    assert!(!place.path("both.html").exists());
    fs::write(place.path("run/evaluation.json"), "{\"test\": 1}").unwrap();
    place.refuse_saying(1, "report run", &["run/evaluation.json: is damaged"]);
    // A run that was not trained yet has a report as well.
    place.run(&format!("train {SMALL} --epochs 0 --out empty"));
    place.run("report empty");
    assert!(place.read("empty/report.html").contains("No epoch is finished yet"));
}

/// Checks reports in a browser, with `tests/browser/check.py`:
///
/// ```text
/// cargo test --release --test program -- --ignored browser
/// ```
#[test]
#[ignore = "needs Python's playwright, axe-playwright-python and Chromium"]
fn reports_look_right_in_a_browser() {
    let place = two_runs();
    place.run("report run other --out both.html");
    let arms = "question = \"Is width 8 better?\"\nrecipe = \"quick\"\nbase = \"width-4\"\nseeds = [0, 1, 2]\n\
                set = [\"network.widths=[4,4,4]\", \"train.epochs=2\", \"train.evaluate_every=1\"]\n\
                [[arm]]\nname = \"width-4\"\n[[arm]]\nname = \"width-8\"\nset = [\"network.widths=[8,4,4]\"]\n";
    fs::write(place.path("arms.toml"), arms).unwrap();
    place.run("compare arms.toml --data shapes:144,100");
    let evaluation = &["true", "predicted", "precision", "recall", "calibration error"][..];
    let pages = [
        ("run/report.html", "6", evaluation),
        ("both.html", "6", &[]),
        ("runs/arms/report.html", "7", &[]),
    ];
    for (report, figures, words) in pages {
        let mut command = Command::new("python3");
        command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/browser/check.py"));
        command.args([report, "--figures", figures]).current_dir(place.folder());
        for word in words {
            command.args(["--has", *word]);
        }
        let output = command.output().unwrap();
        let (said, complaint) = (super::text(&output.stdout), super::text(&output.stderr));
        assert!(output.status.success(), "{said}{complaint}");
    }
}
