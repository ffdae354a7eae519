//! The curves of a report: those of one run, each in a colour of its own; or those of several runs,
//! in a colour for each group.

use super::axis::Axis;
use super::chart::{Join, Panel, Series, VerticalLine};
use super::paper;
use super::run_data::RunData;
use crate::formats::tables::{DecisionRow, EpochRow};

/// A column of `epochs.csv`.
pub type Column = fn(&EpochRow) -> Option<f64>;

/// The number of colours in the style sheet.
const COLOURS: usize = 8;
/// How a curve's values are seen.
pub const HOW_TO_READ: &str =
    "Point at an epoch, tap it, or use Tab and the arrow keys, for its values.";
/// The CSS class of the paper's numbers.
pub const PAPER: &str = "paper";

/// The CSS classes of a group's lines.
pub fn colour(group: usize) -> String {
    // More colours could not be told apart: further groups have dashed lines.
    let dashed = if group / COLOURS % 2 == 1 { " dashed" } else { "" };
    format!("c{}{dashed}", group % COLOURS)
}

/// The accuracy and the loss of a run, as far as it has numbers.
pub fn results(run: &RunData) -> Vec<Panel> {
    let mut panels = of_one(run);
    panels.retain(|panel| [ACCURACY.title, LOSS.title].contains(&panel.title));
    panels.sort_by_key(|panel| panel.title);
    panels
}

/// The panels for which these runs have numbers.
pub fn panels(runs: &[RunData]) -> Vec<Panel> {
    match runs {
        [run] => of_one(run),
        _ => of_many(runs),
    }
}

/// The last epoch on the common axis: the planned end, but at most four times the epochs done, so
/// that early curves are wide enough to read.
pub fn last_epoch(runs: &[RunData]) -> u32 {
    let done = |run: &RunData| run.epochs.iter().map(|row| row.epoch).max().unwrap_or(0);
    let last = |run: &RunData| match done(run) {
        done if run.finished() => done,
        done => done.saturating_mul(4).min(run.planned().0).max(done),
    };
    runs.iter().map(last).max().unwrap_or(0).max(1)
}

/// Vertical lines for all decisions; with several runs, each names its run.
pub fn decision_lines(runs: &[RunData]) -> Vec<VerticalLine> {
    let named = runs.len() > 1;
    let all = runs.iter().flat_map(|run| run.decisions.iter().map(move |decision| (run, decision)));
    let line = |(run, decision): (&RunData, &DecisionRow)| {
        let mut title = format!("From epoch {}: {}", decision.epoch, decision.summary());
        if named {
            title = format!("{}\n{title}", run.label);
        }
        if !decision.reason.is_empty() {
            title += &format!("\n{}", decision.reason);
        }
        let kind = if decision.what == "batch_size" { "growth" } else { "other" };
        // The lines of several runs are told apart by their colours.
        let class = if named { format!("{kind} {}", colour(run.group)) } else { kind.to_owned() };
        VerticalLine { epoch: decision.epoch, class, title }
    };
    all.map(line).collect()
}

fn of_one(run: &RunData) -> Vec<Panel> {
    let with_paper = run.follows_paper;
    let ours = |name: &str, class: &str, join, column: Column| Series {
        name: name.to_owned(),
        class: class.to_owned(),
        points: run.column(column),
        band: Vec::new(),
        join,
    };
    let published = |name: &str, points: &[(u32, f64)], join| Series {
        name: name.to_owned(),
        class: PAPER.to_owned(),
        points: if with_paper { points.to_vec() } else { Vec::new() },
        band: Vec::new(),
        join,
    };
    let lines = Join::Lines;
    let loss = vec![
        published("paper train", &paper::TRAIN_LOSS, Join::Dots),
        ours("test", "c2", lines, |row| row.test_loss),
        ours("validation", "c1", lines, |row| row.validation_loss),
        ours("train", "c0", lines, |row| Some(row.train_loss)),
    ];
    let accuracy = vec![
        published("paper test", &paper::TEST_ACCURACY, Join::Dots),
        ours("test", "c2", lines, |row| row.test_accuracy),
        ours("validation", "c1", lines, |row| row.validation_accuracy),
        ours("train", "c0", lines, |row| row.train_accuracy),
    ];
    let batch = vec![
        published("paper", &paper::batch_sizes(), Join::Steps),
        ours("noise scale", "c3", lines, |row| row.noise_scale),
        ours("batch size", "c0", Join::Steps, |row| row.batch_size),
    ];
    let rate = vec![ours("learning rate", "c0", Join::Steps, |row| row.learning_rate)];
    let speed = vec![ours("images/s", "c0", lines, |row| row.images_per_second)];
    let last = last_epoch(std::slice::from_ref(run));
    let panels = [
        LOSS.panel(loss, last),
        ACCURACY.panel(accuracy, last),
        BATCH.panel(batch, last),
        RATE.panel(rate, last),
        SPEED.panel(speed, last),
    ];
    panels.into_iter().flatten().collect()
}

fn of_many(runs: &[RunData]) -> Vec<Panel> {
    let last = last_epoch(runs);
    let with_paper = runs.iter().any(|run| run.follows_paper);
    let panel = |quantity: &Quantity, title, join, column: Column, published: &[(u32, f64)]| {
        let published = if with_paper { published } else { &[] };
        let mut series = vec![paper_series(published, join)];
        // The first run is drawn last, on top of the others.
        series.extend(runs.iter().rev().map(|run| Series {
            name: run.label.clone(),
            class: colour(run.group),
            points: run.column(column),
            band: Vec::new(),
            join,
        }));
        let panel = Quantity { title, ..*quantity }.panel(series, last)?;
        // All panels share one legend.
        Some(Panel { legend: false, ..panel })
    };
    let (lines, steps, none) = (Join::Lines, Join::Steps, &[][..]);
    let panels = [
        panel(&LOSS, "Train loss", lines, |row| Some(row.train_loss), &paper::TRAIN_LOSS),
        panel(&LOSS, "Validation loss", lines, |row| row.validation_loss, none),
        panel(&LOSS, "Test loss", lines, |row| row.test_loss, none),
        panel(&ACCURACY, "Test accuracy", lines, |row| row.test_accuracy, &paper::TEST_ACCURACY),
        panel(&ACCURACY, "Validation accuracy", lines, |row| row.validation_accuracy, none),
        panel(&BATCH, BATCH.title, steps, |row| row.batch_size, &paper::batch_sizes()),
        panel(&BATCH, "Noise scale, images", lines, |row| row.noise_scale, none),
        panel(&RATE, RATE.title, steps, |row| row.learning_rate, none),
        panel(&SPEED, SPEED.title, lines, |row| row.images_per_second, none),
    ];
    panels.into_iter().flatten().collect()
}

/// The paper's numbers in a panel of several runs.
pub fn paper_series(points: &[(u32, f64)], join: Join) -> Series {
    Series {
        name: "paper".to_owned(),
        class: PAPER.to_owned(),
        points: points.to_vec(),
        band: Vec::new(),
        join: if join == Join::Steps { join } else { Join::Dots },
    }
}

/// The quantity that a panel shows.
pub struct Quantity {
    pub title: &'static str,
    pub class: &'static str,
    pub axis: fn(&[Series]) -> Axis,
    pub format: fn(f64) -> String,
}

/// See [`Quantity`].
pub const LOSS: Quantity = Quantity {
    title: "Loss",
    class: "tall",
    axis: |series| {
        let mut losses = values(series);
        losses.sort_by(f64::total_cmp);
        // A single very high loss must not flatten the rest of the curve.
        let (least, most) = (losses[0], losses[losses.len() - 1]);
        let usual = losses[losses.len() * 95 / 100];
        // On a linear axis, very small losses would lie flat on the bottom.
        if least > 0.0 && usual / least > 20.0 {
            Axis::decades(&losses)
        } else {
            Axis::linear(0.0, 1.05 * most.min(1.5 * usual))
        }
    },
    format: |loss| format!("{loss:.4}"),
};
/// See [`Quantity`].
pub const ACCURACY: Quantity = Quantity {
    title: "Accuracy",
    class: "tall",
    axis: |series| {
        let low = values(series).into_iter().fold(1.0, f64::min);
        // The axis begins at a multiple of 10 % that leaves some room below.
        Axis::percent(((low - 0.02) * 10.0).floor().clamp(0.0, 9.0) / 10.0, 1.0)
    },
    format: |share| format!("{:.2}%", 100.0 * share),
};
/// See [`Quantity`].
pub const BATCH: Quantity = Quantity {
    title: "Batch size, images",
    class: "short",
    axis: |series| {
        let steps = series.iter().filter(|series| series.join == Join::Steps);
        let sizes = steps.flat_map(|series| series.points.iter().map(|point| point.1));
        let first = sizes.fold(f64::INFINITY, f64::min);
        Axis::doubling(first, &values(series))
    },
    format: |images| format!("{images}"),
};
/// See [`Quantity`].
pub const RATE: Quantity = Quantity {
    title: "Learning rate",
    class: "short",
    axis: |series| Axis::decades(&values(series)),
    format: |rate| format!("{rate}"),
};
const SPEED: Quantity = Quantity {
    title: "Throughput, images/s",
    class: "short",
    axis: |series| Axis::linear(0.0, 1.1 * values(series).into_iter().fold(0.0, f64::max)),
    format: |images| format!("{images:.1}"),
};

impl Quantity {
    /// The panel; `None` if no run has a number up to epoch `last`.
    pub fn panel(&self, mut series: Vec<Series>, last: u32) -> Option<Panel> {
        for series in &mut series {
            series.points.retain(|(epoch, _)| *epoch <= last);
            series.band.retain(|(epoch, ..)| *epoch <= last);
        }
        series.retain(|series| !series.points.is_empty());
        if series.iter().all(|series| series.class == PAPER) {
            return None;
        }
        let legend = series.len() > 1;
        let Quantity { title, class, axis, format } = *self;
        Some(Panel { title, class, axis: axis(&series), format, series, legend })
    }
}

/// All values of some series, with the ends of their bands.
pub fn values(series: &[Series]) -> Vec<f64> {
    let of = |series: &Series| {
        let ends = series.band.iter().flat_map(|&(_, low, high)| [low, high]);
        series.points.iter().map(|point| point.1).chain(ends).collect::<Vec<f64>>()
    };
    series.iter().flat_map(of).collect()
}
