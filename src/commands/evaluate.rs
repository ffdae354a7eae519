//! `crescendo evaluate`.

use std::path::{Path, PathBuf};

use crescendo::data::{CIFAR10_NAME, DataSet, shapes};
use crescendo::logging::{ConfusionMatrix, progress_bar};
use crescendo::training::recipe::DataSource;
use crescendo::training::{
    Elsewhere, Error, Evaluation, Model, Recipe, Record, checkpoint, read_record,
};
use serde_json::{Value, json};

use super::{Found, Location, machine, say};
use crate::cli::{Evaluate, Statistics};

pub fn run(args: &Evaluate) -> Result<(), Error> {
    let machine = machine(&args.processor)?;
    let recipe = args.recipe.as_ref().map(|name| Recipe::load::<&str>(name, &[])).transpose()?;
    let files = files(args)?;
    let mut results = Vec::new();
    let mut found: Option<(Location, Found)> = None;
    for file in &files {
        // Several files are mostly of one data set, which need not be read again.
        let record = file.parent().and_then(Path::parent).and_then(|run| read_record(run).ok());
        let location = location(args, recipe.as_ref(), record.as_ref(), file)?;
        let (location, data) = match found.take().filter(|(at, _)| *at == location) {
            Some(found) => found,
            None => {
                let data = location.load()?;
                data.set.warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
                let trained_on = record.map(|record| record.run.data_fingerprint);
                if trained_on.is_some_and(|fingerprint| fingerprint != data.set.fingerprint()) {
                    eprintln!(
                        "warning: {} is not what {} was trained on, or not split as it was then: \
                         some of the test images may have been trained on",
                        data.set.name,
                        file.display()
                    );
                }
                (location, data)
            }
        };
        let elsewhere = recipe.as_ref().map(|recipe| Elsewhere { recipe, data: &data.set });
        let mut model = Model::open(file, elsewhere, machine)?;
        args.views.apply(&mut model);
        if model.classes != data.set.classes {
            let (ours, theirs) = (model.classes.join(", "), data.set.classes.join(", "));
            let name = &data.set.name;
            let problem = format!(
                "tells {ours} apart, but the classes of {name} are {theirs}: give its own data with \
                 --data"
            );
            return Err(Error::bad(file, problem));
        }
        if !args.json {
            say!("{}", restored(file, &model))?;
        }
        let ways = match args.bn {
            Statistics::Running => &[false][..],
            Statistics::Precise => &[true],
            Statistics::Both => &[false, true],
        };
        let mut evaluations = Vec::new();
        for &precise in ways {
            if precise {
                model.recompute_statistics(&data.set.train, args.bn_images as usize);
            }
            let bar = progress_bar(data.set.test.len() as u64);
            let evaluation = model.evaluate(&data.set.test, |done| bar.set_position(done as u64));
            bar.finish_and_clear();
            if args.json {
                results.push(to_json(file, &model, &data.set, &evaluation, precise));
                continue;
            }
            let with = if precise { " with precise BatchNorm statistics" } else { "" };
            say!("Test accuracy{with}: {:.4}", evaluation.accuracy())?;
            evaluations.push((precise, evaluation));
        }
        // The accuracies stand together; what they are made of comes after.
        for (index, (precise, evaluation)) in evaluations.iter().enumerate() {
            if index == 0 {
                let DataSet { name, format, .. } = &data.set;
                let views = match evaluation.views {
                    1 => String::new(),
                    views => format!(", by the mean of {views} views of each"),
                };
                say!("on {} images of {name} ({format}){views}\n", evaluation.images())?;
            }
            if evaluations.len() > 1 {
                say!("{} statistics", if *precise { "precise" } else { "running" })?;
            }
            say!("{}", ConfusionMatrix(evaluation, &model.classes))?;
        }
        found = Some((location, data));
    }
    if args.json {
        say!("{}", json!({ "results": results }))?;
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

fn to_json(
    file: &Path,
    model: &Model,
    data: &DataSet,
    evaluation: &Evaluation,
    precise: bool,
) -> Value {
    json!({
        "data": data.name,
        "file": file.display().to_string(),
        "checkpoint": model.epoch,
        "loss": model.loss,
        "bn": if precise { "precise" } else { "running" },
        "accuracy": evaluation.accuracy(),
        "test_loss": evaluation.loss,
        "views": evaluation.views,
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

/// Where the data is that is named, or that the run was trained on, or that the recipe is for.
fn location(
    args: &Evaluate,
    recipe: Option<&Recipe>,
    record: Option<&Record>,
    file: &Path,
) -> Result<Location, Error> {
    if let Some(location) = args.data.named()? {
        return Ok(Location::Named(location));
    }
    Ok(match (record, recipe) {
        (Some(record), _) => Location::Named(record.run.data.clone()),
        (_, Some(recipe)) => Location::Source(recipe.data.source),
        _ => match checkpoint::data(file)? {
            Some(data) if shapes::parse(&data).is_some() => Location::Named(data),
            Some(data) if data != CIFAR10_NAME => {
                let problem = format!("was trained on {data}: say where that is with --data");
                return Err(Error::bad(file, problem));
            }
            _ => Location::Source(DataSource::Cifar10),
        },
    })
}
