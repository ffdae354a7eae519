//! The outcome of a comparison as a table: the same cells for its page, for `table.md` and for the terminal.

use crescendo_training::comparison::{
    ArmResults, BatchNormStatistics, ComparisonRecord, Difference, Kind, Results, Row,
};

use crate::messages::display_seconds;

/// The outcome of a comparison, a line for each arm, with the question and what the numbers are.
///
/// # Example
///
/// ```
/// use crescendo_logging::ComparisonTable;
/// use crescendo_training::comparison::{Comparison, Results};
///
/// let comparison = Comparison::load::<&str>("width", &[])?;
/// let record = comparison.record(&crescendo_data::shapes::generate(0, 100, 50));
/// # let folder = tempfile::tempdir().unwrap();
/// # let file = folder.path().join("results.csv");
/// let table = ComparisonTable::new(&record, &Results::open(&file, record.evaluated_on)?);
/// assert!(table.markdown().contains("| arm      | against width-16 |"));
/// // For a terminal of 80 columns.
/// assert!(table.text(80).lines().all(|line| line.chars().count() <= 80));
/// # Ok::<(), crescendo_training::Error>(())
/// ```
pub struct ComparisonTable {
    name: String,
    question: Option<String>,
    source: Option<String>,
    /// What the numbers are.
    pub(crate) caption: String,
    /// The results of the present kind.
    pub(crate) present: Cells,
    /// Those of other kinds, each with what it is.
    pub(crate) apart: Vec<(String, Cells)>,
}

/// The cells of one kind of results.
pub(crate) struct Cells {
    pub header: Vec<String>,
    /// A row for each arm.
    pub rows: Vec<Vec<String>>,
}

/// The columns with the differences from the base, with running and with precise BatchNorm statistics.
pub const AGAINST_BASE: [usize; 2] = [1, 5];

const NOTHING: &str = "-";

impl ComparisonTable {
    /// The table of these results.
    pub fn new(record: &ComparisonRecord, results: &Results) -> Self {
        let arms = results.arms(record);
        let mut present = Cells::new(record, &arms);
        let mut caption = caption(record);
        let apart: Vec<(String, Cells)> = results
            .apart(record)
            .iter()
            .map(|apart| (apart.kind.to_string(), Cells::new(record, &apart.arms)))
            .collect();
        let words = if apart.is_empty() { device } else { |row: &Row| Kind::of(row).to_string() };
        let kinds: Vec<Option<String>> = arms.iter().map(|arm| all_of(arm, words)).collect();
        let all = distinct(kinds.iter().flatten().cloned());
        // What is the same of all is said once; otherwise it must be told apart.
        if let [one] = &all[..] {
            let by = if apart.is_empty() { "on" } else { "by" };
            caption += &format!(" Trained {by} {one}.");
        } else if !all.is_empty() {
            present.header.push(if apart.is_empty() { "device" } else { "trained by" }.into());
            let cells = kinds.into_iter().map(|one| one.unwrap_or_else(|| NOTHING.into()));
            present.rows.iter_mut().zip(cells).for_each(|(row, cell)| row.push(cell));
        }
        if !apart.is_empty() {
            caption += " Results of another version, device, precision or choice of validation images are shown apart; \
                        no difference is computed between them and these.";
        }
        ComparisonTable {
            name: record.name.clone(),
            question: record.question.clone(),
            source: record.source.clone(),
            caption,
            present,
            apart,
        }
    }

    /// As a Markdown document.
    pub fn markdown(&self) -> String {
        let mut text = format!("# {}\n\n", self.name);
        for paragraph in self.introduction() {
            text += &format!("{paragraph}\n\n");
        }
        text += &self.present.markdown();
        for (kind, cells) in &self.apart {
            text += &format!("\n## {APART}: {kind}\n\n{}", cells.markdown());
        }
        text
    }

    /// As text for a terminal of so many columns. What does not fit beside the arms' names follows below, with the names
    /// again.
    pub fn text(&self, columns: usize) -> String {
        let mut text = String::new();
        for paragraph in self.introduction() {
            text += &format!("{}\n\n", wrapped(&paragraph, columns));
        }
        text += &self.present.text(columns);
        for (kind, cells) in &self.apart {
            let heading = wrapped(&format!("{APART}: {kind}"), columns);
            text += &format!("\n{heading}\n\n{}", cells.text(columns));
        }
        text
    }

    /// The question, its source and what the numbers are.
    fn introduction(&self) -> impl Iterator<Item = String> {
        let source = self.source.as_ref().map(|source| format!("Source: {source}"));
        [self.question.clone(), source, Some(self.caption.clone())].into_iter().flatten()
    }
}

/// The heading of results that are not of the present kind.
pub const APART: &str = "Other results";

impl Cells {
    fn new(record: &ComparisonRecord, arms: &[ArmResults]) -> Self {
        let base = &record.arms[0].name;
        let mut header = vec![
            "arm".to_owned(),
            format!("against {base}"),
            "accuracy, %".into(),
            "updates".into(),
            "time".into(),
            "against, precise BN".into(),
            "precise BN, %".into(),
            "train loss".into(),
        ];
        let mut rows: Vec<Vec<String>> = arms.iter().map(cells).collect();
        // The seeds are in the caption; here it is said which of them are not finished.
        if arms.iter().any(|arm| arm.rows.len() < record.seeds.len()) {
            header.push("seeds".into());
            rows.iter_mut().zip(arms).for_each(|(row, arm)| row.push(arm.rows.len().to_string()));
        }
        Cells { header, rows }
    }

    fn markdown(&self) -> String {
        let widths = self.widths();
        let line = |cells: &[String]| {
            let cells = cells.iter().zip(&widths).map(|(cell, &width)| format!(" {cell:<width$} "));
            format!("|{}|\n", cells.collect::<Vec<_>>().join("|"))
        };
        let rule: Vec<String> = widths.iter().map(|&width| "-".repeat(width)).collect();
        let head = line(&self.header) + &line(&rule);
        head + &self.rows.iter().map(|row| line(row)).collect::<String>()
    }

    fn text(&self, columns: usize) -> String {
        const GAP: usize = 2;
        let mut text = String::new();
        let widths = self.widths();
        let mut next = 1;
        while next < widths.len() {
            let (first, mut taken) = (next, widths[0]);
            while next < widths.len() && (next == first || taken + GAP + widths[next] <= columns) {
                taken += GAP + widths[next];
                next += 1;
            }
            if first > 1 {
                text.push('\n');
            }
            for row in std::iter::once(&self.header).chain(&self.rows) {
                let shown = std::iter::once(0).chain(first..next);
                let cells =
                    shown.map(|at| format!("{:<width$}", row[at], width = widths[at] + GAP));
                text += cells.collect::<String>().trim_end();
                text.push('\n');
            }
        }
        text
    }

    fn widths(&self) -> Vec<usize> {
        let all = || std::iter::once(&self.header).chain(&self.rows);
        let width = |column: usize| all().map(|row| row[column].chars().count()).max().unwrap_or(0);
        (0..self.header.len()).map(width).collect()
    }
}

/// What the numbers are.
fn caption(record: &ComparisonRecord) -> String {
    let seeds: Vec<String> = record.seeds.iter().map(u64::to_string).collect();
    let (word, base) = (if seeds.len() == 1 { "Seed" } else { "Seeds" }, &record.arms[0].name);
    format!(
        "{word} {} on {}, {} {} images. Accuracy: mean ± standard deviation over the seeds. Against {base}: mean of the \
         differences between runs of the same seed, in points, ± half its 95 % confidence interval. Precise BN: the \
         statistics of BatchNorm recomputed over {} training images.",
        seeds.join(", "),
        record.data,
        record.images,
        record.evaluated_on.name(),
        record.bn_images,
    )
}

fn cells(arm: &ArmResults) -> Vec<String> {
    let or_nothing = |text: Option<String>| text.unwrap_or_else(|| NOTHING.to_owned());
    let mean =
        |of: fn(&Row) -> f64, format: fn(f64) -> String| or_nothing(arm.mean(of).map(format));
    let [running, precise] =
        [BatchNormStatistics::Running, BatchNormStatistics::Precise].map(|statistics| {
            let difference = arm.difference(statistics);
            let against = difference.map(|difference| {
                format!("{}, {}", points(&difference), difference.verdict().name())
            });
            let accuracy = arm.spread(statistics).map(|spread| match arm.rows.len() {
                1 => format!("{:.2}", 100.0 * spread.mean),
                _ => format!("{:.2} ± {:.2}", 100.0 * spread.mean, 100.0 * spread.deviation),
            });
            (or_nothing(against), or_nothing(accuracy))
        });
    vec![
        arm.name.to_owned(),
        running.0,
        running.1,
        mean(|row| row.updates as f64, |updates| format!("{updates:.0}")),
        mean(|row| row.seconds, display_seconds),
        precise.0,
        precise.1,
        mean(|row| row.train_loss, |loss| format!("{loss:.4}")),
    ]
}

/// A difference in points of accuracy, with half the width of its interval.
pub fn points(difference: &Difference) -> String {
    let mean = 100.0 * difference.mean;
    match difference.margin {
        Some(margin) => format!("{mean:+.2} ± {:.2}", 100.0 * margin),
        None => format!("{mean:+.2}"),
    }
}

/// What computed a result.
pub fn device(row: &Row) -> String {
    format!("{} in {}", row.device.name(), row.precision.name())
}

/// What `words` say of the results of an arm.
fn all_of(arm: &ArmResults, words: fn(&Row) -> String) -> Option<String> {
    let all = distinct(arm.rows.iter().map(|row| words(row)));
    (!all.is_empty()).then(|| all.join(", "))
}

fn distinct(texts: impl Iterator<Item = String>) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for text in texts {
        if !all.contains(&text) {
            all.push(text);
        }
    }
    all
}

/// A text in lines of at most so many columns, as far as its words are not longer.
fn wrapped(text: &str, columns: usize) -> String {
    let (mut lines, mut line) = (String::new(), String::new());
    for word in text.split_whitespace() {
        if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > columns {
            lines += &format!("{line}\n");
            line.clear();
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line += word;
    }
    lines + &line
}

#[cfg(test)]
pub(crate) mod tests {
    use crescendo_data::ValidationChoice;
    use crescendo_network::{DeviceKind, PrecisionKind};
    use crescendo_training::comparison::Comparison;

    use super::*;

    pub fn row(arm: &str, seed: u64, running: f64, precise: f64) -> Row {
        Row {
            arm: arm.into(),
            seed,
            fingerprint: "00ff".into(),
            running,
            precise,
            train_loss: 0.25,
            updates: 4700,
            seconds: 90.0,
            device: DeviceKind::Cpu,
            precision: PrecisionKind::F32,
            version: "0.2.0".into(),
            validation: ValidationChoice::Random,
        }
    }

    /// `width` with three seeds: accuracies of the base are 80, 81 and 82 %; `width-8` is worse by 1, 2 and 3 points,
    /// with precise statistics by 2, 2.1 and 1.9; `width-24` has one seed, with half a point more.
    pub fn known(folder: &std::path::Path) -> (ComparisonRecord, Results) {
        let comparison = Comparison::load::<&str>("width", &[]).unwrap();
        let record = comparison.record(&crescendo_data::shapes::generate(0, 100, 50));
        let mut results = Results::open(&folder.join("results.csv"), record.evaluated_on).unwrap();
        for (seed, base, other, precise) in
            [(0, 0.80, 0.79, 0.78), (1, 0.81, 0.79, 0.789), (2, 0.82, 0.79, 0.801)]
        {
            results.add(row("width-16", seed, base, base)).unwrap();
            results.add(row("width-8", seed, other, precise)).unwrap();
        }
        results.add(row("width-24", 1, 0.815, 0.81)).unwrap();
        (record, results)
    }

    #[test]
    fn the_cells_are_those_worked_out_by_hand() {
        let folder = tempfile::tempdir().unwrap();
        let (record, results) = known(folder.path());
        let table = ComparisonTable::new(&record, &results);
        // Of -1, -2 and -3: the deviation is 1, and 4.3027 / sqrt(3) = 2.484. Of -2, -2.1 and -1.9: a tenth of it.
        assert_eq!(
            table.present.rows[1],
            [
                "width-8",
                "-2.00 ± 2.48, undecided",
                "79.00 ± 0.00",
                "4700",
                "1:30 min",
                "-2.00 ± 0.25, worse",
                "79.00 ± 1.05",
                "0.2500",
                "3"
            ]
        );
        assert_eq!(table.present.rows[2][1..3], ["+0.50, undecided", "81.50"]);
        assert_eq!(table.present.rows[0][1..3], ["-", "81.00 ± 1.00"]);
        assert!(table.caption.ends_with(" Trained on cpu in f32."), "{}", table.caption);
        assert_eq!(AGAINST_BASE.map(|at| &table.present.header[at][..7]), ["against"; 2]);
        assert_eq!(table.present.header[8], "seeds");
    }

    #[test]
    fn other_kinds_are_shown_apart_with_differences_of_their_own() {
        let folder = tempfile::tempdir().unwrap();
        let (mut record, mut results) = known(folder.path());
        let old = |row: Row| Row { version: "0.1.0".into(), ..row };
        for row in [row("width-16", 0, 0.5, 0.5), row("width-24", 0, 0.6, 0.6)] {
            results.add(old(row)).unwrap();
        }
        let kind = Kind::of(&row("width-16", 0, 0.5, 0.5));
        record.arms.iter_mut().for_each(|arm| arm.kind = Some(kind.clone()));
        let table = ComparisonTable::new(&record, &results);
        assert_eq!(table.present.rows[1][1], "-2.00 ± 2.48, undecided");
        assert_eq!(table.present.rows[2][1..3], ["+0.50, undecided", "81.50"]);
        assert!(
            table.caption.contains(" Trained by crescendo 0.2.0 on cpu in f32. Results of another")
        );
        let [(kind, apart)] = &table.apart[..] else { panic!("{} kinds", table.apart.len()) };
        assert_eq!(kind, "crescendo 0.1.0 on cpu in f32");
        assert_eq!(apart.rows[0][1..3], ["-", "50.00"]);
        assert_eq!(apart.rows[1][1..3], ["-", "-"]);
        assert_eq!(apart.rows[2][1..3], ["+10.00, undecided", "60.00"]);
        for text in [table.markdown(), table.text(60)] {
            let parts: Vec<&str> =
                text.split("Other results: crescendo 0.1.0 on cpu in f32").collect();
            assert!(
                parts.len() == 2 && parts[1].contains("60.00") && !parts[0].contains("60.00"),
                "{text}"
            );
        }
        // An arm that names a device of its own is compared with the others.
        let cuda = |row: Row| Row { device: DeviceKind::Cuda, ..row };
        record.arms[2].kind.as_mut().unwrap().device = DeviceKind::Cuda;
        results.add(cuda(row("width-24", 0, 0.81, 0.8))).unwrap();
        let table = ComparisonTable::new(&record, &results);
        assert_eq!(table.present.rows[2][1], "+1.00, undecided");
        assert_eq!(table.present.rows[2][9], "crescendo 0.2.0 on cuda in f32");
        assert_eq!(table.apart.len(), 2);
    }

    #[test]
    fn the_terminal_and_the_file_show_the_same_cells() {
        let folder = tempfile::tempdir().unwrap();
        let (record, results) = known(folder.path());
        let table = ComparisonTable::new(&record, &results);
        let (markdown, narrow, wide) = (table.markdown(), table.text(60), table.text(200));
        for text in [&markdown, &narrow, &wide] {
            for cell in table.present.rows.iter().flatten().chain(&table.present.header) {
                assert!(text.contains(&cell[..]), "no {cell} in {text}");
            }
            assert!(text.contains("How much accuracy do") && text.contains("Source: "), "{text}");
        }
        assert!(narrow.lines().all(|line| line.chars().count() <= 60), "{narrow}");
        let of_arm = |text: &str| text.lines().filter(|line| line.starts_with("width-8")).count();
        assert_eq!([of_arm(&narrow), of_arm(&wide)], [3, 1], "{narrow}");
        assert_eq!(wrapped("one two  three", 7), "one two\nthree");
        assert_eq!(wrapped("longer than that", 3), "longer\nthan\nthat");
    }
}
