//! Updates of parameters from their gradients.

use std::ops::Range;

use crate::disjoint_slice::DisjointSlice;
use crate::elementwise::PIECE;
use crate::partition::split_range;
use crate::simd::{Kernel, LANES, Simd};
use crate::{Processor, ThreadPool};

/// The settings of one update of stochastic gradient descent with momentum, as PyTorch's `SGD` computes
/// it, with `p` a parameter, `g` its gradient and `v` its momentum buffer:
/// `g += weight_decay * p; v = momentum * v + g; p -= learning_rate * v`
/// (with Nesterov's momentum: `p -= learning_rate * (g + momentum * v)`).
///
/// See the example of [the module `linear`](crate::linear).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SgdStep {
    /// The step's length.
    pub learning_rate: f32,
    /// The share of the momentum buffer that remains.
    pub momentum: f32,
    /// Whether the momentum is Nesterov's.
    pub nesterov: bool,
    /// The pull towards zero, added to the gradient.
    pub weight_decay: f32,
}

/// One update of `parameters` and `momentum buffer` by `gradients`, which are set to zero.
pub fn sgd(
    processor: &Processor,
    rule: SgdStep,
    parameters: &mut [f32],
    gradients: &mut [f32],
    momentum_buffer: &mut [f32],
) {
    let len = parameters.len();
    assert!(len == gradients.len() && len == momentum_buffer.len(), "lengths differ");
    let (gradients, momentum_buffer) =
        (DisjointSlice::new(gradients), DisjointSlice::new(momentum_buffer));
    processor.pool.chunks(parameters, PIECE, ThreadPool::ELEMENT * len, |piece, parameters| {
        let (start, len) = (piece * PIECE, parameters.len());
        // SAFETY: the same piece of each slice, and a piece is one task's.
        let (gradients, momentum_buffer) =
            unsafe { (gradients.part(start, len), momentum_buffer.part(start, len)) };
        processor.isa.run(Update { rule, parameters, gradients, momentum_buffer });
    });
}

struct Update<'a> {
    rule: SgdStep,
    parameters: &'a mut [f32],
    gradients: &'a mut [f32],
    momentum_buffer: &'a mut [f32],
}

impl Kernel for Update<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Update { rule, parameters, gradients, momentum_buffer } = self;
        let SgdStep { learning_rate, momentum, nesterov, weight_decay } = rule;
        let (rate, decay) = (s.splat(learning_rate), s.splat(weight_decay));
        let (keep, zero) = (s.splat(momentum), s.zero());
        let mut all = parameters
            .chunks_exact_mut(LANES)
            .zip(gradients.chunks_exact_mut(LANES))
            .zip(momentum_buffer.chunks_exact_mut(LANES));
        for ((p, g), v) in &mut all {
            let (p, g, v) = (p.as_mut_ptr(), g.as_mut_ptr(), v.as_mut_ptr());
            // SAFETY: chunks of sixteen numbers.
            unsafe {
                let parameter = s.load(p);
                let gradient = s.fma(decay, parameter, s.load(g));
                let speed = s.fma(keep, s.load(v), gradient);
                let step = if nesterov { s.fma(keep, speed, gradient) } else { speed };
                s.store(v, speed);
                s.store(p, s.fnma(rate, step, parameter));
                s.store(g, zero);
            }
        }
        let rest = parameters.len() / LANES * LANES;
        let tail = parameters[rest..].iter_mut().zip(&mut gradients[rest..]);
        for ((p, g), v) in tail.zip(&mut momentum_buffer[rest..]) {
            let gradient = weight_decay.mul_add(*p, *g);
            *v = momentum.mul_add(*v, gradient);
            let step = if nesterov { momentum.mul_add(*v, gradient) } else { *v };
            *p = (-learning_rate).mul_add(step, *p);
            *g = 0.0;
        }
    }
}

/// Adds `other` to `values`, and sets it to zero. Gives the squared norms of `values` and `other` before, and of the sum,
/// in f64 and in a fixed order.
///
/// # Panics
/// If lengths differ.
pub fn add_measured(processor: &Processor, values: &mut [f32], other: &mut [f32]) -> [f64; 3] {
    assert_eq!(values.len(), other.len(), "lengths differ");
    let len = values.len();
    let (values, other) = (&DisjointSlice::new(values), &DisjointSlice::new(other));
    sum_of_pieces(processor, len, |piece| {
        // SAFETY: each piece is one task's.
        let (values, other) = unsafe {
            (values.part(piece.start, piece.len()), other.part(piece.start, piece.len()))
        };
        let mut lanes = [[0.0f64; LANES]; 3];
        for (values, other) in values.chunks_mut(LANES).zip(other.chunks_mut(LANES)) {
            for (lane, (value, other)) in values.iter_mut().zip(other).enumerate() {
                let other = std::mem::take(other);
                let sum = *value + other;
                for (lanes, number) in lanes.iter_mut().zip([*value, other, sum]) {
                    lanes[lane] += f64::from(number) * f64::from(number);
                }
                *value = sum;
            }
        }
        lanes.map(|lanes| lanes.iter().sum())
    })
}

/// The squared norm of `values`, in f64 and in a fixed order.
pub(crate) fn squared_norm(processor: &Processor, values: &[f32]) -> f64 {
    let [norm] = sum_of_pieces(processor, values.len(), |piece| {
        let mut lanes = [0.0f64; LANES];
        for values in values[piece].chunks(LANES) {
            for (&value, lane) in values.iter().zip(&mut lanes) {
                *lane += f64::from(value) * f64::from(value);
            }
        }
        [lanes.iter().sum()]
    });
    norm
}

/// Pieces that a sum is cut into, at most: so many terms are kept on the stack.
const TERMS: usize = 64;

/// The sums of what `term` gives for each piece of so many numbers.
fn sum_of_pieces<const N: usize>(
    processor: &Processor,
    numbers: usize,
    term: impl Fn(Range<usize>) -> [f64; N] + Sync,
) -> [f64; N] {
    let mut terms = [[0.0f64; N]; TERMS];
    let pieces = numbers.div_ceil(PIECE).min(TERMS);
    let work = N * ThreadPool::ELEMENT * numbers;
    processor.pool.chunks(&mut terms[..pieces], 1, work, |piece, out| {
        out[0] = term(split_range(numbers, pieces, piece));
    });
    std::array::from_fn(|which| terms.iter().map(|term| term[which]).sum())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;

    #[test]
    fn a_sum_and_its_norms() {
        // More than there are terms of one piece each.
        let numbers = |by: usize| -> Vec<f32> { (0..600_001).map(|i| (i % by) as f32).collect() };
        let (first, second) = (numbers(7), numbers(5));
        let sum: Vec<f32> = first.iter().zip(&second).map(|(a, b)| a + b).collect();
        let mut bits = Vec::new();
        for threads in [1, 3] {
            let processor = Processor { pool: ThreadPool::new(threads), isa: Isa::best() };
            let (mut values, mut other) = (first.clone(), second.clone());
            let norms = add_measured(&processor, &mut values, &mut other);
            assert!(values == sum && other.iter().all(|&x| x == 0.0));
            for (norm, of) in norms.iter().zip([&first, &second, &sum]) {
                let expected: f64 = of.iter().map(|&x| f64::from(x).powi(2)).sum();
                assert!((norm / expected - 1.0).abs() < 1e-12);
            }
            bits.push(norms.map(f64::to_bits));
        }
        assert_eq!(bits[0], bits[1]);
    }

    #[test]
    fn two_updates_by_hand() {
        let processor = Processor { pool: ThreadPool::new(1), isa: Isa::best() };
        // Gradient 1.75 + 0.25 * p each time. First: g = 2, v = 2. Then plain: p = 0, g = 1.75,
        // v = 2.75; Nesterov: p = -0.5, g = 1.625, v = 2.625.
        for (nesterov, after) in [(false, [0.0, -1.375]), (true, [-0.5, -1.96875])] {
            let rule = SgdStep { learning_rate: 0.5, momentum: 0.5, nesterov, weight_decay: 0.25 };
            // A whole vector of numbers, and a rest.
            let (mut p, mut v) = ([1.0; 19], [0.0; 19]);
            for after in after {
                let mut g = [1.75; 19];
                sgd(&processor, rule, &mut p, &mut g, &mut v);
                assert_eq!((p, g), ([after; 19], [0.0; 19]), "nesterov: {nesterov}");
            }
        }
    }
}
