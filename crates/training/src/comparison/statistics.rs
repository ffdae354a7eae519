//! Means, standard deviations, and whether a difference over a few seeds is significant.

/// A mean and a standard deviation.
///
/// See the example of [the module `comparison`](crate::comparison).
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Spread {
    /// The mean.
    pub mean: f64,
    /// The sample standard deviation (with `n - 1`); 0 for a single number.
    pub deviation: f64,
}

/// A mean of differences in pairs.
///
/// See the example of [the module `comparison`](crate::comparison).
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Difference {
    /// The mean over the pairs.
    pub mean: f64,
    /// Half the width of the 95 % confidence interval (Student's t); `None` for a single pair.
    pub margin: Option<f64>,
    /// The number of pairs.
    pub pairs: usize,
}

/// Whether a difference is significant at the 5 % level.
///
/// See the example of [the module `comparison`](crate::comparison).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// Significant: the whole confidence interval is above zero.
    Above,
    /// Significant: the whole interval is below zero.
    Below,
    /// Not significant: zero lies in the interval, or there is no interval.
    Undecided,
}

impl Verdict {
    /// The word for it: "better", "worse" or "undecided".
    pub fn name(self) -> &'static str {
        match self {
            Verdict::Above => "better",
            Verdict::Below => "worse",
            Verdict::Undecided => "undecided",
        }
    }
}

impl Spread {
    /// The mean and standard deviation of some numbers.
    ///
    /// # Panics
    /// If there are no numbers.
    pub fn of(numbers: &[f64]) -> Self {
        let count = numbers.len() as f64;
        assert!(count > 0.0, "no numbers");
        let mean = numbers.iter().sum::<f64>() / count;
        let squares: f64 = numbers.iter().map(|number| (number - mean).powi(2)).sum();
        Spread { mean, deviation: (squares / (count - 1.0).max(1.0)).sqrt() }
    }
}

impl Difference {
    /// The mean of the differences in some pairs, with its confidence interval.
    ///
    /// # Panics
    /// If there are no pairs.
    pub fn of(differences: &[f64]) -> Self {
        let Spread { mean, deviation } = Spread::of(differences);
        let pairs = differences.len();
        let margin = (pairs > 1).then(|| t_quantile(pairs - 1) * deviation / (pairs as f64).sqrt());
        Difference { mean, margin, pairs }
    }

    /// The ends of the 95 % confidence interval; `None` for a single pair.
    pub fn interval(&self) -> Option<(f64, f64)> {
        self.margin.map(|margin| (self.mean - margin, self.mean + margin))
    }

    /// Whether the difference is significant.
    pub fn verdict(&self) -> Verdict {
        match self.interval() {
            Some((low, _)) if low > 0.0 => Verdict::Above,
            Some((_, high)) if high < 0.0 => Verdict::Below,
            _ => Verdict::Undecided,
        }
    }
}

/// The 97.5 % quantile of Student's t distribution: by table for up to 30 degrees of freedom, and beyond by
/// an expansion around the normal distribution (Abramowitz and Stegun 26.7.5), accurate to 1e-4 there.
fn t_quantile(freedom: usize) -> f64 {
    const TABLE: [f64; 30] = [
        12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281, 2.2010,
        2.1788, 2.1604, 2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860, 2.0796, 2.0739,
        2.0687, 2.0639, 2.0595, 2.0555, 2.0518, 2.0484, 2.0452, 2.0423,
    ];
    if let Some(&quantile) = TABLE.get(freedom - 1) {
        return quantile;
    }
    let (x, n) = (1.959_964_f64, freedom as f64);
    let first = (x.powi(3) + x) / 4.0;
    let second = (5.0 * x.powi(5) + 16.0 * x.powi(3) + 3.0 * x) / 96.0;
    x + first / n + second / (n * n)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn confidence_intervals_agree_with_hand_computed_ones() {
        let spread = Spread::of(&[1.0, 2.0, 3.0]);
        assert_eq!((spread.mean, spread.deviation), (2.0, 1.0));
        assert_eq!(Spread::of(&[5.0]), Spread { mean: 5.0, deviation: 0.0 });
        let difference = Difference::of(&[1.0, 2.0, 3.0]);
        let margin = 4.3027 / 3f64.sqrt();
        assert!((difference.margin.unwrap() - margin).abs() < 1e-12);
        let (low, high) = difference.interval().unwrap();
        assert!((low - (2.0 - margin)).abs() < 1e-12 && (high - (2.0 + margin)).abs() < 1e-12);
        assert_eq!((difference.pairs, difference.verdict()), (3, Verdict::Undecided));
        assert_eq!(Difference::of(&[2.0, 2.1, 1.9]).verdict(), Verdict::Above);
        assert_eq!(Difference::of(&[-2.0, -2.1, -1.9]).verdict(), Verdict::Below);
        assert_eq!(Difference::of(&[2.0]).verdict(), Verdict::Undecided);
    }

    #[test]
    fn quantiles_continue_beyond_the_table() {
        assert!((t_quantile(31) - 2.0395).abs() < 1e-4);
        assert!((t_quantile(60) - 2.0003).abs() < 1e-4);
        assert!((t_quantile(100_000) - 1.960).abs() < 1e-3);
    }
}
