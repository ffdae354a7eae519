//! How many tiles of a Winograd convolution a core works on at a time.
//!
//! Their transform domains should stay in the core's second-level cache, whose size differs from processor to
//! processor, and which other programs may share. Results do not depend on the number, so the first passes try each
//! of a few, and the fastest is kept.

use crescendo_kernels::Workspace;

/// The numbers that are tried.
const TILES: [usize; 4] = [32, Workspace::GROUP_TILES, 96, Workspace::MOST_GROUP_TILES];
/// The index of the one that is kept if no other is clearly faster.
const DEFAULT: usize = 1;
/// How much faster another one must be.
const CLEARLY: f64 = 0.97;

/// Passes before the first that counts: memory is touched for the first time.
const WARM_UP: usize = 1;
/// How often each number is tried in each step, at most, and after how many seconds it is not tried again.
const ROUNDS: usize = 3;
const SECONDS: f64 = 2.0;

/// Tries numbers of tiles in the training passes that come first. A step takes another one in each pass, and its
/// neighbours others in the same pass: so that a change of the machine's speed meanwhile meets all alike.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tuning {
    /// What was chosen, or asked for.
    tiles: Option<usize>,
    chosen: bool,
    /// Passes so far, over about so many images.
    passes: usize,
    images: usize,
    /// Images of the current pass, and the seconds of each step in it, forward and backward.
    current_images: usize,
    current: Vec<f64>,
    /// The least seconds an image of each step with each number, where it was tried.
    least: Vec<[Option<f64>; TILES.len()]>,
    /// Seconds of all passes that count.
    spent: f64,
}

impl Tuning {
    /// `tiles` at a time; 0 to try which number is the fastest.
    pub fn new(tiles: usize) -> Self {
        Tuning { tiles: Some(tiles).filter(|&tiles| tiles > 0), ..Tuning::default() }
    }

    /// What was chosen by timing, in words: see [`Engine::choices`](crescendo_network::Engine::choices).
    pub fn choice(&self) -> Option<String> {
        let tiles = self.tiles?;
        Some(if self.chosen { format!("{tiles} tiles at a time") } else { String::new() })
    }

    /// How many tiles a step works on at a time in the current pass.
    pub fn tiles_of(&self, step: usize) -> usize {
        self.tiles.unwrap_or_else(|| TILES[self.tried_by(step)])
    }

    fn tried_by(&self, step: usize) -> usize {
        let counts = self.passes >= WARM_UP && self.counts();
        if counts { (self.passes + step) % TILES.len() } else { DEFAULT }
    }

    /// Whether the current pass has about as many images as those that it is compared with.
    fn counts(&self) -> bool {
        10 * self.current_images >= 9 * self.images
    }

    /// The steps are others from now on.
    pub fn restart(&mut self) {
        (self.images, self.passes, self.spent) = (0, 0, 0.0);
        self.least.clear();
    }

    /// A pass over so many images begins. The last batch of an epoch may have few, which are left out; larger batches
    /// begin again.
    pub fn begin_pass(&mut self, images: usize) {
        if 10 * images > 11 * self.images {
            self.restart();
            self.images = images;
        }
        self.current_images = images;
        self.current.clear();
    }

    /// Counts the seconds of a step, forward or backward.
    pub fn add(&mut self, step: usize, seconds: f64) {
        if self.tiles.is_none() {
            self.current.resize(self.current.len().max(step + 1), 0.0);
            self.current[step] += seconds;
        }
    }

    /// The pass has ended, forward and backward.
    pub fn end_pass(&mut self) {
        if self.tiles.is_some() || !self.counts() {
            return;
        }
        if self.current.is_empty() {
            // There is no such convolution.
            self.tiles = Some(TILES[DEFAULT]);
            return;
        }
        self.least.resize(self.current.len(), [None; TILES.len()]);
        if self.passes >= WARM_UP {
            self.spent += self.current.iter().sum::<f64>();
            for (step, &seconds) in self.current.iter().enumerate().filter(|(_, s)| **s > 0.0) {
                let seconds = seconds / self.current_images as f64;
                let least = &mut self.least[step][(self.passes + step) % TILES.len()];
                *least = Some(least.map_or(seconds, |least| least.min(seconds)));
            }
        }
        self.passes += 1;
        let tried = self.passes - WARM_UP;
        // Each step has tried each number equally often.
        if tried == 0 || !tried.is_multiple_of(TILES.len()) {
            return;
        }
        if tried == ROUNDS * TILES.len() || self.spent >= SECONDS {
            (self.tiles, self.chosen) = (Some(TILES[self.fastest()]), true);
        }
    }

    fn fastest(&self) -> usize {
        let seconds = |tiles: usize| -> f64 { self.least.iter().filter_map(|s| s[tiles]).sum() };
        let by_seconds = |&a: &usize, &b: &usize| seconds(a).total_cmp(&seconds(b));
        let fastest = (0..TILES.len()).min_by(by_seconds).unwrap_or(DEFAULT);
        if seconds(fastest) < CLEARLY * seconds(DEFAULT) { fastest } else { DEFAULT }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is chosen where a step takes `seconds` for a number of tiles, and after how many passes.
    fn tune(seconds: impl Fn(usize) -> f64) -> (usize, usize) {
        let mut tuning = Tuning::new(0);
        for pass in 1..100 {
            tuning.begin_pass(10);
            for step in 0..7 {
                // The fifth pass is disturbed.
                let disturbed = if pass == 5 { 3.0 } else { 1.0 };
                tuning.add(step, disturbed * seconds(tuning.tiles_of(step)) * (1 + step) as f64);
            }
            tuning.end_pass();
            if let Some(choice) = tuning.choice() {
                let tiles = tuning.tiles_of(3);
                assert_eq!(choice, format!("{tiles} tiles at a time"));
                return (tiles, pass);
            }
        }
        panic!("it does not end");
    }

    #[test]
    fn the_fastest_is_kept_where_it_is_clearly_faster() {
        let fastest = |best: usize, by: f64| {
            move |tiles: usize| 1e-3 * if tiles == best { 1.0 - by } else { 1.0 }
        };
        assert_eq!(tune(fastest(32, 0.3)), (32, 13));
        assert_eq!(tune(fastest(96, 0.3)), (96, 13));
        assert_eq!(tune(fastest(128, 0.3)), (128, 13));
        assert_eq!(tune(fastest(96, 0.01)), (64, 13));
        assert_eq!(tune(fastest(64, 0.3)), (64, 13));
        // Slow passes are tried once only.
        assert_eq!(tune(|tiles| tiles as f64), (32, 5));
    }

    #[test]
    fn what_is_asked_for_is_not_tried() {
        let mut tuning = Tuning::new(48);
        tuning.begin_pass(10);
        assert_eq!((tuning.tiles_of(0), tuning.tiles_of(1)), (48, 48));
        assert_eq!(tuning.choice().as_deref(), Some(""));
    }

    #[test]
    fn without_such_convolutions_there_is_nothing_to_choose() {
        let mut tuning = Tuning::new(0);
        tuning.begin_pass(10);
        tuning.end_pass();
        assert_eq!(tuning.choice().as_deref(), Some(""));
    }

    /// How many passes count, of passes with these numbers of images.
    fn passes(images: &[usize]) -> usize {
        let mut tuning = Tuning::new(0);
        for &images in images {
            tuning.begin_pass(images);
            tuning.add(0, 1e-3);
            tuning.end_pass();
        }
        tuning.passes
    }

    #[test]
    fn only_passes_with_about_as_many_images_are_compared() {
        assert_eq!(passes(&[334, 334, 332, 334]), 4);
        assert_eq!(passes(&[125, 125, 80, 125]), 3);
        assert_eq!(passes(&[125, 125, 250]), 1);
    }
}
