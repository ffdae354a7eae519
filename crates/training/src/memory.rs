//! How much memory a run takes, and how batches are cut so that it does not take more.

use crescendo_data::DataSet;
use crescendo_network::{CpuEngine, Plan};

use crate::recipe::WeightAverage;
use crate::{Error, Recipe, machine};

/// The share of the machine's memory that a run may take where the recipe does not say.
const SHARE: f64 = 0.8;

/// Bytes of memory that training by a recipe takes, beside the data set, with batches of `batch_size`
/// images that are computed `part` images at a time.
pub fn memory(recipe: &Recipe, plan: &Plan, batch_size: usize, part: usize, threads: usize) -> u64 {
    // The batch at hand, and the one that is prepared meanwhile.
    let batches = 2 * 4 * plan.input.len() * batch_size;
    let average = match recipe.optimizer.average {
        WeightAverage::None => 0,
        WeightAverage::Ema | WeightAverage::Lookahead => {
            4 * (plan.parameter_count() + 2 * plan.statistic_count())
        }
    };
    (CpuEngine::memory(plan, part, threads) + batches + average) as u64
}

/// How many images of a batch are computed at a time: what BatchNorm takes its statistics over. All of
/// them where memory allows, else as few parts as are needed; or what `network.norm.ghost` says. 0 where
/// not even that, or one image, fits.
pub fn part_size(recipe: &Recipe, plan: &Plan, batch_size: usize) -> usize {
    // Results must not depend on the number of threads, so nor must this.
    let limit = bytes(limit(recipe));
    let fits = |part: &usize| (memory(recipe, plan, batch_size, *part, 1) as f64) <= limit;
    let ghost = recipe.network.norm.ghost.min(batch_size);
    if ghost > 0 {
        return if fits(&ghost) { ghost } else { 0 };
    }
    let most = largest(batch_size, fits);
    match most {
        0 => 0,
        most => batch_size.div_ceil(batch_size.div_ceil(most)),
    }
}

/// The memory that a run may take, in GiB to two digits.
pub(crate) fn limit(recipe: &Recipe) -> f64 {
    if recipe.batch.memory_limit > 0.0 {
        return recipe.batch.memory_limit;
    }
    let total = machine::total_memory().map_or(f64::MAX, |bytes| bytes as f64);
    let gib = SHARE * total / f64::from(1 << 30);
    // Rounded down, but never to zero, which would ask again.
    ((gib * 100.0).floor() / 100.0).clamp(0.01, 1e9)
}

fn bytes(gib: f64) -> f64 {
    gib * f64::from(1 << 30)
}

/// Whether batches of `batch_size` images can be trained on in so many bytes, if that is known.
pub(crate) fn check(
    recipe: &Recipe,
    data: &DataSet,
    plan: &Plan,
    batch_size: usize,
    available: Option<u64>,
) -> Result<(), Error> {
    let refuse = |problem: String| Err(Error::Refused(problem));
    // Held-out images and the rest are copies.
    let copies = if recipe.data.validation > 0 { data.train.pixels.len() as u64 } else { 0 };
    let part = part_size(recipe, plan, batch_size);
    if part == 0 {
        let at_a_time = match recipe.network.norm.ghost {
            0 => "one image".to_owned(),
            ghost => format!("network.norm.ghost = {ghost}"),
        };
        return refuse(format!(
            "a batch of {batch_size} needs more than {:.2} GiB of memory (batch.memory_limit), even \
             {at_a_time} at a time: choose a smaller network or smaller batches, or allow more",
            limit(recipe)
        ));
    }
    let Some(available) = available else { return Ok(()) };
    let threads = recipe.threads();
    let needed = |batch: usize, part: usize| memory(recipe, plan, batch, part, threads) + copies;
    if needed(batch_size, part) <= available {
        return Ok(());
    }
    let advice = match largest(batch_size, |&batch| needed(batch, batch) <= available) {
        0 => "not even a batch of one image fits: choose a smaller network".to_owned(),
        _ if recipe.network.norm.ghost > 0 => "lower network.norm.ghost".to_owned(),
        fits => format!(
            "the largest batch that fits is {fits}: lower batch.size, batch.steps or batch.max, or \
             set batch.memory_limit={:.1} to compute it in parts",
            gib(available) * 0.9
        ),
    };
    refuse(format!(
        "a batch of {batch_size} needs {:.2} GiB of memory, and {:.2} GiB are free; {advice}",
        gib(needed(batch_size, part)),
        gib(available)
    ))
}

/// The largest number up to `most` that fits, by halving: more images never need less memory.
fn largest(most: usize, fits: impl Fn(&usize) -> bool) -> usize {
    if fits(&most) {
        return most;
    }
    let (mut good, mut bad) = (0, most);
    while bad - good > 1 {
        let middle = good + (bad - good) / 2;
        if fits(&middle) { good = middle } else { bad = middle }
    }
    good
}

fn gib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 30)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan;

    #[test]
    fn batches_are_cut_into_as_few_parts_as_fit() {
        let part = |change: &str| {
            let changes = ["batch.memory_limit=0.1", "batch.steps=[[1, 1000]]", change];
            let recipe = Recipe::load("quick", &changes).unwrap();
            part_size(&recipe, &plan(&recipe).unwrap(), 1000)
        };
        assert_eq!(part("batch.memory_limit=8.0"), 1000);
        let cut = part("batch.memory_limit=0.1");
        assert!((100..1000).contains(&cut), "{cut}");
        assert_eq!(1000usize.div_ceil(1000usize.div_ceil(cut)), cut, "no smaller than need be");
        assert_eq!(part("network.norm.ghost=8"), 8);
        assert_eq!(part("network.norm.ghost=1000"), 0);
        assert_eq!(part("network.widths=[4096, 4096, 4096]"), 0);
    }
}
