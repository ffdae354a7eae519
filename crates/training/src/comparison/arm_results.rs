//! The results of an arm over a comparison's seeds, beside those of the base.

use super::{BatchNormStatistics, ComparisonRecord, Difference, Kind, Results, Row, Spread};

/// The results of an arm over a comparison's seeds, all of one kind.
///
/// See the example of [the module `comparison`](crate::comparison).
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ArmResults<'a> {
    /// The arm's name.
    pub name: &'a str,
    /// Its results, in the order of the comparison's seeds; seeds without one are left out.
    pub rows: Vec<&'a Row>,
    /// Those of the base; `None` if it is the base itself.
    base: Option<Vec<&'a Row>>,
}

/// The results of a kind that is not the present one of their arms.
///
/// # Example
///
/// ```
/// use crescendo_training::comparison::{ApartResults, Comparison, Results};
///
/// let comparison = Comparison::load("head", &["engine.device=cpu"])?;
/// let record = comparison.record(&crescendo_data::shapes::generate(0, 100, 50));
/// # let folder = tempfile::tempdir().unwrap();
/// # let file = folder.path().join("results.csv");
/// # std::fs::write(&file, "arm,seed,fingerprint,test_accuracy,precise_test_accuracy,train_loss,updates,seconds\n\
/// #     two-layers,0,c420862a31cf9c35,0.8304,0.8327,0.370483,4700,446.8\n").unwrap();
/// // A file of version 0.1.0.
/// let results = Results::open(&file, record.evaluated_on)?;
/// assert!(results.arms(&record)[0].rows.is_empty());
/// let ApartResults { kind, arms, .. } = &results.apart(&record)[0];
/// assert_eq!((&kind.version[..], arms[0].rows.len()), ("0.1.0", 1));
/// # Ok::<(), crescendo_training::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ApartResults<'a> {
    /// The kind.
    pub kind: Kind,
    /// The results of each arm of the comparison, in the order of its arms.
    pub arms: Vec<ArmResults<'a>>,
}

impl Results {
    /// The results of each arm of a comparison that are of its present kind, in the order of its arms: the base first.
    pub fn arms<'a>(&'a self, record: &'a ComparisonRecord) -> Vec<ArmResults<'a>> {
        let present = self.present(record);
        self.of_kinds(record, |arm| present[arm].as_ref())
    }

    /// The other results of its arms and seeds, by their kinds, in the order in which these first appear.
    pub fn apart<'a>(&'a self, record: &'a ComparisonRecord) -> Vec<ApartResults<'a>> {
        let present = self.present(record);
        let mut apart: Vec<ApartResults> = Vec::new();
        for row in self.rows() {
            let kind = Kind::of(row);
            let arm = record.arms.iter().position(|arm| arm.name == row.arm);
            let is_shown = arm.is_some_and(|arm| present[arm].as_ref() != Some(&kind))
                && record.seeds.contains(&row.seed);
            if is_shown && apart.iter().all(|other| other.kind != kind) {
                // Rows of this kind that are an arm's present ones are not shown twice.
                let of =
                    |arm: usize| Some(&kind).filter(|kind| present[arm].as_ref() != Some(kind));
                apart.push(ApartResults { arms: self.of_kinds(record, of), kind });
            }
        }
        apart
    }

    /// The present kind of each arm, if it has one.
    fn present(&self, record: &ComparisonRecord) -> Vec<Option<Kind>> {
        let last = |name: &str| self.rows().iter().rfind(|row| row.arm == name).map(Kind::of);
        record.arms.iter().map(|arm| arm.kind.clone().or_else(|| last(&arm.name))).collect()
    }

    /// The results of each arm that are of the kind that is chosen for it.
    fn of_kinds<'a, 'k>(
        &'a self,
        record: &'a ComparisonRecord,
        kind: impl Fn(usize) -> Option<&'k Kind>,
    ) -> Vec<ArmResults<'a>> {
        let of = |index: usize| -> Vec<&'a Row> {
            let (name, kind) = (&record.arms[index].name, kind(index));
            let is_of = |row: &&Row| row.arm == *name && Some(&Kind::of(row)) == kind;
            let row = |&seed| self.rows().iter().filter(is_of).find(|row| row.seed == seed);
            record.seeds.iter().filter_map(row).collect()
        };
        let arm = |index: usize| ArmResults {
            name: &record.arms[index].name,
            rows: of(index),
            base: (index > 0).then(|| of(0)),
        };
        (0..record.arms.len()).map(arm).collect()
    }
}

impl ArmResults<'_> {
    /// Whether it is the arm that the others are compared with.
    pub fn is_base(&self) -> bool {
        self.base.is_none()
    }

    /// The accuracy over the seeds; `None` before the first result.
    pub fn spread(&self, statistics: BatchNormStatistics) -> Option<Spread> {
        let numbers: Vec<f64> = self.rows.iter().map(|row| row.accuracy(statistics)).collect();
        (!numbers.is_empty()).then(|| Spread::of(&numbers))
    }

    /// By how much the accuracy is above that of the base, over the seeds that both have results for, of the same version
    /// and choice of validation images; `None` if there are none, and for the base.
    pub fn difference(&self, statistics: BatchNormStatistics) -> Option<Difference> {
        let base = self.base.as_ref()?;
        let pair = |row: &&Row| {
            let other = base.iter().find(|other| other.seed == row.seed)?;
            let is_comparable = Kind::of(row).differs_by_engine_alone(&Kind::of(other));
            is_comparable.then(|| row.accuracy(statistics) - other.accuracy(statistics))
        };
        let pairs: Vec<f64> = self.rows.iter().filter_map(pair).collect();
        (!pairs.is_empty()).then(|| Difference::of(&pairs))
    }

    /// The mean of a number of its results; `None` before the first one.
    pub fn mean(&self, of: impl Fn(&Row) -> f64) -> Option<f64> {
        let sum: f64 = self.rows.iter().map(|row| of(row)).sum();
        (!self.rows.is_empty()).then(|| sum / self.rows.len() as f64)
    }
}

#[cfg(test)]
mod tests {
    use crescendo_network::PrecisionKind;

    use super::*;
    use crate::comparison::Comparison;
    use crate::comparison::results::tests::row;

    #[test]
    fn differences_are_taken_in_pairs() {
        let mut comparison = Comparison::load::<&str>("head", &[]).unwrap();
        comparison.seeds = vec![0, 1];
        let record = comparison.record(&crescendo_data::shapes::generate(0, 100, 50));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("results.csv");
        let mut results = Results::open(&path, record.evaluated_on).unwrap();
        let (a, b) = (&record.arms[0].name, &record.arms[1].name);
        // Seed 7 does not belong to the comparison.
        for row in [row(b, 1, 0.9), row(a, 0, 0.5), row(b, 0, 0.6), row(a, 7, 0.1)] {
            results.add(row).unwrap();
        }
        let arms = results.arms(&record);
        assert_eq!(arms.iter().map(|arm| arm.rows.len()).collect::<Vec<_>>(), [1, 2, 0]);
        assert_eq!(arms[1].rows[0].seed, 0);
        assert!(arms[0].is_base() && !arms[1].is_base());
        let (running, precise) = (BatchNormStatistics::Running, BatchNormStatistics::Precise);
        let difference = arms[1].difference(running).unwrap();
        assert!((difference.mean - 0.1).abs() < 1e-12 && difference.margin.is_none());
        assert_eq!(difference.pairs, 1);
        assert!((arms[1].spread(precise).unwrap().mean - 0.76).abs() < 1e-12);
        assert_eq!(arms[1].mean(|row| row.updates as f64), Some(100.5));
        assert_eq!((arms[0].difference(running), arms[2].difference(running)), (None, None));
        assert_eq!((arms[2].spread(running), arms[2].mean(|row| row.seconds)), (None, None));
        assert!(results.apart(&record).is_empty());
    }

    #[test]
    fn no_difference_is_computed_between_kinds() {
        let record = |changes: &[&str]| {
            let mut comparison = Comparison::load("head", changes).unwrap();
            comparison.seeds = vec![0, 1];
            comparison.record(&crescendo_data::shapes::generate(0, 100, 50))
        };
        let known = record(&["engine.device=cpu"]);
        let (a, b) = (&known.arms[0].name, &known.arms[1].name);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("results.csv");
        let mut results = Results::open(&path, known.evaluated_on).unwrap();
        let old =
            |arm: &str, seed, accuracy| Row { version: "0.1.0".into(), ..row(arm, seed, accuracy) };
        for row in [old(a, 0, 0.5), old(b, 0, 0.6), old(b, 1, 0.9), row(a, 1, 0.7)] {
            results.add(row).unwrap();
        }
        let running = BatchNormStatistics::Running;
        let counts =
            |arms: &[ArmResults]| arms.iter().map(|arm| arm.rows.len()).collect::<Vec<_>>();
        // Seed 1 has a result of each arm, but of two kinds.
        let arms = results.arms(&known);
        assert_eq!((counts(&arms), arms[1].difference(running)), (vec![1, 0, 0], None));
        let apart = results.apart(&known);
        assert_eq!(apart.len(), 1);
        assert_eq!(apart[0].kind, Kind::of(&old(a, 0, 0.5)));
        assert_eq!(counts(&apart[0].arms), [1, 2, 0]);
        assert!((apart[0].arms[1].difference(running).unwrap().mean - 0.1).abs() < 1e-12);
        // Where the present kind is not known, it is that of an arm's last result.
        let unknown = record(&[]);
        let arms = results.arms(&unknown);
        assert_eq!((counts(&arms), arms[1].difference(running)), (vec![1, 2, 0], None));
        assert_eq!(counts(&results.apart(&unknown)[0].arms), [1, 0, 0]);
        // What arms differ in themselves is what is compared.
        let mut own = known.clone();
        own.arms[1].kind.as_mut().unwrap().precision = PrecisionKind::Bf16;
        results.add(Row { precision: PrecisionKind::Bf16, ..row(b, 1, 0.8) }).unwrap();
        let difference = results.arms(&own)[1].difference(running).unwrap();
        assert!((difference.mean - 0.1).abs() < 1e-12);
    }
}
