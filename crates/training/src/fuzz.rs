//! A million damaged inputs for each reader: no panic, and bounded memory. Ignored by default; to run them:
//! `cargo test --release -p crescendo-training fuzz -- --ignored --nocapture`

use std::path::Path;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::loading::BUILT_IN;
use crate::tensors::TensorFile;
use crate::{Recipe, checkpoint::Checkpoint};

const INPUTS: u32 = 1_000_000;

/// The most memory that the tests may ever hold, in KiB: the inputs are a few KiB long.
const MAX_MEMORY: u64 = 1 << 20;

/// A change of an input; places are fractions of its length, out of 65,536.
#[derive(Clone, Debug)]
enum Damage {
    Flip(u16, u8),
    Insert(u16, Vec<u8>),
    Delete(u16, u8),
    Repeat(u16, u16),
    Truncate(u16),
}

fn damages() -> impl Strategy<Value = Vec<Damage>> {
    let bytes = prop_oneof![
        Just(vec![0]),
        Just(vec![0xff; 8]),
        Just(b"99999999999999999999".to_vec()),
        Just(b"[[[[[[[[".to_vec()),
        Just(b"-1e999".to_vec()),
        proptest::collection::vec(any::<u8>(), 1..8),
    ];
    let damage = prop_oneof![
        4 => (any::<u16>(), 1..=255u8).prop_map(|(at, bits)| Damage::Flip(at, bits)),
        2 => (any::<u16>(), bytes).prop_map(|(at, bytes)| Damage::Insert(at, bytes)),
        2 => (any::<u16>(), 1..64u8).prop_map(|(at, count)| Damage::Delete(at, count)),
        1 => (any::<u16>(), any::<u16>()).prop_map(|(from, to)| Damage::Repeat(from, to)),
        1 => any::<u16>().prop_map(Damage::Truncate),
    ];
    proptest::collection::vec(damage, 1..4)
}

fn apply(mut input: Vec<u8>, damages: &[Damage]) -> Vec<u8> {
    for damage in damages {
        let place = |at: u16| usize::from(at) * input.len() / 65_536;
        match damage {
            Damage::Flip(at, bits) => {
                let at = place(*at);
                input.get_mut(at).into_iter().for_each(|byte| *byte ^= bits);
            }
            Damage::Insert(at, bytes) => {
                let at = place(*at);
                input.splice(at..at, bytes.iter().copied());
            }
            Damage::Delete(at, count) => {
                let at = place(*at);
                input.drain(at..input.len().min(at + usize::from(*count)));
            }
            Damage::Repeat(from, to) => {
                let (from, to) = (place(*from), place(*to));
                let part = input[from.min(to)..from.max(to)].to_vec();
                input.splice(to..to, part);
            }
            Damage::Truncate(at) => {
                let at = place(*at);
                input.truncate(at);
            }
        }
    }
    input
}

/// Reads a million damaged copies of the samples.
fn fuzz(what: &str, samples: &[Vec<u8>], read: impl Fn(Vec<u8>) -> bool) {
    let config = Config { cases: INPUTS, failure_persistence: None, ..Config::default() };
    let inputs = (0..samples.len(), damages());
    let read_well = std::cell::Cell::new(0u32);
    TestRunner::new(config)
        .run(&inputs, |(sample, damages)| {
            let input = apply(samples[sample].clone(), &damages);
            read_well.set(read_well.get() + u32::from(read(input)));
            Ok(())
        })
        .unwrap();
    println!("{what}: {INPUTS} inputs, of which {} were read without an error", read_well.get());
    if let Ok(status) = std::fs::read_to_string("/proc/self/status") {
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
        assert!(peak < MAX_MEMORY, "{peak} KiB");
    }
}

#[test]
#[ignore = "takes minutes"]
fn fuzz_files_of_tensors() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.safetensors");
    let recipe = toml::to_string(&Recipe::load::<&str>("quick", &[]).unwrap()).unwrap();
    let metadata = [
        ("recipe", &*recipe),
        ("classes", "[\"a\", \"b\"]"),
        ("normalization", "\"per_image\""),
        ("epoch", "3"),
    ];
    let metadata = metadata.map(|(key, value)| (key.to_owned(), value.to_owned()));
    let tensors = [
        crescendo_network::Tensor::f32("bn.running_var", vec![2], vec![1.0, 2.0]),
        crescendo_network::Tensor::f32("fc.weight", vec![2, 3], vec![0.5; 6]),
    ];
    crate::tensors::write(&path, &tensors, metadata.into()).unwrap();
    let sealed = std::fs::read(&path).unwrap();
    // Without its checksum, damage to the numbers and the metadata is read further.
    let mut open = sealed.clone();
    while let Some(at) = open.windows(8).position(|window| window == b"checksum") {
        open[at] = b'k';
    }
    fuzz("files of tensors", &[sealed, open], |input| {
        let path = Path::new("x.safetensors");
        let Ok(file) = TensorFile::parse(path, input) else { return false };
        let checkpoint = Checkpoint::from(file);
        checkpoint.about();
        checkpoint.description().is_ok() & checkpoint.model().is_ok()
    });
}

#[test]
#[ignore = "takes minutes"]
fn fuzz_recipes() {
    let samples: Vec<Vec<u8>> =
        BUILT_IN.iter().map(|recipe| recipe.text.as_bytes().to_vec()).collect();
    fuzz("recipes", &samples, |input| Recipe::saved(&String::from_utf8_lossy(&input)).is_ok());
}
