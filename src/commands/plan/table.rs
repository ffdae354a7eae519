//! A plan as text: first what it comes to, then its phases, then its layers.

use std::fmt::Write;

use crescendo::data::ImageShape;
use crescendo::logging::display_seconds;

use super::{Plan, PlannedPhase, layers};

/// The text, with every layer or with the blocks of layers.
pub fn table(plan: &Plan, device: &str, every_layer: bool) -> String {
    let mut text = String::new();
    for (name, value) in summary(plan, device) {
        writeln!(text, "{name:<25} {value}").expect("a string takes all text");
    }
    text + "\n" + &phases(plan) + "\n" + &layers::table(&plan.graph, every_layer)
}

fn summary(plan: &Plan, device: &str) -> Vec<(&'static str, String)> {
    let Plan { recipe, graph, trained, .. } = plan;
    let classes = recipe.network.classes;
    let of = plan.data.map_or(String::new(), |data| format!(" of {}", data.name));
    let most = plan.phases.iter().map(|planned| planned.bytes).max().unwrap_or_default();
    let updates = match plan.length() {
        Some(length) => format!("{} in {} epochs", length.updates, length.epochs),
        None => format!("depend on training, in {} epochs", recipe.train.epochs),
    };
    let mut lines = vec![
        ("parameters", graph.parameter_count().to_string()),
        ("memory", format!("{:.2} GiB", gib(most))),
        ("updates", updates),
        ("training images", format!("{trained}{of}, {classes} classes")),
        ("forward, per image", format!("{:.3} GMAC", graph.forward_macs() as f64 / 1e9)),
        ("training, per image", format!("{:.2} GFLOP", graph.training_flops() as f64 / 1e9)),
        ("device", device.to_owned()),
    ];
    if let Some(speed) = &plan.speed {
        let most = if plan.length().is_some() { "about" } else { "at most about" };
        let (seconds, rate) = (display_seconds(speed.seconds(plan)), speed.images_per_second(plan));
        let decimals = if rate < 100.0 { 1 } else { 0 };
        let how = if speed.is_measured { ", measured" } else { "" };
        let time = format!("{most} {seconds} of training at {rate:.decimals$} images/s{how}");
        let of = if speed.is_measured { "time on this machine" } else { "time at this speed" };
        lines.push((of, time));
    }
    lines
}

/// A line for each phase, and the sum.
fn phases(plan: &Plan) -> String {
    let cells = |cells: [&str; 5]| {
        let [batch, epochs, updates, flops, memory] = cells;
        format!("{batch:>10} {epochs:>8} {updates:>10} {flops:>10} {memory:>12}")
    };
    // The largest unit in which the whole is not nothing.
    let (unit, flops_in_unit) = match plan.flops().unwrap_or(u64::MAX) {
        0..100_000_000_000_000 => ("TFLOP", 1e12),
        _ => ("PFLOP", 1e15),
    };
    let mut lines = vec![cells(["batch size", "epochs", "updates", unit, "memory"])];
    let in_unit = |flops: u64| format!("{:.2}", flops as f64 / flops_in_unit);
    for planned in &plan.phases {
        let PlannedPhase { phase, micro_batch, bytes, .. } = planned;
        let [epochs, updates, flops] = match phase.length.zip(planned.total_flops()) {
            Some((length, flops)) => {
                [length.epochs.to_string(), length.updates.to_string(), in_unit(flops)]
            }
            None => ["?"; 3].map(String::from),
        };
        let memory = format!("{:.2} GiB", gib(*bytes));
        let side = match phase.image_size {
            side if side == ImageShape::CIFAR.width => String::new(),
            side => format!("  images of {side}x{side}"),
        };
        let micro_batches = match planned.micro_batches() {
            1 => String::new(),
            count => format!("  in {count} micro-batches of {micro_batch}"),
        };
        let batch = phase.batch_size.to_string();
        lines.push(cells([&batch, &epochs, &updates, &flops, &memory]) + &side + &micro_batches);
    }
    lines.push(match (plan.length(), plan.flops()) {
        (Some(length), Some(flops)) => {
            let [epochs, updates] = [length.epochs.to_string(), length.updates.to_string()];
            cells(["total", &epochs, &updates, &in_unit(flops), ""]).trim_end().to_owned()
        }
        _ => format!(
            "{} epochs; how many of them each batch size lasts depends on measurements during training",
            plan.recipe.train.epochs
        ),
    });
    if plan.phases.iter().any(|planned| planned.micro_batches() > 1) {
        lines.push(
            "BatchNorm computes its statistics over each micro-batch: see batch.memory_limit, norm.ghost"
                .into(),
        );
    }
    lines.join("\n") + "\n"
}

fn gib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 30)
}
