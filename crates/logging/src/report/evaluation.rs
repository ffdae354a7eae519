//! An evaluation as HTML: accuracy, confusion matrix, and the images that were misclassified most
//! confidently.

use std::fmt::Write;

use super::html::{escape, table};
use super::images::data_uri;
use crate::formats::evaluation_json::{EvaluationRecord, MisclassifiedImage};
use crescendo_data::ImageShape;

/// Rows and columns of an image.
const SIDE: usize = ImageShape::CIFAR.width;
/// With more classes, the confusion matrix would be unreadable.
const MAX_MATRIX_CLASSES: usize = 20;
/// Rows of the list that is shown instead.
const MAX_CONFUSIONS: usize = 20;

/// The section about an evaluation; `name` is the name of the image set.
pub fn section(name: &str, record: &EvaluationRecord) -> String {
    let images: u64 = record.confusion.iter().flatten().sum();
    let loss = record.loss.map_or(String::new(), |loss| format!(", loss {loss:.4}"));
    let views = record.views.filter(|views| *views > 1);
    let views =
        views.map_or(String::new(), |views| format!(", averaged over {views} views of each"));
    let balanced = record
        .balanced_accuracy
        .map_or(String::new(), |accuracy| format!(", balanced accuracy {:.2}%", 100.0 * accuracy));
    let mut html = format!(
        "<section>\n<h2>{} after epoch {}</h2>\n\
         <p>Accuracy {:.2}% on {images} images{views}{loss}{balanced}.</p>\n",
        escape(name),
        record.epoch,
        100.0 * record.accuracy
    );
    html +=
        &if record.classes.len() <= MAX_MATRIX_CLASSES { matrix(record) } else { confused(record) };
    if !record.mistakes.is_empty() {
        html += "<h3>Most confident misclassifications</h3>\n\
                 <p class=\"note\">Below each image: its label, the prediction with its \
                 probability, and the image's index.</p>\n<div class=\"mistakes\">\n";
        record.mistakes.iter().for_each(|image| html += &misclassified(record, image));
        html += "</div>\n";
    }
    html + "</section>\n"
}

/// Each class's accuracy and the confusion matrix, coloured by each cell's share of its row.
fn matrix(record: &EvaluationRecord) -> String {
    let mut html = String::from(
        "<p class=\"note\">Confusion matrix. One row per class: its accuracy, and how many of its \
         images were predicted as each class.</p>\n<div class=\"scroll\">\n\
         <table class=\"matrix\">\n<thead><tr><td></td>\
         <th scope=\"col\"><span>accuracy</span></th>",
    );
    for class in &record.classes {
        let _ = write!(html, "<th scope=\"col\"><span>{}</span></th>", escape(class));
    }
    html += "</tr></thead>\n<tbody>\n";
    let wrong = (0..record.classes.len()).flat_map(|row| shares(record, row, false));
    let worst = wrong.fold(0.0, f64::max);
    for (row, class) in record.classes.iter().enumerate() {
        let counts = &record.confusion[row];
        let total: u64 = counts.iter().sum();
        let accuracy = accuracy(record, row);
        let _ = write!(html, "<tr><th scope=\"row\">{}</th><td>{accuracy}</td>", escape(class));
        for (column, (count, share)) in counts.iter().zip(shares(record, row, true)).enumerate() {
            // Errors are coloured relative to the largest one, or those of a good network would be
            // invisible.
            let (kind, heat) =
                if row == column { ("right", share) } else { ("wrong", share / worst.max(1e-9)) };
            let prediction = escape(&record.classes[column]);
            let _ = write!(
                html,
                "<td class=\"{kind}\" style=\"--heat:{heat:.2}\" title=\"{count} of {total} \
                 images of {} predicted as {prediction}\">{count}</td>",
                escape(class)
            );
        }
        html += "</tr>\n";
    }
    html + "</tbody>\n</table>\n</div>\n"
}

/// A class's accuracy.
fn accuracy(record: &EvaluationRecord, class: usize) -> String {
    let counts = &record.confusion[class];
    match counts.iter().sum::<u64>() {
        0 => "–".to_owned(),
        total => format!("{:.1}%", 100.0 * counts[class] as f64 / total as f64),
    }
}

/// The share of each prediction among a class's images; the right one counts as 0 unless
/// `with_right`.
fn shares(record: &EvaluationRecord, row: usize, with_right: bool) -> impl Iterator<Item = f64> {
    let counts = &record.confusion[row];
    let total = counts.iter().sum::<u64>().max(1) as f64;
    let share = move |(column, count): (usize, &u64)| {
        if column == row && !with_right { 0.0 } else { *count as f64 / total }
    };
    counts.iter().enumerate().map(share)
}

/// The most frequent confusions and each class's accuracy, for many classes.
fn confused(record: &EvaluationRecord) -> String {
    let mut pairs = Vec::new();
    for (label, predictions) in record.confusion.iter().enumerate() {
        let wrong =
            predictions.iter().enumerate().filter(|(index, count)| *index != label && **count > 0);
        pairs.extend(wrong.map(|(prediction, count)| (*count, label, prediction)));
    }
    pairs.sort_by_key(|&(count, label, prediction)| (std::cmp::Reverse(count), label, prediction));
    let rows = pairs.into_iter().take(MAX_CONFUSIONS).map(|(count, label, prediction)| {
        let name = |class: usize| escape(&record.classes[class]).into_owned();
        vec![count.to_string(), name(label), name(prediction)]
    });
    let confusions = table("plain", &["images", "label", "prediction"], rows);
    let rows = record.classes.iter().enumerate();
    let rows = rows.map(|(row, class)| vec![escape(class).into_owned(), accuracy(record, row)]);
    let classes = table("plain", &["class", "accuracy"], rows);
    format!(
        "{confusions}<details>\n<summary>Accuracy of each class</summary>\n{classes}</details>\n"
    )
}

fn misclassified(record: &EvaluationRecord, image: &MisclassifiedImage) -> String {
    let (label, prediction) =
        (escape(&record.classes[image.label]), escape(&record.classes[image.answer]));
    let Some(uri) = data_uri(&image.image, SIDE, SIDE) else { return String::new() };
    format!(
        "<figure><img src=\"{uri}\" alt=\"image {index}: {label}\" width=\"96\" height=\"96\">\
         <figcaption><b>{label}</b><span>{prediction} {:.1}%</span><small>no. {index}</small>\
         </figcaption></figure>\n",
        100.0 * image.probability,
        index = image.index,
    )
}
