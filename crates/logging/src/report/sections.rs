//! The report of several runs, and the curves of one or more.

use std::fmt::Write;

use super::html::{document, escape, table};
use super::run_data::RunData;
use super::{FILE_NAME, chart, panels};
use crate::messages::display_seconds;

/// The report of several runs.
pub fn many(runs: &[RunData]) -> String {
    let title = format!("{} runs", runs.len());
    let mut body = format!("<header>\n<h1>{title}</h1>\n</header>\n");
    body += &overview(runs);
    body += &curves(runs);
    document(&title, &body, None)
}

/// The body of a report that only shows an error.
pub fn error(message: &str) -> String {
    format!("<h1>This run cannot be displayed</h1>\n<p>{}</p>\n", escape(message))
}

/// The section with the curves.
pub fn curves(runs: &[RunData]) -> String {
    let mut html = String::from("<section>\n<h2>Curves</h2>\n");
    if runs.iter().all(|run| run.epochs.is_empty()) {
        return html
            + "<p>No epoch is finished yet; the curves appear after the first one.</p>\n</section>\n";
    }
    let (last, lines) = (panels::last_epoch(runs), panels::decision_lines(runs));
    let mut notes = Vec::new();
    if runs.iter().any(|run| run.follows_paper) {
        notes.push(
            "Grey, dotted: the numbers of the paper that the recipe follows. Only the dots are \
             published; the lines between them are interpolated.",
        );
    }
    if lines.iter().any(|line| line.epoch <= last) {
        notes
            .push("Dashed vertical lines: changes of the batch size, learning rate or image size.");
    }
    notes.push(
        "Training loss and accuracy are measured on augmented images while the weights still change; those of \
         validation and test images, after the epoch.",
    );
    notes.push(panels::HOW_TO_READ);
    let _ = writeln!(html, "<p class=\"note\">{}</p>", notes.join(" "));
    if runs.len() > 1 {
        let mut entries: Vec<(String, &str)> = Vec::new();
        for run in runs {
            let entry = (panels::colour(run.group), &run.label[..]);
            if !entries.contains(&entry) {
                entries.push(entry);
            }
        }
        if runs.iter().any(|run| run.follows_paper) {
            entries.push((panels::PAPER.to_owned(), "paper"));
        }
        html += &chart::legend(entries.iter().map(|(class, name)| (&class[..], *name)));
    }
    for panel in panels::panels(runs) {
        html += &panel.html(last, &lines);
    }
    html += "<p class=\"axis\">epoch</p>\n</section>\n";
    html
}

/// A line for each run, what people look for first; the recipe, which is long, comes last.
fn overview(runs: &[RunData]) -> String {
    type Accuracy = fn(&RunData) -> Option<(u32, f64)>;
    let accuracies: [(&str, Accuracy); 2] = [
        ("test accuracy", |run| run.last(|row| row.test_accuracy)),
        ("validation accuracy", |run| run.last(|row| row.validation_accuracy)),
    ];
    let accuracies: Vec<_> =
        accuracies.into_iter().filter(|(_, of)| runs.iter().any(|run| of(run).is_some())).collect();
    let mut header = vec!["run"];
    header.extend(accuracies.iter().map(|(name, _)| *name));
    header.extend(["time", "epochs", "updates", "train loss", "recipe"]);
    let rows = runs.iter().map(|run| {
        let last = run.epochs.last();
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "–".to_owned());
        let mut cells = vec![format!(
            "<span class=\"key {}\"><i></i>{}</span>",
            panels::colour(run.group),
            name(run)
        )];
        for (_, of) in &accuracies {
            cells.push(or_dash(of(run).map(|(_, share)| format!("{:.2}%", 100.0 * share))));
        }
        cells.extend([
            or_dash(run.seconds().map(display_seconds)),
            match run.finished() {
                true => last.map_or(0, |row| row.epoch).to_string(),
                false => run.state().replace("epoch ", ""),
            },
            or_dash(last.and_then(|row| row.updates).map(|updates| updates.to_string())),
            or_dash(last.map(|row| format!("{:.4}", row.train_loss))),
            escape(&run.title()).into_owned(),
        ]);
        cells
    });
    format!("<section>\n{}</section>\n", table("plain overview", &header, rows))
}

/// A run's name, which leads to its own report if there is one.
fn name(run: &RunData) -> String {
    let name = escape(&run.label);
    match &run.links {
        Some(prefix) if run.folder.join(FILE_NAME).is_file() => {
            format!("<a href=\"{}{FILE_NAME}\">{name}</a>", escape(prefix))
        }
        _ => name.into_owned(),
    }
}
