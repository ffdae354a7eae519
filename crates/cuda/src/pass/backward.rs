//! The loss and the backward pass.

use crescendo_plan::{Delivery, FusedInput, RequiredGradients, StepKind};

use super::view::activation;
use super::{Action, HostAction, Pass, Purpose, SUMS_BYTES, launch};
use crate::driver::Launch;
use crate::params::{
    BiasGradientParams, ConvolutionParams, GradientEpilogue, GradientInput, LossParams, Maps,
    NormGradientParams, PoolParams, WeightGradientParams, WeightSumParams,
};
use crate::window::{Layer, THREADS, TILE_CHANNELS, WEIGHT_INPUTS};
use crate::workspace::BIAS_PARTS;

/// Inputs of a block that adds the gradients of weights, and threads for each part of the splits, as `weight_gradient.cu`
/// has them.
const SUM_INPUTS: usize = 32;
const SUM_COLUMNS: usize = 72;

impl Pass<'_> {
    /// The loss, and the gradient of the logits.
    pub(super) fn loss(&mut self) {
        if self.count == 0 {
            return;
        }
        let classes = self.shape(self.plan.fused.logits());
        let losses = self.space.losses();
        let params = LossParams {
            logits: self.maps(self.plan.fused.logits()).data,
            gradient: self.gradient_maps(self.plan.gradients.logits()).data,
            labels: self.space.labels(),
            batch: self.state.batch.address,
            class_weights: self.state.class_weights.address,
            losses,
            correct: losses + 8 * self.count as u64,
            result: self.state.result.address,
            smoothing: self.label_smoothing,
            classes: classes.channels as i32,
            padded_classes: classes.padded() as i32,
        };
        let blocks = self.count.div_ceil(THREADS as usize);
        self.launch("cross_entropy", [blocks, 1, 1], 0, &params);
        if matches!(self.purpose, Purpose::Training { .. }) {
            self.launch("sum_loss", [1, 1, 1], SUMS_BYTES, &params);
        }
    }

    pub(super) fn backward(&mut self) {
        self.backward = true;
        let plan = self.plan;
        for (index, step) in plan.fused.steps.iter().enumerate().rev() {
            let required = self.required[index];
            if !required.any() {
                continue;
            }
            self.step = Some(index);
            let delivery = plan.gradients.steps[index].delivery.as_ref();
            let delivery = delivery.filter(|_| required.input);
            match plan.layers[index] {
                _ if self.count == 0 => {}
                Some(layer) => self.layer_backward(index, layer, required, delivery),
                None => {
                    if let Some(delivery) = delivery {
                        self.pool_backward(index, delivery);
                    }
                }
            }
            if let Some(delivery) = delivery.filter(|delivery| delivery.last) {
                let input = plan.gradients.gradients[delivery.gradient].input;
                for (which, term) in input.terms().enumerate() {
                    let Some(norm) = term.norm else { continue };
                    if self.count > 0 {
                        let [_, tiles] = plan.sums(index, self.count);
                        self.finish_norm_gradient(which, norm, tiles);
                    } else if self.sums_norms {
                        self.finish_norm_gradient(which, norm, 0);
                    }
                    self.report_final(self.state.norms[norm].node);
                }
            }
            if step.kind != StepKind::Write {
                self.report_final(step.node);
            }
        }
        self.step = None;
        // Those of frozen parameters, for which there is no backward.
        (0..plan.graph.nodes.len()).for_each(|node| self.report_final(node));
        self.backward = false;
    }

    /// The gradients of an operation's parameters are final.
    fn report_final(&mut self, node: usize) {
        let graph = self.graph();
        let Some(weight) = graph.nodes[node].weight else { return };
        if !std::mem::replace(&mut self.reported[weight], true) && self.processes {
            let range = graph.parameter_range(node);
            self.actions.push(Action::Host(HostAction::Final(range)));
        }
    }

    fn layer_backward(
        &mut self,
        index: usize,
        layer: Layer,
        required: RequiredGradients,
        delivery: Option<&Delivery>,
    ) {
        let step = &self.plan.fused.steps[index];
        let bias = self.graph().nodes[step.node].bias;
        let mut gradient = self.gradient_input(index);
        if self.plan.has_patches(layer) && gradient.a != 0 {
            // Both gradients read it several times.
            let out = Maps { data: self.space.output_gradient(), f32: 0 };
            self.apply(gradient.terms(), self.shape(step.output), out);
            gradient = GradientInput { gradient: out, ..GradientInput::default() };
        }
        let mut of_weights = gradient;
        if let Some(delivery) = delivery {
            // What is read through a BatchNorm is saved for the gradient of the weights, which reads it several times.
            let saves = required.weight && gradient.a != 0 && layer.gradient_reads_all();
            let saved =
                Maps { data: self.space.output_gradient(), f32: self.maps(step.output).f32 };
            self.input_gradient(index, layer, delivery, gradient, saves.then_some(saved));
            if saves {
                of_weights = GradientInput { gradient: saved, ..GradientInput::default() };
            }
        }
        if required.weight {
            self.weight_gradient(index, layer, of_weights);
        }
        // The BatchNorm behind a bias takes every shift away.
        if let Some(bias) = bias.filter(|_| required.bias && step.norm.is_none()) {
            self.bias_gradient(layer, gradient, bias);
        }
    }

    fn input_gradient(
        &mut self,
        index: usize,
        layer: Layer,
        delivery: &Delivery,
        gradient: GradientInput,
        save: Option<Maps>,
    ) {
        let tiling = self.plan.tiling(layer, self.count, true);
        let params = ConvolutionParams {
            window: tiling.window,
            gradient,
            input: gradient.terms(),
            save: save.unwrap_or_default(),
            weights: self.packed_weights(index)[1],
            gradient_epilogue: self.gradient_epilogue(delivery),
            tiles: tiling.tiles as i64,
            ..ConvolutionParams::default()
        };
        if self.plan.linear_parts(layer, self.count, true).is_some() {
            return self.linear(layer, params, tiling.blocks, true);
        }
        let (kernel, grid) = match self.plan.has_patches(layer) {
            true => {
                let is_piecewise = params.gradient_epilogue.activation.is_piecewise();
                let multiprocessors = self.plan.chip.multiprocessors;
                let kernel =
                    layer.gradient_patches_kernel(self.count, multiprocessors, is_piecewise);
                (kernel, layer.patches_grid(&tiling, true))
            }
            false => {
                let columns = layer.input.padded().div_ceil(TILE_CHANNELS);
                let kernel = self.kernel("input_gradient_f32", "input_gradient_bf16");
                (kernel, [tiling.blocks, columns, 1])
            }
        };
        self.launch(kernel, grid, tiling.shared, &params);
    }

    fn bias_gradient(&mut self, layer: Layer, gradient: GradientInput, bias: usize) {
        let pixels = self.count * layer.output.pixels();
        let parts = pixels.div_ceil(2048).min(BIAS_PARTS);
        let params = BiasGradientParams {
            gradient,
            bias: self.state.gradient(self.graph(), bias),
            sums: self.space.weight_sums(),
            pixels: pixels as i64,
            channels: layer.output.channels as i32,
            padded_channels: layer.output.padded() as i32,
            parts: parts as i64,
        };
        let (groups, shared) = (layer.output.padded() / 16, 8 * 8 * THREADS as usize);
        self.launch("bias_gradient", [groups, parts, 1], shared, &params);
        let blocks = layer.output.channels.div_ceil(THREADS as usize);
        self.launch("sum_bias_gradient", [blocks, 1, 1], 0, &params);
    }

    fn weight_gradient(&mut self, index: usize, layer: Layer, gradient: GradientInput) {
        let step = &self.plan.fused.steps[index];
        let tiling = self.plan.weight_tiling(layer, self.count);
        let splits = tiling.blocks;
        let weight = self.graph().nodes[step.node].weight.expect("it has a weight");
        let weight_gradient = self.state.gradient(self.graph(), weight);
        // Nothing has to be added up, and the order is that of the gradient.
        let is_direct = splits == 1 && layer.kernel == 1 && !self.plan.has_patches(layer);
        let input = match self.plan.has_patches(layer) {
            true => self.plain(&step.backward_input(), None),
            false => self.input(&step.backward_input()),
        };
        let params = WeightGradientParams {
            window: tiling.window,
            input,
            gradient,
            sums: self.space.weight_sums(),
            direct: if is_direct { weight_gradient } else { 0 },
            tiles: tiling.tiles as i32,
            splits: splits as i32,
            tap_groups: layer.tap_groups() as i32,
            outputs: layer.output.channels as i32,
            inputs: layer.input.channels as i32,
            unused: 0,
        };
        let grid = [
            layer.output.padded().div_ceil(TILE_CHANNELS),
            layer.input.padded().div_ceil(WEIGHT_INPUTS),
            splits * layer.tap_groups(),
        ];
        if self.plan.has_patches(layer) {
            let launch = launch(layer.weight_patches_kernel(), grid, tiling.shared, &params);
            self.push(Launch { threads: layer.weight_patches_threads(), ..launch });
        } else {
            let kernel = match layer.taps_at_once() {
                9 => self.kernel("weight_gradient_9_f32", "weight_gradient_9_bf16"),
                _ => self.kernel("weight_gradient_1_f32", "weight_gradient_1_bf16"),
            };
            self.launch(kernel, grid, tiling.shared, &params);
        }
        if is_direct {
            return;
        }
        let taps = layer.kernel * layer.kernel;
        let params = WeightSumParams {
            sums: self.space.weight_sums(),
            gradient: weight_gradient,
            splits: splits as i64,
            taps: taps as i64,
            outputs: layer.output.channels as i64,
            inputs: layer.input.channels as i64,
            padded_outputs: layer.output.padded() as i64,
            padded_inputs: layer.input.padded() as i64,
        };
        let grid = [layer.output.channels, layer.input.channels.div_ceil(SUM_INPUTS), 1];
        let threads = SUM_COLUMNS * if splits >= 32 { 8 } else { 4 };
        let shared = 4 * 4 * threads;
        let launch = launch("sum_weight_gradient", grid, shared, &params);
        self.push(Launch { threads: threads as u32, ..launch });
    }

    fn pool_backward(&mut self, index: usize, delivery: &Delivery) {
        let step = &self.plan.fused.steps[index];
        let (from, to) = (self.shape(step.input.main.tensor), self.shape(step.output));
        let (kernel, size) = match step.kind {
            StepKind::AveragePool(size) => ("average_pool_gradient", size),
            StepKind::MaxPool(size) => ("max_pool_gradient", size),
            StepKind::Flatten => ("flatten_gradient", 1),
            _ => ("write_maps_gradient", 1),
        };
        let mut epilogue = self.gradient_epilogue(delivery);
        if let StepKind::Activation(function) = step.kind {
            epilogue = GradientEpilogue {
                activation: activation(function),
                argument: self.input(&FusedInput::plain(step.input.main.tensor)),
                ..epilogue
            };
        }
        let params = PoolParams {
            input: self.input(&step.backward_input()),
            gradient: self.gradient_input(index),
            gradient_epilogue: epilogue,
            ..self.pool_params(from, to, size)
        };
        let [_, tiles] = self.plan.sums(index, self.count);
        let grid = [tiles, from.padded().div_ceil(TILE_CHANNELS), 1];
        self.launch(kernel, grid, SUMS_BYTES, &params);
    }

    /// From the sums of the gradient to BatchNorm's own gradients, and to the coefficients with which its input's
    /// gradient is computed.
    fn finish_norm_gradient(&mut self, which: usize, index: usize, tiles: usize) {
        let (graph, state) = (self.graph(), self.state);
        let norm = &state.norms[index];
        let node = &graph.nodes[norm.node];
        let (eps, _) = self.batch_norm(index);
        let parameter = |index: Option<usize>| index.expect("BatchNorm has a weight and a bias");
        let (weight, bias) = (parameter(node.weight), parameter(node.bias));
        let gradient = |parameter: usize| match self.requires_grad[parameter] {
            true => state.gradient(graph, parameter),
            false => 0,
        };
        let [a, b, c] = norm.abc;
        let params = NormGradientParams {
            sums: self.space.sums(which),
            tiles: tiles as i64,
            channels: norm.channels as i32,
            padded_channels: norm.channels.next_multiple_of(16) as i32,
            eps,
            moments: norm.moments,
            count: norm.count(),
            weight: state.parameter(graph, weight),
            weight_gradient: gradient(weight),
            bias_gradient: gradient(bias),
            totals: norm.gradient_totals,
            a,
            b,
            c,
            ..NormGradientParams::default()
        };
        let (channels, sum) = (norm.channels, HostAction::SumGradients(index));
        let phases = |phase| NormGradientParams { phase, ..params };
        self.norm_launches("norm_gradient", channels, sum, phases);
    }
}
