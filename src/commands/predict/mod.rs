//! `crescendo predict`.

mod inputs;
mod output;

use std::path::{Path, PathBuf};

use crescendo::training::{Error, External, Model, Recipe, TrainedOn, checkpoint};

use self::inputs::Inputs;
use self::output::{Format, Predictions};
use super::{DataLocation, note, say};
use crate::cli::PredictArgs;

pub fn run(args: &PredictArgs) -> Result<u8, Error> {
    let (engine, devices) = (args.compute.engine()?, args.compute.devices());
    args.compute.warn_of_unused(engine.device);
    let format = match &args.out {
        Some(out) => {
            check_out(out, args)?;
            Some((out, Format::of(out)?))
        }
        None => None,
    };
    let recipe = args.recipe.as_ref().map(|name| Recipe::load::<&str>(name, &[])).transpose()?;
    let external = recipe.as_ref().map(|recipe| external(recipe, args)).transpose()?;
    let mut model = Model::open(&weights(&args.file)?, external, &devices, &engine)?;
    args.views.apply(&mut model);
    model.notes.iter().for_each(|text| note(format_args!("note: {text}")));

    let inputs = Inputs::read(&args.inputs, model.sizing)?;
    if inputs.all_failed() {
        return Err(inputs.into_error());
    }
    inputs.print_notes();
    let probabilities = model.predict(&inputs.pixels)?;
    let predictions = Predictions {
        names: &inputs.names,
        classes: &model.classes,
        probabilities: &probabilities,
    };
    if args.json {
        say!("{}", predictions.json())?;
    } else {
        predictions.print()?;
    }
    if let Some((out, format)) = format {
        predictions.write(out, format)?;
        if !args.json {
            let (count, classes) = (inputs.names.len(), model.classes.len());
            let columns = model.classes.join(", ");
            say!("Probabilities: {} ({count}, {classes}), columns: {columns}", out.display())?;
        }
    }
    // After everything else, so that they are not overlooked.
    Ok(u8::from(inputs.print_failures()))
}

/// What a file of another program does not say itself. What the recipe's file does not say either comes from the
/// data set.
fn external<'a>(recipe: &'a Recipe, args: &PredictArgs) -> Result<External<'a>, Error> {
    let trained_on = TrainedOn::load(args.recipe.as_deref().unwrap_or_default())?;
    if args.data.is_none()
        && let Ok(external) = External::new(recipe, &trained_on, None)
    {
        return Ok(external);
    }
    let data = DataLocation::new(args.data.as_deref(), recipe.data.source).load()?;
    External::new(recipe, &trained_on, Some(&data.set))
}

/// The file of weights that is meant: of a run the best by validation accuracy, or else the latest.
fn weights(path: &Path) -> Result<PathBuf, Error> {
    if !path.is_dir() {
        return Ok(path.to_owned());
    }
    let best = Some(checkpoint::best_path(path)).filter(|path| path.is_file());
    let file = match best {
        Some(best) => Some(best),
        None => checkpoint::latest(path)?,
    };
    let none = || Error::bad(path, "has no checkpoint yet: resume it with `train --resume`");
    let file = file.ok_or_else(none)?;
    let about = checkpoint::about(&file)?;
    if let Some(epoch) = about.epoch.or(about.in_epoch) {
        note(format_args!("note: these are the weights of epoch {epoch}, in {}", file.display()));
    }
    Ok(file)
}

/// Refuses to overwrite a file that is read.
fn check_out(out: &Path, args: &PredictArgs) -> Result<(), Error> {
    let Ok(out_path) = out.canonicalize() else { return Ok(()) };
    let same = |input: &PathBuf| input.canonicalize().is_ok_and(|input| input == out_path);
    if args.inputs.iter().chain([&args.file]).any(same) {
        return Err(Error::bad(
            out,
            "is an input and would be overwritten: choose another file with --out",
        ));
    }
    Ok(())
}
