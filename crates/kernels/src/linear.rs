//! Linear layers on vectors: `y = x * weight^T + bias`, weights `[outputs, inputs]` as in PyTorch.

use crate::Pool;
use crate::matmul::{Destination, Into, Strides, multiply, multiply_shared};
use crate::shared::Shared;

/// Features a task takes.
const BLOCK: usize = 128;

/// A linear layer's shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Linear {
    /// Features that go in.
    pub inputs: usize,
    /// Features that come out.
    pub outputs: usize,
}

/// `x` is `[N, inputs]`, `y` is `[N, outputs]`, `bias` is `[outputs]`.
pub fn forward(
    pool: &Pool,
    layer: &Linear,
    x: &[f32],
    weight: &[f32],
    bias: &[f32],
    y: &mut [f32],
) {
    let Linear { inputs, outputs } = *layer;
    let images = y.len() / outputs;
    for y in y.chunks_exact_mut(outputs) {
        y.copy_from_slice(bias);
    }
    columns(pool, images, outputs, y, |y, start, width| {
        // SAFETY: `columns` gives each task its own columns.
        unsafe {
            multiply_shared(
                [images, width, inputs],
                y,
                Into::Add,
                (x, Strides::row_major(inputs)),
                (weight, Strides::row_major(inputs).at(start * inputs).transposed()),
            );
        }
    });
}

/// The gradients for `dy` `[N, outputs]`: adds to `dweight` and `dbias`, overwrites `dx`
/// where it is wanted.
#[allow(clippy::too_many_arguments)]
pub fn backward(
    pool: &Pool,
    layer: &Linear,
    x: &[f32],
    weight: &[f32],
    dy: &[f32],
    dweight: &mut [f32],
    dbias: &mut [f32],
    dx: Option<&mut [f32]>,
) {
    let Linear { inputs, outputs } = *layer;
    let images = dy.len() / outputs;
    pool.chunks(dweight, BLOCK * inputs, |block, dweight| {
        multiply(
            [dweight.len() / inputs, inputs, images],
            (dweight, Strides::row_major(inputs)),
            Into::Add,
            (dy, Strides::row_major(outputs).at(block * BLOCK).transposed()),
            (x, Strides::row_major(inputs)),
        );
    });
    for (out, dbias) in dbias.iter_mut().enumerate() {
        *dbias += dy.iter().skip(out).step_by(outputs).map(|&dy| f64::from(dy)).sum::<f64>() as f32;
    }
    let Some(dx) = dx else { return };
    columns(pool, images, inputs, dx, |dx, start, width| {
        // SAFETY: `columns` gives each task its own columns.
        unsafe {
            multiply_shared(
                [images, width, outputs],
                dx,
                Into::Overwrite,
                (dy, Strides::row_major(outputs)),
                (weight, Strides::row_major(inputs).at(start)),
            );
        }
    });
}

/// Calls `task(columns, start, width)` for each block of columns of the matrix `[rows, len]`.
fn columns(
    pool: &Pool,
    rows: usize,
    len: usize,
    matrix: &mut [f32],
    task: impl Fn(Destination, usize, usize) + Sync,
) {
    assert_eq!(matrix.len(), rows * len, "the matrix has the wrong length");
    let data = &Shared::new(matrix);
    pool.run(len.div_ceil(BLOCK), |block, _| {
        let start = block * BLOCK;
        let strides = Strides::row_major(len).at(start);
        task(Destination { data, strides }, start, BLOCK.min(len - start));
    });
}
