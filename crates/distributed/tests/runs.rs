//! Whole runs on several ranks, here threads, come to the same files as on one.

use std::path::Path;

use crescendo_cpu::CpuDevices;
use crescendo_data::{DataSet, shapes};
use crescendo_distributed::{DistributedDevices, Threads, serve};
use crescendo_network::Devices;
use crescendo_training::{Recipe, Run, Start};

/// Trains on so many ranks, a part of them `resumed` in between.
fn train(folder: &Path, recipe: &Recipe, data: &DataSet, numbers: [usize; 2]) {
    for (ranks, until) in numbers.into_iter().zip([1, 2]) {
        with_ranks(ranks, |devices| {
            let mut run = match until {
                1 => Run::create(folder, &Start::new(recipe, data, devices)).unwrap(),
                _ => Run::open(folder).unwrap(),
            };
            run.train_until(until, devices, data, &mut (), &false.into()).unwrap();
        });
    }
}

fn with_ranks(ranks: usize, train: impl FnOnce(&dyn Devices)) {
    let mut all = Threads::new(ranks);
    let first = all.next().expect("there is a rank");
    std::thread::scope(|scope| {
        for other in all {
            scope.spawn(move || serve(Box::new(other), &CpuDevices).unwrap());
        }
        let devices = DistributedDevices::new(Box::new(first), &CpuDevices);
        train(&devices);
        devices.stop().unwrap();
    });
}

fn weights(folder: &Path) -> Vec<u8> {
    std::fs::read(folder.join("weights/epoch-0002.safetensors")).unwrap()
}

fn check(recipe: &str, changes: &[&str]) {
    let data = shapes::generate(0, 60, 20);
    let small = ["train.epochs=2", "network.widths=[4, 4, 4]", "engine.threads=1"];
    let changes: Vec<String> = small.iter().chain(changes).map(|change| (*change).into()).collect();
    let recipe = Recipe::load(recipe, &changes).unwrap();
    let place = tempfile::tempdir().unwrap();
    let one = place.path().join("one");
    Run::create(&one, &Start::new(&recipe, &data, &CpuDevices))
        .unwrap()
        .train(&CpuDevices, &data, &mut (), &false.into())
        .unwrap();
    for numbers in [[2, 4], [8, 1]] {
        let many = place.path().join(format!("{numbers:?}"));
        train(&many, &recipe, &data, numbers);
        assert!(weights(&many) == weights(&one), "{numbers:?} ranks come to other weights");
    }
}

#[test]
fn runs_on_ranks_have_the_bits_of_one_process() {
    // The last batch is smaller, and measured.
    check("quick", &["batch.steps=[[1, 25]]", "batch.noise_every=2", "optimizer.average=ema"]);
}

#[test]
fn micro_batches_of_ranks_have_the_bits_of_one_process() {
    // Three groups are divided over the ranks, and each of eight stays within one.
    for ghost in ["network.norm.ghost=8", "network.norm.ghost=3"] {
        check("fast94", &["batch.size=24", "batch.least_updates=1", ghost]);
    }
}
