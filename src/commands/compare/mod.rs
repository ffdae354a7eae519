//! `crescendo compare`.

mod arm_run;
mod table;

use std::path::{Path, PathBuf};

use crescendo::logging::report::{self, RunData};
use crescendo::training::comparison::{BUILT_IN, Comparison, Results, Row};
use crescendo::training::{Error, Outcome, Recipe, write_atomically};
use serde_json::json;

use self::arm_run::{Context, branches, choose_devices, unfinished};
use self::table::{table, to_json};
use super::unused_keys::{unused_source, warn};
use super::{DataLocation, LoadedData, refuse_custom_policy, say};
use crate::cli::CompareArgs;
use crate::signals::StopRequest;

pub fn run(args: &CompareArgs) -> Result<u8, Error> {
    let Some(name) = &args.comparison else { return list().map(|()| 0) };
    let mut changes = args.changes.clone();
    changes.extend(args.compute.changes());
    let mut comparison = Comparison::load(name, &changes)?;
    for arm in &comparison.arms {
        refuse_custom_policy(&arm.recipe)
            .map_err(|error| Error::Recipe(format!("{name}: arm {}: {error}", arm.name)))?;
    }
    if !args.seeds.is_empty() {
        let seeds = comparison.set_seeds(args.seeds.clone());
        seeds.map_err(|problem| Error::Recipe(format!("--seeds: {problem}")))?;
    }
    if let Some(base) = &args.base {
        let base = comparison.set_base(base);
        base.map_err(|problem| Error::Recipe(format!("--base: {problem}")))?;
    }
    let (engine, devices) = (args.compute.engine()?, args.compute.devices());
    let recipe = &comparison.arms[0].recipe.data;
    let location = DataLocation::new(args.data.name()?.as_deref(), recipe.source);
    let data = location.load_with(recipe.read_options())?;
    data.print_warnings();
    if !changes.iter().any(|change| change.starts_with("network.classes")) {
        comparison.set_classes(data.set.classes.len())?;
    }
    let validation = comparison.arms[0].recipe.data.validation;
    let images = data.set.train.len().saturating_sub(validation);
    let folder = args.out.clone().unwrap_or_else(|| Path::new("runs").join(&comparison.name));
    let judged = comparison.evaluated_on(&data.set);
    let mut results = Results::open(&folder.join("results.csv"), judged)?;
    choose_devices(&mut comparison, &folder, &results, devices)?;
    comparison.check_arms(images)?;
    let named = unused_source(&Recipe::changed_keys(&changes)?, args.data.path.is_some());
    warn(comparison.unused_keys(images).into_iter().chain(named));
    std::fs::create_dir_all(&folder).map_err(|error| Error::io("create", &folder, error))?;
    let runs = unfinished(&comparison, &results, &data, devices)?;

    let request = StopRequest::on_signals();
    let total = comparison.arms.len() * comparison.seeds.len();
    let finished = total - runs.len();
    if !args.json {
        say!(
            "{}: {} arms, {} seeds",
            comparison.name,
            comparison.arms.len(),
            comparison.seeds.len()
        )?;
    }
    let context = Context {
        folder: &folder,
        comparison: &comparison,
        data: &data,
        engine,
        devices,
        bar: !args.json,
        stop: &request.stop,
    };
    for (index, run) in runs.iter().enumerate() {
        if !args.json {
            say!(
                "{} of {total}: {}, seed {}",
                finished + index + 1,
                run.arm,
                run.recipe.train.seed
            )?;
        }
        let branches = branches(&runs, index);
        let Some(row) = run.train(&branches, &context)? else {
            if args.json {
                say!("{}", json!({ "comparison": comparison.name, "stopped": true }))?;
            } else {
                say!("Stopped; everything is saved. Run the same command again to continue.")?;
            }
            return Ok(request.exit_code(Outcome::Interrupted));
        };
        if !args.json {
            let Row { running, precise, .. } = row;
            say!(
                "  {} accuracy {running:.4}, with precise BatchNorm statistics {precise:.4}",
                judged.name()
            )?;
        }
        results.add(row)?;
        write_report(&folder, &comparison, &results, &data)?;
    }
    write_report(&folder, &comparison, &results, &data)?;
    if args.json {
        say!("{}", to_json(&comparison, &results))?;
    } else {
        say!("\n{}", table(&comparison, &results))?;
        say!("Results: {}", folder.display())?;
    }
    Ok(0)
}

fn list() -> Result<(), Error> {
    for comparison in BUILT_IN {
        say!("{}\n    {}", comparison.name, comparison.summary())?;
    }
    Ok(())
}

/// Writes `table.md` in the comparison's folder, and a report with the curves of its runs.
fn write_report(
    folder: &Path,
    comparison: &Comparison,
    results: &Results,
    data: &LoadedData,
) -> Result<(), Error> {
    let path: PathBuf = folder.join("table.md");
    let text = format!(
        "# {}\n\n{} on {}, {} images\n\n{}",
        comparison.name,
        seeds(comparison),
        data.set.name,
        comparison.evaluated_on(&data.set).name(),
        table(comparison, results)
    );
    write_atomically(&path, |file| file.write_all(text.as_bytes()))?;

    let mut runs = Vec::new();
    for (group, arm) in comparison.arms.iter().enumerate() {
        for row in results.of(comparison, arm) {
            let run = folder.join(&arm.name).join(format!("seed-{}", row.seed));
            // The user may have removed the folders of finished runs.
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
