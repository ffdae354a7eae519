//! `crescendo evaluate`.

mod data;

use std::path::{Path, PathBuf};

use crescendo::data::DataSet;
use crescendo::logging::{ClassTable, ConfusionMatrix, progress_bar};
use crescendo::training::checkpoint::{About, Checkpoint};
use crescendo::training::{
    CalibrationBin, Error, Evaluation, External, Model, Recipe, TrainedOn, checkpoint,
};
use serde_json::{Value, json};

use self::data::TestData;
use super::{note, say, weights};
use crate::cli::{BnStatistics, EvaluateArgs};
use crate::values::Which;

pub fn run(args: &EvaluateArgs) -> Result<(), Error> {
    let (engine, devices) = (args.compute.engine()?, args.compute.devices());
    args.compute.warn_of_unused(engine.device);
    let recipe = args.recipe.as_deref().map(described).transpose()?;
    let files = files(args)?;
    let mut results = Vec::new();
    let mut last = None;
    for file in &files {
        let checkpoint = Checkpoint::open(file)?;
        let mut data = TestData::load(args, &checkpoint, recipe.as_ref(), last.take())?;
        let external = recipe
            .as_ref()
            .map(|(recipe, trained_on)| External::new(recipe, trained_on, Some(&data.set)));
        let mut model = Model::new(&checkpoint, external.transpose()?, &devices, &engine)?;
        args.views.apply(&mut model);
        model.notes.iter().for_each(|text| note(format_args!("note: {text}")));
        data.match_classes(file, &model)?;
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
                let DataSet { name, train, .. } = &data.set;
                if train.is_empty() {
                    let problem = format!(
                        "precise BatchNorm statistics need training images, and {name} has none: leave --bn out, or \
                         give the data that the network was trained on with --data"
                    );
                    return Err(Error::bad(file, problem));
                }
                model.recompute_statistics(train, args.bn_images)?;
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
            }
            if evaluations.len() > 1 {
                say!("{} statistics", if *precise { "precise" } else { "running" })?;
            }
            let balanced = evaluation.balanced_accuracy();
            say!("Balanced accuracy (mean over the classes): {balanced:.4}")?;
            if let Some(top5) = evaluation.top5_accuracy() {
                say!("Top-5 accuracy: {top5:.4}")?;
            }
            say!("Calibration error (ECE): {:.4}\n", evaluation.calibration_error())?;
            say!("{}", ConfusionMatrix(evaluation, &model.classes))?;
            say!("{}", ClassTable(evaluation, &model.classes))?;
        }
        last = Some(data);
    }
    if args.json {
        say!("{}", json!({ "results": results }))?;
    }
    Ok(())
}

/// A recipe, and what its file says about the training data.
fn described(name: &str) -> Result<(Recipe, TrainedOn), Error> {
    Ok((Recipe::load::<&str>(name, &[])?, TrainedOn::load(name)?))
}

/// The line that the paper's program prints.
fn restored(file: &Path, model: &Model) -> String {
    let About { epoch, in_epoch, updates, loss, .. } = model.about;
    let loss = loss.map_or(String::new(), |loss| format!(" loss {loss:.6}"));
    let file = file.display();
    match (epoch, in_epoch) {
        (Some(epoch), _) => format!("Restored model parameters for checkpoint {epoch}{loss}"),
        (None, Some(epoch)) => format!(
            "Restored model parameters of {file}, saved in epoch {epoch}, after update {updates}"
        ),
        (None, None) => format!("Restored model parameters of {file}"),
    }
}

fn to_json(
    file: &Path,
    model: &Model,
    data: &DataSet,
    evaluation: &Evaluation,
    precise: bool,
) -> Value {
    let scores = evaluation.class_scores();
    let bin = |bin: &CalibrationBin| json!({ "images": bin.images, "confidence": bin.confidence(), "accuracy": bin.accuracy() });
    json!({
        "data": data.name,
        "file": file.display().to_string(),
        "checkpoint": model.about.epoch,
        "loss": model.about.loss,
        "updates": model.about.updates,
        "bn": if precise { "precise" } else { "running" },
        "accuracy": evaluation.accuracy(),
        "balanced_accuracy": evaluation.balanced_accuracy(),
        "top5_accuracy": evaluation.top5_accuracy(),
        "test_loss": evaluation.loss,
        "calibration_error": evaluation.calibration_error(),
        "calibration": evaluation.calibration.iter().map(bin).collect::<Vec<_>>(),
        "views": evaluation.views,
        "correct": evaluation.correct(),
        "images": evaluation.images(),
        "classes": model.classes,
        "class_accuracies": evaluation.class_accuracies(),
        "class_precisions": scores.iter().map(|score| score.precision).collect::<Vec<_>>(),
        "class_recalls": scores.iter().map(|score| score.recall).collect::<Vec<_>>(),
        "confusion": evaluation.confusion,
    })
}

/// The checkpoint files to evaluate.
fn files(args: &EvaluateArgs) -> Result<Vec<PathBuf>, Error> {
    let mut files = Vec::new();
    for run in &args.runs {
        if !run.is_dir() {
            if args.checkpoints != [Which::Last] {
                let problem = "is a file: --checkpoints needs the folder of a run";
                return Err(Error::bad(run, problem));
            }
            files.push(run.clone());
            continue;
        }
        for &which in &args.checkpoints {
            files.push(weights::of_run(run, which)?);
        }
        if args.checkpoints == [Which::Last] {
            note_better(run, files.last())?;
        }
    }
    Ok(files)
}

/// Says if a run's best weights are others than the latest ones, in `latest`.
fn note_better(run: &Path, latest: Option<&PathBuf>) -> Result<(), Error> {
    let best = checkpoint::best_path(run);
    let Some(latest) = latest.filter(|_| best.is_file()) else { return Ok(()) };
    let best = checkpoint::about(&best)?;
    if let Some(epoch) = best.epoch
        && best.updates != checkpoint::about(latest)?.updates
    {
        note(format_args!(
            "note: {}: the best weights by validation accuracy are those of epoch {epoch}; evaluate them with \
             --checkpoints best",
            run.display()
        ));
    }
    Ok(())
}
