//! What `predict` prints and writes.

use std::path::Path;

use crescendo::logging::quote_csv;
use crescendo::training::{Error, write_atomically};
use serde_json::{Value, json};

use super::say;
use crate::npy;

/// The format of the file of probabilities.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Format {
    Npy,
    Csv,
}

impl Format {
    /// The format that a file's name asks for.
    ///
    /// # Errors
    /// If it asks for another one.
    pub fn of(path: &Path) -> Result<Self, Error> {
        let ending = path.extension().unwrap_or_default();
        let is = |known: &str| ending.eq_ignore_ascii_case(known);
        match () {
            () if is("npy") => Ok(Format::Npy),
            () if is("csv") => Ok(Format::Csv),
            () => {
                Err(Error::bad(path, "is not written: give --out a name that ends in .npy or .csv"))
            }
        }
    }
}

/// The probabilities of images.
pub struct Predictions<'a> {
    /// A name for each image.
    pub names: &'a [String],
    pub classes: &'a [String],
    /// `[images, classes]`.
    pub probabilities: &'a [f64],
}

impl Predictions<'_> {
    /// The name and the probabilities of each image, with its classes in descending order of probability.
    fn images(&self) -> impl Iterator<Item = (&String, &[f64], Vec<usize>)> {
        let rows = self.probabilities.chunks_exact(self.classes.len());
        self.names.iter().zip(rows).map(|(name, row)| {
            let mut order: Vec<usize> = (0..row.len()).collect();
            order.sort_by(|&a, &b| row[b].total_cmp(&row[a]));
            (name, row, order)
        })
    }

    /// Prints the three most probable classes of each image.
    pub fn print(&self) -> Result<(), Error> {
        for (name, row, order) in self.images() {
            let top = order.iter().take(3);
            let top = top.map(|&class| format!("{} {:.4}", self.classes[class], row[class]));
            say!("{name}: {}", top.collect::<Vec<_>>().join(", "))?;
        }
        Ok(())
    }

    pub fn json(&self) -> Value {
        let images = self.images().map(|(name, row, order)| {
            json!({ "file": name, "class": self.classes[order[0]], "probabilities": row })
        });
        json!({ "classes": self.classes, "predictions": images.collect::<Vec<_>>() })
    }

    /// Writes them to a file, atomically.
    pub fn write(&self, path: &Path, format: Format) -> Result<(), Error> {
        write_atomically(path, |file| match format {
            Format::Npy => npy::write_f64(file, self.probabilities, self.classes.len()),
            Format::Csv => file.write_all(self.csv().as_bytes()),
        })
    }

    /// A row for each image: its file, the most probable class, and the probability of each class.
    fn csv(&self) -> String {
        let classes: String =
            self.classes.iter().map(|class| format!(",{}", quote_csv(class))).collect();
        let mut text = format!("file,class{classes}\n");
        for (name, row, order) in self.images() {
            let class = &self.classes[order[0]];
            let numbers: String = row.iter().map(|probability| format!(",{probability}")).collect();
            text += &format!("{},{}{numbers}\n", quote_csv(name), quote_csv(class));
        }
        text
    }
}
