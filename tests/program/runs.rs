//! `runs`: the runs in a folder, without opening or changing them.

use std::fs::{self, File};

use crescendo::data::shapes;
use crescendo::devices;
use crescendo::training::events::{Event, Observer};
use crescendo::training::{Error, Outcome, Recipe, Run, Start};
use serde_json::{Value, json};

use super::{Place, SMALL, column, contents, text};

/// Stops after 3 updates.
struct Stop(bool);

impl Observer for Stop {
    fn event(&mut self, event: &Event) -> Result<(), Error> {
        self.0 |= matches!(event, Event::Step(step) if step.update >= 3);
        Ok(())
    }

    fn wants_stop(&self) -> bool {
        self.0
    }
}

/// Runs that have not ended in the folders `begun`, `epoch` (after one) and `halfway` (within the first).
fn unfinished(place: &Place) {
    let changes = ["network.widths=[4, 4, 4]", "batch.steps=[[1, 10]]", "engine.device=cpu"];
    let recipe = Recipe::load("quick", &changes).unwrap();
    let data = shapes::generate(0, 50, 20);
    let create = |name: &str| {
        let start = Start::new(&recipe, &data, devices());
        Run::create(&place.path(&format!("runs/{name}")), &start).unwrap()
    };
    create("begun");
    let (mut epoch, mut halfway) = (create("epoch"), create("halfway"));
    let go_on = false.into();
    assert_eq!(
        epoch.train_until(1, devices(), &data, &mut (), &go_on).unwrap(),
        Outcome::Interrupted
    );
    halfway.train(devices(), &data, &mut Stop(false), &go_on).unwrap();
}

/// The lines of a table, without the last columns: time and date.
fn lines(table: &str) -> Vec<String> {
    let until = table.lines().next().unwrap().find("time").unwrap();
    let cut = |line: &str| line.chars().take(until).collect::<String>();
    table.lines().map(|line| cut(line).split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

#[test]
fn runs_and_comparisons_are_listed_with_how_far_they_are() {
    let place = Place::new();
    let validated = "--set data.validation=24 --set train.evaluate_every=1 --epochs 2";
    place.run(&format!("train {SMALL} {validated} --out runs/validated"));
    place.run(&format!("train {SMALL} --epochs 1 --out runs/tested"));
    unfinished(&place);
    let arms = "recipe = 'quick'\nbase = 'b'\nseeds = [0]\nbn_images = 100\n\
                set = ['network.widths=[4,4,4]', 'train.epochs=1']\n\
                [[arm]]\nname = 'a'\nset = ['batch.steps=[[1,25]]']\n\
                [[arm]]\nname = 'b'\nset = ['batch.steps=[[1,50]]']\n";
    fs::write(place.path("both.toml"), arms).unwrap();
    // The second in which a run is created is kept: those of the comparison are in a later one.
    std::thread::sleep(std::time::Duration::from_secs(1));
    place.run("compare both.toml --data shapes:144,100 --seeds 10,9");
    fs::write(place.path("runs/page.html"), "").unwrap();

    let before = contents(&place.path("runs"));
    let best = |run: &str, name: &str| {
        let table = place.read(&format!("runs/{run}/epochs.csv"));
        let cells = column(&table, name).into_iter().filter(|cell| !cell.is_empty());
        cells
            .max_by(|a, b| a.parse::<f64>().unwrap().total_cmp(&b.parse().unwrap()))
            .unwrap()
            .to_owned()
    };
    let in_comparison = |arm: &str, seed: u64| {
        let best = best(&format!("both/{arm}/seed-{seed}"), "test_accuracy");
        format!("{arm} / seed {seed} finished {best} test")
    };
    let expected = [
        "run state best accuracy".to_owned(),
        "begun not begun -".into(),
        "both comparison, 4 runs".into(),
        in_comparison("a", 9),
        in_comparison("a", 10),
        in_comparison("b", 9),
        in_comparison("b", 10),
        "epoch stopped after epoch 1 -".into(),
        "halfway stopped at epoch 1 -".into(),
        format!("tested finished {} test", best("tested", "test_accuracy")),
        format!("validated finished {} validation", best("validated", "validation_accuracy")),
    ];
    let table = place.run("runs --sort name");
    assert_eq!(lines(&table), expected, "{table}");
    assert!(table.lines().all(|line| line.len() <= 100), "{table}");
    assert!(table.lines().nth(1).unwrap().contains("  cpu     20"), "{table}");
    assert!(before == contents(&place.path("runs")), "listing changes nothing");

    // The newest first: the comparison, of which the newest run counts.
    let names = |arguments: &str| -> Vec<String> {
        let list: Value = serde_json::from_str(&place.run(arguments)).unwrap();
        let folder = |run: &Value| run["folder"].as_str().unwrap().to_owned();
        list.as_array().unwrap().iter().map(folder).collect()
    };
    let newest = names("runs --json");
    assert_eq!(newest.len(), 9);
    assert!(newest[..4].iter().all(|folder| folder.starts_with("runs/both/")), "{newest:?}");
    let by_time = names("runs --json --sort time");
    assert_eq!(by_time[0], "runs/begun");
    let list: Value = serde_json::from_str(&place.run("runs --json --sort accuracy")).unwrap();
    let list = list.as_array().unwrap();
    let first = list[0]["best_accuracy"].as_f64().unwrap();
    assert!(list.iter().all(|run| run["best_accuracy"].as_f64().unwrap_or(0.0) <= first));
    assert_eq!(list.last().unwrap()["best_accuracy"], Value::Null);
    let of = |folder: &str| list.iter().find(|run| run["folder"] == folder).unwrap();
    let arm = of("runs/both/a/seed-10");
    assert_eq!(arm["comparison"], json!({ "name": "both", "arm": "a", "seed": 10 }));
    assert_eq!((&arm["state"], &arm["device"]), (&"finished".into(), &"cpu".into()));
    let halfway = of("runs/halfway");
    assert_eq!((&halfway["state"], &halfway["updates"]), (&"stopped".into(), &3.into()));
    assert_eq!((&halfway["comparison"], &halfway["accuracy_of"]), (&Value::Null, &Value::Null));

    // A comparison's own folder, and a run's.
    let table = place.run("runs runs/both");
    assert_eq!(lines(&table)[1..], expected[2..7], "{table}");
    assert_eq!(names("runs runs/tested --json"), ["runs/tested"]);
}

#[test]
fn a_run_that_a_program_trains_is_marked() {
    let place = Place::with_run("--epochs 1");
    let lock = File::open(place.path("run/state/lock")).unwrap();
    lock.lock().unwrap();
    assert!(place.run("runs .").contains("  training now  "));
    drop(lock);
    assert!(place.run("runs .").contains("  finished  "));
    // It can be trained while others look.
    let lock = File::open(place.path("run/state/lock")).unwrap();
    lock.lock_shared().unwrap();
    assert!(place.run("runs .").contains("  finished  "));
}

#[test]
fn what_is_no_run_is_left_out_and_named() {
    let place = Place::with_run("--epochs 1");
    assert!(place.run("runs").starts_with("There are no runs in runs; `crescendo train`"));
    assert_eq!(place.run("runs --json"), "[]\n");
    place.refuse_saying(1, "runs nowhere", &["cannot read nowhere"]);

    fs::create_dir(place.path("notes")).unwrap();
    fs::create_dir(place.path(".hidden")).unwrap();
    let copy = |name: &str| {
        for (path, bytes) in contents(&place.path("run")) {
            let path = place.path(name).join(path.strip_prefix(place.path("run")).unwrap());
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
    };
    ["cut", "edited", "table", "previous"].into_iter().for_each(copy);
    let state = fs::read(place.path("run/state/state.safetensors")).unwrap();
    fs::write(place.path("cut/state/state.safetensors"), &state[..100]).unwrap();
    fs::write(place.path("edited/recipe.toml"), "[run]\nrecipe = 3\n").unwrap();
    fs::write(place.path("table/epochs.csv"), "epoch,train_loss\n1,x\n").unwrap();
    // As in the middle of a save.
    let previous = place.path("previous/state/previous.safetensors");
    fs::rename(place.path("previous/state/state.safetensors"), previous).unwrap();

    let output = place.command("runs .").output().unwrap();
    assert!(output.status.success());
    let listed = text(&output.stdout);
    let names: Vec<&str> =
        listed.lines().skip(1).map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(names.len(), 2, "{listed}");
    assert!(names.contains(&"run") && names.contains(&"previous"), "{listed}");
    let skipped = text(&output.stderr);
    assert_eq!(skipped.lines().count(), 4, "{skipped}");
    for (line, part) in
        skipped.lines().zip(["cut/state", "edited/recipe", "notes: is not", "table/epochs"])
    {
        assert!(line.starts_with("skipped: ./") && line.contains(part), "{line}");
    }
}
