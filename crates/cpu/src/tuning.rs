//! How many tiles of a Winograd convolution a core works on at a time.
//!
//! Their transform domains should stay in the core's second-level cache, whose size differs from processor to
//! processor, and which other programs may share. Results do not depend on the number, so the first passes try each
//! of a few, and the fastest is kept.

use crescendo_kernels::Workspace;

/// The numbers that are tried.
const TILES: [usize; 3] = [32, Workspace::GROUP_TILES, Workspace::MOST_GROUP_TILES];
/// Which one is kept if no other is clearly faster.
const USUAL: usize = 1;
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
    /// Passes so far, over so many images.
    passes: usize,
    images: usize,
    /// Seconds of each step in the current pass, forward and backward.
    current: Vec<f64>,
    /// The least seconds of each step with each number, where it was tried.
    least: Vec<[Option<f64>; TILES.len()]>,
    /// Seconds of all passes that count.
    spent: f64,
}

impl Tuning {
    /// `tiles` at a time; 0 to try which number is the fastest.
    pub fn new(tiles: usize) -> Self {
        Tuning { tiles: Some(tiles).filter(|&tiles| tiles > 0), ..Tuning::default() }
    }

    /// What was chosen, or asked for.
    pub fn tiles(&self) -> Option<usize> {
        self.tiles
    }

    /// How many tiles a step works on at a time in the current pass.
    pub fn tiles_of(&self, step: usize) -> usize {
        self.tiles.unwrap_or_else(|| TILES[self.tried_by(step)])
    }

    fn tried_by(&self, step: usize) -> usize {
        if self.passes < WARM_UP { USUAL } else { (self.passes + step) % TILES.len() }
    }

    /// A pass over so many images begins.
    pub fn begin_pass(&mut self, images: usize) {
        if images != self.images {
            (self.images, self.passes, self.spent) = (images, 0, 0.0);
            self.least.clear();
        }
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
        if self.tiles.is_some() {
            return;
        }
        self.least.resize(self.current.len(), [None; TILES.len()]);
        if self.passes >= WARM_UP {
            self.spent += self.current.iter().sum::<f64>();
            for (step, &seconds) in self.current.iter().enumerate().filter(|(_, s)| **s > 0.0) {
                let tried = (self.passes + step) % TILES.len();
                let least = &mut self.least[step][tried];
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
            self.tiles = Some(TILES[self.fastest()]);
        }
    }

    fn fastest(&self) -> usize {
        let seconds = |tiles: usize| -> f64 { self.least.iter().filter_map(|s| s[tiles]).sum() };
        let by_seconds = |&a: &usize, &b: &usize| seconds(a).total_cmp(&seconds(b));
        let fastest = (0..TILES.len()).min_by(by_seconds).unwrap_or(USUAL);
        if seconds(fastest) < CLEARLY * seconds(USUAL) { fastest } else { USUAL }
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
            if let Some(tiles) = tuning.tiles() {
                assert_eq!(tuning.tiles_of(3), tiles);
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
        assert_eq!(tune(fastest(32, 0.3)), (32, 10));
        assert_eq!(tune(fastest(96, 0.3)), (96, 10));
        assert_eq!(tune(fastest(96, 0.01)), (64, 10));
        assert_eq!(tune(fastest(64, 0.3)), (64, 10));
        // Slow passes are tried once only.
        assert_eq!(tune(|tiles| tiles as f64), (32, 4));
    }

    #[test]
    fn what_is_asked_for_is_not_tried() {
        let mut tuning = Tuning::new(48);
        tuning.begin_pass(10);
        assert_eq!((tuning.tiles(), tuning.tiles_of(0), tuning.tiles_of(1)), (Some(48), 48, 48));
    }

    #[test]
    fn other_numbers_of_images_are_not_compared() {
        let mut tuning = Tuning::new(0);
        for images in [10, 10, 10, 20, 20, 20] {
            tuning.begin_pass(images);
            tuning.add(0, 1.0);
            tuning.end_pass();
        }
        assert_eq!((tuning.tiles(), tuning.passes), (None, 3));
    }
}
