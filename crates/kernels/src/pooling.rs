//! Average pooling, and the change from maps to vectors that follows it.

use crate::{Map, Pool};

/// The map that comes out of pooling squares of `size` pixels; what does not fill a square is left
/// out, as in PyTorch.
pub fn output(size: usize, input: Map) -> Map {
    Map { height: input.height / size, width: input.width / size, ..input }
}

/// Each output pixel is the mean of a square of `size` x `size` pixels; `x` is `[C, N, H, W]`.
pub fn average(pool: &Pool, size: usize, map: Map, x: &[f32], y: &mut [f32]) {
    let out = output(size, map);
    let share = 1.0 / (size * size) as f32;
    // A channel of one image is a task's unit: the layout of channels and images does not matter.
    pool.chunks(y, out.pixels(), |index, y| {
        let x = &x[index * map.pixels()..][..map.pixels()];
        for (row, y) in y.chunks_exact_mut(out.width).enumerate() {
            for (column, y) in y.iter_mut().enumerate() {
                let corner = row * size * map.width + column * size;
                let rows = (0..size).map(|r| &x[corner + r * map.width..][..size]);
                *y = rows.flatten().sum::<f32>() * share;
            }
        }
    });
}

/// The gradient of [`average`]'s input.
pub fn average_backward(pool: &Pool, size: usize, map: Map, dy: &[f32], dx: &mut [f32]) {
    let out = output(size, map);
    let share = 1.0 / (size * size) as f32;
    pool.chunks(dx, map.pixels(), |index, dx| {
        let dy = &dy[index * out.pixels()..][..out.pixels()];
        for (row, dx) in dx.chunks_exact_mut(map.width).enumerate() {
            for (column, dx) in dx.iter_mut().enumerate() {
                let (r, c) = (row / size, column / size);
                *dx = if r < out.height && c < out.width {
                    dy[r * out.width + c] * share
                } else {
                    0.0
                };
            }
        }
    });
}

/// From maps `[C, N, H, W]` to vectors `[N, C * H * W]`, channel by channel as PyTorch's flatten.
pub fn flatten(pool: &Pool, map: Map, x: &[f32], y: &mut [f32]) {
    let (pixels, features) = (map.pixels(), x.len() / map.images);
    pool.chunks(y, features, |image, y| {
        for (channel, y) in y.chunks_exact_mut(pixels).enumerate() {
            y.copy_from_slice(&x[channel * map.len() + image * pixels..][..pixels]);
        }
    });
}

/// The reverse of [`flatten`], for its gradient and for images that come one after another.
pub fn unflatten(pool: &Pool, map: Map, y: &[f32], x: &mut [f32]) {
    let (pixels, features) = (map.pixels(), y.len() / map.images);
    pool.chunks(x, map.len(), |channel, x| {
        for (image, x) in x.chunks_exact_mut(pixels).enumerate() {
            x.copy_from_slice(&y[image * features + channel * pixels..][..pixels]);
        }
    });
}
