//! `crescendo runs`.

mod list;

use std::path::Path;

use crescendo::logging::display_seconds;
use crescendo::training::Error;
use serde_json::{Value, json};

use self::list::{ArmOf, Entry, ListedRun, State, find, sort};
use super::{print, say};
use crate::cli::RunsArgs;

/// The folder in which `train` and `compare` make theirs.
const DEFAULT: &str = "runs";

pub fn run(args: &RunsArgs) -> Result<(), Error> {
    let folder = args.folder.as_deref().unwrap_or(Path::new(DEFAULT));
    let mut entries = match (&args.folder, folder.exists()) {
        (None, false) => Vec::new(),
        _ => find(folder)?,
    };
    sort(&mut entries, args.sort);
    if args.json {
        let all = entries.iter().flat_map(|Entry { comparison, runs }| {
            runs.iter().map(|run| to_json(run, comparison.as_deref()))
        });
        return say!("{}", Value::from_iter(all));
    }
    if entries.is_empty() {
        return say!("There are no runs in {}; `crescendo train` makes one.", folder.display());
    }
    print(format_args!("{}", table(&entries)))
}

fn to_json(run: &ListedRun, comparison: Option<&str>) -> Value {
    let ListedRun { folder, progress, .. } = run;
    let in_comparison = comparison
        .zip(run.arm.as_ref())
        .map(|(name, arm)| json!({ "name": name, "arm": arm.name, "seed": arm.seed }));
    json!({
        "folder": folder.display().to_string(),
        "state": run.state.name(),
        "epoch": progress.epoch.min(run.epochs),
        "epochs": run.epochs,
        "updates": progress.updates,
        "best_accuracy": run.accuracy.map(|(_, accuracy)| accuracy),
        "accuracy_of": run.accuracy.map(|(split, _)| split.name()),
        "test_accuracy": progress.test_accuracy,
        "seconds": progress.total_seconds(),
        "device": run.device.name(),
        "created": (!run.created.is_empty()).then_some(&run.created),
        "comparison": in_comparison,
    })
}

/// A line for each run, those of a comparison below its name.
fn table(entries: &[Entry]) -> String {
    let mut rows = vec![
        ["run", "state", "best accuracy", "time", "device", "created (UTC)"].map(String::from),
    ];
    for entry in entries {
        let mut indent = "";
        if let Some(name) = &entry.comparison {
            let count = entry.runs.len();
            let runs = if count == 1 { "1 run" } else { &format!("{count} runs") };
            let heading = [name.clone(), format!("comparison, {runs}")].into_iter();
            let mut cells = heading.chain(std::iter::repeat(String::new()));
            rows.push(std::array::from_fn(|_| cells.next().unwrap_or_default()));
            indent = "  ";
        }
        rows.extend(entry.runs.iter().map(|run| row(run, indent)));
    }
    let widths: [usize; 6] = std::array::from_fn(|column| {
        rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default()
    });
    let line = |row: &[String; 6]| {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        let cells: Vec<String> = cells.collect();
        format!("{}\n", cells.join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

fn row(run: &ListedRun, indent: &str) -> [String; 6] {
    let name = match &run.arm {
        Some(ArmOf { name, seed, number: 1 }) => format!("{name} / seed {seed}"),
        Some(ArmOf { name, seed, number }) => format!("{name} / seed {seed} ({number})"),
        None => run.name.clone(),
    };
    let accuracy = run.accuracy.map(|(split, accuracy)| format!("{accuracy:.4} {}", split.name()));
    [
        format!("{indent}{name}"),
        state(run),
        accuracy.unwrap_or_else(|| "-".into()),
        display_seconds(run.progress.total_seconds()),
        run.device.name().to_owned(),
        created(&run.created),
    ]
}

/// A moment as people read it, to the minute.
fn created(moment: &str) -> String {
    match moment.get(..16) {
        Some(minute) => minute.replace('T', " "),
        None => "-".into(),
    }
}

fn state(run: &ListedRun) -> String {
    let (epoch, batch) = (run.progress.epoch, run.progress.batch);
    match run.state {
        State::Training => "training now".into(),
        State::Finished => "finished".into(),
        State::New => "not begun".into(),
        State::Stopped if batch == 0 => format!("stopped after epoch {}", epoch - 1),
        State::Stopped => format!("stopped at epoch {epoch}"),
    }
}
