//! Update rules: how a parameter follows from its gradient.

/// The update rule of a parameter.
///
/// # Example
///
/// One rule for each parameter, as [`Engine::update`](crate::Engine::update) takes them:
///
/// ```
/// use crescendo_network::{Graph, Muon, NetworkConfig, Parameter, Role, Rule, Sgd, Shape};
///
/// let images = Shape::Maps { channels: 3, height: 32, width: 32 };
/// let config = NetworkConfig { blocks: vec![1], widths: vec![8], ..NetworkConfig::paper() };
/// let graph = Graph::new(&config.network(images)?)?;
/// let muon = Muon { learning_rate: 0.24, momentum: 0.6, nesterov: true, steps: 3 };
/// let sgd = Sgd { learning_rate: 0.01, momentum: 0.85, nesterov: true, weight_decay: 1e-4 };
/// // The start layer keeps its weights; the other convolutions are trained with Muon.
/// let rule = |parameter: &Parameter| match parameter.role {
///     _ if parameter.name.starts_with("start_layer.") => Rule::Frozen,
///     Role::Weight { .. } if parameter.shape.len() == 4 => Rule::Muon(muon),
///     _ => Rule::Sgd(sgd),
/// };
/// let rules: Vec<Rule> = graph.parameters.iter().map(rule).collect();
/// assert_eq!(rules.iter().filter(|&&rule| rule == Rule::Frozen).count(), 4);
/// assert_eq!(rules.iter().filter(|&&rule| rule == Rule::Muon(muon)).count(), 2);
/// # Ok::<(), crescendo_network::Error>(())
/// ```
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
///
/// See the example of [`Rule`].
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
///
/// See the example of [`Rule`].
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
