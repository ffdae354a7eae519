//! Updates of parameters from their gradients.

use crate::disjoint_slice::DisjointSlice;
use crate::elementwise::PIECE;
use crate::simd::{Kernel, LANES, Simd};
use crate::thread_pool::split_range;
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

/// The squared norm of `values - before`, in f64 and in a fixed order; `before` becomes `values`.
///
/// # Panics
/// If lengths differ.
pub fn squared_change(processor: &Processor, values: &[f32], before: &mut [f32]) -> f64 {
    assert_eq!(values.len(), before.len(), "lengths differ");
    let before = &DisjointSlice::new(before);
    sum_of_pieces(processor, values, |start, values| {
        // SAFETY: each piece is one task's.
        let before = unsafe { before.part(start, values.len()) };
        let mut lanes = [0.0f64; LANES];
        for (before, values) in before.chunks_mut(LANES).zip(values.chunks(LANES)) {
            for ((before, &value), lane) in before.iter_mut().zip(values).zip(&mut lanes) {
                let change = f64::from(value) - f64::from(*before);
                *lane += change * change;
                *before = value;
            }
        }
        lanes.iter().sum()
    })
}

/// The squared norm of `values`, in f64 and in a fixed order.
pub fn squared_norm(processor: &Processor, values: &[f32]) -> f64 {
    sum_of_pieces(processor, values, |_, values| {
        let mut lanes = [0.0f64; LANES];
        for values in values.chunks(LANES) {
            for (&value, lane) in values.iter().zip(&mut lanes) {
                *lane += f64::from(value) * f64::from(value);
            }
        }
        lanes.iter().sum()
    })
}

/// Pieces that a sum is cut into, at most: so many terms are kept on the stack.
const TERMS: usize = 64;

/// The sum of what `term` gives for each piece of `values`, which it is told the start of.
fn sum_of_pieces(
    processor: &Processor,
    values: &[f32],
    term: impl Fn(usize, &[f32]) -> f64 + Sync,
) -> f64 {
    let mut terms = [0.0f64; TERMS];
    let pieces = values.len().div_ceil(PIECE).min(TERMS);
    let work = ThreadPool::ELEMENT * values.len();
    processor.pool.chunks(&mut terms[..pieces], 1, work, |piece, out| {
        let piece = split_range(values.len(), pieces, piece);
        out[0] = term(piece.start, &values[piece]);
    });
    terms.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;

    #[test]
    fn the_change_since_the_last_time() {
        // More than there are terms of one piece each.
        let values: Vec<f32> = (0..600_001).map(|i| (i % 7) as f32).collect();
        let mut bits = Vec::new();
        for threads in [1, 3] {
            let processor = Processor { pool: ThreadPool::new(threads), isa: Isa::best() };
            let mut before = vec![1.0; values.len()];
            let expected: f64 = values.iter().map(|&v| f64::from(v - 1.0).powi(2)).sum();
            let change = squared_change(&processor, &values, &mut before);
            assert!((change / expected - 1.0).abs() < 1e-12);
            assert_eq!(squared_change(&processor, &values, &mut before), 0.0);
            assert_eq!(before, values);
            let expected: f64 = values.iter().map(|&v| f64::from(v).powi(2)).sum();
            assert!((squared_norm(&processor, &values) / expected - 1.0).abs() < 1e-12);
            bits.push(change.to_bits());
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
