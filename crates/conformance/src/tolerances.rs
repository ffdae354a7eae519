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
    /// Whether sums over images follow the batch's tree, so that any power of two of processes comes to the bits of one.
    pub sums_follow_the_tree: bool,
    /// Of the gradients of two halves of a batch, added up, beside those of the batch, as a share of their norm.
    pub halves: f64,
}

impl Tolerances {
    /// For engines that compute and store in `f32`. One rounding is 6e-8 of a number; the bounds are some tens of
    /// them, those that Crescendo has always been held to beside PyTorch.
    pub const F32: Tolerances = Tolerances {
        loss: 1e-6,
        relative: 3e-6,
        absolute: 1e-6,
        updates: 3e-6,
        momentum: 3e-6,
        muon: 3e-6,
        rules: 2e-6,
        reordered: 1e-6,
        sums_follow_the_tree: false,
        halves: 3e-6,
    };

    /// For engines that compute in `f32` and store what backward reads in bfloat16, whose rounding is
    /// 2^-9 = 2e-3. Only the suite's small networks are held to these wide bounds: rounding moves a few of the
    /// inputs of ReLU and max-pooling across a boundary, and among two or four channels each counts. They find
    /// wrong formulas, not small inaccuracies.
    pub const BF16: Tolerances = Tolerances {
        // About five roundings, one for each layer of the forward pass.
        loss: 1e-2,
        // A third above the worst gradient of the CPU engine (0.26).
        relative: 3.5e-1,
        // Three roundings of the norm of all gradients: a bias sums up thousands that nearly cancel.
        absolute: 6e-3,
        // Twice the worst state of the CPU engine (0.11).
        updates: 2e-1,
        // Not compared after two updates: in an airbench network of four channels, rounding the outputs of
        // convolutions in the f64 reference changes a momentum buffer by half. After one update they are held to
        // `relative`.
        momentum: f64::MAX,
        muon: 2e-1,
        // The update rules do not read stored feature maps.
        rules: Tolerances::F32.rules,
        // Half a rounding: sums that differ in the last bit of f32 may be rounded to neighbours.
        reordered: 1e-3,
        sums_follow_the_tree: false,
        // Gradients are f32.
        halves: Tolerances::F32.halves,
    };

    /// For engines that also multiply numbers in bfloat16, with sums in `f32`, and store the gradients of feature maps in
    /// it. A rounding is 2^-9 = 2e-3. The worst of the CUDA engine stands beside each bound; the f64 reference, with the
    /// factors of its products and what it stores rounded to bfloat16, is off by as much in the same places. The CPU
    /// engine, which rounds the factors of Winograd's products and stores nothing in bfloat16, stays within these bounds.
    pub const BF16_PRODUCTS: Tolerances = Tolerances {
        // Of the worst network 7 layers come before the loss: 14 factors and 6 stored maps, so 20 roundings (3.9e-2) if
        // all go in one direction. The worst is 1.9e-2 of the loss, the rounded reference's 2.1e-2.
        loss: 2.5e-2,
        // A third above the worst gradient (0.35); the rounded reference's is 0.37. Both are of the first convolution of
        // a block of two channels with ReLU, whose inputs are moved across the kink.
        relative: 4.5e-1,
        absolute: Tolerances::BF16.absolute,
        // A third above the worst: 0.05 of a tensor, 0.09 of logits.
        updates: 1.2e-1,
        momentum: f64::MAX,
        muon: 1.2e-1,
        rules: Tolerances::F32.rules,
        // As with bf16 storage. The worst is 5e-8: there no number is rounded to a neighbour.
        reordered: Tolerances::BF16.reordered,
        sums_follow_the_tree: false,
        // Five gradients of maps are stored on the way to the first layer, in each half: 10 roundings (2e-2) if all go in
        // one direction. The worst is 1.04e-2.
        halves: 1.5e-2,
    };
}
