//! Pooling of squares that do not overlap. What does not fill a square is left out, as in PyTorch.

use crate::{Nchw, pairs};

/// The shape that comes out of pooling squares of `size` x `size` pixels.
fn output(size: usize, shape: Nchw) -> Nchw {
    Nchw { height: shape.height / size, width: shape.width / size, ..shape }
}

/// The indices of the pixels of each square, row by row, in the order of the output.
fn squares(size: usize, shape: Nchw) -> impl Iterator<Item = Vec<usize>> {
    let out = output(size, shape);
    (0..out.len()).map(move |i| {
        let (row, column) = (i / out.width % out.height, i % out.width);
        let (channel, image) = (out.channel_of(i), i / out.pixels() / out.channels);
        let pixel = |(r, c)| shape.at(image, channel, row * size + r, column * size + c);
        pairs(size, size).map(pixel).collect()
    })
}

/// The mean of each square.
pub fn average_pool(size: usize, shape: Nchw, x: &[f64]) -> Vec<f64> {
    let mean = |square: Vec<usize>| {
        square.iter().map(|&pixel| x[pixel]).sum::<f64>() / square.len() as f64
    };
    squares(size, shape).map(mean).collect()
}

/// The gradient of [`average_pool`]'s input.
pub fn average_pool_backward(size: usize, shape: Nchw, dy: &[f64]) -> Vec<f64> {
    let mut dx = vec![0.0; shape.len()];
    for (square, dy) in squares(size, shape).zip(dy) {
        for &pixel in &square {
            dx[pixel] = dy / square.len() as f64;
        }
    }
    dx
}

/// The first largest number of a square, none of which is NaN.
fn first_maximum(x: &[f64], square: &[usize]) -> usize {
    square
        .iter()
        .copied()
        .reduce(|first, next| if x[next] > x[first] { next } else { first })
        .unwrap()
}

/// The maximum of each square. No number may be NaN.
pub fn max_pool(size: usize, shape: Nchw, x: &[f64]) -> Vec<f64> {
    squares(size, shape).map(|square| x[first_maximum(x, &square)]).collect()
}

/// The gradient of [`max_pool`]'s input: all of it to the first maximum of a square, row by row.
pub fn max_pool_backward(size: usize, shape: Nchw, x: &[f64], dy: &[f64]) -> Vec<f64> {
    let mut dx = vec![0.0; shape.len()];
    for (square, dy) in squares(size, shape).zip(dy) {
        dx[first_maximum(x, &square)] = *dy;
    }
    dx
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{assert_gradient, dot, noise};

    #[test]
    fn gradients_match_finite_differences() {
        for size in [1, 2, 3, 4] {
            let shape = Nchw { images: 2, channels: 3, height: 5, width: 4 };
            let (x, dy) = (noise(1, shape.len()), noise(2, output(size, shape).len()));
            let average = average_pool_backward(size, shape, &dy);
            assert_gradient("average", &average, &x, |x| dot(&average_pool(size, shape, x), &dy));
            let max = max_pool_backward(size, shape, &x, &dy);
            assert_gradient("maximum", &max, &x, |x| dot(&max_pool(size, shape, x), &dy));
        }
    }

    #[test]
    fn of_equal_maxima_the_first_gets_the_gradient() {
        let shape = Nchw { images: 1, channels: 1, height: 2, width: 3 };
        let x = [1.0, 2.0, 9.0, 2.0, 2.0, 9.0];
        assert_eq!(max_pool(2, shape, &x), [2.0]);
        assert_eq!(max_pool_backward(2, shape, &x, &[5.0]), [0.0, 5.0, 0.0, 0.0, 0.0, 0.0]);
    }
}
