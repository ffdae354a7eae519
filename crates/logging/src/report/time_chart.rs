//! Accuracy over the time of training, as a picture: how long several runs take for how good a network.

use std::fmt::Write;

use super::axis::Axis;
use super::html::escape;
use super::picture::{STYLE, text_width};

/// A curve of [`accuracy_over_time`].
///
/// # Example
///
/// ```
/// use crescendo_logging::report::{TimeCurve, accuracy_over_time};
///
/// let points = vec![(60.0, 0.71), (120.0, 0.85), (240.0, 0.93)];
/// let curve = TimeCurve { name: "a run".into(), points };
/// let svg = accuracy_over_time("Accuracy over time", "on two cores", 0.7, &[curve], Some(("goal", 0.9)));
/// assert!(svg.starts_with("<svg ") && svg.contains("a run, 93.0 %"));
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct TimeCurve {
    /// Its name in the legend.
    pub name: String,
    /// Seconds of training, and the accuracy from 0 to 1 after them.
    pub points: Vec<(f64, f64)>,
}

const WIDTH: f64 = 1120.0;
const HEIGHT: f64 = 640.0;
const LEFT: f64 = 76.0;
const BOTTOM: f64 = HEIGHT - 76.0;
const LEGEND: f64 = 78.0;
const LINE: f64 = 28.0;
const BORDER: f64 = 16.0;

/// A picture, as an SVG file, of accuracies from `lowest` up, over minutes on a logarithmic axis; `of` says how they were counted. The
/// accuracy that is marked by a line, with its name, is what the curves are to be seen against.
pub fn accuracy_over_time(
    title: &str,
    of: &str,
    lowest: f64,
    curves: &[TimeCurve],
    marked: Option<(&str, f64)>,
) -> String {
    let inside = |point: &&(f64, f64)| point.0 > 0.0 && point.1 >= lowest;
    let shown: Vec<Vec<(f64, f64)>> =
        curves.iter().map(|curve| curve.points.iter().filter(inside).copied().collect()).collect();
    let all = || shown.iter().flatten();
    let minutes: Vec<f64> = all().map(|point| point.0 / 60.0).collect();
    let highest = all().map(|point| point.1).chain(marked.map(|one| one.1)).fold(lowest, f64::max);
    let (across, up) =
        (Axis::doubling(1.0, &minutes), Axis::percent_with(lowest, highest + 0.01, 7.0));
    let (legend, top) = legend(curves);
    // The name of the line has the right border for itself.
    let label =
        marked.map(|(name, accuracy)| [name.to_owned(), format!("{:.2} %", 100.0 * accuracy)]);
    let label = label.unwrap_or_default();
    let right =
        WIDTH - label.iter().map(|line| text_width(line)).fold(0.0, f64::max) - 2.0 * BORDER;
    let x = |minutes: f64| LEFT + (right - LEFT) * across.position(minutes);
    let y = |accuracy: f64| BOTTOM - (BOTTOM - top) * up.position(accuracy);

    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" \
         height=\"{HEIGHT}\" role=\"img\">\n<title>{0}</title>\n<desc>{1}</desc>\n<style>\n{STYLE}</style>\n\
         <rect class=\"ground\" width=\"{WIDTH}\" height=\"{HEIGHT}\"/>\n\
         <text class=\"title\" x=\"{BORDER}\" y=\"40\">{0}</text>\n{legend}",
        escape(title),
        escape(&in_words(curves, marked)),
    );
    let text = |class: &str, x: f64, y: f64, words: &str| {
        format!("<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\">{}</text>\n", escape(words))
    };
    for (tick, label) in &up.ticks {
        let y = y(*tick);
        let _ = writeln!(svg, "<path class=\"grid\" d=\"M{LEFT} {y:.1}H{right:.1}\"/>");
        svg += &text("soft end", LEFT - 10.0, y + 6.0, label);
    }
    for (tick, label) in &across.ticks {
        let x = x(*tick);
        let _ = writeln!(svg, "<path class=\"grid\" d=\"M{x:.1} {top:.1}V{BOTTOM}\"/>");
        svg += &text("soft middle", x, BOTTOM + 26.0, label);
    }
    svg += &text(
        "soft middle",
        (LEFT + right) / 2.0,
        BOTTOM + 56.0,
        &format!("minutes of training {of}"),
    );
    if let Some((_, accuracy)) = marked {
        let y = y(accuracy);
        let _ = writeln!(
            svg,
            "<path class=\"zero\" stroke-dasharray=\"8 6\" d=\"M{LEFT} {y:.1}H{right:.1}\"/>"
        );
        svg += &text("", right + BORDER / 2.0, y - 4.0, &label[0]);
        svg += &text("", right + BORDER / 2.0, y + 18.0, &label[1]);
    }
    for (index, (curve, points)) in curves.iter().zip(&shown).enumerate() {
        let (mut line, mut dots) = (String::new(), String::new());
        for (seconds, accuracy) in points {
            let (x, y) = (x(seconds / 60.0), y(*accuracy));
            let _ = write!(line, "{}{x:.1} {y:.1}", if line.is_empty() { 'M' } else { 'L' });
            let _ = write!(dots, "M{x:.1} {y:.1}h.1");
        }
        let _ = writeln!(
            svg,
            "<g><title>{0}</title><path class=\"line {1}\" d=\"{line}\"/><path class=\"dots {1}\" d=\"{dots}\"/></g>",
            escape(&curve.name),
            class(index)
        );
    }
    svg + "</svg>\n"
}

/// The names of the curves with their last accuracies, and where the plot below begins.
fn legend(curves: &[TimeCurve]) -> (String, f64) {
    let (mut svg, mut x, mut y) = (String::new(), BORDER, LEGEND);
    for (index, curve) in curves.iter().enumerate() {
        let name = entry(curve);
        let width = 36.0 + text_width(&name);
        if x > BORDER && x + width > WIDTH {
            (x, y) = (BORDER, y + LINE);
        }
        let _ = writeln!(
            svg,
            "<path class=\"line {}\" d=\"M{x:.1} {:.1}h28\"/><text x=\"{:.1}\" y=\"{y:.1}\">{}</text>",
            class(index),
            y - 6.0,
            x + 36.0,
            escape(&name)
        );
        x += width + 28.0;
    }
    (svg, y + LINE)
}

fn entry(curve: &TimeCurve) -> String {
    match curve.points.last() {
        Some((_, accuracy)) => format!("{}, {:.1} %", curve.name, 100.0 * accuracy),
        None => curve.name.clone(),
    }
}

fn class(curve: usize) -> String {
    super::panels::colour(curve)
}

fn in_words(curves: &[TimeCurve], marked: Option<(&str, f64)>) -> String {
    let curve = |curve: &TimeCurve| {
        let points = curve.points.iter();
        let points = points.map(|(seconds, accuracy)| {
            format!("{:.1} % after {:.1} min", 100.0 * accuracy, seconds / 60.0)
        });
        format!("{}: {}", curve.name, points.collect::<Vec<_>>().join(", "))
    };
    let line = marked.map(|(name, accuracy)| format!("Line: {name}, {:.2} %", 100.0 * accuracy));
    curves.iter().map(curve).chain(line).collect::<Vec<_>>().join(". ")
}
