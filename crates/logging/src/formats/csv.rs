//! Comma-separated values, with quoting as in RFC 4180.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crescendo_training::Error;

/// A CSV file in memory. Columns are found by name, because files of earlier versions have fewer.
#[derive(Debug)]
pub struct CsvTable {
    path: PathBuf,
    header: Vec<String>,
    /// Each row with the number of its first line.
    rows: Vec<(usize, Vec<String>)>,
}

/// A row of a [`CsvTable`].
pub struct CsvRow<'a> {
    table: &'a CsvTable,
    line: usize,
    cells: &'a [String],
}

impl CsvTable {
    /// Reads the table at `path`; `None` if there is no file.
    ///
    /// # Errors
    /// If the file cannot be read or is not a valid table.
    pub fn read(path: &Path) -> Result<Option<Self>, Error> {
        match fs::read_to_string(path) {
            Ok(text) => Self::parse(path, &text).map(Some),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io("read", path, error)),
        }
    }

    /// Parses the table in `text`; `path` is the file that errors name. A last line without a line
    /// break is ignored: the program was killed while it was written.
    ///
    /// # Errors
    /// If a row has another number of cells than the header, or a quote is not closed.
    pub fn parse(path: &Path, text: &str) -> Result<Self, Error> {
        let text = text.rfind('\n').map_or("", |end| &text[..=end]);
        let bad = |line: usize, problem: &str| {
            let problem = format!("line {line} {problem}: restore the file as `train` wrote it");
            Error::bad(path, problem)
        };
        let mut records = records(text).map_err(|line| bad(line, "has an unclosed quote"))?;
        if records.is_empty() {
            return Ok(CsvTable { path: path.to_owned(), header: Vec::new(), rows: Vec::new() });
        }
        let (_, header) = records.remove(0);
        if let Some((line, cells)) = records.iter().find(|(_, cells)| cells.len() != header.len()) {
            let (cells, columns) = (cells.len(), header.len());
            return Err(bad(
                *line,
                &format!("has {cells} cells, but the header has {columns} columns"),
            ));
        }
        Ok(CsvTable { path: path.to_owned(), header, rows: records })
    }

    /// The rows below the header.
    pub fn rows(&self) -> impl Iterator<Item = CsvRow<'_>> {
        self.rows.iter().map(|(line, cells)| CsvRow { table: self, line: *line, cells })
    }
}

impl CsvRow<'_> {
    /// The cell in the named column; empty if there is no such column.
    pub fn text(&self, column: &str) -> &str {
        let index = self.table.header.iter().position(|name| name == column);
        index.map_or("", |index| &self.cells[index])
    }

    /// The number in a cell; `None` if the cell is empty.
    ///
    /// # Errors
    /// If the cell is not a finite number.
    pub fn number(&self, column: &str) -> Result<Option<f64>, Error> {
        match self.text(column).trim() {
            "" => Ok(None),
            text => match text.parse::<f64>() {
                Ok(number) if number.is_finite() => Ok(Some(number)),
                _ => Err(self.bad(column, "a number")),
            },
        }
    }

    /// The integer in a cell; `None` if the cell is empty.
    ///
    /// # Errors
    /// If the cell is not a non-negative integer.
    pub fn integer(&self, column: &str) -> Result<Option<u64>, Error> {
        match self.text(column).trim() {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|_| self.bad(column, "an integer")),
        }
    }

    /// The number in the column `epoch`, counted from 1.
    ///
    /// # Errors
    /// If it is not a positive integer.
    pub fn epoch(&self) -> Result<u32, Error> {
        let epoch = self.text("epoch").trim().parse().ok().filter(|&epoch| epoch > 0);
        epoch.ok_or_else(|| self.bad("epoch", "an epoch number, counted from 1"))
    }

    /// The number in a cell that must not be empty.
    ///
    /// # Errors
    /// If the cell is not a finite number.
    pub fn required(&self, column: &str) -> Result<f64, Error> {
        self.number(column)?.ok_or_else(|| self.bad(column, "a number"))
    }

    fn bad(&self, column: &str, wanted: &str) -> Error {
        let (line, found) = (self.line, self.text(column));
        let found: String = found.chars().take(40).collect();
        let problem = format!(
            "line {line} has {found:?} as {column}, expected {wanted}: restore the file as `train` \
             wrote it"
        );
        Error::bad(&self.table.path, problem)
    }
}

/// A text as a cell, in quotes if it needs them.
pub fn quote(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}

/// All records with the number of their first line. The error is the line of an unclosed quote.
fn records(text: &str) -> Result<Vec<(usize, Vec<String>)>, usize> {
    let mut records = Vec::new();
    let (mut cells, mut cell) = (Vec::new(), String::new());
    let (mut line, mut first, mut quoted) = (1, 1, None);
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        line += usize::from(character == '\n');
        match (character, quoted) {
            ('"', Some(_)) if characters.next_if_eq(&'"').is_some() => cell.push('"'),
            ('"', Some(_)) => quoted = None,
            ('"', None) if cell.is_empty() => quoted = Some(line),
            (',', None) => cells.push(std::mem::take(&mut cell)),
            ('\r', None) if characters.peek() == Some(&'\n') => {}
            ('\n', None) => {
                cells.push(std::mem::take(&mut cell));
                records.push((first, std::mem::take(&mut cells)));
                first = line;
            }
            (character, _) => cell.push(character),
        }
    }
    quoted.map_or(Ok(records), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<CsvTable, Error> {
        CsvTable::parse(Path::new("run/epochs.csv"), text)
    }

    #[test]
    fn cells_survive_quoting() {
        let hostile = ["plain", "a, b", "say \"so\"", "two\nlines\r\n", "", "<b>&amp;"];
        for text in hostile {
            let table = parse(&format!("epoch,reason\r\n3,{}\n", quote(text))).unwrap();
            let rows: Vec<CsvRow> = table.rows().collect();
            assert_eq!((rows.len(), rows[0].text("reason")), (1, text));
            assert_eq!(rows[0].epoch().unwrap(), 3);
        }
    }

    #[test]
    fn columns_are_found_by_name_and_may_be_missing() {
        let table = parse("train_loss,epoch,validation_loss\n1.5,2,\n").unwrap();
        let row = table.rows().next().unwrap();
        assert_eq!(row.required("train_loss").unwrap(), 1.5);
        assert_eq!(row.number("validation_loss").unwrap(), None);
        assert_eq!(row.integer("updates").unwrap(), None);
        assert!(parse("").unwrap().rows().next().is_none());
    }

    #[test]
    fn an_incomplete_last_line_is_ignored() {
        let table = parse("epoch,train_loss\n1,2.5\n2,1.").unwrap();
        assert_eq!(table.rows().count(), 1);
    }

    #[test]
    fn errors_name_the_line() {
        let complaint = |text: &str| match parse(text) {
            Err(error) => error.to_string(),
            Ok(table) => {
                let row = table.rows().last().unwrap();
                let problem = row.epoch().and_then(|_| row.required("train_loss"));
                problem.and_then(|_| row.integer("updates")).unwrap_err().to_string()
            }
        };
        for (text, parts) in [
            ("epoch,train_loss\n1,2\n2\n", ["line 3", "1 cells"]),
            ("epoch,train_loss\n1,2\n\n", ["line 3", "1 cells"]),
            ("epoch,train_loss\n1,\"2\n3,4\n", ["line 2", "quote"]),
            ("epoch,train_loss\n0,2\n", ["line 2", "epoch number"]),
            ("epoch,train_loss\n-1,2\n", ["line 2", "\"-1\""]),
            ("epoch,train_loss\n1,NaN\n", ["line 2", "\"NaN\" as train_loss"]),
            ("epoch,train_loss\n1,\n", ["line 2", "\"\" as train_loss"]),
            ("epoch,train_loss,updates\n1,2,1e99\n", ["line 2", "updates"]),
        ] {
            let complaint = complaint(text);
            assert!(complaint.starts_with("run/epochs.csv: line "), "{complaint}");
            assert!(parts.iter().all(|part| complaint.contains(part)), "{text:?}: {complaint}");
        }
    }
}
