//! The sections of a report, from the heading to the recipe.

use std::fmt::Write;
use std::path::Path;

use super::html::{document, escape, table};
use super::run_data::RunData;
use super::{chart, evaluation, panels};
use crate::formats::tables::DecisionRow;
use crate::messages::{display_seconds, display_value};

/// The report of one run.
pub fn one(run: &RunData) -> String {
    let title = run.title();
    let mut body = heading(&title, run);
    body += &curves(std::slice::from_ref(run));
    body += &decisions(&run.decisions);
    let splits =
        [("Test set", &run.evaluations.test), ("Validation set", &run.evaluations.validation)];
    for (name, record) in splits {
        if let Some(record) = record {
            body += &evaluation::section(name, record);
        }
    }
    body += &resume(run);
    let _ = write!(
        body,
        "<section>\n<h2>Recipe</h2>\n<details>\n<summary>recipe.toml with all defaults</summary>\n\
         <pre>{}</pre>\n</details>\n</section>\n<footer>Crescendo {}, run folder {}</footer>\n",
        escape(&run.recipe),
        escape(&run.about.version),
        escape(&run.folder.display().to_string())
    );
    document(&format!("{title} · {}", state(run)), &body)
}

/// The report of several runs.
pub fn many(runs: &[RunData]) -> String {
    let title = format!("{} runs", runs.len());
    let mut body = format!("<header>\n<h1>{title}</h1>\n</header>\n");
    body += &overview(runs);
    body += &curves(runs);
    document(&title, &body)
}

/// The body of a report that only shows an error.
pub fn error(message: &str) -> String {
    format!("<h1>This run cannot be displayed</h1>\n<p>{}</p>\n", escape(message))
}

/// The run's progress in words.
fn state(run: &RunData) -> String {
    let last = run.epochs.last().map_or(0, |row| row.epoch);
    let planned = run.planned.0;
    if run.finished() { format!("{last} epochs") } else { format!("epoch {last} of {planned}") }
}

fn heading(title: &str, run: &RunData) -> String {
    let last = run.epochs.last();
    let done = last.map_or(0, |row| row.epoch);
    let share = 100.0 * f64::from(done) / f64::from(run.planned.0.max(1));
    let share = if run.finished() { 100.0 } else { share };
    let word = if run.finished() { "finished" } else { "not finished" };
    let mut html = format!(
        "<header>\n<h1>{}</h1>\n<p class=\"sub\">{} · {word}</p>\n\
         <div class=\"bar\" role=\"img\" aria-label=\"{share:.0}% of the epochs are done\">\
         <i style=\"width:{share:.1}%\"></i></div>\n<dl class=\"tiles\">\n",
        escape(title),
        escape(&run.label),
    );
    let mut tile = |name: &str, value: String| {
        let _ = writeln!(html, "<div><dt>{name}</dt><dd>{}</dd></div>", escape(&value));
    };
    tile("Epoch", format!("{done} of {}", run.planned.0));
    let percent = |(epoch, share): (u32, f64)| {
        let value = format!("{:.2}%", 100.0 * share);
        if epoch == done { value } else { format!("{value} (epoch {epoch})") }
    };
    if let Some(accuracy) = run.last(|row| row.test_accuracy) {
        tile("Test accuracy", percent(accuracy));
    }
    if let Some(accuracy) = run.last(|row| row.validation_accuracy) {
        tile("Validation accuracy", percent(accuracy));
    }
    if let Some(row) = last {
        tile("Train loss", format!("{:.4}", row.train_loss));
        let numbers = [("Updates", row.updates.map(|n| n as f64)), ("Batch size", row.batch_size)];
        for (name, number) in numbers {
            if let Some(number) = number {
                tile(name, number.to_string());
            }
        }
        if let Some(rate) = row.images_per_second {
            tile("Images/s", format!("{rate:.1}"));
        }
    }
    if let Some(seconds) = run.seconds() {
        tile("Training time", display_seconds(seconds));
    }
    html + "</dl>\n</header>\n"
}

fn curves(runs: &[RunData]) -> String {
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
        notes.push(
            "Dashed vertical lines: the batch size, learning rate or image size changes; point at a \
             line for the reason.",
        );
    }
    if !notes.is_empty() {
        let _ = writeln!(html, "<p class=\"note\">{}</p>", notes.join(" "));
    }
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

fn decisions(decisions: &[DecisionRow]) -> String {
    if decisions.is_empty() {
        return String::new();
    }
    let or_empty = |number: Option<u64>| number.map_or(String::new(), |number| number.to_string());
    let rows = decisions.iter().map(|decision| {
        vec![
            decision.epoch.to_string(),
            or_empty(decision.updates),
            escape(&decision.name()).into_owned(),
            format!("{} → {}", display_value(decision.from), display_value(decision.to)),
            reason(decision),
        ]
    });
    let header = ["from epoch", "after updates", "setting", "change", "reason"];
    format!(
        "<section>\n<h2>Decisions</h2>\n{}</section>\n",
        table("plain decisions", &header, rows)
    )
}

/// A decision's reason and the numbers it is based on.
fn reason(decision: &DecisionRow) -> String {
    let mut numbers = Vec::new();
    if let Some((name, value, best)) = &decision.metric {
        numbers.push(format!("{name} {value:.4}, best before {best:.4}"));
    }
    if let Some(epochs) = decision.epochs_without_improvement {
        numbers.push(format!("{epochs} epochs without improvement"));
    }
    if let Some(noise) = decision.noise_scale {
        numbers.push(format!("noise scale {noise:.0}"));
    }
    let reason = if decision.reason.is_empty() { "not recorded" } else { &decision.reason };
    let numbers = numbers.join("; ");
    format!("{}<small>{}</small>", escape(reason), escape(&numbers))
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
                false => state(run).replace("epoch ", ""),
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

fn resume(run: &RunData) -> String {
    let folder = shell(&run.folder);
    let (what, more) = if run.finished() {
        ("This run is finished. To train it for N epochs in total:", " --epochs N")
    } else {
        ("A run that was stopped or killed resumes with bit-identical results:", "")
    };
    format!(
        "<section>\n<h2>Resume</h2>\n<p>{what}</p>\n<pre>crescendo train --resume {}{more}</pre>\n\
         </section>\n",
        escape(&folder)
    )
}

/// A path quoted for a shell where necessary.
fn shell(path: &Path) -> String {
    let path = path.display().to_string();
    let plain = |c: char| c.is_alphanumeric() || "/._-+=:,@~".contains(c);
    if path.chars().all(plain) { path } else { format!("'{}'", path.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_can_be_pasted_into_a_shell() {
        let paths = ["runs/quick-1", "my runs", "it's"].map(|path| shell(Path::new(path)));
        assert_eq!(paths, ["runs/quick-1", "'my runs'", r"'it'\''s'"]);
    }
}
