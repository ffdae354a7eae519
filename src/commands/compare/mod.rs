//! `crescendo compare`.

mod table;
mod trial;

use std::path::{Path, PathBuf};

use crescendo::logging::report::{self, RunData};
use crescendo::training::comparison::{BUILT_IN, Comparison, Results, Row};
use crescendo::training::{Error, write_atomically};
use serde_json::json;

use self::table::{table, to_json};
use self::trial::{Setting, branches, missing};
use super::train::stop_on_signals;
use super::{Found, Location, engine_keys, machine, say};
use crate::cli::Compare;

pub fn run(args: &Compare) -> Result<(), Error> {
    let Some(name) = &args.comparison else { return list() };
    let mut changes = args.changes.clone();
    changes.extend(engine_keys(&args.processor));
    let mut comparison = Comparison::load(name, &changes)?;
    if !args.seeds.is_empty() {
        let seeds = comparison.set_seeds(args.seeds.clone());
        seeds.map_err(|problem| Error::Recipe(format!("--seeds: {problem}")))?;
    }
    if let Some(base) = &args.base {
        let base = comparison.set_base(base);
        base.map_err(|problem| Error::Recipe(format!("--base: {problem}")))?;
    }
    let machine = machine(&args.processor)?;
    let source = comparison.arms[0].recipe.data.source;
    let data = Location::new(args.data.named()?.as_deref(), source).load()?;
    data.set.warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
    if !changes.iter().any(|change| change.starts_with("network.classes")) {
        comparison.set_classes(data.set.classes.len())?;
    }
    let folder = args.out.clone().unwrap_or_else(|| Path::new("runs").join(&comparison.name));
    std::fs::create_dir_all(&folder).map_err(|error| Error::io("create", &folder, error))?;
    let judged = comparison.evaluated_on();
    let mut results = Results::open(&folder.join("results.csv"), judged)?;
    let trials = missing(&comparison, &results, &data)?;

    let stop = stop_on_signals();
    let all = comparison.arms.len() * comparison.seeds.len();
    let before = all - trials.len();
    if !args.json {
        say!(
            "{}: {} arms, {} seeds",
            comparison.name,
            comparison.arms.len(),
            all / comparison.arms.len()
        )?;
    }
    let setting = Setting {
        folder: &folder,
        comparison: &comparison,
        data: &data,
        machine,
        bar: !args.json,
        stop: &stop,
    };
    for (index, trial) in trials.iter().enumerate() {
        if !args.json {
            say!(
                "{} of {all}: {}, seed {}",
                before + index + 1,
                trial.arm,
                trial.recipe.train.seed
            )?;
        }
        let branches = branches(&trials, index);
        let Some(row) = trial.run(&branches, &setting)? else {
            if args.json {
                return say!("{}", json!({ "comparison": comparison.name, "stopped": true }));
            }
            say!("Stopped, and everything is saved. Go on with the same command.")?;
            return Ok(());
        };
        if !args.json {
            let Row { running, precise, .. } = row;
            say!(
                "  {} accuracy {running:.4}, with precise statistics {precise:.4}",
                judged.name()
            )?;
        }
        results.add(row)?;
        write_report(&folder, &comparison, &results, &data)?;
    }
    write_report(&folder, &comparison, &results, &data)?;
    if args.json {
        say!("{}", to_json(&comparison, &results))
    } else {
        say!("\n{}", table(&comparison, &results))?;
        say!("Results: {}", folder.display())
    }
}

fn list() -> Result<(), Error> {
    for comparison in BUILT_IN {
        say!("{}\n    {}", comparison.name, comparison.summary())?;
    }
    Ok(())
}

/// `table.md` in the comparison's folder, and a report with the curves of its runs.
fn write_report(
    folder: &Path,
    comparison: &Comparison,
    results: &Results,
    data: &Found,
) -> Result<(), Error> {
    let path: PathBuf = folder.join("table.md");
    let text = format!(
        "# {}\n\n{} on {}, {} images\n\n{}",
        comparison.name,
        seeds(comparison),
        data.set.name,
        comparison.evaluated_on().name(),
        table(comparison, results)
    );
    write_atomically(&path, |file| file.write_all(text.as_bytes()))?;

    let mut runs = Vec::new();
    for (group, arm) in comparison.arms.iter().enumerate() {
        for row in results.of(comparison, arm) {
            let run = folder.join(&arm.name).join(format!("seed-{}", row.seed));
            // Of a finished arm only the table may be left.
            if run.exists() {
                let mut run = RunData::read(&run)?;
                (run.label, run.group) = (arm.name.clone(), group);
                runs.push(run);
            }
        }
    }
    if runs.is_empty() {
        return Ok(());
    }
    report::write(&folder.join(report::FILE_NAME), &report::render(&runs))
}

fn seeds(comparison: &Comparison) -> String {
    let seeds: Vec<String> = comparison.seeds.iter().map(u64::to_string).collect();
    format!("Seeds {}", seeds.join(", "))
}
