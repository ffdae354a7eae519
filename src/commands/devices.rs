//! `crescendo devices`.

use crescendo::cpu::{CpuDevice, host};
use crescendo::cuda::{Card, Installed, installed};
use crescendo::network::{Device, DeviceMemory, EngineConfig};
use crescendo::training::Error;
use serde_json::{Value, json};

use super::say;
use crate::cli::DevicesArgs;

pub fn run(args: &DevicesArgs) -> Result<(), Error> {
    let (processor, installed) = (Processor::here()?, installed());
    if args.json {
        return say!("{}", to_json(&processor, &installed));
    }
    say!("{}", text(&processor, &installed))
}

/// The processor, and the memory of the machine.
struct Processor {
    name: String,
    instruction_sets: Vec<&'static str>,
    threads: usize,
    threads_in_words: String,
    memory: DeviceMemory,
}

impl Processor {
    fn here() -> Result<Self, Error> {
        let device = CpuDevice::new(&EngineConfig::default())?;
        Ok(Processor {
            name: host::processor_name().unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
            instruction_sets: host::instruction_sets(),
            threads: host::threads(0),
            threads_in_words: host::threads_in_words(0),
            memory: device.memory(),
        })
    }
}

fn gib(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30))
}

/// The device that `auto` is.
fn auto(installed: &Installed) -> &'static str {
    if installed.cards.iter().any(|card| card.problem.is_none()) { "cuda" } else { "cpu" }
}

fn text(processor: &Processor, installed: &Installed) -> String {
    let mut lines = vec![format!("cpu      {}", processor.name)];
    lines.push(format!("         instruction sets: {}", processor.instruction_sets.join(", ")));
    lines.push(format!("         {}", processor.threads_in_words));
    let DeviceMemory { total, available } = processor.memory;
    if let Some(total) = total {
        let free = available.map_or(String::new(), |bytes| format!(", {} free", gib(bytes)));
        lines.push(format!("         memory: {}{free}", gib(total)));
    }
    let Installed { driver, cards, problem, .. } = installed;
    let version = driver.as_deref().unwrap_or("unknown");
    let fine = || format!("NVIDIA's driver, CUDA {version}");
    lines.push(format!("cuda     {}", problem.clone().unwrap_or_else(fine)));
    for card in cards {
        let Card { index, name, memory, compute_capability: (major, minor), problem, .. } = card;
        let memory = memory.map_or(String::new(), |bytes| format!(", {}", gib(bytes)));
        let problem =
            problem.as_ref().map_or(String::new(), |why| format!("; cannot be used: {why}"));
        lines.push(format!(
            "cuda:{index}   {name}{memory}, compute capability {major}.{minor}{problem}"
        ));
    }
    lines.push(format!("auto     is {}", auto(installed)));
    lines.join("\n")
}

fn to_json(processor: &Processor, installed: &Installed) -> Value {
    let cards = installed.cards.iter().map(|card| {
        let (major, minor) = card.compute_capability;
        json!({
            "index": card.index,
            "name": card.name,
            "memory_bytes": card.memory,
            "compute_capability": format!("{major}.{minor}"),
            "usable": card.problem.is_none(),
            "problem": card.problem,
        })
    });
    json!({
        "cpu": {
            "name": processor.name,
            "instruction_sets": processor.instruction_sets,
            "threads": processor.threads,
            "memory_bytes": processor.memory.total,
            "available_bytes": processor.memory.available,
        },
        "cuda": {
            "driver": installed.driver,
            "problem": installed.problem,
            "cards": cards.collect::<Vec<_>>(),
        },
        "auto": auto(installed),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(installed: &Installed) -> (String, Value) {
        let processor = Processor {
            name: "AMD EPYC 9V74".into(),
            instruction_sets: vec!["avx2", "portable"],
            threads: 2,
            threads_in_words: "2 threads".into(),
            memory: DeviceMemory { total: Some(8 << 30), available: Some(3 << 29) },
        };
        (text(&processor, installed), to_json(&processor, installed))
    }

    fn card(index: usize, name: &str, capability: (u32, u32), problem: Option<&str>) -> Card {
        let mut card = Card::default();
        (card.index, card.name, card.memory) = (index, name.to_owned(), Some(80 << 30));
        (card.compute_capability, card.problem) = (capability, problem.map(str::to_owned));
        card
    }

    #[test]
    fn the_processor_is_listed_and_why_there_is_no_card() {
        for (driver, problem) in [
            (None, "no NVIDIA driver is installed"),
            (Some("11.4"), "NVIDIA's driver is too old (CUDA 11.4): install version 525 or newer"),
            (Some("12.4"), "CUDA_VISIBLE_DEVICES is empty, which hides all cards"),
        ] {
            let mut installed = Installed::default();
            installed.driver = driver.map(str::to_owned);
            installed.problem = Some(problem.into());
            let (text, json) = shown(&installed);
            let expected = format!(
                "cpu      AMD EPYC 9V74\n         instruction sets: avx2, portable\n         2 threads\n         \
                 memory: 8.0 GiB, 1.5 GiB free\ncuda     {problem}\nauto     is cpu"
            );
            assert_eq!(text, expected);
            assert_eq!((&json["auto"], &json["cuda"]["problem"]), (&"cpu".into(), &problem.into()));
            assert_eq!(json["cuda"]["driver"].as_str(), driver);
            assert_eq!(json["cpu"]["memory_bytes"], 8_u64 << 30);
        }
    }

    #[test]
    fn cards_are_listed_with_what_is_wrong_with_them() {
        let cards = vec![
            card(0, "Tesla K80", (3, 7), Some("it is too old: compute capability 8.0 is needed")),
            card(1, "NVIDIA H100 80GB HBM3 MIG 1g.10gb", (9, 0), None),
        ];
        let mut installed = Installed::default();
        (installed.driver, installed.cards) = (Some("12.4".into()), cards);
        let (text, json) = shown(&installed);
        let end = "cuda     NVIDIA's driver, CUDA 12.4\n\
                   cuda:0   Tesla K80, 80.0 GiB, compute capability 3.7; cannot be used: it is too old: compute \
                   capability 8.0 is needed\n\
                   cuda:1   NVIDIA H100 80GB HBM3 MIG 1g.10gb, 80.0 GiB, compute capability 9.0\n\
                   auto     is cuda";
        assert!(text.ends_with(end), "{text}");
        let cards = &json["cuda"]["cards"];
        assert_eq!([&cards[0]["usable"], &cards[1]["usable"]], [false, true]);
        assert_eq!(cards[1]["compute_capability"], "9.0");
        assert_eq!(json["auto"], "cuda");
    }
}
