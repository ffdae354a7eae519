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
/// How often each number is tried in each step, at most, and after how many seconds no more.
const ROUNDS: usize = 3;
const SECONDS: f64 = 2.0;

/// Tries numbers of tiles in the training passes that come first. A step takes another one in each pass, and its
/// neighbours others in the same pass: so that a change of the machine's speed meanwhile meets all alike.
#[derive(Clone, Debug)]
pub(crate) struct Tuning {
    /// What was chosen, or asked for.
    tiles: Option<usize>,
    /// Passes so far, over so many images.
    passes: usize,
    images: usize,
    /// Seconds with each number, and of the current pass.
    seconds: [f64; TILES.len()],
    current: [f64; TILES.len()],
}

impl Tuning {
    /// `tiles` at a time; 0 to try which number is the fastest.
    pub fn new(tiles: usize) -> Self {
        let tiles = Some(tiles).filter(|&tiles| tiles > 0);
        let seconds = [0.0; TILES.len()];
        Tuning { tiles, passes: 0, images: 0, seconds, current: seconds }
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
        self.current = [0.0; TILES.len()];
        if images != self.images {
            *self = Tuning { tiles: self.tiles, images, ..Tuning::new(0) };
        }
    }

    /// Counts the seconds of a step, forward or backward.
    pub fn add(&mut self, step: usize, seconds: f64) {
        self.current[self.tried_by(step)] += seconds;
    }

    /// The pass has ended, forward and backward.
    pub fn end_pass(&mut self) {
        if self.tiles.is_some() {
            return;
        }
        if self.passes >= WARM_UP {
            self.seconds.iter_mut().zip(self.current).for_each(|(sum, seconds)| *sum += seconds);
        }
        self.passes += 1;
        let tried = self.passes - WARM_UP;
        // Each step has tried each number equally often.
        if tried == 0 || !tried.is_multiple_of(TILES.len()) {
            return;
        }
        if tried == ROUNDS * TILES.len() || self.seconds.iter().sum::<f64>() >= SECONDS {
            self.tiles = Some(TILES[self.fastest()]);
        }
    }

    fn fastest(&self) -> usize {
        let by_seconds = |&a: &usize, &b: &usize| self.seconds[a].total_cmp(&self.seconds[b]);
        let fastest = (0..TILES.len()).min_by(by_seconds).unwrap_or(USUAL);
        let clearly = self.seconds[fastest] < CLEARLY * self.seconds[USUAL];
        if clearly { fastest } else { USUAL }
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
