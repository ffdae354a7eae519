//! A run as a page: one file with curves, decisions, what is taken for what, and the recipe. It needs
//! no network and no script, and is made from the run's folder alone.
//!
//! # Example
//!
//! ```no_run
//! use std::path::Path;
//! use crescendo_report::page::{RunData, render, write};
//!
//! let mut runs = Vec::new();
//! for (group, folder) in ["runs/growing", "runs/fixed"].into_iter().enumerate() {
//!     let mut run = RunData::read(Path::new(folder))?;
//!     run.group = group;
//!     runs.push(run);
//! }
//! write(Path::new("both.html"), &render(&runs))?;
//! # Ok::<(), crescendo_training::Error>(())
//! ```

mod axis;
mod chart;
mod classes;
pub(crate) mod csv;
mod data;
pub(crate) mod evaluations;
mod html;
mod images;
mod panels;
mod published;
mod sections;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use crescendo_training::events::{Event, Observer};
use crescendo_training::{Error, write_atomically};

pub use data::RunData;

/// The page's name in a run's folder.
pub const NAME: &str = "report.html";

/// Keeps a run's page in its folder up to date. It shows what [`Log`](crate::Log) has written, so it
/// stands behind that among observers.
#[derive(Default)]
pub struct Page(Option<PathBuf>);

impl Observer for Page {
    fn event(&mut self, event: &Event) -> Result<(), Error> {
        if let Event::Started { folder, .. } = event {
            self.0 = Some(folder.clone());
        }
        match (&self.0, event) {
            (Some(folder), Event::Started { .. } | Event::Epoch(_)) => {
                // A table that somebody damaged is no reason to stop a run of hours.
                let page = RunData::read(folder).map_or_else(
                    |error| html::document("Crescendo", &sections::problem(&error.to_string())),
                    |run| render(&[run]),
                );
                save(&folder.join(NAME), &page)
            }
            _ => Ok(()),
        }
    }
}

/// The page of a run; of several, with their curves over each other.
pub fn render(runs: &[RunData]) -> String {
    match runs {
        [run] => sections::one(run),
        _ => sections::many(runs),
    }
}

/// Writes a page, in place of nothing or of another page.
///
/// # Errors
/// If there is a file at `path` that this program did not make, or the system refuses.
pub fn write(path: &Path, page: &str) -> Result<(), Error> {
    let mut begin = Vec::new();
    let marker = html::MARKER.as_bytes();
    match File::open(path).and_then(|file| file.take(marker.len() as u64).read_to_end(&mut begin)) {
        Ok(_) if begin == marker => {}
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Ok(_) => {
            let problem = "is there already, and is no page that crescendo made: choose another \
                           name with --out, or remove it";
            return Err(Error::bad(path, problem));
        }
        Err(error) => return Err(Error::io("read", path, error)),
    }
    save(path, page)
}

fn save(path: &Path, page: &str) -> Result<(), Error> {
    write_atomically(path, |file| file.write_all(page.as_bytes()))
}
