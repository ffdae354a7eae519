//! `crescendo plan`.

use crescendo::AllDevices;
use crescendo::data::{ImageShape, shapes};
use crescendo::network::{Device, Graph};
use crescendo::training::policy::{self, PhaseLength, TrainingPhase};
use crescendo::training::recipe::DataSource;
use crescendo::training::validation::unused_keys;
use crescendo::training::{
    Error, Recipe, check_metrics, default_limit, graph, graph_for, micro_batch_size,
    required_memory,
};
use serde_json::json;

use super::operation_text::{operation_kind, operation_text};
use super::unused_keys::warn;
use super::{print as print_text, say};
use crate::cli::PlanArgs;

pub fn run(args: &PlanArgs) -> Result<(), Error> {
    let device = args.device.map(|device| format!("engine.device={}", device.kind.name()));
    let changes: Vec<String> = args.changes.iter().cloned().chain(device).collect();
    let mut recipe = Recipe::load(&args.recipe, &changes)?;
    // Which data it will be is not known: only `data.validation` counts.
    check_metrics(&recipe, recipe.data.validation)?;
    let graph = graph(&recipe)?;
    let devices = AllDevices::new(args.device.and_then(|device| device.card));
    let device = devices.planned(&recipe.engine, args.memory)?;
    recipe.engine = device.config();
    if args.memory.is_some() && recipe.batch.memory_limit == 0.0 {
        recipe.batch.memory_limit = default_limit(args.memory);
    }
    if args.steps {
        return print_text(format_args!("{}", device.describe_steps(&graph)?));
    }
    let images = args.images.unwrap_or(match recipe.data.source {
        DataSource::Cifar10 => 50_000,
        DataSource::Shapes => shapes::DEFAULT_TRAIN,
    });
    let trained = images.saturating_sub(recipe.data.validation);
    let keys = Recipe::set_keys(&args.recipe, &changes)?;
    warn(unused_keys(&recipe, &keys, trained));
    let phases = policy::training_plan(&recipe, trained);
    let phases =
        phases.into_iter().map(|phase| PlannedPhase::new(&recipe, &*device, phase, images));
    let phases = phases.collect::<Result<Vec<PlannedPhase>, Error>>()?;
    if args.json {
        return print_json(&recipe, &graph, &phases);
    }
    print(&recipe, &*device, &graph, &phases)?;
    match policy::fit_batches(&mut recipe.clone(), trained) {
        Some(note) => say!("{note}"),
        None => Ok(()),
    }
}

/// A phase of a run, and what it costs.
struct PlannedPhase {
    phase: TrainingPhase,
    /// Images in a micro-batch.
    micro_batch: usize,
    /// Memory of training in bytes, with the training images.
    bytes: u64,
    /// Floating-point operations of training on one image.
    flops: u64,
}

impl PlannedPhase {
    fn new(
        recipe: &Recipe,
        device: &dyn Device,
        phase: TrainingPhase,
        images: usize,
    ) -> Result<Self, Error> {
        let (graph, batch_size) = (graph_for(recipe, phase.image_size)?, phase.batch_size);
        let Some(micro_batch) = micro_batch_size(recipe, device, &graph, batch_size)? else {
            return Err(Error::Recipe(format!(
                "a batch of {batch_size} does not fit in batch.memory_limit, not even in \
                 micro-batches of one image (or of network.norm.ghost images): raise the limit, or \
                 choose a smaller network"
            )));
        };
        let training = required_memory(recipe, device, &graph, batch_size, micro_batch)?.configured;
        let bytes = training + (images * ImageShape::CIFAR.elements()) as u64;
        Ok(PlannedPhase { phase, micro_batch, bytes, flops: graph.training_flops() })
    }

    /// Floating-point operations of the whole phase, if its length is known.
    fn total_flops(&self) -> Option<u64> {
        Some(self.phase.length?.images.saturating_mul(self.flops))
    }

    fn micro_batches(&self) -> usize {
        self.phase.batch_size.div_ceil(self.micro_batch)
    }
}

fn print(
    recipe: &Recipe,
    device: &dyn Device,
    graph: &Graph,
    phases: &[PlannedPhase],
) -> Result<(), Error> {
    say!(
        "{:<34} {:<12} {:<12} {:>12} {:>14}",
        "layer",
        "operation",
        "output",
        "parameters",
        "MACs"
    )?;
    for node in &graph.nodes {
        let parameters: usize =
            node.parameters().map(|index| graph.parameters[index].range.len()).sum();
        say!(
            "{:<34} {:<12} {:<12} {:>12} {:>14}",
            node.name,
            operation_kind(&node.operation),
            node.output.to_string(),
            parameters,
            node.macs
        )?;
    }
    say!("\nparameters                {}", graph.parameter_count())?;
    say!("forward, per image        {:.3} GMAC", graph.forward_macs() as f64 / 1e9)?;
    say!("training, per image       {:.2} GFLOP", graph.training_flops() as f64 / 1e9)?;
    say!("device                    {}", device.description())?;
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
    for planned in phases {
        let (batch_size, gib) =
            (planned.phase.batch_size, planned.bytes as f64 / f64::from(1 << 30));
        let micro_batches = match planned.micro_batches() {
            1 => String::new(),
            count => format!("  in {count} micro-batches of {}", planned.micro_batch),
        };
        let side = match planned.phase.image_size {
            side if side == ImageShape::CIFAR.width => String::new(),
            side => format!("  images of {side}x{side}"),
        };
        match planned.phase.length.zip(planned.total_flops()) {
            Some((length, flops)) => {
                total_flops = flops.saturating_add(total_flops);
                total.epochs += length.epochs;
                total.updates += length.updates;
                say!(
                    "{batch_size:>10} {:>8} {:>10} {:>10.2} {gib:>8.2} GiB{side}{micro_batches}",
                    length.epochs,
                    length.updates,
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
    if phases.iter().all(|planned| planned.phase.length.is_some()) {
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

fn print_json(recipe: &Recipe, graph: &Graph, phases: &[PlannedPhase]) -> Result<(), Error> {
    let layers = graph.nodes.iter().map(|node| {
        json!({
            "name": node.name,
            "operation": operation_text(&node.operation),
            "input": node.input.to_string(),
            "output": node.output.to_string(),
            "macs": node.macs,
        })
    });
    let schedule = phases.iter().map(|planned| {
        let length = planned.phase.length;
        json!({
            "batch_size": planned.phase.batch_size,
            "side": planned.phase.image_size,
            "training_flops_per_image": planned.flops,
            "epochs": length.map(|length| length.epochs),
            "updates": length.map(|length| length.updates),
            "part_size": planned.micro_batch,
            "memory_bytes": planned.bytes,
        })
    });
    let sum = |of: fn(&PhaseLength) -> u64| -> Option<u64> {
        phases.iter().map(|planned| planned.phase.length.as_ref().map(of)).sum()
    };
    let flops = phases
        .iter()
        .try_fold(0u64, |sum, planned| Some(sum.saturating_add(planned.total_flops()?)));
    say!(
        "{}",
        json!({
            "parameters": graph.parameter_count(),
            "forward_macs": graph.forward_macs(),
            "training_flops_per_image": graph.training_flops(),
            "training_flops": flops,
            "epochs": recipe.train.epochs,
            "updates": sum(|length| length.updates),
            "device": recipe.engine.device.name(),
            "precision": recipe.engine.precision.on(recipe.engine.device).name(),
            "schedule": schedule.collect::<Vec<_>>(),
            "layers": layers.collect::<Vec<_>>(),
        })
    )
}
