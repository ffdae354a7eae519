//! Updates of a parameter from its gradient.

/// The settings of [`sgd`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SgdConfig {
    /// The step's length.
    pub learning_rate: f64,
    /// The share of the momentum buffer that remains.
    pub momentum: f64,
    /// Whether the momentum is Nesterov's.
    pub nesterov: bool,
    /// The pull towards zero, added to the gradient.
    pub weight_decay: f64,
}

/// The settings of [`muon`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MuonConfig {
    /// The step's length.
    pub learning_rate: f64,
    /// The share of the momentum buffer that remains.
    pub momentum: f64,
    /// Whether the momentum is Nesterov's.
    pub nesterov: bool,
    /// Newton-Schulz iterations.
    pub steps: usize,
}

/// One update of PyTorch's `SGD`: `g = gradient + weight_decay * parameter`,
/// `buffer = momentum * buffer + g`, and `parameter -= learning_rate * buffer`, or
/// `parameter -= learning_rate * (g + momentum * buffer)` with Nesterov's momentum.
pub fn sgd(
    config: SgdConfig,
    parameter: &mut [f64],
    gradient: &[f64],
    momentum_buffer: &mut [f64],
) {
    let SgdConfig { learning_rate, momentum, nesterov, weight_decay } = config;
    for ((p, g), buffer) in parameter.iter_mut().zip(gradient).zip(momentum_buffer) {
        let g = g + weight_decay * *p;
        *buffer = momentum * *buffer + g;
        *p -= learning_rate * if nesterov { g + momentum * *buffer } else { *buffer };
    }
}

/// One update of Muon (Keller Jordan, <https://kellerjordan.github.io/posts/muon/>), as airbench
/// (arXiv 2404.00498) has it, of a weight `[rows, columns]`: `buffer = momentum * buffer + gradient`;
/// `u = buffer`, or `gradient + momentum * buffer` with Nesterov's momentum;
/// `weight *= sqrt(rows) / |weight|` unless it is zero; `weight -= learning_rate * orthogonalise(u)`.
pub fn muon(
    config: MuonConfig,
    rows: usize,
    weight: &mut [f64],
    gradient: &[f64],
    momentum_buffer: &mut [f64],
) {
    let MuonConfig { learning_rate, momentum, nesterov, steps } = config;
    let mut step = Vec::new();
    for (buffer, g) in momentum_buffer.iter_mut().zip(gradient) {
        *buffer = momentum * *buffer + g;
        step.push(if nesterov { g + momentum * *buffer } else { *buffer });
    }
    let step = orthogonalise(steps, rows, &step);
    let length = norm(weight);
    let scale = if length > 0.0 { (rows as f64).sqrt() / length } else { 1.0 };
    weight.iter_mut().zip(step).for_each(|(w, x)| *w = scale * *w - learning_rate * x);
}

/// Brings the singular values of a matrix `[rows, columns]` near one: it is divided by its norm plus
/// 1e-7, and then, `steps` times, `x = 3.4445 x - 4.7750 (x x^T) x + 2.0315 (x x^T)^2 x`, with `x`
/// transposed if it is taller than wide.
pub fn orthogonalise(steps: usize, rows: usize, matrix: &[f64]) -> Vec<f64> {
    let columns = matrix.len() / rows;
    let length = norm(matrix) + 1e-7;
    let mut x: Vec<f64> = matrix.iter().map(|x| x / length).collect();
    let tall = rows > columns;
    if tall {
        x = transpose(columns, &x);
    }
    let (side, width) = (rows.min(columns), rows.max(columns));
    for _ in 0..steps {
        let a = matmul(width, &x, &transpose(width, &x));
        let square = matmul(side, &a, &a);
        let b: Vec<f64> = a.iter().zip(square).map(|(a, s)| -4.7750 * a + 2.0315 * s).collect();
        let more = matmul(side, &b, &x);
        x.iter_mut().zip(more).for_each(|(x, more)| *x = 3.4445 * *x + more);
    }
    if tall { transpose(width, &x) } else { x }
}

fn norm(x: &[f64]) -> f64 {
    x.iter().map(|x| x * x).sum::<f64>().sqrt()
}

/// The transpose of a matrix whose rows have `width` numbers.
fn transpose(width: usize, x: &[f64]) -> Vec<f64> {
    (0..width).flat_map(|column| x.iter().skip(column).step_by(width).copied()).collect()
}

/// `a * b` for `a` `[rows, depth]` and `b` `[depth, columns]`.
fn matmul(depth: usize, a: &[f64], b: &[f64]) -> Vec<f64> {
    let columns = b.len() / depth;
    let mut c = vec![0.0; a.len() / depth * columns];
    for (a, c) in a.chunks(depth).zip(c.chunks_mut(columns)) {
        for (a, b) in a.iter().zip(b.chunks(columns)) {
            c.iter_mut().zip(b).for_each(|(c, b)| *c += a * b);
        }
    }
    c
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_updates_of_sgd_by_hand() {
        // Gradient 1.75 + 0.25 * p each time. First: g = 2, buffer = 2. Then plain: p = 0, g = 1.75,
        // buffer = 2.75; Nesterov: p = -0.5, g = 1.625, buffer = 2.625.
        for (nesterov, after) in [(false, [0.0, -1.375]), (true, [-0.5, -1.96875])] {
            let config =
                SgdConfig { learning_rate: 0.5, momentum: 0.5, nesterov, weight_decay: 0.25 };
            let (mut p, mut buffer) = ([1.0], [0.0]);
            for after in after {
                sgd(config, &mut p, &[1.75], &mut buffer);
                assert_eq!(p, [after], "nesterov: {nesterov}");
            }
        }
    }

    #[test]
    fn an_iteration_is_the_polynomial_of_the_singular_values() {
        let polynomial = |x: f64| 3.4445 * x - 4.7750 * x.powi(3) + 2.0315 * x.powi(5);
        // A diagonal matrix with a column of zeros, whose norm is 5.
        let length = 5.0 + 1e-7;
        let [three, four] = [3.0, 4.0].map(|x: f64| polynomial(polynomial(x / length)));
        for (rows, matrix) in
            [(2, [3.0, 0.0, 0.0, 0.0, 4.0, 0.0]), (3, [3.0, 0.0, 0.0, 4.0, 0.0, 0.0])]
        {
            let expected = matrix.map(|x| {
                if x == 3.0 {
                    three
                } else if x == 4.0 {
                    four
                } else {
                    0.0
                }
            });
            for (x, expected) in orthogonalise(2, rows, &matrix).iter().zip(expected) {
                assert!((x - expected).abs() < 1e-12, "{rows} rows: {x}, not {expected}");
            }
        }
    }

    #[test]
    fn muon_by_hand() {
        let config = MuonConfig { learning_rate: 0.5, momentum: 0.5, nesterov: false, steps: 0 };
        let (mut weight, mut buffer) = ([3.0, 4.0], [2.0, 0.0]);
        muon(config, 1, &mut weight, &[0.0, 1.0], &mut buffer);
        // The weight is scaled to length one; the step is (1, 1) over its length.
        let step = 0.5 / (2.0f64.sqrt() + 1e-7);
        assert_eq!(buffer, [1.0, 1.0]);
        assert!(
            (weight[0] - (0.6 - step)).abs() < 1e-12 && (weight[1] - (0.8 - step)).abs() < 1e-12
        );
    }
}
