//! `crescendo evaluate`.

use std::path::{Path, PathBuf};

use crescendo::report::{Table, bar};
use crescendo::training::recipe::DataSource;
use crescendo::training::{Error, Evaluation, Model, Recipe, checkpoint, read_record};
use serde_json::{Value, json};

use super::{Found, load, load_source, say, threads};
use crate::cli::Evaluate;

pub fn run(args: &Evaluate) -> Result<(), Error> {
    let threads = threads(args.threads)?;
    let recipe = args.recipe.as_ref().map(|name| Recipe::load::<&str>(name, &[])).transpose()?;
    let files = files(args)?;
    let data = data(args, recipe.as_ref(), &files[0])?;
    let mut results = Vec::new();
    for file in &files {
        let elsewhere =
            recipe.as_ref().map(|recipe| (recipe, &data.set.train, &data.set.classes[..]));
        let mut model = Model::open(file, elsewhere, threads)?;
        if model.classes.len() != data.set.classes.len() {
            let (ours, theirs) = (model.classes.len(), data.set.classes.len());
            return Err(Error::bad(
                file,
                format!(
                    "tells {ours} classes apart, but {} has {theirs}: give other data with --data",
                    data.set.name
                ),
            ));
        }
        if !args.json {
            say!("{}", restored(file, &model))?;
        }
        let bar = bar(data.set.test.len() as u64);
        let evaluation = model.evaluate(&data.set.test, |done| bar.set_position(done as u64));
        bar.finish_and_clear();
        if args.json {
            results.push(to_json(file, &model, &evaluation));
        } else {
            say!("Test accuracy: {:.4}", evaluation.accuracy())?;
            say!("\n{}", Table(&evaluation, &model.classes))?;
        }
    }
    if args.json {
        say!("{}", json!({ "data": data.set.name, "results": results }))?;
    }
    Ok(())
}

/// The line that the report's program prints.
fn restored(file: &Path, model: &Model) -> String {
    let loss = model.loss.map_or(String::new(), |loss| format!(" loss {loss:.6}"));
    match model.epoch {
        Some(epoch) => format!("Restored model parameters for checkpoint {epoch}{loss}"),
        None => format!("Restored model parameters of {}", file.display()),
    }
}

fn to_json(file: &Path, model: &Model, evaluation: &Evaluation) -> Value {
    json!({
        "file": file.display().to_string(),
        "checkpoint": model.epoch,
        "loss": model.loss,
        "accuracy": evaluation.accuracy(),
        "correct": evaluation.correct(),
        "images": evaluation.images(),
        "classes": model.classes,
        "class_accuracies": evaluation.class_accuracies(),
        "confusion": evaluation.confusion,
    })
}

/// The checkpoints' files that are asked for.
fn files(args: &Evaluate) -> Result<Vec<PathBuf>, Error> {
    let mut files = Vec::new();
    for run in &args.runs {
        if !run.is_dir() {
            if !args.checkpoints.is_empty() {
                let problem = "is a file: --checkpoints chooses among those of a run's folder";
                return Err(Error::bad(run, problem));
            }
            files.push(run.clone());
            continue;
        }
        let there = checkpoint::list(run)?;
        let asked = if args.checkpoints.is_empty() {
            there.last().copied().into_iter().collect()
        } else {
            args.checkpoints.clone()
        };
        if let Some(missing) = asked.iter().find(|epoch| !there.contains(epoch)) {
            return Err(Error::bad(
                run,
                format!("has no checkpoint {missing}: there are {there:?}"),
            ));
        }
        if asked.is_empty() {
            return Err(Error::bad(run, "has no checkpoint yet: go on with `train --resume`"));
        }
        files.extend(asked.iter().map(|&epoch| checkpoint::path(run, epoch)));
    }
    Ok(files)
}

/// The data that is named, or that the run was trained on, or that the recipe is for.
fn data(args: &Evaluate, recipe: Option<&Recipe>, file: &Path) -> Result<Found, Error> {
    if let Some(location) = &args.data.path {
        return load(location);
    }
    let run = file.parent().and_then(Path::parent).map(read_record);
    match (run, recipe) {
        (Some(Ok(record)), _) => load(&record.run.data),
        (_, Some(recipe)) => load_source(recipe.data.source),
        _ => match checkpoint::generated_data(file)? {
            Some(location) => load(&location),
            None => load_source(DataSource::Cifar10),
        },
    }
}
