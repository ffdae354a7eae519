//! `crescendo train`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crescendo::data::ReadOptions;
use crescendo::devices;
use crescendo::logging::{ConsoleProgress, ConsoleSummary, JsonEvents, Observers, RunFolderLogger};
use crescendo::training::events::Observer;
use crescendo::training::{Error, Recipe, Record, Run, Start};

use super::{DataLocation, LoadedData};
use crate::cli::TrainArgs;

pub fn run(args: &TrainArgs) -> Result<(), Error> {
    let stop = stop_on_signals();
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
    run.train(devices(), &data.set, &mut observers, &stop)?;
    Ok(())
}

fn create(args: &TrainArgs) -> Result<(Run, LoadedData), Error> {
    let mut changes = args.changes.clone();
    changes.extend(shorthands(args));
    if let Some(seed) = args.seed {
        changes.push(format!("train.seed={seed}"));
    }
    let mut recipe = Recipe::load(&args.recipe, &changes)?;
    let location = DataLocation::new(args.data.name()?.as_deref(), recipe.data.source);
    let data = location.load_with(recipe.data.read_options())?;
    let note = follow_data(&mut recipe, args, &changes, &data)?;
    let folder = match &args.out {
        Some(folder) => folder.clone(),
        None => next_folder(&args.recipe),
    };
    let start = Start {
        recipe: &recipe,
        recipe_name: &args.recipe,
        data: &data.set,
        data_location: &data.location,
        init: args.init.as_deref(),
        devices: devices(),
    };
    let mut run = Run::create(&folder, &start)?;
    note.into_iter().for_each(|note| run.note(note));
    Ok((run, data))
}

/// Sets `network.classes` to the number of classes in the data, unless the user has set it. Returns a
/// note for the log if that changes the recipe.
fn follow_data(
    recipe: &mut Recipe,
    args: &TrainArgs,
    changes: &[String],
    data: &LoadedData,
) -> Result<Option<String>, Error> {
    let (before, classes) = (recipe.network.classes, data.set.classes.len());
    if before == classes || Recipe::sets_key(&args.recipe, changes, "network.classes")? {
        return Ok(None);
    }
    *recipe = recipe.with(&format!("network.classes={classes}"))?;
    Ok(Some(format!(
        "network.classes is {classes}, not {before}: {} has {classes} classes",
        data.set.name
    )))
}

fn resume(folder: &Path, args: &TrainArgs) -> Result<(Run, LoadedData), Error> {
    let mut run = Run::open(folder)?;
    for change in args.changes.iter().cloned().chain(shorthands(args)) {
        run.change(&change, devices())?;
    }
    let location = args.data.name()?.unwrap_or_else(|| run.record().run.data.clone());
    let Record { recipe, run: about } = run.record();
    let options = ReadOptions { sizing: about.sizing, ..recipe.data.read_options() };
    let mut data = DataLocation::Named(location).load_with(options)?;
    data.set = data.set.matching(&about.data_fingerprint);
    Ok((run, data))
}

/// The options that are shorthands for changes of the recipe.
fn shorthands(args: &TrainArgs) -> impl Iterator<Item = String> {
    let epochs = args.epochs.map(|epochs| format!("train.epochs={epochs}"));
    let log_steps = args.log_steps.then(|| "train.log_steps=true".to_owned());
    [epochs, log_steps].into_iter().flatten().chain(args.compute.changes())
}

/// The first of `runs/<recipe>-1`, `runs/<recipe>-2`, … that does not exist yet.
fn next_folder(recipe: &str) -> PathBuf {
    let name = Path::new(recipe).file_stem().unwrap_or_default().to_string_lossy();
    let mut folders = (1..).map(|n| Path::new("runs").join(format!("{name}-{n}")));
    folders.find(|folder| !folder.exists()).unwrap_or_default()
}

/// A flag that the first SIGINT or SIGTERM sets; the second signal exits immediately.
pub fn stop_on_signals() -> Arc<AtomicBool> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stop);
    let handler = ctrlc::set_handler(move || {
        if flag.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
        eprintln!("Stopping after this step; press Ctrl-C again to stop immediately.");
    });
    if let Err(error) = handler {
        eprintln!("warning: Ctrl-C will stop the program without saving ({error})");
    }
    stop
}
