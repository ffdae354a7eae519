//! The curves of a comparison: for each arm the mean over its seeds, and a band from the lowest to the highest.

use std::collections::BTreeMap;

use super::super::axis::Axis;
use super::super::chart::{Join, Panel, Series};
use super::super::panels::{
    ACCURACY, BATCH, Column, LOSS, Quantity, RATE, colour, last_epoch, paper_series, values,
};
use super::super::paper;
use super::super::run_data::RunData;
use crate::formats::tables::EpochRow;

/// The panels for which the runs have numbers; each run's group is its arm, of which these are the names.
pub fn panels(arms: &[String], runs: &[RunData]) -> Vec<Panel> {
    let last = last_epoch(runs);
    let with_paper = runs.iter().any(|run| run.follows_paper);
    let panel = |quantity: &Quantity, title, join, column: Column, published: &[(u32, f64)]| {
        let published = if with_paper { published } else { &[] };
        let mut series = vec![paper_series(published, join)];
        // The first arm is drawn last, on top of the others.
        series.extend(arms.iter().enumerate().rev().map(|(group, name)| {
            let (points, band) = over_seeds(runs.iter().filter(|run| run.group == group), column);
            Series { name: name.clone(), class: colour(group), points, band, join }
        }));
        let panel = Quantity { title, ..*quantity }.panel(series, last)?;
        // All panels share one legend.
        Some(Panel { legend: false, ..panel })
    };
    // Arms differ by little: the axis ends where their accuracies do.
    let accuracy = Quantity {
        axis: |series| {
            let (low, high) = range(series);
            Axis::percent(
                ((low - 0.02) * 20.0).floor() / 20.0,
                ((high + 0.01) * 20.0).ceil() / 20.0,
            )
        },
        ..ACCURACY
    };
    let (lines, steps, none) = (Join::Lines, Join::Steps, &[][..]);
    let panels = [
        panel(&accuracy, "Test accuracy", lines, |row| row.test_accuracy, &paper::TEST_ACCURACY),
        panel(&accuracy, "Validation accuracy", lines, |row| row.validation_accuracy, none),
        panel(&LOSS, "Train loss", lines, |row| Some(row.train_loss), &paper::TRAIN_LOSS),
        panel(&LOSS, "Validation loss", lines, |row| row.validation_loss, none),
        panel(&LOSS, "Test loss", lines, |row| row.test_loss, none),
        panel(&BATCH, BATCH.title, steps, |row| row.batch_size, &paper::batch_sizes()),
        panel(&BATCH, "Noise scale, images", lines, |row| row.noise_scale, none),
        panel(&RATE, RATE.title, steps, |row| row.learning_rate, none),
    ];
    panels.into_iter().flatten().collect()
}

/// The lowest and the highest value of some series, with their bands.
fn range(series: &[Series]) -> (f64, f64) {
    let values = values(series);
    let low = values.iter().copied().fold(1.0, f64::min);
    (low.max(0.02), values.into_iter().fold(low, f64::max).min(0.99))
}

type Means = Vec<(u32, f64)>;
type Band = Vec<(u32, f64, f64)>;

/// The mean of a column at each epoch and, with several runs, its lowest and highest value there. Epochs that a run has
/// no value for are left out: a mean over fewer runs would jump.
fn over_seeds<'a>(
    runs: impl Iterator<Item = &'a RunData>,
    column: impl Fn(&EpochRow) -> Option<f64>,
) -> (Means, Band) {
    let mut values: BTreeMap<u32, Vec<f64>> = BTreeMap::new();
    let mut count = 0;
    for run in runs {
        count += 1;
        for (epoch, value) in run.column(&column) {
            values.entry(epoch).or_default().push(value);
        }
    }
    values.retain(|_, values| values.len() == count);
    let mean = |(&epoch, values): (&u32, &Vec<f64>)| {
        (epoch, values.iter().sum::<f64>() / values.len() as f64)
    };
    let ends = |(&epoch, values): (&u32, &Vec<f64>)| {
        let low = values.iter().copied().fold(f64::INFINITY, f64::min);
        (epoch, low, values.iter().copied().fold(f64::NEG_INFINITY, f64::max))
    };
    let band = if count > 1 { values.iter().map(ends).collect() } else { Vec::new() };
    (values.iter().map(mean).collect(), band)
}
