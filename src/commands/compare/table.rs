//! The outcome of a comparison, as a table and as JSON.

use crescendo::training::comparison::{
    BatchNormStatistics, Comparison, Difference, Results, Row, Spread, Verdict,
};
use serde_json::{Value, json};

/// The outcome as a Markdown table whose columns are aligned.
pub fn table(comparison: &Comparison, results: &Results) -> String {
    let base = &comparison.arms[0].name;
    let mut rows = vec![vec![
        "arm".to_owned(),
        "seeds".into(),
        "accuracy, %".into(),
        format!("against {base}"),
        "precise BN, %".into(),
        format!("against {base}"),
        "train loss".into(),
        "updates".into(),
        "minutes".into(),
    ]];
    for arm in &comparison.arms {
        let arm_results = results.of(comparison, arm);
        let mut row = vec![arm.name.clone(), arm_results.len().to_string()];
        for statistics in [BatchNormStatistics::Running, BatchNormStatistics::Precise] {
            let spread = results.spread(comparison, arm, statistics);
            row.push(spread.map_or("-".into(), |spread| accuracy(spread, arm_results.len())));
            let difference = results.difference(comparison, arm, statistics);
            row.push(match difference.filter(|_| arm.name != *base) {
                Some(difference) => against(&difference),
                None => "-".into(),
            });
        }
        let mean = |of: fn(&Row) -> f64, digits: usize| {
            let sum: f64 = arm_results.iter().map(|row| of(row)).sum();
            match arm_results.len() {
                0 => "-".to_owned(),
                rows => format!("{:.digits$}", sum / rows as f64),
            }
        };
        row.push(mean(|row| row.train_loss, 4));
        row.push(mean(|row| row.updates as f64, 0));
        row.push(mean(|row| row.seconds / 60.0, 1));
        rows.push(row);
    }
    let widths: Vec<usize> = (0..rows[0].len())
        .map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0))
        .collect();
    let line = |cells: &[String]| {
        let cells = cells.iter().zip(&widths).map(|(cell, &width)| format!(" {cell:<width$} "));
        format!("|{}|\n", cells.collect::<Vec<_>>().join("|"))
    };
    let rule: Vec<String> = widths.iter().map(|&width| "-".repeat(width)).collect();
    line(&rows[0]) + &line(&rule) + &rows[1..].iter().map(|row| line(row)).collect::<String>()
}

fn accuracy(spread: Spread, seeds: usize) -> String {
    let Spread { mean, deviation, .. } = spread;
    match seeds {
        1 => format!("{:.2}", 100.0 * mean),
        _ => format!("{:.2} ± {:.2}", 100.0 * mean, 100.0 * deviation),
    }
}

fn against(difference: &Difference) -> String {
    let mean = 100.0 * difference.mean;
    let interval = match difference.margin {
        Some(margin) => format!("{mean:+.2} ± {:.2}", 100.0 * margin),
        None => format!("{mean:+.2}"),
    };
    format!("{interval}, {}", verdict(difference))
}

fn verdict(difference: &Difference) -> &'static str {
    match difference.verdict() {
        Verdict::Above => "better",
        Verdict::Below => "worse",
        _ => "undecided",
    }
}

/// The outcome as JSON.
pub fn to_json(comparison: &Comparison, results: &Results) -> Value {
    let arms = comparison.arms.iter().map(|arm| {
        let measured = |statistics: BatchNormStatistics| {
            let spread = results.spread(comparison, arm, statistics);
            let difference = results.difference(comparison, arm, statistics);
            let difference = difference.filter(|_| arm.name != comparison.arms[0].name);
            json!({
                "mean": spread.map(|spread| spread.mean),
                "deviation": spread.map(|spread| spread.deviation),
                "difference": difference.as_ref().map(|difference| difference.mean),
                "margin": difference.as_ref().and_then(|difference| difference.margin),
                "verdict": difference.as_ref().map(verdict),
            })
        };
        let rows = results.of(comparison, arm).into_iter().map(|row| {
            json!({
                "seed": row.seed,
                "test_accuracy": row.running,
                "precise_test_accuracy": row.precise,
                "train_loss": row.train_loss,
                "updates": row.updates,
                "seconds": row.seconds,
                "device": row.device.name(),
                "precision": row.precision.name(),
            })
        });
        json!({
            "arm": arm.name,
            "running": measured(BatchNormStatistics::Running),
            "precise": measured(BatchNormStatistics::Precise),
            "results": rows.collect::<Vec<_>>(),
        })
    });
    json!({
        "comparison": comparison.name,
        "base": comparison.arms[0].name,
        "arms": arms.collect::<Vec<_>>(),
    })
}
