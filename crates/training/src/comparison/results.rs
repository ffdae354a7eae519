//! The table of results, with one row for each arm and seed. It is kept in a file, so that no run is repeated.

use std::fs;
use std::path::{Path, PathBuf};

use crescendo_data::ValidationChoice;
use crescendo_network::{DeviceKind, IsaKind, PrecisionKind};
use sha2::{Digest, Sha256};

use super::Kind;
use crate::atomic_file::write_atomically;
use crate::events::EvaluatedSplit;
use crate::recipe::SaveEvery;
use crate::{Error, Recipe};

/// The result of an arm with one seed.
///
/// See the example of [the module `comparison`](crate::comparison).
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The arm's name.
    pub arm: String,
    /// The seed.
    pub seed: u64,
    /// Identifies recipe and data: see [`Results::fingerprint`].
    pub fingerprint: String,
    /// The accuracy, from 0 to 1, on the images that the comparison is
    /// [evaluated on](super::ComparisonRecord::evaluated_on), with the running BatchNorm statistics.
    pub running: f64,
    /// The same with precise statistics.
    pub precise: f64,
    /// The mean loss of the last epoch.
    pub train_loss: f64,
    /// Updates.
    pub updates: u64,
    /// Seconds of training.
    pub seconds: f64,
    /// The device that trained it.
    pub device: DeviceKind,
    /// Its precision, never `auto`.
    pub precision: PrecisionKind,
    /// The version of the program that began the run.
    pub version: String,
    /// How validation images were chosen from the training images.
    pub validation: ValidationChoice,
}

/// The two accuracies of a [`Row`].
///
/// See the example of [the module `comparison`](crate::comparison).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BatchNormStatistics {
    /// With the running statistics of BatchNorm.
    Running,
    /// With statistics that were recomputed over training images with the final weights.
    Precise,
}

impl Row {
    /// The accuracy with these statistics.
    pub fn accuracy(&self, statistics: BatchNormStatistics) -> f64 {
        match statistics {
            BatchNormStatistics::Running => self.running,
            BatchNormStatistics::Precise => self.precise,
        }
    }
}

/// The table, and the file in which it is kept.
///
/// See the example of [the module `comparison`](crate::comparison).
#[derive(Clone, Debug, PartialEq)]
pub struct Results {
    path: PathBuf,
    evaluated_on: EvaluatedSplit,
    rows: Vec<Row>,
}

/// The first line of a file of the first versions, which names the images of the evaluation.
fn first_header(evaluated_on: EvaluatedSplit) -> String {
    let name = evaluated_on.name();
    format!(
        "arm,seed,fingerprint,{name}_accuracy,precise_{name}_accuracy,train_loss,updates,seconds"
    )
}

/// The columns that earlier versions did not have, in the order in which they came, with what their rows were.
const LATER_COLUMNS: [(&str, &str); 2] =
    [(",device,precision", ",cpu,f32"), (",version,validation", ",0.1.0,random")];

/// The first line of the file.
fn header(evaluated_on: EvaluatedSplit) -> String {
    let later = LATER_COLUMNS.map(|(names, _)| names).concat();
    format!("{}{later}", first_header(evaluated_on))
}

/// What is missing at the end of the rows of a file with this first line; `None` if it is not the first line of a table
/// with these images.
fn missing(first: &str, evaluated_on: EvaluatedSplit) -> Option<String> {
    let mut header = first_header(evaluated_on);
    for (index, (names, _)) in LATER_COLUMNS.iter().enumerate() {
        if first == header {
            return Some(LATER_COLUMNS[index..].iter().map(|(_, values)| *values).collect());
        }
        header += names;
    }
    (first == header).then(String::new)
}

impl Results {
    /// The table in a file, or an empty one if there is no file.
    ///
    /// # Errors
    /// If the file cannot be read or is damaged.
    pub fn open(path: &Path, evaluated_on: EvaluatedSplit) -> Result<Self, Error> {
        let mut results = Results { path: path.to_owned(), evaluated_on, rows: Vec::new() };
        if !path.exists() {
            return Ok(results);
        }
        let text = fs::read_to_string(path).map_err(|error| Error::io("read", path, error))?;
        let mut lines = text.lines().enumerate();
        let first = lines.next().map_or("", |line| line.1);
        let Some(missing) = missing(first, evaluated_on) else {
            let problem = "is not a table of a comparison's results on the same kind of images: choose \
                           another folder with --out";
            return Err(Error::bad(path, problem));
        };
        for (index, line) in lines {
            let row = parse(&format!("{line}{missing}"));
            let row = row.ok_or_else(|| {
                let problem = format!("line {} is damaged: correct or remove it", index + 1);
                Error::bad(path, problem)
            })?;
            let is_same = |other: &Row| {
                (&other.arm, other.seed) == (&row.arm, row.seed)
                    && Kind::of(other) == Kind::of(&row)
            };
            if results.rows.iter().any(is_same) {
                let (line, Row { arm, seed, .. }) = (index + 1, row);
                let problem = format!(
                    "line {line} has arm {arm}, seed {seed} again: remove one of the two lines"
                );
                return Err(Error::bad(path, problem));
            }
            results.rows.push(row);
        }
        Ok(results)
    }

    /// Everything that decides an arm's result, as 16 hexadecimal digits: the recipe as a run keeps it (without the
    /// keys that say what of the CPU computes it), the data, and the number of images for precise statistics.
    pub fn fingerprint(recipe: &Recipe, data_fingerprint: &str, bn_images: usize) -> String {
        let mut recipe = recipe.clone();
        recipe.engine.threads = 0;
        recipe.engine.tiles = 0;
        recipe.engine.isa = IsaKind::Auto;
        if recipe.engine.device == DeviceKind::Cpu {
            recipe.engine.device = DeviceKind::Auto;
            recipe.engine.precision = PrecisionKind::Auto;
        }
        recipe.batch.memory_limit = 0.0;
        recipe.train.log_steps = false;
        // What every recipe had that does not say it, before there was `auto`.
        if recipe.train.save_every_minutes == SaveEvery::Minutes(5.0) {
            recipe.train.save_every_minutes = SaveEvery::Auto;
        }
        let text = recipe.differences().join("\n");
        let digest = Sha256::digest(format!("{text}\n{data_fingerprint}\n{bn_images}"));
        digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }

    /// The row of an arm and a seed that is of this kind, if there is one. `fingerprint` is what rows of the arm's recipe
    /// have that such an engine has trained.
    ///
    /// # Errors
    /// If there is a row of any kind with another recipe or other data.
    pub fn find(
        &self,
        arm: &str,
        seed: u64,
        kind: &Kind,
        fingerprint: impl Fn(DeviceKind, PrecisionKind) -> String,
    ) -> Result<Option<&Row>, Error> {
        let of_arm = || self.rows.iter().filter(|row| row.arm == arm && row.seed == seed);
        if of_arm().any(|row| row.fingerprint != fingerprint(row.device, row.precision)) {
            let problem = format!(
                "has a result of arm {arm}, seed {seed}, that belongs to another recipe or other data: rename the \
                 changed arm, or choose another folder with --out"
            );
            return Err(Error::bad(&self.path, problem));
        }
        Ok(of_arm().find(|row| Kind::of(row) == *kind))
    }

    /// Adds a row, and writes the file again.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn add(&mut self, row: Row) -> Result<(), Error> {
        self.rows.push(row);
        let mut text = format!("{}\n", header(self.evaluated_on));
        for row in &self.rows {
            let Row { arm, seed, fingerprint, running, precise, train_loss, updates, .. } = row;
            let (device, precision) = (row.device.name(), row.precision.name());
            let (version, validation) = (&row.version, row.validation.name());
            text += &format!(
                "{arm},{seed},{fingerprint},{running:.4},{precise:.4},{train_loss:.6},{updates},\
                 {:.1},{device},{precision},{version},{validation}\n",
                row.seconds
            );
        }
        write_atomically(&self.path, |file| file.write_all(text.as_bytes()))
    }

    /// The device of the last row of these arms, if there is one.
    pub fn device(&self, is_one: impl Fn(&str) -> bool) -> Option<DeviceKind> {
        self.rows.iter().rfind(|row| is_one(&row.arm)).map(|row| row.device)
    }

    /// All rows.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }
}

fn parse(line: &str) -> Option<Row> {
    let cells: Vec<&str> = line.split(',').collect();
    let [
        arm,
        seed,
        fingerprint,
        running,
        precise,
        train_loss,
        updates,
        seconds,
        device,
        precision,
        version,
        validation,
    ] = cells.try_into().ok()?;
    let number = |text: &str| text.parse::<f64>().ok().filter(|number| number.is_finite());
    Some(Row {
        arm: arm.into(),
        seed: seed.parse().ok()?,
        fingerprint: fingerprint.into(),
        running: number(running)?,
        precise: number(precise)?,
        train_loss: number(train_loss)?,
        updates: updates.parse().ok()?,
        seconds: number(seconds)?,
        device: DeviceKind::ALL.into_iter().find(|kind| kind.name() == device)?,
        precision: PrecisionKind::ALL.into_iter().find(|kind| kind.name() == precision)?,
        version: version.into(),
        validation: ValidationChoice::ALL.into_iter().find(|choice| choice.name() == validation)?,
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub fn row(arm: &str, seed: u64, running: f64) -> Row {
        Row {
            arm: arm.into(),
            seed,
            fingerprint: "00ff".into(),
            running,
            precise: running + 0.01,
            train_loss: 1.25,
            updates: 100 + seed,
            seconds: 12.5,
            device: DeviceKind::Cpu,
            precision: PrecisionKind::F32,
            version: "0.2.0".into(),
            validation: ValidationChoice::Random,
        }
    }

    #[test]
    fn the_table_can_be_read_again_and_refuses_changed_arms() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("results.csv");
        let mut results = Results::open(&path, EvaluatedSplit::Test).unwrap();
        results.add(row("a", 0, 0.5)).unwrap();
        results.add(row("b", 0, 0.75)).unwrap();
        assert_eq!(Results::open(&path, EvaluatedSplit::Test).unwrap(), results);
        let find = |arm: &str, seed, fingerprint: &str| {
            results.find(arm, seed, &Kind::of(&row("b", 0, 0.75)), |_, _| fingerprint.to_owned())
        };
        assert_eq!(find("b", 0, "00ff").unwrap(), Some(&row("b", 0, 0.75)));
        assert_eq!(find("b", 1, "00ff").unwrap(), None);
        let problem = find("b", 0, "00fe").unwrap_err().to_string();
        assert!(problem.contains("arm b, seed 0") && problem.contains("results.csv"), "{problem}");

        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replace("b,0", "a,0")).unwrap();
        assert!(
            Results::open(&path, EvaluatedSplit::Test)
                .unwrap_err()
                .to_string()
                .contains("line 3 has arm a, seed 0")
        );
        fs::write(&path, text.replace("0.7500", "nan")).unwrap();
        assert!(
            Results::open(&path, EvaluatedSplit::Test)
                .unwrap_err()
                .to_string()
                .contains("line 3 is damaged")
        );
        fs::write(&path, &text).unwrap();
        assert!(Results::open(&path, EvaluatedSplit::Validation).is_err());
        // Earlier versions had no versions, and before that one device.
        let mut old = text.clone();
        let mut read = results.clone();
        for (names, values, cells) in
            [(",version,validation", ",0.2.0,random", 10), (",device,precision", ",cpu,f32", 8)]
        {
            old = old.replace(names, "").replace(values, "");
            assert!(old.lines().all(|line| line.split(',').count() == cells), "{old}");
            fs::write(&path, &old).unwrap();
            read = Results::open(&path, EvaluatedSplit::Test).unwrap();
            let of_now = |row: &Row| Row { version: "0.2.0".into(), ..row.clone() };
            assert!(read.rows().iter().all(|row| row.version == "0.1.0"));
            assert_eq!(read.rows().iter().map(of_now).collect::<Vec<_>>(), results.rows());
        }
        read.add(Row {
            device: DeviceKind::Cuda,
            precision: PrecisionKind::Bf16,
            ..row("c", 0, 0.5)
        })
        .unwrap();
        assert_eq!(Results::open(&path, EvaluatedSplit::Test).unwrap(), read);
        assert!(fs::read_to_string(&path).unwrap().ends_with(",12.5,cuda,bf16,0.2.0,random\n"));
        fs::write(&path, "something else").unwrap();
        assert!(
            Results::open(&path, EvaluatedSplit::Test).unwrap_err().to_string().contains("--out")
        );
    }

    #[test]
    fn rows_of_other_kinds_are_other_rows_and_must_be_of_the_same_recipe() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("results.csv");
        let mut results = Results::open(&path, EvaluatedSplit::Validation).unwrap();
        let this = row("a", 0, 0.5);
        let others = [
            Row { version: "0.1.0".into(), ..this.clone() },
            Row { device: DeviceKind::Cuda, fingerprint: "cuda".into(), ..this.clone() },
            Row { precision: PrecisionKind::Bf16, ..this.clone() },
            Row { validation: ValidationChoice::Stratified, ..this.clone() },
        ];
        let fingerprint = |device, _| match device {
            DeviceKind::Cuda => "cuda".to_owned(),
            _ => "00ff".to_owned(),
        };
        for (count, other) in others.iter().enumerate() {
            results.add(other.clone()).unwrap();
            assert_eq!(results.device(|arm| arm == "a"), Some(other.device));
            assert_eq!(results.device(|arm| arm == "b"), None);
            let find = |row: &Row| results.find("a", 0, &Kind::of(row), fingerprint).unwrap();
            assert_eq!(find(&this), None);
            assert!(others[..=count].iter().all(|row| find(row) == Some(row)));
        }
        results.add(this.clone()).unwrap();
        let read = Results::open(&path, EvaluatedSplit::Validation).unwrap();
        assert_eq!(read, results);
        assert_eq!(read.find("a", 0, &Kind::of(&this), fingerprint).unwrap(), Some(&this));
        let other_recipe = |device, _| match device {
            DeviceKind::Cuda => "another".to_owned(),
            _ => "00ff".to_owned(),
        };
        let problem = read.find("a", 0, &Kind::of(&this), other_recipe).unwrap_err().to_string();
        assert!(problem.contains("another recipe"), "{problem}");
        // A later version with the same digits is of the same kind.
        let text = fs::read_to_string(&path).unwrap();
        fs::write(
            &path,
            format!("{text}{}", text.lines().last().unwrap().replace("0.2.0", "0.2.9")),
        )
        .unwrap();
        let problem = Results::open(&path, EvaluatedSplit::Validation).unwrap_err().to_string();
        assert!(problem.contains("line 7 has arm a, seed 0 again"), "{problem}");
    }

    #[test]
    fn what_of_the_cpu_computes_an_arm_does_not_change_it_and_a_gpu_does() {
        let recipe = |change: &str| Recipe::load("quick", &[change]).unwrap();
        let fingerprint = |change: &str| Results::fingerprint(&recipe(change), "data", 100);
        assert_eq!(fingerprint("engine.threads=1"), fingerprint("batch.memory_limit=3.0"));
        assert_eq!(fingerprint("engine.device=cpu"), fingerprint("engine.isa=portable"));
        let on_cuda = |precision: &str| {
            let recipe = recipe("engine.device=cuda").with(precision).unwrap();
            Results::fingerprint(&recipe, "data", 100)
        };
        let [f32, bf16] = ["f32", "bf16"].map(|kind| on_cuda(&format!("engine.precision={kind}")));
        assert!(f32 != bf16 && f32 != fingerprint("engine.device=cpu"));
        let every = |value: &str| fingerprint(&format!("train.save_every_minutes={value}"));
        assert_eq!(every("5"), every("auto"));
        assert_ne!(fingerprint("train.seed=1"), fingerprint("train.seed=2"));
        assert_ne!(
            fingerprint("train.seed=1"),
            Results::fingerprint(&recipe("train.seed=1"), "other", 100)
        );
    }
}
