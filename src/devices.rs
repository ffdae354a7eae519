//! The devices of all engines.

use std::sync::{Arc, Mutex, PoisonError};

use crescendo_cpu::CpuDevices;
use crescendo_cuda::{Card, CudaDevice, Driver, Installed, installed, planning_driver};
use crescendo_network::{Device, DeviceKind, Devices, EngineConfig, EngineError};

/// Opens the devices of every engine: NVIDIA's cards and the processor. `auto` is the first card that can be used,
/// otherwise the processor.
///
/// # Example
///
/// ```
/// use crescendo::AllDevices;
/// use crescendo::network::{DeviceKind, Devices, EngineConfig};
///
/// let config = EngineConfig { device: DeviceKind::Cpu, ..EngineConfig::default() };
/// let device = AllDevices::new(None).open(&config)?;
/// assert_eq!(device.config().device, DeviceKind::Cpu);
/// # Ok::<(), crescendo::network::EngineError>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct AllDevices {
    card: Option<usize>,
}

impl AllDevices {
    /// With the card of this index for `cuda`, or if that is `None`, the first one that can be used.
    pub const fn new(card: Option<usize>) -> Self {
        AllDevices { card }
    }

    /// With the card of the rank of this number on its machine, if none was asked for.
    #[must_use]
    pub fn of_rank(self, local_rank: usize) -> Self {
        let cards = installed().cards.len();
        AllDevices { card: self.card.or(local_rank.checked_rem(cards)) }
    }

    /// The device that would be opened, for planning: a card need not be there, and has `memory` bytes, or if that is
    /// `None`, those of the card that is there. It creates no engines.
    ///
    /// # Errors
    /// As [`open`](Devices::open), but not if there is no card.
    pub fn planned(
        &self,
        config: &EngineConfig,
        memory: Option<u64>,
    ) -> Result<Box<dyn Device>, EngineError> {
        if config.device == DeviceKind::Cpu {
            return CpuDevices.open(config);
        }
        let installed = installed();
        let card = match (choose(&installed, self.card), self.card) {
            (Ok(card), _) => Some(card),
            (Err(problem), Some(_)) => return Err(EngineError::NoDevice(problem)),
            (Err(_), None) if config.device == DeviceKind::Auto => return CpuDevices.open(config),
            (Err(_), None) => None,
        };
        let driver = planning_driver(memory.or(card.and_then(|card| card.memory)));
        Ok(Box::new(CudaDevice::new(driver, config)))
    }
}

impl Devices for AllDevices {
    fn open(&self, config: &EngineConfig) -> Result<Box<dyn Device>, EngineError> {
        let driver = match config.device {
            DeviceKind::Cpu => None,
            DeviceKind::Cuda => Some(driver(choose(&installed(), self.card))?),
            DeviceKind::Auto => {
                let installed = installed();
                let usable = installed.cards.iter().filter(|card| {
                    card.problem.is_none() && self.card.is_none_or(|index| index == card.index)
                });
                usable.into_iter().find_map(|card| driver(Ok(card)).ok())
            }
        };
        match driver {
            Some(driver) => Ok(Box::new(CudaDevice::new(driver, config))),
            None => CpuDevices.open(&EngineConfig { device: DeviceKind::Cpu, ..config.clone() }),
        }
    }
}

/// The driver of a card. A card is opened once.
fn driver(card: Result<&Card, String>) -> Result<Arc<dyn Driver>, EngineError> {
    static OPENED: Mutex<Vec<(usize, Arc<dyn Driver>)>> = Mutex::new(Vec::new());
    let card = card.map_err(EngineError::NoDevice)?;
    let mut opened = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, driver)) = opened.iter().find(|(index, _)| *index == card.index) {
        return Ok(driver.clone());
    }
    let driver = crescendo_cuda::open(card)?;
    opened.push((card.index, driver.clone()));
    Ok(driver)
}

/// What can be done instead of using a card.
const INSTEAD: &str = "use --device cpu, or see what `crescendo devices` says";

/// The card of an index, or the first one that can be used; or why it cannot be used, in a sentence.
fn choose(installed: &Installed, index: Option<usize>) -> Result<&Card, String> {
    let Installed { cards, problem, .. } = installed;
    if cards.is_empty() {
        let problem = problem.as_deref().unwrap_or("NVIDIA's driver lists no card");
        return Err(format!(
            "engine.device is cuda, but {}: a card needs NVIDIA's driver, 525 or newer; {INSTEAD}",
            problem.trim_end_matches('.')
        ));
    }
    let names = cards.iter().map(|card| format!("{} ({})", card.index, card.name));
    let names = names.collect::<Vec<_>>().join(", ");
    let wanted = index.map(|index| {
        let card = cards.iter().find(|card| card.index == index);
        card.ok_or_else(|| format!("there is no card {index}; NVIDIA's driver lists {names}"))
    });
    match wanted.transpose()? {
        Some(card) => card.problem.as_ref().map_or(Ok(card), |problem| {
            let (index, name, problem) = (card.index, &card.name, problem.trim_end_matches('.'));
            Err(format!("card {index} ({name}) cannot be used: {problem}; {INSTEAD}"))
        }),
        None => cards.iter().find(|card| card.problem.is_none()).ok_or_else(|| {
            let problem = cards[0].problem.as_deref().unwrap_or_default().trim_end_matches('.');
            let which = if cards.len() == 1 { "the card cannot" } else { "no card can" };
            format!("engine.device is cuda, but {which} be used: {names}: {problem}; {INSTEAD}")
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn card(index: usize, name: &str, problem: Option<&str>) -> Card {
        let mut card = Card::default();
        (card.index, card.name, card.memory) = (index, name.into(), Some(80 << 30));
        (card.compute_capability, card.problem) = ((9, 0), problem.map(str::to_owned));
        card
    }

    fn with(cards: Vec<Card>) -> Installed {
        let mut installed = Installed::default();
        (installed.driver, installed.cards) = (Some("12.4".into()), cards);
        installed
    }

    fn without(driver: Option<&str>, problem: &str) -> Installed {
        let mut installed = Installed::default();
        (installed.driver, installed.problem) = (driver.map(str::to_owned), Some(problem.into()));
        installed
    }

    #[test]
    fn the_first_card_that_can_be_used_is_chosen_or_the_one_that_is_asked_for() {
        let (old, new) =
            (card(0, "Tesla K80", Some("it is too old")), card(1, "NVIDIA A100", None));
        let slice = card(2, "NVIDIA H100 80GB HBM3 MIG 1g.10gb", None);
        let machine = with(vec![old, new.clone(), slice.clone()]);
        assert_eq!(choose(&machine, None), Ok(&new));
        assert_eq!(choose(&machine, Some(1)), Ok(&new));
        assert_eq!(choose(&machine, Some(2)), Ok(&slice));
    }

    #[test]
    fn why_no_card_can_be_used_is_a_sentence() {
        let old = || card(0, "Tesla K80", Some("its compute capability is 3.7, and 8.0 is needed"));
        let two = || with(vec![card(0, "NVIDIA A100", None), card(1, "NVIDIA L4", None)]);
        let empty = "CUDA_VISIBLE_DEVICES is empty, which hides all cards";
        for (machine, index, parts) in [
            (
                without(None, "no NVIDIA driver is installed."),
                None,
                &["no NVIDIA driver is installed: "][..],
            ),
            (without(None, "no NVIDIA driver is installed"), Some(1), &["525 or newer"]),
            (
                without(Some("11.4"), "NVIDIA's driver is too old (CUDA 11.4)"),
                None,
                &["is too old"],
            ),
            (without(Some("12.4"), empty), None, &["but CUDA_VISIBLE_DEVICES is empty"]),
            (with(vec![old()]), None, &["the card cannot be used: 0 (Tesla K80): its compute"]),
            (
                with(vec![old(), old()]),
                None,
                &["no card can be used: 0 (Tesla K80), 0 (Tesla K80): "],
            ),
            (with(vec![old()]), Some(0), &["card 0 (Tesla K80) cannot be used: its compute"]),
            (two(), Some(2), &["no card 2", "0 (NVIDIA A100), 1 (NVIDIA L4)"]),
        ] {
            let said = choose(&machine, index).unwrap_err();
            assert!(parts.iter().all(|part| said.contains(part)), "{parts:?}: {said}");
            assert!(!said.contains('\n') && !said.contains(".:") && !said.contains(".;"), "{said}");
            assert!(index == Some(2) || said.contains("--device cpu"), "{said}");
        }
    }
}
