//! `crescendo plan`.

use crescendo::data::{IMAGE_BYTES, shapes};
use crescendo::network::Plan as NetworkPlan;
use crescendo::training::policy::{self, Phase};
use crescendo::training::recipe::DataSource;
use crescendo::training::{Error, Recipe, memory, plan};
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
    let schedule = policy::schedule(&recipe, images.saturating_sub(recipe.data.validation));
    let schedule: Vec<(Phase, u64)> =
        schedule.into_iter().map(|phase| (phase, bytes(&recipe, &plan, &phase, images))).collect();
    if args.json { print_json(&recipe, &plan, &schedule) } else { print(&plan, &schedule) }
}

/// Bytes that training takes with a phase's batches, the images included.
fn bytes(recipe: &Recipe, plan: &NetworkPlan, phase: &Phase, images: usize) -> u64 {
    memory(plan, phase.batch_size, recipe.threads()) + (images * IMAGE_BYTES) as u64
}

fn print(plan: &NetworkPlan, schedule: &[(Phase, u64)]) -> Result<(), Error> {
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
        let parameters: usize = step
            .parameters
            .into_iter()
            .flatten()
            .map(|index| plan.parameters[index].range.len())
            .sum();
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
    for (phase, bytes) in schedule {
        say!(
            "{:>10} {:>8} {:>10} {:>10.2} {:>8.2} GiB",
            phase.batch_size,
            phase.epochs,
            phase.updates,
            phase.images as f64 * plan.training_flops() as f64 / 1e15,
            *bytes as f64 / f64::from(1 << 30)
        )?;
    }
    let sum = |part: fn(&Phase) -> u64| schedule.iter().map(|(phase, _)| part(phase)).sum::<u64>();
    say!(
        "{:>10} {:>8} {:>10} {:>10.2}",
        "total",
        sum(|phase| phase.epochs.into()),
        sum(|phase| phase.updates),
        sum(|phase| phase.images) as f64 * plan.training_flops() as f64 / 1e15
    )?;
    Ok(())
}

fn print_json(recipe: &Recipe, plan: &NetworkPlan, schedule: &[(Phase, u64)]) -> Result<(), Error> {
    let layers = plan.steps.iter().map(|step| {
        json!({
            "name": step.node.name,
            "operation": format!("{:?}", step.node.operation),
            "input": step.input.to_string(),
            "output": step.output.to_string(),
            "macs": step.macs,
        })
    });
    let phases = schedule.iter().map(|(phase, bytes)| {
        json!({
            "batch_size": phase.batch_size,
            "epochs": phase.epochs,
            "updates": phase.updates,
            "memory_bytes": bytes,
        })
    });
    let images: u64 = schedule.iter().map(|(phase, _)| phase.images).sum();
    say!(
        "{}",
        json!({
            "parameters": plan.parameter_count(),
            "forward_macs": plan.forward_macs(),
            "training_flops_per_image": plan.training_flops(),
            "training_flops": images.saturating_mul(plan.training_flops()),
            "epochs": recipe.train.epochs,
            "updates": schedule.iter().map(|(phase, _)| phase.updates).sum::<u64>(),
            "schedule": phases.collect::<Vec<_>>(),
            "layers": layers.collect::<Vec<_>>(),
        })
    )
}
