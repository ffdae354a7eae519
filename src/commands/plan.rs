//! `crescendo plan`.

use crescendo::network::Plan as NetworkPlan;
use crescendo::training::{Error, Recipe, memory, plan, policy};
use serde_json::json;

use super::say;
use crate::cli::Plan;

/// The most images of a training set.
const MOST_IMAGES: usize = 1_000_000_000;

pub fn run(args: &Plan) -> Result<(), Error> {
    let recipe = Recipe::load(&args.recipe, &args.changes)?;
    let plan = plan(&recipe)?;
    if args.images > MOST_IMAGES {
        return Err(Error::Recipe(format!("--images must be at most {MOST_IMAGES}")));
    }
    let schedule = schedule(&recipe, &plan, args.images);
    if args.json { print_json(&recipe, &plan, &schedule) } else { print(&plan, &schedule) }
}

/// Some epochs with one batch size.
struct Phase {
    batch_size: usize,
    epochs: u32,
    updates: u64,
    images: u64,
    memory: u64,
}

fn schedule(recipe: &Recipe, plan: &NetworkPlan, images: usize) -> Vec<Phase> {
    let images = images.saturating_sub(recipe.data.validation);
    let sampling = recipe.sampling(crescendo::data::Normalization::None);
    let phases = policy::schedule(&recipe.batch, recipe.train.epochs).into_iter();
    let data = (images * crescendo::data::IMAGE_BYTES) as u64;
    phases
        .map(|(batch_size, epochs)| {
            let updates = sampling.batches(images, batch_size) as u64;
            let kept = images.min(updates as usize * batch_size) as u64;
            Phase {
                batch_size,
                epochs,
                updates: updates * u64::from(epochs),
                images: kept * u64::from(epochs),
                memory: memory(plan, batch_size, recipe.threads()) + data,
            }
        })
        .collect()
}

fn print(plan: &NetworkPlan, schedule: &[Phase]) -> Result<(), Error> {
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
    for phase in schedule {
        say!(
            "{:>10} {:>8} {:>10} {:>10.2} {:>8.2} GiB",
            phase.batch_size,
            phase.epochs,
            phase.updates,
            phase.images as f64 * plan.training_flops() as f64 / 1e15,
            phase.memory as f64 / f64::from(1 << 30)
        )?;
    }
    Ok(())
}

fn print_json(recipe: &Recipe, plan: &NetworkPlan, schedule: &[Phase]) -> Result<(), Error> {
    let layers = plan.steps.iter().map(|step| {
        json!({
            "name": step.node.name,
            "operation": format!("{:?}", step.node.operation),
            "input": step.input.to_string(),
            "output": step.output.to_string(),
            "macs": step.macs,
        })
    });
    let phases = schedule.iter().map(|phase| {
        json!({
            "batch_size": phase.batch_size,
            "epochs": phase.epochs,
            "updates": phase.updates,
            "memory_bytes": phase.memory,
        })
    });
    let images: u64 = schedule.iter().map(|phase| phase.images).sum();
    say!(
        "{}",
        json!({
            "parameters": plan.parameter_count(),
            "forward_macs": plan.forward_macs(),
            "training_flops_per_image": plan.training_flops(),
            "training_flops": images.saturating_mul(plan.training_flops()),
            "epochs": recipe.train.epochs,
            "updates": schedule.iter().map(|phase| phase.updates).sum::<u64>(),
            "schedule": phases.collect::<Vec<_>>(),
            "layers": layers.collect::<Vec<_>>(),
        })
    )
}
