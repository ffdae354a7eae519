//! `crescendo train`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crescendo::data::ReadOptions;
use crescendo::logging::{ConsoleProgress, ConsoleSummary, JsonEvents, Observers, RunFolderLogger};
use crescendo::training::events::Observer;
use crescendo::training::validation::unused_keys;
use crescendo::training::{Error, Recipe, Record, Run, Start};

use super::unused_keys::unused_source;
use super::{DataLocation, LoadedData, own_command_line, refuse_custom_policy};
use crate::cli::TrainArgs;
use crate::signals::StopRequest;

pub fn run(args: &TrainArgs) -> Result<ExitCode, Error> {
    let request = StopRequest::on_signals();
    let (mut run, data) = match &args.resume {
        Some(folder) => resume(folder, args)?,
        None => create(args)?,
    };
    let mut folder = RunFolderLogger::default();
    let mut shown: Box<dyn Observer> = match args {
        TrainArgs { json: true, .. } => Box::new(JsonEvents),
        TrainArgs { quiet: true, .. } => Box::new(ConsoleSummary),
        _ => Box::new(ConsoleProgress::default()),
    };
    let mut observers = Observers(vec![&mut folder, &mut *shown]);
    let outcome = run.train(&args.compute.devices(), &data.set, &mut observers, &request.stop)?;
    Ok(request.exit_code(outcome))
}

fn create(args: &TrainArgs) -> Result<(Run, LoadedData), Error> {
    let mut changes = args.changes.clone();
    changes.extend(shorthands(args));
    if let Some(seed) = args.seed {
        changes.push(format!("train.seed={seed}"));
    }
    let mut recipe = Recipe::load(&args.recipe, &changes)?;
    refuse_custom_policy(&recipe)?;
    let location = DataLocation::new(args.data.name()?.as_deref(), recipe.data.source);
    let data = location.load_with(recipe.data.read_options())?;
    let note = data.set_classes(&mut recipe, &args.recipe, &changes)?;
    let folders: Box<dyn Iterator<Item = PathBuf>> = match &args.out {
        Some(folder) => Box::new(std::iter::once(folder.clone())),
        None => Box::new(numbered_folders(&args.recipe)),
    };
    let start = Start {
        recipe: &recipe,
        recipe_name: &args.recipe,
        data: &data.set,
        data_location: &data.location,
        init: args.init.as_deref(),
        devices: &args.compute.devices(),
    };
    let mut run = Run::create_first(folders, &start)?;
    run.set_command(&own_command_line())?;
    note.into_iter().for_each(|note| run.note(note));
    let keys = Recipe::set_keys(&args.recipe, &changes)?;
    warn_of_unused_keys(&mut run, &keys, args, &data);
    Ok((run, data))
}

/// Notes a warning for each of the keys that the user sets, `keys`, that has no effect.
fn warn_of_unused_keys(run: &mut Run, keys: &[String], args: &TrainArgs, data: &LoadedData) {
    let recipe = &run.record().recipe;
    let images = data.set.train.len().saturating_sub(recipe.data.validation);
    let mut unused = unused_keys(recipe, keys, images);
    unused.extend(unused_source(keys, args.data.path.is_some()));
    unused.into_iter().for_each(|unused| run.note(format!("warning: {unused}")));
}

fn resume(folder: &Path, args: &TrainArgs) -> Result<(Run, LoadedData), Error> {
    let mut run = Run::open(folder)?;
    let mut changes: Vec<String> = args.changes.iter().cloned().chain(shorthands(args)).collect();
    // The other keys of the engine are those of the device then.
    changes.sort_by_key(|change| !change.trim_start().starts_with("engine.device"));
    for change in &changes {
        run.change(change, &args.compute.devices())?;
    }
    let location = args.data.name()?.unwrap_or_else(|| run.record().run.data.clone());
    let Record { recipe, run: about, .. } = run.record();
    let options = ReadOptions { sizing: about.sizing, ..recipe.data.read_options() };
    let mut data = DataLocation::Named(location).load_with(options)?;
    data.set = data.set.matching(&about.data_fingerprint);
    let keys = Recipe::changed_keys(&changes)?;
    warn_of_unused_keys(&mut run, &keys, args, &data);
    Ok((run, data))
}

/// The options that are shorthands for changes of the recipe.
fn shorthands(args: &TrainArgs) -> impl Iterator<Item = String> {
    let epochs = args.epochs.map(|epochs| format!("train.epochs={epochs}"));
    let log_steps = args.log_steps.then(|| "train.log_steps=true".to_owned());
    [epochs, log_steps].into_iter().flatten().chain(args.compute.changes())
}

/// The folders `runs/<recipe>-1`, `runs/<recipe>-2`, …
fn numbered_folders(recipe: &str) -> impl Iterator<Item = PathBuf> {
    let name = Path::new(recipe).file_stem().unwrap_or_default().to_string_lossy().into_owned();
    (1..).map(move |n| Path::new("runs").join(format!("{name}-{n}")))
}
