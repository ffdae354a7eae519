//! `crescendo compare`.

mod arm_run;
mod json;

use std::path::Path;

use crescendo::logging::report::{self, ComparisonData};
use crescendo::logging::terminal_columns;
use crescendo::network::Devices;
use crescendo::training::comparison::{BUILT_IN, Comparison, Results, Row};
use crescendo::training::{Error, Outcome, Recipe, write_atomically};
use serde_json::json;

use self::arm_run::{Context, branches, choose_devices, unfinished};
use self::json::to_json;
use super::unused_keys::{unused_source, warn};
use super::{DataLocation, LoadedData, hint, list, print, refuse_custom_policy, say};
use crate::cli::CompareArgs;
use crate::ranks::Training;
use crate::signals::StopRequest;

/// Runs it; `command` is the command line, for the runs' folders.
pub fn run(args: &CompareArgs, command: &str) -> Result<u8, Error> {
    let Some(name) = &args.comparison else {
        list(BUILT_IN)?;
        hint("`crescendo compare NAME --show` prints a comparison's file, which says more.")?;
        return Ok(0);
    };
    if args.show {
        return print(format_args!("{}", Comparison::text(name)?)).map(|()| 0);
    }
    let training = Training { out: args.out.as_deref(), says_times: !args.json };
    training.run(args.compute.devices(), |devices| compare(args, command, name, devices))
}

fn compare(
    args: &CompareArgs,
    command: &str,
    name: &str,
    devices: &dyn Devices,
) -> Result<u8, Error> {
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
    let engine = args.compute.engine_of(devices)?;
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
    let evaluated_on = comparison.record(&data.set).evaluated_on;
    let mut results = Results::open(&folder.join("results.csv"), evaluated_on)?;
    choose_devices(&mut comparison, &folder, &results, devices)?;
    comparison.check_arms(images)?;
    let named = unused_source(&Recipe::changed_keys(&changes)?, args.data.path.is_some());
    warn(comparison.unused_keys(images).into_iter().chain(named));
    std::fs::create_dir_all(&folder).map_err(|error| Error::io("create", &folder, error))?;
    let runs = unfinished(&comparison, &folder, &results, &data, devices)?;
    let record = comparison.record(&data.set);
    record.write(&folder)?;

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
        command,
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
                record.evaluated_on.name()
            )?;
        }
        results.add(row)?;
        write_report(&folder)?;
    }
    let written = write_report(&folder)?;
    if args.json {
        say!("{}", to_json(&record, &results))?;
    } else {
        say!("\n{}", written.table().text(terminal_columns()))?;
        say!("Report: {}", folder.join(report::FILE_NAME).display())?;
    }
    Ok(0)
}

/// Writes the comparison's table, page and picture into its folder.
fn write_report(folder: &Path) -> Result<ComparisonData, Error> {
    let comparison = ComparisonData::read(folder)?;
    let text = comparison.table().markdown();
    write_atomically(&folder.join("table.md"), |file| file.write_all(text.as_bytes()))?;
    report::write_forest_plot(&comparison)?;
    report::write(&folder.join(report::FILE_NAME), &report::render_comparison(&comparison))?;
    Ok(comparison)
}
