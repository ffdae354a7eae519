//! The results of an arm over a comparison's seeds, beside those of the base.

use super::{BatchNormStatistics, ComparisonRecord, Difference, Results, Row, Spread};

/// The results of an arm over a comparison's seeds.
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

impl Results {
    /// The results of each arm of a comparison, in the order of its arms: the base first.
    pub fn arms<'a>(&'a self, record: &'a ComparisonRecord) -> Vec<ArmResults<'a>> {
        let of = |arm: &str| -> Vec<&'a Row> {
            let row = |seed| self.rows().iter().find(|row| row.arm == arm && row.seed == seed);
            record.seeds.iter().filter_map(|&seed| row(seed)).collect()
        };
        let arm = |(index, name): (usize, &'a str)| ArmResults {
            name,
            rows: of(name),
            base: (index > 0).then(|| of(&record.arms[0].name)),
        };
        record.arms.iter().map(|arm| &arm.name[..]).enumerate().map(arm).collect()
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

    /// By how much the accuracy is above that of the base, over the seeds that both have results for; `None` if there
    /// are none, and for the base.
    pub fn difference(&self, statistics: BatchNormStatistics) -> Option<Difference> {
        let base = self.base.as_ref()?;
        let pair = |row: &&Row| {
            let other = base.iter().find(|other| other.seed == row.seed)?;
            Some(row.accuracy(statistics) - other.accuracy(statistics))
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
    }
}
