//! The sections of a comparison's page.

use std::fmt::Write;

use crescendo_training::comparison::{ApartResults, ArmRecord, ArmResults, BatchNormStatistics};

use super::super::html::{document, escape, table};
use super::super::{FILE_NAME, chart, links, panels};
use super::{ComparisonData, curves, forest, run_folder, run_name};
use crate::ComparisonTable;
use crate::comparison_table::{AGAINST_BASE, APART, Cells, device};
use crate::messages::display_seconds;

/// The page, as HTML.
pub fn render(comparison: &ComparisonData) -> String {
    let arms = comparison.results.arms(&comparison.record);
    let mut body = heading(comparison, &arms);
    let ComparisonTable { present, apart, caption, .. } = comparison.table();
    let _ = write!(
        body,
        "<section>\n<h2>Results</h2>\n{}<p class=\"note\">{}</p>\n</section>\n",
        outcome(&present, &arms),
        escape(&caption)
    );
    if arms.iter().any(|arm| arm.difference(BatchNormStatistics::Running).is_some()) {
        let _ = write!(
            body,
            "<section>\n<h2>Differences from {}</h2>\n<p class=\"note\">Mark: mean of the paired differences over the \
             seeds. Line: its 95 % confidence interval (Student’s t). An arm is better or worse if the line does not \
             reach 0.</p>\n<figure class=\"forest\">\n{}</figure>\n</section>\n",
            escape(arms[0].name),
            forest::html(comparison)
        );
    }
    body += &mean_curves(comparison);
    body += &settings(comparison);
    let single = single_runs(comparison, &arms);
    if !single.is_empty() {
        let _ = write!(body, "<section>\n<h2>Single runs</h2>\n{single}</section>\n");
    }
    let other = comparison.results.apart(&comparison.record);
    for ((kind, cells), ApartResults { arms, .. }) in apart.iter().zip(&other) {
        let _ = write!(
            body,
            "<section>\n<h2>{APART}: {}</h2>\n{}{}</section>\n",
            escape(kind),
            outcome(cells, arms),
            single_runs(comparison, arms)
        );
    }
    let folder = escape(&comparison.folder.display().to_string()).into_owned();
    let _ = writeln!(body, "<footer>Comparison’s folder {folder}</footer>");
    document(&format!("{} · comparison", comparison.record.name), &body, None)
}

fn heading(comparison: &ComparisonData, arms: &[ArmResults]) -> String {
    let record = &comparison.record;
    let title = record.question.as_ref().unwrap_or(&record.name);
    let mut html = format!("<header>\n<h1>{}</h1>\n<p class=\"sub\">", escape(title));
    if record.question.is_some() {
        let _ = write!(html, "Comparison {} · ", escape(&record.name));
    }
    let _ = writeln!(html, "{} arms on {}</p>", arms.len(), escape(&record.data));
    if let Some(source) = &record.source {
        let _ = writeln!(html, "<p>Source: {}</p>", escape(source));
    }
    html += &verdicts(arms);
    let finished: usize = arms.iter().map(|arm| arm.rows.len()).sum();
    let all = arms.len() * record.seeds.len();
    if finished < all {
        let _ = writeln!(html, "<p>{finished} of {all} runs are finished.</p>");
    }
    html + "</header>\n"
}

/// The verdicts in a sentence for each, by running statistics.
fn verdicts(arms: &[ArmResults]) -> String {
    let mut html = String::from("<ul class=\"verdicts\">\n");
    for word in ["better", "worse", "undecided"] {
        let names = arms.iter().filter(|arm| {
            let difference = arm.difference(BatchNormStatistics::Running);
            difference.is_some_and(|difference| difference.verdict().name() == word)
        });
        let names: Vec<String> = names.map(|arm| escape(arm.name).into_owned()).collect();
        if !names.is_empty() {
            let than = if word == "undecided" { "against" } else { "than" };
            let _ = writeln!(
                html,
                "<li>{} {than} {}: {}</li>",
                chip(word),
                escape(arms[0].name),
                names.join(", ")
            );
        }
    }
    html + "</ul>\n"
}

/// A verdict as a word with a sign and a colour.
fn chip(verdict: &str) -> String {
    let sign = match verdict {
        "better" => "▲",
        "worse" => "▼",
        _ => "○",
    };
    let verdict = escape(verdict);
    format!("<b class=\"verdict {verdict}\"><span aria-hidden=\"true\">{sign}</span> {verdict}</b>")
}

/// The table. In a narrow window each line becomes a card, so that nothing must be scrolled sideways; the roles keep it
/// a table for screen readers.
fn outcome(cells: &Cells, arms: &[ArmResults]) -> String {
    let mut html = String::from(
        "<table class=\"plain arms\" role=\"table\">\n<thead role=\"rowgroup\">\
         <tr role=\"row\">",
    );
    for cell in &cells.header {
        let _ = write!(html, "<th scope=\"col\" role=\"columnheader\">{}</th>", escape(cell));
    }
    html += "</tr></thead>\n<tbody role=\"rowgroup\">\n";
    for (group, (row, arm)) in cells.rows.iter().zip(arms).enumerate() {
        let base = if arm.is_base() { "<small>base</small>" } else { "" };
        let _ = write!(
            html,
            "<tr role=\"row\"><th scope=\"row\" role=\"rowheader\"><span class=\"key {}\"><i></i>{}</span>{base}</th>",
            panels::colour(group),
            escape(&row[0])
        );
        for (column, (cell, name)) in row.iter().zip(&cells.header).enumerate().skip(1) {
            let shown = match cell.rsplit_once(", ") {
                Some((numbers, verdict)) if AGAINST_BASE.contains(&column) => {
                    format!("{} <i>{}</i>", chip(verdict), escape(numbers))
                }
                _ => escape(cell).into_owned(),
            };
            let empty = if arm.is_base() && AGAINST_BASE.contains(&column) {
                " class=\"none\""
            } else {
                ""
            };
            let _ = write!(
                html,
                "<td role=\"cell\" data-name=\"{}\"{empty}><span>{shown}</span></td>",
                escape(name)
            );
        }
        html += "</tr>\n";
    }
    html + "</tbody>\n</table>\n"
}

fn mean_curves(comparison: &ComparisonData) -> String {
    let ComparisonData { record, runs, .. } = comparison;
    let arms: Vec<String> = record.arms.iter().map(|arm| arm.name.clone()).collect();
    let panels = curves::panels(&arms, runs);
    if panels.is_empty() {
        return String::new();
    }
    let mut html = String::from("<section>\n<h2>Curves</h2>\n<p class=\"note\">");
    if record.seeds.len() > 1 {
        html +=
            "Lines: mean over an arm’s seeds. Bands: from the lowest to the highest of its seeds. ";
    }
    if runs.iter().any(|run| run.follows_paper) {
        html += "Grey, dotted: the numbers of the paper that the recipe follows. ";
    }
    html += "Training loss is measured on augmented images while the weights still change. ";
    let _ = writeln!(html, "{}</p>", panels::HOW_TO_READ);
    let shown = |group: &usize| runs.iter().any(|run| run.group == *group);
    let mut entries: Vec<(String, &str)> = (0..arms.len())
        .filter(shown)
        .map(|group| (panels::colour(group), &arms[group][..]))
        .collect();
    if runs.iter().any(|run| run.follows_paper) {
        entries.push((panels::PAPER.to_owned(), "paper"));
    }
    html += &chart::legend(entries.iter().map(|(class, name)| (&class[..], *name)));
    let last = panels::last_epoch(runs);
    for panel in panels {
        html += &panel.html(last, &[]);
    }
    html + "<p class=\"axis\">epoch</p>\n</section>\n"
}

/// What each arm changes.
fn settings(comparison: &ComparisonData) -> String {
    let record = &comparison.record;
    let changes = |recipe: Option<&String>, set: &[String]| {
        let recipe = recipe.map(|recipe| format!("recipe {}", escape(recipe)));
        let set = set.iter().map(|change| format!("<code>{}</code>", escape(change)));
        recipe.into_iter().chain(set).collect::<Vec<_>>().join(", ")
    };
    let mut html = format!(
        "<section>\n<h2>Arms</h2>\n<dl class=\"settings\">\n<div><dt>all</dt><dd>{}</dd></div>\n",
        changes(Some(&record.recipe), &record.set)
    );
    for ArmRecord { name, recipe, set, .. } in &record.arms {
        let changes = changes(recipe.as_ref(), set);
        let changes = if changes.is_empty() { "nothing else".to_owned() } else { changes };
        let _ = writeln!(html, "<div><dt>{}</dt><dd>{changes}</dd></div>", escape(name));
    }
    html + "</dl>\n</section>\n"
}

/// The results of single runs, with links to the reports that are there.
fn single_runs(comparison: &ComparisonData, arms: &[ArmResults]) -> String {
    let rows: Vec<_> =
        arms.iter().flat_map(|arm| arm.rows.iter().map(|row| (arm.name, *row))).collect();
    if rows.is_empty() {
        return String::new();
    }
    let cells = rows.iter().map(|(arm, row)| {
        let folder = run_folder(&comparison.folder, row);
        let name = escape(&run_name(arm, row.seed)).into_owned();
        let report = folder.join(FILE_NAME).is_file();
        let link = links::between(&comparison.page, &folder).filter(|_| report);
        vec![
            match link {
                Some(prefix) => format!("<a href=\"{}{FILE_NAME}\">{name}</a>", escape(&prefix)),
                None => name,
            },
            format!("{:.2}", 100.0 * row.running),
            format!("{:.2}", 100.0 * row.precise),
            format!("{:.4}", row.train_loss),
            row.updates.to_string(),
            display_seconds(row.seconds),
            device(row),
        ]
    });
    let header = ["run", "accuracy, %", "precise BN, %", "train loss", "updates", "time", "device"];
    let word = if rows.len() == 1 { "run" } else { "runs" };
    format!(
        "<details>\n<summary>{} finished {word}</summary>\n{}</details>\n",
        rows.len(),
        table("plain", &header, cells)
    )
}
