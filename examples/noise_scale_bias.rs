//! Measures the bias of the gradient noise scale (McCandlish et al. 2018, arXiv 1812.06162) when it is
//! estimated from the two halves of a batch, which share BatchNorm statistics. For comparison, the same
//! quantities are estimated from the inner products of independent batches, which are unbiased.
//!
//! `cargo run --release --example noise_scale_bias -- [DATA] [epochs] [batch size] [batches]`

use crescendo::data::{Batch, find, open, shapes};
use crescendo::network::{Alone, CpuEngine, Engine, Section, Values};
use crescendo::training::{Error, Recipe, plan};

fn main() -> Result<(), Error> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |i: usize, default| arguments.get(i).map_or(default, |a| a.parse().unwrap());
    let (epochs, size, count) = (number(1, 2), number(2, 125), number(3, 64));
    let data = match arguments.first().and_then(|name| shapes::parse(name)) {
        Some(set) => set?,
        None => open(&find(arguments.first().map(std::path::Path::new))?)?,
    };
    let recipe = Recipe::load("quick", &["optimizer.learning_rate=0.05"])?;
    let (plan, machine) = (plan(&recipe)?, recipe.machine()?);
    let initial = plan.initial(0);
    let mut engine = CpuEngine::new(plan, machine.threads, machine.isa);
    engine.import(Section::Model, &initial).expect("the plan's own state");
    let sampling = recipe.sampling(recipe.data.normalization(&data.train));
    let each = |epoch: u64, size: usize, consume: &mut dyn FnMut(&Batch)| {
        let all: Result<(), ()> =
            sampling.epoch(&data.train, epoch, size, 0..usize::MAX, |batch| {
                consume(batch);
                Ok(())
            });
        all.expect("the callback returns no error");
    };
    let of = |batch: &Batch| (batch.images.clone(), batch.labels.clone());
    let rules = recipe.optimizer.first_rules(engine.plan(), 125);
    for epoch in 1..=epochs {
        each(epoch as u64, 125, &mut |batch| {
            let batch = crescendo::network::Batch::new(&batch.images, &batch.labels);
            engine.backward(batch, 1.0, &Alone);
            engine.update(&rules);
        });
    }

    // With the weights fixed: the gradients of whole batches, and the squared norms of those of halves.
    let mut batches = Vec::new();
    let mut epoch = epochs as u64;
    while batches.len() < count {
        epoch += 1;
        each(epoch, size, &mut |batch| batches.push(of(batch)));
    }
    batches.truncate(count);
    let zeros: Vec<_> = engine.export(Section::Gradients).into_iter().map(cleared).collect();
    let mut sum: Vec<f64> = Vec::new();
    let (mut whole, mut halves) = (0.0, 0.0);
    for (images, labels) in &batches {
        engine.import(Section::Gradients, &zeros).expect("the engine's own gradients");
        let batch = crescendo::network::Batch::new(images, labels);
        let (_, squares) = engine.backward_in_halves(batch, 1.0, &Alone);
        halves += (squares[0] + squares[1]) / 2.0 / count as f64;
        let gradient: Vec<f64> =
            engine.export(Section::Gradients).iter().flat_map(numbers).collect();
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

fn cleared(tensor: crescendo::network::Tensor) -> crescendo::network::Tensor<'static> {
    let zeros = vec![0.0; tensor.shape.iter().product()];
    crescendo::network::Tensor::f32(tensor.name.into_owned(), tensor.shape, zeros)
}

fn numbers(tensor: &crescendo::network::Tensor) -> Vec<f64> {
    match &tensor.values {
        Values::F32(values) => values.iter().map(|&value| f64::from(value)).collect(),
        Values::I64(_) => Vec::new(),
    }
}

fn square(numbers: &[f64]) -> f64 {
    numbers.iter().map(|number| number * number).sum()
}
