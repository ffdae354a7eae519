//! The HTML report of a run: one file with curves, decisions, confusion matrices and the recipe. It
//! needs no network and no scripts, and is made from the run's folder alone. See the example of [`RunData`].

mod axis;
mod chart;
mod comparison;
mod decisions;
mod evaluation;
mod html;
mod images;
mod links;
mod panels;
mod paper;
mod picture;
mod pictures;
mod reliability;
mod run_data;
mod run_page;
mod sections;
#[cfg(test)]
mod tests;
mod time_chart;

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crescendo_training::events::{Event, Observer};
use crescendo_training::{Error, utc, write_atomically};

pub use comparison::forest::forest_plot;
pub use comparison::{ComparisonData, render as render_comparison};
pub use run_data::RunData;
pub use time_chart::{TimeCurve, accuracy_over_time};

/// The report's file name in a run's folder.
pub const FILE_NAME: &str = "report.html";

/// Keeps the report in a run's folder up to date, and the picture `results.svg`. It reads what
/// [`CsvLogger`](crate::CsvLogger) and [`EvaluationLogger`](crate::EvaluationLogger) have written, so it comes after
/// them among observers. While the run is training, the report reloads itself in a browser.
///
/// See the example of [`RunFolderLogger`](crate::RunFolderLogger), which has one.
#[derive(Default)]
pub struct HtmlReport {
    folder: Option<PathBuf>,
    /// Whether the report that was written last reloads itself.
    reloads: bool,
}

impl HtmlReport {
    /// Writes the report. A damaged CSV file must not stop a run that takes hours: the report says what is wrong.
    fn write(&mut self, is_training: bool) -> Result<(), Error> {
        let Some(folder) = &self.folder else { return Ok(()) };
        self.reloads = is_training;
        let html = match RunData::read(folder) {
            Ok(mut run) => {
                // A run that is trained on has ended before.
                run.ended &= !is_training;
                write_picture(&run)?;
                run_page::page(&run, is_training.then(|| InTraining::now(&run)).as_ref())
            }
            Err(error) => html::document("Crescendo", &sections::error(&error.to_string()), None),
        };
        save(&folder.join(FILE_NAME), &html)
    }
}

impl Observer for HtmlReport {
    fn event(&mut self, event: &Event) -> Result<(), Error> {
        match event {
            Event::Started { folder, .. } => {
                self.folder = Some(folder.clone());
                self.write(true)
            }
            Event::Epoch(_) => self.write(true),
            Event::Interrupted { .. } | Event::Finished { .. } => self.write(false),
            _ => Ok(()),
        }
    }
}

/// The report of a run that failed reloads itself no longer.
impl Drop for HtmlReport {
    fn drop(&mut self) {
        if self.reloads {
            let _ = self.write(false);
        }
    }
}

/// What the report of a run in training says more than its folder does.
struct InTraining {
    /// When it is written, in UTC. Nothing tells a page that its run was killed, so its reader must be able to.
    written: String,
    /// After how many seconds it reloads itself: about once in an epoch, and not so often that nobody can read it.
    reload: u32,
}

impl InTraining {
    fn now(run: &RunData) -> Self {
        let seconds = run.last(|row| row.seconds).map_or(0.0, |(_, seconds)| seconds);
        InTraining { written: utc(SystemTime::now()), reload: seconds.clamp(30.0, 600.0) as u32 }
    }
}

/// The report of one run, or of several runs with their curves in the same charts, as HTML.
pub fn render(runs: &[RunData]) -> String {
    match runs {
        [run] => run_page::page(run, None),
        _ => sections::many(runs),
    }
}

/// Writes the picture `results.svg` of a run's accuracy and loss into its folder, once an epoch is done.
///
/// # Errors
/// If the file cannot be written.
pub fn write_picture(run: &RunData) -> Result<(), Error> {
    match picture::picture(run) {
        Some(svg) => save(&run.folder.join(picture::FILE_NAME), &svg),
        None => Ok(()),
    }
}

/// Writes the picture `results.svg` of a comparison, its forest plot, into its folder.
///
/// # Errors
/// If the file cannot be written.
pub fn write_forest_plot(comparison: &ComparisonData) -> Result<(), Error> {
    let svg = forest_plot(std::slice::from_ref(comparison));
    save(&comparison.folder().join(picture::FILE_NAME), &svg)
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
