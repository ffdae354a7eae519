//! A trained network: what `evaluate` and `predict` need, from a checkpoint and nothing else.

use std::convert::Infallible;
use std::path::Path;

use crescendo_data::{DataSet, ImageShape, Normalization, Split, shift, without_validation};
use crescendo_kernels::loss::{self, softmax};
use crescendo_network::{Engine, Plan, Section};

use crate::checkpoint::{Checkpoint, SAY};
use crate::recipe::DataConfig;
use crate::validation::MAX_SHIFT;
use crate::{Error, Machine, Recipe, run};

const SIDE: usize = ImageShape::CIFAR.width;
const IMAGE_BYTES: usize = ImageShape::CIFAR.elements();

/// A network with its weights, and how images are put before it.
pub struct Model {
    engine: Box<dyn Engine>,
    input: Input,
    /// Training images that are held out.
    held_out: usize,
    /// The classes' names; logits are in their order.
    pub classes: Vec<String>,
    /// The epoch after which the weights were saved, if the file says so.
    pub epoch: Option<u32>,
    /// The training loss of that epoch, if the file says so.
    pub loss: Option<f64>,
}

/// What is known of a checkpoint that another program wrote.
#[derive(Clone, Copy, Debug)]
pub struct Elsewhere<'a> {
    /// Its network and normalisation.
    pub recipe: &'a Recipe,
    /// What it was trained on: classes' names, and statistics where the normalisation needs them.
    pub data: &'a DataSet,
}

/// How images are put before the network.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Input {
    normalization: Normalization,
    /// [`DataConfig::test_flip`].
    flip: bool,
    /// [`DataConfig::test_shift`].
    shift: usize,
}

impl Input {
    pub(crate) fn new(data: &DataConfig, normalization: Normalization) -> Self {
        Input { normalization, flip: data.test_flip, shift: data.test_shift }
    }
}

/// Images that are normalised and computed at once.
const IMAGES: usize = 256;

impl Model {
    /// The network in a checkpoint, computed on `machine`; `elsewhere` says what a file holds that does
    /// not say it.
    ///
    /// # Errors
    /// If the file is missing or damaged, or holds another network than its recipe describes.
    pub fn open(
        path: &Path,
        elsewhere: Option<Elsewhere>,
        machine: Machine,
    ) -> Result<Self, Error> {
        let checkpoint = Checkpoint::open(path)?;
        let (recipe, normalization, classes) = match elsewhere {
            Some(Elsewhere { recipe, data }) => {
                let normalization = recipe.data.normalization(&data.train);
                (recipe.clone(), normalization, data.classes.clone())
            }
            None => checkpoint.description()?,
        };
        let bad = |error: crescendo_network::Error| {
            let problem = format!("{error}: it holds another network than its recipe describes");
            Error::bad(path, problem).advise(SAY)
        };
        let network = recipe.network.network().map_err(bad)?;
        let plan = Plan::new(&network, recipe.engine.compute()).map_err(bad)?;
        let model = checkpoint.model()?;
        let numbers: usize =
            model.iter().map(|tensor| tensor.shape.iter().product::<usize>()).sum();
        // Nobody asks for the memory of a network that is only claimed.
        if numbers < plan.parameter_count() {
            let parameters = plan.parameter_count();
            let problem = format!("holds {numbers} numbers, but its network has {parameters}");
            return Err(Error::bad(path, problem).advise(SAY));
        }
        let mut engine = run::engine(plan, machine);
        engine.import(Section::Model, &model).map_err(bad)?;
        if classes.len() != engine.plan().classes() {
            let (names, outputs) = (classes.len(), engine.plan().classes());
            let problem = format!("tells {outputs} classes apart, but there are {names} names");
            return Err(Error::bad(path, problem));
        }
        let (epoch, loss) = (checkpoint.epoch(), checkpoint.loss());
        let input = Input::new(&recipe.data, normalization);
        Ok(Model { engine, input, held_out: recipe.data.validation, classes, epoch, loss })
    }

    /// Whether answers are the mean of those to an image and to its mirror image; the recipe says it
    /// otherwise.
    pub fn set_flip(&mut self, flip: bool) {
        self.input.flip = flip;
    }

    /// By how many pixels images are shifted for answers to them that count for half, 0 for none; the
    /// recipe says it otherwise. See [`DataConfig::test_shift`].
    ///
    /// # Panics
    /// If they are more than [`MAX_SHIFT`].
    pub fn set_shift(&mut self, shift: usize) {
        assert!(shift <= MAX_SHIFT, "nothing of an image would be left");
        self.input.shift = shift;
    }

    /// The probabilities `[N, classes]` of `images`: `N` times the bytes of [`ImageShape::CIFAR`].
    pub fn predict(&mut self, images: &[u8]) -> Vec<f64> {
        let classes = self.classes.len();
        let mut probabilities = Vec::new();
        for images in images.chunks(IMAGES * IMAGE_BYTES) {
            let logits = logits(&mut *self.engine, &self.input, images);
            probabilities.extend(logits.chunks_exact(classes).flat_map(softmax));
        }
        probabilities
    }

    /// Replaces BatchNorm's running statistics by those of `images` training images (or of all, where
    /// there are fewer) as evaluation sees them, with the weights as they are now. Images that the recipe
    /// holds out are none of them.
    pub fn recompute_statistics(&mut self, train: &Split, images: usize) {
        let train = without_validation(train, self.held_out);
        // Evenly spread, in case the images are sorted.
        let images = images.min(train.len());
        let indices: Vec<usize> = (0..images).map(|at| at * train.len() / images).collect();
        let mut done = 0;
        for indices in indices.chunks(IMAGES) {
            let mut numbers = vec![0.0; indices.len() * IMAGE_BYTES];
            for (&index, out) in indices.iter().zip(numbers.chunks_exact_mut(IMAGE_BYTES)) {
                self.input.normalization.apply(train.image(index), out);
            }
            done += indices.len();
            // So that each image weighs the same in the end.
            self.engine.blend_statistics(&numbers, indices.len() as f64 / done as f64);
        }
    }

    /// How well it does on `split`; `progress` hears how many images are done.
    pub fn evaluate(&mut self, split: &Split, mut progress: impl FnMut(usize)) -> Evaluation {
        let outcome = evaluate(&mut *self.engine, &self.input, split, |done| {
            progress(done);
            Ok::<(), Infallible>(())
        });
        outcome.unwrap_or_else(|never| match never {})
    }
}

/// Right and wrong answers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Evaluation {
    /// `confusion[label][answer]` counts the images of class `label` that got this answer.
    pub confusion: Vec<Vec<u64>>,
    /// The mean cross-entropy.
    pub loss: f64,
    /// Of how many views of an image each answer is the mean: mirrored ones, shifted ones, both.
    pub views: usize,
    /// The most confident wrong answers, the most confident first.
    pub mistakes: Vec<Mistake>,
}

/// A wrong answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Mistake {
    /// The image's index in its split.
    pub index: usize,
    /// Its class.
    pub label: usize,
    /// The answer.
    pub answer: usize,
    /// The answer's probability.
    pub probability: f64,
    /// The image: the bytes of [`ImageShape::CIFAR`], red plane, green, blue.
    pub image: Vec<u8>,
}

/// Mistakes that are kept.
const MISTAKES: usize = 24;

impl Evaluation {
    /// Takes in one image's logits.
    fn count(&mut self, index: usize, label: usize, image: &[u8], logits: &[f32]) {
        let answer = loss::argmax(logits);
        self.confusion[label][answer] += 1;
        let probabilities: Vec<f64> = softmax(logits).collect();
        // A probability can be too small for a number.
        self.loss -= probabilities[label].max(f64::MIN_POSITIVE).ln();
        let probability = probabilities[answer];
        let least = self.mistakes.get(MISTAKES - 1).map_or(f64::NEG_INFINITY, |m| m.probability);
        if answer == label || probability.is_nan() || probability <= least {
            return;
        }
        let at = self.mistakes.partition_point(|mistake| mistake.probability >= probability);
        let image = image.to_vec();
        self.mistakes.insert(at, Mistake { index, label, answer, probability, image });
        self.mistakes.truncate(MISTAKES);
    }

    /// Images in all.
    pub fn images(&self) -> u64 {
        self.confusion.iter().flatten().sum()
    }

    /// Images with the right answer.
    pub fn correct(&self) -> u64 {
        self.confusion.iter().enumerate().map(|(class, answers)| answers[class]).sum()
    }

    /// The share of right answers.
    pub fn accuracy(&self) -> f64 {
        self.correct() as f64 / self.images().max(1) as f64
    }

    /// The share of right answers of each class; `None` for a class without images.
    pub fn class_accuracies(&self) -> Vec<Option<f64>> {
        let classes = self.confusion.iter().enumerate().map(|(class, answers)| {
            let images: u64 = answers.iter().sum();
            (images > 0).then(|| answers[class] as f64 / images as f64)
        });
        classes.collect()
    }
}

/// How well an engine does on `split`; stops early when `progress` gives an error.
pub(crate) fn evaluate<E>(
    engine: &mut dyn Engine,
    input: &Input,
    split: &Split,
    mut progress: impl FnMut(usize) -> Result<(), E>,
) -> Result<Evaluation, E> {
    let classes = engine.plan().classes();
    let mut evaluation = Evaluation {
        confusion: vec![vec![0; classes]; classes],
        views: if input.flip { 2 } else { 1 } * if input.shift > 0 { 3 } else { 1 },
        ..Evaluation::default()
    };
    let mut done = 0;
    for images in split.pixels.chunks(IMAGES * IMAGE_BYTES) {
        let logits = logits(engine, input, images);
        for (logits, image) in logits.chunks_exact(classes).zip(images.chunks_exact(IMAGE_BYTES)) {
            let label = usize::from(split.labels[done]);
            evaluation.count(done, label, image, logits);
            done += 1;
        }
        progress(done)?;
    }
    evaluation.loss /= done.max(1) as f64;
    Ok(evaluation)
}

/// The logits of images as bytes.
fn logits(engine: &mut dyn Engine, input: &Input, images: &[u8]) -> Vec<f32> {
    let mut numbers = vec![0.0; images.len()];
    let pairs = images.chunks_exact(IMAGE_BYTES).zip(numbers.chunks_exact_mut(IMAGE_BYTES));
    pairs.for_each(|(image, out)| input.normalization.apply(image, out));
    views(engine, input, numbers)
}

/// The logits of normalised images; with a shift, half of them and a quarter of those of each shifted
/// image.
fn views(engine: &mut dyn Engine, input: &Input, numbers: Vec<f32>) -> Vec<f32> {
    let by = input.shift as isize;
    let shifted = (by > 0).then(|| {
        [-by, by].map(|by| {
            let mut shifted = vec![0.0; numbers.len()];
            let pairs = numbers.chunks_exact(IMAGE_BYTES);
            let pairs = pairs.zip(shifted.chunks_exact_mut(IMAGE_BYTES));
            pairs.for_each(|(image, out)| shift(image, by, out));
            answers(engine, input.flip, shifted)
        })
    });
    let mut logits = answers(engine, input.flip, numbers);
    if let Some([up, down]) = shifted {
        for (logit, (up, down)) in logits.iter_mut().zip(up.iter().zip(&down)) {
            *logit = (*logit + (up + down) / 2.0) / 2.0;
        }
    }
    logits
}

/// The logits of normalised images, or the means of an image's and its mirror image's.
fn answers(engine: &mut dyn Engine, flip: bool, mut numbers: Vec<f32>) -> Vec<f32> {
    let mut logits = engine.logits(&numbers);
    if flip {
        numbers.chunks_exact_mut(SIDE).for_each(<[f32]>::reverse);
        for (logit, flipped) in logits.iter_mut().zip(engine.logits(&numbers)) {
            *logit = (*logit + flipped) / 2.0;
        }
    }
    logits
}

#[cfg(test)]
mod tests {
    use crescendo_network::{Tensor, Values};

    use super::*;

    /// The numbers of a tensor of PyTorch's.
    fn numbers(file: &safetensors::SafeTensors, name: &str) -> Vec<f32> {
        let view = file.tensor(name).unwrap();
        let bytes = view.data();
        match view.dtype() {
            safetensors::Dtype::F64 => bytes
                .chunks_exact(8)
                .map(|bytes| f64::from_le_bytes(bytes.try_into().unwrap()) as f32)
                .collect(),
            safetensors::Dtype::F32 => bytes
                .chunks_exact(4)
                .map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()))
                .collect(),
            other => panic!("{name} is {other:?}"),
        }
    }

    #[test]
    fn six_views_are_pytorchs() {
        let path =
            concat!(env!("CARGO_MANIFEST_DIR"), "/../network/tests/fixtures/airbench.safetensors");
        let bytes = std::fs::read(path).unwrap();
        let fixture = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let recipe = ["blocks=[2, 3]", "widths=[4, 6]", "head.scale=0.5"];
        let recipe = recipe.map(|change| format!("network.{change}"));
        let recipe = Recipe::load("fast94", &recipe).unwrap();
        let mut engine = run::engine(crate::plan(&recipe).unwrap(), recipe.machine().unwrap());
        let model: Vec<Tensor> = engine
            .export(Section::Model)
            .iter()
            .map(|tensor| {
                let values = match tensor.values {
                    Values::I64(count) => Values::I64(count),
                    Values::F32(_) => {
                        Values::F32(numbers(&fixture, &format!("after2/{}", tensor.name)).into())
                    }
                };
                let name = tensor.name.to_string().into();
                Tensor { name, shape: tensor.shape.clone(), values }
            })
            .collect();
        engine.import(Section::Model, &model).unwrap();
        let input = Input::new(&recipe.data, Normalization::None);
        let logits = views(&mut *engine, &input, numbers(&fixture, "images"));
        let expected = numbers(&fixture, "views/logits");
        let square = |x: f32| f64::from(x).powi(2);
        let distance: f64 = logits.iter().zip(&expected).map(|(a, b)| square(a - b)).sum();
        let norm: f64 = expected.iter().copied().map(square).sum();
        assert!(distance.sqrt() < 3e-6 * norm.sqrt(), "{} of {}", distance.sqrt(), norm.sqrt());
    }

    #[test]
    fn the_most_confident_mistakes_are_kept() {
        let mut evaluation = Evaluation { confusion: vec![vec![0; 2]; 2], ..Evaluation::default() };
        for index in 0..100 {
            // Right for even ones, wrong for odd ones, and more confident later.
            let logit = index as f32 / 50.0 + 0.01;
            evaluation.count(index, index % 2, &[index as u8], &[logit, 0.0]);
        }
        let kept: Vec<usize> = evaluation.mistakes.iter().map(|mistake| mistake.index).collect();
        assert_eq!(kept, (0..24).map(|i| 99 - 2 * i).collect::<Vec<_>>());
        assert_eq!((evaluation.mistakes[0].label, evaluation.mistakes[0].answer), (1, 0));
        assert_eq!(evaluation.accuracy(), 0.5);
        assert!(evaluation.loss > 0.0);
    }

    #[test]
    fn accuracies_are_counted_from_the_confusion() {
        let evaluation = Evaluation {
            confusion: vec![vec![3, 1, 0], vec![0, 2, 2], vec![0, 0, 0]],
            ..Evaluation::default()
        };
        assert_eq!((evaluation.images(), evaluation.correct()), (8, 5));
        assert_eq!(evaluation.accuracy(), 0.625);
        assert_eq!(evaluation.class_accuracies(), [Some(0.75), Some(0.5), None]);
    }
}
