//! The HTML report of a run: one file with curves, decisions, confusion matrices and the recipe. It
//! needs no network and no scripts, and is made from the run's folder alone. See the example of [`RunData`].

mod axis;
mod chart;
mod evaluation;
mod html;
mod images;
mod panels;
mod paper;
mod run_data;
mod sections;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use crescendo_training::events::{Event, Observer};
use crescendo_training::{Error, write_atomically};

pub use run_data::RunData;

/// The report's file name in a run's folder.
pub const FILE_NAME: &str = "report.html";

/// Keeps the report in a run's folder up to date. It reads what [`CsvLogger`](crate::CsvLogger) and
/// [`EvaluationLogger`](crate::EvaluationLogger) have written, so it comes after them among
/// observers.
///
/// See the example of [`RunFolderLogger`](crate::RunFolderLogger), which has one.
#[derive(Default)]
pub struct HtmlReport(Option<PathBuf>);

impl Observer for HtmlReport {
    fn event(&mut self, event: &Event) -> Result<(), Error> {
        if let Event::Started { folder, .. } = event {
            self.0 = Some(folder.clone());
        }
        match (&self.0, event) {
            (Some(folder), Event::Started { .. } | Event::Epoch(_)) => {
                // A damaged CSV file must not stop a run that takes hours: the report says what is
                // wrong.
                let html = RunData::read(folder).map_or_else(
                    |error| html::document("Crescendo", &sections::error(&error.to_string())),
                    |run| render(&[run]),
                );
                save(&folder.join(FILE_NAME), &html)
            }
            _ => Ok(()),
        }
    }
}

/// The report of one run, or of several runs with their curves in the same charts, as HTML.
pub fn render(runs: &[RunData]) -> String {
    match runs {
        [run] => sections::one(run),
        _ => sections::many(runs),
    }
}

/// Writes a report to `path`, where there may be no file but another report.
///
/// # Errors
/// If the file at `path` is not a report made by this program, or the file cannot be written.
pub fn write(path: &Path, html: &str) -> Result<(), Error> {
    let mut start = Vec::new();
    let marker = html::MARKER.as_bytes();
    match File::open(path).and_then(|file| file.take(marker.len() as u64).read_to_end(&mut start)) {
        Ok(_) if start == marker => {}
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Ok(_) => {
            let problem = "already exists and is not a report made by crescendo: choose another \
                           file with --out, or remove it";
            return Err(Error::bad(path, problem));
        }
        Err(error) => return Err(Error::io("read", path, error)),
    }
    save(path, html)
}

fn save(path: &Path, html: &str) -> Result<(), Error> {
    write_atomically(path, |file| file.write_all(html.as_bytes()))
}
