//! The image being drawn: its ground, what is painted over it, its noise.

use super::fixed::{Colour, ONE, PIXEL, TURN, between, mix, sine, turned};
use super::random::Random;
use crate::{CHANNELS, IMAGE_BYTES, SIDE};

/// The length of the image's sides.
pub const WIDTH: i64 = SIDE as i64 * PIXEL;

/// The pixels, row by row.
pub struct Canvas([Colour; SIDE * SIDE]);

/// The middle of a pixel.
fn middle(index: usize) -> [i64; 2] {
    [index % SIDE, index / SIDE].map(|at| at as i64 * PIXEL + PIXEL / 2)
}

impl Canvas {
    /// A ground that goes between two colours: in a gradient, stripes, checks or clouds.
    pub fn textured([one, other]: [Colour; 2], random: &mut Random) -> Self {
        let texture = random.below(4);
        let clouds = Clouds::new(random);
        let period = if texture == 0 { random.between(50, 90) } else { random.between(6, 14) };
        let frequency = (TURN << 16) / (period * PIXEL);
        let wave = |along: i64| sine((along * frequency) >> 16);
        // The greater the gain, the harder the edges between the two colours.
        let gain = random.between(1, 4);
        let axis = random.direction();
        let start = random.below(WIDTH);
        Canvas(std::array::from_fn(|index| {
            let point = middle(index);
            let [along, across] = turned(point, axis).map(|at| at + start);
            let share = match texture {
                0 | 1 => 128 + wave(along) * 128 / ONE * gain,
                2 => 128 + wave(along) * wave(across) / ONE * 128 / ONE * gain,
                _ => clouds.at(point),
            };
            mix(one, other, share.clamp(0, 256))
        }))
    }

    /// Paints `colour` where `distance` says inside, fading over a width of `softness`.
    pub fn paint(&mut self, colour: Colour, softness: i64, distance: impl Fn([i64; 2]) -> i64) {
        for (index, pixel) in self.0.iter_mut().enumerate() {
            let inside = softness / 2 - distance(middle(index));
            if inside > 0 {
                *pixel = mix(*pixel, colour, (inside * 256 / softness).min(256));
            }
        }
    }

    /// The image's bytes, channel by channel, with noise on each.
    pub fn noisy(&self, random: &mut Random) -> Vec<u8> {
        let strength = random.between(2, 20);
        let mut bytes = vec![0; IMAGE_BYTES];
        random.fill(&mut bytes);
        for channel in 0..CHANNELS {
            let plane = &mut bytes[channel * SIDE * SIDE..][..SIDE * SIDE];
            for (byte, pixel) in plane.iter_mut().zip(&self.0) {
                let noise = (i64::from(*byte) - 128) * strength / 128;
                *byte = (i64::from(pixel[channel]) + noise).clamp(0, 255) as u8;
            }
        }
        bytes
    }
}

/// Value noise: random numbers on a grid, with smooth slopes between them.
struct Clouds {
    spacing: i64,
    grid: [[u8; 9]; 9],
}

impl Clouds {
    fn new(random: &mut Random) -> Self {
        let spacing = random.between(4, 10) * PIXEL;
        let mut grid = [[0; 9]; 9];
        grid.iter_mut().for_each(|row| random.fill(row));
        Clouds { spacing, grid }
    }

    /// From 0 to 255.
    fn at(&self, [x, y]: [i64; 2]) -> i64 {
        let smooth = |at: i64| {
            let part = at % self.spacing * 256 / self.spacing;
            (part * part * (3 * 256 - 2 * part)) >> 16
        };
        let (column, row) = ((x / self.spacing) as usize, (y / self.spacing) as usize);
        let along = |row: usize| {
            let [left, right] =
                [column, column + 1].map(|column| i64::from(self.grid[row][column]));
            between(left, right, smooth(x))
        };
        between(along(row), along(row + 1), smooth(y))
    }
}
