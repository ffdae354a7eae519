//! One update: a batch as micro-batches, whose gradients are accumulated.

use std::ops::Range;

use crescendo_data::ImageBatch;
use crescendo_network::{
    BatchTree, Engine, EngineError, Images, Loss, MicroBatch, Preparation, Rule, Sample,
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

    /// Some of the images.
    fn images(self, Range { start, end }: Range<usize>) -> Images<'a> {
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
    /// Its micro-batches, and the order of sums.
    pub tree: BatchTree,
    /// Whether the gradient norms of the batch's halves are measured.
    pub measure: bool,
}

impl Update<'_> {
    /// Queues the update of a batch.
    pub fn run(&self, engine: &mut dyn Engine, batch: BatchInput) -> Result<(), EngineError> {
        let labels = batch.labels();
        let mean_weight = self.loss.mean_weight(labels);
        for part in self.tree.parts(0, 1) {
            engine.accumulate(&MicroBatch {
                images: batch.images(part.images()),
                labels: &labels[part.images()],
                part,
                mean_weight,
                measure: self.measure,
            })?;
        }
        engine.update(self.rules)
    }
}
