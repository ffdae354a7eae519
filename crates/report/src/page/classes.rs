//! An evaluation as HTML: classes, what is taken for what, and the images most surely wrong.

use std::fmt::Write;

use super::evaluations::{Entry, Wrong};
use super::html::{escape, table};
use super::images::data_uri;

/// More classes are no table that anyone can read.
const MOST_CLASSES: usize = 20;
/// Rows of the list that stands in place of it.
const MOST_CONFUSED: usize = 20;

/// The section about an evaluation of the images called `name`.
pub fn section(name: &str, entry: &Entry) -> String {
    let images: u64 = entry.confusion.iter().flatten().sum();
    let loss = entry.loss.map_or(String::new(), |loss| format!(", loss {loss:.4}"));
    let views = entry.views.filter(|views| *views > 1);
    let views =
        views.map_or(String::new(), |views| format!(", by the mean of {views} views of each"));
    let mut html = format!(
        "<section>\n<h2>{} after epoch {}</h2>\n<p>{:.2}% of {images} images are right{views}{loss}.</p>\n",
        escape(name),
        entry.epoch,
        100.0 * entry.accuracy
    );
    html += &if entry.classes.len() <= MOST_CLASSES { matrix(entry) } else { confused(entry) };
    if !entry.mistakes.is_empty() {
        html += "<h3>Most confidently wrong</h3>\n<p class=\"note\">Above what an image is; below it the \
                 answer, and how sure it was.</p>\n<div class=\"mistakes\">\n";
        entry.mistakes.iter().for_each(|wrong| html += &mistake(entry, wrong));
        html += "</div>\n";
    }
    html + "</section>\n"
}

/// Each class's accuracy and the confusion matrix, coloured by share of the row.
fn matrix(entry: &Entry) -> String {
    let mut html = String::from(
        "<p class=\"note\">A row for each class: its accuracy, and how many of its images got which \
         answer.</p>\n<div class=\"scroll\">\n<table class=\"matrix\">\n<thead><tr><td></td>\
         <th scope=\"col\"><span>accuracy</span></th>",
    );
    for class in &entry.classes {
        let _ = write!(html, "<th scope=\"col\"><span>{}</span></th>", escape(class));
    }
    html += "</tr></thead>\n<tbody>\n";
    let wrong = (0..entry.classes.len()).flat_map(|row| shares(entry, row, false));
    let worst = wrong.fold(0.0, f64::max);
    for (row, class) in entry.classes.iter().enumerate() {
        let counts = &entry.confusion[row];
        let total: u64 = counts.iter().sum();
        let accuracy = accuracy(entry, row);
        let _ = write!(html, "<tr><th scope=\"row\">{}</th><td>{accuracy}</td>", escape(class));
        for (column, (count, share)) in counts.iter().zip(shares(entry, row, true)).enumerate() {
            // Few answers are wrong in a good network; the worst have the full colour all the same.
            let (kind, heat) =
                if row == column { ("right", share) } else { ("wrong", share / worst.max(1e-9)) };
            let answer = escape(&entry.classes[column]);
            let _ = write!(
                html,
                "<td class=\"{kind}\" style=\"--heat:{heat:.2}\" title=\"{count} of {total} \
                 {}: {answer}\">{count}</td>",
                escape(class)
            );
        }
        html += "</tr>\n";
    }
    html + "</tbody>\n</table>\n</div>\n"
}

/// A class's accuracy.
fn accuracy(entry: &Entry, class: usize) -> String {
    let counts = &entry.confusion[class];
    match counts.iter().sum::<u64>() {
        0 => "–".to_owned(),
        total => format!("{:.1}%", 100.0 * counts[class] as f64 / total as f64),
    }
}

/// The answers' shares of a class's images, with the right answer or 0 in its place.
fn shares(entry: &Entry, row: usize, with_right: bool) -> impl Iterator<Item = f64> {
    let counts = &entry.confusion[row];
    let total = counts.iter().sum::<u64>().max(1) as f64;
    let share = move |(column, count): (usize, &u64)| {
        if column == row && !with_right { 0.0 } else { *count as f64 / total }
    };
    counts.iter().enumerate().map(share)
}

/// Each class's accuracy, and what is most often taken for what, for many classes.
fn confused(entry: &Entry) -> String {
    let mut pairs = Vec::new();
    for (label, answers) in entry.confusion.iter().enumerate() {
        let wrong =
            answers.iter().enumerate().filter(|(answer, count)| *answer != label && **count > 0);
        pairs.extend(wrong.map(|(answer, count)| (*count, label, answer)));
    }
    pairs.sort_by_key(|&(count, label, answer)| (std::cmp::Reverse(count), label, answer));
    let rows = pairs.into_iter().take(MOST_CONFUSED).map(|(count, label, answer)| {
        let name = |class: usize| escape(&entry.classes[class]).into_owned();
        vec![count.to_string(), name(label), name(answer)]
    });
    let confusions = table("plain", &["images", "of class", "got the answer"], rows);
    let rows = entry.classes.iter().enumerate();
    let rows = rows.map(|(row, class)| vec![escape(class).into_owned(), accuracy(entry, row)]);
    let classes = table("plain", &["class", "accuracy"], rows);
    format!(
        "{confusions}<details>\n<summary>Accuracy of each class</summary>\n{classes}</details>\n"
    )
}

fn mistake(entry: &Entry, wrong: &Wrong) -> String {
    let (label, answer) =
        (escape(&entry.classes[wrong.label]), escape(&entry.classes[wrong.answer]));
    let Some(image) = data_uri(&wrong.image) else { return String::new() };
    format!(
        "<figure><img src=\"{image}\" alt=\"image {index}: {label}\" width=\"96\" height=\"96\">\
         <figcaption><b>{label}</b><span>{answer} {:.1}%</span><small>no. {index}</small>\
         </figcaption></figure>\n",
        100.0 * wrong.probability,
        index = wrong.index,
    )
}
