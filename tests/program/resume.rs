//! A run that is killed at any moment and resumed has the same results as one that was never stopped.

use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use super::{LONGER, OFTEN, Place, assert_equal, column, result};

pub fn start(place: &Place, arguments: &str) -> Child {
    let mut command = place.command(arguments);
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// Waits until the run has made that many updates. Returns false if it ended before.
pub fn wait_for_updates(child: &mut Child, run: &Path, updates: usize) -> bool {
    let begin = Instant::now();
    loop {
        let steps = std::fs::read_to_string(run.join("steps.csv")).unwrap_or_default();
        if steps.lines().count() > updates {
            return true;
        }
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        assert!(begin.elapsed() < Duration::from_secs(60), "no update {updates} in a minute");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn killed_again_and_again() {
    // The kills happen in the first epoch, at its end, when the batch grows, and at the end.
    kill(LONGER, [1, 7, 12, 19, 24, 25, 31, 36]);
}

#[test]
fn killed_while_muon_trains_and_parameter_groups_end() {
    // Ten updates per epoch; the bias of the whitening layer is trained for three epochs.
    let fast94 = "fast94 --data shapes:120,40 --set network.widths=[4,8,8] \
                  --set batch.least_updates=10";
    kill(fast94, [1, 5, 10, 12, 24, 29, 30, 36]);
    for average in ["ema", "lookahead"] {
        let average = format!("--set optimizer.average={average} --set train.checkpoint_every=1");
        kill(&format!("{fast94} {average}"), [1, 4, 5, 9, 10, 19, 29, 36]);
    }
}

#[test]
fn killed_during_progressive_resizing() {
    let sides = "--set data.sides=[[1,16],[2,32],[3,16],[4,32]] --set train.evaluate_every=1";
    kill(&format!("{LONGER} {sides}"), [1, 7, 12, 19, 24, 25, 31, 36]);
}

#[test]
#[ignore = "takes long: see CONTRIBUTING.md"]
fn longer_killed_while_policies_change_the_batch_size() {
    // 260 training images: ten updates per epoch, and fewer after each growth of the batch.
    let plateau = "--set batch.policy=plateau --set batch.initial=26 --set batch.max=104 --set \
                   batch.patience=0 --set batch.threshold=0.9 --set batch.metric=validation_loss \
                   --set batch.coupling=sqrt --set data.validation=40 --set \
                   train.evaluate_every=1 --set batch.noise_every=3";
    kill(&format!("{LONGER} {plateau}"), [1, 3, 9, 10, 11, 20, 21, 25]);
    let noise_scale = "--set batch.policy=noise_scale --set batch.initial=20 --set batch.max=160 \
                       --set batch.noise_every=2 --set batch.noise_multiple=9.0 --set \
                       network.norm.ghost=10 --set schedule.policy=one_cycle";
    kill(&format!("{LONGER} {noise_scale}"), [1, 5, 14, 15, 16, 20, 24, 28]);
}

/// `recipe` is the name of a recipe with options that change it; `moments` are numbers of updates.
fn kill(recipe: &str, moments: [usize; 8]) {
    let place = Place::new();
    place.run(&format!("train {recipe} {OFTEN} --out whole"));

    let mut child = start(&place, &format!("train {recipe} {OFTEN} --out killed"));
    let run = place.path("killed");
    let mut kills = 0;
    for updates in moments {
        if !wait_for_updates(&mut child, &run, updates) {
            break;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        kills += 1;
        child = start(&place, "train --resume killed --threads 1");
    }
    assert!(child.wait().unwrap().success() || kills == 8);
    place.run("train --resume killed");
    assert!(kills >= 5, "only {kills} kills");
    assert_equal(&place.path("whole"), &place.path("killed"));
    assert!(place.run("train --resume killed").contains("already finished"));
    assert_equal(&place.path("whole"), &place.path("killed"));
}

#[test]
fn killed_in_the_first_moments() {
    let place = Place::new();
    place.run(&format!("train {LONGER} {OFTEN} --out whole"));
    for (attempt, milliseconds) in [0, 5, 10, 20, 35, 50, 80, 150].into_iter().enumerate() {
        let name = format!("killed-{attempt}");
        let mut child = start(&place, &format!("train {LONGER} {OFTEN} --out {name}"));
        std::thread::sleep(Duration::from_millis(milliseconds));
        child.kill().unwrap();
        child.wait().unwrap();
        // The folder exists with a state in it, or not at all.
        if place.path(&name).exists() {
            // It may have been killed before steps.csv was created.
            place.run(&format!("train --resume {name} --log-steps"));
            assert_equal(&place.path("whole"), &place.path(&name));
        }
    }
}

#[cfg(unix)]
#[test]
fn a_signal_stops_after_the_step_and_the_output_says_how_to_resume() {
    let place = Place::new();
    place.run(&format!("train {LONGER} {OFTEN} --out whole"));
    let signals = [("INT", 130), ("HUP", 129), ("TERM", 143), ("USR1", 143), ("QUIT", 143)];
    for (signal, code) in signals {
        // A shell has to be told that this is one word.
        let name = format!("it's stopped by {signal}");
        let mut command = place.command(&format!("train {LONGER} {OFTEN} --out"));
        command.arg(&name).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        assert!(wait_for_updates(&mut child, &place.path(&name), 5));
        let process = child.id().to_string();
        let kill = std::process::Command::new("kill").args(["-s", signal, &process]).status();
        assert!(kill.unwrap().success());
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{signal}");
        let said = super::text(&output.stdout);
        // The weights of this moment can be evaluated.
        let evaluated = place.command("evaluate --json").arg(&name).output().unwrap().stdout;
        let evaluated: serde_json::Value = serde_json::from_slice(&evaluated).unwrap();
        assert!(evaluated["results"][0]["updates"].as_u64().unwrap() >= 5, "{evaluated}");
        let resume =
            said.lines().last().and_then(|line| line.split_once("Resume with: crescendo "));
        let script = format!("\"$0\" {}", resume.unwrap_or_else(|| panic!("{said}")).1);
        let program = place.command("");
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", &script]).arg(program.get_program()).current_dir(place.folder());
        shell.envs(program.get_envs().filter_map(|(key, value)| Some((key, value?))));
        assert!(shell.output().unwrap().status.success(), "{script}");
        assert_equal(&place.path("whole"), &place.path(&name));
    }
}

#[test]
fn a_finished_run_can_be_extended() {
    let place = Place::new();
    place.run(&format!("train {LONGER} {OFTEN} --out whole"));
    place.run(&format!("train {LONGER} {OFTEN} --epochs 2 --out short").replace(" --epochs 4", ""));
    place.run("train --resume short --epochs 4");
    let (whole, short) = (result(&place.path("whole")), result(&place.path("short")));
    // epochs.csv is not compared: only the short run was evaluated after epoch 2.
    assert!(whole.0 == short.0 && whole.2 == short.2);
    let complaint = place.refuse(2, "train --resume short --epochs 3");
    assert!(complaint.contains("this run has already reached epoch 4"), "{complaint}");
}

#[test]
fn the_learning_rate_can_be_changed_on_resume() {
    let place = Place::new();
    place.run(&format!("train {LONGER} --epochs 2 --out run"));
    let output = place.run("train --resume run --epochs 3 --set optimizer.learning_rate=0.01");
    assert!(output.contains("Changing optimizer.learning_rate from 0.1 to 0.01"), "{output}");
    let epochs = place.read("run/epochs.csv");
    assert_eq!(column(&epochs, "learning_rate"), ["0.1", "0.1", "0.01"]);
    assert!(place.read("run/recipe.toml").contains("learning_rate = 0.01"));
}

#[test]
fn network_seed_and_data_cannot_be_changed_on_resume() {
    let place = Place::new();
    place.run(&format!("train {LONGER} --epochs 1 --out run"));
    let before = place.read("run/recipe.toml");
    for change in ["network.widths=[4,8,9]", "train.seed=1", "optimizer.momentum=0.5"] {
        let complaint = place.refuse(2, &format!("train --resume run --epochs 2 --set {change}"));
        assert!(complaint.contains(change.split('=').next().unwrap()), "{complaint}");
    }
    let complaint = place.refuse(1, "train --resume run --epochs 2 --data shapes:301,100");
    assert!(complaint.contains("not the data that the run in run was trained on"), "{complaint}");
    assert_eq!(place.read("run/recipe.toml"), before);
}

#[test]
fn two_programs_cannot_train_in_the_same_folder() {
    let place = Place::new();
    let mut child = start(&place, &format!("train {LONGER} --epochs 500 --log-steps --out run"));
    assert!(wait_for_updates(&mut child, &place.path("run"), 1));
    let complaint = place.refuse(1, "train --resume run");
    assert!(complaint.contains("another program is training in run"), "{complaint}");
    child.kill().unwrap();
    child.wait().unwrap();
}
