//! When the state is saved on a device whose epochs take less time than a save.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::*;

const FAST: LateDevices = LateDevices { keeps_data: true, kind: DeviceKind::Cuda };

/// Keeps what a run's folder would have in its tables, and looks at the folder with every event.
struct Watcher {
    folder: PathBuf,
    /// What was logged, without times.
    rows: Vec<Event>,
    /// The updates of the states that were seen.
    states: BTreeSet<u64>,
    /// How many events there were, and the one that fails, as a kill would.
    count: usize,
    fails_at: Option<usize>,
}

impl Watcher {
    fn new(folder: &Path, fails_at: Option<usize>) -> Self {
        let (folder, rows, states) = (folder.to_owned(), Vec::new(), BTreeSet::new());
        Watcher { folder, rows, states, count: 0, fails_at }
    }
}

/// The updates of the saved state, and how many rows belong to it. While it is being replaced, the previous one is in
/// its place.
fn state(folder: &Path) -> (u64, usize) {
    let read = |name: &str| std::fs::read(folder.join("state").join(name));
    let mut bytes = read("state.safetensors");
    for name in ["previous.safetensors", "state.safetensors"] {
        bytes = bytes.or_else(|_| read(name));
    }
    let bytes = bytes.unwrap();
    let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let metadata = header.metadata().clone().unwrap();
    let json = |name: &str| -> serde_json::Value { serde_json::from_str(&metadata[name]).unwrap() };
    let rows = json("marks")["rows"].as_u64().unwrap_or_default();
    (json("progress")["updates"].as_u64().unwrap(), rows as usize)
}

impl Observer for Watcher {
    fn event(&mut self, event: &Event) -> Result<(), Error> {
        // In this order: a state that is written meanwhile is only newer.
        let weights = std::fs::read_dir(self.folder.join("weights")).unwrap().map(|entry| {
            let path = entry.unwrap().path();
            (crescendo_training::checkpoint::about(&path).unwrap().updates, path)
        });
        let newest = weights.max();
        let (updates, _) = state(&self.folder);
        assert!(newest.iter().all(|file| file.0 <= updates), "{newest:?}, a state of {updates}");
        self.states.insert(updates);

        self.count += 1;
        if self.fails_at.is_some_and(|count| self.count > count) {
            return Err(Error::Refused("enough".into()));
        }
        let mut row = event.clone();
        match &mut row {
            Event::Step(step) => step.seconds = 0.0,
            Event::Epoch(epoch) => (epoch.seconds, epoch.images_per_second) = (0.0, 0.0),
            Event::Evaluated { .. } | Event::Decision(_) => {}
            _ => return Ok(()),
        }
        self.rows.push(row);
        Ok(())
    }

    fn marks(&mut self) -> Result<Marks, Error> {
        Ok(Marks::from([("rows".to_owned(), self.rows.len() as u64)]))
    }
}

fn train(run: &mut Run, devices: &dyn Devices, data: &DataSet, watcher: &mut Watcher) -> Outcome {
    run.train(devices, data, watcher, &AtomicBool::new(false)).unwrap()
}

/// Five epochs, of 9, 9, 3, 3 and 3 updates.
const LONGER: [&str; 2] = ["train.epochs=5", "train.save_every_minutes=auto"];

#[test]
fn ends_of_epochs_are_saved_only_where_they_must_be() {
    let data = shapes::generate(0, 150, 20);
    let states = |devices: &dyn Devices, changes: &[&str]| {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("run");
        let mut run = create(&folder, devices, &data, &[&LONGER, changes].concat());
        let mut watcher = Watcher::new(&folder, None);
        assert_eq!(train(&mut run, devices, &data, &mut watcher), Outcome::Finished);
        assert!(state(&folder).0 == 27 && run.progress().ended, "the end is saved");
        watcher.states.into_iter().collect::<Vec<_>>()
    };
    let no_checkpoints = "train.checkpoint_every=0";
    assert_eq!(states(&FAST, &[no_checkpoints]), [0, 27]);
    // Before the checkpoints after the second and the fourth epoch.
    assert_eq!(states(&FAST, &["train.checkpoint_every=2"]), [0, 18, 24, 27]);
    assert_eq!(states(&FAST, &[no_checkpoints, "train.evaluate_every=0"]), [0, 27]);
    // At every epoch's end.
    let every = "train.save_every_minutes=0";
    assert_eq!(states(&FAST, &[no_checkpoints, every]), [0, 9, 18, 21, 24, 27]);
    let late = LateDevices { kind: DeviceKind::Cpu, ..FAST };
    assert_eq!(states(&late, &[no_checkpoints]), [0, 9, 18, 21, 24, 27]);
}

#[test]
fn a_run_without_saved_ends_of_epochs_is_resumed_to_the_bit_wherever_it_is_killed() {
    check_kills([0, 7, 14], 21);
}

#[test]
#[ignore = "takes a quarter of a minute"]
fn longer_a_run_without_saved_ends_of_epochs_is_resumed_to_the_bit_wherever_it_is_killed() {
    check_kills([0; 3], 7);
}

/// Kills at every `step`th event, from the `first` on.
fn check_kills(first: [usize; 3], step: usize) {
    let place = tempfile::tempdir().unwrap();
    let data = shapes::generate(0, 150, 20);
    let cases = [
        &["train.evaluate_every=0", "train.checkpoint_every=2"][..],
        &["train.checkpoint_every=2"],
        &["data.validation=20", "train.stop_after=3", "optimizer.average=ema"],
    ];
    for (changes, first) in cases.into_iter().zip(first) {
        let changes = [&LONGER, changes].concat();
        let whole = place.path().join("whole");
        let mut run = create(&whole, &CpuDevices, &data, &changes);
        let mut cpu = Recorder::default();
        assert_eq!(cpu.train(&mut run, &CpuDevices, &data).unwrap(), Outcome::Finished);
        drop(run);
        let folder = place.path().join("fast");
        let mut run = create(&folder, &FAST, &data, &changes);
        let mut watcher = Watcher::new(&folder, None);
        assert_eq!(train(&mut run, &FAST, &data, &mut watcher), Outcome::Finished);
        drop(run);
        let weights = |folder: &Path| {
            let folder = folder.join("weights");
            let mut names: Vec<_> =
                std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
            names.sort();
            names.into_iter().map(|path| std::fs::read(path).unwrap()).collect::<Vec<_>>()
        };
        assert!(weights(&whole) == weights(&folder), "{changes:?}");
        let (events, rows) = (watcher.count, watcher.rows);
        for killed_at in (first..events).step_by(step) {
            let folder = place.path().join(format!("killed-{killed_at}"));
            let mut run = create(&folder, &FAST, &data, &changes);
            let mut watcher = Watcher::new(&folder, Some(killed_at));
            let stop = AtomicBool::new(false);
            let error = run.train(&FAST, &data, &mut watcher, &stop).unwrap_err();
            assert_eq!(error.to_string(), "enough");
            drop(run);
            // As on resume.
            watcher.rows.truncate(state(&folder).1);
            watcher.fails_at = None;
            let mut run = Run::open(&folder).unwrap();
            // The last event comes when all is saved.
            assert_ne!(train(&mut run, &FAST, &data, &mut watcher), Outcome::Interrupted);
            drop(run);
            assert!(weights(&whole) == weights(&folder), "{changes:?} killed at {killed_at}");
            assert_eq!(watcher.rows, rows, "{changes:?} killed at {killed_at}");
            std::fs::remove_dir_all(&folder).unwrap();
        }
        std::fs::remove_dir_all(&folder).unwrap();
        std::fs::remove_dir_all(&whole).unwrap();
    }
}

#[test]
fn an_epoch_that_training_is_to_stop_after_is_saved() {
    let place = tempfile::tempdir().unwrap();
    let data = shapes::generate(0, 150, 20);
    let folder = place.path().join("run");
    let mut run = create(&folder, &FAST, &data, &LONGER);
    let mut watcher = Watcher::new(&folder, None);
    let stop = AtomicBool::new(false);
    let outcome = run.train_until(2, &FAST, &data, &mut watcher, &stop).unwrap();
    assert_eq!((outcome, state(&folder).0), (Outcome::Interrupted, 18));
    drop(run);
    let progress = Run::open(&folder).unwrap().progress().clone();
    assert_eq!((progress.epoch, progress.batch), (3, 0));
}
