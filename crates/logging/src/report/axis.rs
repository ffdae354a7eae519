//! Axes: where a value lies between the ends of an axis, and which values have ticks.

/// The vertical axis of a panel.
#[derive(Clone, Debug)]
pub struct Axis {
    scale: Scale,
    low: f64,
    high: f64,
    /// The ticks: values and their labels.
    pub ticks: Vec<(f64, String)>,
}

/// What equal distances on an axis stand for.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Scale {
    /// Equal differences.
    Linear,
    /// Equal factors.
    Logarithmic,
}

/// The approximate number of ticks.
const TICKS: f64 = 5.0;
/// The most powers of ten that a logarithmic axis shows below its highest value.
const MAX_DECADES: i32 = 6;

impl Axis {
    /// A linear axis from `low` to `high`.
    pub fn linear(low: f64, high: f64) -> Self {
        Self::linear_with(low, high, TICKS)
    }

    /// The same with about so many ticks.
    pub fn linear_with(low: f64, high: f64, count: f64) -> Self {
        let (low, high) = if is_valid_range(low, high) { (low, high) } else { (0.0, 1.0) };
        let step = nice_step((high - low) / count);
        let label = |tick| (tick, number(tick, step));
        let ticks = multiples(low, high, step).into_iter().map(label).collect();
        Axis { scale: Scale::Linear, low, high, ticks }
    }

    /// A linear axis for fractions, labelled in percent.
    pub fn percent(low: f64, high: f64) -> Self {
        Self::percent_with(low, high, TICKS)
    }

    /// The same with about so many ticks.
    pub fn percent_with(low: f64, high: f64, count: f64) -> Self {
        let mut axis = Self::linear_with(100.0 * low, 100.0 * high, count);
        (axis.low, axis.high) = (axis.low / 100.0, axis.high / 100.0);
        for (tick, label) in &mut axis.ticks {
            *tick /= 100.0;
            label.push('%');
        }
        axis
    }

    /// A logarithmic axis around all `values`, with ticks that double from `first` on.
    pub fn doubling(first: f64, values: &[f64]) -> Self {
        let (low, high) = positive_range(values);
        let (low, high) = (low / 1.25, high * 1.25);
        let first = if (1e-100..1e100).contains(&first) { first } else { 1.0 };
        let (from, to) = ((low / first).log2().ceil(), (high / first).log2().floor());
        let stride = ((to - from + 1.0) / (TICKS + 2.0)).ceil().max(1.0);
        let ticks = multiples(from, to, stride).into_iter().map(|power| first * power.exp2());
        // Only whole numbers of images.
        let ticks = ticks.filter(|tick| tick.fract() == 0.0);
        let mut ticks: Vec<_> = ticks.map(|tick| (tick, number(tick, 1.0))).collect();
        if ticks.len() < 2 && high / low > 3.0 {
            ticks = decimal_ticks(low, high);
        }
        Axis { scale: Scale::Logarithmic, low, high, ticks }
    }

    /// A logarithmic axis around all `values`, with ticks at powers of ten and, if there is room,
    /// at twice and five times those.
    pub fn decades(values: &[f64]) -> Self {
        let (low, high) = positive_range(values);
        let (low, high) = (low / 1.6, high * 1.6);
        let ticks = decimal_ticks(low, high);
        Axis { scale: Scale::Logarithmic, low, high, ticks }
    }

    /// Whether the axis is logarithmic.
    pub fn is_logarithmic(&self) -> bool {
        self.scale == Scale::Logarithmic
    }

    /// The position of a value: 0 at the low end, 1 at the high end, limited to -0.5 to 1.5.
    pub fn position(&self, value: f64) -> f64 {
        let share = match self.scale {
            Scale::Linear => (value - self.low) / (self.high - self.low),
            Scale::Logarithmic if value <= 0.0 => 0.0,
            Scale::Logarithmic => (value / self.low).ln() / (self.high / self.low).ln(),
        };
        share.clamp(-0.5, 1.5)
    }
}

/// Ticks at the powers of ten between two values and, if those are few, at twice and five times
/// those.
fn decimal_ticks(low: f64, high: f64) -> Vec<(f64, String)> {
    let (from, to) = (low.log10().floor() as i32, high.log10().ceil() as i32);
    let digits: &[u32] = if to - from <= 3 { &[1, 2, 5] } else { &[1] };
    let all = (from..=to).flat_map(|power| digits.iter().map(move |digit| (*digit, power)));
    // Parsing the label gives exactly the value that it shows; arithmetic would round.
    let tick = |(digit, power): (u32, i32)| {
        let text = format!("{digit}e{power}");
        let value: f64 = text.parse().unwrap_or(0.0);
        (value, if (-4..6).contains(&power) { value.to_string() } else { text })
    };
    all.map(tick).filter(|(tick, _)| (low..=high).contains(tick)).collect()
}

/// About `count` ticks on an axis of epochs from 1 to `last`.
pub fn epoch_ticks(last: u32, count: f64) -> Vec<u32> {
    let step = nice_step(f64::from(last) / count).max(1.0);
    let ticks = multiples(0.0, f64::from(last), step).into_iter().map(|tick| tick as u32);
    let mut ticks: Vec<u32> = ticks.filter(|&tick| tick > 0).collect();
    if step >= 5.0 || ticks.is_empty() {
        ticks.insert(0, 1);
    }
    ticks
}

/// The smallest of 1, 2 and 5 times a power of ten that is not below `least`.
fn nice_step(least: f64) -> f64 {
    let power = 10_f64.powf(least.log10().floor());
    let step = [1.0, 2.0, 5.0].into_iter().find(|digit| digit * power >= least * (1.0 - 1e-9));
    step.unwrap_or(10.0) * power
}

/// The multiples of `step` from `low` to `high`.
fn multiples(low: f64, high: f64, step: f64) -> Vec<f64> {
    let (first, last) = ((low / step - 1e-9).ceil(), (high / step + 1e-9).floor());
    let count = if last >= first { (last - first).min(100.0) as u32 + 1 } else { 0 };
    // Adding zero turns -0 into 0, which has no sign in labels.
    (0..count).map(|index| (first + f64::from(index)) * step + 0.0).collect()
}

/// A number with as many decimals as ticks at this distance need.
fn number(value: f64, step: f64) -> String {
    if value.abs() >= 1e7 {
        return format!("{value:e}");
    }
    let digits = (-step.log10().floor()).clamp(0.0, 9.0) as usize;
    format!("{value:.digits$}")
}

fn is_valid_range(low: f64, high: f64) -> bool {
    // The difference is finite only if both ends are; it must be large enough to be divided into
    // ticks.
    (high - low).is_finite() && high - low > 1e-12 * high.abs().max(low.abs()).max(1e-200)
}

/// The smallest and largest positive value, at most [`MAX_DECADES`] powers of ten apart.
fn positive_range(values: &[f64]) -> (f64, f64) {
    let values = values.iter().copied().filter(|value| (1e-100..1e100).contains(value));
    let (low, high) =
        values.fold((f64::INFINITY, 0.0_f64), |(low, high), v| (low.min(v), high.max(v)));
    if high == 0.0 { (1.0, 1.0) } else { (low.max(high / 10_f64.powi(MAX_DECADES)), high) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn labels(axis: &Axis) -> Vec<&str> {
        axis.ticks.iter().map(|(_, label)| &label[..]).collect()
    }

    #[test]
    fn ticks_are_round_numbers() {
        assert_eq!(labels(&Axis::linear(0.0, 2.4)), ["0.0", "0.5", "1.0", "1.5", "2.0"]);
        assert_eq!(labels(&Axis::linear(0.0, 99.0)), ["0", "20", "40", "60", "80"]);
        assert_eq!(labels(&Axis::linear(-0.1, 0.1)), ["-0.10", "-0.05", "0.00", "0.05", "0.10"]);
        let percent = Axis::percent(0.1, 1.0);
        assert_eq!(labels(&percent), ["20%", "40%", "60%", "80%", "100%"]);
        assert!((percent.position(0.55) - 0.5).abs() < 1e-9);
        let sizes = [125.0, 250.0, 500.0, 1000.0];
        assert_eq!(labels(&Axis::doubling(125.0, &sizes)), ["125", "250", "500", "1000"]);
        assert_eq!(labels(&Axis::doubling(32.0, &[32.0])), ["32"]);
        let with_noise = Axis::doubling(125.0, &[125.0, 125.0, 31.5]);
        assert_eq!(labels(&with_noise), ["50", "100"]);
        assert_eq!(labels(&Axis::decades(&[0.1])), ["0.1"]);
        assert_eq!(labels(&Axis::decades(&[0.1, 0.01])), ["0.01", "0.02", "0.05", "0.1"]);
        assert_eq!(
            labels(&Axis::decades(&[3e-7, 1.0])),
            ["1e-6", "1e-5", "0.0001", "0.001", "0.01", "0.1", "1"]
        );
    }

    #[test]
    fn epochs_begin_with_one() {
        assert_eq!(epoch_ticks(90, 10.0), [1, 10, 20, 30, 40, 50, 60, 70, 80, 90]);
        assert_eq!(epoch_ticks(14, 10.0), [2, 4, 6, 8, 10, 12, 14]);
        assert_eq!(epoch_ticks(3, 10.0), [1, 2, 3]);
        assert_eq!(epoch_ticks(1, 10.0), [1]);
        assert!(epoch_ticks(u32::MAX, 10.0).len() < 20);
    }

    #[test]
    fn equal_factors_are_equally_far_apart_on_logarithmic_axes() {
        let axis = Axis::doubling(1.0, &[1.0, 16.0]);
        let steps =
            axis.position(4.0) - axis.position(2.0) - (axis.position(16.0) - axis.position(8.0));
        assert!(steps.abs() < 1e-12);
        assert_eq!(axis.position(0.0), 0.0);
    }

    proptest! {
        #[test]
        fn any_numbers_give_few_ticks_between_the_ends(a: f64, b: f64, first: f64) {
            for axis in [
                Axis::linear(a, b),
                Axis::percent(a, b),
                Axis::doubling(first, &[a, b]),
                Axis::decades(&[a, b]),
            ] {
                prop_assert!(axis.ticks.len() <= 12, "{axis:?}");
                for (tick, _) in &axis.ticks {
                    prop_assert!((-1e-6..=1.0 + 1e-6).contains(&axis.position(*tick)), "{axis:?}");
                }
                prop_assert!(!axis.position(a).is_infinite());
            }
        }
    }
}
