//! Views (test-time augmentation) in the graph: they are computed as one larger batch, and their logits averaged.

use crescendo_data::ImageShape;

use super::builder::{Attribute, Builder};

const SHAPE: ImageShape = ImageShape::CIFAR;
const ROWS: i64 = 2;
const COLUMNS: i64 = 3;

/// The weights of the views in the order in which [`add`] puts them: with a shift the image has 1/2, and each of the two
/// shifted images 1/4. An image and its mirror image have half of that each.
pub fn weights(flip: bool, shift: usize) -> Vec<f32> {
    let shifts: &[f32] = if shift > 0 { &[0.5, 0.25, 0.25] } else { &[1.0] };
    if flip {
        [shifts, shifts].concat().iter().map(|weight| weight / 2.0).collect()
    } else {
        shifts.to_vec()
    }
}

/// Adds the nodes from normalised images `[N, 3, 32, 32]` to their views, one after another, `[views * N, 3, 32, 32]`.
pub fn add(builder: &mut Builder, images: String, flip: bool, shift: usize) -> String {
    let mut views = images;
    if shift > 0 {
        let shifts = [("views/up", -(shift as isize)), ("views/down", shift as isize)];
        let [up, down] = shifts.map(|(name, by)| {
            let rows = shifted(SHAPE.height, by);
            let moved = gathered(builder, &format!("{name}_rows"), &views, &rows, ROWS);
            gathered(builder, name, &moved, &shifted(SHAPE.width, by), COLUMNS)
        });
        views = joined(builder, "views/shifted", &[&views, &up, &down]);
    }
    if flip {
        let reversed: Vec<i64> = (0..SHAPE.width as i64).rev().collect();
        let mirrored = gathered(builder, "views/mirrored", &views, &reversed, COLUMNS);
        views = joined(builder, "views/all", &[&views, &mirrored]);
    }
    views
}

/// Adds the nodes from the views' logits, `[views * N, classes]`, to their means, `[N, classes]`.
pub fn average(builder: &mut Builder, logits: &str, weights: &[f32], classes: usize) -> String {
    let views = weights.len();
    let shape = builder.ints("views/shape", &[views as i64, -1, classes as i64]);
    let logits = builder.node("Reshape", "views/logits", &[logits, &shape], &[]);
    let weights = builder.floats("views/weights", &[views, 1, 1], weights);
    let weighted = builder.node("Mul", "views/weighted", &[&logits, &weights], &[]);
    let axis = builder.ints("views/axis", &[0]);
    let once = [("keepdims", Attribute::Int(0))];
    builder.node("ReduceSum", "views/mean", &[&weighted, &axis], &once)
}

fn gathered(builder: &mut Builder, name: &str, images: &str, indices: &[i64], axis: i64) -> String {
    let indices = builder.ints(&format!("{name}_indices"), indices);
    builder.node("Gather", name, &[images, &indices], &[("axis", Attribute::Int(axis))])
}

fn joined(builder: &mut Builder, name: &str, images: &[&str]) -> String {
    builder.node("Concat", name, images, &[("axis", Attribute::Int(0))])
}

/// From which rows or columns those of an image come that is moved by `by`: beyond the edge it is mirrored at it.
fn shifted(size: usize, by: isize) -> Vec<i64> {
    let last = size as i64 - 1;
    let mirrored = |at: i64| last - (last - at.abs()).abs();
    (0..size as i64).map(|at| mirrored(at - by as i64)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_shifted_as_predict_shifts_them() {
        let plane = SHAPE.plane();
        // Every pixel says where it is.
        let image: Vec<f32> = (0..SHAPE.elements()).map(|at| (at % plane) as f32).collect();
        for by in [-3, -1, 1, 31] {
            let mut moved = vec![0.0; image.len()];
            crescendo_data::shift(&image, by, &mut moved);
            let (rows, columns) = (shifted(SHAPE.height, by), shifted(SHAPE.width, by));
            let own: Vec<f32> = rows
                .iter()
                .flat_map(|row| columns.iter().map(move |column| (row * 32 + column) as f32))
                .collect();
            assert_eq!(own, moved[..plane], "by {by}");
        }
    }

    #[test]
    fn weights_add_up_to_one() {
        for (flip, shift, views) in [(false, 0, 1), (true, 0, 2), (false, 2, 3), (true, 1, 6)] {
            let weights = weights(flip, shift);
            assert_eq!((weights.len(), weights.iter().sum::<f32>()), (views, 1.0));
        }
    }
}
