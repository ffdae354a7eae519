//! Values of options: numbers, with errors that say what is accepted.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;

use clap::builder::{OsStringValueParser, TypedValueParser};

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
