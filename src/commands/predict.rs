//! `crescendo predict`.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use crescendo::data::{ImageShape, Sizing, read_image_as};
use crescendo::devices;
use crescendo::training::{Error, External, Model, Recipe, write_atomically};

use super::{DataLocation, say};
use crate::cli::PredictArgs;
use crate::npy;

const SHAPE: ImageShape = ImageShape::CIFAR;
const BYTES: usize = SHAPE.elements();

pub fn run(args: &PredictArgs) -> Result<(), Error> {
    let engine = args.compute.engine()?;
    if let Some(out) = &args.out {
        check_out(out, args)?;
    }
    let recipe = args.recipe.as_ref().map(|name| Recipe::load::<&str>(name, &[])).transpose()?;
    // A file of another program has neither class names nor normalization: they come from the data.
    let data = recipe
        .as_ref()
        .map(|recipe| DataLocation::new(args.data.as_deref(), recipe.data.source).load());
    let data = data.transpose()?;
    let external = recipe.as_ref().zip(data.as_ref());
    let external = external.map(|(recipe, data)| External { recipe, data: &data.set });
    let mut model = Model::open(&args.file, external, devices(), &engine)?;
    args.views.apply(&mut model);

    let mut pixels = Vec::new();
    let mut names = Vec::new();
    for input in &args.inputs {
        read(input, model.sizing, &mut pixels, &mut names)?;
    }
    let probabilities = model.predict(&pixels)?;
    let classes = model.classes.len();
    for (name, probabilities) in names.iter().zip(probabilities.chunks_exact(classes)) {
        let mut order: Vec<usize> = (0..classes).collect();
        order.sort_by(|&a, &b| probabilities[b].total_cmp(&probabilities[a]));
        let top =
            order.iter().take(3).map(|&c| format!("{} {:.4}", model.classes[c], probabilities[c]));
        say!("{name}: {}", top.collect::<Vec<_>>().join(", "))?;
    }
    if let Some(out) = &args.out {
        write_npy(out, &probabilities, classes)?;
        let columns = model.classes.join(", ");
        say!("Probabilities: {} ({}, {classes}), columns: {columns}", out.display(), names.len())?;
    }
    Ok(())
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

/// Reads one input, and appends its images to `pixels` and a name for each image to `names`.
fn read(
    path: &Path,
    sizing: Sizing,
    pixels: &mut Vec<u8>,
    names: &mut Vec<String>,
) -> Result<(), Error> {
    if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("npy")) {
        let images = read_npy(path)?;
        let count = images.len() / SHAPE.elements();
        names.extend((0..count).map(|index| format!("{}[{index}]", path.display())));
        pixels.extend(images);
    } else {
        let image = read_image_as(path, sizing)?;
        if image.is_resized() {
            let from = format!("{}x{}", image.original_width, image.original_height);
            let to = format!("{}x{}", SHAPE.width, SHAPE.height);
            eprintln!("{}: resized from {from} to {to}", path.display());
        }
        pixels.extend(image.pixels);
        names.push(path.display().to_string());
    }
    Ok(())
}

fn read_npy(path: &Path) -> Result<Vec<u8>, Error> {
    let io = |error| Error::io("read", path, error);
    let file = File::open(path).map_err(io)?;
    let size = file.metadata().map_err(io)?.len();
    npy::read_bytes(BufReader::new(file), size, BYTES).map_err(|problem| {
        Error::bad(path, format!("{problem}: expected uint8 of shape (N, {BYTES})"))
    })
}

fn write_npy(path: &Path, probabilities: &[f64], classes: usize) -> Result<(), Error> {
    write_atomically(path, |file| npy::write_f64(file, probabilities, classes))
}
