//! Values of options: numbers, with errors that say what is accepted.

use std::ffi::OsStr;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;

use clap::builder::{OsStringValueParser, PossibleValue, TypedValueParser};
use clap::{Arg, Command};
use crescendo::network::DeviceKind;

/// A parser of paths that recipes and runs record as text: they are what a run is resumed from.
pub fn recorded_path() -> impl TypedValueParser<Value = String> {
    OsStringValueParser::new().try_map(|path| {
        path.into_string().map_err(|_| {
            "it is not UTF-8, and could not be recorded: rename it, or give a link to it that has another \
             name"
        })
    })
}

/// A parser of whole numbers in `range`.
pub fn whole_number<T>(
    range: RangeInclusive<T>,
) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static
where
    T: FromStr + Display + PartialOrd + Clone + Send + Sync + 'static,
{
    move |text| {
        let number = text.parse().ok().filter(|number| range.contains(number));
        number.ok_or_else(|| {
            format!("expected a whole number from {} to {}", range.start(), range.end())
        })
    }
}

/// A parser of numbers above 0 and at most `most`.
pub fn number_up_to(most: f64) -> impl Fn(&str) -> Result<f64, String> + Clone {
    move |text| {
        let number = text.parse().ok().filter(|number| *number > 0.0 && *number <= most);
        number.ok_or_else(|| format!("expected a number above 0 and at most {most}"))
    }
}

/// Parses a number between 0 and 1, both excluded.
pub fn fraction(text: &str) -> Result<f64, String> {
    let fraction = text.parse().ok().filter(|fraction| *fraction > 0.0 && *fraction < 1.0);
    fraction.ok_or_else(|| "expected a number between 0 and 1, such as 0.2".to_owned())
}

/// Parses a number of bytes such as `80GiB`.
pub fn bytes(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, f64); 6] = [
        ("MiB", 1_048_576.0),
        ("GiB", 1_073_741_824.0),
        ("TiB", 1_099_511_627_776.0),
        ("MB", 1e6),
        ("GB", 1e9),
        ("TB", 1e12),
    ];
    let bytes = with_unit(text, &UNITS).filter(|bytes| (1e6..1e18).contains(bytes));
    bytes
        .map(|bytes| bytes as u64)
        .ok_or_else(|| "expected a size with its unit, such as 80GiB or 512MiB".to_owned())
}

/// Parses a number of bits a second such as `10G`.
pub fn bits(text: &str) -> Result<f64, String> {
    let bare =
        ["bit/s", "bits/s", "bit", "b/s", "bps"].iter().find_map(|unit| text.strip_suffix(unit));
    let rate = with_unit(bare.unwrap_or(text), &[("M", 1e6), ("G", 1e9), ("T", 1e12)]);
    rate.filter(|rate| (1e5..=1e15).contains(rate)).ok_or_else(|| {
        "expected bits (not bytes) a second with their unit, such as 10G or 100Mbit/s".to_owned()
    })
}

/// Parses a number of seconds such as `20us`.
pub fn latency(text: &str) -> Result<f64, String> {
    let seconds = with_unit(text, &[("ns", 1e-9), ("us", 1e-6), ("µs", 1e-6), ("ms", 1e-3)]);
    seconds
        .filter(|seconds| (0.0..=10.0).contains(seconds))
        .ok_or_else(|| "expected a time with its unit, such as 20us or 1ms".to_owned())
}

/// The number in a text that ends in one of these units, each with its factor.
fn with_unit(text: &str, units: &[(&str, f64)]) -> Option<f64> {
    units.iter().find_map(|(unit, factor)| {
        let number: f64 = text.strip_suffix(unit)?.trim_end().parse().ok()?;
        Some(number * factor)
    })
}

/// The value of `--device`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestedDevice {
    /// Its kind.
    pub kind: DeviceKind,
    /// The card, if a particular one is asked for.
    pub card: Option<usize>,
}

/// Parses a device: `auto`, `cpu`, `cuda`, or `cuda:1`.
pub fn requested_device(text: &str) -> Result<RequestedDevice, String> {
    let (kind, card) = match text.split_once(':') {
        Some(("cuda", card)) => ("cuda", card.parse().ok().map(Some)),
        Some(_) => (text, None),
        None => (text, Some(None)),
    };
    let kind = DeviceKind::ALL.into_iter().find(|one| one.name() == kind);
    let requested = kind.zip(card).map(|(kind, card)| RequestedDevice { kind, card });
    requested.ok_or_else(|| {
        "expected auto, cpu, cuda, or cuda:1 for the card with this number".to_owned()
    })
}

/// The parser of `--device`, which also tells completions what it may be.
#[derive(Clone, Copy)]
pub struct DeviceParser;

impl TypedValueParser for DeviceParser {
    type Value = RequestedDevice;

    fn parse_ref(
        &self,
        command: &Command,
        argument: Option<&Arg>,
        value: &OsStr,
    ) -> Result<Self::Value, clap::Error> {
        requested_device.parse_ref(command, argument, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(DeviceKind::ALL.into_iter().map(|kind| PossibleValue::new(kind.name()))))
    }
}

/// Which of a run's checkpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// That after an epoch.
    Epoch(u32),
    /// That with the highest validation accuracy.
    Best,
    /// The latest weights.
    Last,
}

/// Parses an epoch up to `most`, `best` or `last`.
pub fn which(most: u32) -> impl Fn(&str) -> Result<Which, String> + Clone {
    move |text| match text {
        "best" => Ok(Which::Best),
        "last" => Ok(Which::Last),
        epoch => match epoch.parse() {
            Ok(epoch) if epoch <= most => Ok(Which::Epoch(epoch)),
            _ => Err(format!("expected an epoch from 0 to {most}, best or last")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_are_checked_against_their_range() {
        let parse = whole_number(1..=20_u32);
        assert_eq!((parse("1"), parse("20")), (Ok(1), Ok(20)));
        for text in ["", "0", "21", "-1", "1.5", "x", "99999999999999999999"] {
            assert_eq!(
                parse(text),
                Err("expected a whole number from 1 to 20".to_owned()),
                "{text}"
            );
        }
    }

    #[test]
    fn checkpoints_are_epochs_or_names() {
        let parse = which(90);
        let expected = [Which::Epoch(0), Which::Epoch(90), Which::Best, Which::Last];
        assert_eq!(["0", "90", "best", "last"].map(|text| parse(text).unwrap()), expected);
        for text in ["", "91", "-1", "Best", "1.5"] {
            assert!(parse(text).unwrap_err().contains("best or last"), "{text}");
        }
    }

    #[test]
    fn networks_have_units() {
        let near = |value: Result<f64, String>, expected: f64| {
            (value.unwrap() / expected - 1.0).abs() < 1e-12
        };
        assert!(near(bits("10G"), 1e10) && near(bits("2.5 G"), 2.5e9) && near(bits("100M"), 1e8));
        assert!(near(bits("100Mbit/s"), 1e8) && near(bits("25 Gbps"), 2.5e10));
        assert!(near(latency("20us"), 2e-5) && near(latency("1.5ms"), 1.5e-3));
        assert!(near(latency("2µs"), 2e-6));
        assert_eq!(latency("0us"), Ok(0.0));
        for text in ["", "10", "G", "-1G", "1e9G", "x"] {
            assert!(bits(text).unwrap_err().contains("10G"), "{text}");
            assert!(latency(text).unwrap_err().contains("20us"), "{text}");
        }
    }

    #[test]
    fn devices_are_kinds_with_the_number_of_a_card() {
        let parsed = |text: &str| requested_device(text).map(|it| (it.kind.name(), it.card));
        assert_eq!(parsed("auto"), Ok(("auto", None)));
        assert_eq!(parsed("cpu"), Ok(("cpu", None)));
        assert_eq!(parsed("cuda"), Ok(("cuda", None)));
        assert_eq!(parsed("cuda:12"), Ok(("cuda", Some(12))));
        for text in ["", "gpu", "CUDA", "cuda:", "cuda:x", "cuda:-1", "cpu:0", "cuda:0,1", "auto:1"]
        {
            assert!(parsed(text).unwrap_err().contains("cuda:1"), "{text}");
        }
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!(bytes("80GiB"), Ok(80 << 30));
        assert_eq!(bytes("1.5 GB"), Ok(1_500_000_000));
        assert_eq!(bytes("512MiB"), Ok(512 << 20));
        for text in ["", "80", "GiB", "0GiB", "-1GiB", "nanGiB", "infGiB", "80gib", "1e30GiB"] {
            assert!(bytes(text).unwrap_err().contains("80GiB"), "{text}");
        }
    }

    #[test]
    fn numbers_are_checked_against_their_range() {
        let parse = number_up_to(3_600.0);
        assert_eq!((parse("0.5"), parse("3600")), (Ok(0.5), Ok(3600.0)));
        for text in ["", "0", "-1", "3601", "nan", "inf", "x"] {
            let problem = "expected a number above 0 and at most 3600";
            assert_eq!(parse(text), Err(problem.to_owned()), "{text}");
        }
        assert_eq!(fraction("0.2"), Ok(0.2));
        for text in ["", "0", "1", "-1", "nan", "half"] {
            assert!(fraction(text).unwrap_err().contains("between 0 and 1"), "{text}");
        }
    }
}
