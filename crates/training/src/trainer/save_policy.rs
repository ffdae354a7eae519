//! When the state is saved.

use std::time::Duration;

use crescendo_network::DeviceKind;

use crate::recipe::SaveEvery;

/// When the state is saved while training goes on, by `train.save_every_minutes` and the device. Besides, it is saved
/// at the beginning, when training stops, and at the end.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct SavePolicy {
    /// Minutes between saves; 0 for none within an epoch.
    minutes: f64,
    /// Whether epochs can be so short that saving each would take longer than training.
    fast: bool,
}

impl SavePolicy {
    /// Minutes between saves if the recipe leaves it to the device.
    const AUTO: f64 = 5.0;
    const AUTO_FAST: f64 = 1.0;

    pub fn new(every: SaveEvery, device: DeviceKind) -> Self {
        let fast = device == DeviceKind::Cuda;
        let minutes = match every {
            SaveEvery::Minutes(minutes) => minutes,
            SaveEvery::Auto if fast => Self::AUTO_FAST,
            SaveEvery::Auto => Self::AUTO,
        };
        SavePolicy { minutes, fast }
    }

    /// Whether to save within an epoch, so long after the last save.
    pub fn within_epoch(self, since: Duration) -> bool {
        self.minutes > 0.0 && self.has_passed(since)
    }

    /// Whether to save when an epoch's updates are done, before an evaluation and at the epoch's end.
    pub fn after_epoch(self, since: Duration) -> bool {
        !self.fast || self.has_passed(since)
    }

    /// Whether weights need a save of the state before them, so that they are not newer: on the CPU there was one
    /// before the evaluation, or one follows a checkpoint at once.
    pub fn before_checkpoint(self) -> bool {
        self.fast
    }

    fn has_passed(self, since: Duration) -> bool {
        since.as_secs_f64() >= 60.0 * self.minutes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether the state is saved so many seconds after the last save, within an epoch and after it.
    fn saves(every: SaveEvery, device: DeviceKind, seconds: f64) -> [bool; 2] {
        let (policy, since) = (SavePolicy::new(every, device), Duration::from_secs_f64(seconds));
        [policy.within_epoch(since), policy.after_epoch(since)]
    }

    #[test]
    fn the_cpu_saves_after_every_epoch_and_every_few_minutes() {
        for (every, seconds, within) in [
            (SaveEvery::Auto, 299.0, false),
            (SaveEvery::Auto, 300.0, true),
            (SaveEvery::Minutes(5.0), 299.0, false),
            (SaveEvery::Minutes(5.0), 300.0, true),
            (SaveEvery::Minutes(0.5), 29.0, false),
            (SaveEvery::Minutes(0.5), 31.0, true),
            (SaveEvery::Minutes(0.0), 1e6, false),
            (SaveEvery::Minutes(3e38), 1e6, false),
        ] {
            let saved = saves(every, DeviceKind::Cpu, seconds);
            assert_eq!(saved, [within, true], "{every:?} {seconds}");
        }
        assert!(!SavePolicy::new(SaveEvery::Auto, DeviceKind::Cpu).before_checkpoint());
    }

    #[test]
    fn a_fast_device_saves_after_an_epoch_only_if_the_time_has_passed() {
        for (every, seconds, within, after) in [
            (SaveEvery::Auto, 0.0, false, false),
            (SaveEvery::Auto, 59.0, false, false),
            (SaveEvery::Auto, 60.0, true, true),
            (SaveEvery::Minutes(2.5), 149.0, false, false),
            (SaveEvery::Minutes(2.5), 150.0, true, true),
            (SaveEvery::Minutes(0.0), 0.0, false, true),
            (SaveEvery::Minutes(0.0), 1e6, false, true),
            (SaveEvery::Minutes(3e38), 1e6, false, false),
        ] {
            let saved = saves(every, DeviceKind::Cuda, seconds);
            assert_eq!(saved, [within, after], "{every:?} {seconds}");
        }
        assert!(SavePolicy::new(SaveEvery::Minutes(0.0), DeviceKind::Cuda).before_checkpoint());
    }
}
