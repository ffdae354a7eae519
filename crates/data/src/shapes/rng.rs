//! Random choices that are the same on every machine.

use super::fixed_point::{Colour, TURN, direction, mix};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng};

/// A stream of random choices.
pub struct Rng(ChaCha8Rng);

/// The colours of one image.
pub struct Palette {
    /// The two colours of the background.
    pub ground: [Colour; 2],
    /// The colour of the figure, which differs from both.
    pub figure: Colour,
}

impl Rng {
    /// Stream `index` for a purpose, under `seed`.
    pub fn new(seed: u64, purpose: [u8; 2], index: usize) -> Self {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        key[8..10].copy_from_slice(&purpose);
        let mut rng = ChaCha8Rng::from_seed(key);
        rng.set_stream(index as u64);
        Rng(rng)
    }

    /// A number from 0 to `end - 1`.
    pub fn below(&mut self, end: i64) -> i64 {
        (i64::from(self.0.next_u32()) * end) >> 32
    }

    /// A number from `first` to `last`.
    pub fn between(&mut self, first: i64, last: i64) -> i64 {
        first + self.below(last - first + 1)
    }

    /// A number from `-max` to `max`, more often near 0.
    pub fn around(&mut self, max: i64) -> i64 {
        self.below(max + 1) - self.below(max + 1)
    }

    /// True with probability `1 / times`.
    pub fn one_in(&mut self, times: i64) -> bool {
        self.below(times) == 0
    }

    /// A random direction, as a vector of length [`ONE`](super::fixed_point::ONE).
    pub fn direction(&mut self) -> [i64; 2] {
        direction(self.below(TURN))
    }

    /// A random colour.
    pub fn colour(&mut self) -> Colour {
        [0; 3].map(|_| self.below(256) as u8)
    }

    /// Fills `bytes` with random bytes.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        self.0.fill_bytes(bytes);
    }

    /// Colours that can be distinguished; with probability 1/4 the contrast may be low.
    pub fn palette(&mut self) -> Palette {
        let least = if self.one_in(4) { 70 } else { 160 };
        loop {
            let first = self.colour();
            let ground = [first, mix(first, self.colour(), 96)];
            let figure = self.colour();
            if ground.iter().any(|&ground| contrast(ground, figure) < least) {
                continue;
            }
            // Light figures are more frequent: if light and dark were balanced, a linear classifier
            // could not learn anything.
            let inverted = brightness(figure) < brightness(first) && !self.one_in(6);
            let shade =
                |colour: Colour| if inverted { colour.map(|part| 255 - part) } else { colour };
            return Palette { ground: ground.map(shade), figure: shade(figure) };
        }
    }
}

fn contrast(one: Colour, other: Colour) -> i64 {
    one.iter().zip(other).map(|(&one, other)| i64::from(one.abs_diff(other))).sum()
}

fn brightness(colour: Colour) -> i64 {
    contrast(colour, [0; 3])
}
