//! Sums of tensors of one shape, and the sum of all their numbers.

use crate::Pool;

/// Numbers a task takes: about the size of a core's first-level cache.
pub(crate) const PIECE: usize = 8192;

/// `out = a + b`.
pub fn add(pool: &Pool, a: &[f32], b: &[f32], out: &mut [f32]) {
    assert!(a.len() == out.len() && b.len() == out.len(), "lengths differ");
    pool.chunks(out, PIECE, |piece, out| {
        let start = piece * PIECE;
        for ((out, a), b) in out.iter_mut().zip(&a[start..]).zip(&b[start..]) {
            *out = a + b;
        }
    });
}

/// `out += a`.
pub fn accumulate(pool: &Pool, a: &[f32], out: &mut [f32]) {
    assert_eq!(a.len(), out.len(), "lengths differ");
    pool.chunks(out, PIECE, |piece, out| {
        for (out, a) in out.iter_mut().zip(&a[piece * PIECE..]) {
            *out += a;
        }
    });
}

/// `out = a`.
pub fn copy(pool: &Pool, a: &[f32], out: &mut [f32]) {
    assert_eq!(a.len(), out.len(), "lengths differ");
    pool.chunks(out, PIECE, |piece, out| {
        out.copy_from_slice(&a[piece * PIECE..][..out.len()]);
    });
}

/// The sum of all numbers, in f64.
pub(crate) fn sum(values: &[f32]) -> f64 {
    lanes(values, |lane, value| *lane += f64::from(value))
}

/// A sum in f64 over eight lanes, so that the compiler can use vector instructions, in an order
/// that depends on the length alone.
pub(crate) fn lanes(values: &[f32], add: impl Fn(&mut f64, f32)) -> f64 {
    let mut sums = [0.0; 8];
    let mut blocks = values.chunks_exact(8);
    for block in &mut blocks {
        for (lane, &value) in sums.iter_mut().zip(block) {
            add(lane, value);
        }
    }
    for (lane, &value) in sums.iter_mut().zip(blocks.remainder()) {
        add(lane, value);
    }
    sums.iter().sum()
}
