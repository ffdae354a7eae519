//! The page of a comparison: the question, the table, a forest plot of the differences from the base, curves of each arm
//! with the spread over its seeds, and the single runs.

mod curves;
pub mod forest;
mod page;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use crescendo_training::Error;
use crescendo_training::comparison::{ComparisonRecord, Kind, Results, Row};

use super::FILE_NAME;
use super::run_data::RunData;
use crate::ComparisonTable;

pub use page::render;

/// A comparison as its folder describes it.
///
/// # Example
///
/// Of a comparison that the program has begun, in which no run is finished yet:
///
/// ```
/// use crescendo_logging::report::{ComparisonData, forest_plot, render_comparison};
/// # use crescendo_training::comparison::Comparison;
/// # let folder = tempfile::tempdir().unwrap();
/// # let folder = folder.path();
/// # let comparison = Comparison::load::<&str>("width", &[])?;
/// # comparison.record(&crescendo_data::shapes::generate(0, 100, 50)).write(folder)?;
///
/// let comparison = ComparisonData::read(folder)?;
/// let page = render_comparison(&comparison);
/// assert!(page.contains("How much accuracy do half as many"));
/// assert!(page.contains("0 of 9 runs are finished"));
/// // The differences of several comparisons in one picture.
/// assert!(forest_plot(&[comparison]).starts_with("<svg "));
/// # Ok::<(), crescendo_training::Error>(())
/// ```
#[derive(Debug)]
pub struct ComparisonData {
    folder: PathBuf,
    /// The file of the page, from which links lead to the runs.
    page: PathBuf,
    record: ComparisonRecord,
    results: Results,
    /// The runs with results whose folders are still there; their group is the number of the arm.
    runs: Vec<RunData>,
}

impl ComparisonData {
    /// Reads the folder of a comparison, finished or not.
    ///
    /// # Errors
    /// If `folder` is not a comparison's folder, or a file in it or in the folder of a finished run is damaged.
    pub fn read(folder: &Path) -> Result<Self, Error> {
        let record = ComparisonRecord::read(folder)?;
        let results = Results::open(&folder.join("results.csv"), record.evaluated_on)?;
        let mut runs = Vec::new();
        for (group, arm) in results.arms(&record).iter().enumerate() {
            for row in &arm.rows {
                let run = run_folder(folder, row);
                // The user may have removed the folders of finished runs.
                if run.exists() {
                    let mut run = RunData::read(&run)?;
                    (run.label, run.group) = (run_name(arm.name, row.seed), group);
                    runs.push(run);
                }
            }
        }
        let page = folder.join(FILE_NAME);
        Ok(ComparisonData { folder: folder.to_owned(), page, record, results, runs })
    }

    /// Has the page's links lead from `page`, where it will be written. Without it the page is to lie in the comparison's
    /// folder.
    pub fn link_from(&mut self, page: &Path) {
        self.page = page.to_owned();
    }

    /// The comparison's folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The outcome as a table.
    pub fn table(&self) -> ComparisonTable {
        ComparisonTable::new(&self.record, &self.results)
    }
}

/// The folder of the run that a result is of, in a comparison's folder; the user may have removed it.
fn run_folder(comparison: &Path, row: &Row) -> PathBuf {
    Kind::of(row).run_folder(comparison, &row.arm, row.seed)
}

fn run_name(arm: &str, seed: u64) -> String {
    format!("{arm} / seed {seed}")
}
