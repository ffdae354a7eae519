//! The training loop.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crescendo_data::{DataSet, ImageBatch, Normalization, Sampling, Split, split_validation};
use crescendo_network::{
    Alone, Communicator, Engine, Outcome as BatchOutcome, Plan, Rule, Section, Tensor, Values,
};

use crate::events::{self, EvaluatedSplit, Event, Observer};
use crate::policy::{EpochMetrics, RunPosition};
use crate::recipe::{BatchPolicyKind, WeightAverage};
use crate::run::{self, Change, Progress, Run};
use crate::update::{Update, Updated};
use crate::{Error, Evaluation, checkpoint, machine, memory, model};

/// How a call of [`Run::train`] ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The run is done.
    Finished,
    /// The run was done before.
    AlreadyFinished,
    /// The run was asked to stop; its state is saved.
    Interrupted,
}

impl Run {
    /// Trains from the saved state to the end, or until `stop` is set. The same recipe and data
    /// give the same weights, to the bit, however often a run is stopped, killed and resumed, and
    /// for any number of threads.
    ///
    /// # Errors
    /// If the data is not what the run began with, the machine has too little memory, the loss
    /// diverges, or a file cannot be written. The last saved state stays.
    pub fn train(
        &mut self,
        data: &DataSet,
        observer: &mut dyn Observer,
        stop: &AtomicBool,
    ) -> Result<Outcome, Error> {
        self.train_until(u32::MAX, data, observer, stop)
    }

    /// The same, but no further than to the end of `epoch`; a run that is not done then counts as
    /// interrupted.
    ///
    /// # Errors
    /// See [`Run::train`].
    pub fn train_until(
        &mut self,
        epoch: u32,
        data: &DataSet,
        observer: &mut dyn Observer,
        stop: &AtomicBool,
    ) -> Result<Outcome, Error> {
        // Before anything is written: where training cannot go on, the folder stays as it is.
        let mut engine = self.engine(data)?;
        let recipe = &self.record.recipe;
        if self.progress.ended && self.progress.epoch <= recipe.train.epochs && !self.at_limit() {
            self.progress.ended = false;
        }
        if let (true, Some(change)) = (self.progress.ended, self.changes.first()) {
            return Err(Error::Refused(format!(
                "the run in {} is finished, so {}={} would change nothing: add --epochs to train on",
                self.folder.display(),
                change.key,
                change.to
            )));
        }
        observer.event(&self.started(engine.plan(), data))?;
        let notes = std::mem::take(&mut self.notes);
        let branch = self.record.run.branch_of.as_ref().filter(|_| !self.progress.ended);
        let branch = branch.map(|of| format!("This run is a branch of {of}."));
        let notes = data.warnings.iter().cloned().chain(notes).chain(branch).chain(self.ignored());
        for note in notes {
            observer.event(&Event::Note(note))?;
        }
        if self.progress.ended {
            observer.event(&self.finished(true))?;
            return Ok(Outcome::AlreadyFinished);
        }
        let changes = std::mem::take(&mut self.changes);
        if !changes.is_empty() {
            self.write_record()?;
            for Change { key, from, to } in changes {
                observer.event(&Event::Changed { key, from, to })?;
            }
            // Else a kill before the next save would cut the changes off the log.
            let marks = observer.marks()?;
            self.save(&*engine, marks)?;
        }

        let recipe = &self.record.recipe;
        let (rest, validation) = match recipe.data.validation {
            0 => (None, None),
            count => {
                let (rest, held_out) = split_validation(&data.train, count);
                (Some(rest), Some(held_out))
            }
        };
        let normalization = self.record.run.normalization;
        let trainer = Trainer {
            sampling: recipe.sampling(normalization),
            train: rest.as_ref().unwrap_or(&data.train),
            validation: validation.as_ref(),
            test: &data.test,
            normalization,
            engine: &mut *engine,
            communicator: &Alone,
            observer,
            stop,
            size: (0, 0),
            last_save: Instant::now(),
            saved: self.progress.updates,
            run: self,
        };
        trainer.train(epoch)
    }

    /// An engine with the saved state, if it can train on this data.
    fn engine(&self, data: &DataSet) -> Result<Box<dyn Engine>, Error> {
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
        let plan = crate::plan(recipe)?;
        let memory = machine::memory_for_run(recipe.threads(), true);
        run::check_fit(recipe, data, memory)?;
        let mut engine = run::engine(plan, recipe.machine()?);
        self.restore(&mut *engine)?;
        Ok(engine)
    }

    fn started(&self, plan: &Plan, data: &DataSet) -> Event {
        let recipe = &self.record.recipe;
        Event::Started {
            folder: self.folder.clone(),
            description: format!(
                "{}: {} parameters, {} images of {} ({}), {} threads, {}",
                self.record.run.recipe,
                plan.parameter_count(),
                data.train.len() - recipe.data.validation,
                data.name,
                data.format,
                recipe.threads(),
                recipe.engine.isa.name(),
            ),
            resumed_at: (self.progress.updates > 0).then_some(self.progress.updates),
            marks: self.marks.clone(),
            log_steps: recipe.train.log_steps,
        }
    }

    /// What a reader of the recipe might misunderstand.
    fn ignored(&self) -> Option<String> {
        let policy = self.record.recipe.batch.policy;
        let ignored = match policy {
            BatchPolicyKind::Fixed | BatchPolicyKind::Steps => return None,
            BatchPolicyKind::Plateau => "plateau",
            BatchPolicyKind::NoiseScale => "noise_scale",
            BatchPolicyKind::FromLr => "from_lr",
        };
        Some(format!("batch.policy is {ignored}: batch.steps and batch.size are ignored"))
    }

    fn finished(&self, already: bool) -> Event {
        let test_accuracy = self.progress.test_accuracy;
        Event::Finished { folder: self.folder.clone(), test_accuracy, already }
    }

    /// Whether `train.max_steps` says that it is enough.
    fn at_limit(&self) -> bool {
        let limit = self.record.recipe.train.max_steps;
        limit > 0 && self.progress.updates >= limit
    }
}

struct Trainer<'a> {
    run: &'a mut Run,
    engine: &'a mut dyn Engine,
    communicator: &'a dyn Communicator,
    sampling: Sampling,
    normalization: Normalization,
    train: &'a Split,
    validation: Option<&'a Split>,
    test: &'a Split,
    observer: &'a mut dyn Observer,
    stop: &'a AtomicBool,
    /// Images of a batch, and those of them that are computed at a time; 0 before the first epoch.
    size: (usize, usize),
    last_save: Instant,
    /// Updates at that moment.
    saved: u64,
}

/// What the updates of an epoch have in common.
struct Epoch {
    batch_size: usize,
    batches: usize,
    images: usize,
    /// See [`events::Step`].
    later_images: u64,
}

impl Epoch {
    /// Where in the run, in epochs, a batch of this epoch is trained on. The middle of its update, so that
    /// a schedule from or to zero never is zero.
    fn position(&self, epoch: u32, batch: usize) -> f64 {
        f64::from(epoch - 1) + (batch as f64 + 0.5) / self.batches as f64
    }
}

/// Why an epoch stops before its last batch.
enum Halt {
    Interrupted,
    Error(Error),
}

impl From<Error> for Halt {
    fn from(error: Error) -> Self {
        Halt::Error(error)
    }
}

impl Trainer<'_> {
    fn train(mut self, until: u32) -> Result<Outcome, Error> {
        let epochs = self.run.record.recipe.train.epochs;
        if epochs == 0 {
            self.checkpoint(0, None)?;
            self.run.progress.ended = true;
            self.save()?;
        }
        while !self.run.progress.ended {
            if self.run.progress.epoch > until {
                return Ok(Outcome::Interrupted);
            }
            match self.epoch() {
                Ok(()) => {}
                Err(Halt::Error(error)) => return Err(error),
                Err(Halt::Interrupted) => {
                    self.save()?;
                    let folder = self.run.folder.clone();
                    self.observer.event(&Event::Interrupted { folder })?;
                    return Ok(Outcome::Interrupted);
                }
            }
        }
        self.observer.event(&self.run.finished(false))?;
        Ok(Outcome::Finished)
    }

    /// Trains what is left of the epoch, and does what ends one.
    fn epoch(&mut self) -> Result<(), Halt> {
        // Asked here too, so that the line about the batch size is not in a log that is cut after it.
        self.check_stop()?;
        let train = self.train;
        let (epoch, first) = (self.run.progress.epoch, self.run.progress.batch);
        if first == 0 {
            let recipe = &self.run.record.recipe;
            let Progress { updates, chosen, metrics, .. } = &mut self.run.progress;
            for decision in chosen.enter(recipe, epoch, *updates, metrics) {
                self.observer.event(&Event::Decision(decision))?;
            }
        }
        let side = self.run.record.recipe.data.image_size(epoch);
        self.engine.set_plan(crate::plan_for(&self.run.record.recipe, side)?);
        let sampling = Sampling { side, ..self.sampling };
        let batch_size = self.run.progress.chosen.batch_size;
        self.choose_part(batch_size)?;
        let recipe = &self.run.record.recipe;
        let batches = sampling.batches(train.len(), batch_size);
        let epoch_images = train.len().min(batches * batch_size);
        let left = match recipe.train.max_steps {
            0 => u64::MAX,
            limit => limit.saturating_sub(self.run.progress.updates),
        };
        let wanted = first..batches.min(first.saturating_add(left as usize));
        let later_updates = left.saturating_sub(wanted.len() as u64);
        let pixels = |epoch| recipe.data.image_size(epoch).pow(2) as f64 / side.pow(2) as f64;
        let later_epochs: f64 = (epoch + 1..=recipe.train.epochs).map(pixels).sum();
        let later_images = ((later_epochs * train.len() as f64) as u64)
            .min(later_updates.saturating_mul(batch_size as u64));
        let epoch_of = Epoch { batch_size, batches, images: epoch_images, later_images };
        sampling
            .epoch(train, epoch.into(), batch_size, wanted, |batch| self.step(batch, &epoch_of))?;
        self.end_epoch(&epoch_of)
    }

    /// How many images of a batch are computed at a time.
    fn choose_part(&mut self, batch_size: usize) -> Result<(), Error> {
        let recipe = &self.run.record.recipe;
        let part = memory::part_size(recipe, self.engine.plan(), batch_size);
        if part < batch_size && (batch_size, part) != self.size {
            let ghost = recipe.network.norm.ghost > 0;
            self.observer.event(&Event::MicroBatches {
                batch_size,
                micro_batch_size: part,
                ghost,
            })?;
        }
        self.size = (batch_size, part);
        Ok(())
    }

    fn check_stop(&self) -> Result<(), Halt> {
        if self.stop.load(Ordering::Relaxed) { Err(Halt::Interrupted) } else { Ok(()) }
    }

    /// One update.
    fn step(&mut self, batch: &ImageBatch, epoch: &Epoch) -> Result<(), Halt> {
        self.check_stop()?;
        let recipe = &self.run.record.recipe;
        let progress = &mut self.run.progress;
        let begin = Instant::now();
        let images = batch.labels.len();
        let done = epoch.position(progress.epoch, progress.batch);
        let learning_rate = progress.chosen.learning_rate(recipe, done);
        let epochs = recipe.train.epochs;
        let factor = |epochs| progress.chosen.learning_rate_factor(recipe, done, epochs);
        let at = RunPosition { done, epochs, batch_size: images };
        let rules = recipe.optimizer.rules(self.engine.plan(), at, factor);
        let trained: Vec<bool> = rules.iter().map(|rule| *rule != Rule::Fixed).collect();
        self.engine.set_trained(&trained);
        let every = recipe.batch.noise_every;
        let update = Update {
            engine: &mut *self.engine,
            communicator: self.communicator,
            rules,
            label_smoothing: recipe.train.label_smoothing,
            part: self.size.1,
            measures: every > 0 && (progress.updates + 1).is_multiple_of(every),
        };
        let Updated { outcome, measured } = update.run(batch);
        let BatchOutcome { loss, correct } = outcome;
        if !loss.is_finite() {
            let Progress { updates, epoch, .. } = self.run.progress;
            // What went wrong before the state was saved goes wrong again.
            let hopeless = updates == self.saved;
            return Err(Halt::Error(Error::Diverged { update: updates + 1, epoch, hopeless }));
        }
        if let Some(measured) = measured {
            progress.chosen.noise.observe(&measured);
        }
        progress.updates += 1;
        progress.batch += 1;
        let whole = done / f64::from(epochs);
        if let Some(share) = recipe.optimizer.average_weight(progress.updates, whole) {
            self.engine.average(share);
            if recipe.optimizer.average == WeightAverage::Lookahead {
                // Both are the average from here on.
                self.engine.swap_average();
                self.engine.average(1.0);
            }
        }
        progress.images += images;
        progress.correct += correct;
        progress.loss_sum += loss * images as f64;
        progress.seconds += begin.elapsed().as_secs_f64();
        self.observer.event(&Event::Step(events::Step {
            update: progress.updates,
            epoch: progress.epoch,
            epochs: recipe.train.epochs,
            batch_size: epoch.batch_size,
            learning_rate,
            loss,
            epoch_loss: progress.loss_sum / progress.images as f64,
            epoch_accuracy: progress.correct as f64 / progress.images as f64,
            images: progress.images,
            epoch_images: epoch.images,
            later_images: epoch.later_images,
            seconds: progress.seconds,
        }))?;
        let minutes = recipe.train.save_every_minutes;
        if minutes > 0.0 && self.last_save.elapsed().as_secs_f64() >= 60.0 * minutes {
            self.save()?;
        }
        Ok(())
    }

    /// Evaluates, writes down, keeps a checkpoint: whatever is due after the epoch.
    fn end_epoch(&mut self, of: &Epoch) -> Result<(), Halt> {
        let train = self.run.record.recipe.train.clone();
        let epoch = self.run.progress.epoch;
        let last = epoch >= train.epochs || self.run.at_limit();
        let due = |every: u32| every > 0 && epoch.is_multiple_of(every);
        let test = if last { train.final_evaluation } else { due(train.evaluate_every) };
        // With held-out images, the test set is left alone until the end.
        let test = test && (last || self.validation.is_none());
        let validate = self.validation.filter(|_| last || due(train.evaluate_every));
        if test || validate.is_some() {
            // Evaluation can take minutes; what is trained should not be lost meanwhile.
            self.save()?;
        }
        let validation = match validate {
            Some(split) => Some(self.evaluate(EvaluatedSplit::Validation, split)?),
            None => None,
        };
        let test_accuracy = match test {
            true => Some(self.evaluate(EvaluatedSplit::Test, self.test)?.accuracy()),
            false => None,
        };

        let recipe = &self.run.record.recipe;
        let progress = &self.run.progress;
        let images = progress.images as f64;
        let train_loss = progress.loss_sum / images;
        let metrics = EpochMetrics {
            train_loss,
            validation_loss: validation.as_ref().map(|evaluation| evaluation.loss),
            validation_accuracy: validation.as_ref().map(Evaluation::accuracy),
        };
        let last_update = of.position(epoch, progress.batch.saturating_sub(1));
        self.observer.event(&Event::Epoch(events::Epoch {
            epoch,
            updates: progress.updates,
            batch_size: of.batch_size,
            learning_rate: progress.chosen.learning_rate(recipe, last_update),
            train_loss,
            train_accuracy: progress.correct as f64 / images,
            validation_loss: metrics.validation_loss,
            validation_accuracy: metrics.validation_accuracy,
            test_accuracy,
            noise_scale: progress.chosen.noise.value(),
            seconds: progress.seconds,
            images_per_second: images / progress.seconds,
        }))?;
        if last || due(train.checkpoint_every) {
            self.checkpoint(epoch, Some(train_loss))?;
        }
        let progress = &mut self.run.progress;
        *progress = Progress {
            epoch: epoch + 1,
            updates: progress.updates,
            test_accuracy,
            ended: last,
            metrics,
            earlier_seconds: progress.total_seconds(),
            chosen: std::mem::take(&mut progress.chosen),
            ..Progress::default()
        };
        Ok(self.save()?)
    }

    fn evaluate(&mut self, which: EvaluatedSplit, split: &Split) -> Result<Evaluation, Halt> {
        let total = split.len();
        let (observer, stop) = (&mut *self.observer, self.stop);
        let recipe = &self.run.record.recipe;
        self.engine.set_plan(crate::plan(recipe)?);
        let input = model::Input::new(&recipe.data, self.normalization);
        self.engine.swap_average();
        let evaluation = model::evaluate(self.engine, &input, split, |done| {
            if stop.load(Ordering::Relaxed) {
                return Err(Halt::Interrupted);
            }
            Ok(observer.event(&Event::Evaluating { split: which, done, total })?)
        });
        // Back before anything can go wrong: the state that is saved has both in their places.
        self.engine.swap_average();
        let evaluation = evaluation?;
        self.observer.event(&Event::Evaluated {
            split: which,
            epoch: self.run.progress.epoch,
            evaluation: evaluation.clone(),
            classes: self.run.record.run.classes.clone(),
        })?;
        Ok(evaluation)
    }

    fn checkpoint(&mut self, epoch: u32, loss: Option<f64>) -> Result<(), Error> {
        self.check_finite()?;
        let (run, updates) = (&*self.run, self.run.progress.updates);
        self.engine.swap_average();
        let path = checkpoint::write(&run.folder, &run.record, self.engine, epoch, updates, loss);
        self.engine.swap_average();
        let path = path?;
        self.observer.event(&Event::Checkpoint(path))?;
        let keep = self.run.record.recipe.train.keep;
        if keep > 0 {
            let epochs = checkpoint::list(&self.run.folder)?;
            let epochs: Vec<u32> = epochs.into_iter().filter(|&other| other <= epoch).collect();
            for &old in &epochs[..epochs.len().saturating_sub(keep)] {
                let path = checkpoint::path(&self.run.folder, old);
                std::fs::remove_file(&path).map_err(|error| Error::io("remove", &path, error))?;
            }
        }
        Ok(())
    }

    fn save(&mut self) -> Result<(), Error> {
        self.check_finite()?;
        let marks = self.observer.marks()?;
        self.run.save(self.engine, marks)?;
        self.last_save = Instant::now();
        self.saved = self.run.progress.updates;
        Ok(())
    }

    /// Weights that are no numbers must not replace good ones: a loss shows them one update late.
    fn check_finite(&self) -> Result<(), Error> {
        let finite = |tensor: &Tensor| match &tensor.values {
            Values::F32(values) => values.iter().all(|value| value.is_finite()),
            Values::I64(_) => true,
        };
        let sections = [Section::Model, Section::Momentum, Section::Average];
        if sections.iter().all(|&section| self.engine.export(section).iter().all(finite)) {
            return Ok(());
        }
        let Progress { updates, epoch, .. } = self.run.progress;
        Err(Error::Diverged { update: updates, epoch, hopeless: false })
    }
}
