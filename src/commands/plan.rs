//! `crescendo plan`.

use crescendo::data::{IMAGE_BYTES, SIDE, shapes};
use crescendo::network::Plan;
use crescendo::training::policy::{self, Phase, Share};
use crescendo::training::recipe::DataSource;
use crescendo::training::{Error, Recipe, memory, part_size, plan, plan_for};
use serde_json::json;

use super::operation_text::{operation_kind, operation_text};
use super::{print as print_text, say};
use crate::cli::PlanArgs;

pub fn run(args: &PlanArgs) -> Result<(), Error> {
    let recipe = Recipe::load(&args.recipe, &args.changes)?;
    let plan = plan(&recipe)?;
    if args.steps {
        return print_text(format_args!("{}", plan.describe()));
    }
    let images = args.images.unwrap_or(match recipe.data.source {
        DataSource::Cifar10 => 50_000,
        DataSource::Shapes => shapes::DEFAULT_TRAIN,
    });
    let phases = policy::outlook(&recipe, images.saturating_sub(recipe.data.validation));
    let phases = phases.into_iter().map(|phase| PlannedPhase::new(&recipe, phase, images));
    let phases = phases.collect::<Result<Vec<PlannedPhase>, Error>>()?;
    if let Some(planned) = phases.iter().find(|planned| planned.micro_batch == 0) {
        return Err(Error::Recipe(format!(
            "a batch of {} does not fit in batch.memory_limit, not even in micro-batches of one \
             image (or of network.norm.ghost images): raise the limit, or choose a smaller network",
            planned.phase.batch_size
        )));
    }
    if args.json { print_json(&recipe, &plan, &phases) } else { print(&recipe, &plan, &phases) }
}

/// A phase of a run, and what it costs.
struct PlannedPhase {
    phase: Phase,
    /// Images in a micro-batch; 0 if even the smallest does not fit in the memory limit.
    micro_batch: usize,
    /// Memory of training in bytes, with the training images.
    bytes: u64,
    /// Floating-point operations of training on one image.
    flops: u64,
}

impl PlannedPhase {
    fn new(recipe: &Recipe, phase: Phase, images: usize) -> Result<Self, Error> {
        let plan = plan_for(recipe, phase.side)?;
        let micro_batch = part_size(recipe, &plan, phase.batch_size);
        let bytes = memory(recipe, &plan, phase.batch_size, micro_batch, recipe.threads());
        let bytes = bytes + (images * IMAGE_BYTES) as u64;
        Ok(PlannedPhase { phase, micro_batch, bytes, flops: plan.training_flops() })
    }

    /// Floating-point operations of the whole phase, if its length is known.
    fn total_flops(&self) -> Option<u64> {
        Some(self.phase.share?.images.saturating_mul(self.flops))
    }

    fn micro_batches(&self) -> usize {
        self.phase.batch_size.div_ceil(self.micro_batch)
    }
}

fn print(recipe: &Recipe, plan: &Plan, phases: &[PlannedPhase]) -> Result<(), Error> {
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
            operation_kind(&step.node.operation),
            step.output.to_string(),
            parameters,
            step.macs
        )?;
    }
    say!("\nparameters                {}", plan.parameter_count())?;
    say!("forward, per image        {:.3} GMAC", plan.forward_macs() as f64 / 1e9)?;
    say!("training, per image       {:.2} GFLOP", plan.training_flops() as f64 / 1e9)?;
    say!(
        "\n{:>10} {:>8} {:>10} {:>10} {:>12}",
        "batch size",
        "epochs",
        "updates",
        "PFLOP",
        "memory"
    )?;
    let pflop = |flops: u64| flops as f64 / 1e15;
    let (mut total, mut total_flops) = (Share::default(), 0);
    for planned in phases {
        let (batch_size, gib) =
            (planned.phase.batch_size, planned.bytes as f64 / f64::from(1 << 30));
        let micro_batches = match planned.micro_batches() {
            1 => String::new(),
            count => format!("  in {count} micro-batches of {}", planned.micro_batch),
        };
        let side = match planned.phase.side {
            SIDE => String::new(),
            side => format!("  images of {side}x{side}"),
        };
        match planned.phase.share.zip(planned.total_flops()) {
            Some((share, flops)) => {
                total_flops = flops.saturating_add(total_flops);
                total.epochs += length.epochs;
                total.updates += length.updates;
                say!(
                    "{batch_size:>10} {:>8} {:>10} {:>10.2} {gib:>8.2} GiB{side}{micro_batches}",
                    share.epochs,
                    share.updates,
                    pflop(flops)
                )?;
            }
            None => {
                say!(
                    "{batch_size:>10} {:>8} {:>10} {:>10} {gib:>8.2} GiB{side}{micro_batches}",
                    "?",
                    "?",
                    "?"
                )?;
            }
        }
    }
    if phases.iter().all(|planned| planned.phase.share.is_some()) {
        say!(
            "{:>10} {:>8} {:>10} {:>10.2}",
            "total",
            total.epochs,
            total.updates,
            pflop(total_flops)
        )?;
    } else {
        say!(
            "{} epochs; how many of them each batch size lasts depends on measurements during training",
            recipe.train.epochs
        )?;
    }
    if phases.iter().any(|planned| planned.micro_batches() > 1) {
        say!(
            "BatchNorm computes its statistics over each micro-batch: see batch.memory_limit, norm.ghost"
        )?;
    }
    Ok(())
}

fn print_json(recipe: &Recipe, plan: &Plan, phases: &[PlannedPhase]) -> Result<(), Error> {
    let layers = plan.steps.iter().map(|step| {
        json!({
            "name": step.node.name,
            "operation": operation_text(&step.node.operation),
            "input": step.input.to_string(),
            "output": step.output.to_string(),
            "macs": step.macs,
        })
    });
    let schedule = phases.iter().map(|planned| {
        let share = planned.phase.share;
        json!({
            "batch_size": planned.phase.batch_size,
            "side": planned.phase.side,
            "training_flops_per_image": planned.flops,
            "epochs": share.map(|share| share.epochs),
            "updates": share.map(|share| share.updates),
            "part_size": planned.micro_batch,
            "memory_bytes": planned.bytes,
        })
    });
    let sum = |of: fn(&Share) -> u64| -> Option<u64> {
        phases.iter().map(|planned| planned.phase.share.as_ref().map(of)).sum()
    };
    let flops = phases
        .iter()
        .try_fold(0u64, |sum, planned| Some(sum.saturating_add(planned.total_flops()?)));
    say!(
        "{}",
        json!({
            "parameters": plan.parameter_count(),
            "forward_macs": plan.forward_macs(),
            "training_flops_per_image": plan.training_flops(),
            "training_flops": flops,
            "epochs": recipe.train.epochs,
            "updates": sum(|share| share.updates),
            "schedule": schedule.collect::<Vec<_>>(),
            "layers": layers.collect::<Vec<_>>(),
        })
    )
}
