//! `crescendo plan`.

use crescendo::data::{ImageShape, shapes};
use crescendo::network::Plan as NetworkPlan;
use crescendo::training::policy::{self, PhaseLength, TrainingPhase};
use crescendo::training::recipe::DataSource;
use crescendo::training::{Error, Recipe, memory, part_size, plan, plan_for};
use serde_json::json;

use super::{print as print_text, say};
use crate::cli::Plan;

/// The most images of a training set.
const MOST_IMAGES: usize = 1_000_000_000;

pub fn run(args: &Plan) -> Result<(), Error> {
    let recipe = Recipe::load(&args.recipe, &args.changes)?;
    let plan = plan(&recipe)?;
    if args.steps {
        return print_text(format_args!("{}", plan.describe()));
    }
    let images = args.images.unwrap_or(match recipe.data.source {
        DataSource::Cifar10 => 50_000,
        DataSource::Shapes => shapes::DEFAULT_TRAIN,
    });
    if images > MOST_IMAGES {
        return Err(Error::Recipe(format!("--images must be at most {MOST_IMAGES}")));
    }
    let phases = policy::training_plan(&recipe, images.saturating_sub(recipe.data.validation));
    let rows = phases.into_iter().map(|phase| Row::new(&recipe, phase, images));
    let rows = rows.collect::<Result<Vec<Row>, Error>>()?;
    if let Some(row) = rows.iter().find(|row| row.part == 0) {
        return Err(Error::Recipe(format!(
            "a batch of {} does not fit in batch.memory_limit, not even one image (or \
             network.norm.ghost of them) at a time: allow more, or choose a smaller network",
            row.phase.batch_size
        )));
    }
    if args.json { print_json(&recipe, &plan, &rows) } else { print(&recipe, &plan, &rows) }
}

/// A phase of the run.
struct Row {
    phase: TrainingPhase,
    /// Images that are computed at a time; 0 if not even these fit into the memory limit.
    part: usize,
    /// Bytes that training takes, the images included.
    bytes: u64,
    /// Arithmetic of training on an image.
    flops: u64,
}

impl Row {
    fn new(recipe: &Recipe, phase: TrainingPhase, images: usize) -> Result<Self, Error> {
        let plan = plan_for(recipe, phase.image_size)?;
        let part = part_size(recipe, &plan, phase.batch_size);
        let bytes = memory(recipe, &plan, phase.batch_size, part, recipe.threads());
        let bytes = bytes + (images * ImageShape::CIFAR.elements()) as u64;
        Ok(Row { phase, part, bytes, flops: plan.training_flops() })
    }

    /// Arithmetic of the phase, where its length is known.
    fn all_flops(&self) -> Option<u64> {
        Some(self.phase.length?.images.saturating_mul(self.flops))
    }

    fn parts(&self) -> usize {
        self.phase.batch_size.div_ceil(self.part)
    }
}

fn print(recipe: &Recipe, plan: &NetworkPlan, rows: &[Row]) -> Result<(), Error> {
    let operation = |step: &crescendo::network::Step| {
        let text = format!("{:?}", step.node.operation);
        text.split([' ', '(']).next().unwrap_or_default().to_owned()
    };
    say!(
        "{:<34} {:<12} {:<12} {:>12} {:>14}",
        "layer",
        "operation",
        "output",
        "parameters",
        "MACs"
    )?;
    for step in &plan.steps {
        let parameters: usize =
            step.parameters().map(|index| plan.parameters[index].range.len()).sum();
        say!(
            "{:<34} {:<12} {:<12} {:>12} {:>14}",
            step.node.name,
            operation(step),
            step.output.to_string(),
            parameters,
            step.macs
        )?;
    }
    say!("\nparameters                {}", plan.parameter_count())?;
    say!("forward, an image         {:.3} GMAC", plan.forward_macs() as f64 / 1e9)?;
    say!("training, an image        {:.2} GFLOP", plan.training_flops() as f64 / 1e9)?;
    say!(
        "\n{:>10} {:>8} {:>10} {:>10} {:>12}",
        "batch size",
        "epochs",
        "updates",
        "PFLOP",
        "memory"
    )?;
    let pflop = |flops: u64| flops as f64 / 1e15;
    let (mut total, mut total_flops) = (PhaseLength::default(), 0);
    for row in rows {
        let (batch_size, gib) = (row.phase.batch_size, row.bytes as f64 / f64::from(1 << 30));
        let parts = match row.parts() {
            1 => String::new(),
            parts => format!("  in {parts} parts of {}", row.part),
        };
        let side = match row.phase.image_size {
            side if side == ImageShape::CIFAR.width => String::new(),
            side => format!("  images of {side}x{side}"),
        };
        match row.phase.length.zip(row.all_flops()) {
            Some((length, flops)) => {
                total_flops = flops.saturating_add(total_flops);
                total.epochs += length.epochs;
                total.updates += length.updates;
                say!(
                    "{batch_size:>10} {:>8} {:>10} {:>10.2} {gib:>8.2} GiB{side}{parts}",
                    length.epochs,
                    length.updates,
                    pflop(flops)
                )?;
            }
            None => {
                say!(
                    "{batch_size:>10} {:>8} {:>10} {:>10} {gib:>8.2} GiB{side}{parts}",
                    "?",
                    "?",
                    "?"
                )?;
            }
        }
    }
    if rows.iter().all(|row| row.phase.length.is_some()) {
        say!(
            "{:>10} {:>8} {:>10} {:>10.2}",
            "total",
            total.epochs,
            total.updates,
            pflop(total_flops)
        )?;
    } else {
        say!(
            "how long each batch size lasts, measurements decide; {} epochs",
            recipe.train.epochs
        )?;
    }
    if rows.iter().any(|row| row.parts() > 1) {
        say!("BatchNorm takes its statistics over each part: see batch.memory_limit, norm.ghost")?;
    }
    Ok(())
}

fn print_json(recipe: &Recipe, plan: &NetworkPlan, rows: &[Row]) -> Result<(), Error> {
    let layers = plan.steps.iter().map(|step| {
        json!({
            "name": step.node.name,
            "operation": format!("{:?}", step.node.operation),
            "input": step.input.to_string(),
            "output": step.output.to_string(),
            "macs": step.macs,
        })
    });
    let phases = rows.iter().map(|row| {
        let length = row.phase.length;
        json!({
            "batch_size": row.phase.batch_size,
            "side": row.phase.image_size,
            "training_flops_per_image": row.flops,
            "epochs": length.map(|length| length.epochs),
            "updates": length.map(|length| length.updates),
            "part_size": row.part,
            "memory_bytes": row.bytes,
        })
    });
    let sum = |of: fn(&PhaseLength) -> u64| -> Option<u64> {
        rows.iter().map(|row| row.phase.length.as_ref().map(of)).sum()
    };
    let flops = rows.iter().try_fold(0u64, |sum, row| Some(sum.saturating_add(row.all_flops()?)));
    say!(
        "{}",
        json!({
            "parameters": plan.parameter_count(),
            "forward_macs": plan.forward_macs(),
            "training_flops_per_image": plan.training_flops(),
            "training_flops": flops,
            "epochs": recipe.train.epochs,
            "updates": sum(|length| length.updates),
            "schedule": phases.collect::<Vec<_>>(),
            "layers": layers.collect::<Vec<_>>(),
        })
    )
}
