//! Whole runs, looked at from inside.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use crescendo_cpu::CpuDevices;
use crescendo_network::TensorData;

use super::*;
use crate::tensors::TensorFile;
use crate::{Recipe, checkpoint};

/// The parameters and statistics of a run's last checkpoint.
fn train(folder: &Path, changes: &[&str]) -> Vec<f32> {
    train_in(&folder.join(changes.join(",")), changes)
}

/// The same, for a run in this folder.
fn train_in(folder: &Path, changes: &[&str]) -> Vec<f32> {
    let data = crescendo_data::shapes::generate(0, 120, 10);
    let base = [
        "network.widths=[4, 4, 4]",
        "train.epochs=1",
        "batch.policy=fixed",
        "batch.size=30",
        "train.final_evaluation=false",
    ];
    let recipe = Recipe::load("quick", &[&base, changes].concat()).unwrap();
    let start = Start {
        recipe: &recipe,
        recipe_name: "quick",
        data: &data,
        data_location: "shapes:120,10",
        init: None,
        devices: &CpuDevices,
    };
    let mut run = Run::create(folder, &start).unwrap();
    run.train(&CpuDevices, &data, &mut (), &AtomicBool::new(false)).unwrap();
    let last = checkpoint::list(folder).unwrap().pop().unwrap();
    let file = TensorFile::open(&checkpoint::path(folder, last)).unwrap();
    let numbers = |data: TensorData| match data {
        TensorData::F32(values) => values.to_vec(),
        TensorData::I64(_) => Vec::new(),
    };
    let mut tensors = file.tensors("").unwrap();
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    tensors.into_iter().flat_map(|tensor| numbers(tensor.data)).collect()
}

/// A run that is opened on a file system which fails in these ways trains to its end, and warns.
#[cfg(unix)]
#[test]
fn runs_are_trained_without_locks_and_synced_folders() {
    use crescendo_data::file_system::{lock_outcome, sync_outcome};
    use std::fs::TryLockError;

    let place = tempfile::tempdir().unwrap();
    let changes = ["train.epochs=1", "network.widths=[4, 4, 4]", "train.final_evaluation=false"];
    let recipe = Recipe::load("quick", &changes).unwrap();
    let data = crescendo_data::shapes::generate(0, 60, 10);
    let start = Start {
        recipe: &recipe,
        recipe_name: "quick",
        data: &data,
        data_location: "shapes:60,10",
        init: None,
        devices: &CpuDevices,
    };
    let folder = place.path().join("run");
    drop(Run::create(&folder, &start).unwrap());
    let error = |code: i32| io::Error::from_raw_os_error(code);
    let open = |lock: Option<i32>, sync: Option<i32>| {
        let lock = |_: &File| {
            lock_outcome(lock.map_or(Ok(()), |code| Err(TryLockError::Error(error(code)))))
        };
        let sync = |_: &Path| sync_outcome(sync.map_or(Ok(()), |code| Err(error(code))));
        Run::open_on(&folder, lock, sync)
    };
    assert_eq!(open(None, None).unwrap().notes, [""; 0]);
    for lock in [libc::ENOSYS, libc::ENOLCK, libc::EOPNOTSUPP] {
        let notes = open(Some(lock), None).unwrap().notes;
        assert!(notes.len() == 1 && notes[0].contains("cannot lock files"), "{notes:?}");
    }
    assert!(open(Some(libc::EIO), None).unwrap_err().to_string().contains("cannot lock"));
    assert!(open(None, Some(libc::EIO)).unwrap_err().to_string().contains("cannot write"));
    let mut run = open(Some(libc::ENOSYS), Some(libc::EINVAL)).unwrap();
    assert!(
        run.notes.len() == 2 && run.notes[1].contains("cannot sync folders"),
        "{:?}",
        run.notes
    );
    run.train(&CpuDevices, &data, &mut (), &AtomicBool::new(false)).unwrap();
    assert!(run.progress().ended);
}

#[test]
fn the_next_folder_is_created_if_another_program_has_created_the_first() {
    let place = tempfile::tempdir().unwrap();
    let recipe = Recipe::load("quick", &["network.widths=[4, 4, 4]"]).unwrap();
    let data = crescendo_data::shapes::generate(0, 600, 10);
    let start = Start {
        recipe: &recipe,
        recipe_name: "quick",
        data: &data,
        data_location: "shapes:600,10",
        init: None,
        devices: &CpuDevices,
    };
    let folder = |n: u32| place.path().join(format!("run-{n}"));
    std::fs::create_dir(folder(2)).unwrap();
    let mut others = (1..).map(folder);
    let first = others.next().unwrap();
    let made = super::folder::make(first, &mut others, |temporary| {
        // It was free when it was chosen.
        std::fs::create_dir_all(folder(1).join("x")).unwrap();
        std::fs::write(temporary.join("content"), "").map_err(|e| Error::io("write", temporary, e))
    });
    assert_eq!(made.unwrap(), folder(3));
    let run = Run::create_first((1..).map(folder), &start).unwrap();
    assert_eq!(run.folder(), folder(4));
    let error = Run::create(&folder(4), &start).unwrap_err().to_string();
    assert!(error.contains("run-4 already exists"), "{error}");
    let names: Vec<_> =
        std::fs::read_dir(place.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 4, "{names:?}");
}

#[test]
fn a_failed_start_leaves_nothing() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("runs/run");
    let failed = super::folder::make(folder.clone(), &mut std::iter::empty(), |temporary| {
        std::fs::write(temporary.join("recipe.toml"), "").unwrap();
        Err(Error::io("write", temporary, io::ErrorKind::StorageFull.into()))
    });
    assert!(failed.is_err());
    assert_eq!(std::fs::read_dir(place.path().join("runs")).unwrap().count(), 0);
}

#[test]
fn a_checkpoint_holds_the_average_of_the_weights_along_the_way() {
    let place = tempfile::tempdir().unwrap();
    let plain = |updates: u32| train(place.path(), &[&format!("train.max_steps={updates}")]);
    let along: Vec<Vec<f32>> = (1..=4).map(plain).collect();
    // The first of them, and then half of the past and half of what is new.
    let mut expected = along[0].clone();
    for weights in &along[1..] {
        expected.iter_mut().zip(weights).for_each(|(mean, new)| *mean = 0.5 * (*mean + new));
    }
    let average = ["optimizer.average_every=1", "optimizer.average_decay=0.5"];
    let ema = train(place.path(), &[&average[..], &["optimizer.average=ema"]].concat());
    let off = distance(&ema, &expected);
    assert!(off < 1e-4 * distance(&ema, &along[3]), "{off}");
}

fn distance(a: &[f32], b: &[f32]) -> f64 {
    let squares = a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2));
    squares.sum::<f64>().sqrt()
}

#[test]
fn lookahead_goes_on_from_its_average() {
    let place = tempfile::tempdir().unwrap();
    let updates = |updates: u32, kind: &str| {
        let average = ["optimizer.average_every=1", "optimizer.average_decay=0.5"];
        let kind = [format!("train.max_steps={updates}"), format!("optimizer.average={kind}")];
        train(place.path(), &[&average[..], &kind.each_ref().map(String::as_str)].concat())
    };
    let [first, second, third] = [1, 2, 3].map(|count| updates(count, "none"));
    // The past's share after an update, in the middle of one of four: the decay times the cube.
    let past = |update: f64| (0.5 * ((update - 0.5) / 4.0).powi(3)) as f32;
    let mean = |past: f32, old: &[f32], new: &[f32]| -> Vec<f32> {
        old.iter().zip(new).map(|(old, new)| past * old + (1.0 - past) * new).collect()
    };
    let expected = mean(past(2.0), &first, &second);
    let off = distance(&updates(2, "lookahead"), &expected);
    assert!(off < 0.01 * distance(&second, &expected), "{off}");
    // Had the third update begun where the second ended, it would come to this.
    let beside = mean(past(3.0), &expected, &third);
    let off = distance(&updates(3, "lookahead"), &beside);
    assert!(off > 0.1 * distance(&third, &beside), "{off}");
}

#[test]
fn precise_statistics_are_those_of_the_images() {
    let place = tempfile::tempdir().unwrap();
    // One update at no rate, over all images as they are: the running statistics are these images'.
    let changes = [
        "network.norm.momentum=1.0",
        "optimizer.learning_rate=0.0",
        "batch.size=120",
        "data.augment=false",
    ];
    train(place.path(), &changes);
    let data = crescendo_data::shapes::generate(0, 120, 10);
    let folder = place.path().join(changes.join(","));
    let recipe = read_record(&folder).unwrap().recipe;
    let open = |path: &Path| crate::Model::open(path, None, &CpuDevices, &recipe.engine).unwrap();
    let path = checkpoint::path(&folder, 1);
    let running = open(&path).evaluate(&data.test, |_| ()).unwrap().loss;
    let loss_with = |images: usize| {
        let mut model = open(&path);
        model.recompute_statistics(&data.train, images).unwrap();
        model.evaluate(&data.test, |_| ()).unwrap().loss
    };
    // Up to the variance's n - 1.
    assert!((loss_with(120) / running - 1.0).abs() < 0.01, "{} {running}", loss_with(120));
    assert_eq!(loss_with(120), loss_with(500), "there are no more");
    assert_ne!(loss_with(20), loss_with(120));
}

#[test]
fn keys_that_are_said_to_have_no_effect_have_none() {
    // Other values than the recipe's.
    const OTHERS: [&str; 34] = [
        "batch.size=7",
        "batch.steps=[[1, 11]]",
        "batch.initial=9",
        "batch.max=777",
        "batch.factor=3.0",
        "batch.patience=1",
        "batch.threshold=0.5",
        "batch.threshold_mode=absolute",
        "batch.smoothing=0.5",
        "batch.cooldown=2",
        "batch.noise_multiple=3.0",
        "batch.hysteresis=4.0",
        "batch.coupling=linear",
        "batch.after_max=decay",
        "batch.noise_every=5000",
        "schedule.steps=[[1, 0.5]]",
        "schedule.last=0.3",
        "schedule.first=0.3",
        "schedule.peak=0.6",
        "schedule.patience=1",
        "schedule.threshold=0.5",
        "schedule.threshold_mode=absolute",
        "schedule.smoothing=0.5",
        "schedule.cooldown=2",
        "schedule.factor=5.0",
        "schedule.least=0.5",
        "optimizer.average_every=2",
        "optimizer.average_decay=0.3",
        "network.leaky_slope=0.3",
        "network.head.activation=same",
        "data.border=0",
        "train.max_steps=5000",
        "train.evaluate_every=5000",
        "train.checkpoint_every=5000",
    ];
    let place = tempfile::tempdir().unwrap();
    let both = |name: &str, changes: &[&str]| {
        let small = ["network.widths=[4, 4, 4]", "batch.policy=fixed", "batch.size=30"];
        let recipe = Recipe::load("quick", &[&small[..], changes].concat()).unwrap();
        let unused: Vec<String> = crate::validation::unused(&recipe, 120)
            .into_iter()
            .filter(|unused| !unused.in_part)
            .flat_map(|unused| unused.keys)
            .collect();
        let has = |change: &&&str| unused.iter().any(|key| change.starts_with(&format!("{key}=")));
        let others: Vec<&str> = OTHERS.iter().filter(has).copied().collect();
        let plain = train_in(&place.path().join(name), changes);
        let other = [changes, &others].concat();
        let other = train_in(&place.path().join(format!("{name}-other")), &other);
        assert!(plain == other, "{name}: {others:?}");
        others.len()
    };
    let mut seen = 0;
    for (name, changes) in [
        ("fixed", &["train.epochs=3", "network.activation=elu"][..]),
        (
            "steps",
            &[
                "train.epochs=3",
                "batch.policy=steps",
                "data.augment=false",
                "schedule.policy=step",
                "schedule.steps=[[2, 0.5]]",
            ],
        ),
        (
            "plateau",
            &[
                "train.epochs=3",
                "batch.policy=plateau",
                "batch.patience=0",
                "batch.threshold=0.9",
                "schedule.policy=cosine",
            ],
        ),
        (
            "idle",
            &[
                "train.epochs=3",
                "batch.policy=plateau",
                "batch.patience=2",
                "schedule.policy=plateau",
            ],
        ),
        (
            "noise_scale",
            &[
                "train.epochs=3",
                "batch.policy=noise_scale",
                "batch.noise_every=2",
                "schedule.policy=linear",
            ],
        ),
        (
            "unmeasured",
            &[
                "train.epochs=3",
                "batch.policy=noise_scale",
                "batch.noise_every=3",
                "batch.initial=120",
            ],
        ),
        (
            "from_lr",
            &[
                "train.epochs=3",
                "batch.policy=from_lr",
                "schedule.policy=one_cycle",
                "optimizer.average=ema",
            ],
        ),
    ] {
        seen += both(name, changes);
    }
    assert!(seen > 100, "{seen}");
}
