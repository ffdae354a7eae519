//! How long training takes on this machine, measured by a few updates.

use std::time::Instant;

use crescendo::network::{Device, Engine, EngineError, MicroBatch, Section};
use crescendo::training::Error;

use super::Plan;
use crate::commands::measuring::{images, labels, median};

/// For how long is measured, about; with several ranks, whose small parts of batches tell less of the large ones, longer.
const SECONDS: [f64; 2] = [3.0, 20.0];
/// An update takes at most this share of that, so that there are several.
const UPDATE_SHARE: f64 = 0.1;
/// Images of the first updates, which find out how many images an update can have.
const FIRST: usize = 2;

/// How long an update takes, as a number of seconds and a number for each of its images.
pub struct Speed {
    update: f64,
    image: f64,
    /// Whether it is this machine's.
    pub is_measured: bool,
}

impl Speed {
    /// So many images a second, in updates of any size.
    pub fn constant(images_per_second: f64) -> Self {
        Speed { update: 0.0, image: 1.0 / images_per_second, is_measured: false }
    }

    /// Seconds of an update of so many images of the whole size.
    pub fn of_update(&self, images: usize) -> f64 {
        self.of_updates(1.0, images as f64, 1.0)
    }

    /// Measures updates of two sizes, between those that one of so many ranks has of the plan's batches as far as there is
    /// time.
    ///
    /// # Errors
    /// If the engine fails.
    pub fn measure(plan: &Plan, device: &dyn Device, ranks: usize) -> Result<Self, Error> {
        let begin = Instant::now();
        let Plan { graph, recipe, .. } = plan;
        let sizes = || plan.phases.iter().map(|planned| planned.micro_batch.div_ceil(ranks));
        let most = sizes().max().unwrap_or(1).max(1);
        let all_seconds = SECONDS[usize::from(ranks > 1)];
        let mut engine = device.engine(graph)?;
        engine.import(Section::Model, &graph.initial(0))?;
        let image = graph.input.len();
        let (pixels, labels) = (images(graph, most), labels(graph.classes(), most));
        let rules = recipe.optimizer.first_rules(graph, most);
        let update = |engine: &mut dyn Engine, images: usize| -> Result<f64, EngineError> {
            let begin = Instant::now();
            engine.accumulate(&MicroBatch::whole(&pixels[..images * image], &labels[..images]))?;
            engine.update(&rules)?;
            engine.next_result(true)?;
            Ok(begin.elapsed().as_secs_f64())
        };
        let mut large = FIRST.min(most);
        loop {
            // The first update of a size prepares for it.
            update(&mut *engine, large)?;
            let next = (2 * large).min(most);
            let seconds = update(&mut *engine, large)? * next as f64 / large as f64;
            if next == large || seconds > UPDATE_SHARE * all_seconds {
                break;
            }
            large = next;
        }
        let small = sizes().min().unwrap_or(1).clamp(1, (large / 2).max(1));
        update(&mut *engine, small)?;
        let (mut of_large, mut of_small) = (Vec::new(), Vec::new());
        while of_large.is_empty() || begin.elapsed().as_secs_f64() < all_seconds {
            of_large.push(update(&mut *engine, large)?);
            of_small.push(update(&mut *engine, small)?);
        }
        Ok(Self::of([(small, median(&mut of_small)), (large, median(&mut of_large))]))
    }

    /// The line through two points, each a number of images and the seconds of their update.
    fn of([(small, of_small), (large, of_large)]: [(usize, f64); 2]) -> Self {
        let (of_one, images) = (of_large / large as f64, large - small);
        let image = if images == 0 { of_one } else { (of_large - of_small) / images as f64 };
        // Noise must not make images free, or updates of none cost less than nothing.
        let image = image.clamp(0.5 * of_one, of_one);
        Speed { update: of_large - image * large as f64, image, is_measured: true }
    }

    /// Seconds of training on so many images in so many updates, if an image takes `work` as long as one of the whole
    /// size.
    fn of_updates(&self, updates: f64, images: f64, work: f64) -> f64 {
        updates * self.update + images * work * self.image
    }

    /// Images per second in the plan's first phase.
    pub fn images_per_second(&self, plan: &Plan) -> f64 {
        let Some(first) = plan.phases.first() else { return 1.0 / self.image };
        let (batch, work) = (first.phase.batch_size as f64, plan.work(first.flops));
        batch / self.of_updates(1.0, batch, work)
    }

    /// Seconds of the whole plan, without evaluations. Where batch sizes are decided during training, the first one is
    /// taken for all of it.
    pub fn seconds(&self, plan: &Plan) -> f64 {
        if plan.length().is_some() {
            let of_phase = |planned: &super::PlannedPhase| {
                let length = planned.phase.length.unwrap_or_default();
                let (updates, images) = (length.updates as f64, length.images as f64);
                self.of_updates(updates, images, plan.work(planned.flops))
            };
            return plan.phases.iter().map(of_phase).sum();
        }
        f64::from(plan.recipe.train.epochs) * plan.trained as f64 / self.images_per_second(plan)
    }
}

impl Plan<'_> {
    /// How much an image of a phase takes, relative to one of the whole size.
    fn work(&self, flops: u64) -> f64 {
        flops as f64 / self.graph.training_flops().max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_update_costs_something_besides_its_images() {
        let Speed { update, image, .. } = Speed::of([(10, 0.3), (30, 0.7)]);
        assert!((update - 0.1).abs() < 1e-12 && (image - 0.02).abs() < 1e-12);
        // Noise: twenty images more took less time.
        let Speed { update, image, .. } = Speed::of([(10, 0.8), (30, 0.6)]);
        assert!((update - 0.3).abs() < 1e-12 && (image - 0.01).abs() < 1e-12);
        // One size only.
        let Speed { update, image, .. } = Speed::of([(1, 0.5), (1, 0.5)]);
        assert!(update.abs() < 1e-12 && (image - 0.5).abs() < 1e-12);
        assert!(
            (Speed { update: 0.5, image: 0.25, is_measured: true }.of_updates(2.0, 8.0, 0.5) - 2.0)
                .abs()
                < 1e-12
        );
    }
}
