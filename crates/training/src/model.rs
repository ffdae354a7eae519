//! A trained network for evaluation and prediction, from a checkpoint and nothing else.

use std::path::{Path, PathBuf};

use crescendo_data::{
    DataSet, ImageShape, Normalization, Sizing, Split, ValidationChoice, without_validation,
};
use crescendo_network::{BatchPart, Devices, Engine, EngineConfig, Section};

use crate::checkpoint::{About, Checkpoint};
use crate::evaluation::{self, Evaluation};
use crate::inference::{EVALUATION_BATCH, Input, Views, softmax};
use crate::validation::MAX_SHIFT;
use crate::{Error, Recipe, TrainedNetwork, TrainedOn};

const IMAGE_BYTES: usize = ImageShape::CIFAR.elements();

/// A network with its weights, and how images become its input.
///
/// # Example
///
/// ```
/// use crescendo_cpu::CpuDevices;
/// use crescendo_training::checkpoint::{self, Checkpoint};
/// use crescendo_training::{
///     CalibrationBin, ClassScore, External, Model, Recipe, Run, Start, TrainedOn,
/// };
///
/// let data = crescendo_data::shapes::generate(0, 100, 50);
/// let recipe = Recipe::load("quick", &["train.epochs=1", "network.widths=[4, 4, 4]"])?;
/// # let folder = tempfile::tempdir().unwrap();
/// # let folder = folder.path().join("run");
/// let devices = &CpuDevices;
/// let start = Start::new(&recipe, &data, devices);
/// Run::create(&folder, &start)?.train(devices, &data, &mut (), &false.into())?;
///
/// let path = checkpoint::path(&folder, 1);
/// let mut model = Model::open(&path, None, devices, &recipe.engine)?;
/// let evaluation = model.evaluate(&data.test, |_| ())?;
/// assert_eq!(evaluation.images(), 50);
/// let wrong = evaluation.misclassified.first().expect("no network is that good after an epoch");
/// assert_ne!(wrong.label, wrong.prediction);
/// let scores: Vec<ClassScore> = evaluation.class_scores();
/// assert_eq!((scores.len(), scores[0].images), (10, 5));
/// // How many images there are with a confidence of up to 1/15, up to 2/15, and so on.
/// let bins: Vec<u64> = evaluation.calibration.iter().map(|bin: &CalibrationBin| bin.images).collect();
/// assert_eq!((bins.len(), bins.iter().sum()), (15, 50));
/// let probabilities = model.predict(data.test.image(0))?;
/// assert!((probabilities.iter().sum::<f64>() - 1.0).abs() < 1e-9);
///
/// // A file of another program does not say what its network is.
/// let external = External::new(&recipe, &TrainedOn::default(), Some(&data))?;
/// let checkpoint = Checkpoint::open(&path)?;
/// let mut same = Model::new(&checkpoint, Some(external), devices, &recipe.engine)?;
/// assert_eq!(same.evaluate(&data.test, |_| ())?.correct(), evaluation.correct());
/// # Ok::<(), crescendo_training::Error>(())
/// ```
pub struct Model {
    engine: Box<dyn Engine>,
    path: PathBuf,
    input: Input,
    /// What predictions are computed in.
    views: Views,
    /// How many training images are validation images.
    validation: usize,
    /// How these were chosen.
    choice: ValidationChoice,
    /// How images are brought to the size that the network takes.
    pub sizing: Sizing,
    /// The classes' names, in the order of the logits.
    pub classes: Vec<String>,
    /// Of which moment of its run the weights are, as far as the file says.
    pub about: About,
    /// What a user should know about the file, one sentence each.
    pub notes: Vec<String>,
}

/// What a checkpoint of another program does not say itself.
///
/// See the example of [`Model`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct External<'a> {
    /// The network.
    pub recipe: &'a Recipe,
    /// The classes' names, in the order of the logits.
    pub classes: Vec<String>,
    /// How images are normalised.
    pub normalization: Normalization,
    /// How images are brought to the size that the network takes; what the checkpoint says, if this does not.
    pub sizing: Option<Sizing>,
}

impl<'a> External<'a> {
    /// The description of a network with `recipe`. `trained_on` is what the recipe's file says about the training data;
    /// classes and normalisation that it does not say are those of `data`, the data set the network was trained on.
    ///
    /// # Errors
    /// If neither says them.
    pub fn new(
        recipe: &'a Recipe,
        trained_on: &TrainedOn,
        data: Option<&DataSet>,
    ) -> Result<Self, Error> {
        let TrainedOn { classes, normalization, sizing, .. } = trained_on;
        let classes = classes.clone().or_else(|| data.map(|data| data.classes.clone()));
        let normalization =
            normalization.or_else(|| recipe.data.normalization_without_images()).or_else(|| {
                data.and_then(|data| {
                    (!data.train.is_empty()).then(|| recipe.data.normalization(&data.train))
                })
            });
        let (Some(classes), Some(normalization)) = (classes, normalization) else {
            return Err(Error::Recipe(
                "the recipe does not say how images are normalised or what the classes are called: give the \
                 data that the network was trained on with --data, or the recipe.toml of its run with --recipe"
                    .into(),
            ));
        };
        Ok(External { recipe, classes, normalization, sizing: *sizing })
    }
}

impl Model {
    /// Loads the network in a checkpoint. `compute` says on which device, with how many threads and which
    /// instruction set it is computed; `external` describes a file of another program.
    ///
    /// # Errors
    /// If the file is missing or damaged, holds another network than its recipe describes, or the device
    /// cannot be used.
    pub fn open(
        path: &Path,
        external: Option<External>,
        devices: &dyn Devices,
        compute: &EngineConfig,
    ) -> Result<Self, Error> {
        Self::new(&Checkpoint::open(path)?, external, devices, compute)
    }

    /// The network in a checkpoint that has been read; see [`open`](Self::open).
    ///
    /// # Errors
    /// If it holds another network than its recipe describes, or the device cannot be used.
    pub fn new(
        checkpoint: &Checkpoint,
        external: Option<External>,
        devices: &dyn Devices,
        compute: &EngineConfig,
    ) -> Result<Self, Error> {
        let network = TrainedNetwork::new(checkpoint, external)?;
        let TrainedNetwork { recipe, validation: choice, .. } = &network;
        let EngineConfig { device, precision, threads, isa, tiles, .. } = *compute;
        let config = EngineConfig { device, precision, threads, isa, tiles, ..recipe.engine };
        let device = devices.open(&config)?;
        let mut engine = device.engine(&network.graph)?;
        engine.import(Section::Model, &network.tensors)?;
        engine.favor_latency();
        Ok(Model {
            engine,
            input: Input::new(&recipe.data, network.normalization),
            views: Views::default(),
            validation: recipe.data.validation,
            choice: *choice,
            path: network.path,
            sizing: network.sizing,
            classes: network.classes,
            about: network.about,
            notes: network.notes,
        })
    }

    /// Sets whether predictions are averaged over an image and its mirror image, instead of what the recipe
    /// says.
    pub fn set_flip(&mut self, flip: bool) {
        self.input.flip = flip;
    }

    /// Sets by how many pixels images are shifted for views that are averaged, 0 for none, instead of what
    /// the recipe says. See [`DataConfig::test_shift`](crate::recipe::DataConfig::test_shift).
    ///
    /// # Panics
    /// If they are more than [`MAX_SHIFT`].
    pub fn set_shift(&mut self, shift: usize) {
        assert!(shift <= MAX_SHIFT, "nothing of an image would be left");
        self.input.shift = shift;
    }

    /// The probabilities `[N, classes]` of images `[N, C, H, W]` of bytes.
    ///
    /// # Errors
    /// If the images are not whole, the device fails, or the network's outputs are infinite or NaN.
    pub fn predict(&mut self, images: &[u8]) -> Result<Vec<f64>, Error> {
        let mut probabilities = vec![0.0; images.len() / IMAGE_BYTES * self.classes.len()];
        self.predict_into(images, &mut probabilities)?;
        Ok(probabilities)
    }

    /// As [`predict`](Self::predict), but writes the probabilities to a slice. On the CPU it allocates nothing, unless
    /// there are more images than in any call before, or for the first time one to four, or the views have changed.
    ///
    /// # Errors
    /// As [`predict`](Self::predict), or if there is not room for one probability for each image and class.
    pub fn predict_into(&mut self, images: &[u8], probabilities: &mut [f64]) -> Result<(), Error> {
        let (classes, bytes, room) = (self.classes.len(), images.len(), probabilities.len());
        if !bytes.is_multiple_of(IMAGE_BYTES) {
            return Err(Error::Refused(format!(
                "an image is {IMAGE_BYTES} bytes, red, green and blue planes of 32 rows with 32 pixels: {bytes} bytes \
                 are not a number of images"
            )));
        }
        let count = bytes / IMAGE_BYTES * classes;
        if room != count {
            return Err(Error::Refused(format!(
                "the probabilities of {} images of {classes} classes are {count} numbers: give room for so many, not \
                 for {room}",
                bytes / IMAGE_BYTES
            )));
        }
        let parts = probabilities.chunks_mut(EVALUATION_BATCH * classes);
        for (images, probabilities) in images.chunks(EVALUATION_BATCH * IMAGE_BYTES).zip(parts) {
            let logits = self.input.logits_with(&mut self.views, &mut *self.engine, images);
            let logits = logits.map_err(|error| not_finite(&self.path, error))?;
            let images = logits.chunks_exact(classes).zip(probabilities.chunks_exact_mut(classes));
            for (logits, probabilities) in images {
                probabilities.iter_mut().zip(softmax(logits)).for_each(|(out, p)| *out = p);
            }
        }
        Ok(())
    }

    /// Replaces BatchNorm's running statistics by those of `images` training images (or all, if there are
    /// fewer) with the weights as they are ("precise" statistics, Wu and Johnson 2021, arXiv 2105.07576).
    /// Validation images are not used.
    ///
    /// # Errors
    /// If the device fails.
    pub fn recompute_statistics(&mut self, train: &Split, images: usize) -> Result<(), Error> {
        let train = without_validation(train, self.validation, self.choice);
        // Evenly spread, in case the images are sorted.
        let images = images.min(train.len());
        let indices: Vec<usize> = (0..images).map(|at| at * train.len() / images).collect();
        let mut done = 0;
        for indices in indices.chunks(EVALUATION_BATCH) {
            let bytes: Vec<u8> = indices.iter().flat_map(|&at| train.image(at)).copied().collect();
            done += indices.len();
            // So that each image has the same weight in the end.
            let share = indices.len() as f64 / done as f64;
            let part = BatchPart::whole(indices.len());
            self.engine.blend_statistics(&self.input.normalize(&bytes), &part, share)?;
        }
        Ok(())
    }

    /// Evaluates the network on `split`; `progress` is called with the number of images so far.
    ///
    /// # Errors
    /// If a label is of none of the network's classes, the device fails, or the network's outputs are infinite or NaN.
    pub fn evaluate(
        &mut self,
        split: &Split,
        mut progress: impl FnMut(usize),
    ) -> Result<Evaluation, Error> {
        let (classes, path) = (self.classes.len(), self.path.display());
        if !split.is_whole() {
            let (count, bytes) = (split.len(), split.pixels.len());
            return Err(Error::Refused(format!(
                "there are {count} labels for images of {bytes} bytes in all"
            )));
        }
        if let Some(label) = split.labels.iter().find(|&&label| usize::from(label) >= classes) {
            return Err(Error::Refused(format!(
                "an image has the label {label}, but the network in {path} has {classes} classes, counted from 0"
            )));
        }
        evaluation::evaluate(&mut *self.engine, &self.input, split, |done| {
            progress(done);
            Ok(())
        })
        .map_err(|error| not_finite(&self.path, error))
    }
}

/// Blames the file if the network's outputs are not numbers.
fn not_finite(path: &Path, error: Error) -> Error {
    match error {
        Error::NotFinite => Error::bad(
            path,
            "gives outputs that are infinite or not a number: its weights are damaged, or training had \
             diverged; use another checkpoint",
        ),
        other => other,
    }
}
