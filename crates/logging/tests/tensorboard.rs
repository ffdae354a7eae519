//! TensorBoard event files, checked with an independent reader: framing, checksums, values, and
//! that no point appears twice after a resume.

use std::collections::BTreeMap;
use std::path::Path;

use crescendo_cpu::CpuDevices;
use crescendo_logging::TensorBoardLogger;
use crescendo_training::events::{
    Decision, DecisionKind, Epoch, EvaluatedSplit, Event, Marks, Observer, Step,
};
use crescendo_training::{Evaluation, Misclassified, Recipe, Run, Start};

/// CRC-32C, bit by bit.
fn checksum(bytes: &[u8]) -> u32 {
    let mut crc = !0;
    for &byte in bytes {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
        }
    }
    !crc
}

/// The first `N` bytes of `bytes`, and the rest.
fn take<const N: usize>(bytes: &mut &[u8]) -> [u8; N] {
    let (first, rest) = bytes.split_first_chunk().expect("the file ends inside a record");
    *bytes = rest;
    *first
}

fn check(bytes: &[u8], masked: [u8; 4]) {
    let rotated = u32::from_le_bytes(masked).wrapping_sub(0xa282_ead8);
    assert_eq!(rotated.rotate_left(15), checksum(bytes));
}

/// The records of a file.
fn records(mut file: &[u8]) -> Vec<Vec<u8>> {
    let mut records = Vec::new();
    while !file.is_empty() {
        let length = take::<8>(&mut file);
        check(&length, take(&mut file));
        let (data, rest) = file.split_at(u64::from_le_bytes(length) as usize);
        file = rest;
        check(data, take(&mut file));
        records.push(data.to_vec());
    }
    records
}

/// The fields of a message, numbers as their bytes.
fn fields(mut message: &[u8]) -> BTreeMap<u64, Vec<Vec<u8>>> {
    fn varint(bytes: &mut &[u8]) -> u64 {
        let mut value = 0;
        for shift in (0..).step_by(7) {
            let [byte] = take(bytes);
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                break;
            }
        }
        value
    }
    let mut fields = BTreeMap::<u64, Vec<Vec<u8>>>::new();
    while !message.is_empty() {
        let key = varint(&mut message);
        let value = match key & 7 {
            0 => varint(&mut message).to_le_bytes().to_vec(),
            1 => take::<8>(&mut message).to_vec(),
            2 => {
                let length = varint(&mut message) as usize;
                let (value, rest) = message.split_at(length);
                message = rest;
                value.to_vec()
            }
            5 => take::<4>(&mut message).to_vec(),
            wire => panic!("unexpected wire type {wire}"),
        };
        fields.entry(key >> 3).or_default().push(value);
    }
    fields
}

fn only(fields: &BTreeMap<u64, Vec<Vec<u8>>>, field: u64) -> &[u8] {
    let [value] = &fields[&field][..] else { panic!("field {field} is there twice") };
    value
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn number(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes.try_into().unwrap())
}

/// Every value of a file: its tag, its step, and its number or text as a string.
fn values(file: &[u8]) -> Vec<(String, u64, String)> {
    let records = records(file);
    assert_eq!(only(&fields(&records[0]), 3), b"brain.Event:2");
    let mut values = Vec::new();
    for record in &records[1..] {
        let event = fields(record);
        let time = f64::from_bits(number(only(&event, 1)));
        assert!(time > 1.7e9 && time < 1e11, "{time}");
        for value in &fields(only(&event, 5))[&1] {
            let value = fields(value);
            let written = if value.contains_key(&2) {
                f32::from_le_bytes(only(&value, 2).try_into().unwrap()).to_string()
            } else if value.contains_key(&4) {
                picture(only(&value, 4))
            } else {
                let (tensor, metadata) = (fields(only(&value, 8)), fields(only(&value, 9)));
                let plugin = fields(only(&metadata, 1));
                match only(&plugin, 1) {
                    b"text" => {
                        assert_eq!(number(only(&tensor, 1)), 7);
                        text(only(&tensor, 8))
                    }
                    b"hparams" => session(only(&plugin, 2)),
                    other => panic!("unexpected plugin {other:?}"),
                }
            };
            values.push((text(only(&value, 1)), number(only(&event, 2)), written));
        }
    }
    values
}

/// The size of a picture, which is that of the PNG in it.
fn picture(message: &[u8]) -> String {
    let picture = fields(message);
    let [height, width, colours] = [1, 2, 3].map(|field| number(only(&picture, field)));
    let png = only(&picture, 4);
    assert_eq!((&png[1..4], colours), (&b"PNG"[..], 3));
    let in_png = [16, 20].map(|at| u32::from_be_bytes(png[at..at + 4].try_into().unwrap()));
    assert_eq!(in_png.map(u64::from), [width, height]);
    format!("{width} x {height}")
}

/// What the plugin for hyperparameters gets: those of a session, or its end.
fn session(message: &[u8]) -> String {
    let data = fields(message);
    assert_eq!(number(only(&data, 1)), 0);
    if data.contains_key(&4) {
        return format!("status {}", number(only(&fields(only(&data, 4)), 1)));
    }
    let start = fields(only(&data, 3));
    let entry = |entry: &Vec<u8>| {
        let entry = fields(entry);
        let value = fields(only(&entry, 2));
        let value = match value.first_key_value().unwrap() {
            (2, bytes) => f64::from_bits(number(&bytes[0])).to_string(),
            (3, bytes) => text(&bytes[0]),
            (4, bytes) => (number(&bytes[0]) == 1).to_string(),
            (field, _) => panic!("unexpected field {field}"),
        };
        format!("{}={value}", text(only(&entry, 1)))
    };
    start[&1].iter().map(entry).collect::<Vec<_>>().join("; ")
}

fn read(folder: &Path) -> Vec<u8> {
    std::fs::read(folder.join("events.out.tfevents.0.crescendo")).unwrap()
}

fn about(folder: &Path) -> Vec<(String, u64, String)> {
    values(&std::fs::read(folder.join("events.out.tfevents.0.about")).unwrap())
}

fn start(folder: &Path, marks: &Marks, log_steps: bool) -> TensorBoardLogger {
    start_at(folder, marks, log_steps, None)
}

fn start_at(
    folder: &Path,
    marks: &Marks,
    log_steps: bool,
    resumed_at: Option<u64>,
) -> TensorBoardLogger {
    let mut board = TensorBoardLogger::default();
    let (folder, description) = (folder.to_owned(), "a test".to_owned());
    let marks = marks.clone();
    board.event(&Event::Started { folder, description, resumed_at, marks, log_steps }).unwrap();
    board
}

fn epoch(epoch: u32, test_accuracy: Option<f64>) -> Event {
    let mut row = Epoch::default();
    row.epoch = epoch;
    row.updates = 400 * u64::from(epoch);
    row.batch_size = 125;
    row.learning_rate = 0.1;
    row.train_loss = 1.5;
    row.train_accuracy = 0.25;
    row.test_accuracy = test_accuracy;
    row.test_loss = test_accuracy.map(|accuracy| 1.0 - accuracy);
    row.seconds = 77.0;
    row.images_per_second = 648.25;
    Event::Epoch(row)
}

fn step(update: u64) -> Event {
    let mut step = Step::default();
    step.update = update;
    step.epoch = 1;
    step.epochs = 2;
    step.batch_size = 125;
    step.learning_rate = 0.1;
    step.loss = 2.25;
    step.epoch_loss = 2.0;
    step.epoch_accuracy = 0.25;
    step.images = 125;
    step.epoch_images = 1000;
    step.later_images = 1000;
    step.seconds = 1.0;
    Event::Step(step)
}

/// A folder with the recipe of a run.
fn run_folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    write_recipe(folder.path(), &["network.widths=[4, 4, 4]"]);
    folder
}

fn write_recipe(folder: &Path, changes: &[&str]) {
    let place = tempfile::tempdir().unwrap();
    let (run, data) = (place.path().join("run"), crescendo_data::shapes::generate(0, 300, 50));
    let recipe = Recipe::load("quick", changes).unwrap();
    Run::create(&run, &Start::new(&recipe, &data, &CpuDevices)).unwrap();
    std::fs::copy(run.join("recipe.toml"), folder.join("recipe.toml")).unwrap();
}

#[test]
fn the_checksum_is_crc32c() {
    assert_eq!(checksum(b"123456789"), 0xe306_9283);
}

#[test]
fn known_values_are_written_under_their_tags() {
    let folder = run_folder();
    let mut board = start(folder.path(), &Marks::new(), true);
    for update in [1, 300] {
        board.event(&step(update)).unwrap();
    }
    board.event(&epoch(1, None)).unwrap();
    let mut decision = Decision::new(2, 400, DecisionKind::BatchSize, [125.0, 250.0]);
    decision.reason = "the table says so".to_owned();
    board.event(&Event::Decision(decision)).unwrap();
    board.event(&epoch(2, Some(0.5))).unwrap();
    let expected: Vec<(String, u64, String)> = [
        ("step/loss", 1, "2.25"),
        ("step/batch_size", 1, "125"),
        ("step/learning_rate", 1, "0.1"),
        ("step/loss", 300, "2.25"),
        ("step/batch_size", 300, "125"),
        ("step/learning_rate", 300, "0.1"),
        ("loss/train", 1, "1.5"),
        ("accuracy/train", 1, "0.25"),
        ("batch_size", 1, "125"),
        ("learning_rate", 1, "0.1"),
        ("images_per_second", 1, "648.25"),
        ("decisions/batch_size", 2, "Increasing batch size from 125 to 250 (the table says so)"),
        ("loss/train", 2, "1.5"),
        ("loss/test", 2, "0.5"),
        ("accuracy/train", 2, "0.25"),
        ("accuracy/test", 2, "0.5"),
        ("accuracy/best_test", 2, "0.5"),
        ("batch_size", 2, "125"),
        ("learning_rate", 2, "0.1"),
        ("images_per_second", 2, "648.25"),
    ]
    .map(|(tag, step, value)| (tag.to_owned(), step, value.to_owned()))
    .into();
    assert_eq!(values(&read(folder.path())), expected);
}

#[test]
fn a_resumed_run_appends_at_the_mark() {
    let folder = run_folder();
    let mut board = start(folder.path(), &Marks::new(), false);
    board.event(&step(1)).unwrap();
    board.event(&epoch(1, None)).unwrap();
    let marks = board.marks().unwrap();
    let saved = read(folder.path());
    board.event(&epoch(2, None)).unwrap();
    drop(board);
    // A killed process may leave half a record.
    let whole = read(folder.path());
    let path = folder.path().join("events.out.tfevents.0.crescendo");
    std::fs::write(&path, &whole[..whole.len() - 5]).unwrap();

    let mut board = start(folder.path(), &marks, false);
    assert_eq!(read(folder.path()), saved);
    board.event(&epoch(2, None)).unwrap();
    let values = values(&read(folder.path()));
    let steps = |tag| -> Vec<u64> {
        values.iter().filter(|value| value.0 == tag).map(|value| value.1).collect()
    };
    assert_eq!(steps("loss/train"), [1, 2]);
    assert!(steps("step/loss").is_empty());
}

#[test]
fn a_change_on_resume_is_recorded() {
    let folder = run_folder();
    let mut board = start(folder.path(), &Marks::new(), false);
    let (from, to) = ("0.1".to_owned(), "0.01".to_owned());
    board.event(&Event::Changed { key: "optimizer.learning_rate", from, to }).unwrap();
    let (tag, step, line) = values(&read(folder.path())).pop().unwrap();
    assert_eq!((&tag[..], step), ("changes/optimizer.learning_rate", 0));
    assert_eq!(line, "Changing optimizer.learning_rate from 0.1 to 0.01");
}

#[test]
fn what_a_run_is_has_a_file_of_its_own_that_is_written_anew() {
    let folder = run_folder();
    drop(start(folder.path(), &Marks::new(), false));
    let values = about(folder.path());
    let tags: Vec<&str> = values.iter().map(|value| &value.0[..]).collect();
    assert_eq!(tags, ["recipe", "_hparams_/session_start_info"]);
    assert!(values[0].2.contains("    widths = [4, 4, 4]\n"));
    for part in
        ["data=shapes", "train.seed=0", "network.widths=[4, 4, 4]", "optimizer.learning_rate=0.1;"]
    {
        assert!(values[1].2.contains(part), "no {part} in {}", values[1].2);
    }
    // A branch has a copy of the folder, and a recipe of its own.
    write_recipe(folder.path(), &["network.widths=[4, 4, 4]", "train.seed=7"]);
    drop(start(folder.path(), &Marks::new(), false));
    let values = about(folder.path());
    assert_eq!(values.len(), 2);
    assert!(values[0].2.contains("    seed = 7\n") && values[1].2.contains("train.seed=7"));
}

#[test]
fn an_evaluation_is_two_pictures() {
    let folder = run_folder();
    let mut board = start(folder.path(), &Marks::new(), false);
    let mut evaluation = Evaluation::default();
    evaluation.confusion = vec![vec![3, 0], vec![0, 4]];
    let classes = vec!["cat".to_owned(), "dog".to_owned()];
    let mut evaluated = |split, epoch, evaluation: &Evaluation| {
        let (evaluation, classes) = (evaluation.clone(), classes.clone());
        board.event(&Event::Evaluated { split, epoch, evaluation, classes }).unwrap();
    };
    evaluated(EvaluatedSplit::Validation, 1, &evaluation);
    let mut image = Misclassified::default();
    image.image = vec![9; 3 * 32 * 32];
    evaluation.misclassified = vec![image];
    evaluated(EvaluatedSplit::Test, 3, &evaluation);
    let values = values(&read(folder.path()));
    let tags: Vec<(&str, u64)> = values.iter().map(|value| (&value.0[..], value.1)).collect();
    let expected = [
        ("confusion_matrix/validation", 1),
        ("confusion_matrix/test", 3),
        ("worst_mistakes/test", 3),
    ];
    assert_eq!(tags, expected);
    assert_eq!(values[2].2, "648 x 134");
}

#[test]
fn the_best_accuracy_goes_on_after_a_resume() {
    let folder = run_folder();
    let best = |folder: &Path| -> Vec<String> {
        let values = values(&read(folder)).into_iter();
        values.filter(|value| value.0 == "accuracy/best_test").map(|value| value.2).collect()
    };
    let mut board = start(folder.path(), &Marks::new(), false);
    for (number, accuracy) in [(1, Some(0.5)), (2, Some(0.75)), (3, None), (4, Some(0.25))] {
        board.event(&epoch(number, accuracy)).unwrap();
    }
    assert_eq!(best(folder.path()), ["0.5", "0.75", "0.75"]);
    // The saved state is that after epoch 1; the table may be that of the second.
    let header = "epoch,updates,train_loss,test_accuracy\n1,400,1,0.5\n2,800,1,0.75\n";
    std::fs::write(folder.path().join("epochs.csv"), header).unwrap();
    let mut board = start_at(folder.path(), &Marks::new(), false, Some(400));
    board.event(&epoch(2, Some(0.375))).unwrap();
    assert_eq!(best(folder.path()), ["0.5"]);
}

#[test]
fn the_end_of_a_run_is_there_once() {
    let folder = run_folder();
    let mut board = start(folder.path(), &Marks::new(), false);
    board.event(&epoch(1, None)).unwrap();
    let marks = board.marks().unwrap();
    for already in [false, true] {
        let finished = Event::Finished {
            folder: folder.path().to_owned(),
            test_accuracy: None,
            weights: None,
            already,
        };
        board.event(&finished).unwrap();
        let values = values(&read(folder.path()));
        let ends = values.iter().filter(|value| value.0 == "_hparams_/session_end_info");
        assert_eq!(ends.map(|end| &end.2[..]).collect::<Vec<_>>(), ["status 1"]);
        board = start_at(folder.path(), &marks, false, Some(400));
    }
}
