//! The outcome of a comparison as JSON.

use crescendo::training::comparison::{ArmResults, BatchNormStatistics, ComparisonRecord, Results};
use serde_json::{Value, json};

pub fn to_json(record: &ComparisonRecord, results: &Results) -> Value {
    let apart = results.apart(record).into_iter().map(|apart| {
        let kind = apart.kind;
        json!({
            "version": kind.version,
            "device": kind.device.name(),
            "precision": kind.precision.name(),
            "validation": kind.validation.name(),
            "arms": arms(apart.arms),
        })
    });
    json!({
        "comparison": record.name,
        "question": record.question,
        "source": record.source,
        "base": record.arms[0].name,
        "arms": arms(results.arms(record)),
        "apart": apart.collect::<Vec<_>>(),
    })
}

fn arms(arms: Vec<ArmResults>) -> Value {
    let arms = arms.into_iter().map(|arm| {
        let measured = |statistics: BatchNormStatistics| {
            let (spread, difference) = (arm.spread(statistics), arm.difference(statistics));
            json!({
                "mean": spread.map(|spread| spread.mean),
                "deviation": spread.map(|spread| spread.deviation),
                "difference": difference.map(|difference| difference.mean),
                "margin": difference.and_then(|difference| difference.margin),
                "verdict": difference.map(|difference| difference.verdict().name()),
            })
        };
        let rows = arm.rows.iter().map(|row| {
            json!({
                "seed": row.seed,
                "test_accuracy": row.running,
                "precise_test_accuracy": row.precise,
                "train_loss": row.train_loss,
                "updates": row.updates,
                "seconds": row.seconds,
                "device": row.device.name(),
                "precision": row.precision.name(),
                "version": row.version,
                "validation": row.validation.name(),
            })
        });
        json!({
            "arm": arm.name,
            "running": measured(BatchNormStatistics::Running),
            "precise": measured(BatchNormStatistics::Precise),
            "results": rows.collect::<Vec<_>>(),
        })
    });
    arms.collect()
}
