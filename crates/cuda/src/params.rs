//! The parameters of kernels, as `kernels/*.cu` declare them. They have no padding, so that their bytes are theirs alone.

use bytemuck::{Pod, Zeroable};

use crate::driver::Address;

macro_rules! params {
    ($($(#[$doc:meta])* $name:ident { $($field:ident: $type:ty),* $(,)? })*) => {
        $(
            $(#[$doc])*
            #[repr(C)]
            #[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
            pub(crate) struct $name { $(pub $field: $type),* }

            impl Default for $name {
                fn default() -> Self { Zeroable::zeroed() }
            }
        )*
    };
}

/// Groups of parameters, and matrices, of one launch.
pub(crate) const MOST_SGD_GROUPS: usize = 96;
pub(crate) const MOST_MUON_MATRICES: usize = 32;

params! {
    /// See `maps.cuh`, for this and the next ones.
    Maps { data: Address, f32: i64 }
    Term { value: Maps, scale: Address, shift: Address }
    Activation { kind: i32, constant: f32 }
    Input { main: Term, residual: Term, activation: Activation }
    GradientInput { gradient: Maps, value: Maps, a: Address, b: Address, c: Address }
    /// See `epilogue.cuh`.
    Epilogue { out: Maps, bias: Address, shift: Address, sums: Address, channels: i64 }
    NormSums { value: Maps, mean: Address, sums: Address }
    GradientEpilogue {
        out: Maps,
        accumulate: i64,
        addend: [Maps; 2],
        activation: Activation,
        saved: Maps,
        argument: Input,
        norm: [NormSums; 2],
    }
    /// See `tile.cuh`.
    Window {
        images: i32,
        in_rows: i32,
        in_columns: i32,
        in_channels: i32,
        out_rows: i32,
        out_columns: i32,
        out_channels: i32,
        kernel: i32,
        stride: i32,
        padding: i32,
        spread: i32,
        tile_images: i32,
        tile_rows: i32,
        tile_columns: i32,
        tiles_down: i32,
        tiles_across: i32,
        halo_rows: i32,
        halo_columns: i32,
        plane: i32,
        chunk: i32,
        across_inverse: u32,
        down_inverse: u32,
    }
    ConvolutionParams {
        window: Window,
        input: Input,
        save: Maps,
        gradient: GradientInput,
        weights: Address,
        epilogue: Epilogue,
        gradient_epilogue: GradientEpilogue,
        tiles: i64,
        sums: Address,
        parts: i64,
    }
    /// See `apply.cu`.
    ApplyParams { input: Input, out: Maps, pixels: i64, channels: i64 }
    PackParams {
        weights: Address,
        packed: Address,
        outputs: i32,
        inputs: i32,
        kernel: i32,
        padded_sums: i32,
        padded_results: i32,
        gradient: i32,
        f32: i32,
        first: i32,
    }
    PackAllParams { layers: Address, count: i64 }
    WeightGradientParams {
        window: Window,
        input: Input,
        gradient: GradientInput,
        sums: Address,
        direct: Address,
        tiles: i32,
        splits: i32,
        tap_groups: i32,
        outputs: i32,
        inputs: i32,
        unused: i32,
    }
    WeightSumParams {
        sums: Address,
        gradient: Address,
        splits: i64,
        taps: i64,
        outputs: i64,
        inputs: i64,
        padded_outputs: i64,
        padded_inputs: i64,
    }
    BiasGradientParams {
        gradient: GradientInput,
        bias: Address,
        sums: Address,
        pixels: i64,
        channels: i32,
        padded_channels: i32,
        parts: i64,
    }
    PoolParams {
        images: i32,
        in_rows: i32,
        in_columns: i32,
        out_rows: i32,
        out_columns: i32,
        padded_channels: i32,
        size: i32,
        channels: i32,
        input: Input,
        gradient: GradientInput,
        epilogue: Epilogue,
        gradient_epilogue: GradientEpilogue,
    }
    NormParams {
        sums: Address,
        tiles: i64,
        channels: i32,
        padded_channels: i32,
        phase: i64,
        eps: f64,
        new_weight: f64,
        batch: Address,
        pixels: f64,
        weight: Address,
        bias: Address,
        running_means: Address,
        running_variances: Address,
        totals: Address,
        moments: Address,
        means: Address,
        scale: Address,
        shift: Address,
    }
    NormGradientParams {
        sums: Address,
        tiles: i64,
        channels: i32,
        padded_channels: i32,
        phase: i64,
        eps: f64,
        moments: Address,
        count: Address,
        weight: Address,
        weight_gradient: Address,
        bias_gradient: Address,
        totals: Address,
        a: Address,
        b: Address,
        c: Address,
    }
    /// See `batch.cuh`, for this and the next one.
    Batch {
        share: f64,
        mean_weight: f64,
        statistics_weight: f64,
        images: i64,
        first: i64,
        end: i64,
    }
    ResultHead { loss: f64, whole: f64, correct: i64, parts: i64 }
    LossParams {
        logits: Address,
        gradient: Address,
        labels: Address,
        batch: Address,
        class_weights: Address,
        losses: Address,
        correct: Address,
        result: Address,
        smoothing: f64,
        classes: i32,
        padded_classes: i32,
    }
    /// See `optimizer.cu`, for this and the next ones.
    RuleSettings { learning_rate: f32, momentum: f32, weight_decay: f32, nesterov: i32 }
    FlatParams {
        parameters: Address,
        gradients: Address,
        weight: Address,
        parts: Address,
        result: Address,
        len: i64,
    }
    SgdGroup { first: i64, end: i64, rule: i32, first_block: i32 }
    SgdParams {
        parameters: Address,
        gradients: Address,
        momentum: Address,
        rules: Address,
        count: i32,
        unused: i32,
        groups: [SgdGroup; MOST_SGD_GROUPS],
    }
    /// See `muon.cu`, for this and the next one.
    MuonMatrix {
        weight: Address,
        gradient: Address,
        momentum: Address,
        rule: Address,
        space: Address,
        rows: i32,
        columns: i32,
        blocks: i32,
        parts: i32,
        first_block: i32,
        unused: i32,
    }
    MuonParams { count: i32, which: i32, matrices: [MuonMatrix; MOST_MUON_MATRICES] }
    ImagesParams {
        images: Address,
        out: Maps,
        count: i64,
        channels: i64,
        padded_channels: i64,
        pixels: i64,
    }
    /// See `images.cu`, for this and the next ones.
    SamplePreparation {
        mean: [f64; 3],
        scale: [f64; 3],
        per_image: i64,
        reflect: i64,
        border: [i64; 3],
        cutout: i64,
    }
    SampleParams {
        index: u32,
        flip: u32,
        row: i32,
        column: i32,
        cutout_row: i32,
        cutout_column: i32,
    }
    SamplesParams {
        pixels: Address,
        samples: Address,
        preparation: Address,
        out: Maps,
        channels: i32,
        rows: i32,
        columns: i32,
        padded_channels: i32,
        side: i32,
        unused: i32,
    }
    /// See `peak.cu`, for this and the next one.
    PeakParams { out: Address, iterations: i64 }
    CopyParams { from: Address, to: Address, units: i64 }
}

impl GradientInput {
    /// The same as the terms of an input: `a * gradient`, and `b * value + c`.
    pub fn terms(&self) -> Input {
        Input {
            main: Term { value: self.gradient, scale: self.a, shift: 0 },
            residual: Term { value: self.value, scale: self.b, shift: self.c },
            activation: Activation::default(),
        }
    }
}

impl Activation {
    /// Whether it is linear on both sides of zero, and its derivative at a positive number is one: none, ReLU or LeakyReLU, as
    /// `maps.cuh` numbers them.
    pub fn is_piecewise(&self) -> bool {
        self.kind <= 2
    }
}
