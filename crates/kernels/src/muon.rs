//! Muon (Keller Jordan, <https://kellerjordan.github.io/posts/muon/>), an optimizer for weights that are
//! matrices: the step of SGD with momentum, but with all its singular values near one.
//!
//! A polynomial of odd powers of a matrix is the same polynomial of its singular values. The one that is
//! used here (a Newton-Schulz iteration) brings those between zero and one nearer to one each time:
//! three times are enough for those above a twentieth, which end between 0.68 and 1.21.

use std::mem::swap;

use crate::elementwise::PIECE;
use crate::gemm::{self, Rhs, gemm};
use crate::optimizer::{SgdStep, sgd, squared_norm};
use crate::simd::LANES;
use crate::workspace::{Workspace, WorkspaceSize};
use crate::{Processor, ThreadPool};

/// The polynomial `a x + b x^3 + c x^5`.
const A: f32 = 3.4445;
const B: f32 = -4.7750;
const C: f32 = 2.0315;

/// Added to the step's norm, by which it is divided.
const EPS: f64 = 1e-7;

/// The settings of one update. With `g` the gradient and `v` the momentum buffer of a weight `w`:
/// `v = momentum * v + g; u = v` (with Nesterov's momentum: `u = g + momentum * v`);
/// `w *= sqrt(rows) / |w|; x = u / (|u| + 1e-7)`; `steps` times
/// `x = a x + b (x x^T) x + c (x x^T)^2 x`, with `x` transposed if it is taller than wide;
/// `w -= learning_rate * x`.
///
/// # Example
///
/// ```
/// use crescendo_kernels::muon::{self, MuonStep};
/// use crescendo_kernels::{Isa, Processor, ThreadPool, Workspace, WorkspaceSize};
///
/// let processor = Processor { pool: ThreadPool::new(1), isa: Isa::best() };
/// // One workspace serves the largest weight.
/// let size = WorkspaceSize::max(muon::workspace_size(2, 2), muon::workspace_size(2, 3));
/// let mut workspace = Workspace::new(1, size);
/// let rule = MuonStep { learning_rate: 0.1, momentum: 0.9, nesterov: false, steps: 3 };
/// let (mut weight, mut gradient) = ([3.0, 0.0, 0.0, 4.0], [1.0, 0.0, 0.0, 0.5]);
/// let mut momentum = [0.0; 4];
/// muon::update(&processor, &mut workspace, rule, 2, &mut weight, &mut gradient, &mut momentum);
/// // The weight is scaled to the norm `sqrt(2)`, and both entries of the step are near one.
/// for (index, before) in [(0, 3.0), (3, 4.0)] {
///     let step = (before * 2.0f32.sqrt() / 5.0 - weight[index]) / rule.learning_rate;
///     assert!((0.6..1.3).contains(&step), "{step}");
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MuonStep {
    /// The step's length, where the mean square of the rows' lengths is one.
    pub learning_rate: f32,
    /// The share of the momentum buffer that remains.
    pub momentum: f32,
    /// Whether the momentum is Nesterov's.
    pub nesterov: bool,
    /// Newton-Schulz iterations: three in airbench (arXiv 2404.00498).
    pub steps: usize,
}

/// The working memory that an [`update`] of a weight `[rows, columns]` needs.
pub fn workspace_size(rows: usize, columns: usize) -> WorkspaceSize {
    let side = rows.min(columns);
    WorkspaceSize { shared: 2 * rows * columns + 2 * side * side, ..gemm::workspace_size(side) }
}

/// One update of `weight` and `momentum buffer` by `gradient`, which is set to zero. All are
/// `[rows, columns]`: of a convolution's weight the rows are output channels, the columns filter taps of
/// input channels. A weight of zeros is not rescaled, and of a gradient of zeros comes a step of zeros.
///
/// # Panics
/// If lengths differ or are not a multiple of `rows`, or the workspace is too small: see [`workspace_size`].
pub fn update(
    processor: &Processor,
    workspace: &mut Workspace,
    rule: MuonStep,
    rows: usize,
    weight: &mut [f32],
    gradient: &mut [f32],
    momentum_buffer: &mut [f32],
) {
    let len = weight.len();
    assert!(len.is_multiple_of(rows), "the weight has no whole rows");
    let columns = len / rows;
    let (side, width) = (rows.min(columns), rows.max(columns));
    let (workers, shared) = workspace.split();
    let enough = shared.len() >= workspace_size(rows, columns).shared;
    assert!(enough, "the workspace was made for smaller weights");
    let (mut x, shared) = shared.split_at_mut(len);
    let (mut y, shared) = shared.split_at_mut(len);
    let (gram, shared) = shared.split_at_mut(side * side);
    let polynomial = &mut shared[..side * side];

    // Where SGD goes from the origin in a step of length -1.
    x.fill(0.0);
    let MuonStep { learning_rate, momentum, nesterov, steps } = rule;
    let step = SgdStep { learning_rate: -1.0, momentum, nesterov, weight_decay: 0.0 };
    sgd(processor, step, x, gradient, momentum_buffer);
    let memory = ThreadPool::ELEMENT * len;
    let shrink = (1.0 / (squared_norm(processor, x).sqrt() + EPS)) as f32;
    processor.pool.chunks(x, PIECE, memory, |_, x| x.iter_mut().for_each(|x| *x *= shrink));

    if rows > columns {
        transpose(processor, columns, x, y);
        swap(&mut x, &mut y);
    }
    for _ in 0..steps {
        // (a + b (x x^T) + c (x x^T)^2) x
        let transposed = Rhs { matrix: x, width, transposed: true };
        gemm(processor, &workers, side, x, transposed, gram);
        let again = Rhs { matrix: gram, width: side, transposed: false };
        gemm(processor, &workers, side, gram, again, polynomial);
        let work = ThreadPool::ELEMENT * gram.len();
        processor.pool.chunks(polynomial, side, work, |row, polynomial| {
            for (value, gram) in polynomial.iter_mut().zip(&gram[row * side..]) {
                *value = C * *value + B * gram;
            }
            polynomial[row] += A;
        });
        let plain = Rhs { matrix: x, width, transposed: false };
        gemm(processor, &workers, side, polynomial, plain, y);
        swap(&mut x, &mut y);
    }
    if rows > columns {
        transpose(processor, width, x, y);
        swap(&mut x, &mut y);
    }

    let norm = squared_norm(processor, weight).sqrt();
    let scale = if norm > 0.0 { ((rows as f64).sqrt() / norm) as f32 } else { 1.0 };
    processor.pool.chunks(weight, PIECE, memory, |piece, weight| {
        for (weight, x) in weight.iter_mut().zip(&x[piece * PIECE..]) {
            *weight = scale * *weight - learning_rate * x;
        }
    });
}

/// `to` becomes the transpose of `from`, whose rows have `width` numbers.
fn transpose(processor: &Processor, width: usize, from: &[f32], to: &mut [f32]) {
    let height = from.len() / width;
    // Sixteen columns together: their numbers share cache lines.
    let work = ThreadPool::ELEMENT * from.len();
    processor.pool.chunks(to, LANES * height, work, |block, to| {
        for (row, from) in from.chunks_exact(width).enumerate() {
            for (to, from) in to.chunks_exact_mut(height).zip(&from[block * LANES..]) {
                to[row] = *from;
            }
        }
    });
}
