//! How closely an engine must come to what is exact.

/// The most that an engine may be off, where its rounding decides. Vectors (a gradient, a tensor of the
/// state) are compared as a whole, by the Euclidean norm of their difference.
///
/// What does not depend on rounding has no tolerance: two engines that do the same have the same bits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerances {
    /// Of a loss, absolutely; losses are of the order of one.
    pub loss: f64,
    /// Of gradients, logits, and running statistics after a batch, as a share of their norm.
    pub relative: f64,
    /// Of the same, absolutely, beside that share: the gradient of a bias before BatchNorm is nothing but
    /// rounding. Of a gradient, as a share of the norm of all gradients where that is above one.
    pub absolute: f64,
    /// Of the state after two updates, as a share of its norm: the second begins where the first ended.
    pub updates: f64,
    /// Of momentum buffers after two updates, as a share of their norm: the second gradient is taken where
    /// the first update ended.
    pub momentum: f64,
    /// Of the state after two updates with Muon, which goes as far in directions of which the gradient has next to
    /// nothing as in all others.
    pub muon: f64,
    /// Of update rules and averages, which compute in `f32` on every engine, as a share of the norm.
    pub rules: f64,
    /// Of each number of a gradient that is summed up in another order (of micro-batches, halves or
    /// processes), absolutely; the gradients there are of the order of one at most.
    pub reordered: f64,
}

impl Tolerances {
    /// For engines that compute and store in `f32`.
    pub const F32: Tolerances = Tolerances {
        // Logits of the order of one, each a sum of hundreds of products: some tens of roundings of 6e-8.
        loss: 1e-6,
        // Fifty roundings of 6e-8: what comes together in ten layers. PyTorch's own f32 is as far off.
        relative: 3e-6,
        // The same share of what is summed up, which is of the order of a third.
        absolute: 1e-6,
        updates: 3e-6,
        momentum: 3e-6,
        // Three iterations of a polynomial with slopes of up to 3.4 at zero, on networks of this size.
        muon: 3e-6,
        // A few tens of roundings: an iteration of Muon sums up tens of products.
        rules: 2e-6,
        // Sixteen roundings of a number of the order of one.
        reordered: 1e-6,
    };

    /// For engines that compute in `f32` and store what backward reads in bfloat16, whose rounding is of
    /// 2^-9 = 2e-3.
    pub const BF16: Tolerances = Tolerances {
        // Five roundings of bfloat16; the forward pass rounds once for each layer.
        loss: 1e-2,
        // Rounding moves a few in a thousand inputs of ReLU and LeakyReLU across 0, each with its whole
        // gradient, and largest numbers of a max-pooling square to their neighbours. In networks of two
        // channels a few of them count: the
        // CPU engine is off by 0.26 at most.
        relative: 3.5e-1,
        // Three roundings of the norm of all gradients: a bias sums up thousands that nearly cancel.
        absolute: 6e-3,
        // Of what two gradients that are off by `relative` move the parameters by, which is at most as far
        // again as they were from 0: the CPU engine is off by 0.11 at most.
        updates: 2e-1,
        // They say nothing: in an airbench network of four channels those of the f64 reference change by half
        // if it rounds the outputs of convolutions to bfloat16. After one update they are held to `relative`.
        momentum: f64::MAX,
        // The same, as Muon makes every step as long as a tenth of the parameters.
        muon: 2e-1,
        // The rules see nothing of how feature maps are stored.
        rules: Tolerances::F32.rules,
        // Half a rounding, as sums that differ in the last bit of f32 may be rounded to neighbours.
        reordered: 1e-3,
    };
}
