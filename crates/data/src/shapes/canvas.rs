//! The image being drawn: its background, what is painted over it, and its noise.

use super::fixed_point::{Colour, ONE, PIXEL, TURN, between, mix, sine, turned};
use super::rng::Rng;
use crate::ImageShape;

const SHAPE: ImageShape = ImageShape::CIFAR;

/// The length of the sides of the image, which is square.
pub const WIDTH: i64 = SHAPE.width as i64 * PIXEL;

/// The pixels, row by row.
pub struct Canvas([Colour; SHAPE.plane()]);

/// The centre of a pixel.
fn middle(index: usize) -> [i64; 2] {
    [index % SHAPE.width, index / SHAPE.width].map(|at| at as i64 * PIXEL + PIXEL / 2)
}

impl Canvas {
    /// A background between two colours: stripes (wide ones look like a gradient), checks or clouds.
    pub fn textured([one, other]: [Colour; 2], rng: &mut Rng) -> Self {
        let texture = rng.below(4);
        let clouds = Clouds::new(rng);
        let period = if texture == 0 { rng.between(50, 90) } else { rng.between(6, 14) };
        let frequency = (TURN << 16) / (period * PIXEL);
        let wave = |along: i64| sine((along * frequency) >> 16);
        // The larger the gain, the sharper the edges between the two colours.
        let gain = rng.between(1, 4);
        let axis = rng.direction();
        let start = rng.below(WIDTH);
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

    /// Paints `colour` where `distance` is negative, with an edge that fades over a width of `softness`.
    pub fn paint(&mut self, colour: Colour, softness: i64, distance: impl Fn([i64; 2]) -> i64) {
        for (index, pixel) in self.0.iter_mut().enumerate() {
            let inside = softness / 2 - distance(middle(index));
            if inside > 0 {
                *pixel = mix(*pixel, colour, (inside * 256 / softness).min(256));
            }
        }
    }

    /// The bytes of the image, channel by channel, with noise on each.
    pub fn noisy(&self, rng: &mut Rng) -> Vec<u8> {
        let strength = rng.between(2, 20);
        let mut bytes = vec![0; SHAPE.elements()];
        rng.fill(&mut bytes);
        for channel in 0..SHAPE.channels {
            let plane = &mut bytes[channel * SHAPE.plane()..][..SHAPE.plane()];
            for (byte, pixel) in plane.iter_mut().zip(&self.0) {
                let noise = (i64::from(*byte) - 128) * strength / 128;
                *byte = (i64::from(pixel[channel]) + noise).clamp(0, 255) as u8;
            }
        }
        bytes
    }
}

/// Value noise: random numbers on a grid, interpolated smoothly.
struct Clouds {
    spacing: i64,
    grid: [[u8; 9]; 9],
}

impl Clouds {
    fn new(rng: &mut Rng) -> Self {
        let spacing = rng.between(4, 10) * PIXEL;
        let mut grid = [[0; 9]; 9];
        grid.iter_mut().for_each(|row| rng.fill(row));
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
