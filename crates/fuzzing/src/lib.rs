//! Damaged copies of valid inputs, for tests that readers neither panic nor take unbounded memory.
//!
//! # Example
//!
//! ```
//! use crescendo_fuzzing::{Damage, apply};
//!
//! let damaged = apply(b"12345678".to_vec(), &[Damage::Truncate(32_768), Damage::Flip(0, 1)]);
//! assert_eq!(damaged, b"0234");
//! ```

use std::cell::Cell;
use std::fs;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

/// How many inputs [`fuzz`] makes.
const INPUTS: u32 = 1_000_000;
/// The most memory that a process may ever hold while it reads them, in KiB. The inputs are a few KiB long.
const MAX_MEMORY: u64 = 1 << 20;

/// A change of an input. Places are fractions of its length, out of 65,536.
#[derive(Clone, Debug)]
pub enum Damage {
    /// Flips bits of the byte at a place.
    Flip(u16, u8),
    /// Inserts bytes at a place.
    Insert(u16, Vec<u8>),
    /// Deletes bytes from a place on.
    Delete(u16, u8),
    /// Inserts what lies between two places at the second one.
    Repeat(u16, u16),
    /// Deletes everything from a place on.
    Truncate(u16),
    /// Is read instead of the input.
    Replace(Vec<u8>),
}

/// A few changes at random.
pub fn damages() -> impl Strategy<Value = Vec<Damage>> {
    let bytes = prop_oneof![
        Just(vec![0]),
        Just(vec![0xff; 8]),
        Just(b"99999999999999999999".to_vec()),
        Just(b"[[[[[[[[".to_vec()),
        Just(b"-1e999".to_vec()),
        vec(any::<u8>(), 1..8),
    ];
    let damage = prop_oneof![
        8 => (any::<u16>(), 1..=255u8).prop_map(|(at, bits)| Damage::Flip(at, bits)),
        // Headers matter most.
        4 => (0..2048u16, 1..=255u8).prop_map(|(at, bits)| Damage::Flip(at, bits)),
        4 => (any::<u16>(), bytes).prop_map(|(at, bytes)| Damage::Insert(at, bytes)),
        4 => (any::<u16>(), 1..64u8).prop_map(|(at, count)| Damage::Delete(at, count)),
        2 => (any::<u16>(), any::<u16>()).prop_map(|(from, to)| Damage::Repeat(from, to)),
        2 => any::<u16>().prop_map(Damage::Truncate),
        1 => vec(any::<u8>(), 0..200).prop_map(Damage::Replace),
    ];
    vec(damage, 1..4)
}

/// The input with these changes, one after another.
pub fn apply(mut input: Vec<u8>, damages: &[Damage]) -> Vec<u8> {
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
            Damage::Replace(bytes) => input.clone_from(bytes),
        }
    }
    input
}

/// Makes a million damaged copies of `samples`. Each is given to `read` with the number of its sample; `read` says
/// whether it could be read without an error. Prints how many could.
///
/// # Panics
/// If `read` does, or the process has ever held a gigabyte of memory (on Linux, where it is known).
pub fn fuzz(what: &str, samples: &[Vec<u8>], read: impl Fn(usize, Vec<u8>) -> bool) {
    let config = Config { cases: INPUTS, failure_persistence: None, ..Config::default() };
    let inputs = (0..samples.len(), damages());
    let valid = Cell::new(0u32);
    TestRunner::new(config)
        .run(&inputs, |(sample, damages)| {
            let input = apply(samples[sample].clone(), &damages);
            valid.set(valid.get() + u32::from(read(sample, input)));
            Ok(())
        })
        .unwrap_or_else(|error| panic!("{what}: {error}"));
    println!("{what}: {INPUTS} inputs, of which {} were read without an error", valid.get());
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    if let Some(peak) = status.lines().find_map(|line| line.strip_prefix("VmHWM:")) {
        let peak = peak.trim().trim_end_matches(" kB").parse();
        let peak: u64 = peak.expect("Linux gives a number of kB");
        assert!(peak < MAX_MEMORY, "{what}: {peak} KiB of memory");
    }
}
