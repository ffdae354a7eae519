//! A trained network in Python.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crescendo::AllDevices;
use crescendo::data::ImageShape;
use crescendo::export::{OnnxOptions, to_onnx, write_onnx};
use crescendo::network::TensorData;
use crescendo::program::{Which, requested_device, weights_of_run};
use crescendo::training::checkpoint::{self, Checkpoint};
use crescendo::training::{Error, Model, Recipe, TrainedNetwork};
use numpy::{IntoPyArray, PyArray1, PyArray2, PyArrayMethods, PyReadonlyArrayDyn};
use pyo3::prelude::*;

use crate::errors::{detached, exception};
use crate::images::channels_first;
use crate::signals::Signals;

/// Images that are classified between two looks at the signals.
const PART: usize = 256;

/// The network in a file of weights.
#[pyclass(frozen, module = "crescendo._crescendo")]
pub struct Network {
    model: Mutex<Model>,
    classes: Vec<String>,
    epoch: Option<u32>,
}

#[pymethods]
impl Network {
    /// The network in a file with this content, computed on a device with these changes of the section `[engine]`.
    /// Errors name the file's path.
    #[new]
    fn new(
        py: Python<'_>,
        path: PathBuf,
        content: &[u8],
        device: &str,
        mut changes: Vec<String>,
    ) -> PyResult<Self> {
        let model = detached(py, || {
            let (device, devices) = choose(device)?;
            changes.extend(device);
            let engine = Recipe::load("report", &changes)?.engine;
            Model::new(&Checkpoint::parse(&path, content.to_vec())?, None, &devices, &engine)
        })?;
        let (classes, epoch) = (model.classes.clone(), model.about.epoch.or(model.about.in_epoch));
        Ok(Network { model: Mutex::new(model), classes, epoch })
    }

    /// The names of the classes.
    #[getter]
    fn classes(&self) -> Vec<String> {
        self.classes.clone()
    }

    /// The epoch of its run after which, or within which, the weights were saved, if the file says it.
    #[getter]
    fn epoch(&self) -> Option<u32> {
        self.epoch
    }

    /// The probabilities `[N, classes]` of a contiguous array of images; see [`channels_first`].
    fn probabilities<'py>(
        &self,
        py: Python<'py>,
        images: PyReadonlyArrayDyn<u8>,
    ) -> PyResult<Bound<'py, PyArray2<f64>>> {
        let images = channels_first(&images)?;
        let probabilities = detached(py, || {
            let mut model = self.model.lock().unwrap_or_else(PoisonError::into_inner);
            let (mut all, mut signals) = (Vec::new(), Signals::new());
            for images in images.chunks(PART * ImageShape::CIFAR.elements()) {
                all.extend(model.predict(images)?);
                signals.check().map_err(Error::observer)?;
            }
            Ok(all)
        })?;
        let classes = self.classes.len();
        let count = probabilities.len() / classes;
        probabilities.into_pyarray(py).reshape([count, classes])
    }

    /// The names and values of the tensors in the content of a file of weights.
    #[staticmethod]
    fn tensors<'py>(
        py: Python<'py>,
        path: PathBuf,
        content: &[u8],
    ) -> PyResult<Vec<(String, Bound<'py, PyAny>)>> {
        let network = detached(py, || trained(&path, content))?;
        let arrays = network.tensors.into_iter().map(|tensor| {
            let array = match tensor.data {
                TensorData::F32(values) => {
                    let values = PyArray1::from_vec(py, values.into_owned());
                    values.reshape(tensor.shape)?.into_any()
                }
                TensorData::I64(value) => {
                    PyArray1::from_vec(py, vec![value]).reshape(tensor.shape)?.into_any()
                }
            };
            Ok((tensor.name.into_owned(), array))
        });
        arrays.collect()
    }

    /// Writes the network in the content of a file of weights as an ONNX model to `out`. Views that are `None` are those
    /// of its recipe.
    #[staticmethod]
    fn export_onnx(
        py: Python<'_>,
        path: PathBuf,
        content: &[u8],
        out: PathBuf,
        flip: Option<bool>,
        shift: Option<usize>,
        fixed: bool,
    ) -> PyResult<()> {
        detached(py, || {
            let network = trained(&path, content)?;
            let mut options = OnnxOptions::new(&network.recipe);
            options.flip = flip.unwrap_or(options.flip);
            options.shift = shift.unwrap_or(options.shift);
            options.fixed = fixed;
            write_onnx(&out, &to_onnx(&network, &options)?)
        })
    }
}

fn trained(path: &Path, content: &[u8]) -> Result<TrainedNetwork, Error> {
    TrainedNetwork::new(&Checkpoint::parse(path, content.to_vec())?, None)
}

/// The change of a recipe that chooses the device, if there is one, and what opens it.
pub fn choose(device: &str) -> Result<(Option<String>, AllDevices), Error> {
    let requested = requested_device(device)
        .map_err(|problem| Error::Recipe(format!("device is {device:?}: {problem}")))?;
    let change = (device != "auto").then(|| format!("engine.device={}", requested.kind.name()));
    Ok((change, AllDevices::new(requested.card)))
}

/// The file of a run's weights: after this epoch, or else the best ones by validation accuracy, or else the latest. A
/// file is itself.
#[pyfunction]
pub fn weights(py: Python<'_>, run: PathBuf, epoch: Option<u32>) -> PyResult<PathBuf> {
    find(&run, epoch).map_err(|error| exception(py, error))
}

fn find(run: &Path, epoch: Option<u32>) -> Result<PathBuf, Error> {
    match epoch {
        _ if !run.is_dir() => Ok(run.to_owned()),
        Some(epoch) => weights_of_run(run, Which::Epoch(epoch)),
        None if checkpoint::best_path(run).is_file() => weights_of_run(run, Which::Best),
        None => weights_of_run(run, Which::Last),
    }
}
