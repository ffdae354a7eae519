//! The updates of an epoch.

use std::ops::Range;
use std::time::Instant;

use crescendo_data::{AugmentedSample, Border, ImagePreparation, Sampling};
use crescendo_network::{
    BorderPixels, ChannelStatistics, Preparation, Rule, Sample, Snapshot, UpdateResult,
};

use super::update::{BatchInput, Update};
use super::{Halt, Trainer};
use crate::events::{self, Event};
use crate::memory;
use crate::policy::{NoiseSample, Policy, RunPosition, SoFar};
use crate::recipe::WeightAverage;
use crate::run::{Progress, Run};
use crate::{Error, Recipe};

/// What the updates of an epoch have in common.
pub(super) struct EpochPlan {
    pub batch_size: usize,
    pub batches: usize,
    pub images: usize,
    /// See [`events::Step::later_images`].
    pub later_images: u64,
}

impl EpochPlan {
    /// When in the run, in epochs, a batch of this epoch is trained on: the middle of its update, so that a
    /// schedule from or to zero never gives zero.
    pub fn position(&self, epoch: u32, batch: usize) -> f64 {
        f64::from(epoch - 1) + (batch as f64 + 0.5) / self.batches as f64
    }
}

/// An update whose result has not arrived.
pub(super) struct QueuedUpdate {
    epochs: u32,
    batch_size: usize,
    learning_rate: f64,
    epoch_images: usize,
    later_images: u64,
}

impl Trainer<'_> {
    /// Trains what is left of the epoch, and does what ends one.
    pub(super) fn epoch(&mut self) -> Result<(), Halt> {
        // Before decisions are logged for an epoch that does not start.
        self.check_stop()?;
        let train = self.train;
        let (epoch, first) = (self.run.progress.epoch, self.run.progress.batch);
        if first == 0 {
            let Run { record, progress, policy, .. } = &mut *self.run;
            let Progress { updates, chosen, history, .. } = progress;
            let policy = policy.as_deref_mut().map(|policy| policy as &mut dyn Policy);
            let so_far = SoFar { updates: *updates, images: train.len(), history };
            for decision in chosen.enter(&record.recipe, policy, epoch, so_far)? {
                self.observer.event(&Event::Decision(decision))?;
            }
        }
        let image_size = self.run.record.recipe.data.image_size(epoch);
        self.set_image_size(image_size)?;
        let sampling = Sampling { image_size, ..self.sampling };
        let batch_size = self.run.progress.chosen.batch_size;
        self.choose_micro_batch(batch_size)?;
        let recipe = &self.run.record.recipe;
        let batches = sampling.batches(train.len(), batch_size);
        let left = match recipe.train.max_steps {
            0 => u64::MAX,
            limit => limit.saturating_sub(self.run.progress.updates),
        };
        let wanted = first..batches.min(first.saturating_add(left as usize));
        let later_updates = left.saturating_sub(wanted.len() as u64);
        let images = train.len().min(batches * batch_size);
        let later_images = later_images(recipe, epoch, train.len())
            .min(later_updates.saturating_mul(batch_size as u64));
        let plan = EpochPlan { batch_size, batches, images, later_images };
        if self.resident {
            self.resident_batches(&sampling, wanted, &plan)?;
        } else {
            sampling.epoch(train, epoch.into(), batch_size, wanted, |batch| {
                self.step(BatchInput::Prepared(batch), &plan)
            })?;
        }
        self.finish_updates()?;
        self.end_epoch(&plan)
    }

    /// Trains on batches of the images that are on the engine's device.
    fn resident_batches(
        &mut self,
        sampling: &Sampling,
        wanted: Range<usize>,
        plan: &EpochPlan,
    ) -> Result<(), Halt> {
        let epoch = self.run.progress.epoch.into();
        let preparation = preparation(sampling);
        let order = sampling.order(epoch, self.train.len());
        for indices in order.chunks(plan.batch_size).take(wanted.end).skip(wanted.start) {
            let samples: Vec<Sample> =
                sampling.augmented_samples(epoch, indices).map(sample).collect();
            let labels: Vec<u16> =
                indices.iter().map(|&index| self.train.labels[index as usize]).collect();
            let (samples, labels) = (&samples[..], &labels[..]);
            self.step(BatchInput::Resident { samples, labels, preparation: &preparation }, plan)?;
        }
        Ok(())
    }

    /// Chooses the size of micro-batches for an epoch with batches of this size.
    fn choose_micro_batch(&mut self, batch_size: usize) -> Result<(), Error> {
        let recipe = &self.run.record.recipe;
        let graph = self.engine.graph();
        // Other sizes than those that a policy of another program chooses were checked when the training started.
        let size = memory::micro_batch_size(recipe, self.device, graph, batch_size)?
            .ok_or_else(|| memory::too_large(recipe, self.device, batch_size))?;
        if size < batch_size && (batch_size, size) != self.size {
            let ghost = recipe.network.norm.ghost > 0;
            let event = Event::MicroBatches { batch_size, micro_batch_size: size, ghost };
            self.observer.event(&event)?;
        }
        self.size = (batch_size, size);
        Ok(())
    }

    /// Queues one update, and processes the results that have arrived.
    fn step(&mut self, batch: BatchInput, plan: &EpochPlan) -> Result<(), Halt> {
        self.check_stop()?;
        let begin = Instant::now();
        let recipe = &self.run.record.recipe;
        let progress = &self.run.progress;
        // The number of this update, and of its batch in the epoch.
        let queued = self.queue.len();
        let (update, batch_index) = (progress.updates + queued as u64 + 1, progress.batch + queued);
        let done = plan.position(progress.epoch, batch_index);
        let epochs = recipe.train.epochs;
        let factor = |epochs| progress.chosen.learning_rate_factor(recipe, done, epochs);
        let at = RunPosition { done, epochs, batch_size: batch.labels().len() };
        let rules = recipe.optimizer.rules(self.engine.graph(), at, factor);
        let requires_grad: Vec<bool> = rules.iter().map(|rule| *rule != Rule::Frozen).collect();
        self.engine.set_requires_grad(&requires_grad);
        let every = recipe.batch.noise_every;
        let measure = every > 0 && update.is_multiple_of(every);
        let tree = memory::batch_tree(recipe, batch.labels().len(), self.size.1);
        let (rules, loss) = (&rules[..], &self.loss);
        Update { rules, loss, tree, measure }.run(self.engine, batch)?;
        if let Some(share) = recipe.optimizer.average_weight(update, done / f64::from(epochs)) {
            self.engine.update_average(share)?;
            if recipe.optimizer.average == WeightAverage::Lookahead {
                // The model and the average are both the average from here on.
                self.engine.swap_average()?;
                self.engine.update_average(1.0)?;
            }
        }
        self.queue.push_back(QueuedUpdate {
            epochs,
            batch_size: plan.batch_size,
            learning_rate: progress.chosen.learning_rate(recipe, done),
            epoch_images: plan.images,
            later_images: plan.later_images,
        });
        self.busy += begin.elapsed();
        self.process_results(false)?;
        if self.save_policy.within_epoch(self.last_save.elapsed()) {
            self.save_meanwhile()?;
        }
        Ok(())
    }

    /// Waits for all queued updates.
    pub(super) fn finish_updates(&mut self) -> Result<(), Error> {
        self.process_results(true)
    }

    /// Processes the results that have arrived, or with `wait` those of all queued updates.
    fn process_results(&mut self, wait: bool) -> Result<(), Error> {
        while !self.queue.is_empty() {
            let begin = Instant::now();
            let result = self.engine.next_result(wait)?;
            self.busy += begin.elapsed();
            let Some(result) = result else { return Ok(()) };
            self.process(result)?;
        }
        Ok(())
    }

    /// Takes the oldest queued update into the progress.
    fn process(&mut self, result: UpdateResult) -> Result<(), Error> {
        let queued = self.queue.pop_front().expect("a result belongs to a queued update");
        let UpdateResult { loss, correct, images, norms, .. } = result;
        if !loss.is_finite() {
            let Progress { updates, epoch, .. } = self.run.progress;
            // The saved state is only known once it has been written.
            self.writer.wait()?;
            // Resuming from a state right before this update would fail in the same way.
            let hopeless = updates == self.saved;
            return Err(Error::Diverged { update: updates + 1, epoch, hopeless, cause: None });
        }
        let progress = &mut self.run.progress;
        if let Some(norms) = norms {
            progress.chosen.noise.observe(&NoiseSample::of(&norms));
        }
        progress.updates += 1;
        progress.batch += 1;
        progress.images += images;
        progress.correct += correct;
        progress.loss_sum += loss * images as f64;
        progress.seconds += std::mem::take(&mut self.busy).as_secs_f64();
        self.observer.event(&Event::Step(events::Step {
            update: progress.updates,
            epoch: progress.epoch,
            epochs: queued.epochs,
            batch_size: queued.batch_size,
            learning_rate: queued.learning_rate,
            loss,
            epoch_loss: progress.loss_sum / progress.images as f64,
            epoch_accuracy: progress.correct as f64 / progress.images as f64,
            images: progress.images,
            epoch_images: queued.epoch_images,
            later_images: queued.later_images,
            seconds: progress.seconds,
        }))?;
        self.write_copy()
    }

    /// Saves the state without waiting for the queued updates, if the engine can copy it.
    fn save_meanwhile(&mut self) -> Result<(), Error> {
        if self.copy.is_some() {
            return Ok(());
        }
        let update = self.run.progress.updates + self.queue.len() as u64;
        match self.engine.snapshot()? {
            Snapshot::Copy(copy) => {
                self.copy = Some((update, copy));
                self.last_save = Instant::now();
                self.write_copy()
            }
            Snapshot::Borrowed(_) => self.save(),
        }
    }

    /// Writes the copy of the state, if all updates up to it have been processed: then their losses are finite,
    /// and the progress and the logs are those of its moment.
    fn write_copy(&mut self) -> Result<(), Error> {
        let updates = self.run.progress.updates;
        let Some((_, copy)) = self.copy.take_if(|copy| copy.0 == updates) else { return Ok(()) };
        self.hand_over(copy)
    }
}

/// The images of later epochs, converted to this epoch's image size by their number of pixels.
fn later_images(recipe: &Recipe, epoch: u32, images: usize) -> u64 {
    let pixels = |epoch| recipe.data.image_size(epoch).pow(2) as f64;
    let own = pixels(epoch);
    let epochs: f64 = (epoch + 1..=recipe.train.epochs).map(|later| pixels(later) / own).sum();
    (epochs * images as f64) as u64
}

/// How the engine prepares the samples of a data set on its device.
fn preparation(sampling: &Sampling) -> Preparation {
    let ImagePreparation { border, statistics, cutout, image_size } = sampling.preparation();
    Preparation {
        border: match border {
            Border::Reflect => BorderPixels::Reflect,
            Border::Grey(grey) => BorderPixels::Constant([grey; 3]),
            Border::Colour(colour) => BorderPixels::Constant(colour),
        },
        normalization: statistics.map_or(ChannelStatistics::PerImage, ChannelStatistics::Fixed),
        cutout,
        image_size,
    }
}

/// A sample as engines take it.
fn sample(sample: AugmentedSample) -> Sample {
    let AugmentedSample { index, top, left, flip, cutout, .. } = sample;
    let (row, column) = cutout.unwrap_or_default();
    Sample { index, crop: [top, left], flip, cutout: [row, column] }
}
