//! The ten figures, each as a signed distance function.
//!
//! Every figure is symmetric, so that flipping an image does not change its class.

use super::fixed_point::{PIXEL, length, root, square, turned};

/// The radius of a figure in its own coordinates.
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

    /// The distance of `point` from the figure's edge, negative inside.
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

/// The distance from a rectangle around the origin, negative inside. Beyond a corner it is less than the
/// Euclidean distance, which keeps the corners of outlines sharp.
pub fn rectangle([x, y]: [i64; 2], half_width: i64, half_height: i64) -> i64 {
    (x.abs() - half_width).max(y.abs() - half_height)
}

fn polygon(point: [i64; 2], corners: &[[i64; 2]]) -> i64 {
    let mut nearest = i64::MAX;
    let mut inside = false;
    let mut from = corners[corners.len() - 1];
    for &to in corners {
        nearest = nearest.min(square_to_edge(point, from, to));
        // A point is inside if a ray from it crosses an odd number of edges.
        let edge = [to[0] - from[0], to[1] - from[1]];
        let side = edge[0] * (point[1] - from[1]) - edge[1] * (point[0] - from[0]);
        let crosses = (from[1] <= point[1]) != (to[1] <= point[1]);
        inside ^= crosses && (side > 0) == (edge[1] > 0);
        from = to;
    }
    if inside { -root(nearest) } else { root(nearest) }
}

/// The squared distance of `point` from the edge between `from` and `to`.
fn square_to_edge(point: [i64; 2], from: [i64; 2], to: [i64; 2]) -> i64 {
    let point = [point[0] - from[0], point[1] - from[1]];
    let edge = [to[0] - from[0], to[1] - from[1]];
    let along = point[0] * edge[0] + point[1] * edge[1];
    let nearest = along.clamp(0, square(edge));
    square(point) - nearest * (2 * along - nearest) / square(edge)
}

/// A figure at a place in an image.
pub struct PlacedFigure {
    /// The figure.
    pub figure: Figure,
    /// Its centre.
    pub centre: [i64; 2],
    /// Its radii across and along; it is stretched if they differ.
    pub radii: [i64; 2],
    /// The direction of its right side.
    pub axis: [i64; 2],
}

impl PlacedFigure {
    /// The distance of a point of the image from the figure's edge, negative inside. If the figure is
    /// stretched this is an approximation, good enough for its soft edge.
    pub fn distance(&self, [x, y]: [i64; 2]) -> i64 {
        let from_centre = [x - self.centre[0], y - self.centre[1]];
        let [across, along] = self.radii;
        // Most points are too far away for an outline or a soft edge.
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
