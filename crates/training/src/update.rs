//! One update: a batch, in parts if need be, and the measurement of its gradient.

use crescendo_data::ImageBatch;
use crescendo_network::{Communicator, Engine, Outcome, Rule};

use crate::policy::GradientNorms;

/// What an update is made with.
pub(crate) struct Update<'a> {
    pub engine: &'a mut dyn Engine,
    pub communicator: &'a dyn Communicator,
    /// One for each parameter.
    pub rules: Vec<Rule>,
    /// See [`crescendo_network::Batch`].
    pub label_smoothing: f64,
    /// Images that are computed at a time.
    pub part: usize,
    /// Whether the gradients of the parts, or of two halves where there is one part, are measured.
    pub measures: bool,
}

/// What came out.
pub(crate) struct Updated {
    pub outcome: Outcome,
    pub measured: Option<GradientNorms>,
}

impl Update<'_> {
    /// Trains on a batch. Where the loss is no number, the parameters stay.
    pub fn run(self, batch: &ImageBatch) -> Updated {
        let Update { engine, communicator, ref rules, label_smoothing, part, measures } = self;
        let count = batch.labels.len();
        let image = batch.images.len() / count;
        let one_part = part >= count;
        let mut outcome = Outcome { loss: 0.0, correct: 0 };
        // How many images each part has, and the square of its mean gradient.
        let mut squares = Vec::new();
        for (images, labels) in batch.images.chunks(part * image).zip(batch.labels.chunks(part)) {
            let weight = labels.len() as f64 / count as f64;
            let batch = crescendo_network::Batch { images, labels, label_smoothing };
            let of_part = if measures && one_part && count > 1 {
                let (outcome, halves) = engine.backward_in_halves(batch, weight, communicator);
                let sizes = [count / 2, count.div_ceil(2)].map(|size| size as f64);
                squares.extend(sizes.into_iter().zip(halves));
                outcome
            } else {
                let outcome = engine.backward(batch, weight, communicator);
                if measures {
                    let square = engine.gradient_change() / (weight * weight);
                    squares.push((labels.len() as f64, square));
                }
                outcome
            };
            outcome.loss += weight * of_part.loss;
            outcome.correct += of_part.correct;
        }
        engine.reduce(communicator);
        let measured = (squares.len() > 1)
            .then(|| GradientNorms::of(&squares, count as f64, engine.gradient_square()));
        if outcome.loss.is_finite() {
            engine.update(rules);
        }
        Updated { outcome, measured }
    }
}
