//! Runs over the ranks of an MPI job, by a real `mpirun`: the bits of one process, kills, signals, errors. They need the
//! feature `mpi`:
//!
//! ```text
//! cargo test --release --features mpi --test program ranks -- --include-ignored
//! ```
//!
//! What is ignored otherwise needs root.
//!
//! Another `mpirun` can be named by `CRESCENDO_MPIRUN`.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use super::compare::{ARMS, results};
use super::full_disk::Disk;
use super::resume::wait_for_updates;
use super::{OFTEN, Place, SMALL, assert_equal, column, contents, text};

/// How long a job may take, also where ranks that wait keep their core.
const PATIENCE: Duration = Duration::from_secs(300);

/// Whether the test of this name runs; says that it does not, without MPI.
fn runs(test: &str) -> bool {
    if !cfg!(feature = "mpi") {
        let message = format!("ranks::{test}: NOT RUN, as the program is built without MPI\n");
        std::io::stderr().write_all(message.as_bytes()).unwrap();
    }
    cfg!(feature = "mpi")
}

/// The command that runs the program on so many ranks, each with one thread.
fn job(place: &Place, ranks: usize, arguments: &str) -> Command {
    let mpirun = std::env::var("CRESCENDO_MPIRUN").unwrap_or_else(|_| "mpirun".into());
    let version = Command::new(&mpirun).arg("--version").output();
    let version = version.unwrap_or_else(|error| panic!("{mpirun}: {error}"));
    let mut command = Command::new(mpirun);
    if text(&version.stdout).contains("Open MPI") {
        command.args(["--oversubscribe", "--allow-run-as-root"]);
    }
    command.args(["-n", &ranks.to_string(), env!("CARGO_BIN_EXE_crescendo")]);
    command.args(arguments.split_whitespace()).args(["--threads", "1"]);
    command.args(arguments.starts_with("train").then_some("--quiet"));
    command.current_dir(place.folder()).env_remove("CRESCENDO_DATA").env("HOME", place.folder());
    command.env("XDG_DATA_HOME", place.path("share")).env("CUDA_VISIBLE_DEVICES", "");
    command
}

/// A job in the background, whose output is kept.
fn start(place: &Place, ranks: usize, arguments: &str) -> Child {
    let mut command = job(place, ranks, arguments);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Waits for the end of a job.
#[track_caller]
fn wait(mut child: Child) -> Output {
    let begin = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if begin.elapsed() > PATIENCE {
            child.kill().unwrap();
            panic!("the job does not end: {}", text(&child.wait_with_output().unwrap().stderr));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    child.wait_with_output().unwrap()
}

#[track_caller]
fn run(place: &Place, ranks: usize, arguments: &str) {
    let output = wait(start(place, ranks, arguments));
    let complaint = text(&output.stderr);
    assert!(output.status.success(), "{ranks} ranks, {arguments}: {complaint}");
}

/// Trains with these arguments, in one process and on several numbers of ranks, and compares all that depends on no time.
#[track_caller]
fn check_equal(arguments: &str, numbers: &[usize]) {
    let place = Place::new();
    let train = format!("train {arguments} {OFTEN}");
    place.run(&format!("{train} --out one"));
    let weights = |run: &str| contents(&place.path(run).join("weights"));
    for ranks in numbers {
        let name = format!("ranks-{ranks}");
        run(&place, *ranks, &format!("{train} --out {name}"));
        assert_equal(&place.path("one"), &place.path(&name));
        let names = |files: &BTreeMap<PathBuf, Vec<u8>>| -> Vec<PathBuf> {
            files.keys().map(|path| path.file_name().unwrap().into()).collect()
        };
        let (one, many) = (weights("one"), weights(&name));
        assert_eq!(names(&one), names(&many));
        assert!(one.values().eq(many.values()), "{ranks} ranks: the checkpoints differ");
        assert_eq!(decisions(&place, "one"), decisions(&place, &name));
    }
}

fn decisions(place: &Place, run: &str) -> String {
    place.read(&format!("{run}/decisions.csv"))
}

const FAST94: &str =
    "fast94 --data shapes:60,20 --set network.widths=[4,8,8] --set batch.least_updates=3";

#[test]
fn any_power_of_two_of_ranks_comes_to_the_same_bytes() {
    if runs("any_power_of_two_of_ranks_comes_to_the_same_bytes") {
        check_equal(SMALL, &[1, 2, 4, 8]);
    }
}

#[test]
fn so_it_does_for_networks_of_the_other_family() {
    if runs("so_it_does_for_networks_of_the_other_family") {
        check_equal(FAST94, &[2, 4, 8]);
    }
}

#[test]
fn three_ranks_agree_within_rounding() {
    if !runs("three_ranks_agree_within_rounding") {
        return;
    }
    let place = Place::new();
    for (name, recipe) in [("a", SMALL), ("b", FAST94)] {
        // Rounding grows with every update.
        let train = format!("train {recipe} --set train.max_steps=3");
        place.run(&format!("{train} --out {name}1"));
        run(&place, 3, &format!("{train} --out {name}3"));
        let loss = |ranks: usize| -> f64 {
            let table = place.read(&format!("{name}{ranks}/epochs.csv"));
            column(&table, "train_loss")[0].parse().unwrap()
        };
        let (one, three) = (loss(1), loss(3));
        assert!((three / one - 1.0).abs() < 1e-4, "{recipe}: {three} is not {one}");
    }
}

#[test]
fn policies_decide_the_same_on_ranks() {
    if !runs("policies_decide_the_same_on_ranks") {
        return;
    }
    let plateau = "--set batch.policy=plateau --set batch.initial=26 --set batch.max=104 --set batch.patience=0 --set \
                   batch.threshold=0.9 --set batch.metric=validation_loss --set batch.coupling=sqrt --set \
                   data.validation=40 --set train.evaluate_every=1 --set batch.noise_every=3";
    check_equal(&format!("{SMALL} {plateau}"), &[2]);
    let noise_scale = "--set batch.policy=noise_scale --set batch.initial=20 --set batch.max=160 --set \
                       batch.noise_every=2 --set batch.noise_multiple=9.0 --set schedule.policy=one_cycle";
    check_equal(&format!("{SMALL} {noise_scale}"), &[4]);
}

#[test]
fn micro_batches_averages_and_frozen_groups_are_the_same_on_ranks() {
    if !runs("micro_batches_averages_and_frozen_groups_are_the_same_on_ranks") {
        return;
    }
    // Four groups are divided over the ranks, and each of eight stays within one.
    let ghost = "--set network.norm.ghost=3 --set batch.noise_every=2";
    check_equal(&format!("{SMALL} {ghost}"), &[2, 8]);
    for average in ["ema", "lookahead"] {
        check_equal(&format!("{FAST94} --set optimizer.average={average}"), &[2]);
    }
    let weighted = "--set data.class_weights=balanced --set data.sides=[[1,16],[3,32]]";
    check_equal(&format!("{SMALL} {weighted}"), &[4]);
}

#[test]
fn comparisons_come_to_the_same_results_on_ranks() {
    if !runs("comparisons_come_to_the_same_results_on_ranks") {
        return;
    }
    let place = Place::new();
    std::fs::write(place.path("arms.toml"), ARMS).unwrap();
    // Evaluations and precise statistics are shared out too.
    let compare = "compare arms.toml --seeds 0 --data shapes:144,100 --set network.widths=[4,8,8]";
    place.run(&format!("{compare} --out one"));
    let one = results(&place, "one");
    for ranks in [2, 8] {
        run(&place, ranks, &format!("{compare} --json --out ranks-{ranks}"));
        assert_eq!(results(&place, &format!("ranks-{ranks}")), one);
    }
}

/// The processes of a job, in the order of their ranks.
#[cfg(target_os = "linux")]
fn processes(child: &Child) -> Vec<u32> {
    let stat = |pid: u32| std::fs::read_to_string(format!("/proc/{pid}/stat")).ok();
    let parent = |pid: u32| -> Option<u32> {
        stat(pid)?.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
    };
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let all: Vec<u32> = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    let is_below = |mut pid: u32| {
        while let Some(above) = parent(pid) {
            if above == child.id() {
                return true;
            }
            pid = above;
        }
        false
    };
    let rank = |pid: u32| -> Option<usize> {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).ok()?;
        let mut variables = environment.split(|&byte| byte == 0);
        let names = ["OMPI_COMM_WORLD_RANK=", "PMI_RANK="];
        variables.find_map(|variable| {
            let variable = std::str::from_utf8(variable).ok()?;
            names.iter().find_map(|name| variable.strip_prefix(name)?.parse().ok())
        })
    };
    let is_ours = |pid: u32| {
        let program = std::fs::read_link(format!("/proc/{pid}/exe")).ok();
        program.is_some_and(|program| program == Path::new(env!("CARGO_BIN_EXE_crescendo")))
    };
    let ours = all.into_iter().filter(|&pid| is_below(pid) && is_ours(pid));
    let ranks: BTreeMap<usize, u32> = ours.filter_map(|pid| Some((rank(pid)?, pid))).collect();
    ranks.into_values().collect()
}

fn signal(name: &str, process: u32) {
    let sent = Command::new("kill").args([name, &process.to_string()]).status().unwrap();
    assert!(sent.success(), "kill {name} {process}");
}

#[test]
#[cfg(target_os = "linux")]
fn a_killed_rank_ends_the_job_and_it_resumes_on_any_power_of_two() {
    if !runs("a_killed_rank_ends_the_job_and_it_resumes_on_any_power_of_two") {
        return;
    }
    let place = Place::new();
    let train = format!("train {SMALL} {OFTEN}");
    place.run(&format!("{train} --out whole"));
    let folder = place.path("killed");
    let mut child = start(&place, 2, &format!("{train} --out killed"));
    let mut kills = 0;
    // How many updates are waited for, which rank is killed, and how many ranks go on.
    for (updates, killed, ranks) in [(2, 1, 4), (9, 0, 2), (16, 1, 1), (25, 0, 8), (33, 3, 2)] {
        if !wait_for_updates(&mut child, &folder, updates) {
            break;
        }
        let processes = processes(&child);
        let begin = Instant::now();
        if let Some(&process) = processes.get(killed) {
            signal("-KILL", process);
            kills += 1;
        }
        let output = wait(child);
        assert!(!output.status.success());
        assert!(begin.elapsed() < Duration::from_secs(15), "{:?}", begin.elapsed());
        child = start(&place, ranks, "train --resume killed");
    }
    let output = wait(child);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(kills > 1, "it was killed {kills} times only");
    assert_equal(&place.path("whole"), &folder);
}

#[test]
#[cfg(target_os = "linux")]
fn a_signal_to_the_job_saves_the_state() {
    if !runs("a_signal_to_the_job_saves_the_state") {
        return;
    }
    let place = Place::new();
    let train = format!("train {SMALL} --log-steps --epochs 4");
    place.run(&format!("{train} --out whole"));
    let folder = place.path("stopped");
    let mut child = start(&place, 2, &format!("{train} --out stopped"));
    assert!(wait_for_updates(&mut child, &folder, 7));
    // As a batch system does, to all processes.
    processes(&child).into_iter().rev().for_each(|process| signal("-USR1", process));
    let output = wait(child);
    let said = text(&output.stdout) + &text(&output.stderr);
    assert!(said.contains("the state is saved"), "{said}");
    assert_eq!(output.status.code(), Some(143), "{said}");
    assert!(folder.join("weights/last.safetensors").is_file());
    run(&place, 4, "train --resume stopped");
    assert_equal(&place.path("whole"), &folder);
}

#[test]
fn errors_name_the_rank_and_end_all_ranks() {
    if !runs("errors_name_the_rank_and_end_all_ranks") {
        return;
    }
    let place = Place::new();
    std::fs::create_dir(place.path("damaged")).unwrap();
    std::fs::write(place.path("damaged/data_batch_1.bin"), vec![7; 3073 * 10 - 1]).unwrap();
    for (arguments, part) in [
        ("train quick --data damaged", "damaged"),
        (
            "train quick --data shapes:100,50 --set network.widths=[4,4,4] --set optimizer.learning_rate=1e30",
            "not a number",
        ),
    ] {
        let begin = Instant::now();
        let output = wait(start(&place, 2, &format!("{arguments} --out run")));
        let complaint = text(&output.stdout) + &text(&output.stderr);
        assert!(!output.status.success(), "{complaint}");
        assert!(complaint.contains("error: rank 0 on ") && complaint.contains(part), "{complaint}");
        assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
    }
}

/// A job of two ranks, of which rank 1 begins with a shell's `before`, in a folder of its own.
#[cfg(unix)]
fn start_unlike(place: &Place, before: &str, arguments: &str) -> Child {
    let mut command = job(place, 1, arguments);
    let own: Vec<_> = command.get_args().map(std::ffi::OsStr::to_owned).collect();
    let program = own.iter().position(|argument| argument == env!("CARGO_BIN_EXE_crescendo"));
    let script = format!("{before} && exec \"$@\"");
    command.args([":", "-n", "1", "sh", "-c", &script, "sh"]).args(&own[program.unwrap()..]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

#[test]
#[cfg(unix)]
fn ranks_other_than_0_need_no_data() {
    if !runs("ranks_other_than_0_need_no_data") {
        return;
    }
    let place = Place::new();
    let write = |folder: &str, bytes: &[u8]| {
        std::fs::create_dir_all(place.path(folder)).unwrap();
        let train = (1..=5).map(|batch| format!("data_batch_{batch}.bin"));
        for name in train.chain(["test_batch.bin".into()]) {
            std::fs::write(place.path(&format!("{folder}/{name}")), bytes).unwrap();
        }
    };
    let images: Vec<u8> = (0..20_u32)
        .flat_map(|image| {
            let pixel = move |at: u32| (at * (image + 3) / 7 % 256) as u8;
            std::iter::once((image % 10) as u8).chain((0..3072).map(pixel))
        })
        .collect();
    write("data", &images);
    write("damaged/data", &images[1..]);
    std::fs::create_dir(place.path("missing")).unwrap();
    let train = format!(
        "train quick --set network.widths=[4,4,4] --set batch.steps=[[1,13]] --data data {OFTEN}"
    );
    place.run(&format!("{train} --out one"));
    for folder in ["damaged", "missing"] {
        let output = wait(start_unlike(
            &place,
            &format!("cd {folder}"),
            &format!("{train} --out {folder}/run"),
        ));
        assert!(output.status.success(), "{folder}: {}", text(&output.stderr));
        assert_equal(&place.path("one"), &place.path(&format!("{folder}/run")));
    }
    // Rank 0 does.
    let begin = Instant::now();
    let output = wait(start(&place, 2, "train quick --data nowhere --out run"));
    let complaint = text(&output.stdout) + &text(&output.stderr);
    assert!(!output.status.success(), "{complaint}");
    assert!(
        complaint.contains("error: rank 0 on ") && complaint.contains("nowhere"),
        "{complaint}"
    );
    assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
}

#[test]
#[cfg(target_os = "linux")]
fn the_rank_with_the_least_memory_decides_what_fits() {
    if !runs("the_rank_with_the_least_memory_decides_what_fits") {
        return;
    }
    let place = Place::new();
    let train = "train quick --data shapes:3000,20 --set batch.steps=[[1,3000]] --set batch.least_updates=0 --set \
                 batch.memory_limit=16 --out run";
    let begin = Instant::now();
    let output = wait(start_unlike(&place, "ulimit -v 700000", train));
    let complaint = text(&output.stdout) + &text(&output.stderr);
    assert!(!output.status.success(), "{complaint}");
    assert!(
        complaint.contains("a batch of 3000 needs ") && complaint.contains("are free"),
        "{complaint}"
    );
    assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
    assert!(!place.path("run").exists());
}

#[test]
#[cfg(target_os = "linux")]
fn a_rank_that_runs_out_of_memory_is_named_and_ends_all() {
    if !runs("a_rank_that_runs_out_of_memory_is_named_and_ends_all") {
        return;
    }
    let place = Place::new();
    let train = format!(
        "train quick --data shapes:1200,20 --set network.widths=[4,4,4] --set batch.steps=[[1,40],[2,1200]] --set \
         batch.least_updates=0 {OFTEN}"
    );
    let mut child = start(&place, 2, &format!("{train} --out run"));
    assert!(wait_for_updates(&mut child, &place.path("run"), 3));
    // What it has and a little more, but not what the larger batch needs.
    let process = processes(&child)[1];
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let size = status.lines().find_map(|line| line.strip_prefix("VmSize:")?.strip_suffix("kB"));
    let limit = (size.unwrap().trim().parse::<u64>().unwrap() << 10) + (100 << 20);
    let limit = ["--pid", &process.to_string(), &format!("--as={limit}")];
    assert!(Command::new("prlimit").args(limit).status().unwrap().success());
    let output = wait(child);
    let complaint = text(&output.stdout) + &text(&output.stderr);
    assert!(!output.status.success(), "{complaint}");
    assert!(complaint.contains("error: rank 1 on "), "{complaint}");
    assert!(complaint.contains("there is not enough memory for the feature maps"), "{complaint}");
    // The state before is there, and the run goes on.
    run(&place, 2, "train --resume run");
    place.run(&format!("{train} --out whole"));
    assert_equal(&place.path("whole"), &place.path("run"));
}

#[test]
#[ignore = "needs root"]
fn a_full_disk_at_rank_0_ends_all_ranks() {
    if !runs("a_full_disk_at_rank_0_ends_all_ranks") {
        return;
    }
    let place = Place::new();
    place.run(&format!("train {SMALL} {OFTEN} --out whole"));
    let disk = Disk::mount(place.path("disk"), 2048);
    let folder = disk.0.join("run");
    disk.fill(120 << 10);
    let begin = Instant::now();
    let output = wait(start(&place, 2, &format!("train {SMALL} {OFTEN} --out disk/run")));
    let complaint = text(&output.stdout) + &text(&output.stderr);
    assert!(!output.status.success(), "{complaint}");
    assert!(complaint.contains("error: rank 0 on "), "{complaint}");
    assert!(complaint.contains("No space left on device"), "{complaint}");
    assert!(begin.elapsed() < Duration::from_secs(30), "{:?}", begin.elapsed());
    disk.clear();
    run(&place, 4, "train --resume disk/run --log-steps");
    assert_equal(&place.path("whole"), &folder);
}

#[test]
#[cfg(not(feature = "mpi"))]
fn processes_that_cannot_join_train_only_in_folders_of_their_own() {
    let place = Place::new();
    let small = "quick --data shapes:40,10 --set network.widths=[4,4,4] --epochs 1";
    let with = |variable: &str, arguments: &str| {
        place.command(arguments).env(variable, "3").output().unwrap()
    };
    for variable in ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"] {
        for command in
            [format!("train {small}"), "train --resume run".into(), "compare depth".into()]
        {
            let output = with(variable, &command);
            let complaint = super::check_refusal(&output, 1, &command);
            super::check_line(
                &complaint,
                &["one of 3 processes", variable, "--features mpi", "--out"],
            );
        }
    }
    assert!(!place.path("runs").exists());
    // A sweep.
    let output = with("SLURM_STEP_NUM_TASKS", &format!("train {small} --out run"));
    assert!(output.status.success(), "{}", text(&output.stderr));
    // A process in a batch script.
    let output = with("SLURM_NTASKS", &format!("train {small}"));
    assert!(output.status.success(), "{}", text(&output.stderr));
}
