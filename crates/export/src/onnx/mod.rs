//! A trained network as an ONNX model (<https://onnx.ai>): from the bytes of images to probabilities.

mod builder;
mod input;
mod layers;
mod views;

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

use crescendo_data::ImageShape;
use crescendo_training::protobuf::Message;
use crescendo_training::validation::MAX_SHIFT;
use crescendo_training::{Error, Recipe, TrainedNetwork, write_atomically};

use self::builder::{Attribute, Builder, Dimension, Type, value};
use self::input::IMAGE;

/// The name of the model's output: `[N, classes]`, the probabilities in the order of the metadata's `names`.
const PROBABILITIES: &str = "probabilities";

/// The versions of the format and of its operations: old enough for what reads them, new enough for BatchNorm in ONNX's
/// own evaluator (it fails with 13).
const IR_VERSION: u64 = 8;
const OPERATIONS: u64 = 17;

/// Protocol buffers hold less than 2 GiB; the nodes and names take far less than this difference.
const MOST_BYTES: usize = (2 << 30) - (64 << 20);

/// How a model computes.
///
/// See the example of [`to_onnx`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OnnxOptions {
    /// Whether an image and its mirror image are averaged:
    /// [`DataConfig::test_flip`](crescendo_training::recipe::DataConfig::test_flip).
    pub flip: bool,
    /// By how many pixels images are shifted for views that are averaged, 0 for none:
    /// [`DataConfig::test_shift`](crescendo_training::recipe::DataConfig::test_shift).
    pub shift: usize,
    /// Whether images must have the size that the network takes, for programs that cannot resize.
    pub fixed: bool,
}

impl OnnxOptions {
    /// The views that a recipe asks for, and images of any size.
    pub fn new(recipe: &Recipe) -> Self {
        OnnxOptions { flip: recipe.data.test_flip, shift: recipe.data.test_shift, fixed: false }
    }
}

/// The bytes of an ONNX file that computes what `predict` does with an image in memory. Its input `image` is `[N, height,
/// width, 3]`, bytes of red, green and blue, of any size (32x32, if it is fixed); its output `probabilities` is `[N,
/// classes]`. Resizing, normalisation, views and softmax are inside; initializers have a checkpoint's names and values; the
/// metadata has the classes (`names`, a JSON array) and what a checkpoint says. Equal networks and options make equal bytes.
///
/// # Errors
/// If the weights are too large for the format, or `shift` leaves nothing of an image.
///
/// # Example
///
/// ```
/// use crescendo_cpu::CpuDevices;
/// use crescendo_export::{OnnxOptions, to_onnx, write_onnx};
/// use crescendo_training::checkpoint::{self, Checkpoint};
/// use crescendo_training::{Recipe, Run, Start, TrainedNetwork};
///
/// let data = crescendo_data::shapes::generate(0, 100, 50);
/// let recipe = Recipe::load("quick", &["train.epochs=0", "network.widths=[4, 4, 4]"])?;
/// # let folder = tempfile::tempdir().unwrap();
/// # let folder = folder.path().join("run");
/// let (recipe_name, data_location) = ("quick", "shapes:100,50");
/// let (init, devices) = (None, &CpuDevices);
/// let start = Start { recipe: &recipe, recipe_name, data: &data, data_location, init, devices };
/// Run::create(&folder, &start)?.train(devices, &data, &mut (), &false.into())?;
///
/// let checkpoint = Checkpoint::open(&checkpoint::path(&folder, 0))?;
/// let network = TrainedNetwork::new(&checkpoint, None)?;
/// // With the mirror image too.
/// let options = OnnxOptions { flip: true, ..OnnxOptions::new(&network.recipe) };
/// write_onnx(&folder.join("model.onnx"), &to_onnx(&network, &options)?)?;
/// # Ok::<(), crescendo_training::Error>(())
/// ```
pub fn to_onnx(network: &TrainedNetwork, options: &OnnxOptions) -> Result<Vec<u8>, Error> {
    const SHAPE: ImageShape = ImageShape::CIFAR;
    let OnnxOptions { flip, shift, fixed } = *options;
    if shift > MAX_SHIFT {
        let problem = format!("images can be shifted by at most {MAX_SHIFT} pixels, not {shift}");
        return Err(Error::Refused(problem));
    }
    let weights = network.tensors.iter().map(|tensor| tensor.name.to_string());
    let names = [IMAGE, PROBABILITIES].map(str::to_owned);
    let mut builder = Builder::new(weights.chain(names));

    layers::add_weights(&mut builder, network);
    if builder.bytes() > MOST_BYTES {
        let problem = "has more than 2 GB of weights, which is more than an ONNX file can hold";
        return Err(Error::bad(&network.path, problem));
    }
    let sizing = (!fixed).then_some(network.sizing);
    let images = input::add(&mut builder, sizing, &network.normalization);
    let images = views::add(&mut builder, images, flip, shift);
    let mut logits = layers::add(&mut builder, network, images);
    let (weights, classes) = (views::weights(flip, shift), network.classes.len());
    if weights.len() > 1 {
        logits = views::average(&mut builder, &logits, &weights, classes);
    }
    builder.node_to("Softmax", PROBABILITIES, &[&logits], &[("axis", Attribute::Int(1))]);

    let [height, width] = match fixed {
        true => [SHAPE.height, SHAPE.width].map(Dimension::Fixed),
        false => ["height", "width"].map(Dimension::Any),
    };
    let images = Dimension::Any("N");
    let input = [images, height, width, Dimension::Fixed(SHAPE.channels)];
    let input = value(IMAGE, Type::Uint8, &input);
    let output = value(PROBABILITIES, Type::Float, &[images, Dimension::Fixed(classes)]);
    let graph = builder.finish("crescendo", input, output);

    let model = Message::default()
        .int(1, IR_VERSION)
        .bytes(2, b"crescendo")
        .bytes(3, env!("CARGO_PKG_VERSION").as_bytes())
        .message(7, &graph)
        .message(8, &Message::default().int(2, OPERATIONS));
    let metadata = metadata(network, options).into_iter();
    let model = metadata.fold(model, |model, (key, value)| {
        let entry = Message::default().bytes(1, key.as_bytes()).bytes(2, value.as_bytes());
        model.message(14, &entry)
    });
    Ok(model.into_bytes())
}

/// How a model of this program begins: the version of the format and the producer.
const START: &[u8] = b"\x08\x08\x12\x09crescendo";

/// Writes a model to `path`, atomically, where there may be no file but another model of this program: never over a
/// checkpoint or a recipe.
///
/// # Errors
/// If there is another file, or it cannot be written.
pub fn write_onnx(path: &Path, model: &[u8]) -> Result<(), Error> {
    let mut start = Vec::new();
    match File::open(path).and_then(|file| file.take(START.len() as u64).read_to_end(&mut start)) {
        Ok(_) if start == START => {}
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Ok(_) => {
            let problem = "already exists and is not a model that crescendo wrote: choose another file, or \
                           remove it";
            return Err(Error::bad(path, problem));
        }
        Err(error) => return Err(Error::io("write", path, error)),
    }
    write_atomically(path, |file| file.write_all(model))
}

/// What the file says about the model, besides what it computes: as a checkpoint, and in alphabetical order.
fn metadata(network: &TrainedNetwork, options: &OnnxOptions) -> Vec<(String, String)> {
    let mut metadata = network.metadata();
    // What PyTorch calls the kind of file, and what the model's producer is.
    for key in ["format", "version"] {
        metadata.remove(key);
    }
    let classes = metadata.remove("classes").unwrap_or_default();
    let own = [
        ("names", classes),
        ("test_flip", options.flip.to_string()),
        ("test_shift", options.shift.to_string()),
    ];
    metadata.extend(own.map(|(key, value)| (key.to_owned(), value)));
    metadata.into_iter().collect()
}
