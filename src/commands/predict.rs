//! `crescendo predict`.

use std::fs::File;
use std::io::{BufReader, Write};
use std::path::{Path, PathBuf};

use crescendo::data::{CHANNELS, IMAGE_BYTES, SIDE};
use crescendo::training::{Error, Model, Recipe};
use image::imageops::FilterType;
use image::{ImageReader, Limits};
use npyz::{NpyFile, WriterBuilder};

use super::{load_source, threads};
use crate::cli::Predict;

/// An image that says it is larger than this on a side is not worth its memory.
const LONGEST_SIDE: u32 = 20_000;
/// Memory that decoding one image may take.
const DECODING_BYTES: u64 = 1 << 30;

pub fn run(args: &Predict) -> Result<(), Error> {
    let recipe = args.recipe.as_ref().map(|name| Recipe::load::<&str>(name, &[])).transpose()?;
    // A file from elsewhere has neither classes' names nor statistics: they come from the data.
    let data = recipe.as_ref().map(|recipe| load_source(recipe.data.source)).transpose()?;
    let elsewhere = recipe.as_ref().zip(data.as_ref());
    let elsewhere =
        elsewhere.map(|(recipe, data)| (recipe, &data.set.train, &data.set.classes[..]));
    let mut model = Model::open(&args.file, elsewhere, threads(args.threads))?;

    let mut pixels = Vec::new();
    let mut names = Vec::new();
    for input in &args.inputs {
        read(input, &mut pixels, &mut names)?;
    }
    let probabilities = model.predict(&pixels);
    let classes = model.classes.len();
    for (name, probabilities) in names.iter().zip(probabilities.chunks_exact(classes)) {
        let mut order: Vec<usize> = (0..classes).collect();
        order.sort_by(|&a, &b| probabilities[b].total_cmp(&probabilities[a]));
        let top =
            order.iter().take(3).map(|&c| format!("{} {:.4}", model.classes[c], probabilities[c]));
        println!("{name}: {}", top.collect::<Vec<_>>().join(", "));
    }
    if let Some(out) = &args.out {
        write_npy(out, &probabilities, classes)?;
        println!("Probabilities: {} ({}, {classes})", out.display(), names.len());
    }
    Ok(())
}

/// Adds the images of one input, and a name for each.
fn read(path: &Path, pixels: &mut Vec<u8>, names: &mut Vec<String>) -> Result<(), Error> {
    if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("npy")) {
        let images = read_npy(path)?;
        let count = images.len() / IMAGE_BYTES;
        names.extend((0..count).map(|index| format!("{}[{index}]", path.display())));
        pixels.extend(images);
    } else {
        pixels.extend(read_image(path)?);
        names.push(path.display().to_string());
    }
    Ok(())
}

fn read_image(path: &Path) -> Result<Vec<u8>, Error> {
    let bad = |error| {
        Error::bad(path, format!("cannot be read as an image ({error}): give a PNG or JPEG file"))
    };
    let io = |error| Error::io("read", path, error);
    let mut reader = ImageReader::open(path).map_err(io)?.with_guessed_format().map_err(io)?;
    let mut limits = Limits::default();
    limits.max_image_width = Some(LONGEST_SIDE);
    limits.max_image_height = Some(LONGEST_SIDE);
    limits.max_alloc = Some(DECODING_BYTES);
    reader.limits(limits);
    let mut image = reader.decode().map_err(bad)?.into_rgb8();
    let side = SIDE as u32;
    if image.dimensions() != (side, side) {
        let (width, height) = image.dimensions();
        eprintln!("{}: resized from {width}x{height} to {side}x{side}", path.display());
        image = image::imageops::resize(&image, side, side, FilterType::Triangle);
    }
    let channel = |channel: usize| image.pixels().map(move |pixel| pixel.0[channel]);
    Ok((0..CHANNELS).flat_map(channel).collect())
}

fn read_npy(path: &Path) -> Result<Vec<u8>, Error> {
    let file = File::open(path).map_err(|error| Error::io("read", path, error))?;
    let bytes = file.metadata().map_err(|error| Error::io("read", path, error))?.len();
    let bad = |problem: String| {
        Error::bad(path, format!("{problem}: give bytes of the shape (N, {IMAGE_BYTES})"))
    };
    let array = NpyFile::new(BufReader::new(file)).map_err(|error| bad(error.to_string()))?;
    let shape = array.shape().to_vec();
    let [images, 3072] = shape[..] else {
        return Err(bad(format!("has the shape {shape:?}")));
    };
    // The header can claim what it likes; the file is as long as it is.
    if images.saturating_mul(IMAGE_BYTES as u64) > bytes {
        return Err(bad(format!("says it holds {images} images, but has {bytes} bytes")));
    }
    if array.order() != npyz::Order::C {
        return Err(bad("is in Fortran order".into()));
    }
    array.into_vec::<u8>().map_err(|error| bad(error.to_string()))
}

fn write_npy(path: &Path, probabilities: &[f64], classes: usize) -> Result<(), Error> {
    let shape = [(probabilities.len() / classes) as u64, classes as u64];
    let temporary = PathBuf::from(format!("{}.tmp", path.display()));
    let outcome = (|| {
        let file = File::create(&temporary)?;
        let mut writer = npyz::WriteOptions::new()
            .default_dtype()
            .shape(&shape)
            .writer(std::io::BufWriter::new(&file))
            .begin_nd()?;
        writer.extend(probabilities.iter().copied())?;
        writer.finish()?;
        (&file).flush()?;
        std::fs::rename(&temporary, path)
    })();
    outcome.map_err(|error| {
        // Nobody reads an unfinished file.
        let _ = std::fs::remove_file(&temporary);
        Error::io("write", path, error)
    })
}
