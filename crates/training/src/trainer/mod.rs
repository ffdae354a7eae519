//! The training loop.
//!
//! [`Run::train`] opens the device, loads the saved state into an engine, and trains epoch after epoch
//! (`epoch`); evaluations, checkpoints and saves are in `end_of_epoch`. The engine may work ahead: updates are
//! queued, and their results processed in order when they arrive. An event, the progress and a saved state
//! always belong to the same update.

mod end_of_epoch;
mod epoch;
mod save_policy;
mod state_writer;
mod update;

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crescendo_data::{DataSet, Normalization, Sampling, Split};
use crescendo_network::{Device, DeviceData, Devices, Engine, Graph, Loss};

use crate::checkpoint::About;
use crate::events::{Event, Observer};
use crate::held_out::validation_images;
use crate::policy::{fit_batches, no_policy};
use crate::recipe::BatchPolicyKind;
use crate::run::{self, Change, Run, Start};
use crate::{Error, HeldOut, checkpoint, graph, memory};
use epoch::QueuedUpdate;
use save_policy::SavePolicy;
use state_writer::{StateCopy, StateWriter};

/// How a call of [`Run::train`] ended.
///
/// See the example of [`Run`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// The run has ended.
    Finished,
    /// The run had ended before.
    AlreadyFinished,
    /// The run was asked to stop, by `stop` or by its observer; its state is saved.
    Interrupted,
}

impl Run {
    /// Trains from the saved state to the end, or until `stop` is set or the observer wants to stop. The same recipe
    /// and data give bit-identical weights on the same kind of device and instruction set, however often a run is
    /// stopped, killed and resumed, and for any number of threads.
    ///
    /// # Errors
    /// If the data differs from the run's, the device cannot be used or has too little memory, the loss
    /// diverges, a file cannot be written, or the observer or a policy fails. The last saved state stays, and the run
    /// goes on from it if it is trained again.
    pub fn train(
        &mut self,
        devices: &dyn Devices,
        data: &DataSet,
        observer: &mut dyn Observer,
        stop: &AtomicBool,
    ) -> Result<Outcome, Error> {
        self.train_until(u32::MAX, devices, data, observer, stop)
    }

    /// As [`train`](Self::train), but at most to the end of `epoch`. If the run has not ended then, the outcome is
    /// [`Outcome::Interrupted`], without an event.
    ///
    /// # Errors
    /// See [`Run::train`].
    pub fn train_until(
        &mut self,
        epoch: u32,
        devices: &dyn Devices,
        data: &DataSet,
        observer: &mut dyn Observer,
        stop: &AtomicBool,
    ) -> Result<Outcome, Error> {
        // Before anything is written: if training is not possible, the folder stays unchanged.
        let rate = self.rate_change(data);
        // More epochs can come to batches that are larger than the training set.
        let images = data.train.len().saturating_sub(self.record.recipe.data.validation);
        let lowered = fit_batches(&mut self.record.recipe, images);
        let device = devices.open(&self.record.recipe.engine)?;
        let graph = graph(&self.record.recipe)?;
        let mut engine = self.engine(&*device, &graph, data)?;
        let recipe = &self.record.recipe;
        if self.progress.ended
            && self.progress.epoch <= recipe.train.epochs
            && !self.at_limit()
            && !self.progress.stops_early(recipe.train.stop_after)
        {
            self.progress.ended = false;
        }
        if !self.progress.ended
            && recipe.batch.policy == BatchPolicyKind::Custom
            && self.policy.is_none()
        {
            return Err(no_policy());
        }
        if let (true, Some(change)) = (self.progress.ended, self.changes.first()) {
            return Err(Error::Refused(format!(
                "the run in {} has ended, so {}={} would change nothing: add --epochs (or --set \
                 train.stop_after=0, if it stopped early) to train on",
                self.folder.display(),
                change.key,
                change.to
            )));
        }
        observer.event(&self.started(&graph, &*device, data))?;
        let notes = std::mem::take(&mut self.notes);
        let branch = self.record.run.branch_of.as_ref().filter(|_| !self.progress.ended);
        let branch = branch.map(|of| format!("This run is a branch of {of}."));
        let changed = !self.changes.is_empty() || lowered.is_some();
        let notes = data.warnings.iter().cloned().chain(notes).chain(branch);
        let images = Some(self.images(data));
        for note in images.into_iter().chain(notes).chain(lowered).chain(rate) {
            observer.event(&Event::Note(note))?;
        }
        if self.progress.ended {
            observer.event(&self.finished(true))?;
            return Ok(Outcome::AlreadyFinished);
        }
        let changes = std::mem::take(&mut self.changes);
        if changed {
            self.write_record()?;
            for Change { key, from, to } in changes {
                observer.event(&Event::Changed { key, from, to })?;
            }
        }

        let recipe = &self.record.recipe;
        let HeldOut { train, validation } =
            HeldOut::new(data, recipe.data.validation, self.record.run.validation);
        if let Some(note) = validation.as_ref().and_then(|split| missing_classes(split, data)) {
            observer.event(&Event::Note(note))?;
        }
        let label_smoothing = recipe.train.label_smoothing;
        let class_weights =
            recipe.data.class_weights.weights(&train.labels, recipe.network.classes);
        let loss = Loss { label_smoothing, class_weights };
        engine.set_loss(&loss)?;
        let resident =
            engine.load_data(&DeviceData { pixels: &train.pixels, shape: graph.input })?;
        let normalization = self.record.run.normalization;
        let mut trainer = Trainer {
            sampling: recipe.sampling(normalization),
            train: &train,
            validation: validation.as_deref(),
            test: &data.test,
            normalization,
            device: &*device,
            engine: &mut *engine,
            loss,
            resident,
            graphs: BTreeMap::new(),
            observer,
            stop,
            size: (0, 0),
            queue: VecDeque::new(),
            busy: Duration::ZERO,
            until: epoch,
            own: recipe.batch.policy == BatchPolicyKind::Custom
                || data.is_from_arrays()
                || self.record.run.data == Start::IN_MEMORY,
            save_policy: SavePolicy::new(recipe.train.save_every_minutes, device.config().device),
            last_save: Instant::now(),
            saved: self.progress.updates,
            copy: None,
            writer: StateWriter::default(),
            run: self,
        };
        if changed {
            // Otherwise a kill before the next save would cut the changes off the log.
            trainer.save()?;
        }
        let weights = trainer.loss.class_weights.clone();
        let outcome = trainer.train();
        if outcome.is_err() {
            // The run is again what its saved state is, so that it can be trained on.
            self.reload()?;
        }
        outcome.map_err(|error| match error {
            Error::Diverged { update, epoch, hopeless, .. } => {
                let cause = divergence_cause(&train, weights.as_deref());
                Error::Diverged { update, epoch, hopeless, cause }
            }
            other => other,
        })
    }

    /// An engine with the saved state, if it can train on this data.
    fn engine(
        &self,
        device: &dyn Device,
        graph: &Graph,
        data: &DataSet,
    ) -> Result<Box<dyn Engine>, Error> {
        let recipe = &self.record.recipe;
        if data.fingerprint() != self.record.run.data_fingerprint {
            return Err(Error::Refused(format!(
                "this is not the data that the run in {} was trained on ({}, found at {}, fingerprint \
                 {:.12}…): give that one with --data",
                self.folder.display(),
                self.record.run.data_name,
                self.record.run.data,
                self.record.run.data_fingerprint
            )));
        }
        run::check_fit(recipe, device, data, memory::available(device.memory(), true))?;
        let mut engine = device.engine(graph)?;
        self.restore(&mut *engine)?;
        Ok(engine)
    }

    fn started(&self, graph: &Graph, device: &dyn Device, data: &DataSet) -> Event {
        let recipe = &self.record.recipe;
        Event::Started {
            folder: self.folder.clone(),
            description: format!(
                "{}: {} parameters, {} images of {} ({}), {}",
                self.record.run.recipe,
                graph.parameter_count(),
                data.train.len() - recipe.data.validation,
                data.name,
                data.format,
                device.description(),
            ),
            resumed_at: (self.progress.updates > 0).then_some(self.progress.updates),
            marks: self.marks.clone(),
            log_steps: recipe.train.log_steps,
        }
    }

    /// A note with the numbers of images.
    fn images(&self, data: &DataSet) -> String {
        let count = self.record.recipe.data.validation;
        let validation = validation_images(data, count);
        let (train, test) = (data.train.len() - count, data.test.len());
        format!("Images: {train} for training, {validation} for validation, {test} for testing")
    }

    fn finished(&self, already: bool) -> Event {
        let (folder, test_accuracy) = (self.folder.clone(), self.progress.test_accuracy);
        let files = [checkpoint::best_path(&folder), checkpoint::last_path(&folder)];
        let weights = files.into_iter().find(|path| path.is_file()).or_else(|| {
            // Older versions wrote no `last`.
            let epoch = *checkpoint::list(&folder).ok()?.last()?;
            Some(checkpoint::path(&folder, epoch))
        });
        Event::Finished { folder, test_accuracy, weights, already }
    }

    /// Whether `train.max_steps` has been reached.
    fn at_limit(&self) -> bool {
        let limit = self.record.recipe.train.max_steps;
        limit > 0 && self.progress.updates >= limit
    }
}

/// A note about classes that have no validation images.
fn missing_classes(validation: &Split, data: &DataSet) -> Option<String> {
    let has_images = |class: usize| validation.labels.iter().any(|&l| usize::from(l) == class);
    let missing = (0..data.classes.len()).filter(|&class| !has_images(class));
    let missing: Vec<&str> = missing.map(|class| &*data.classes[class]).collect();
    let more = missing.len().saturating_sub(10);
    let named = missing[..missing.len() - more].join(", ");
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    (!missing.is_empty()).then(|| format!("There are no validation images of {named}{more}"))
}

/// Class weights that differ by more than this are named as the likely cause of a loss that is not a number.
const EXTREME_WEIGHTS: f32 = 1_000.0;

/// What the training images, or the weights of their classes, have to do with a loss that is not a number.
fn divergence_cause(train: &Split, weights: Option<&[f32]>) -> Option<String> {
    let first = train.image(0);
    if (1..train.len()).all(|index| train.image(index) == first) {
        return Some(
            "all training images are identical, so that there is nothing to learn: look at them with \
             `crescendo data info`, and start a new run"
                .into(),
        );
    }
    let largest = weights?.iter().copied().fold(0.0, f32::max);
    let ratio = largest / weights?.iter().copied().fold(f32::INFINITY, f32::min);
    (ratio > EXTREME_WEIGHTS).then(|| {
        format!(
            "data.class_weights has a weight that is {ratio:.0} times another: start a new run with weights that \
             differ less"
        )
    })
}

/// A run in training.
struct Trainer<'a> {
    run: &'a mut Run,
    device: &'a dyn Device,
    engine: &'a mut dyn Engine,
    loss: Loss,
    sampling: Sampling,
    normalization: Normalization,
    train: &'a Split,
    validation: Option<&'a Split>,
    test: &'a Split,
    /// Whether the engine keeps the training images on its device.
    resident: bool,
    /// The network's graph for each image size so far.
    graphs: BTreeMap<usize, Graph>,
    observer: &'a mut dyn Observer,
    stop: &'a AtomicBool,
    /// Images of a batch and of a micro-batch; 0 before the first epoch.
    size: (usize, usize),
    /// Updates whose results have not arrived.
    queue: VecDeque<QueuedUpdate>,
    /// Time spent in the engine since the last result.
    busy: Duration,
    /// The epoch after which training stops, also if the run has not ended.
    until: u32,
    /// Whether the policy or the data are the program's own.
    own: bool,
    save_policy: SavePolicy,
    last_save: Instant,
    /// Updates done when the state was last saved.
    saved: u64,
    /// A copy of the state, and the number of the update that it was taken after, until that update's result
    /// has arrived.
    copy: Option<(u64, StateCopy)>,
    writer: StateWriter,
}

/// Why an epoch stops before its last batch.
enum Halt {
    Interrupted,
    Error(Error),
}

impl<E: Into<Error>> From<E> for Halt {
    fn from(error: E) -> Self {
        Halt::Error(error.into())
    }
}

impl Trainer<'_> {
    fn train(mut self) -> Result<Outcome, Error> {
        let epochs = self.run.record.recipe.train.epochs;
        if epochs == 0 {
            self.checkpoint(&About { epoch: Some(0), updates: 0, ..About::default() })?;
            self.run.progress.ended = true;
            self.save()?;
        }
        while !self.run.progress.ended {
            if self.run.progress.epoch > self.until {
                self.writer.wait()?;
                return Ok(Outcome::Interrupted);
            }
            match self.epoch() {
                Ok(()) => {}
                Err(Halt::Error(error)) => return Err(error),
                Err(Halt::Interrupted) => {
                    self.save()?;
                    self.writer.wait()?;
                    self.save_last()?;
                    let (folder, own) = (self.run.folder.clone(), self.own);
                    self.observer.event(&Event::Interrupted { folder, own })?;
                    return Ok(Outcome::Interrupted);
                }
            }
        }
        self.writer.wait()?;
        self.observer.event(&self.run.finished(false))?;
        Ok(Outcome::Finished)
    }

    fn check_stop(&self) -> Result<(), Halt> {
        let stops = self.stop.load(Ordering::Relaxed) || self.observer.wants_stop();
        if stops { Err(Halt::Interrupted) } else { Ok(()) }
    }

    /// Has the engine compute images of this size from now on.
    fn set_image_size(&mut self, image_size: usize) -> Result<(), Error> {
        if !self.graphs.contains_key(&image_size) {
            let graph = crate::graph_for(&self.run.record.recipe, image_size)?;
            self.graphs.insert(image_size, graph);
        }
        Ok(self.engine.set_graph(&self.graphs[&image_size])?)
    }
}
