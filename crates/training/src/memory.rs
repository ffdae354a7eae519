//! How much memory a run takes, and how batches are divided into micro-batches that fit.

use crescendo_data::DataSet;
use crescendo_network::{BatchTree, Device, DeviceMemory, Graph, RequiredMemory};

use crate::recipe::WeightAverage;
use crate::{Error, Recipe};

/// The share of the device's memory that a run may take if the recipe does not say.
const SHARE: f64 = 0.8;

/// Bytes that a run takes besides what [`required_memory`] counts.
const OVERHEAD: u64 = 64 << 20;

/// The memory that training takes besides the data set, with batches of `batch_size` images that are
/// computed in micro-batches of `micro_batch`.
///
/// See the example of [`micro_batch_size`].
///
/// # Errors
/// If the device does not support the graph.
pub fn required_memory(
    recipe: &Recipe,
    device: &dyn Device,
    graph: &Graph,
    batch_size: usize,
    micro_batch: usize,
) -> Result<RequiredMemory, Error> {
    // The current batch, and the next one, which is prepared meanwhile.
    let batches = 2 * 4 * graph.input.len() * batch_size;
    let average = match recipe.optimizer.average {
        WeightAverage::None => 0,
        WeightAverage::Ema | WeightAverage::Lookahead => {
            4 * (graph.parameter_count() + 2 * graph.statistic_count())
        }
    };
    let tree = batch_tree(recipe, batch_size, micro_batch);
    let (images, sums) = (tree.most_images(1), tree.sums(1));
    let RequiredMemory { configured, minimum } = device.required_memory(graph, images, sums)?;
    let rest = (batches + average) as u64;
    Ok(RequiredMemory { configured: configured + rest, minimum: minimum + rest })
}

/// How a batch is summed up: its micro-batches may be groups of ghost BatchNorm.
pub(crate) fn batch_tree(recipe: &Recipe, batch_size: usize, micro_batch: usize) -> BatchTree {
    match recipe.network.norm.ghost {
        0 => BatchTree::new(batch_size, micro_batch),
        _ => BatchTree::ghost(batch_size, micro_batch),
    }
}

/// How many images of a batch are computed at once, and share BatchNorm statistics: all of them if they fit
/// in the memory limit, else batches are divided into as few micro-batches as possible; or what
/// `network.norm.ghost` says. `None` if not even that, or one image, fits.
///
/// # Example
///
/// ```
/// use crescendo_cpu::CpuDevices;
/// use crescendo_network::Devices;
/// use crescendo_training::{Recipe, default_limit, graph, micro_batch_size, required_memory};
///
/// let recipe = Recipe::load("report", &["batch.memory_limit=2.0"])?;
/// let (graph, device) = (graph(&recipe)?, CpuDevices.open(&recipe.engine)?);
/// let images = micro_batch_size(&recipe, &*device, &graph, 5000)?.expect("one image fits");
/// let memory = required_memory(&recipe, &*device, &graph, 5000, images)?;
/// assert!(images < 5000 && memory.minimum < 2 << 30);
/// // Without a limit in the recipe: four fifths of the device's memory, here 10 GiB.
/// assert_eq!(default_limit(Some(10 << 30)), 8.0);
/// # Ok::<(), crescendo_training::Error>(())
/// ```
///
/// # Errors
/// If the device does not support the graph.
pub fn micro_batch_size(
    recipe: &Recipe,
    device: &dyn Device,
    graph: &Graph,
    batch_size: usize,
) -> Result<Option<usize>, Error> {
    let limit = limit(recipe, device) * f64::from(1 << 30);
    // Results depend on the size, so it must not depend on settings such as the number of threads.
    let fits = |images: usize| {
        let required = required_memory(recipe, device, graph, batch_size, images)?;
        Ok(required.minimum as f64 <= limit)
    };
    let ghost = recipe.network.norm.ghost.min(batch_size);
    if ghost > 0 {
        return Ok(fits(ghost)?.then_some(ghost));
    }
    Ok(match largest(batch_size, fits)? {
        0 => None,
        most => Some(batch_size.div_ceil(batch_size.div_ceil(most))),
    })
}

/// The memory that a run may take, in GiB to two digits.
pub(crate) fn limit(recipe: &Recipe, device: &dyn Device) -> f64 {
    if recipe.batch.memory_limit > 0.0 {
        return recipe.batch.memory_limit;
    }
    default_limit(device.memory().total)
}

/// The memory that a run takes at most on a device of which so many bytes are known, if the recipe does not say it
/// (`batch.memory_limit`), in GiB to two digits.
///
/// See the example of [`micro_batch_size`].
pub fn default_limit(memory: Option<u64>) -> f64 {
    let total = memory.map_or(f64::MAX, |bytes| bytes as f64);
    let gib = SHARE * total / f64::from(1 << 30);
    // Rounded down, but never to zero, which means "choose".
    ((gib * 100.0).floor() / 100.0).clamp(0.01, 1e9)
}

/// The memory that a run can get now, in bytes, if it is known. A run that is resumed has a smaller reserve,
/// so that it fits again where it was started with little to spare.
pub(crate) fn available(memory: DeviceMemory, resumed: bool) -> Option<u64> {
    let overhead = if resumed { OVERHEAD / 2 } else { OVERHEAD };
    Some(memory.available?.saturating_sub(overhead))
}

/// Checks that batches of `batch_size` images can be trained on; `available` is how many bytes of memory are
/// free, if that is known.
pub(crate) fn check(
    recipe: &Recipe,
    device: &dyn Device,
    data: &DataSet,
    graph: &Graph,
    batch_size: usize,
    available: Option<u64>,
) -> Result<(), Error> {
    let refuse = |problem: String| Err(Error::Refused(problem));
    // The training and the validation images are copies.
    let copies = if recipe.data.validation > 0 { data.train.pixels.len() as u64 } else { 0 };
    let Some(micro_batch) = micro_batch_size(recipe, device, graph, batch_size)? else {
        return Err(too_large(recipe, device, batch_size));
    };
    let Some(available) = available else { return Ok(()) };
    let needed = |batch: usize, micro_batch: usize| -> Result<u64, Error> {
        Ok(required_memory(recipe, device, graph, batch, micro_batch)?.configured + copies)
    };
    let here = needed(batch_size, micro_batch)?;
    if here <= available {
        return Ok(());
    }
    // The next start may find a little less.
    let certain = available - available / 200;
    let advice = match largest(batch_size, |batch| Ok(needed(batch, batch)? <= certain))? {
        0 => "not even a batch of one image fits: choose a smaller network".to_owned(),
        _ if recipe.network.norm.ghost > 0 => "lower network.norm.ghost".to_owned(),
        fits => format!(
            "the largest batch that fits is {fits}: lower batch.size, batch.steps or batch.max, or \
             set batch.memory_limit={:.2} to divide batches into micro-batches",
            (gib(available) * 90.0).floor().max(1.0) / 100.0
        ),
    };
    refuse(format!(
        "a batch of {batch_size} needs {:.2} GiB of memory, and {:.2} GiB are free; {advice}",
        gib(here),
        gib(available)
    ))
}

/// Why batches of this size cannot be computed in the memory limit.
pub(crate) fn too_large(recipe: &Recipe, device: &dyn Device, batch_size: usize) -> Error {
    let smallest = match recipe.network.norm.ghost {
        0 => "micro-batches of one image".to_owned(),
        ghost => format!("micro-batches of network.norm.ghost = {ghost}"),
    };
    Error::Refused(format!(
        "a batch of {batch_size} needs more than {:.2} GiB of memory (batch.memory_limit), even \
         in {smallest}: choose a smaller network or smaller batches, or raise the limit",
        limit(recipe, device)
    ))
}

/// The largest number up to `most` that fits, by bisection: more images never need less memory.
fn largest(most: usize, fits: impl Fn(usize) -> Result<bool, Error>) -> Result<usize, Error> {
    if fits(most)? {
        return Ok(most);
    }
    let (mut good, mut bad) = (0, most);
    while bad - good > 1 {
        let middle = good + (bad - good) / 2;
        if fits(middle)? { good = middle } else { bad = middle }
    }
    Ok(good)
}

fn gib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 30)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph;
    use crescendo_cpu::CpuDevices;
    use crescendo_network::Devices;

    #[test]
    fn batches_are_divided_into_as_few_micro_batches_as_fit() {
        let size = |change: &str| {
            let changes = ["batch.memory_limit=0.1", "batch.steps=[[1, 1000]]", change];
            let recipe = Recipe::load("quick", &changes).unwrap();
            let device = CpuDevices.open(&recipe.engine).unwrap();
            micro_batch_size(&recipe, &*device, &graph(&recipe).unwrap(), 1000)
                .unwrap()
                .unwrap_or(0)
        };
        assert_eq!(size("batch.memory_limit=8.0"), 1000);
        let cut = size("batch.memory_limit=0.1");
        assert!((100..1000).contains(&cut), "{cut}");
        assert_eq!(1000usize.div_ceil(1000usize.div_ceil(cut)), cut, "as few as possible");
        assert_eq!(size("network.norm.ghost=8"), 8);
        assert_eq!(size("network.norm.ghost=1000"), 0);
        assert_eq!(size("network.widths=[4096, 4096, 4096]"), 0);
    }
}
