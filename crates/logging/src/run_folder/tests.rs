//! `log.txt` and the CSV files together.

use std::path::Path;

use super::{CsvLogger, TextLogger};
use crate::Observers;
use crescendo_training::events::{
    Decision, DecisionKind, Epoch, Event, Marks, Observer, PlateauObservation,
};

fn epoch(epoch: u32, test_accuracy: Option<f64>) -> Event {
    let mut row = Epoch::default();
    row.epoch = epoch;
    row.updates = 400;
    row.batch_size = 125;
    row.learning_rate = 0.1;
    row.train_loss = 1.8525814;
    row.train_accuracy = 0.31257;
    row.test_accuracy = test_accuracy;
    row.test_loss = test_accuracy.map(|accuracy| 1.0 - accuracy);
    row.noise_scale = Some(812.34);
    row.seconds = 77.1419;
    row.images_per_second = 648.2;
    Event::Epoch(row)
}

fn decision(metric: Option<PlateauObservation>) -> Event {
    let mut decision = Decision::new(2, 400, DecisionKind::BatchSize, [125.0, 250.0]);
    decision.reason = "no \"progress\", for 3 epochs".to_owned();
    decision.metric = metric;
    Event::Decision(decision)
}

/// Passes `events` to new loggers, from the start of a run in `folder` on; the marks after them.
fn log(folder: &Path, marks: &Marks, events: &[Event]) -> Marks {
    let (mut text, mut csv) = (TextLogger::default(), CsvLogger::default());
    let mut loggers = Observers(vec![&mut text, &mut csv]);
    let (folder, description) = (folder.to_owned(), "a test".to_owned());
    let (resumed_at, marks, log_steps) = (None, marks.clone(), true);
    let started = Event::Started { folder, description, resumed_at, marks, log_steps };
    for event in std::iter::once(&started).chain(events) {
        loggers.event(event).unwrap();
    }
    loggers.marks().unwrap()
}

#[test]
fn files_are_truncated_to_their_marks() {
    let folder = tempfile::tempdir().unwrap();
    let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
    let log = |marks: &Marks, events: &[Event]| log(folder.path(), marks, events);
    let marks = log(&Marks::new(), &[epoch(1, None)]);
    let tables = ["epochs.csv", "steps.csv", "decisions.csv"];
    let (before, lines) = (tables.map(read), read("log.txt"));
    // The same run again, killed after events that follow the mark.
    let all = [epoch(1, None), decision(None), epoch(2, Some(0.9356))];
    assert_eq!(log(&Marks::new(), &all[..1]), marks);
    log(&Marks::new(), &all);
    let row = "2,400,125,0.1,1.852581,0.9356,77.142,648.2,,0.3126,,812.3,0.064400\n";
    assert!(read("epochs.csv").ends_with(row), "{}", read("epochs.csv"));
    assert_eq!(read("decisions.csv").lines().count(), 2);
    log(&marks, &[]);
    assert_eq!(tables.map(read), before);
    assert_eq!(lines, "Training a test\nEpoch 1 Loss 1.852581 Duration 77.142 seconds.\n");
    assert_eq!(read("log.txt"), format!("{lines}Training a test\n"));
    log(&marks, &[epoch(2, None)]);
    assert_eq!(read("epochs.csv").lines().count(), 3);
}

#[test]
fn a_table_keeps_the_columns_that_it_began_with() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("epochs.csv");
    let earlier = "epoch,updates,batch_size,learning_rate,train_loss\n1,200,125,0.1,2.3\n";
    std::fs::write(&path, earlier).unwrap();
    let marks = Marks::from([("epochs.csv".to_owned(), earlier.len() as u64)]);
    log(folder.path(), &marks, &[epoch(2, Some(0.5))]);
    let text = std::fs::read_to_string(&path).unwrap();
    assert_eq!(text, format!("{earlier}2,400,125,0.1,1.852581\n"));
}

#[test]
fn decisions_are_rows_with_their_reasons() {
    let folder = tempfile::tempdir().unwrap();
    let best = f64::INFINITY;
    let watched = PlateauObservation::new("train_loss", 0.51, best, 3);
    log(folder.path(), &Marks::new(), &[decision(None), decision(Some(watched))]);
    let text = std::fs::read_to_string(folder.path().join("decisions.csv")).unwrap();
    let reason = "\"no \"\"progress\"\", for 3 epochs\"";
    let rows = [
        format!("2,400,batch_size,125,250,{reason},,,,,"),
        format!("2,400,batch_size,125,250,{reason},train_loss,0.510000,,3,"),
    ];
    assert_eq!(text.lines().skip(1).collect::<Vec<_>>(), rows);
}
