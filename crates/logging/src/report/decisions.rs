//! The decisions of a run's policies in words.

use super::html::{escape, table};
use crate::formats::tables::DecisionRow;
use crate::messages::display_value;

/// The section about all decisions; empty if there are none.
pub fn section(decisions: &[DecisionRow]) -> String {
    if decisions.is_empty() {
        return String::new();
    }
    let or_empty = |number: Option<u64>| number.map_or(String::new(), |number| number.to_string());
    let rows = decisions.iter().map(|decision| {
        vec![
            decision.epoch.to_string(),
            or_empty(decision.updates),
            escape(&decision.name()).into_owned(),
            format!("{} → {}", display_value(decision.from), display_value(decision.to)),
            reason(decision),
        ]
    });
    let header = ["from epoch", "after updates", "setting", "change", "reason"];
    format!(
        "<section>\n<h2>Decisions</h2>\n{}</section>\n",
        table("plain decisions", &header, rows)
    )
}

/// A decision's reason and the numbers it is based on.
fn reason(decision: &DecisionRow) -> String {
    let mut numbers = Vec::new();
    if let Some((name, value, best)) = &decision.metric {
        numbers.push(format!("{} {value:.4}, best before {best:.4}", name.replace('_', " ")));
    }
    let is_said = decision.reason.contains("no improvement in");
    if let Some(epochs) = decision.epochs_without_improvement.filter(|_| !is_said) {
        numbers.push(format!("{epochs} epochs without improvement"));
    }
    if let Some(noise) = decision.noise_scale {
        numbers.push(format!("noise scale {noise:.0}"));
    }
    let (words, numbers) = (decision.words(), numbers.join("; "));
    let numbers = match &numbers[..] {
        "" => String::new(),
        numbers => format!("<small>{}</small>", escape(numbers)),
    };
    format!("{}{numbers}", escape(&words))
}

impl DecisionRow {
    /// What was changed, from which value to which.
    pub fn summary(&self) -> String {
        format!("{} {} to {}", self.name(), display_value(self.from), display_value(self.to))
    }

    /// The name of what was changed.
    pub fn name(&self) -> String {
        match &self.what[..] {
            "side" => "image size".to_owned(),
            what => what.replace('_', " "),
        }
    }

    /// Which rule decided, and why: `table: 250 from epoch 61`.
    pub fn words(&self) -> String {
        let Self { reason, epoch, to, .. } = self;
        if let Some((name, ..)) = &self.metric {
            let name = name.replace('_', " ");
            // After the colon: the epochs, and in parentheses the numbers that decided.
            let (epochs, why) = reason
                .split_once(": no improvement in ")
                .map_or(("", ""), |(_, rest)| rest.split_once(" (").unwrap_or((rest, "")));
            return match (epochs, why) {
                ("", _) => format!("plateau of the {name}: {reason}"),
                (epochs, "") => format!("plateau: no better {name} in {epochs}"),
                (epochs, why) => {
                    // What follows, such as that the largest batch is reached, comes after the parenthesis.
                    let (why, more) = why.split_once(')').unwrap_or((why, ""));
                    format!("plateau of the {name}: {why} for {epochs}{more}")
                }
            };
        }
        if let Some(key) = reason.strip_prefix("by ").filter(|key| !key.contains(' ')) {
            return format!("table: {} from epoch {epoch} ({key})", display_value(*to));
        }
        if let Some(scale) = reason.strip_prefix("the gradient noise scale is ") {
            return format!("gradient noise scale: {scale}");
        }
        if reason.starts_with("instead of multiplying the learning rate") {
            return format!("schedule: a larger batch {reason}");
        }
        if reason.is_empty() { "not recorded".to_owned() } else { reason.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(reason: &str, metric: Option<&str>) -> String {
        let decision = DecisionRow {
            epoch: 61,
            updates: None,
            what: "batch_size".into(),
            from: 125.0,
            to: 250.0,
            reason: reason.into(),
            metric: metric.map(|name| (name.to_owned(), 2.64, 2.69)),
            epochs_without_improvement: None,
            noise_scale: None,
        };
        decision.words()
    }

    #[test]
    fn reasons_are_sentences() {
        let metric = Some("train_loss");
        let plateau = "train_loss 2.6400, best 2.6900: no improvement in 3 epochs";
        let why = "14 % better than the best is asked for, 2 % was reached";
        for (reason, metric, expected) in [
            ("by batch.steps".to_owned(), None, "table: 250 from epoch 61 (batch.steps)"),
            (
                format!("{plateau} ({why})"),
                metric,
                "plateau of the train loss: 14 % better than the best is asked for, 2 % was reached for 3 epochs",
            ),
            (
                format!("{plateau} ({why}), and batch.max is reached"),
                metric,
                "plateau of the train loss: 14 % better than the best is asked for, 2 % was reached for 3 epochs, \
                 and batch.max is reached",
            ),
            (plateau.to_owned(), metric, "plateau: no better train loss in 3 epochs"),
            ("flat".to_owned(), metric, "plateau of the train loss: flat"),
            (
                "the gradient noise scale is 812 images".to_owned(),
                None,
                "gradient noise scale: 812 images",
            ),
            (
                "instead of multiplying the learning rate by 0.1000".to_owned(),
                None,
                "schedule: a larger batch instead of multiplying the learning rate by 0.1000",
            ),
            ("by hand and eye".to_owned(), None, "by hand and eye"),
            (String::new(), None, "not recorded"),
        ] {
            assert_eq!(words(&reason, metric), expected);
        }
    }
}
