//! Training from Python.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use crescendo::data::{DataSet, ValidationChoice, split_validation};
use crescendo::logging::{CsvLogger, Observers, RunFolderLogger, event_object};
use crescendo::program::{LoadedData, NewRun, RunData, SplitArgs, resume};
use crescendo::training::events::{Event, Observer};
use crescendo::training::policy::{Choice, EpochStart, Policy};
use crescendo::training::recipe::BatchPolicyKind;
use crescendo::training::{Error, Start, read_record};
use numpy::{PyReadonlyArray1, PyReadonlyArrayDyn};
use pyo3::prelude::*;

use crate::errors::{detached, exception};
use crate::images::channels_first;
use crate::network::choose;
use crate::signals::Signals;

/// What is to be trained: the attributes of an object of Python's.
#[derive(FromPyObject)]
pub struct Request<'py> {
    /// The recipe of a new run; `None` to resume the run in `folder`.
    recipe: Option<String>,
    /// The run's folder; `None` for a new one below `runs`.
    folder: Option<PathBuf>,
    /// Changes of the recipe, of the form `section.key=value`.
    changes: Vec<String>,
    /// `None` for the recipe's, or the run's, own.
    data: Option<Data<'py>>,
    test_split: Option<f64>,
    init: Option<PathBuf>,
    device: String,
    /// Called with the history, a list of epochs in JSON; returns a batch size and a learning rate.
    policy: Option<Py<PyAny>>,
    /// Called with events in JSON.
    observer: Py<PyAny>,
    /// Whether it gets every update, rather than the first one of an epoch and some others.
    every_update: bool,
    /// Whether a report and logs are written, rather than only what is needed to use the run.
    logs: bool,
}

#[derive(FromPyObject)]
enum Data<'py> {
    Named(String),
    Arrays(Arrays<'py>),
}

/// Images and their classes, as indices into the names of these.
#[derive(FromPyObject)]
struct Arrays<'py> {
    images: PyReadonlyArrayDyn<'py, u8>,
    labels: PyReadonlyArray1<'py, u16>,
    classes: Vec<String>,
    validation: Option<(PyReadonlyArrayDyn<'py, u8>, PyReadonlyArray1<'py, u16>)>,
}

/// Trains a run to its end. Returns its folder.
#[pyfunction]
pub fn train(py: Python<'_>, request: Request<'_>) -> PyResult<PathBuf> {
    let Request { recipe, folder, mut changes, test_split, init, observer, .. } = request;
    let is_array = matches!(request.data, Some(Data::Arrays(_)));
    let data = match request.data {
        None => RunData::Usual,
        Some(Data::Named(name)) => {
            let name = SplitArgs { test_split }.name(&name);
            RunData::Named(name.map_err(|error| exception(py, error))?)
        }
        Some(Data::Arrays(arrays)) => RunData::Loaded(Box::new(LoadedData {
            set: data_set(py, &arrays, test_split)?,
            location: Start::IN_MEMORY.into(),
        })),
    };
    if recipe.is_some() && is_array && test_split.is_none() {
        changes.push("train.final_evaluation=false".into());
    }
    let (policy, every_update, logs) = (request.policy, request.every_update, request.logs);
    let device = request.device;
    let stop = AtomicBool::new(false);
    let mut watch = Watch {
        observer,
        every_update,
        stop: &stop,
        raised: None,
        signals: Signals::new(),
        epoch: 0,
    };
    let trained = detached(py, || {
        let (device, devices) = choose(&device)?;
        changes.extend(device);
        let (mut run, data) = match (&recipe, &folder) {
            (None, Some(folder)) => {
                check_data(folder, &data)?;
                resume(folder, changes, data, &devices)?
            }
            (recipe, out) => {
                let new = NewRun {
                    recipe: recipe.as_deref().unwrap_or_default(),
                    changes: &changes,
                    out: out.as_deref(),
                    init: init.as_deref(),
                    devices: &devices,
                    own_policy: policy.is_some(),
                };
                new.create(data)?
            }
        };
        let recipe = &run.record().recipe;
        match policy {
            Some(callable) => {
                let learning_rate = recipe.optimizer.learning_rate;
                run.set_policy(PythonPolicy { callable, learning_rate })?;
            }
            None if recipe.batch.policy == BatchPolicyKind::Custom && !run.progress().ended => {
                return Err(Error::Refused(
                    "the batch sizes of this run are chosen by a function of the program that started it: give it \
                     again, with policy="
                        .into(),
                ));
            }
            None => {}
        }
        let (mut all, mut table) = (RunFolderLogger::default(), CsvLogger::default());
        let files: &mut dyn Observer = if logs { &mut all } else { &mut table };
        run.train(&devices, &data.set, &mut Observers(vec![files, &mut watch]), &stop)?;
        Ok(run.folder().to_owned())
    });
    match (trained, watch.raised) {
        (trained, None) => trained,
        (Ok(_), Some(raised)) => Err(raised),
        (Err(error), Some(raised)) => {
            // It could not be saved.
            error.set_cause(py, Some(raised));
            Err(error)
        }
    }
}

/// Refuses to resume a run that was made from arrays without them.
fn check_data(folder: &Path, data: &RunData) -> Result<(), Error> {
    if matches!(data, RunData::Usual) && read_record(folder)?.run.data == Start::IN_MEMORY {
        let problem = "was trained on arrays in memory: give them again, with data=(X, y)";
        return Err(Error::bad(folder, problem));
    }
    Ok(())
}

fn data_set(py: Python<'_>, arrays: &Arrays<'_>, test_split: Option<f64>) -> PyResult<DataSet> {
    let Arrays { images, labels, classes, validation } = arrays;
    let failed = |error: crescendo::data::Error| exception(py, error.into());
    let labels = labels.as_slice()?.to_vec();
    let images = channels_first(images)?;
    let mut set = DataSet::from_arrays("arrays", images, labels, classes).map_err(failed)?;
    if let Some(fraction) = test_split {
        let count = (fraction * set.train.len() as f64).round() as usize;
        if !(1..set.train.len()).contains(&count) {
            let images = set.train.len();
            let problem = format!(
                "test_split is {fraction}, and leaves {count} of {images} images to test on: give a number between \
                 0 and 1, such as 0.2"
            );
            return Err(exception(py, Error::Refused(problem)));
        }
        (set.train, set.test) = split_validation(&set.train, count, ValidationChoice::Stratified);
    }
    if let Some((images, labels)) = validation {
        let labels = labels.as_slice()?.to_vec();
        set = set.with_validation(channels_first(images)?, labels).map_err(failed)?;
    }
    Ok(set)
}

/// Passes events to Python, and stops the run when Python raises an exception.
struct Watch<'a> {
    observer: Py<PyAny>,
    every_update: bool,
    stop: &'a AtomicBool,
    /// What was raised; Python gets it when the run is saved.
    raised: Option<PyErr>,
    signals: Signals,
    /// The epoch of the last update.
    epoch: u32,
}

impl Observer for Watch<'_> {
    fn event(&mut self, event: &Event) -> Result<(), Error> {
        if self.raised.is_some() {
            return Ok(());
        }
        let due = self.signals.are_due();
        let is_wanted = match event {
            Event::Step(step) => {
                let is_first = std::mem::replace(&mut self.epoch, step.epoch) != step.epoch;
                is_first || due || self.every_update
            }
            _ => true,
        };
        let object = is_wanted.then(|| event_object(event)).flatten();
        if !due && object.is_none() {
            return Ok(());
        }
        let called = Python::attach(|py| {
            if let Some(object) = object {
                self.observer.call1(py, (object.to_string(),))?;
            }
            py.check_signals()
        });
        if let Err(raised) = called {
            self.raised = Some(raised);
            self.stop.store(true, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// A policy that is a function of Python's.
struct PythonPolicy {
    callable: Py<PyAny>,
    /// The recipe's, which the policy's factor is for.
    learning_rate: f64,
}

impl Policy for PythonPolicy {
    fn decide(&mut self, epoch: &EpochStart<'_>) -> Result<Choice, Error> {
        let history = serde_json::to_string(epoch.history).map_err(Error::observer)?;
        let chosen =
            Python::attach(|py| self.callable.call1(py, (history,))?.extract::<(usize, f64)>(py));
        let (batch_size, learning_rate) = chosen.map_err(Error::observer)?;
        Ok(Choice::new(batch_size, learning_rate / self.learning_rate, "by the function policy"))
    }
}
