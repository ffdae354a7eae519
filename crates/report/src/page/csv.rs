//! Tables of comma-separated values, as a run's folder has them.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crescendo_training::Error;

/// A table in a file; columns are found by their names, because older programs wrote fewer.
#[derive(Debug)]
pub struct Table {
    path: PathBuf,
    header: Vec<String>,
    /// Each with the line that it begins in.
    rows: Vec<(usize, Vec<String>)>,
}

/// A row of a [`Table`].
pub struct Row<'a> {
    table: &'a Table,
    line: usize,
    cells: &'a [String],
}

impl Table {
    /// The table at `path`, if there is a file.
    ///
    /// # Errors
    /// If it cannot be read, or is no table.
    pub fn read(path: &Path) -> Result<Option<Self>, Error> {
        match fs::read_to_string(path) {
            Ok(text) => Self::parse(path, &text).map(Some),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io("read", path, error)),
        }
    }

    /// The table in `text`; `path` is what errors name.
    ///
    /// # Errors
    /// If rows have another number of cells than the header.
    pub fn parse(path: &Path, text: &str) -> Result<Self, Error> {
        // What a kill cut off in the middle of a row is no row.
        let text = text.rfind('\n').map_or("", |end| &text[..=end]);
        let bad = |line: usize, problem: &str| {
            let problem = format!("line {line} {problem}: put the file back as `train` wrote it");
            Error::bad(path, problem)
        };
        let mut records = records(text).map_err(|line| bad(line, "has a quote without its end"))?;
        if records.is_empty() {
            return Ok(Table { path: path.to_owned(), header: Vec::new(), rows: Vec::new() });
        }
        let (_, header) = records.remove(0);
        if let Some((line, cells)) = records.iter().find(|(_, cells)| cells.len() != header.len()) {
            let (cells, columns) = (cells.len(), header.len());
            return Err(bad(*line, &format!("has {cells} cells, but there are {columns} columns")));
        }
        Ok(Table { path: path.to_owned(), header, rows: records })
    }

    /// Its rows, without the header.
    pub fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        self.rows.iter().map(|(line, cells)| Row { table: self, line: *line, cells })
    }
}

impl Row<'_> {
    /// The cell in the column of this name; empty where there is no such column.
    pub fn text(&self, column: &str) -> &str {
        let index = self.table.header.iter().position(|name| name == column);
        index.map_or("", |index| &self.cells[index])
    }

    /// The number in a cell, if there is one.
    ///
    /// # Errors
    /// If the cell holds something else.
    pub fn number(&self, column: &str) -> Result<Option<f64>, Error> {
        match self.text(column).trim() {
            "" => Ok(None),
            text => match text.parse::<f64>() {
                Ok(number) if number.is_finite() => Ok(Some(number)),
                _ => Err(self.bad(column, "a number")),
            },
        }
    }

    /// The whole number in a cell, if there is one.
    ///
    /// # Errors
    /// If the cell holds something else.
    pub fn whole(&self, column: &str) -> Result<Option<u64>, Error> {
        match self.text(column).trim() {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|_| self.bad(column, "a whole number")),
        }
    }

    /// An epoch's number, from 1.
    ///
    /// # Errors
    /// If the cell holds something else.
    pub fn epoch(&self) -> Result<u32, Error> {
        let epoch = self.text("epoch").trim().parse().ok().filter(|&epoch| epoch > 0);
        epoch.ok_or_else(|| self.bad("epoch", "an epoch's number"))
    }

    /// A number that must be there.
    ///
    /// # Errors
    /// If it is not.
    pub fn required(&self, column: &str) -> Result<f64, Error> {
        self.number(column)?.ok_or_else(|| self.bad(column, "a number"))
    }

    fn bad(&self, column: &str, wanted: &str) -> Error {
        let (line, found) = (self.line, self.text(column));
        let found: String = found.chars().take(40).collect();
        let problem = format!(
            "line {line} has {found:?} as {column}, which is not {wanted}: put the file back as \
             `train` wrote it"
        );
        Error::bad(&self.table.path, problem)
    }
}

/// A text as a cell.
pub fn quote(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}

/// All records with their first lines, or the line of a quote that does not end.
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

    fn parse(text: &str) -> Result<Table, Error> {
        Table::parse(Path::new("run/epochs.csv"), text)
    }

    #[test]
    fn cells_survive_quoting() {
        let hostile = ["plain", "a, b", "say \"so\"", "two\nlines\r\n", "", "<b>&amp;"];
        for text in hostile {
            let table = parse(&format!("epoch,reason\r\n3,{}\n", quote(text))).unwrap();
            let rows: Vec<Row> = table.rows().collect();
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
        assert_eq!(row.whole("updates").unwrap(), None);
        assert!(parse("").unwrap().rows().next().is_none());
    }

    #[test]
    fn a_row_that_a_kill_cut_off_is_left_out() {
        let table = parse("epoch,train_loss\n1,2.5\n2,1.").unwrap();
        assert_eq!(table.rows().count(), 1);
    }

    #[test]
    fn damage_is_named_with_its_line() {
        let complaint = |text: &str| match parse(text) {
            Err(error) => error.to_string(),
            Ok(table) => {
                let row = table.rows().last().unwrap();
                let problem = row.epoch().and_then(|_| row.required("train_loss"));
                problem.and_then(|_| row.whole("updates")).unwrap_err().to_string()
            }
        };
        for (text, parts) in [
            ("epoch,train_loss\n1,2\n2\n", ["line 3", "1 cells"]),
            ("epoch,train_loss\n1,2\n\n", ["line 3", "1 cells"]),
            ("epoch,train_loss\n1,\"2\n3,4\n", ["line 2", "quote"]),
            ("epoch,train_loss\n0,2\n", ["line 2", "epoch's number"]),
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
