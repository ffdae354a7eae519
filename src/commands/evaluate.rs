//! `crescendo evaluate`.

use std::path::{Path, PathBuf};

use crescendo::data::{CIFAR10_NAME, DataSet, ReadOptions, shapes};
use crescendo::devices;
use crescendo::logging::{ConfusionMatrix, progress_bar};
use crescendo::training::recipe::DataSource;
use crescendo::training::{
    Error, Evaluation, External, Model, Recipe, Record, checkpoint, read_record,
};
use serde_json::{Value, json};

use super::{DataLocation, LoadedData, say};
use crate::cli::{BnStatistics, EvaluateArgs};

pub fn run(args: &EvaluateArgs) -> Result<(), Error> {
    let engine = args.compute.engine()?;
    let recipe = args.recipe.as_ref().map(|name| Recipe::load::<&str>(name, &[])).transpose()?;
    let files = files(args)?;
    let mut results = Vec::new();
    let mut last_data: Option<((DataLocation, ReadOptions), LoadedData)> = None;
    for file in &files {
        // Several files mostly have the same data set, which is then read only once.
        let record = file.parent().and_then(Path::parent).and_then(|run| read_record(run).ok());
        let location = location(args, recipe.as_ref(), record.as_ref(), file)?;
        let trained = record.as_ref().map(|record| &record.recipe).or(recipe.as_ref());
        let options = trained.map(|recipe| recipe.data.read_options()).unwrap_or_default();
        let options = ReadOptions { sizing: checkpoint::sizing(file)?, ..options };
        let location = (location, options);
        let (location, data) = match last_data.take().filter(|(last, _)| *last == location) {
            Some(last_data) => last_data,
            None => {
                let mut data = location.0.load_with(options)?;
                data.print_warnings();
                let trained_on = record.map(|record| record.run.data_fingerprint);
                if let Some(fingerprint) = &trained_on {
                    data.set = data.set.matching(fingerprint);
                }
                if trained_on.is_some_and(|fingerprint| fingerprint != data.set.fingerprint()) {
                    eprintln!(
                        "warning: {} is not the data that {} was trained on, or is split \
                         differently: some of the test images may be training images",
                        data.set.name,
                        file.display()
                    );
                }
                (location, data)
            }
        };
        let external = recipe.as_ref().map(|recipe| External { recipe, data: &data.set });
        let mut model = Model::open(file, external, devices(), &engine)?;
        args.views.apply(&mut model);
        if model.classes != data.set.classes {
            let (ours, theirs) = (model.classes.join(", "), data.set.classes.join(", "));
            let name = &data.set.name;
            let problem = format!(
                "has the classes {ours}, but {name} has {theirs}: give the data it was trained on \
                 with --data"
            );
            return Err(Error::bad(file, problem));
        }
        if !args.json {
            say!("{}", restored(file, &model))?;
        }
        let is_precise = match args.bn {
            BnStatistics::Running => &[false][..],
            BnStatistics::Precise => &[true],
            BnStatistics::Both => &[false, true],
        };
        let mut evaluations = Vec::new();
        for &precise in is_precise {
            if precise {
                model.recompute_statistics(&data.set.train, args.bn_images)?;
            }
            let bar = progress_bar(data.set.test.len() as u64);
            let evaluation =
                model.evaluate(&data.set.test, |done| bar.set_position(done as u64))?;
            bar.finish_and_clear();
            if args.json {
                results.push(to_json(file, &model, &data.set, &evaluation, precise));
                continue;
            }
            let with = if precise { " with precise BatchNorm statistics" } else { "" };
            say!("Test accuracy{with}: {:.4}", evaluation.accuracy())?;
            evaluations.push((precise, evaluation));
        }
        // After all accuracies, so that these stand together.
        for (index, (precise, evaluation)) in evaluations.iter().enumerate() {
            if index == 0 {
                let DataSet { name, format, .. } = &data.set;
                let views = match evaluation.views {
                    1 => String::new(),
                    views => format!(", mean of {views} views of each"),
                };
                say!("on {} images of {name} ({format}){views}\n", evaluation.images())?;
                let balanced = evaluation.balanced_accuracy();
                say!("Balanced accuracy (mean over the classes): {balanced:.4}\n")?;
            }
            if evaluations.len() > 1 {
                say!("{} statistics", if *precise { "precise" } else { "running" })?;
            }
            say!("{}", ConfusionMatrix(evaluation, &model.classes))?;
        }
        last_data = Some((location, data));
    }
    if args.json {
        say!("{}", json!({ "results": results }))?;
    }
    Ok(())
}

/// The line that the paper's program prints.
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
        "balanced_accuracy": evaluation.balanced_accuracy(),
        "test_loss": evaluation.loss,
        "views": evaluation.views,
        "correct": evaluation.correct(),
        "images": evaluation.images(),
        "classes": model.classes,
        "class_accuracies": evaluation.class_accuracies(),
        "confusion": evaluation.confusion,
    })
}

/// The checkpoint files to evaluate.
fn files(args: &EvaluateArgs) -> Result<Vec<PathBuf>, Error> {
    let mut files = Vec::new();
    for run in &args.runs {
        if !run.is_dir() {
            if !args.checkpoints.is_empty() {
                let problem = "is a file: --checkpoints needs the folder of a run";
                return Err(Error::bad(run, problem));
            }
            files.push(run.clone());
            continue;
        }
        let existing = checkpoint::list(run)?;
        if existing.is_empty() {
            return Err(Error::bad(run, "has no checkpoint yet: resume it with `train --resume`"));
        }
        let chosen = if args.checkpoints.is_empty() {
            existing.last().copied().into_iter().collect()
        } else {
            args.checkpoints.clone()
        };
        if let Some(missing) = chosen.iter().find(|epoch| !existing.contains(epoch)) {
            let existing: Vec<String> = existing.iter().map(u32::to_string).collect();
            let problem = format!("has no checkpoint {missing}, only {}", existing.join(", "));
            return Err(Error::bad(run, problem));
        }
        files.extend(chosen.iter().map(|&epoch| checkpoint::path(run, epoch)));
    }
    Ok(files)
}

/// The data set to evaluate on: the one given by `--data`, or that of the run, of the recipe, or of the
/// checkpoint, in this order.
fn location(
    args: &EvaluateArgs,
    recipe: Option<&Recipe>,
    record: Option<&Record>,
    file: &Path,
) -> Result<DataLocation, Error> {
    if let Some(location) = args.data.name()? {
        return Ok(DataLocation::Named(location));
    }
    Ok(match (record, recipe) {
        (Some(record), _) => DataLocation::Named(record.run.data.clone()),
        (_, Some(recipe)) => DataLocation::Standard(recipe.data.source),
        _ => match checkpoint::data(file)? {
            Some(data) if shapes::parse(&data).is_some() => DataLocation::Named(data),
            Some(data) if data != CIFAR10_NAME => {
                let problem =
                    format!("was trained on {data}: give the path of that data with --data");
                return Err(Error::bad(file, problem));
            }
            _ => DataLocation::Standard(DataSource::Cifar10),
        },
    })
}
