//! What a run over several ranks would take.

use std::fmt::Write;

use crescendo::distributed::Interconnect;
use crescendo::network::BatchTree;
use serde_json::{Value, json};

use super::Plan;

/// A batch size on several ranks.
struct Row {
    batch_size: usize,
    /// The most images of a batch that a rank has.
    share: usize,
    /// How many ranks have any.
    busy: usize,
    /// Bytes that each rank sends in an update.
    bytes: f64,
    /// Seconds of an update's sums, if nothing of them were hidden.
    sums: f64,
    /// Seconds of an update, and of what a rank computes of it, if the speed of a rank is known.
    update: Option<[f64; 2]>,
}

impl Row {
    /// How fast the ranks are together, of what they would be if each had its part of the images and none waited.
    fn efficiency(&self, ranks: usize) -> Option<f64> {
        let even = self.batch_size as f64 / (ranks * self.share) as f64;
        self.update.map(|[update, compute]| even * compute / update)
    }

    fn images_per_second(&self) -> Option<f64> {
        self.update.map(|[update, _]| self.batch_size as f64 / update)
    }
}

fn rows(plan: &Plan, interconnect: &Interconnect) -> Vec<Row> {
    let graph = &plan.graph;
    let mut sizes: Vec<[usize; 2]> =
        plan.phases.iter().map(|planned| [planned.phase.batch_size, planned.micro_batch]).collect();
    sizes.sort_unstable();
    sizes.dedup();
    let row = |[batch_size, micro_batch]: [usize; 2]| {
        let tree = match plan.recipe.network.norm.ghost {
            0 => BatchTree::new(batch_size, micro_batch),
            _ => BatchTree::ghost(batch_size, micro_batch),
        };
        let parts = |rank| tree.parts(rank, interconnect.ranks).map(|part| part.images().len());
        let shares: Vec<usize> = (0..interconnect.ranks).map(|rank| parts(rank).sum()).collect();
        let share = shares.iter().copied().max().unwrap_or(0);
        let compute = plan.speed.as_ref().map(|speed| speed.of_update(share));
        Row {
            batch_size,
            share,
            busy: shares.iter().filter(|&&images| images > 0).count(),
            bytes: interconnect.gradient_bytes(graph),
            sums: interconnect.gradients(graph) + interconnect.norms(graph),
            update: compute.map(|compute| [interconnect.update(graph, compute), compute]),
        }
    };
    sizes.into_iter().map(row).collect()
}

/// A line for each batch size.
pub fn table(plan: &Plan, interconnect: &Interconnect) -> String {
    let cells = |cells: [&str; 6]| {
        let [batch, share, bytes, sums, update, efficiency] = cells;
        format!("{batch:>10} {share:>12} {bytes:>12} {sums:>10} {update:>12} {efficiency:>11}\n")
    };
    let ranks = match interconnect.ranks {
        1 => "1 rank".to_owned(),
        ranks => format!("{ranks} ranks"),
    };
    let mut text = format!(
        "{ranks}, {} Gbit/s, {} us:\n",
        short(8e-9 * interconnect.bytes_per_second),
        short(1e6 * interconnect.latency)
    );
    text += &cells(["batch size", "of each rank", "sent", "sums", "images/s", "efficiency"]);
    let rows = rows(plan, interconnect);
    for row in &rows {
        let rate = row.images_per_second().map_or("?".into(), |rate| format!("{rate:.0}"));
        let efficiency = row
            .efficiency(interconnect.ranks)
            .map_or("?".into(), |efficiency| format!("{:.1} %", 100.0 * efficiency));
        text += &cells([
            &row.batch_size.to_string(),
            &row.share.to_string(),
            &format!("{:.1} MB", 1e-6 * row.bytes),
            &format!("{:.1} ms", 1e3 * row.sums),
            &rate,
            &efficiency,
        ]);
    }
    for Row { batch_size, busy, .. } in rows.iter().filter(|row| row.busy < interconnect.ranks) {
        writeln!(text, "Of a batch of {batch_size}, only {busy} ranks have images.")
            .expect("a string takes all text");
    }
    if plan.speed.is_none() {
        writeln!(text, "How fast a rank is: --images-per-second, or --measure, on this machine.")
            .expect("a string takes all text");
    }
    text
}

/// A number with as many digits as it needs, to three behind the point.
fn short(number: f64) -> String {
    let text = format!("{number:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// The same as JSON.
pub fn to_json(plan: &Plan, interconnect: &Interconnect) -> Value {
    let row = |row: &Row| {
        json!({
            "batch_size": row.batch_size,
            "images_of_a_rank": row.share,
            "ranks_with_images": row.busy,
            "sent_bytes": row.bytes,
            "sums_seconds": row.sums,
            "images_per_second": row.images_per_second(),
            "efficiency": row.efficiency(interconnect.ranks),
        })
    };
    json!(rows(plan, interconnect).iter().map(row).collect::<Vec<_>>())
}
