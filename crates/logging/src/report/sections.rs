//! The report of several runs, and the curves of one or more.

use std::fmt::Write;

use super::html::{document, escape, table};
use super::run_data::RunData;
use super::{chart, panels};

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

fn overview(runs: &[RunData]) -> String {
    let rows = runs.iter().map(|run| {
        let last = run.epochs.last();
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "–".to_owned());
        let percent = |(_, share)| format!("{:.2}%", 100.0 * share);
        vec![
            format!(
                "<span class=\"key {}\"><i></i>{}</span>",
                panels::colour(run.group),
                escape(&run.label)
            ),
            escape(&run.title()).into_owned(),
            match run.finished() {
                true => last.map_or(0, |row| row.epoch).to_string(),
                false => run.state().replace("epoch ", ""),
            },
            or_dash(last.and_then(|row| row.updates).map(|updates| updates.to_string())),
            or_dash(last.map(|row| format!("{:.4}", row.train_loss))),
            or_dash(run.last(|row| row.test_accuracy).map(percent)),
            or_dash(run.seconds().map(|seconds| format!("{seconds:.1}"))),
        ]
    });
    let header =
        ["run", "recipe", "epochs", "updates", "final train loss", "test accuracy", "seconds"];
    format!("<section>\n{}</section>\n", table("plain overview", &header, rows))
}
