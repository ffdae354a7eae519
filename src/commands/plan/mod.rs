//! `crescendo plan`.

mod layers;
mod measure;
mod ranks;
mod table;

use crescendo::AllDevices;
use crescendo::data::{DataSet, ImageShape, shapes};
use crescendo::distributed::Interconnect;
use crescendo::network::{Device, Devices, Graph};
use crescendo::training::policy::{self, PhaseLength, TrainingPhase};
use crescendo::training::recipe::DataSource;
use crescendo::training::validation::unused_keys;
use crescendo::training::{
    Error, Recipe, check, check_metrics, default_limit, graph, graph_for, micro_batch_size,
    required_memory,
};
use serde_json::json;

use self::measure::Speed;
use super::operation_text::operation_text;
use super::unused_keys::warn;
use super::{DataLocation, hint, print as print_text, say};
use crate::cli::PlanArgs;

pub fn run(args: &PlanArgs) -> Result<(), Error> {
    let device = args.device.map(|device| format!("engine.device={}", device.kind.name()));
    let changes: Vec<String> = args.changes.iter().cloned().chain(device).collect();
    let mut recipe = Recipe::load(&args.recipe, &changes)?;
    let data = match args.data.name()? {
        Some(name) => Some(DataLocation::Named(name).load_with(recipe.data.read_options())?),
        None => None,
    };
    if let Some(data) = &data {
        data.print_warnings();
        data.set_classes(&mut recipe, &args.recipe, &changes)?;
    } else {
        // Which data it will be is not known: only `data.validation` counts.
        check_metrics(&recipe, recipe.data.validation)?;
    }
    let graph = graph(&recipe)?;
    let devices = AllDevices::new(args.device.and_then(|device| device.card));
    let device = devices.planned(&recipe.engine, args.memory)?;
    recipe.engine = device.config();
    // Ranks share every batch, so a run has the memory of all of them.
    let memory = match args.ranks {
        Some(ranks) => {
            args.memory.or(device.memory().total).map(|bytes| bytes.saturating_mul(ranks as u64))
        }
        None => args.memory,
    };
    if memory.is_some() && recipe.batch.memory_limit == 0.0 {
        recipe.batch.memory_limit = default_limit(memory);
    }
    let data = data.as_ref().map(|data| &data.set);
    if let Some(data) = data {
        check(&recipe, &*device, data)?;
    }
    if args.steps {
        return print_text(format_args!("{}", device.describe_steps(&graph)?));
    }
    let images = match (data, args.images, recipe.data.source) {
        (Some(data), ..) => data.train.len(),
        (None, Some(images), _) => images,
        (.., DataSource::Cifar10) => 50_000,
        (.., DataSource::Shapes) => shapes::DEFAULT_TRAIN,
    };
    let trained = images.saturating_sub(recipe.data.validation);
    let keys = Recipe::set_keys(&args.recipe, &changes)?;
    warn(unused_keys(&recipe, &keys, trained));
    let phases = policy::training_plan(&recipe, trained);
    let phases =
        phases.into_iter().map(|phase| PlannedPhase::new(&recipe, &*device, phase, images));
    let phases = phases.collect::<Result<Vec<PlannedPhase>, Error>>()?;
    let mut plan = Plan { recipe, data, trained, graph, phases, speed: None };
    if args.measure {
        let device = devices.open(&plan.recipe.engine)?;
        plan.speed = Some(Speed::measure(&plan, &*device, args.ranks.unwrap_or(1))?);
    }
    if let Some(rate) = args.images_per_second {
        plan.speed = Some(Speed::constant(rate));
    }
    let interconnect = args.ranks.map(|ranks| Interconnect {
        ranks,
        bytes_per_second: args.network / 8.0,
        latency: args.latency,
        threads: crescendo::cpu::host::threads(plan.recipe.engine.threads),
    });
    if args.json {
        return print_json(&plan, interconnect);
    }
    let description = device.description();
    print_text(format_args!("{}", table::table(&plan, &description, args.layers)))?;
    if let Some(note) = policy::fit_batches(&mut plan.recipe.clone(), trained) {
        say!("{note}")?;
    }
    if let Some(interconnect) = &interconnect {
        print_text(format_args!("\n{}", ranks::table(&plan, interconnect)))?;
    }
    if args.layers { Ok(()) } else { hint("--layers shows every layer.") }
}

/// What a run would be.
struct Plan<'a> {
    recipe: Recipe,
    /// The data set, if one was named.
    data: Option<&'a DataSet>,
    /// Images that are trained on.
    trained: usize,
    graph: Graph,
    phases: Vec<PlannedPhase>,
    /// How fast this machine trains, if it was measured or given.
    speed: Option<Speed>,
}

impl Plan<'_> {
    /// Epochs and updates of the whole run, if the length of every phase is known.
    fn length(&self) -> Option<PhaseLength> {
        let mut total = PhaseLength::default();
        for planned in &self.phases {
            let length = planned.phase.length.as_ref()?;
            total.epochs += length.epochs;
            total.updates += length.updates;
            total.images = total.images.saturating_add(length.images);
        }
        Some(total)
    }

    /// Floating-point operations of the whole run, likewise.
    fn flops(&self) -> Option<u64> {
        let mut phases = self.phases.iter();
        phases.try_fold(0u64, |sum, planned| Some(sum.saturating_add(planned.total_flops()?)))
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

fn print_json(plan: &Plan, interconnect: Option<Interconnect>) -> Result<(), Error> {
    let Plan { recipe, graph, phases, .. } = plan;
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
    let mut object = json!({
        "parameters": graph.parameter_count(),
        "forward_macs": graph.forward_macs(),
        "training_flops_per_image": graph.training_flops(),
        "training_flops": plan.flops(),
        "epochs": recipe.train.epochs,
        "updates": plan.length().map(|length| length.updates),
        "device": recipe.engine.device.name(),
        "precision": recipe.engine.precision.on(recipe.engine.device).name(),
        "schedule": schedule.collect::<Vec<_>>(),
        "layers": layers.collect::<Vec<_>>(),
    });
    if let Some(speed) = &plan.speed {
        object["images_per_second"] = json!(speed.images_per_second(plan));
        object["training_seconds"] = json!(speed.seconds(plan));
    }
    if let Some(interconnect) = &interconnect {
        object["ranks"] = ranks::to_json(plan, interconnect);
    }
    say!("{object}")
}
