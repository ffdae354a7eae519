//! What policies have chosen and what they remember.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    BATCH_PLATEAU, CUSTOM, Choice, Decision, DecisionKind, EpochMetrics, EpochStart, NOISE_SCALE,
    NoiseScaleEstimate, Policy, SCHEDULE_PLATEAU, batch_policy, learning_rate, schedule_policy,
    tables, training_plan,
};
use crate::recipe::ScheduleKind;
use crate::{Error, Recipe};

/// What the policies have chosen, and the state from which they decide next. A part of the saved state.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "SavedPolicyState")]
pub struct PolicyState {
    /// The epoch that the choice is for; 0 before a policy of another program has chosen for the first.
    pub(crate) epoch: u32,
    /// Images an update takes.
    pub(crate) batch_size: usize,
    /// The factor by which policies have changed the learning rate; the schedule's comes on top.
    pub(super) rate_factor: f64,
    /// What each policy remembers, by its name.
    states: BTreeMap<String, Value>,
    pub(crate) noise: NoiseScaleEstimate,
}

/// The same as it is saved.
#[derive(Deserialize)]
struct SavedPolicyState {
    epoch: u32,
    batch_size: usize,
    rate_factor: f64,
    #[serde(default)]
    states: BTreeMap<String, Value>,
    noise: NoiseScaleEstimate,
    // What older versions saved instead of `states`.
    batch_plateau: Option<Value>,
    rate_plateau: Option<Value>,
    cooldown: Option<u32>,
}

impl From<SavedPolicyState> for PolicyState {
    fn from(saved: SavedPolicyState) -> Self {
        let SavedPolicyState { epoch, batch_size, rate_factor, mut states, noise, .. } = saved;
        let older = [
            (BATCH_PLATEAU, saved.batch_plateau),
            (SCHEDULE_PLATEAU, saved.rate_plateau),
            (NOISE_SCALE, saved.cooldown.map(|cooldown| json!({ "cooldown": cooldown }))),
        ];
        for (name, state) in older {
            states.extend(state.map(|state| (name.to_owned(), state)));
        }
        PolicyState { epoch, batch_size, rate_factor, states, noise }
    }
}

/// What has happened in a run when an epoch begins.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SoFar<'a> {
    pub updates: u64,
    /// Training images.
    pub images: usize,
    pub history: &'a [EpochMetrics],
}

impl PolicyState {
    /// The state at the beginning of a run.
    pub(crate) fn new(recipe: &Recipe) -> Self {
        let planned = tables::planned_size(recipe, 1);
        PolicyState {
            // A policy of another program is asked for the first epoch too: it is not known here.
            epoch: batch_policy(recipe).map_or(0, |_| 1),
            batch_size: planned.unwrap_or(recipe.batch.initial),
            rate_factor: 1.0,
            states: BTreeMap::new(),
            noise: NoiseScaleEstimate::default(),
        }
    }

    /// The learning rate after `done` epochs (with fractions).
    pub(crate) fn learning_rate(&self, recipe: &Recipe, done: f64) -> f64 {
        recipe.optimizer.learning_rate
            * self.learning_rate_factor(recipe, done, recipe.train.epochs)
    }

    /// The factor of learning rates after `done` epochs, if the schedule has so many epochs.
    pub(crate) fn learning_rate_factor(&self, recipe: &Recipe, done: f64, epochs: u32) -> f64 {
        learning_rate::factor(recipe, self.rate_factor, self.batch_size, done, epochs)
    }

    /// Decides for `epoch`, which begins now; `custom` is the policy of a recipe with `batch.policy = custom`. Called
    /// again for the same epoch, it changes nothing.
    ///
    /// # Errors
    /// If a policy cannot decide, or its choice is invalid. The state stays as it was.
    pub(crate) fn enter(
        &mut self,
        recipe: &Recipe,
        custom: Option<&mut dyn Policy>,
        epoch: u32,
        so_far: SoFar<'_>,
    ) -> Result<Vec<Decision>, Error> {
        if epoch <= self.epoch {
            return Ok(Vec::new());
        }
        let mut next = PolicyState { epoch, ..self.clone() };
        let decisions = next.decide(recipe, custom, so_far)?;
        *self = next;
        Ok(decisions)
    }

    fn decide(
        &mut self,
        recipe: &Recipe,
        custom: Option<&mut dyn Policy>,
        so_far: SoFar<'_>,
    ) -> Result<Vec<Decision>, Error> {
        let (epoch, before) = (self.epoch, self.clone());
        let noise_scale = self.noise.value();
        let decision = |what, from, to, choice: &Choice| Decision {
            epoch,
            updates: so_far.updates,
            what,
            from,
            to,
            reason: choice.reason.clone(),
            metric: choice.metric.clone(),
            noise_scale,
        };
        let mut decisions = Vec::new();

        let mut choice = match (batch_policy(recipe), custom) {
            (Some((name, mut policy)), _) => self.ask(name, &mut *policy, recipe, so_far)?,
            (None, Some(policy)) => {
                let choice = self.ask(CUSTOM, policy, recipe, so_far)?;
                checked(choice, recipe, epoch, so_far.images)?
            }
            (None, None) => return Err(no_policy()),
        };
        self.take(&choice);
        if self.batch_size != before.batch_size {
            let (from, to) = (before.batch_size as f64, self.batch_size as f64);
            decisions.push(decision(DecisionKind::BatchSize, from, to, &choice));
        }

        let schedule = &recipe.schedule;
        if let Some((name, mut policy)) = schedule_policy(recipe) {
            let of_schedule = self.ask(name, &mut *policy, recipe, so_far)?;
            self.take(&of_schedule);
            if of_schedule.metric.is_some() {
                choice = of_schedule;
            }
        }
        // Smooth schedules change the learning rate all the time; only steps and policies' changes are recorded.
        let table = schedule.policy == ScheduleKind::Step;
        if self.rate_factor != before.rate_factor || table {
            let now = f64::from(epoch - 1);
            let past = if table { now - 1.0 } else { now };
            let [past, now] = [past, now].map(|done| done.max(schedule.warmup));
            let (from, to) = (before.learning_rate(recipe, past), self.learning_rate(recipe, now));
            if (from - to).abs() > 1e-9 * from {
                if self.rate_factor == before.rate_factor {
                    // Without the rounding errors of a product.
                    choice.reason = tables::from_table("schedule.steps", to as f32, epoch);
                }
                decisions.push(decision(DecisionKind::LearningRate, from, to, &choice));
            }
        }
        let [from, to] = image_sizes(recipe, epoch).map(|size| size as f64);
        if from != to {
            let reason = tables::from_table("data.sides", to, epoch);
            let choice = Choice::new(self.batch_size, self.rate_factor, reason);
            decisions.push(decision(DecisionKind::ImageSize, from, to, &choice));
            // Measurements on images of another size say nothing about these.
            self.noise = NoiseScaleEstimate::default();
        }
        Ok(decisions)
    }

    /// What a policy chooses for the epoch, from the state that it saved; its new state is kept.
    fn ask(
        &mut self,
        name: &str,
        policy: &mut dyn Policy,
        recipe: &Recipe,
        so_far: SoFar<'_>,
    ) -> Result<Choice, Error> {
        if let Some(state) = self.states.get(name) {
            policy.restore(state)?;
        }
        let [last_image_size, image_size] = image_sizes(recipe, self.epoch);
        let choice = policy.decide(&EpochStart {
            epoch: self.epoch,
            epochs: recipe.train.epochs,
            updates: so_far.updates,
            training_images: so_far.images,
            image_size,
            last_image_size,
            history: so_far.history,
            noise_scale: self.noise.value(),
            current: Choice::new(self.batch_size, self.rate_factor, ""),
        })?;
        match policy.state() {
            Value::Null => self.states.remove(name),
            state => self.states.insert(name.to_owned(), state),
        };
        Ok(choice)
    }

    fn take(&mut self, choice: &Choice) {
        (self.batch_size, self.rate_factor) = (choice.batch_size, choice.learning_rate_factor);
    }
}

/// The image sizes of the epoch before, and of this one.
fn image_sizes(recipe: &Recipe, epoch: u32) -> [usize; 2] {
    [(epoch - 1).max(1), epoch].map(|epoch| recipe.data.image_size(epoch))
}

/// Why a run whose policy is not there cannot go on.
pub(crate) fn no_policy() -> Error {
    Error::Refused(
        "batch.policy is custom: batch sizes are chosen by a policy of the program that started this run, and only that \
         program can train it, if it sets the policy before it does"
            .into(),
    )
}

/// The choice of a policy that is not built in, lowered to the data, if it can be used.
fn checked(
    mut choice: Choice,
    recipe: &Recipe,
    epoch: u32,
    images: usize,
) -> Result<Choice, Error> {
    let refuse = |problem: String| {
        Err(Error::Refused(format!(
            "the policy's choice for epoch {epoch} cannot be used: {problem}"
        )))
    };
    let Choice { batch_size: size, learning_rate_factor: factor, .. } = choice;
    if size == 0 {
        return refuse("a batch has at least 1 image, but it is 0".into());
    }
    if !(factor.is_finite() && factor > 0.0) {
        return refuse(format!(
            "the factor of the learning rate must be above 0, but it is {factor}"
        ));
    }
    let most = training_plan::largest_batch(recipe, images);
    if size > most {
        choice.batch_size = most;
        let why = format!("{size} lowered to {most}, for {images} training images");
        choice.reason = match &*choice.reason {
            "" => why,
            reason => format!("{reason}; {why}"),
        };
    }
    let (size, ghost) = (choice.batch_size, recipe.network.norm.ghost);
    if ghost > 0 && size % ghost != 0 {
        return refuse(format!(
            "network.norm.ghost = {ghost} does not divide the batch size {size}"
        ));
    }
    Ok(choice)
}
