//! The ten figures, each as the distance of a point from its edge.
//!
//! Every figure is its own mirror image and stays what it is however it is turned, so that an
//! augmentation that flips the images does not change a class.

use super::fixed::{PIXEL, length, root, square, turned};

/// What a figure's radius is in its own coordinates.
const UNIT: i64 = 1024;

/// A class of the data set.
#[derive(Clone, Copy, Debug)]
pub enum Figure {
    Circle,
    Ring,
    Triangle,
    Square,
    Cross,
    Star,
    Crescent,
    Arrow,
    Heart,
    Bars,
}

impl Figure {
    /// The classes, in the order of their labels.
    pub const ALL: [Figure; 10] = [
        Figure::Circle,
        Figure::Ring,
        Figure::Triangle,
        Figure::Square,
        Figure::Cross,
        Figure::Star,
        Figure::Crescent,
        Figure::Arrow,
        Figure::Heart,
        Figure::Bars,
    ];

    /// The class's name.
    pub fn name(self) -> &'static str {
        match self {
            Figure::Circle => "circle",
            Figure::Ring => "ring",
            Figure::Triangle => "triangle",
            Figure::Square => "square",
            Figure::Cross => "cross",
            Figure::Star => "star",
            Figure::Crescent => "crescent",
            Figure::Arrow => "arrow",
            Figure::Heart => "heart",
            Figure::Bars => "bars",
        }
    }

    /// How far `point` is outside the figure; negative inside.
    fn distance(self, point: [i64; 2]) -> i64 {
        let [x, y] = point;
        match self {
            Figure::Circle => disc(point, 900),
            Figure::Ring => disc(point, 760).abs() - 210,
            Figure::Triangle => polygon(point, &[[0, -1080], [935, 540], [-935, 540]]),
            Figure::Square => rectangle(point, 780, 780),
            Figure::Cross => rectangle(point, 1010, 280).min(rectangle(point, 280, 1010)),
            Figure::Star => polygon(point, &STAR),
            Figure::Crescent => disc([x, y + 80], 960).max(-disc([x, y - 400], 800)),
            Figure::Arrow => polygon(point, &ARROW),
            Figure::Heart => disc([x.abs() - 480, y + 380], 520).min(polygon(point, &HEART_TIP)),
            Figure::Bars => rectangle(point, 980, 180).min(rectangle([x, y.abs() - 720], 980, 180)),
        }
    }
}

const STAR: [[i64; 2]; 10] = [
    [0, -1090],
    [265, -364],
    [1037, -337],
    [428, 139],
    [641, 882],
    [0, 450],
    [-641, 882],
    [-428, 139],
    [-1037, -337],
    [-265, -364],
];

const ARROW: [[i64; 2]; 7] =
    [[0, -1080], [780, -180], [260, -180], [260, 1020], [-260, 1020], [-260, -180], [-780, -180]];

const HEART_TIP: [[i64; 2]; 6] =
    [[0, -380], [480, -380], [905, -80], [0, 1020], [-905, -80], [-480, -380]];

fn disc(point: [i64; 2], radius: i64) -> i64 {
    length(point) - radius
}

/// Beyond a corner this is less than the distance, which keeps the corners of outlines sharp.
pub fn rectangle([x, y]: [i64; 2], half_width: i64, half_height: i64) -> i64 {
    (x.abs() - half_width).max(y.abs() - half_height)
}

fn polygon(point: [i64; 2], corners: &[[i64; 2]]) -> i64 {
    let mut nearest = i64::MAX;
    let mut inside = false;
    let mut from = corners[corners.len() - 1];
    for &to in corners {
        nearest = nearest.min(square_to_edge(point, from, to));
        // Each edge that a ray from the point crosses takes it in or out.
        let edge = [to[0] - from[0], to[1] - from[1]];
        let side = edge[0] * (point[1] - from[1]) - edge[1] * (point[0] - from[0]);
        let crosses = (from[1] <= point[1]) != (to[1] <= point[1]);
        inside ^= crosses && (side > 0) == (edge[1] > 0);
        from = to;
    }
    if inside { -root(nearest) } else { root(nearest) }
}

/// The square of how far `point` is from the nearest point of an edge.
fn square_to_edge(point: [i64; 2], from: [i64; 2], to: [i64; 2]) -> i64 {
    let point = [point[0] - from[0], point[1] - from[1]];
    let edge = [to[0] - from[0], to[1] - from[1]];
    let along = point[0] * edge[0] + point[1] * edge[1];
    let nearest = along.clamp(0, square(edge));
    square(point) - nearest * (2 * along - nearest) / square(edge)
}

/// A figure in an image.
pub struct Placed {
    /// Which.
    pub figure: Figure,
    /// Where its middle is.
    pub centre: [i64; 2],
    /// Its radii across and along; it is stretched a little where they differ.
    pub radii: [i64; 2],
    /// The direction of its right side.
    pub axis: [i64; 2],
}

impl Placed {
    /// How far a point of the image is outside the figure; negative inside. Where the figure
    /// is stretched this is an approximation, good enough for the softness of its edge.
    pub fn distance(&self, [x, y]: [i64; 2]) -> i64 {
        let from_centre = [x - self.centre[0], y - self.centre[1]];
        let [across, along] = self.radii;
        // Most points are beyond what an outline or a soft edge could reach.
        let margin = 2 * PIXEL;
        let reach = across.max(along) * 9 / 8 + margin;
        if square(from_centre) > reach * reach {
            return margin;
        }
        let [x, y] = turned(from_centre, self.axis);
        let point = [x * UNIT / across, y * UNIT / along];
        self.figure.distance(point) * (across + along) / (2 * UNIT)
    }
}
