//! Curves over epochs, drawn as SVG.
//!
//! A drawing is stretched to the available width. Lines keep their thickness, and all text is HTML
//! outside the SVG, so its size is the same on every screen. Each epoch takes a column: its values
//! are drawn in the middle of the column, and a value that changes between two epochs changes at
//! the border.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::axis::{Axis, epoch_ticks};
use super::html::escape;

/// Values over epochs.
pub struct Series {
    /// Its name in the legend and beside its values.
    pub name: String,
    /// CSS classes, for colour and dashes.
    pub class: String,
    /// Epochs and their values, in order.
    pub points: Vec<(u32, f64)>,
    /// A band around them: the lowest and the highest value at each of their epochs. Empty if there is none.
    pub band: Vec<(u32, f64, f64)>,
    /// How the points are joined.
    pub join: Join,
}

/// How the points of a series are joined.
#[derive(Clone, Copy, PartialEq)]
pub enum Join {
    /// By straight lines; with dots if the points are few.
    Lines,
    /// By straight lines, always with dots: the values between them are unknown.
    Dots,
    /// By steps, for values that hold for a whole epoch.
    Steps,
}

/// A vertical line at the beginning of an epoch.
pub struct VerticalLine {
    /// The epoch.
    pub epoch: u32,
    /// CSS classes.
    pub class: String,
    /// What changes there, and why.
    pub title: String,
}

/// A figure with one vertical axis.
pub struct Panel {
    /// Its heading.
    pub title: &'static str,
    /// A CSS class, for its height.
    pub class: &'static str,
    /// The vertical axis.
    pub axis: Axis,
    /// Formats values that are shown as numbers.
    pub format: fn(f64) -> String,
    /// The curves; the first one is drawn first, below the others.
    pub series: Vec<Series>,
    /// Whether it has a legend of its own.
    pub legend: bool,
}

/// Width and height of a drawing in its own units.
pub const WIDTH: f64 = 1000.0;
pub const HEIGHT: f64 = 300.0;
/// With at most this many points, each has a dot.
const MAX_DOTS: usize = 40;
/// The most points of a line; a screen cannot show more.
const MAX_POINTS: usize = 2000;
/// The most columns with values, and the most values of a column.
const MAX_COLUMNS: usize = 400;
const MAX_LINES: usize = 12;

impl Panel {
    /// The figure as HTML, for epochs 1 to `last`.
    pub fn html(&self, last: u32, lines: &[VerticalLine]) -> String {
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
            let top = 100.0 * (1.0 - self.axis.position(*tick));
            let _ = write!(html, "<span style=\"top:{top:.2}%\">{}</span>", escape(label));
        }
        html += "</div>\n";
        let _ = writeln!(
            html,
            "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" preserveAspectRatio=\"none\" role=\"img\" \
             aria-label=\"{} over epochs\">\n{}</svg>",
            escape(self.title),
            self.drawing(last, lines)
        );
        html += &self.values(last, lines);
        html += "<div class=\"x\" aria-hidden=\"true\">";
        for tick in epoch_ticks(last, 10.0) {
            let left = 100.0 * middle(tick, last) / WIDTH;
            let _ = write!(html, "<span style=\"left:{left:.2}%\">{tick}</span>");
        }
        html += "</div>\n</div>\n</figure>\n";
        html
    }

    /// The grid, the curves and the vertical lines, in a drawing of [`WIDTH`] and [`HEIGHT`].
    pub fn drawing(&self, last: u32, lines: &[VerticalLine]) -> String {
        let mut svg = String::from("<path class=\"grid\" d=\"");
        for (tick, _) in &self.axis.ticks {
            let _ = write!(svg, "M0 {}H{WIDTH}", short(self.y(*tick)));
        }
        svg += "\"/>\n";
        for series in &self.series {
            svg += &self.band(series, last);
        }
        // A point by itself, such as a test at the end, must not lie below a curve that ends there.
        let (single, curves): (Vec<_>, Vec<_>) =
            self.series.iter().partition(|series| series.points.len() == 1);
        for series in curves.into_iter().chain(single) {
            svg += &self.series(series, last);
        }
        for line in lines.iter().filter(|line| line.epoch <= last) {
            let (x, class) = (short(left(line.epoch, last)), &line.class);
            let _ = writeln!(svg, "<path class=\"mark {class}\" d=\"M{x} 0V{HEIGHT}\"/>");
        }
        svg
    }

    /// A band, from the first epoch to the last along its high values and back along its low ones.
    fn band(&self, series: &Series, last: u32) -> String {
        let (mut high, mut low) = (Vec::new(), Vec::new());
        for &(epoch, from, to) in series.band.iter().filter(|(epoch, ..)| *epoch <= last) {
            let xs = match series.join {
                Join::Steps => vec![left(epoch, last), left(epoch.saturating_add(1), last)],
                _ => vec![middle(epoch, last)],
            };
            for x in xs {
                high.push(format!("{} {}", short(x), short(self.y(to))));
                low.push(format!("{} {}", short(x), short(self.y(from))));
            }
        }
        if high == low {
            return String::new();
        }
        let corners: Vec<String> = high.into_iter().chain(low.into_iter().rev()).collect();
        let class = escape(&series.class);
        format!("<path class=\"band {class}\" d=\"M{}Z\"/>\n", corners.join("L"))
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
                    // An unchanged value continues the horizontal line.
                    _ if points[index - 1].1 == *value => Ok(()),
                    _ => write!(line, "H{x}V{y}"),
                };
            }
            if let Some((epoch, _)) = points.last() {
                let _ = write!(line, "H{}", short(left(epoch.saturating_add(1), last)));
            }
        } else {
            let stride = points.len().div_ceil(MAX_POINTS).max(1);
            let drawn = points.iter().enumerate();
            let drawn = drawn.filter(|(i, _)| i % stride == 0 || i + 1 == points.len());
            for (_, (epoch, value)) in drawn {
                let (x, y) = (short(middle(*epoch, last)), short(self.y(*value)));
                let _ = write!(line, "{}{x} {y}", if line.is_empty() { 'M' } else { 'L' });
                // A line of length zero with round ends is a dot, however the drawing is stretched.
                if *join == Join::Dots || points.len() <= MAX_DOTS {
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

    /// A column for every epoch with a value, which shows the epoch's values and changes while it is pointed at, or
    /// has the focus: the columns are radio buttons, among which the arrow keys move.
    fn values(&self, last: u32, lines: &[VerticalLine]) -> String {
        let mut epochs: BTreeMap<u32, Vec<String>> = BTreeMap::new();
        for series in self.series.iter().rev() {
            for (epoch, value) in series.points.iter().filter(|(epoch, _)| *epoch <= last) {
                let values = epochs.entry(*epoch).or_default();
                let mut text = format!("{} {}", series.name, (self.format)(*value));
                let band = series.band.iter().find(|(at, ..)| at == epoch);
                if let Some((_, low, high)) = band.filter(|(_, low, high)| low < high) {
                    text += &format!(" ({} to {})", (self.format)(*low), (self.format)(*high));
                }
                values.push(text);
            }
        }
        let stride = epochs.len().div_ceil(MAX_COLUMNS).max(1);
        let mut html = format!(
            "<div class=\"values\" role=\"radiogroup\" aria-label=\"{}: the values of an epoch\">\n",
            escape(self.title)
        );
        for (epoch, mut values) in epochs.into_iter().step_by(stride) {
            if values.len() > MAX_LINES {
                let more = values.len() - MAX_LINES;
                values.truncate(MAX_LINES);
                values.push(format!("and {more} more"));
            }
            let changes = lines.iter().filter(|line| line.epoch == epoch).take(MAX_LINES);
            values.extend(changes.map(|line| line.title.clone()));
            let (from, to) = (left(epoch, last), left(epoch.saturating_add(1), last));
            // Where the values lie beside the column.
            let side = if from + to > WIDTH { "before" } else { "after" };
            let _ = writeln!(
                html,
                "<label class=\"{side}\" style=\"left:{:.2}%;width:{:.2}%\"><input type=\"radio\" name=\"{}\" \
                 aria-label=\"Epoch {epoch}: {}\"><span>Epoch {epoch}\n{}</span></label>",
                100.0 * from / WIDTH,
                100.0 * (to - from) / WIDTH,
                escape(self.title),
                escape(&values.join(", ").replace('\n', ": ")),
                escape(&values.join("\n")),
            );
        }
        html + "</div>\n"
    }

    fn y(&self, value: f64) -> f64 {
        HEIGHT * (1.0 - self.axis.position(value))
    }
}

/// A legend; each entry is a CSS class and a name.
pub fn legend<'a>(entries: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let mut html = String::from("<span class=\"legend\">");
    for (class, name) in entries {
        let (class, name) = (escape(class), escape(name));
        let _ = write!(html, "<span class=\"key {class}\"><i></i>{name}</span>");
    }
    html + "</span>"
}

/// The left border of an epoch's column.
fn left(epoch: u32, last: u32) -> f64 {
    WIDTH * (f64::from(epoch) - 1.0) / f64::from(last.max(1))
}

/// The middle of an epoch's column.
pub fn middle(epoch: u32, last: u32) -> f64 {
    WIDTH * (f64::from(epoch) - 0.5) / f64::from(last.max(1))
}

/// A coordinate with one decimal, more cannot be seen.
fn short(number: f64) -> String {
    let text = format!("{number:.1}");
    text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn panel(join: Join, points: &[(u32, f64)]) -> Panel {
        let (name, class) = ("a <b>".to_owned(), "c0".to_owned());
        let series = vec![Series { name, class, points: points.to_vec(), band: Vec::new(), join }];
        let (axis, format) = (Axis::linear(0.0, 10.0), |value| format!("{value:.2}"));
        Panel { title: "Loss & more", class: "tall", axis, format, series, legend: true }
    }

    #[test]
    fn a_line_goes_through_the_middles_of_its_columns() {
        let html = panel(Join::Lines, &[(1, 10.0), (2, 5.0), (3, 0.0)]).html(4, &[]);
        assert!(html.contains("class=\"line c0\" d=\"M125 0L375 150L625 300\""), "{html}");
        assert!(html.contains("class=\"dots c0\" d=\"M125 0h0M375 150h0M625 300h0\""), "{html}");
        assert!(html.contains("<span>Epoch 2\na &lt;b&gt; 5.00</span>"), "{html}");
        assert!(html.contains("style=\"left:25.00%;width:25.00%\""), "{html}");
        assert!(html.contains("aria-label=\"Epoch 2: a &lt;b&gt; 5.00\""), "{html}");
        assert!(html.contains("Loss &amp; more") && !html.contains("<b>"), "{html}");
    }

    #[test]
    fn steps_change_at_the_borders_of_columns() {
        let html = panel(Join::Steps, &[(1, 5.0), (2, 5.0), (3, 10.0)]).html(4, &[]);
        assert!(html.contains("class=\"line c0\" d=\"M0 150H500V0H750\""), "{html}");
    }

    #[test]
    fn changes_are_told_with_the_values_and_nothing_lies_beyond_the_last_epoch() {
        let line = |epoch| VerticalLine {
            epoch,
            class: "grow".into(),
            title: "larger\nbecause \"<".into(),
        };
        let html = panel(Join::Lines, &[(3, 1.0), (9, 2.0)]).html(4, &[line(3), line(5)]);
        assert_eq!(html.matches("<path class=\"mark grow\" d=\"M500 0V300\"/>").count(), 1);
        assert_eq!(html.matches("class=\"mark").count(), 1);
        assert!(html.contains("1.00\nlarger\nbecause &quot;&lt;</span>"), "{html}");
        assert!(html.contains("1.00, larger: because &quot;&lt;\">"), "{html}");
        assert!(!html.contains("Epoch 9"), "{html}");
    }

    #[test]
    fn long_runs_have_short_reports() {
        let points: Vec<(u32, f64)> = (1..=100_000).map(|epoch| (epoch, 1.0)).collect();
        let html = panel(Join::Lines, &points).html(100_000, &[]);
        assert!(html.len() < 200_000, "{}", html.len());
        assert!(html.contains("L1000 270\""), "the last point is drawn");
    }
}
