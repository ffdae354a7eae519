//! Runs of every policy that are killed at random moments, many times, come to the same files as runs that are
//! not. `resume.rs` has a few kills that every test run makes.

#![cfg(unix)]

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::time::{Duration, Instant};

use super::resume::{start, wait_for_updates};
use super::{LONGER, OFTEN, Place, assert_equal, contents};

/// Kills in all.
const KILLS: usize = 200;

/// What the runs differ in.
const POLICIES: [&str; 5] = [
    "--set batch.policy=fixed --set batch.size=25 --set schedule.policy=plateau --set schedule.patience=0 --set \
     schedule.threshold=0.9 --set optimizer.average=ema --set optimizer.average_every=2",
    "--set batch.steps=[[1,20],[2,30],[4,60]] --set batch.coupling=sqrt --set schedule.policy=step --set \
     schedule.steps=[[3,0.5]] --set train.checkpoint_every=1",
    "--set batch.policy=plateau --set batch.initial=20 --set batch.max=80 --set batch.patience=0 --set \
     batch.threshold=0.9 --set batch.metric=validation_loss --set batch.coupling=linear --set \
     data.validation=40 --set train.evaluate_every=1 --set batch.noise_every=3",
    "--set batch.policy=noise_scale --set batch.initial=20 --set batch.max=160 --set batch.noise_every=2 --set \
     batch.noise_multiple=9.0 --set network.norm.ghost=10 --set schedule.policy=one_cycle",
    "--set batch.policy=from_lr --set batch.initial=20 --set batch.max=80 --set batch.after_max=decay --set \
     schedule.policy=cosine --set optimizer.average=lookahead",
];

/// Pseudo-random numbers (xorshift); the moments of kills depend on the machine in any case.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

#[test]
#[ignore = "kills the program 200 times: see CONTRIBUTING.md"]
fn two_hundred_kills_at_random_moments_change_no_bit() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let (mut kills, mut runs) = (0, 0);
    for (index, policy) in POLICIES.into_iter().enumerate() {
        let place = Place::new();
        let train = format!("train {LONGER} {OFTEN} {policy}");
        let begin = Instant::now();
        place.run(&format!("{train} --out whole"));
        let time = begin.elapsed();
        let goal = KILLS * (index + 1) / POLICIES.len();
        while kills < goal {
            let run = format!("killed-{runs}");
            runs += 1;
            let killed = kill(&place, &train, &run, time, goal - kills, &mut random);
            kills += killed;
            assert_same(&place.path("whole"), &place.path(&run));
            println!("policy {index}: {killed} kills of {run}, {kills} in all");
        }
    }
    assert_eq!(kills, KILLS);
}

/// Trains a run to its end, while it is killed again and again, at most so many times. How many times it was.
fn kill(
    place: &Place,
    train: &str,
    run: &str,
    time: Duration,
    most: usize,
    random: &mut Random,
) -> usize {
    let folder = place.path(run);
    let mut kills = 0;
    while kills < most {
        let threads = 1 + random.below(2);
        // Until it was first saved, there is nothing to resume.
        let mut child = match folder.exists() {
            true => start(place, &format!("train --resume {run} --log-steps --threads {threads}")),
            false => start(place, &format!("{train} --threads {threads} --out {run}")),
        };
        // After some time, or in the middle of an update that comes soon.
        let alive = if random.below(2) == 0 {
            std::thread::sleep(time.mul_f64(random.below(1000) as f64 / 1000.0));
            true
        } else {
            let steps = std::fs::read_to_string(folder.join("steps.csv")).unwrap_or_default();
            let updates = steps.lines().count() + random.below(10) as usize;
            let alive = wait_for_updates(&mut child, &folder, updates);
            std::thread::sleep(Duration::from_micros(random.below(5000)));
            alive
        };
        if alive {
            child.kill().unwrap();
        }
        let status = child.wait().unwrap();
        match status.signal() {
            Some(9) => kills += 1,
            _ => {
                assert!(status.success(), "{status}");
                return kills;
            }
        }
    }
    match folder.exists() {
        true => place.run(&format!("train --resume {run} --log-steps")),
        false => place.run(&format!("{train} --out {run}")),
    };
    kills
}

/// Whether two runs have the same weights and tables, to the bit.
#[track_caller]
fn assert_same(whole: &Path, killed: &Path) {
    assert_equal(whole, killed);
    let weights = |run: &Path| {
        let files = contents(&run.join("weights")).into_iter();
        files.map(|(path, bytes)| (path.file_name().unwrap().to_owned(), bytes)).collect::<Vec<_>>()
    };
    assert!(weights(whole) == weights(killed), "a checkpoint differs");
    let decisions = |run: &Path| std::fs::read_to_string(run.join("decisions.csv")).unwrap();
    assert_eq!(decisions(whole), decisions(killed));
}
