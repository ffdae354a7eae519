//! Updates of parameters from their gradients.

use crate::Pool;
use crate::elementwise::PIECE;
use crate::shared::Shared;

/// Stochastic gradient descent with momentum, as PyTorch's `SGD` computes it:
/// `g += weight_decay * p; v = momentum * v + g; p -= learning_rate * v`
/// (with Nesterov's momentum: `p -= learning_rate * (g + momentum * v)`).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sgd {
    /// The step's length.
    pub learning_rate: f32,
    /// How much of the last velocity stays.
    pub momentum: f32,
    /// Whether the step looks ahead along the velocity.
    pub nesterov: bool,
    /// The pull towards zero, added to the gradient.
    pub weight_decay: f32,
}

/// One update of `parameters` and `velocity` by `gradients`, which are left as zeros.
pub fn sgd(
    pool: &Pool,
    rule: Sgd,
    parameters: &mut [f32],
    gradients: &mut [f32],
    velocity: &mut [f32],
) {
    let len = parameters.len();
    assert!(len == gradients.len() && len == velocity.len(), "lengths differ");
    let (gradients, velocity) = (Shared::new(gradients), Shared::new(velocity));
    pool.chunks(parameters, PIECE, |piece, parameters| {
        let (start, len) = (piece * PIECE, parameters.len());
        // SAFETY: the same piece of each slice, and a piece is one task's.
        let (gradients, velocity) =
            unsafe { (gradients.part(start, len), velocity.part(start, len)) };
        for ((p, g), v) in parameters.iter_mut().zip(gradients).zip(velocity) {
            let gradient = *g + rule.weight_decay * *p;
            *v = rule.momentum * *v + gradient;
            let step = if rule.nesterov { gradient + rule.momentum * *v } else { *v };
            *p -= rule.learning_rate * step;
            *g = 0.0;
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_updates_by_hand() {
        let pool = Pool::new(1);
        // Gradient 1.75 + 0.25 * p each time. First: g = 2, v = 2. Then plain: p = 0, g = 1.75,
        // v = 2.75; Nesterov: p = -0.5, g = 1.625, v = 2.625.
        for (nesterov, after) in [(false, [0.0, -1.375]), (true, [-0.5, -1.96875])] {
            let rule = Sgd { learning_rate: 0.5, momentum: 0.5, nesterov, weight_decay: 0.25 };
            let (mut p, mut v) = ([1.0], [0.0]);
            for after in after {
                let mut g = [1.75];
                sgd(&pool, rule, &mut p, &mut g, &mut v);
                assert_eq!((p[0], g[0]), (after, 0.0), "nesterov: {nesterov}");
            }
        }
    }
}
