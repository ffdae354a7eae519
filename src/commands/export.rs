//! `crescendo export`.

use std::path::Path;

use crescendo::export::{OnnxOptions, to_onnx, write_onnx, write_pytorch};
use crescendo::logging::report::RunData;
use crescendo::training::checkpoint::Checkpoint;
use crescendo::training::{Error, TrainedNetwork};

use super::weights::{self, Elsewhere};
use super::{note, say};
use crate::cli::ExportArgs;

pub fn run(args: &ExportArgs) -> Result<(), Error> {
    let ExportArgs { file, views, .. } = args;
    if args.pytorch.is_some() && (views.flip.is_some() || views.shift.is_some()) {
        let problem = "--flip and --shift are for --onnx: model.py computes one view of an image";
        return Err(Error::Recipe(problem.into()));
    }
    let elsewhere = Elsewhere::load(args.recipe.as_deref(), args.data.as_deref())?;
    let external = elsewhere.as_ref().map(Elsewhere::external).transpose()?;
    let weights = match args.checkpoint {
        Some(which) if file.is_dir() => weights::of_run(file, which)?,
        Some(_) => {
            let problem = "is a file: --checkpoint needs the folder of a run";
            return Err(Error::bad(file, problem));
        }
        None => weights::best_or_latest(file)?,
    };
    let network = TrainedNetwork::new(&Checkpoint::open(&weights)?, external)?;
    network.notes.iter().for_each(|text| note(format_args!("note: {text}")));
    if let Some(out) = &args.onnx {
        let mut options = OnnxOptions::new(&network.recipe);
        options.flip = views.flip.unwrap_or(options.flip);
        options.shift = views.shift.unwrap_or(options.shift);
        options.fixed = args.fixed;
        write_onnx(out, &to_onnx(&network, &options)?)?;
        let size = if args.fixed { "32, 32" } else { "height, width" };
        let (out, classes) = (out.display(), network.classes.len());
        say!("{out}: image (uint8 [N, {size}, 3]) to probabilities (float32 [N, {classes}])")?;
    }
    if let Some(out) = &args.pytorch {
        let result = result(&weights, &network);
        write_pytorch(out, &network, result.as_deref())?;
        say!("{}: model.py, model.safetensors, README.md", out.display())?;
    }
    Ok(())
}

/// The accuracy of weights in a run's folder, as far as the run measured it.
fn result(weights: &Path, network: &TrainedNetwork) -> Option<String> {
    let run = RunData::read(weights.parent()?.parent()?).ok()?;
    let accuracies = run.accuracies(network.about.epoch?).into_iter().zip(["test", "validation"]);
    let accuracies = accuracies.filter_map(|(accuracy, images)| {
        Some(format!("{:.2} % of the {images} images are right", 100.0 * accuracy?))
    });
    let accuracies: Vec<String> = accuracies.collect();
    (!accuracies.is_empty()).then(|| accuracies.join(", "))
}
