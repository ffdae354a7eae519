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
    if let Some(epochs) = decision.epochs_without_improvement {
        let word = if epochs == 1 { "epoch" } else { "epochs" };
        numbers.push(format!("{epochs} {word} without improvement"));
    }
    if let Some(noise) = decision.noise_scale {
        numbers.push(format!("noise scale {noise:.0} images"));
    }
    let numbers = match &numbers.join("; ")[..] {
        "" => String::new(),
        numbers => format!("<small>{}</small>", escape(numbers)),
    };
    // The batch sizes in `epochs.csv` alone do not say it.
    let reason = if decision.reason.is_empty() { "not recorded" } else { &decision.reason };
    format!("{}{numbers}", escape(reason))
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_come_with_the_numbers_that_they_are_based_on() {
        let mut decision = DecisionRow {
            epoch: 61,
            updates: Some(24_000),
            what: "side".into(),
            from: 16.0,
            to: 32.0,
            reason: "table data.sides: 32 from <61>".into(),
            metric: None,
            epochs_without_improvement: None,
            noise_scale: None,
        };
        assert_eq!(reason(&decision), "table data.sides: 32 from &lt;61&gt;");
        assert_eq!(decision.summary(), "image size 16 to 32");
        decision.metric = Some(("train_loss".into(), 2.64, 2.69));
        (decision.epochs_without_improvement, decision.noise_scale) = (Some(1), Some(812.4));
        let small = "train loss 2.6400, best before 2.6900; 1 epoch without improvement; noise scale 812 images";
        decision.reason = String::new();
        assert_eq!(reason(&decision), format!("not recorded<small>{small}</small>"));
    }
}
