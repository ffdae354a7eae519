//! What happens after the updates of an epoch: evaluation, checkpoint, saving the state.

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Instant;

use crescendo_data::{ImageShape, Split};
use crescendo_network::Snapshot;

use super::epoch::EpochPlan;
use super::state_writer::{StateCopy, check_finite};
use super::{Halt, Trainer};
use crate::best::BestEpoch;
use crate::checkpoint::About;
use crate::evaluation::{self, Evaluation};
use crate::events::{self, EvaluatedSplit, Event};
use crate::inference::Input;
use crate::policy::EpochMetrics;
use crate::run::{Progress, Run, saved_state};
use crate::{Error, checkpoint};

impl Trainer<'_> {
    /// Evaluates, logs, and writes a checkpoint, as far as it is due after the epoch.
    pub(super) fn end_epoch(&mut self, plan: &EpochPlan) -> Result<(), Halt> {
        let train = self.run.record.recipe.train.clone();
        let epoch = self.run.progress.epoch;
        let mut last = epoch >= train.epochs || self.run.at_limit();
        let due = |every: u32| every > 0 && epoch.is_multiple_of(every);
        let validate = self.validation.filter(|_| last || due(train.evaluate_every));
        let mut validation = None;
        if let Some(split) = validate {
            // Evaluation can take minutes; the epoch should not be lost meanwhile.
            self.save_after_epoch()?;
            let evaluation = self.evaluate(EvaluatedSplit::Validation, split)?;
            let (best, is_best) = BestEpoch::update(self.run.progress.best, epoch, &evaluation);
            let stops = best.stops(train.stop_after);
            last |= stops;
            if is_best || last || due(train.checkpoint_every) {
                // Before the evaluation is logged: a run that is resumed from here evaluates again.
                self.save_before_checkpoint()?;
            }
            self.log_evaluation(EvaluatedSplit::Validation, &evaluation)?;
            self.take_best(best, is_best)?;
            if stops {
                self.note_early_stop(best, train.stop_after)?;
            }
            validation = Some(evaluation);
        }
        let test = if last { train.final_evaluation } else { due(train.evaluate_every) };
        // With a validation set, the test set is only evaluated at the end.
        let test = test && !self.test.is_empty() && (last || self.validation.is_none());
        let writes_checkpoint = last || due(train.checkpoint_every);
        if validation.is_none() {
            if test {
                self.save_after_epoch()?;
            }
            if writes_checkpoint {
                self.save_before_checkpoint()?;
            }
        }
        let tested = match test {
            true => {
                let evaluation = self.evaluate(EvaluatedSplit::Test, self.test)?;
                self.log_evaluation(EvaluatedSplit::Test, &evaluation)?;
                Some(evaluation)
            }
            false => None,
        };
        let test_accuracy = tested.as_ref().map(Evaluation::accuracy);

        let recipe = &self.run.record.recipe;
        let progress = &self.run.progress;
        let images = progress.images as f64;
        let train_loss = progress.loss_sum / images;
        let last_update = plan.position(epoch, progress.batch.saturating_sub(1));
        let metrics = EpochMetrics {
            epoch,
            updates: progress.updates,
            batch_size: plan.batch_size,
            learning_rate: progress.chosen.learning_rate(recipe, last_update),
            train_loss,
            train_accuracy: progress.correct as f64 / images,
            validation_loss: validation.as_ref().map(|evaluation| evaluation.loss),
            validation_accuracy: validation.as_ref().map(Evaluation::accuracy),
            test_accuracy,
            noise_scale: progress.chosen.noise.value(),
        };
        self.observer.event(&Event::Epoch(events::Epoch {
            epoch,
            updates: metrics.updates,
            batch_size: metrics.batch_size,
            learning_rate: metrics.learning_rate,
            train_loss,
            train_accuracy: metrics.train_accuracy,
            validation_loss: metrics.validation_loss,
            validation_accuracy: metrics.validation_accuracy,
            test_loss: tested.map(|evaluation| evaluation.loss),
            test_accuracy,
            noise_scale: metrics.noise_scale,
            seconds: progress.seconds,
            images_per_second: images / progress.seconds,
        }))?;
        if writes_checkpoint {
            self.checkpoint(&self.about(Some(train_loss)))?;
        }
        let Run { record, progress, .. } = &mut *self.run;
        progress.add_metrics(&record.recipe, metrics);
        *progress = Progress {
            epoch: epoch + 1,
            updates: progress.updates,
            test_accuracy,
            ended: last,
            history: std::mem::take(&mut progress.history),
            earlier_seconds: progress.total_seconds(),
            chosen: std::mem::take(&mut progress.chosen),
            best: progress.best,
            ..Progress::default()
        };
        if last || epoch >= self.until {
            self.save()?;
        } else {
            self.save_after_epoch()?;
        }
        Ok(())
    }

    /// Saves the state after an epoch's updates, if it is time.
    fn save_after_epoch(&mut self) -> Result<(), Error> {
        if self.save_policy.after_epoch(self.last_save.elapsed()) {
            self.save()?;
        }
        Ok(())
    }

    /// Saves the state, unless it is saved, if weights that are to be written would be newer.
    fn save_before_checkpoint(&mut self) -> Result<(), Error> {
        if self.save_policy.before_checkpoint() && self.saved < self.run.progress.updates {
            self.save()?;
        }
        Ok(())
    }

    /// Evaluates the model, or its average, on a split.
    fn evaluate(&mut self, which: EvaluatedSplit, split: &Split) -> Result<Evaluation, Halt> {
        let total = split.len();
        self.set_image_size(ImageShape::CIFAR.width)?;
        let (observer, stop) = (&mut *self.observer, self.stop);
        let input = Input::new(&self.run.record.recipe.data, self.normalization);
        self.engine.swap_average()?;
        let evaluation = evaluation::evaluate(self.engine, &input, split, |done| {
            if stop.load(Ordering::Relaxed) {
                return Err(Halt::Interrupted);
            }
            Ok(observer.event(&Event::Evaluating { split: which, done, total })?)
        });
        // Swapped back before anything can fail: a saved state has both in their places.
        self.engine.swap_average()?;
        let evaluation = evaluation.map_err(|halt| match halt {
            Halt::Error(Error::NotFinite) => {
                let Progress { updates: update, epoch, .. } = self.run.progress;
                // A state that was saved before the evaluation would fail in the same way.
                let hopeless = self.saved == update;
                Halt::Error(Error::Diverged { update, epoch, hopeless, cause: None })
            }
            halt => halt,
        })?;
        Ok(evaluation)
    }

    fn log_evaluation(
        &mut self,
        which: EvaluatedSplit,
        evaluation: &Evaluation,
    ) -> Result<(), Error> {
        self.observer.event(&Event::Evaluated {
            split: which,
            epoch: self.run.progress.epoch,
            evaluation: evaluation.clone(),
            classes: self.run.record.run.classes.clone(),
        })
    }

    /// Takes over the best epoch so far, and writes its weights if it is the current one.
    fn take_best(&mut self, best: BestEpoch, is_best: bool) -> Result<(), Error> {
        if is_best {
            let Progress { loss_sum, images, .. } = self.run.progress;
            let about = self.about(Some(loss_sum / images as f64));
            self.write_weights(&[checkpoint::best_path(&self.run.folder)], &about)?;
        }
        self.run.progress.best = Some(best);
        Ok(())
    }

    fn note_early_stop(&mut self, best: BestEpoch, stop_after: u32) -> Result<(), Error> {
        self.observer.event(&Event::Note(format!(
            "Training stops early: {stop_after} evaluations in a row (train.stop_after) did not improve on the \
             validation accuracy of epoch {}, {:.4}.",
            best.epoch, best.accuracy
        )))
    }

    /// The moment after the current epoch, of which this is the mean training loss.
    fn about(&self, loss: Option<f64>) -> About {
        let Progress { epoch, updates, .. } = self.run.progress;
        About { epoch: Some(epoch), in_epoch: None, updates, loss }
    }

    /// Writes a checkpoint after an epoch, and removes old ones as `train.keep` says.
    pub(super) fn checkpoint(&mut self, about: &About) -> Result<(), Error> {
        let epoch = about.epoch.expect("checkpoints are written after epochs");
        let folder = &self.run.folder;
        let (path, last) = (checkpoint::path(folder, epoch), checkpoint::last_path(folder));
        self.write_weights(&[path.clone(), last], about)?;
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

    /// Writes the weights of this moment as the last ones of a run that is stopped.
    pub(super) fn save_last(&mut self) -> Result<(), Error> {
        let Progress { epoch, batch, updates, history, .. } = &self.run.progress;
        let about = match batch {
            0 => {
                let loss = history.last().map(|last| last.train_loss);
                About { epoch: Some(epoch - 1), loss, ..About::default() }
            }
            _ => About { in_epoch: Some(*epoch), ..About::default() },
        };
        let about = About { updates: *updates, ..about };
        self.write_weights(&[checkpoint::last_path(&self.run.folder)], &about)
    }

    /// Writes the weights that evaluations use.
    fn write_weights(&mut self, paths: &[PathBuf], about: &About) -> Result<(), Error> {
        self.check_finite()?;
        // The state that was saved before them is on disk before they are.
        self.writer.wait()?;
        self.engine.swap_average()?;
        let written = checkpoint::write(paths, &self.run.record, self.engine, about);
        self.engine.swap_average()?;
        written
    }

    /// Saves the state after all queued updates.
    pub(super) fn save(&mut self) -> Result<(), Error> {
        self.finish_updates()?;
        let marks = match self.engine.snapshot()? {
            Snapshot::Copy(copy) => return self.hand_over(copy),
            Snapshot::Borrowed(state) => {
                check_finite(&state, &self.run.progress)?;
                let marks = self.observer.marks()?;
                let Run { folder, record, progress, .. } = &*self.run;
                saved_state::write(folder, record, state, progress, &marks)?;
                marks
            }
        };
        self.run.marks = marks;
        self.last_save = Instant::now();
        self.saved = self.run.progress.updates;
        Ok(())
    }

    /// Has the writer save a copy of the state that belongs to the progress as it is now.
    pub(super) fn hand_over(&mut self, copy: StateCopy) -> Result<(), Error> {
        let marks = self.observer.marks()?;
        let Run { folder, record, progress, .. } = &*self.run;
        self.writer.write(folder, record, copy, progress, &marks)?;
        self.run.marks = marks;
        self.last_save = Instant::now();
        self.saved = self.run.progress.updates;
        Ok(())
    }

    fn check_finite(&mut self) -> Result<(), Error> {
        match self.engine.snapshot()? {
            Snapshot::Borrowed(state) => check_finite(&state, &self.run.progress),
            Snapshot::Copy(copy) => check_finite(&copy()?, &self.run.progress),
        }
    }
}
