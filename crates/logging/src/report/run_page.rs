//! The report of one run, from the heading to the recipe.

use std::fmt::Write;

use crescendo_training::recipe::BatchPolicyKind;
use crescendo_training::{Record, Start, graph};

use super::html::{document, escape};
use super::run_data::RunData;
use super::{InTraining, decisions, evaluation, picture, pictures, sections};
use crate::messages::display_seconds;
use crate::shell::shell_word;

/// The report.
pub fn page(run: &RunData, training: Option<&InTraining>) -> String {
    let title = run.title();
    let mut body = heading(&title, run, training);
    body += &sections::curves(std::slice::from_ref(run));
    body += &decisions::section(&run.decisions);
    let splits =
        [("Test set", &run.evaluations.test), ("Validation set", &run.evaluations.validation)];
    for (name, record) in splits {
        if let Some(record) = record {
            body += &evaluation::section(name, record);
        }
    }
    body += &pictures::section(run);
    body += &resume(run);
    let _ = write!(
        body,
        "<section>\n<h2>Recipe</h2>\n<details>\n<summary>recipe.toml with all defaults</summary>\n\
         <pre tabindex=\"0\">{}</pre>\n</details>\n</section>\n<footer>Crescendo {}, run folder {}</footer>\n",
        escape(&run.recipe),
        escape(&run.record.run.version),
        escape(&run.folder.display().to_string())
    );
    document(&format!("{title} · {}", run.state()), &body, training.map(|now| now.reload))
}

fn heading(title: &str, run: &RunData, training: Option<&InTraining>) -> String {
    let last = run.epochs.last();
    let done = last.map_or(0, |row| row.epoch);
    let planned = run.planned().0;
    let share = 100.0 * f64::from(done) / f64::from(planned.max(1));
    let share = if run.finished() { 100.0 } else { share };
    let (word, note) = match (run.finished(), training) {
        (true, _) => ("finished", String::new()),
        (false, Some(now)) => ("training", training_note(run, now)),
        (false, None) => ("not finished", String::new()),
    };
    let mut html = format!(
        "<header>\n<h1>{}</h1>\n<p class=\"sub\">{} · {word}</p>\n{note}\
         <div class=\"bar\" role=\"img\" aria-label=\"{share:.0}% of the epochs are done\">\
         <i style=\"width:{share:.1}%\"></i></div>\n<dl class=\"tiles\">\n",
        escape(title),
        escape(&run.label),
    );
    let mut tile = |name: &str, value: String| {
        let _ = writeln!(html, "<div><dt>{name}</dt><dd>{}</dd></div>", escape(&value));
    };
    tile("Epoch", format!("{done} of {planned}"));
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
    html += "</dl>\n<dl class=\"facts\">\n";
    for (name, value) in facts(run) {
        let _ = writeln!(html, "<div><dt>{name}</dt><dd>{value}</dd></div>");
    }
    html + "</dl>\n</header>\n"
}

/// When the page of a run in training was written, and what it means if that was long ago.
fn training_note(run: &RunData, now: &InTraining) -> String {
    let long = match run.last(|row| row.seconds) {
        Some((_, seconds)) => format!(", which takes {}", display_seconds(seconds.max(1.0))),
        None => String::new(),
    };
    format!(
        "<p class=\"note\">Written at {}, and again after every epoch{long}; the page reloads itself until the run \
         ends. If this was long ago, the run was killed: <a href=\"#resume\">resume it</a>.</p>\n",
        escape(&now.written.replace('T', ", ").replace('Z', " UTC")),
    )
}

/// What the run is: names and values, these as HTML.
fn facts(run: &RunData) -> Vec<(&'static str, String)> {
    let mut facts = vec![("Network", escape(&network(run)).into_owned())];
    let data = escape(&run.record.run.data_name);
    let classes = run.record.run.classes.len();
    facts.push((
        "Data",
        match &run.facts {
            Some(facts) => {
                let validation = match facts.validation_images {
                    0 => String::new(),
                    images => format!(", {images} validation"),
                };
                format!(
                    "{data}: {} training{validation} and {} test images of {classes} classes",
                    facts.training_images, facts.test_images
                )
            }
            None => format!("{data}: {classes} classes"),
        },
    ));
    facts.push(("Seed", run.record.recipe.train.seed.to_string()));
    if let Some(of) = &run.record.run.branch_of {
        facts.push(("Branch of", escape(of).into_owned()));
    }
    if let Some(init) = &run.record.run.init {
        facts.push(("Began with", escape(init).into_owned()));
    }
    let mut version = escape(&run.record.run.version).into_owned();
    if let Some(known) = &run.facts {
        facts.push(("Device", escape(&known.device).into_owned()));
        facts.push(("Begun", escape(&moment(&known.created)).into_owned()));
        version = escape(&known.version).into_owned();
    }
    facts.push(("Version", format!("Crescendo {version}")));
    let files = files(run);
    if !files.is_empty() {
        facts.push(("Files", files));
    }
    if let Some(command) = run.facts.as_ref().and_then(|facts| facts.command.as_ref()) {
        // Lines break between words only, not after the hyphens of options.
        let words = command.split(' ').map(|word| format!("<span>{}</span>", escape(word)));
        let words = words.collect::<Vec<_>>().join(" ");
        facts.push(("Command", format!("<code>{words}</code>")));
    }
    facts
}

/// The network in words, with its number of parameters.
fn network(run: &RunData) -> String {
    let words = run.record.recipe.network.summary();
    match graph(&run.record.recipe) {
        Ok(graph) => format!("{words}: {} parameters", with_spaces(graph.parameter_count())),
        Err(_) => words,
    }
}

/// A number with thin spaces between groups of three digits.
fn with_spaces(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.char_indices() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

/// A moment as `run.json` writes it, for people.
fn moment(text: &str) -> String {
    let minutes = text.strip_suffix('Z').and_then(|text| text.rsplit_once(':'));
    match minutes.and_then(|(minutes, _)| minutes.split_once('T')) {
        Some((date, time)) => format!("{date}, {time} UTC"),
        None => text.to_owned(),
    }
}

/// Links to the run's files that are there.
fn files(run: &RunData) -> String {
    let Some(prefix) = &run.links else { return String::new() };
    let files = [
        ("best weights", "weights/best.safetensors"),
        ("last weights", "weights/last.safetensors"),
        ("epochs.csv", "epochs.csv"),
        ("decisions.csv", "decisions.csv"),
        ("steps.csv", "steps.csv"),
        ("log.txt", "log.txt"),
        (picture::FILE_NAME, picture::FILE_NAME),
    ];
    let files = files.into_iter().filter(|(_, file)| run.folder.join(file).is_file());
    let links =
        files.map(|(name, file)| format!("<a href=\"{}{file}\">{name}</a>", escape(prefix)));
    links.collect::<Vec<_>>().join(", ")
}

fn resume(run: &RunData) -> String {
    let Record { recipe, run: about, .. } = &run.record;
    if recipe.batch.policy == BatchPolicyKind::Custom || about.data == Start::IN_MEMORY {
        return "<section id=\"resume\">\n<h2>Resume</h2>\n<p>The program that made this run resumes it: its policy or its data are \
                that program's own.</p>\n</section>\n"
            .to_owned();
    }
    let folder = shell_word(&run.folder);
    let (what, more) = if run.finished() {
        ("This run is finished. To train it for N epochs in total:", " --epochs N")
    } else {
        ("A run that was stopped or killed resumes with bit-identical results:", "")
    };
    format!(
        "<section id=\"resume\">\n<h2>Resume</h2>\n<p>{what}</p>\n<pre tabindex=\"0\">crescendo train --resume {}{more}</pre>\n\
         </section>\n",
        escape(&folder)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_moments_are_for_people() {
        let numbers = [0, 12, 999, 1000, 1_234_567].map(with_spaces);
        assert_eq!(numbers, ["0", "12", "999", "1\u{202f}000", "1\u{202f}234\u{202f}567"]);
        assert_eq!(moment("2026-11-27T09:30:05Z"), "2026-11-27, 09:30 UTC");
        assert_eq!(moment("yesterday"), "yesterday");
    }
}
