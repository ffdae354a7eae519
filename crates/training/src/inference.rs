//! From images to logits and probabilities: normalisation and views (test-time augmentation).

use crescendo_data::{ImageShape, Normalization, shift};
use crescendo_network::{Engine, EngineError};

use crate::Error;
use crate::recipe::DataConfig;

const SHAPE: ImageShape = ImageShape::CIFAR;
const ELEMENTS: usize = SHAPE.elements();

/// Images that are normalised and computed at once.
pub(crate) const EVALUATION_BATCH: usize = 256;

/// How images become input of a network, and which views of an image are averaged.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Input {
    pub normalization: Normalization,
    /// [`DataConfig::test_flip`].
    pub flip: bool,
    /// [`DataConfig::test_shift`].
    pub shift: usize,
}

impl Input {
    pub fn new(data: &DataConfig, normalization: Normalization) -> Self {
        Input { normalization, flip: data.test_flip, shift: data.test_shift }
    }

    /// How many views of an image are averaged.
    pub fn views(&self) -> usize {
        (if self.flip { 2 } else { 1 }) * (if self.shift > 0 { 3 } else { 1 })
    }

    /// Images `[N, C, H, W]` of bytes as the network takes them.
    pub fn normalize(&self, images: &[u8]) -> Vec<f32> {
        let mut normalized = vec![0.0; images.len()];
        self.normalize_into(images, &mut normalized);
        normalized
    }

    fn normalize_into(&self, images: &[u8], normalized: &mut [f32]) {
        let images = images.chunks_exact(ELEMENTS).zip(normalized.chunks_exact_mut(ELEMENTS));
        images.for_each(|(image, out)| self.normalization.apply(image, out));
    }

    /// The logits `[N, classes]` of images `[N, C, H, W]` of bytes.
    ///
    /// # Errors
    /// If the device fails, or a logit is infinite or NaN: no class is the right answer then.
    pub fn logits(&self, engine: &mut dyn Engine, images: &[u8]) -> Result<Vec<f32>, Error> {
        let mut views = Views::default();
        self.logits_with(&mut views, engine, images)?;
        Ok(views.logits)
    }

    /// As [`logits`](Self::logits), computed in the memory of `views`.
    ///
    /// # Errors
    /// As [`logits`](Self::logits).
    pub fn logits_with<'a>(
        &self,
        views: &'a mut Views,
        engine: &mut dyn Engine,
        images: &[u8],
    ) -> Result<&'a [f32], Error> {
        views.images.resize(images.len(), 0.0);
        self.normalize_into(images, &mut views.images);
        self.average_views(engine, views)?;
        if views.logits.iter().all(|logit| logit.is_finite()) {
            Ok(&views.logits)
        } else {
            Err(Error::NotFinite)
        }
    }

    /// The logits of the normalised images of `views`, averaged over the views: with a shift, the image has
    /// weight 1/2 and each of the two shifted images 1/4.
    fn average_views(&self, engine: &mut dyn Engine, views: &mut Views) -> Result<(), EngineError> {
        let count = views.images.len() / ELEMENTS * engine.graph().classes();
        let Views { images, shifted, logits, shifted_logits: [up, down], mirrored } = views;
        if self.shift > 0 {
            shifted.resize(images.len(), 0.0);
            for (by, logits) in [(-(self.shift as isize), &mut *up), (self.shift as isize, down)] {
                let pairs = images.chunks_exact(ELEMENTS).zip(shifted.chunks_exact_mut(ELEMENTS));
                pairs.for_each(|(image, out)| shift(image, by, out));
                logits.resize(count, 0.0);
                self.average_flips(engine, shifted, logits, mirrored)?;
            }
        }
        logits.resize(count, 0.0);
        self.average_flips(engine, images, logits, mirrored)?;
        if self.shift > 0 {
            for (logit, (up, down)) in logits.iter_mut().zip(up.iter().zip(&*down)) {
                *logit = (*logit + (up + down) / 2.0) / 2.0;
            }
        }
        Ok(())
    }

    /// The logits of normalised images, averaged over the image and its mirror image if that is asked for: the
    /// images are mirrored then. `mirrored` is memory for the mirror image's logits.
    fn average_flips(
        &self,
        engine: &mut dyn Engine,
        images: &mut [f32],
        logits: &mut [f32],
        mirrored: &mut Vec<f32>,
    ) -> Result<(), EngineError> {
        engine.logits_into(images, logits)?;
        if self.flip {
            images.chunks_exact_mut(SHAPE.width).for_each(<[f32]>::reverse);
            mirrored.resize(logits.len(), 0.0);
            engine.logits_into(images, mirrored)?;
            for (logit, mirrored) in logits.iter_mut().zip(&*mirrored) {
                *logit = (*logit + mirrored) / 2.0;
            }
        }
        Ok(())
    }
}

/// Memory in which images become logits, so that a caller who keeps it allocates nothing for as many images again.
#[derive(Debug, Default)]
pub(crate) struct Views {
    /// Normalised, `[N, C, H, W]`.
    images: Vec<f32>,
    /// The same, shifted.
    shifted: Vec<f32>,
    /// `[N, classes]`: of the images, in the end averaged over all views.
    logits: Vec<f32>,
    /// Of the images shifted up and down.
    shifted_logits: [Vec<f32>; 2],
    /// Of the mirror images of one of these.
    mirrored: Vec<f32>,
}

/// The class of the largest logit, the first of equal ones, as PyTorch's `argmax`.
pub(crate) fn argmax(logits: &[f32]) -> usize {
    (0..logits.len()).rev().max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap_or(0)
}

/// The probabilities of one image's `logits`.
pub(crate) fn softmax(logits: &[f32]) -> impl Iterator<Item = f64> {
    let max = logits.iter().fold(f64::NEG_INFINITY, |max, &logit| max.max(f64::from(logit)));
    let sum: f64 = logits.iter().map(|&logit| (f64::from(logit) - max).exp()).sum();
    logits.iter().map(move |&logit| (f64::from(logit) - max).exp() / sum)
}

#[cfg(test)]
mod tests {
    use crescendo_cpu::CpuDevices;
    use crescendo_network::{Devices, Section, Tensor};

    use super::*;
    use crate::{Recipe, graph};

    #[test]
    fn the_first_of_equal_logits_is_the_prediction() {
        assert_eq!([argmax(&[1.0, 1.0, 0.0]), argmax(&[0.0, 2.0]), argmax(&[1.0, 1.0])], [0, 1, 0]);
    }

    #[test]
    fn probabilities_add_up_to_one_and_huge_logits_do_not_overflow() {
        assert_eq!(softmax(&[1e30, -1e30]).collect::<Vec<_>>(), [1.0, 0.0]);
        let probabilities: Vec<f64> = softmax(&[0.0, 1.0, -2.5, 30.0]).collect();
        assert!((probabilities.iter().sum::<f64>() - 1.0).abs() < 1e-12);
        assert!((probabilities[1] / probabilities[0] - 1f64.exp()).abs() < 1e-12);
    }

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
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../conformance/tests/fixtures/airbench.safetensors"
        );
        let bytes = std::fs::read(path).unwrap();
        let fixture = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let recipe = ["blocks=[2, 3]", "widths=[4, 6]", "head.scale=0.5"];
        let recipe = recipe.map(|change| format!("network.{change}"));
        let recipe = Recipe::load("fast94", &recipe).unwrap();
        let device = CpuDevices.open(&recipe.engine).unwrap();
        let mut engine = device.engine(&graph(&recipe).unwrap()).unwrap();
        let model: Vec<Tensor> = engine
            .export(Section::Model)
            .unwrap()
            .into_iter()
            .map(|tensor| {
                let tensor = tensor.into_owned();
                if tensor.values().is_none() {
                    return tensor;
                }
                let values = numbers(&fixture, &format!("after2/{}", tensor.name));
                Tensor::f32(tensor.name, tensor.shape, values)
            })
            .collect();
        engine.import(Section::Model, &model).unwrap();
        let input = Input::new(&recipe.data, Normalization::None);
        let images = numbers(&fixture, "images");
        let mut views = Views { images, ..Views::default() };
        input.average_views(&mut *engine, &mut views).unwrap();
        let expected = numbers(&fixture, "views/logits");
        let square = |x: f32| f64::from(x).powi(2);
        let distance: f64 = views.logits.iter().zip(&expected).map(|(a, b)| square(a - b)).sum();
        let norm: f64 = expected.iter().copied().map(square).sum();
        assert!(distance.sqrt() < 3e-6 * norm.sqrt(), "{} of {}", distance.sqrt(), norm.sqrt());
    }
}
