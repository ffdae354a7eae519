//! Fixed-point arithmetic for lengths, angles and colours, without floating point.

/// The length of one pixel.
pub const PIXEL: i64 = 256;
/// The angle of a full turn.
pub const TURN: i64 = 1 << 10;
/// 1 as a sine or cosine.
pub const ONE: i64 = 1 << 14;

/// Red, green and blue.
pub type Colour = [u8; 3];

/// Bhaskara's approximation of the sine, with an error of less than 0.2 %.
const SINES: [i64; TURN as usize] = {
    const HALF: i64 = TURN / 2;
    let mut sines = [0; TURN as usize];
    let mut angle = 0;
    while angle < HALF {
        let product = angle * (HALF - angle);
        let sine = 16 * ONE * product / (5 * HALF * HALF - 4 * product);
        sines[angle as usize] = sine;
        sines[(HALF + angle) as usize] = -sine;
        angle += 1;
    }
    sines
};

/// The sine of `angle`, approximately.
pub fn sine(angle: i64) -> i64 {
    SINES[(angle & (TURN - 1)) as usize]
}

/// The vector of length [`ONE`] in the direction `angle`.
pub fn direction(angle: i64) -> [i64; 2] {
    [sine(angle + TURN / 4), sine(angle)]
}

/// The coordinates of `point` with axes that are rotated so that the first has the direction `axis`.
pub fn turned([x, y]: [i64; 2], axis: [i64; 2]) -> [i64; 2] {
    let [cos, sin] = axis;
    [(x * cos + y * sin) / ONE, (y * cos - x * sin) / ONE]
}

/// The length of a vector.
pub fn length(vector: [i64; 2]) -> i64 {
    root(square(vector))
}

/// The squared length of a vector.
pub fn square([x, y]: [i64; 2]) -> i64 {
    x * x + y * y
}

/// The square root of a [`square`], which fits into 32 bits within an image.
pub fn root(square: i64) -> i64 {
    i64::from((square as u32).isqrt())
}

/// The colour at `share / 256` of the way from one colour to another.
pub fn mix(from: Colour, to: Colour, share: i64) -> Colour {
    std::array::from_fn(|channel| {
        between(i64::from(from[channel]), i64::from(to[channel]), share) as u8
    })
}

/// The number at `share / 256` of the way from one number to another.
pub fn between(from: i64, to: i64, share: i64) -> i64 {
    from + (((to - from) * share + 128) >> 8)
}
