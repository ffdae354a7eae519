//! Update rules: how a parameter follows from its gradient.

/// The update rule of a parameter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rule {
    /// Stochastic gradient descent with momentum.
    Sgd(Sgd),
    /// Muon: momentum, orthogonalised; for weights of convolutions and linear layers.
    Muon(Muon),
    /// The parameter is frozen: it and its momentum buffer keep their bits, and its gradient is cleared.
    Frozen,
}

/// Stochastic gradient descent with momentum, as PyTorch's `SGD`. With the gradient `g` and the momentum
/// buffer `m` of a parameter `p`: `g += weight_decay * p; m = momentum * m + g; p -= learning_rate * m` (with
/// Nesterov momentum: `p -= learning_rate * (g + momentum * m)`).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sgd {
    /// The learning rate.
    pub learning_rate: f32,
    /// The decay of the momentum buffer.
    pub momentum: f32,
    /// Whether to use Nesterov momentum.
    pub nesterov: bool,
    /// L2 weight decay, added to the gradient.
    pub weight_decay: f32,
}

/// Muon (Keller Jordan, <https://kellerjordan.github.io/posts/muon/>) in airbench's form. With the gradient
/// `g` and the momentum buffer `m` of a weight `w` `[rows, columns]` (of a convolution, rows are output
/// channels and columns the rest): `m = momentum * m + g; u = m` (with Nesterov momentum:
/// `u = g + momentum * m`); `w *= sqrt(rows) / |w|`; `x = u / (|u| + 1e-7)`; `steps` times
/// `x = a x + b (x x^T) x + c (x x^T)^2 x` with `a, b, c = 3.4445, -4.7750, 2.0315` (on the transpose if
/// `rows > columns`); `w -= learning_rate * x`. A weight of zeros is not rescaled.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Muon {
    /// The learning rate.
    pub learning_rate: f32,
    /// The decay of the momentum buffer.
    pub momentum: f32,
    /// Whether to use Nesterov momentum.
    pub nesterov: bool,
    /// Newton-Schulz iterations; airbench uses three.
    pub steps: usize,
}
