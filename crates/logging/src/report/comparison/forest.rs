//! Forest plots: the difference of each arm from its base as a mark with its 95 % confidence interval, beside a line at
//! zero. In a page, and as a picture.

use std::fmt::Write;

use crescendo_training::comparison::{BatchNormStatistics, Difference};

use super::super::axis::Axis;
use super::super::html::escape;
use super::super::picture::{STYLE, text_width};
use super::ComparisonData;
use crate::comparison_table::points;

/// The two statistics, with their names in the legend and the colours of their marks.
const STATISTICS: [(BatchNormStatistics, &str, &str); 2] = [
    (BatchNormStatistics::Running, "running statistics of BatchNorm", "c0"),
    (BatchNormStatistics::Precise, "precise statistics", "c1"),
];

/// The arms of a comparison that are compared with its base.
struct Group {
    heading: String,
    arms: Vec<Arm>,
}

struct Arm {
    name: String,
    /// One for each of [`STATISTICS`].
    differences: [Option<Difference>; 2],
}

/// Where the parts of a plot lie. Units are those of the drawing, in which text is 18 high.
#[derive(Clone, Copy)]
struct Layout {
    width: f64,
    /// The room for names left of the plot; 0 where each has a line of its own above its marks.
    names: f64,
    ticks: f64,
}

const WIDE: f64 = 1120.0;
const NARROW: f64 = 480.0;
/// The height of a line of text, of a row of marks, and the room between two arms.
const LINE: f64 = 28.0;
const MARKS: f64 = 24.0;
const GAP: f64 = 12.0;
const BORDER: f64 = 8.0;
/// Half the width of the longest label of the axis.
const LABEL: f64 = 28.0;
/// The longest name that has room, in letters.
const MAX_NAME: usize = 30;

/// The forest plot of a comparison for its page, once for wide and once for narrow windows.
pub fn html(comparison: &ComparisonData) -> String {
    let base = &comparison.record.arms[0].name;
    let groups = [group(comparison, format!("against {base}"))];
    let label = format!("Forest plot. {}", in_words(&groups));
    [("wide", wide(&groups)), ("narrow", narrow())].into_iter().fold(
        String::new(),
        |html, (class, layout)| {
            let (body, height) = drawing(&groups, layout, 0.0);
            let width = layout.width;
            html + &format!(
                "<svg class=\"picture {class}\" viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"{}\">\n\
                 {body}</svg>\n",
                escape(&label)
            )
        },
    )
}

/// The forest plots of some comparisons as one picture: an SVG file, with one axis for all.
///
/// See the example of [`ComparisonData`].
pub fn forest_plot(comparisons: &[ComparisonData]) -> String {
    let heading = |one: &ComparisonData| match comparisons.len() {
        1 => format!("against {}", one.record.arms[0].name),
        _ => format!("{}, against {}", one.record.name, one.record.arms[0].name),
    };
    let groups: Vec<Group> = comparisons.iter().map(|one| group(one, heading(one))).collect();
    let title = match comparisons {
        [one] => {
            let ComparisonData { record, .. } = one;
            format!("{} on {}", record.name, record.data)
        }
        _ => "Differences of accuracy from the base".to_owned(),
    };
    let layout = wide(&groups);
    let (body, height) = drawing(&groups, layout, 56.0);
    let width = layout.width;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
         height=\"{height}\" role=\"img\">\n<title>{0}</title>\n<desc>{1}</desc>\n<style>\n{STYLE}</style>\n\
         <rect class=\"ground\" width=\"{width}\" height=\"{height}\"/>\n\
         <text class=\"title\" x=\"{BORDER}\" y=\"36\">{0}</text>\n{body}</svg>\n",
        escape(&title),
        escape(&in_words(&groups)),
    )
}

fn group(comparison: &ComparisonData, heading: String) -> Group {
    let arms = comparison.results.arms(&comparison.record);
    let arms = arms.iter().filter(|arm| !arm.is_base()).map(|arm| Arm {
        name: shortened(arm.name),
        differences: STATISTICS.map(|(statistics, ..)| arm.difference(statistics)),
    });
    Group { heading, arms: arms.collect() }
}

fn shortened(name: &str) -> String {
    match name.chars().count() {
        0..=MAX_NAME => name.to_owned(),
        _ => name.chars().take(MAX_NAME - 1).chain(['…']).collect(),
    }
}

fn wide(groups: &[Group]) -> Layout {
    let names = groups.iter().flat_map(|group| &group.arms).map(|arm| text_width(&arm.name));
    Layout { width: WIDE, names: names.fold(0.0, f64::max) + 2.0 * BORDER, ticks: 9.0 }
}

fn narrow() -> Layout {
    Layout { width: NARROW, names: 0.0, ticks: 5.0 }
}

/// The plot below `top`, as SVG, and where it ends.
fn drawing(groups: &[Group], layout: Layout, top: f64) -> (String, f64) {
    let all = || groups.iter().flat_map(|group| &group.arms).flat_map(|arm| arm.differences);
    let numbers = all().flatten().map(|one| text_width(&points(&one))).fold(0.0, f64::max);
    let (left, right) = (layout.names.max(LABEL), layout.width - numbers - 3.0 * BORDER);
    let axis = axis(all().flatten(), layout.ticks);
    let at = |points: f64| left + (right - left) * axis.position(points);
    let mut svg = String::new();
    let mut y = top + 22.0;
    let mut x = BORDER;
    for (_, name, class) in STATISTICS {
        svg += &mark(class, x + 8.0, y - 6.0);
        let _ = writeln!(svg, "<text x=\"{}\" y=\"{y}\">{name}</text>", x + 24.0);
        x += 24.0 + text_width(name) + 28.0;
        // In a narrow picture one below the other.
        if x + 24.0 + text_width(STATISTICS[1].1) > layout.width {
            (x, y) = (BORDER, y + LINE);
        }
    }
    for group in groups {
        y += LINE + GAP;
        // The name of the only base stands above its line.
        let (heading, width) = (escape(&group.heading), 1.2 * text_width(&group.heading));
        let x = match groups.len() {
            1 => (at(0.0) - width / 2.0).min(layout.width - BORDER - width).max(BORDER),
            _ => BORDER,
        };
        let _ = writeln!(svg, "<text class=\"name\" x=\"{x:.1}\" y=\"{y}\">{heading}</text>");
        y += GAP;
        let above = if layout.names > 0.0 { 0.0 } else { LINE };
        let bottom = y + group.arms.len() as f64 * (above + 2.0 * MARKS + GAP);
        for (tick, _) in &axis.ticks {
            let class = if *tick == 0.0 { "zero" } else { "grid" };
            let _ = writeln!(
                svg,
                "<path class=\"{class}\" d=\"M{:.1} {y:.1}V{bottom:.1}\"/>",
                at(*tick)
            );
        }
        for arm in &group.arms {
            y += GAP / 2.0 + above;
            let name = escape(&arm.name);
            let _ = match above > 0.0 {
                true => writeln!(svg, "<text x=\"{BORDER}\" y=\"{:.1}\">{name}</text>", y - 6.0),
                false => writeln!(
                    svg,
                    "<text class=\"end\" x=\"{:.1}\" y=\"{:.1}\">{name}</text>",
                    left - BORDER,
                    y + MARKS + 6.0
                ),
            };
            for ((_, statistics, class), difference) in STATISTICS.iter().zip(&arm.differences) {
                y += MARKS / 2.0;
                if let Some(difference) = difference {
                    let words = format!("{}, {statistics}: {}", arm.name, words(difference));
                    let _ = writeln!(svg, "<g><title>{}</title>", escape(&words));
                    if let Some((low, high)) = difference.interval() {
                        let (from, to) = (at(100.0 * low), at(100.0 * high));
                        let _ = writeln!(
                            svg,
                            "<path class=\"{class}\" stroke-width=\"3\" d=\"M{from:.1} {y:.1}H{to:.1}\"/>"
                        );
                    }
                    svg += &mark(class, at(100.0 * difference.mean), y);
                    let _ = writeln!(
                        svg,
                        "<text class=\"end\" x=\"{:.1}\" y=\"{:.1}\">{}</text></g>",
                        layout.width - BORDER,
                        y + 6.0,
                        points(difference)
                    );
                }
                y += MARKS / 2.0;
            }
            y += GAP / 2.0;
        }
    }
    y += 22.0;
    for (tick, label) in &axis.ticks {
        let sign = if *tick > 0.0 { "+" } else { "" };
        let _ = writeln!(
            svg,
            "<text class=\"soft middle\" x=\"{:.1}\" y=\"{y:.1}\">{sign}{label}</text>",
            at(*tick)
        );
    }
    y += LINE;
    let _ = writeln!(
        svg,
        "<text class=\"soft\" x=\"{left:.1}\" y=\"{y:.1}\">points of accuracy; the base is at 0</text>"
    );
    (svg, y + 14.0)
}

/// The axis around zero and all intervals, in points.
fn axis(differences: impl Iterator<Item = Difference>, ticks: f64) -> Axis {
    let (mut low, mut high) = (0.0_f64, 0.0_f64);
    for difference in differences {
        let (from, to) = difference.interval().unwrap_or((difference.mean, difference.mean));
        (low, high) = (low.min(100.0 * from), high.max(100.0 * to));
    }
    let room = (0.05 * (high - low)).max(0.25);
    Axis::linear_with(low - room, high + room, ticks)
}

/// The mark of a mean: round for running statistics, a square for precise ones.
fn mark(class: &str, x: f64, y: f64) -> String {
    let cap = if class == STATISTICS[0].2 { "round" } else { "square" };
    format!(
        "<path class=\"{class}\" stroke-width=\"10\" stroke-linecap=\"{cap}\" d=\"M{x:.1} {y:.1}h.1\"/>\n"
    )
}

/// A difference for a tooltip.
fn words(difference: &Difference) -> String {
    let mean = format!("{:+.2} points", 100.0 * difference.mean);
    let verdict = difference.verdict().name();
    match difference.interval() {
        Some((low, high)) => format!(
            "{mean}, 95 % interval from {:+.2} to {:+.2}, {verdict}",
            100.0 * low,
            100.0 * high
        ),
        None => format!("{mean} with one seed, {verdict}"),
    }
}

/// All that a plot shows, for those who do not see it.
fn in_words(groups: &[Group]) -> String {
    let mut text = Vec::new();
    for group in groups {
        let arms = group.arms.iter().map(|arm| {
            let shown = STATISTICS.iter().zip(&arm.differences);
            let shown = shown.filter_map(|((_, statistics, _), difference)| {
                Some(format!("{}, {statistics}", words(difference.as_ref()?)))
            });
            let shown: Vec<String> = shown.collect();
            match shown.is_empty() {
                true => format!("{}: no result yet", arm.name),
                false => format!("{}: {}", arm.name, shown.join("; ")),
            }
        });
        let arms: Vec<String> = arms.collect();
        text.push(format!("Differences {}: {}.", group.heading, arms.join(". ")));
    }
    text.join(" ")
}
