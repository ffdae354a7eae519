//! `results.svg`: a run's accuracy and loss as one picture, for papers and messages. Unlike in a report, everything
//! lies in the drawing, and it looks the same in programs that know little of style sheets.

use std::fmt::Write;

use super::axis::epoch_ticks;
use super::chart::{HEIGHT, Panel, WIDTH, middle};
use super::html::escape;
use super::panels;
use super::run_data::RunData;
use crate::messages::display_seconds;

/// The picture's file name in a run's folder.
pub const FILE_NAME: &str = "results.svg";

/// The left border of the panels, the room above each, and below the last.
const LEFT: f64 = 90.0;
const HEADING: f64 = 96.0;
const ABOVE: f64 = 46.0;
const BELOW: f64 = 66.0;
const RIGHT: f64 = 30.0;

/// A run's picture; `None` before the first epoch.
pub fn picture(run: &RunData) -> Option<String> {
    let panels = panels::results(run);
    if panels.is_empty() {
        return None;
    }
    let (width, count) = (LEFT + WIDTH + RIGHT, panels.len() as f64);
    let height = HEADING + count * (ABOVE + HEIGHT) + BELOW;
    let (title, result) = (run.title(), result(run));
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
         height=\"{height}\" role=\"img\" aria-label=\"{0}: {1}\">\n<title>{0}: {1}</title>\n<style>\n{STYLE}</style>\n\
         <rect class=\"ground\" width=\"{width}\" height=\"{height}\"/>\n\
         <text class=\"title\" x=\"{LEFT}\" y=\"46\">{0}</text>\n<text class=\"soft\" x=\"{LEFT}\" y=\"78\">{1}</text>\n",
        escape(&title),
        escape(&result),
    );
    let (last, lines) = (
        panels::last_epoch(std::slice::from_ref(run)),
        panels::decision_lines(std::slice::from_ref(run)),
    );
    for (index, panel) in panels.iter().enumerate() {
        let top = HEADING + index as f64 * (ABOVE + HEIGHT) + ABOVE;
        svg += &heading(panel, top - 14.0);
        for (tick, label) in &panel.axis.ticks {
            let y = top + HEIGHT * (1.0 - panel.axis.position(*tick)) + 6.0;
            let x = LEFT - 10.0;
            let _ = writeln!(
                svg,
                "<text class=\"soft end\" x=\"{x}\" y=\"{y:.1}\">{}</text>",
                escape(label)
            );
        }
        let _ = write!(
            svg,
            "<rect class=\"frame\" x=\"{LEFT}\" y=\"{top}\" width=\"{WIDTH}\" height=\"{HEIGHT}\"/>\n\
             <svg x=\"{LEFT}\" y=\"{top}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" viewBox=\"0 0 {WIDTH} {HEIGHT}\">\n\
             {}</svg>\n",
            panel.drawing(last, &lines)
        );
    }
    let bottom = height - BELOW;
    for tick in epoch_ticks(last, 15.0) {
        let (x, y) = (LEFT + middle(tick, last), bottom + 24.0);
        let _ = writeln!(svg, "<text class=\"soft middle\" x=\"{x:.1}\" y=\"{y}\">{tick}</text>");
    }
    let (x, y) = (LEFT + WIDTH / 2.0, bottom + 50.0);
    let _ = writeln!(svg, "<text class=\"soft middle\" x=\"{x}\" y=\"{y}\">epoch</text>");
    Some(svg + "</svg>\n")
}

/// A panel's title, and beside it its legend.
fn heading(panel: &Panel, y: f64) -> String {
    let mut svg =
        format!("<text class=\"name\" x=\"{LEFT}\" y=\"{y}\">{}</text>\n", escape(panel.title));
    let mut x = LEFT + 120.0;
    if panel.axis.is_logarithmic() {
        let _ = writeln!(svg, "<text class=\"soft\" x=\"{x}\" y=\"{y}\">log scale</text>");
        x += 110.0;
    }
    for series in panel.series.iter().rev() {
        let (class, name) = (escape(&series.class), escape(&series.name));
        let (line, text) = (y - 6.0, x + 36.0);
        let _ = writeln!(svg, "<path class=\"line {class}\" d=\"M{x} {line}h28\"/>");
        let _ = writeln!(svg, "<text x=\"{text}\" y=\"{y}\">{name}</text>");
        x = text + text_width(&series.name) + 24.0;
    }
    svg
}

/// About how much room a text takes, in the usual size; hardly more in any font.
pub fn text_width(text: &str) -> f64 {
    10.8 * text.chars().count() as f64
}

/// The run's result in words.
fn result(run: &RunData) -> String {
    let last = run.epochs.last().map_or(0, |row| row.epoch);
    let percent = |name: &str, value: Option<(u32, f64)>| {
        value.map(|(epoch, share)| match epoch == last {
            true => format!("{name} {:.2} %", 100.0 * share),
            false => format!("{name} {:.2} % (epoch {epoch})", 100.0 * share),
        })
    };
    let epochs = if last == 1 { "epoch" } else { "epochs" };
    let parts = [
        percent("test accuracy", run.last(|row| row.test_accuracy)),
        percent("validation accuracy", run.last(|row| row.validation_accuracy)),
        Some(match run.finished() {
            true => format!("{last} {epochs}"),
            false => format!("{last} of {} epochs", run.planned().0),
        }),
        run.seconds().map(display_seconds),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(" · ")
}

/// Only what simple viewers know, and colours for dark pages for those that know more.
pub const STYLE: &str = "\
text { font: 18px system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', sans-serif; fill: #1d2329; }
.title { font-size: 28px; font-weight: 600; }
.name { font-size: 20px; font-weight: 600; }
.soft { fill: #5c6670; }
.end { text-anchor: end; }
.middle { text-anchor: middle; }
.ground { fill: #ffffff; }
.frame { fill: none; stroke: #c9cfd4; }
path { fill: none; }
.grid { stroke: #e6e9ec; }
.zero { stroke: #5c6670; stroke-width: 1.5; }
.line { stroke-width: 2.5; stroke-linejoin: round; }
.dots { stroke-width: 7; stroke-linecap: round; }
.mark { stroke: #6b747d; stroke-width: 1.5; stroke-dasharray: 6 4; }
.mark.other { stroke-dasharray: 1 4; }
.line.paper { stroke-width: 1.5; stroke-dasharray: 2 5; }
.c0 { stroke: #1f63c4; }
.c1 { stroke: #b8500a; }
.c2 { stroke: #0d7f56; }
.c3 { stroke: #8a3fc0; }
.c4 { stroke: #c4265f; }
.c5 { stroke: #8c6a00; }
.c6 { stroke: #0b7f95; }
.c7 { stroke: #6a5647; }
.paper { stroke: #8b949d; }
@media (prefers-color-scheme: dark) {
text { fill: #e4e8eb; }
.soft { fill: #9aa5ae; }
.ground { fill: #14171a; }
.frame { stroke: #3d454c; }
.grid { stroke: #2a3035; }
.zero { stroke: #9aa5ae; }
.mark { stroke: #a3adb5; }
.c0 { stroke: #6ea6f5; }
.c1 { stroke: #f39b55; }
.c2 { stroke: #46c795; }
.c3 { stroke: #bf90ea; }
.c4 { stroke: #f17fa6; }
.c5 { stroke: #d9b44a; }
.c6 { stroke: #52c3d6; }
.c7 { stroke: #bda58f; }
.paper { stroke: #7d8790; }
}
";
