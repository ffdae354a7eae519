//! An evaluation as HTML: accuracy, confusion matrix, calibration, each class, and the images that were
//! misclassified most confidently.

use std::fmt::Write;

use crescendo_data::ImageShape;
use crescendo_training::class_scores;

use super::html::{escape, table};
use super::images::data_uri;
use super::reliability;
use crate::confusions::{MAX_MATRIX_CLASSES, most_frequent};
use crate::formats::evaluation_json::{EvaluationRecord, MisclassifiedImage};

/// Rows and columns of an image.
const SIDE: usize = ImageShape::CIFAR.width;

/// The section about an evaluation; `name` is the name of the image set.
pub fn section(name: &str, record: &EvaluationRecord) -> String {
    let has_matrix = record.classes.len() <= MAX_MATRIX_CLASSES;
    let mut html = format!(
        "<section>\n<h2>{} after epoch {}</h2>\n<p>{}</p>\n",
        escape(name),
        record.epoch,
        summary(record)
    );
    html += &if has_matrix { matrix(record) } else { confused(record) };
    let classes = classes(record);
    html += &match has_matrix {
        true => format!("<h3>Classes</h3>\n{classes}"),
        false => format!(
            "<details>\n<summary>Precision and recall of each class</summary>\n{classes}</details>\n"
        ),
    };
    html += &reliability::figure(record);
    if !record.mistakes.is_empty() {
        let named = record.mistakes.iter().any(|image| image.file.is_some());
        let which = if named { "file" } else { "index" };
        let _ = write!(
            html,
            "<h3>Most confident misclassifications</h3>\n\
             <p class=\"note\">Below each image: its label, the prediction with its probability, \
             and the image's {which}.</p>\n<div class=\"mistakes\">\n"
        );
        record.mistakes.iter().for_each(|image| html += &misclassified(record, image));
        html += "</div>\n";
    }
    html + "</section>\n"
}

/// The numbers of an evaluation, in a sentence.
fn summary(record: &EvaluationRecord) -> String {
    let images: u64 = record.confusion.iter().flatten().sum();
    let mut text = format!("Accuracy {:.2}% on {images} images", 100.0 * record.accuracy);
    if let Some(views) = record.views.filter(|views| *views > 1) {
        let _ = write!(text, ", averaged over {views} views of each");
    }
    if let Some(loss) = record.loss {
        let _ = write!(text, ", loss {loss:.4}");
    }
    let shares = [
        ("top-5 accuracy", record.top5_accuracy),
        ("balanced accuracy", record.balanced_accuracy),
        ("calibration error (ECE)", record.calibration_error),
    ];
    for (name, share) in shares {
        if let Some(share) = share {
            let _ = write!(text, ", {name} {:.2}%", 100.0 * share);
        }
    }
    text + "."
}

/// The confusion matrix, coloured by each cell's share of its row.
fn matrix(record: &EvaluationRecord) -> String {
    let many = if record.classes.len() > 10 { " many" } else { "" };
    let mut html = format!(
        "<p class=\"note\">Confusion matrix: a row for each class, with the number of its images that \
         were predicted as each class.</p>\n<div class=\"scroll\" tabindex=\"0\">\n\
         <table class=\"matrix{many}\">\n<thead><tr><td></td><th scope=\"colgroup\" colspan=\"{}\">predicted</th></tr>\n\
         <tr><th scope=\"col\">true</th>",
        record.classes.len().max(1)
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
        let class = escape(class);
        let _ = write!(html, "<tr><th scope=\"row\" title=\"{class}\">{class}</th>");
        for (column, (count, share)) in counts.iter().zip(shares(record, row, true)).enumerate() {
            // Errors are coloured relative to the largest one, or those of a good network would be
            // invisible.
            let (kind, heat) = match (*count, row == column) {
                (0, _) => ("none", 0.0),
                (_, true) => ("right", share),
                (_, false) => ("wrong", share / worst.max(1e-9)),
            };
            let prediction = escape(&record.classes[column]);
            let _ = write!(
                html,
                "<td class=\"{kind}\" style=\"--heat:{heat:.2}\" title=\"{count} of {total} \
                 images of {class} predicted as {prediction}\">{count}</td>"
            );
        }
        html += "</tr>\n";
    }
    html + "</tbody>\n</table>\n</div>\n"
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

/// The most frequent confusions, for many classes.
fn confused(record: &EvaluationRecord) -> String {
    let rows = most_frequent(&record.confusion).into_iter().map(|confusion| {
        let name = |class: usize| escape(&record.classes[class]).into_owned();
        vec![confusion.images.to_string(), name(confusion.label), name(confusion.prediction)]
    });
    let confusions = table("plain", &["images", "true", "predicted"], rows);
    format!("<p class=\"note\">The most frequent confusions.</p>\n{confusions}")
}

/// A table of each class: its number of images, precision and recall.
fn classes(record: &EvaluationRecord) -> String {
    let mut html = String::from(
        "<p class=\"note\">Precision: the share of the images predicted as the class that are of it. Recall: the share \
         of its images that are predicted as it.</p>\n<div class=\"scroll\" tabindex=\"0\">\n\
         <table class=\"plain classes\">\n<thead><tr>",
    );
    for heading in ["class", "images", "precision", "recall"] {
        let _ = write!(html, "<th scope=\"col\">{heading}</th>");
    }
    html += "</tr></thead>\n<tbody>\n";
    let share = |share: Option<f64>| share.map_or("–".into(), |s| format!("{:.1}%", 100.0 * s));
    for (class, score) in record.classes.iter().zip(class_scores(&record.confusion)) {
        let _ = writeln!(
            html,
            "<tr><th scope=\"row\">{}</th><td>{}</td><td>{}</td><td>{}</td></tr>",
            escape(class),
            score.images,
            share(score.precision),
            share(score.recall)
        );
    }
    html + "</tbody>\n</table>\n</div>\n"
}

fn misclassified(record: &EvaluationRecord, image: &MisclassifiedImage) -> String {
    let (label, prediction) =
        (escape(&record.classes[image.label]), escape(&record.classes[image.answer]));
    let Some(uri) = data_uri(&image.image, SIDE, SIDE) else { return String::new() };
    let which = match &image.file {
        Some(file) => escape(file).into_owned(),
        None => format!("no. {}", image.index),
    };
    format!(
        "<figure><img src=\"{uri}\" alt=\"{label}, predicted as {prediction}\" width=\"96\" height=\"96\">\
         <figcaption><b>{label}</b><span>{prediction} {:.1}%</span><small>{which}</small>\
         </figcaption></figure>\n",
        100.0 * image.probability,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A record of the version that wrote nothing but this.
    fn record(classes: &[&str], confusion: &str, mistakes: &str) -> EvaluationRecord {
        let classes = serde_json::to_string(classes).unwrap();
        let text = format!(
            r#"{{"epoch":3,"accuracy":0.5,"loss":0.25,"classes":{classes},"confusion":{confusion},"mistakes":{mistakes}}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn the_axes_of_the_matrix_and_each_class_are_named() {
        let html = section("Test set", &record(&["cat", "a<b"], "[[3,1],[0,0]]", "[]"));
        for part in [
            "colspan=\"2\">predicted</th>",
            "<th scope=\"col\">true</th><th scope=\"col\"><span>cat</span>",
            "title=\"1 of 4 images of cat predicted as a&lt;b\">1</td>",
            "<tr><th scope=\"row\" title=\"cat\">cat</th><td class=\"right\"",
            "<td class=\"none\" style=\"--heat:0.00\" title=\"0 of 0 images of a&lt;b predicted as cat\">0</td>",
            "<tr><th scope=\"row\">cat</th><td>4</td><td>100.0%</td><td>75.0%</td></tr>",
            "<tr><th scope=\"row\">a&lt;b</th><td>0</td><td>0.0%</td><td>–</td></tr>",
            "<p>Accuracy 50.00% on 4 images, loss 0.2500.</p>",
        ] {
            assert!(html.contains(part), "no {part} in {html}");
        }
        // It has no bins of confidence.
        assert!(!html.contains("<svg") && !html.contains("Most confident"), "{html}");
    }

    #[test]
    fn worst_images_have_the_names_of_their_files() {
        let image = |file: &str| {
            let pixels = "AAAA".repeat(1024);
            format!(
                r#"{{"index":7,"label":0,"answer":1,"probability":0.9,"image":"{pixels}"{file}}}"#
            )
        };
        let mistakes = format!("[{},{}]", image(r#","file":"cat/<i>.png""#), image(""));
        let html = section("Test set", &record(&["cat", "dog"], "[[3,1],[0,0]]", &mistakes));
        assert!(html.contains("<small>cat/&lt;i&gt;.png</small>"), "{html}");
        assert!(html.contains("<small>no. 7</small>") && html.contains("the image's file"));
        assert!(html.contains("alt=\"cat, predicted as dog\""));
    }

    #[test]
    fn many_classes_are_folded() {
        let names: Vec<String> = (0..21).map(|class| format!("class {class}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let confusion = serde_json::to_string(&vec![vec![1; 21]; 21]).unwrap();
        let html = section("Test set", &record(&names, &confusion, "[]"));
        assert!(!html.contains("class=\"matrix\""));
        let (folded, last) = (html.find("<details>"), html.find("<th scope=\"row\">class 20</th>"));
        assert!(folded.is_some() && folded < last, "{html}");
    }
}
