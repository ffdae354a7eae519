//! One update: a batch as micro-batches, whose gradients are accumulated.

use crescendo_data::ImageBatch;
use crescendo_network::{
    Engine, EngineError, Images, Loss, Measure, MicroBatch, Preparation, Rule, Sample,
};

/// The images of a batch.
#[derive(Clone, Copy)]
pub(super) enum BatchInput<'a> {
    /// Prepared ahead.
    Prepared(&'a ImageBatch),
    /// Of the data set on the engine's device.
    Resident { samples: &'a [Sample], labels: &'a [u16], preparation: &'a Preparation },
}

impl<'a> BatchInput<'a> {
    /// The class of each image.
    pub fn labels(self) -> &'a [u16] {
        match self {
            BatchInput::Prepared(batch) => &batch.labels,
            BatchInput::Resident { labels, .. } => labels,
        }
    }

    /// The images from `start` to before `end`.
    fn images(self, start: usize, end: usize) -> Images<'a> {
        match self {
            BatchInput::Prepared(batch) => {
                let image = batch.images.len() / batch.labels.len();
                Images::Prepared(&batch.images[start * image..end * image])
            }
            BatchInput::Resident { samples, preparation, .. } => {
                Images::Samples(&samples[start..end], preparation)
            }
        }
    }
}

/// How an update is computed.
pub(super) struct Update<'a> {
    /// One rule for each parameter.
    pub rules: &'a [Rule],
    pub loss: &'a Loss,
    /// Images of a micro-batch.
    pub micro_batch: usize,
    /// Whether gradient norms are measured: of the micro-batches, or of two halves if there is only one.
    pub measure: bool,
}

impl Update<'_> {
    /// Queues the update of a batch.
    pub fn run(&self, engine: &mut dyn Engine, batch: BatchInput) -> Result<(), EngineError> {
        let labels = batch.labels();
        let count = labels.len();
        let measure = match self.measure {
            true if self.micro_batch < count => Measure::MicroBatch,
            true if count > 1 => Measure::Halves,
            _ => Measure::Nothing,
        };
        let mean_weight = self.loss.mean_weight(labels);
        for start in (0..count).step_by(self.micro_batch) {
            let end = count.min(start + self.micro_batch);
            let labels = &labels[start..end];
            engine.accumulate(&MicroBatch {
                images: batch.images(start, end),
                labels,
                share: labels.len() as f64 / count as f64,
                mean_weight,
                last: end == count,
                measure,
            })?;
        }
        engine.update(self.rules)
    }
}
