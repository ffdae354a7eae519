//! Which update rule each parameter follows at a moment of a run, by the section `[optimizer]`.

use crescendo_network::{Graph, Muon, Parameter, Role, Rule, Sgd};

use crate::recipe::{
    DecayedParameters, LearningRatePer, OptimizerConfig, OptimizerKind, ParameterGroup,
    WeightAverage,
};

impl ParameterGroup {
    /// Whether it has a setting that means nothing for frozen parameters.
    pub(crate) fn has_training_settings(&self) -> bool {
        let numbers = [self.learning_rate, self.momentum, self.weight_decay];
        numbers.iter().any(Option::is_some) || self.nesterov.is_some() || self.epochs.is_some()
    }
}

/// A moment of a run, for which update rules are asked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RunPosition {
    /// Epochs done, with fractions.
    pub done: f64,
    /// Epochs of the whole run.
    pub epochs: u32,
    /// Images in the batch.
    pub batch_size: usize,
}

/// Newton-Schulz iterations of Muon, as in airbench (arXiv 2404.00498).
const MUON_STEPS: usize = 3;

impl OptimizerConfig {
    /// The update rule of each of the graph's parameters for a batch at this moment of a run. `factor` gives
    /// the learning rate's factor by a schedule of so many epochs.
    pub(crate) fn rules(
        &self,
        graph: &Graph,
        at: RunPosition,
        factor: impl Fn(u32) -> f64,
    ) -> Vec<Rule> {
        let rule = |parameter: &Parameter| {
            if !parameter.requires_grad {
                return Rule::Frozen;
            }
            let group = self.group_of(&parameter.name);
            let epochs = group.and_then(|group| group.epochs).unwrap_or(at.epochs).min(at.epochs);
            if at.done >= f64::from(epochs) {
                return Rule::Frozen;
            }
            let rule = self.settings_of(group);
            let learning_rate = (rule.learning_rate * factor(epochs)) as f32;
            let (momentum, nesterov) = (rule.momentum as f32, rule.nesterov);
            match rule.kind {
                OptimizerKind::Sgd => {
                    let decays = rule.decay == DecayedParameters::All
                        || matches!(parameter.role, Role::Weight { .. })
                        || group.is_some_and(|group| group.weight_decay.is_some());
                    let weight_decay = if decays { rule.weight_decay as f32 } else { 0.0 };
                    let learning_rate = match rule.per {
                        LearningRatePer::Batch => learning_rate,
                        LearningRatePer::Image => learning_rate * at.batch_size as f32,
                    };
                    Rule::Sgd(Sgd { learning_rate, momentum, nesterov, weight_decay })
                }
                OptimizerKind::Muon => {
                    Rule::Muon(Muon { learning_rate, momentum, nesterov, steps: MUON_STEPS })
                }
                OptimizerKind::Fixed => Rule::Frozen,
            }
        };
        graph.parameters.iter().map(rule).collect()
    }

    /// The rules with which a run begins, with learning rates before any schedule.
    pub fn first_rules(&self, graph: &Graph, batch_size: usize) -> Vec<Rule> {
        self.rules(graph, RunPosition { done: 0.0, epochs: u32::MAX, batch_size }, |_| 1.0)
    }

    /// The weight of the model in the step of the weight average after so many updates, when the fraction
    /// `done` of the run is over; `None` if the average has no step then.
    pub(crate) fn average_weight(&self, updates: u64, done: f64) -> Option<f64> {
        let steps = updates.is_multiple_of(self.average_every);
        match self.average {
            WeightAverage::Ema if steps => Some(1.0 - self.average_decay),
            WeightAverage::Lookahead if steps => Some(1.0 - self.average_decay * done.powi(3)),
            _ => None,
        }
    }

    /// The group that a parameter belongs to.
    pub(crate) fn group_of(&self, name: &str) -> Option<&ParameterGroup> {
        self.groups.iter().find(|group| name_matches(&group.parameters, name))
    }

    /// The section's settings, with those of a group in their place.
    pub(crate) fn settings_of(&self, group: Option<&ParameterGroup>) -> OptimizerConfig {
        let mut rule = OptimizerConfig { groups: Vec::new(), ..*self };
        if let Some(group) = group {
            rule.kind = group.kind.unwrap_or(rule.kind);
            rule.learning_rate = group.learning_rate.unwrap_or(rule.learning_rate);
            rule.momentum = group.momentum.unwrap_or(rule.momentum);
            rule.nesterov = group.nesterov.unwrap_or(rule.nesterov);
            rule.weight_decay = group.weight_decay.unwrap_or(rule.weight_decay);
        }
        rule
    }
}

/// Whether a pattern, in which `*` stands for any text, matches a whole name.
pub(crate) fn name_matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((before, after)) => name.strip_prefix(before).is_some_and(|rest| {
            (0..=rest.len())
                .any(|skipped| rest.get(skipped..).is_some_and(|rest| name_matches(after, rest)))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Recipe;

    #[test]
    fn patterns_match_whole_names() {
        for (pattern, name, expected) in [
            ("head.weight", "head.weight", true),
            ("head", "head.weight", false),
            ("*.bias", "layers.1.norm1.bias", true),
            ("*norm*.bias", "layers.1.norm1.bias", true),
            ("layers.*.weight", "layers.1.norm1.bias", false),
            ("*", "anything", true),
            ("a*a", "a", false),
        ] {
            assert_eq!(name_matches(pattern, name), expected, "{pattern} {name}");
        }
    }

    fn rules(changes: &[&str], done: f64) -> Vec<(String, Rule)> {
        let recipe = Recipe::load("quick", changes).unwrap();
        let graph = crate::graph(&recipe).unwrap();
        let factor = |epochs: u32| 1.0 - done / f64::from(epochs);
        let rules =
            recipe.optimizer.rules(&plan, RunPosition { done, epochs: 8, batch_size: 50 }, factor);
        graph.parameters.iter().map(|p| p.name.clone()).zip(rules).collect()
    }

    #[test]
    fn each_parameter_belongs_to_the_first_group_that_matches() {
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
            Rule::Frozen => ("fixed", 0.0),
        };
        let first = rules(&[groups], 2.0);
        assert_eq!(rate(&first, "start_layer.0.bias"), ("sgd", 4.0));
        // The schedule is no longer than the run's eight epochs.
        assert_eq!(rate(&first, "output_layer.fc.bias"), ("sgd", 0.75));
        assert_eq!(rate(&first, "start_layer.1.bias"), ("fixed", 0.0));
        assert_eq!(rate(&first, "stack_layers.0.blocks.0.conv1.weight"), ("muon", 0.375));
        assert_eq!(rate(&first, "start_layer.0.weight"), ("sgd", 0.075));
        let later = rules(&[groups], 4.0);
        assert_eq!(rate(&later, "start_layer.0.bias"), ("fixed", 0.0));
        assert_eq!(rate(&later, "start_layer.0.weight"), ("sgd", 0.05));
    }

    #[test]
    fn decay_of_weights_leaves_out_biases_unless_a_group_says_otherwise() {
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
    fn learning_rates_per_image_are_multiplied_by_the_batch_size_except_muons() {
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
    fn lookahead_keeps_more_and_more_of_the_average() {
        let load = |kind: &str| {
            let changes =
                [format!("optimizer.average={kind}"), "optimizer.average_decay=0.5".into()];
            Recipe::load("quick", &changes).unwrap().optimizer
        };
        assert_eq!(load("none").average_weight(10, 0.5), None);
        assert_eq!(load("ema").average_weight(10, 0.5), Some(0.5));
        assert_eq!(load("ema").average_weight(11, 0.5), None);
        let lookahead = load("lookahead");
        assert_eq!(lookahead.average_weight(5, 0.0), Some(1.0));
        assert_eq!(lookahead.average_weight(10, 0.5), Some(1.0 - 0.5 / 8.0));
        assert_eq!(lookahead.average_weight(20, 1.0), Some(0.5));
    }
}
