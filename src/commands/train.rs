//! `crescendo train`.

use crescendo::logging::{ConsoleProgress, ConsoleSummary, JsonEvents, Observers, RunFolderLogger};
use crescendo::network::Devices;
use crescendo::training::events::Observer;
use crescendo::training::{Error, Run};

use super::LoadedData;
use crate::cli::TrainArgs;
use crate::new_run::{NewRun, RunData, resume};
use crate::ranks::Training;
use crate::signals::StopRequest;

/// Runs it; `command` is the command line, for the run's folder.
pub fn run(args: &TrainArgs, command: &str) -> Result<u8, Error> {
    let training = Training { out: args.out.as_deref(), says_times: !(args.json || args.quiet) };
    training.run(args.compute.devices(), |devices| train(args, command, devices))
}

fn train(args: &TrainArgs, command: &str, devices: &dyn Devices) -> Result<u8, Error> {
    let request = StopRequest::on_signals();
    let data = args.data.name()?.map_or(RunData::Usual, RunData::Named);
    let (mut run, data) = match &args.resume {
        Some(folder) => {
            let changes = args.changes.iter().cloned().chain(shorthands(args)).collect();
            resume(folder, changes, data, devices)?
        }
        None => create(args, data, command, devices)?,
    };
    let mut folder = RunFolderLogger::default();
    let mut shown: Box<dyn Observer> = match args {
        TrainArgs { json: true, .. } => Box::new(JsonEvents),
        TrainArgs { quiet: true, .. } => Box::new(ConsoleSummary),
        _ => Box::new(ConsoleProgress::default()),
    };
    let mut observers = Observers(vec![&mut folder, &mut *shown]);
    let outcome = run.train(devices, &data.set, &mut observers, &request.stop)?;
    Ok(request.exit_code(outcome))
}

fn create(
    args: &TrainArgs,
    data: RunData,
    command: &str,
    devices: &dyn Devices,
) -> Result<(Run, LoadedData), Error> {
    let mut changes = args.changes.clone();
    changes.extend(shorthands(args));
    if let Some(seed) = args.seed {
        changes.push(format!("train.seed={seed}"));
    }
    let new = NewRun {
        recipe: &args.recipe,
        changes: &changes,
        out: args.out.as_deref(),
        init: args.init.as_deref(),
        devices,
        own_policy: false,
    };
    let (run, data) = new.create(data)?;
    run.set_command(command)?;
    Ok((run, data))
}

/// The options that are shorthands for changes of the recipe.
fn shorthands(args: &TrainArgs) -> impl Iterator<Item = String> {
    let epochs = args.epochs.map(|epochs| format!("train.epochs={epochs}"));
    let log_steps = args.log_steps.then(|| "train.log_steps=true".to_owned());
    [epochs, log_steps].into_iter().flatten().chain(args.compute.changes())
}
