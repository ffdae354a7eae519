//! Curves over epochs, drawn as SVG.
//!
//! A drawing is stretched to the width there is; lines keep their thickness, and all text stands
//! beside it as HTML, so that it is as large on a telephone as on a desk. An epoch takes a column:
//! its numbers lie in the middle, and what changes between two epochs changes on the border.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::axis::{Axis, epoch_ticks};
use super::html::escape;

/// Numbers over epochs.
pub struct Series {
    /// What the legend and the tooltips call it.
    pub name: String,
    /// Classes of the style sheet, for colour and dashes.
    pub class: String,
    /// Epochs with their numbers, in order.
    pub points: Vec<(u32, f64)>,
    /// How they are joined.
    pub join: Join,
}

/// How the points of a series are joined.
#[derive(Clone, Copy, PartialEq)]
pub enum Join {
    /// By straight lines, with a dot at each where they are few.
    Lines,
    /// By straight lines, with a dot at each: there is nothing known between them.
    Dots,
    /// By steps, as what holds for a whole epoch.
    Steps,
}

/// A vertical line at the beginning of an epoch.
pub struct Mark {
    /// The epoch.
    pub epoch: u32,
    /// A class of the style sheet.
    pub class: String,
    /// What it stands for.
    pub title: String,
}

/// A figure with one vertical axis.
pub struct Panel {
    /// Its heading.
    pub title: &'static str,
    /// A class of the style sheet, for its height.
    pub class: &'static str,
    /// The vertical axis.
    pub axis: Axis,
    /// How tooltips write its numbers.
    pub format: fn(f64) -> String,
    /// What is drawn; the first lies below.
    pub series: Vec<Series>,
    /// Whether it needs a legend of its own.
    pub legend: bool,
}

/// Width and height of a drawing in its own units.
const WIDTH: f64 = 1000.0;
const HEIGHT: f64 = 300.0;
/// Where points are fewer, each has a dot.
const FEW: usize = 40;
/// Points of a line: a screen cannot show more.
const MOST_POINTS: usize = 2000;
/// Columns with tooltips, and lines in one.
const MOST_COLUMNS: usize = 400;
const MOST_LINES: usize = 12;

impl Panel {
    /// The figure as HTML, for epochs 1 to `last`.
    pub fn html(&self, last: u32, marks: &[Mark]) -> String {
        let mut html = format!("<figure class=\"panel {}\">\n<figcaption>", self.class);
        let _ = write!(html, "<h3>{}</h3>", escape(self.title));
        if self.axis.is_logarithmic() {
            html += "<small>log scale</small>";
        }
        if self.legend {
            html += &legend(self.series.iter().rev().map(|one| (&one.class[..], &one.name[..])));
        }
        html += "</figcaption>\n<div class=\"plot\">\n<div class=\"y\" aria-hidden=\"true\">";
        for (tick, label) in &self.axis.ticks {
            let top = 100.0 * (1.0 - self.axis.place(*tick));
            let _ = write!(html, "<span style=\"top:{top:.2}%\">{}</span>", escape(label));
        }
        html += "</div>\n";
        html += &self.svg(last, marks);
        html += "<div class=\"x\" aria-hidden=\"true\">";
        for tick in epoch_ticks(last, 10.0) {
            let left = 100.0 * middle(tick, last) / WIDTH;
            let _ = write!(html, "<span style=\"left:{left:.2}%\">{tick}</span>");
        }
        html += "</div>\n</div>\n</figure>\n";
        html
    }

    fn svg(&self, last: u32, marks: &[Mark]) -> String {
        let mut svg = format!(
            "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" preserveAspectRatio=\"none\" role=\"img\" \
             aria-label=\"{} over epochs\">\n<path class=\"grid\" d=\"",
            escape(self.title)
        );
        for (tick, _) in &self.axis.ticks {
            let _ = write!(svg, "M0 {}H{WIDTH}", short(self.y(*tick)));
        }
        svg += "\"/>\n";
        for series in &self.series {
            svg += &self.series(series, last);
        }
        svg += &self.columns(last);
        for mark in marks.iter().filter(|mark| mark.epoch <= last) {
            let (x, class) = (short(left(mark.epoch, last)), &mark.class);
            let title = escape(&mark.title);
            let _ = writeln!(
                svg,
                "<g class=\"mark {class}\"><title>{title}</title><path class=\"near\" \
                 d=\"M{x} 0V{HEIGHT}\"/><path d=\"M{x} 0V{HEIGHT}\"/></g>"
            );
        }
        svg + "</svg>\n"
    }

    fn series(&self, series: &Series, last: u32) -> String {
        let Series { class, points, join, .. } = series;
        let points: Vec<(u32, f64)> =
            points.iter().copied().filter(|(epoch, _)| *epoch <= last).collect();
        let mut svg = String::new();
        let (mut line, mut dots) = (String::new(), String::new());
        if *join == Join::Steps {
            for (index, (epoch, value)) in points.iter().enumerate() {
                let (x, y) = (short(left(*epoch, last)), short(self.y(*value)));
                let _ = match index {
                    0 => write!(line, "M{x} {y}"),
                    // A level goes on to where the next one begins.
                    _ if points[index - 1].1 == *value => Ok(()),
                    _ => write!(line, "H{x}V{y}"),
                };
            }
            if let Some((epoch, _)) = points.last() {
                let _ = write!(line, "H{}", short(left(epoch.saturating_add(1), last)));
            }
        } else {
            let stride = points.len().div_ceil(MOST_POINTS).max(1);
            let drawn = points.iter().enumerate();
            let drawn = drawn.filter(|(i, _)| i % stride == 0 || i + 1 == points.len());
            for (_, (epoch, value)) in drawn {
                let (x, y) = (short(middle(*epoch, last)), short(self.y(*value)));
                let _ = write!(line, "{}{x} {y}", if line.is_empty() { 'M' } else { 'L' });
                // A line without length and with round ends is a dot, however the drawing is stretched.
                if *join == Join::Dots || points.len() <= FEW {
                    let _ = write!(dots, "M{x} {y}h0");
                }
            }
        }
        for (kind, path) in [("line", line), ("dots", dots)] {
            if !path.is_empty() {
                let _ = writeln!(svg, "<path class=\"{kind} {}\" d=\"{path}\"/>", escape(class));
            }
        }
        svg
    }

    /// A column for every epoch with a number, which says all of its numbers.
    fn columns(&self, last: u32) -> String {
        let mut lines: BTreeMap<u32, Vec<String>> = BTreeMap::new();
        for series in self.series.iter().rev() {
            for (epoch, value) in series.points.iter().filter(|(epoch, _)| *epoch <= last) {
                let lines = lines.entry(*epoch).or_default();
                lines.push(format!("{} {}", series.name, (self.format)(*value)));
            }
        }
        let stride = lines.len().div_ceil(MOST_COLUMNS).max(1);
        let mut svg = String::from("<g class=\"columns\">\n");
        for (epoch, mut lines) in lines.into_iter().step_by(stride) {
            let (from, to) = (left(epoch, last), left(epoch.saturating_add(1), last));
            if lines.len() > MOST_LINES {
                let more = lines.len() - MOST_LINES;
                lines.truncate(MOST_LINES);
                lines.push(format!("and {more} more"));
            }
            let _ = writeln!(
                svg,
                "<rect x=\"{}\" width=\"{}\" height=\"{HEIGHT}\"><title>Epoch {epoch}\n{}</title></rect>",
                short(from),
                short(to - from),
                escape(&lines.join("\n"))
            );
        }
        svg + "</g>\n"
    }

    fn y(&self, value: f64) -> f64 {
        HEIGHT * (1.0 - self.axis.place(value))
    }
}

/// A legend of classes with names.
pub fn legend<'a>(entries: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let mut html = String::from("<span class=\"legend\">");
    for (class, name) in entries {
        let (class, name) = (escape(class), escape(name));
        let _ = write!(html, "<span class=\"key {class}\"><i></i>{name}</span>");
    }
    html + "</span>"
}

/// Where an epoch's column begins.
fn left(epoch: u32, last: u32) -> f64 {
    WIDTH * (f64::from(epoch) - 1.0) / f64::from(last.max(1))
}

/// The middle of its column.
fn middle(epoch: u32, last: u32) -> f64 {
    WIDTH * (f64::from(epoch) - 0.5) / f64::from(last.max(1))
}

/// A coordinate with what can be seen of its digits.
fn short(number: f64) -> String {
    let text = format!("{number:.1}");
    text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn panel(join: Join, points: &[(u32, f64)]) -> Panel {
        let (name, class) = ("a <b>".to_owned(), "c0".to_owned());
        let series = vec![Series { name, class, points: points.to_vec(), join }];
        let (axis, format) = (Axis::linear(0.0, 10.0), |value| format!("{value:.2}"));
        Panel { title: "Loss & more", class: "tall", axis, format, series, legend: true }
    }

    #[test]
    fn a_line_goes_through_the_middles_of_its_columns() {
        let html = panel(Join::Lines, &[(1, 10.0), (2, 5.0), (3, 0.0)]).html(4, &[]);
        assert!(html.contains("class=\"line c0\" d=\"M125 0L375 150L625 300\""), "{html}");
        assert!(html.contains("class=\"dots c0\" d=\"M125 0h0M375 150h0M625 300h0\""), "{html}");
        assert!(html.contains("<title>Epoch 2\na &lt;b&gt; 5.00</title>"), "{html}");
        assert!(html.contains("Loss &amp; more") && !html.contains("<b>"), "{html}");
    }

    #[test]
    fn steps_change_on_the_borders_of_columns() {
        let html = panel(Join::Steps, &[(1, 5.0), (2, 5.0), (3, 10.0)]).html(4, &[]);
        assert!(html.contains("class=\"line c0\" d=\"M0 150H500V0H750\""), "{html}");
    }

    #[test]
    fn marks_say_why_and_nothing_lies_beyond_the_last_epoch() {
        let mark = |epoch| Mark { epoch, class: "grow".into(), title: "because \"<".into() };
        let html = panel(Join::Lines, &[(1, 1.0), (9, 2.0)]).html(4, &[mark(3), mark(5)]);
        assert_eq!(html.matches("<g class=\"mark grow\">").count(), 1);
        assert!(html.contains("<title>because &quot;&lt;</title>") && html.contains("M500 0V300"));
        assert!(!html.contains("Epoch 9"), "{html}");
    }

    #[test]
    fn long_runs_give_no_long_pages() {
        let points: Vec<(u32, f64)> = (1..=100_000).map(|epoch| (epoch, 1.0)).collect();
        let html = panel(Join::Lines, &points).html(100_000, &[]);
        assert!(html.len() < 150_000, "{}", html.len());
        assert!(html.contains("L1000 270\""), "the last point is drawn");
    }
}
