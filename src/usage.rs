//! Reading the command line, with advice for those who know other programs' options.

use std::ffi::OsString;

use clap::builder::StyledStr;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory, Parser};
use crescendo::training::loading::familiar_name;

use crate::cli::Cli;

/// The command line in these arguments, the first of which is the program's name. If it is wrong, or asks for help,
/// that is printed, and the exit code returned.
pub fn parse(arguments: &[OsString]) -> Result<Cli, u8> {
    Cli::try_parse_from(arguments).map_err(|error| {
        let words = arguments.iter().skip(1).map(|one| one.to_string_lossy().into_owned());
        let error = with_advice(error, &words.collect::<Vec<_>>());
        if crate::ranks::is_first() {
            // As clap does: a reader that is gone is no error.
            let _ = error.print();
        }
        error.exit_code() as u8
    })
}

/// An error about an option that there is not, with what does the same here.
fn with_advice(mut error: clap::Error, arguments: &[String]) -> clap::Error {
    let unknown = match (error.kind(), error.get(ContextKind::InvalidArg)) {
        (ErrorKind::UnknownArgument, Some(ContextValue::String(option))) => option,
        _ => return error,
    };
    if let Some(advice) = advice(unknown, arguments) {
        error.remove(ContextKind::SuggestedArg);
        let advice = ContextValue::StyledStrs(vec![StyledStr::from(advice)]);
        error.insert(ContextKind::Suggested, advice);
    }
    error
}

/// Keys with options of their own.
const OPTIONS: [(&str, &str); 6] = [
    ("train.epochs=", "epochs"),
    ("train.seed=", "seed"),
    ("train.seed=", "seeds"),
    ("engine.threads=", "threads"),
    ("engine.device=", "device"),
    ("train.log_steps=true", "log-steps"),
];

/// Keys whose values are something else than those of the options that other programs have.
const OTHER_VALUES: [&str; 11] = [
    "batch.memory_limit=",
    "batch.steps=",
    "data.augment=",
    "data.source=",
    "data.validation=",
    "engine.precision=",
    "network.blocks=",
    "network.family=",
    "network.widths=",
    "schedule.last=",
    "schedule.steps=",
];

fn advice(unknown: &str, arguments: &[String]) -> Option<String> {
    let program = Cli::command();
    let command = program.find_subcommand(arguments.first()?)?;
    let has = |option: &str| command.get_arguments().any(|one| one.get_long() == Some(option));
    let name = unknown.trim_start_matches('-').to_lowercase().replace('-', "_");
    let place = match &name[..] {
        "output" | "output_dir" | "out_dir" | "outdir" | "save_dir" | "project" => Some("out"),
        "dataset" | "data_dir" | "data_path" | "dataset_path" | "root" => Some("data"),
        _ => None,
    };
    if let Some(option) = place.filter(|option| has(option)) {
        return Some(format!("it is called --{option} here"));
    }
    let changes = familiar_name(unknown).filter(|_| has("set"))?;
    // `bench` trains without a schedule, and has its own batch.
    let used = |change: &str| {
        !["batch", "schedule", "train", "data"].iter().any(|s| change.starts_with(s))
    };
    if command.get_name() == "bench" && !changes.iter().all(|change| used(change)) {
        return None;
    }
    let value = value_of(unknown, arguments);
    if let [change] = changes
        && let Some((_, option)) = OPTIONS.iter().find(|(key, option)| key == change && has(option))
    {
        let value = if change.ends_with('=') {
            format!(" {}", value.unwrap_or("N"))
        } else {
            String::new()
        };
        return Some(format!("write --{option}{value}"));
    }
    let changes = changes.iter().map(|change| match value {
        _ if !change.ends_with('=') => format!("--set {change}"),
        Some(value) if !OTHER_VALUES.contains(change) => format!("--set {change}{value}"),
        _ => format!("--set {change}..."),
    });
    let changes = changes.collect::<Vec<_>>().join(" ");
    Some(format!("write {changes} (`crescendo recipes report` explains the keys)"))
}

/// The value of an option, if it has a plain one.
fn value_of<'a>(option: &str, arguments: &'a [String]) -> Option<&'a str> {
    let same = |argument: &String| argument.split('=').next() == Some(option);
    let at = arguments.iter().position(same)?;
    let value = match arguments[at].split_once('=') {
        Some((_, value)) => value,
        None => arguments.get(at + 1)?,
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || "._".contains(c) || c == '-';
    (!value.is_empty() && !value.starts_with('-') && value.chars().all(plain)).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(line: &str) -> Option<String> {
        let arguments: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let unknown = arguments.iter().find(|word| word.starts_with("--"))?;
        let unknown = unknown.split('=').next()?.to_owned();
        advice(&unknown, &arguments)
    }

    #[test]
    fn other_programs_options_are_known() {
        let keys = " (`crescendo recipes report` explains the keys)";
        for (line, advice) in [
            ("train --lr 0.05", "write --set optimizer.learning_rate=0.05"),
            ("train --learning-rate=1e-3", "write --set optimizer.learning_rate=1e-3"),
            ("plan quick --lr", "write --set optimizer.learning_rate=..."),
            ("train --batch-size 64", "write --set batch.policy=fixed --set batch.size=64"),
            ("compare head --weight_decay 0", "write --set optimizer.weight_decay=0"),
            ("train --lr-scheduler cosine", "write --set schedule.policy=cosine"),
            ("train --min-lr 1e-5", "write --set schedule.last=..."),
            ("plan quick --epochs 5", "write --set train.epochs=5"),
            ("bench --num-classes 7", "write --set network.classes=7"),
        ] {
            assert_eq!(said(line), Some(format!("{advice}{keys}")), "{line}");
        }
        for (line, advice) in [
            ("train --num-epochs 5", "write --epochs 5"),
            ("compare head --seed 5", "write --seeds 5"),
            ("train --workers", "write --threads N"),
            ("train --output-dir x", "it is called --out here"),
            ("evaluate run --dataset x", "it is called --data here"),
        ] {
            assert_eq!(said(line).as_deref(), Some(advice), "{line}");
        }
        for line in ["train --frobnicate", "evaluate run --lr 1", "bench --batch-size 5", "lr --lr"]
        {
            assert_eq!(said(line), None, "{line}");
        }
    }
}
