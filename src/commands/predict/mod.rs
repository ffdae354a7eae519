//! `crescendo predict`.

mod inputs;
mod output;

use std::path::{Path, PathBuf};

use crescendo::training::{Error, Model};

use self::inputs::Inputs;
use self::output::{Format, Predictions};
use super::{note, say, weights};
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
    let elsewhere = weights::Elsewhere::load(args.recipe.as_deref(), args.data.as_deref())?;
    let external = elsewhere.as_ref().map(weights::Elsewhere::external).transpose()?;
    let file = weights::best_or_latest(&args.file)?;
    let mut model = Model::open(&file, external, &devices, &engine)?;
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
