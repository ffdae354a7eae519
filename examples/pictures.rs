//! Draws the pictures of the documents, `docs/pictures`, from the tables in `docs/comparisons` and `docs/runs`: the
//! differences of several comparisons in one forest plot, and accuracies over the time of training. Both drawings are
//! the library's own, so they can be made of other runs too.
//!
//! ```text
//! cargo run --release --example pictures
//! ```

use std::error::Error;
use std::fs;
use std::path::Path;

use crescendo::logging::report::{ComparisonData, TimeCurve, accuracy_over_time, forest_plot};

const COMPARISONS: [&str; 6] =
    ["grow-or-decay", "beyond-1000", "activations", "head", "width", "depth"];
const RUNS: [&str; 3] = ["fast94", "fast95", "report-fast"];
/// The paper's test accuracy.
const PAPER: (&str, f64) = ("the paper:", 0.9356);

fn main() -> Result<(), Box<dyn Error>> {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    for (name, svg) in draw(&docs)? {
        let path = docs.join("pictures").join(name);
        fs::write(&path, svg)?;
        println!("{}", path.display());
    }
    Ok(())
}

/// The pictures' names and their content.
pub fn draw(docs: &Path) -> Result<[(&'static str, String); 2], Box<dyn Error>> {
    let mut comparisons = Vec::new();
    for name in COMPARISONS {
        comparisons.push(ComparisonData::read(&docs.join("comparisons").join(name))?);
    }
    let mut curves = Vec::new();
    for name in RUNS {
        let table = fs::read_to_string(docs.join("runs").join(name).join("curve.csv"))?;
        curves.push(TimeCurve { name: name.to_owned(), points: points(&table)? });
    }
    let (title, of) = ("Test accuracy over minutes of training", "on two cores");
    Ok([
        ("comparisons.svg", forest_plot(&comparisons)),
        ("time-to-accuracy.svg", accuracy_over_time(title, of, 0.7, &curves, Some(PAPER))),
    ])
}

/// Seconds and accuracies in a table with the columns epoch, seconds and test_accuracy.
fn points(table: &str) -> Result<Vec<(f64, f64)>, Box<dyn Error>> {
    let mut points = Vec::new();
    for line in table.lines().skip(1) {
        let cells: Vec<&str> = line.split(',').collect();
        let [_, seconds, accuracy] = cells[..] else {
            return Err(format!("{line:?} has no seconds and accuracy").into());
        };
        points.push((seconds.parse()?, accuracy.parse()?));
    }
    Ok(points)
}
