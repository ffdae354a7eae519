//! The section `[optimizer]`: which rule each parameter follows.

use crescendo_network::{Muon, Parameter, Plan, Role, Rule, Sgd};
use serde::{Deserialize, Serialize};

use crate::Error;

/// The section `[optimizer]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Optimizer {
    /// The method.
    pub kind: OptimizerKind,
    /// The step's length.
    pub learning_rate: f64,
    /// What that is for.
    pub per: Per,
    /// How much of the last velocity stays.
    pub momentum: f64,
    /// Whether the step looks ahead along the velocity.
    pub nesterov: bool,
    /// The pull towards zero, as L2 in the gradient. Muon has none.
    pub weight_decay: f64,
    /// What the pull applies to.
    pub decay: Decay,
    /// Rules of their own for some parameters: each follows the first group that fits it.
    pub groups: Vec<Group>,
    /// The average of models along the way.
    pub average: Average,
    /// Updates between its steps.
    pub average_every: u64,
    /// What stays of it at each step.
    pub average_decay: f64,
}

/// The average of models, which evaluations and checkpoints are of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Average {
    /// There is none.
    None,
    /// It trails the model.
    Ema,
    /// The model is set back to it at each step (arXiv 1907.08610); in airbench's form, in which what
    /// stays of it grows from nothing with the cube of the run.
    Lookahead,
}

/// Optimizers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OptimizerKind {
    /// Stochastic gradient descent with momentum.
    Sgd,
    /// Steps that are orthogonal matrices: see [`Muon`].
    Muon,
    /// None: parameters stay as they are.
    Fixed,
}

/// What a learning rate is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Per {
    /// A batch of any size: the gradient is that of the mean loss.
    Batch,
    /// An image: it is multiplied by the batch size, as if losses were summed. Muon's steps do not
    /// depend on that.
    Image,
}

/// What weight decay applies to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decay {
    /// All parameters.
    All,
    /// Weights of convolutions and linear layers: not biases, not BatchNorm.
    Weights,
}

/// A rule of their own for some parameters; what it does not say, the section says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// Fits a parameter's name; `*` stands for anything.
    pub parameters: String,
    /// The method.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<OptimizerKind>,
    /// The step's length.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub learning_rate: Option<f64>,
    /// How much of the last velocity stays.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub momentum: Option<f64>,
    /// Whether the step looks ahead along the velocity.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nesterov: Option<bool>,
    /// The pull towards zero.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight_decay: Option<f64>,
    /// Epochs in which they are trained: the schedule of their learning rate ends with them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epochs: Option<u32>,
}

impl Group {
    /// Whether it says how its parameters are trained.
    fn says_how(&self) -> bool {
        let numbers = [self.learning_rate, self.momentum, self.weight_decay];
        numbers.iter().any(Option::is_some) || self.nesterov.is_some() || self.epochs.is_some()
    }
}

/// A moment of a run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct At {
    /// Epochs so far, with fractions.
    pub done: f64,
    /// Those of the whole run.
    pub epochs: u32,
    /// Images of the batch.
    pub batch_size: usize,
}

/// Newton-Schulz iterations of Muon.
const MUON_STEPS: usize = 3;

impl Optimizer {
    /// The rule of each of the plan's parameters for a batch at this moment of a run. `factor` is that of
    /// learning rates whose schedule has so many epochs.
    pub(crate) fn rules(&self, plan: &Plan, at: At, factor: impl Fn(u32) -> f64) -> Vec<Rule> {
        let rule = |parameter: &Parameter| {
            if !parameter.trained {
                return Rule::Fixed;
            }
            let group = self.group(&parameter.name);
            let epochs = group.and_then(|group| group.epochs).unwrap_or(at.epochs).min(at.epochs);
            if at.done >= f64::from(epochs) {
                return Rule::Fixed;
            }
            let rule = self.with(group);
            let learning_rate = (rule.learning_rate * factor(epochs)) as f32;
            let (momentum, nesterov) = (rule.momentum as f32, rule.nesterov);
            match rule.kind {
                OptimizerKind::Sgd => {
                    let decays = rule.decay == Decay::All
                        || matches!(parameter.role, Role::Weight { .. })
                        || group.is_some_and(|group| group.weight_decay.is_some());
                    let weight_decay = if decays { rule.weight_decay as f32 } else { 0.0 };
                    let learning_rate = match rule.per {
                        Per::Batch => learning_rate,
                        Per::Image => learning_rate * at.batch_size as f32,
                    };
                    Rule::Sgd(Sgd { learning_rate, momentum, nesterov, weight_decay })
                }
                OptimizerKind::Muon => {
                    Rule::Muon(Muon { learning_rate, momentum, nesterov, steps: MUON_STEPS })
                }
                OptimizerKind::Fixed => Rule::Fixed,
            }
        };
        plan.parameters.iter().map(rule).collect()
    }

    /// The rules with which a run begins, learning rates at their full length.
    pub fn first_rules(&self, plan: &Plan, batch_size: usize) -> Vec<Rule> {
        self.rules(plan, At { done: 0.0, epochs: u32::MAX, batch_size }, |_| 1.0)
    }

    /// What the model weighs in its average after so many updates, `done` of 1 into the run; `None` where
    /// that is no step of the average.
    pub(crate) fn average_share(&self, updates: u64, done: f64) -> Option<f64> {
        let steps = updates.is_multiple_of(self.average_every);
        match self.average {
            Average::Ema if steps => Some(1.0 - self.average_decay),
            Average::Lookahead if steps => Some(1.0 - self.average_decay * done.powi(3)),
            _ => None,
        }
    }

    fn group(&self, name: &str) -> Option<&Group> {
        self.groups.iter().find(|group| fits(&group.parameters, name))
    }

    /// The section with what a group says instead.
    fn with(&self, group: Option<&Group>) -> Optimizer {
        let mut rule = Optimizer { groups: Vec::new(), ..*self };
        if let Some(group) = group {
            rule.kind = group.kind.unwrap_or(rule.kind);
            rule.learning_rate = group.learning_rate.unwrap_or(rule.learning_rate);
            rule.momentum = group.momentum.unwrap_or(rule.momentum);
            rule.nesterov = group.nesterov.unwrap_or(rule.nesterov);
            rule.weight_decay = group.weight_decay.unwrap_or(rule.weight_decay);
        }
        rule
    }

    /// Whether all values make sense, for the network of this plan, which is only asked for where names
    /// of parameters matter.
    pub(super) fn check(&self, plan: impl Fn() -> Result<Plan, Error>) -> Result<(), Error> {
        self.check_values("optimizer.")?;
        if self.groups.is_empty() && self.kind != OptimizerKind::Muon {
            return Ok(());
        }
        let plan = plan()?;
        for group in &self.groups {
            let name = &group.parameters;
            let mut trained = plan.parameters.iter().filter(|parameter| parameter.trained);
            if !trained.clone().any(|parameter| fits(name, &parameter.name)) {
                return Err(Error::Recipe(format!(
                    "optimizer.groups: no trained parameter of this network is called {name}: a \
                     checkpoint lists them (`crescendo train` with train.epochs=0 writes one)"
                )));
            }
            let first = |parameter: &Parameter| self.group(&parameter.name) == Some(group);
            if !trained.any(first) {
                return Err(Error::Recipe(format!(
                    "optimizer.groups: all that {name} fits is in groups before it: put it before them"
                )));
            }
            if group.weight_decay.is_some() && self.with(Some(group)).kind == OptimizerKind::Muon {
                return Err(Error::Recipe(format!(
                    "optimizer.groups: {name} has a weight_decay, but the kind muon knows none: its \
                     weights have a fixed norm"
                )));
            }
            if group.says_how() && self.with(Some(group)).kind == OptimizerKind::Fixed {
                return Err(Error::Recipe(format!(
                    "optimizer.groups: {name} is fixed, so nothing else can be said of it: leave the \
                     other keys out, or give it another kind"
                )));
            }
            self.with(Some(group)).check_values(&format!("optimizer.groups, of {name}: "))?;
        }
        for parameter in plan.parameters.iter().filter(|parameter| parameter.trained) {
            let kind = self.with(self.group(&parameter.name)).kind;
            if kind == OptimizerKind::Muon && !matches!(parameter.role, Role::Weight { .. }) {
                return Err(Error::Recipe(format!(
                    "optimizer.kind is muon for {}, which is no matrix: give it another kind in \
                     optimizer.groups, such as {{ parameters = \"*.bias\", kind = \"sgd\" }}",
                    parameter.name
                )));
            }
        }
        Ok(())
    }

    /// `place` is what goes before a key in a complaint.
    fn check_values(&self, place: &str) -> Result<(), Error> {
        // The engine computes with 32 bits.
        let finite = |value: f64| (value as f32).is_finite() && value >= 0.0;
        let checks = [
            (finite(self.learning_rate), "learning_rate must be a number from 0 to 3e38"),
            ((0.0..1.0).contains(&self.momentum), "momentum must be from 0 to below 1"),
            (finite(self.weight_decay), "weight_decay must be a number from 0 to 3e38"),
            (!self.nesterov || self.momentum > 0.0, "nesterov needs a momentum above 0"),
            (self.average_every > 0, "average_every must be at least 1"),
            ((0.0..1.0).contains(&self.average_decay), "average_decay must be from 0 to below 1"),
        ];
        match checks.into_iter().find(|(fine, _)| !fine) {
            Some((_, problem)) => Err(Error::Recipe(format!("{place}{problem}"))),
            None => Ok(()),
        }
    }
}

/// Whether a pattern, in which `*` stands for anything, fits all of a name.
fn fits(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((before, after)) => name.strip_prefix(before).is_some_and(|rest| {
            (0..=rest.len())
                .any(|skipped| rest.get(skipped..).is_some_and(|rest| fits(after, rest)))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Recipe;

    #[test]
    fn patterns() {
        for (pattern, name, expected) in [
            ("head.weight", "head.weight", true),
            ("head", "head.weight", false),
            ("*.bias", "layers.1.norm1.bias", true),
            ("*norm*.bias", "layers.1.norm1.bias", true),
            ("layers.*.weight", "layers.1.norm1.bias", false),
            ("*", "anything", true),
            ("a*a", "a", false),
        ] {
            assert_eq!(fits(pattern, name), expected, "{pattern} {name}");
        }
    }

    fn rules(changes: &[&str], done: f64) -> Vec<(String, Rule)> {
        let recipe = Recipe::load("quick", changes).unwrap();
        let plan = crate::run::plan(&recipe).unwrap();
        let factor = |epochs: u32| 1.0 - done / f64::from(epochs);
        let rules = recipe.optimizer.rules(&plan, At { done, epochs: 8, batch_size: 50 }, factor);
        plan.parameters.iter().map(|p| p.name.clone()).zip(rules).collect()
    }

    #[test]
    fn each_parameter_follows_the_first_group_that_fits() {
        let groups = r#"optimizer.groups=[
            { parameters = "start_layer.0.bias", epochs = 4, learning_rate = 8.0 },
            { parameters = "output_layer.fc.bias", epochs = 16, learning_rate = 1.0 },
            { parameters = "*.bias", kind = "fixed" },
            { parameters = "*conv*", kind = "muon", learning_rate = 0.5 },
        ]"#;
        let rate = |rules: &[(String, Rule)], name: &str| match rules
            .iter()
            .find(|rule| rule.0 == name)
            .unwrap()
            .1
        {
            Rule::Sgd(Sgd { learning_rate, .. }) => ("sgd", learning_rate),
            Rule::Muon(Muon { learning_rate, .. }) => ("muon", learning_rate),
            Rule::Fixed => ("fixed", 0.0),
        };
        let first = rules(&[groups], 2.0);
        assert_eq!(rate(&first, "start_layer.0.bias"), ("sgd", 4.0));
        // No longer than the run's eight epochs.
        assert_eq!(rate(&first, "output_layer.fc.bias"), ("sgd", 0.75));
        assert_eq!(rate(&first, "start_layer.1.bias"), ("fixed", 0.0));
        assert_eq!(rate(&first, "stack_layers.0.blocks.0.conv1.weight"), ("muon", 0.375));
        assert_eq!(rate(&first, "start_layer.0.weight"), ("sgd", 0.075));
        let later = rules(&[groups], 4.0);
        assert_eq!(rate(&later, "start_layer.0.bias"), ("fixed", 0.0));
        assert_eq!(rate(&later, "start_layer.0.weight"), ("sgd", 0.05));
    }

    #[test]
    fn decay_of_weights_alone_spares_biases_unless_a_group_says_otherwise() {
        let groups = r#"optimizer.groups=[{ parameters = "start_layer.0.*", weight_decay = 0.5 }]"#;
        let rules = rules(&["optimizer.decay=weights", groups], 0.0);
        let decay = |name: &str| match rules.iter().find(|rule| rule.0 == name).unwrap().1 {
            Rule::Sgd(sgd) => sgd.weight_decay,
            _ => panic!("not SGD"),
        };
        assert_eq!(decay("start_layer.0.bias"), 0.5);
        assert_eq!(decay("start_layer.1.bias"), 0.0);
        assert_eq!(decay("output_layer.fc.weight"), 2e-4);
    }

    #[test]
    fn rates_for_an_image_are_times_the_batch_but_not_muons() {
        let groups = r#"optimizer.groups=[{ parameters = "*conv*.weight", kind = "muon" }]"#;
        let per_image = rules(&["optimizer.per=image", groups], 0.0);
        let per_batch = rules(&["optimizer.learning_rate=5", groups], 0.0);
        for (one, other) in per_image.iter().zip(&per_batch) {
            match (one.1, other.1) {
                (Rule::Muon(one), Rule::Muon(other)) => {
                    assert_eq!((one.learning_rate, other.learning_rate), (0.1, 5.0));
                }
                (one, other) => assert_eq!(one, other),
            }
        }
    }

    #[test]
    fn groups_that_make_no_sense_are_refused_by_name() {
        for (groups, complaint) in [
            (
                r#"[{ parameters = "nobody" }]"#,
                "no trained parameter of this network is called nobody",
            ),
            (r#"[{ parameters = "*" }, { parameters = "*.bias" }]"#, "all that *.bias fits"),
            (
                r#"[{ parameters = "*conv*", kind = "muon", weight_decay = 0.1 }]"#,
                "*conv* has a weight_decay",
            ),
            (
                r#"[{ parameters = "*", kind = "fixed", epochs = 2 }]"#,
                "* is fixed, so nothing else",
            ),
            (r#"[{ parameters = "*", kind = "muon" }]"#, "is muon for start_layer.0.bias"),
            (r#"[{ parameters = "*", momentum = 1.0 }]"#, "of *: momentum must be"),
            (r#"[{ parameters = "*", rate = 1.0 }]"#, "unknown field"),
        ] {
            let change = format!("optimizer.groups={groups}");
            let error = Recipe::load("quick", &[change]).unwrap_err().to_string();
            assert!(error.contains(complaint), "{error}");
        }
    }

    #[test]
    fn lookahead_leaves_more_and_more_of_the_average() {
        let load = |kind: &str| {
            let changes =
                [format!("optimizer.average={kind}"), "optimizer.average_decay=0.5".into()];
            Recipe::load("quick", &changes).unwrap().optimizer
        };
        assert_eq!(load("none").average_share(10, 0.5), None);
        assert_eq!(load("ema").average_share(10, 0.5), Some(0.5));
        assert_eq!(load("ema").average_share(11, 0.5), None);
        let lookahead = load("lookahead");
        assert_eq!(lookahead.average_share(5, 0.0), Some(1.0));
        assert_eq!(lookahead.average_share(10, 0.5), Some(1.0 - 0.5 / 8.0));
        assert_eq!(lookahead.average_share(20, 1.0), Some(0.5));
    }
}
