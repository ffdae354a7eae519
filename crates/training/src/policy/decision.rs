//! What policies decide, for those who record it.

/// A change that takes effect when an epoch begins.
///
/// # Example
///
/// ```
/// use crescendo_training::policy::{Decision, DecisionKind, PlateauObservation};
///
/// // As a policy makes it, and observers get it in an event.
/// let mut decision = Decision::new(61, 24_000, DecisionKind::BatchSize, [125.0, 250.0]);
/// decision.reason = "no improvement in 3 epochs".into();
/// decision.metric = Some(PlateauObservation::new("train_loss", 0.51, 0.5, 3));
/// assert_eq!((decision.what.name(), decision.to), ("batch_size", 250.0));
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Decision {
    /// The first epoch that it holds for.
    pub epoch: u32,
    /// Updates done before it.
    pub updates: u64,
    /// What changes.
    pub what: DecisionKind,
    /// The value until now.
    pub from: f64,
    /// The value from now on.
    pub to: f64,
    /// Why, in words.
    pub reason: String,
    /// The metric that a plateau policy followed, if one decided.
    pub metric: Option<PlateauObservation>,
    /// The gradient noise scale in images, if it is known.
    pub noise_scale: Option<f64>,
}

impl Decision {
    /// A decision without measurements.
    pub fn new(epoch: u32, updates: u64, what: DecisionKind, [from, to]: [f64; 2]) -> Self {
        let (reason, metric, noise_scale) = (String::new(), None, None);
        Decision { epoch, updates, what, from, to, reason, metric, noise_scale }
    }
}

/// What a [`Decision`] changes.
///
/// See the example of [`Decision`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DecisionKind {
    /// Images an update takes.
    BatchSize,
    /// The learning rate; under a schedule that changes it all the time, as the schedule would have it at
    /// the beginning of the epoch.
    LearningRate,
    /// Pixels along each side of training images.
    ImageSize,
}

impl DecisionKind {
    /// Its name in tables and events.
    pub fn name(self) -> &'static str {
        match self {
            DecisionKind::BatchSize => "batch_size",
            DecisionKind::LearningRate => "learning_rate",
            DecisionKind::ImageSize => "side",
        }
    }
}

/// A metric on a plateau.
///
/// See the example of [`Decision`].
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct PlateauObservation {
    /// Its name in recipes, such as `train_loss`.
    pub name: &'static str,
    /// The last value, smoothed if the recipe asks for it.
    pub value: f64,
    /// The best value before it.
    pub best: f64,
    /// Epochs without improvement.
    pub epochs: u32,
}

impl PlateauObservation {
    /// An observation of the metric of this name.
    pub fn new(name: &'static str, value: f64, best: f64, epochs: u32) -> Self {
        PlateauObservation { name, value, best, epochs }
    }
}
