//! Measures the bias of the gradient noise scale (McCandlish et al. 2018, arXiv 1812.06162) when it is
//! estimated from the two halves of a batch, which share BatchNorm statistics. For comparison, the same
//! quantities are estimated from the inner products of independent batches, which are unbiased.
//!
//! `cargo run --release --example noise_scale_bias -- [DATA] [epochs] [batch size] [batches]`

use crescendo::data::{ImageBatch, locate, open, shapes};
use crescendo::network::{MicroBatch, Rule, Section, Tensor};
use crescendo::training::{Error, Recipe, graph};

fn main() -> Result<(), Error> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |i: usize, default| arguments.get(i).map_or(default, |a| a.parse().unwrap());
    let (epochs, size, count) = (number(1, 2), number(2, 125), number(3, 64));
    let data = match arguments.first().and_then(|name| shapes::parse(name)) {
        Some(set) => set?,
        None => open(&locate(arguments.first().map(std::path::Path::new))?)?,
    };
    let recipe = Recipe::load("quick", &["optimizer.learning_rate=0.05"])?;
    let graph = graph(&recipe)?;
    let mut engine = crescendo::devices().open(&recipe.engine)?.engine(&graph)?;
    engine.import(Section::Model, &graph.initial(0))?;
    let sampling = recipe.sampling(recipe.data.normalization(&data.train));
    let each = |epoch, size, consume: &mut dyn FnMut(&ImageBatch) -> Result<(), Error>| {
        sampling.epoch(&data.train, epoch, size, 0..usize::MAX, consume)
    };
    let of = |batch: &ImageBatch| (batch.images.clone(), batch.labels.clone());
    let rules = recipe.optimizer.first_rules(&graph, 125);
    for epoch in 1..=epochs {
        each(epoch as u64, 125, &mut |batch| {
            engine.accumulate(&MicroBatch::whole(&batch.images, &batch.labels))?;
            engine.update(&rules)?;
            engine.next_result(true)?;
            Ok(())
        })?;
    }

    // With the weights fixed: the gradients of whole batches, and the squared norms of those of halves.
    let mut batches = Vec::new();
    let mut epoch = epochs as u64;
    while batches.len() < count {
        epoch += 1;
        each(epoch, size, &mut |batch| {
            batches.push(of(batch));
            Ok(())
        })?;
    }
    batches.truncate(count);
    let frozen = vec![Rule::Frozen; graph.parameters.len()];
    let mut sum: Vec<f64> = Vec::new();
    let (mut whole, mut halves) = (0.0, 0.0);
    for (images, labels) in &batches {
        engine.accumulate(&MicroBatch { measure: true, ..MicroBatch::whole(images, labels) })?;
        let gradient: Vec<f64> =
            engine.export(Section::Gradients)?.iter().flat_map(numbers).collect();
        // Parameters stay; the gradients are cleared.
        engine.update(&frozen)?;
        let norms = engine.next_result(true)?.and_then(|result| result.norms).unwrap_or_default();
        halves += norms.halves.iter().map(|half| half.1).sum::<f64>() / 2.0 / count as f64;
        whole += square(&gradient) / count as f64;
        sum.resize(gradient.len(), 0.0);
        sum.iter_mut().zip(gradient).for_each(|(sum, gradient)| *sum += gradient);
    }
    let (count, size) = (count as f64, size as f64);
    // E[g . g'] over pairs of different batches is |G|^2, also if BatchNorm couples the images of a batch.
    let pairs = (square(&sum) - count * whole) / (count * (count - 1.0));
    let reference = (pairs, size * (whole - pairs));
    let measured = (2.0 * whole - halves, size * (halves - whole));
    for (name, (gradient, noise)) in [("independent batches", reference), ("halves", measured)] {
        println!(
            "{name:<20} |G|^2 {gradient:.5}, tr(Sigma) {noise:.3}, noise scale {:.0} images",
            noise / gradient
        );
    }
    Ok(())
}

fn numbers(tensor: &Tensor) -> Vec<f64> {
    tensor.values().unwrap_or_default().iter().map(|&value| f64::from(value)).collect()
}

fn square(numbers: &[f64]) -> f64 {
    numbers.iter().map(|number| number * number).sum()
}
