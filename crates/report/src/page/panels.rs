//! Which curves a page has: those of one run in a colour each, or of many runs in a colour a group.

use super::axis::Axis;
use super::chart::{Join, Mark, Panel, Series};
use super::data::{Decision, Epoch, RunData};
use super::published;
use crate::lines::rounded;

/// A column of `epochs.csv`.
type Column = fn(&Epoch) -> Option<f64>;

/// Colours of the style sheet.
const COLOURS: usize = 8;
/// The class of the report's own numbers.
pub const PUBLISHED: &str = "published";

/// The classes of a group's lines.
pub fn colour(group: usize) -> String {
    // There are no more colours that can be told apart: the next groups have dashed lines.
    let again = if group / COLOURS % 2 == 1 { " again" } else { "" };
    format!("c{}{again}", group % COLOURS)
}

/// The panels of these runs: those for which there are numbers.
pub fn panels(runs: &[RunData]) -> Vec<Panel> {
    match runs {
        [run] => of_one(run),
        _ => of_many(runs),
    }
}

/// The last epoch on the common axis: the planned end, but what is done has a quarter of the width.
pub fn last_epoch(runs: &[RunData]) -> u32 {
    let done = |run: &RunData| run.epochs.iter().map(|row| row.epoch).max().unwrap_or(0);
    let last = |run: &RunData| match done(run) {
        done if run.finished() => done,
        done => done.saturating_mul(4).min(run.planned.0).max(done),
    };
    runs.iter().map(last).max().unwrap_or(0).max(1)
}

/// Vertical lines for all that was decided; `named` says of which run.
pub fn marks(runs: &[RunData]) -> Vec<Mark> {
    let named = runs.len() > 1;
    let all = runs.iter().flat_map(|run| run.decisions.iter().map(move |decision| (run, decision)));
    let mark = |(run, decision): (&RunData, &Decision)| {
        let mut title = format!("From epoch {}: {}", decision.epoch, decision.summary());
        if named {
            title = format!("{}\n{title}", run.label);
        }
        if !decision.reason.is_empty() {
            title += &format!("\n{}", decision.reason);
        }
        let kind = if decision.what == "batch_size" { "growth" } else { "other" };
        // Many runs' lines are told apart by their colours.
        let class = if named { format!("{kind} {}", colour(run.group)) } else { kind.to_owned() };
        Mark { epoch: decision.epoch, class, title }
    };
    all.map(mark).collect()
}

impl Decision {
    /// What is another one now.
    pub fn summary(&self) -> String {
        format!("{} {} to {}", self.name(), rounded(self.from), rounded(self.to))
    }

    /// What was decided, as people call it.
    pub fn name(&self) -> String {
        self.what.replace('_', " ")
    }
}

fn of_one(run: &RunData) -> Vec<Panel> {
    let compared = run.is_published;
    let ours = |name: &str, class: &str, join, column: Column| Series {
        name: name.to_owned(),
        class: class.to_owned(),
        points: run.column(column),
        join,
    };
    let theirs = |name: &str, points: &[(u32, f64)], join| Series {
        name: name.to_owned(),
        class: PUBLISHED.to_owned(),
        points: if compared { points.to_vec() } else { Vec::new() },
        join,
    };
    let lines = Join::Lines;
    let loss = vec![
        theirs("published train", &published::TRAIN_LOSS, Join::Dots),
        ours("validation", "c1", lines, |row| row.validation_loss),
        ours("train", "c0", lines, |row| Some(row.train_loss)),
    ];
    let accuracy = vec![
        theirs("published test", &published::TEST_ACCURACY, Join::Dots),
        ours("test", "c2", lines, |row| row.test_accuracy),
        ours("validation", "c1", lines, |row| row.validation_accuracy),
        ours("train", "c0", lines, |row| row.train_accuracy),
    ];
    let batch = vec![
        theirs("published", &published::batch_sizes(), Join::Steps),
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
    let compared = runs.iter().any(|run| run.is_published);
    let panel = |quantity: &Quantity, title, join, column: Column, theirs: &[(u32, f64)]| {
        let published_join = if join == Join::Steps { join } else { Join::Dots };
        let mut series = vec![Series {
            name: "published".to_owned(),
            class: PUBLISHED.to_owned(),
            points: if compared { theirs.to_vec() } else { Vec::new() },
            join: published_join,
        }];
        // The first run is drawn last, above the others.
        series.extend(runs.iter().rev().map(|run| Series {
            name: run.label.clone(),
            class: colour(run.group),
            points: run.column(column),
            join,
        }));
        let panel = Quantity { title, ..*quantity }.panel(series, last)?;
        // One legend stands above all panels.
        Some(Panel { legend: false, ..panel })
    };
    let (lines, steps, none) = (Join::Lines, Join::Steps, &[][..]);
    let panels = [
        panel(&LOSS, "Train loss", lines, |row| Some(row.train_loss), &published::TRAIN_LOSS),
        panel(&LOSS, "Validation loss", lines, |row| row.validation_loss, none),
        panel(
            &ACCURACY,
            "Test accuracy",
            lines,
            |row| row.test_accuracy,
            &published::TEST_ACCURACY,
        ),
        panel(&ACCURACY, "Validation accuracy", lines, |row| row.validation_accuracy, none),
        panel(&BATCH, BATCH.title, steps, |row| row.batch_size, &published::batch_sizes()),
        panel(&BATCH, "Noise scale, images", lines, |row| row.noise_scale, none),
        panel(&RATE, RATE.title, steps, |row| row.learning_rate, none),
        panel(&SPEED, SPEED.title, lines, |row| row.images_per_second, none),
    ];
    panels.into_iter().flatten().collect()
}

/// What a panel shows.
struct Quantity {
    title: &'static str,
    class: &'static str,
    axis: fn(&[Series]) -> Axis,
    format: fn(f64) -> String,
}

const LOSS: Quantity = Quantity {
    title: "Loss",
    class: "tall",
    axis: |series| {
        let mut losses = values(series);
        losses.sort_by(f64::total_cmp);
        // A network that evaluates badly for an epoch must not flatten everything else.
        let (least, most) = (losses[0], losses[losses.len() - 1]);
        let usual = losses[losses.len() * 95 / 100];
        // What gets so small would lie flat on the ground.
        if least > 0.0 && usual / least > 20.0 {
            Axis::decades(&losses)
        } else {
            Axis::linear(0.0, 1.05 * most.min(1.5 * usual))
        }
    },
    format: |loss| format!("{loss:.4}"),
};
const ACCURACY: Quantity = Quantity {
    title: "Accuracy",
    class: "tall",
    axis: |series| {
        let low = values(series).into_iter().fold(1.0, f64::min);
        // From a multiple of ten percent that leaves room below.
        Axis::percent(((low - 0.02) * 10.0).floor().clamp(0.0, 9.0) / 10.0, 1.0)
    },
    format: |share| format!("{:.2}%", 100.0 * share),
};
const BATCH: Quantity = Quantity {
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
const RATE: Quantity = Quantity {
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
    /// The panel, unless there is no number of ours up to `last`.
    fn panel(&self, mut series: Vec<Series>, last: u32) -> Option<Panel> {
        for series in &mut series {
            series.points.retain(|(epoch, _)| *epoch <= last);
        }
        series.retain(|series| !series.points.is_empty());
        if series.iter().all(|series| series.class == PUBLISHED) {
            return None;
        }
        let legend = series.len() > 1;
        let Quantity { title, class, axis, format } = *self;
        Some(Panel { title, class, axis: axis(&series), format, series, legend })
    }
}

fn values(series: &[Series]) -> Vec<f64> {
    series.iter().flat_map(|series| series.points.iter().map(|point| point.1)).collect()
}
