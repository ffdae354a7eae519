//! The forward pass.

use crescendo_plan::{FusedInput, StepKind, TensorId};

use super::view::activation;
use super::{HostAction, Pass, SUMS_BYTES};
use crate::driver::Address;
use crate::params::{ConvolutionParams, Epilogue, NormParams, PoolParams};
use crate::patches::LINEAR_SHARED;
use crate::window::{Layer, MapShape, THREADS, TILE_CHANNELS, TILE_PIXELS};

impl Pass<'_> {
    pub(super) fn forward(&mut self) {
        if !self.trains() {
            for norm in 0..self.state.norms.len() {
                let params = self.norm_params(norm);
                let blocks = self.state.norms[norm].channels.div_ceil(THREADS as usize);
                self.launch("norm_running", [blocks, 1, 1], 0, &params);
            }
        }
        let plan = self.plan;
        for (index, step) in plan.fused.steps.iter().enumerate() {
            self.step = Some(index);
            if self.count == 0 {
                // The other processes have images.
                if let Some(norm) = step.norm.filter(|_| self.sums_norms) {
                    self.finish_statistics(index, norm);
                }
                continue;
            }
            let mut input = step.input;
            if let Some(saved) = step.save_input
                && !plan.layers[index]
                    .is_some_and(|layer| plan.has_patches(layer) || layer.reads_all())
            {
                // The step's own kernel does not read every pixel once.
                self.write(&step.input, saved);
                input = FusedInput::plain(saved);
            }
            match plan.layers[index] {
                Some(layer) => self.convolution(index, layer, &input),
                None => self.pool(index, &input),
            }
            if let Some(norm) = step.norm.filter(|_| self.trains()) {
                self.finish_statistics(index, norm);
            }
        }
        self.step = None;
    }

    /// Writes an input to memory.
    fn write(&mut self, input: &FusedInput, to: TensorId) {
        let shape = self.shape(to);
        let params = PoolParams {
            input: self.input(input),
            epilogue: Epilogue { out: self.maps(to), ..Epilogue::default() },
            ..self.pool_params(shape, shape, 1)
        };
        let grid = self.pool_grid(shape);
        self.launch("write_maps", grid, SUMS_BYTES, &params);
    }

    fn convolution(&mut self, index: usize, layer: Layer, input: &FusedInput) {
        let step = &self.plan.fused.steps[index];
        let tiling = self.plan.tiling(layer, self.count, false);
        let mut save = step.save_input.filter(|_| !input.is_plain());
        let mut from = self.input(input);
        if self.plan.has_patches(layer) {
            let saved = save.take().map(|saved| self.maps(saved));
            from = self.plain(input, saved);
        }
        let params = ConvolutionParams {
            window: tiling.window,
            input: from,
            save: save.map(|saved| self.maps(saved)).unwrap_or_default(),
            weights: self.packed_weights(index)[0],
            epilogue: self.epilogue(index),
            tiles: tiling.tiles as i64,
            ..ConvolutionParams::default()
        };
        if self.plan.linear_parts(layer, self.count, false).is_some() {
            return self.linear(layer, params, tiling.blocks, false);
        }
        let (kernel, grid) = match self.plan.has_patches(layer) {
            true => (
                layer.patches_kernel(self.count, self.plan.chip.multiprocessors),
                layer.patches_grid(&tiling, false),
            ),
            false => {
                let columns = layer.output.padded().div_ceil(TILE_CHANNELS);
                let kernel = self.kernel("convolution_f32", "convolution_bf16");
                (kernel, [tiling.blocks, columns, 1])
            }
        };
        self.launch(kernel, grid, tiling.shared, &params);
    }

    /// Launches the products of a linear layer, or of the gradient of its input, in parts, and what adds them.
    pub(super) fn linear(
        &mut self,
        layer: Layer,
        params: ConvolutionParams,
        tiles: usize,
        gradient: bool,
    ) {
        let parts = self.plan.linear_parts(layer, self.count, gradient).expect("it is linear");
        let params =
            ConvolutionParams { sums: self.space.linear_sums(), parts: parts as i64, ..params };
        let columns = if gradient { layer.input } else { layer.output };
        let columns = columns.padded().div_ceil(TILE_CHANNELS);
        let [products, adds] = match gradient {
            false => ["linear_products", "linear"],
            true => ["linear_gradient_products", "linear_gradient"],
        };
        self.launch(products, [tiles, columns, parts], LINEAR_SHARED, &params);
        self.launch(adds, [tiles, columns, 1], SUMS_BYTES, &params);
    }

    /// A layer's packed weights: for the convolution, and for the gradient of its input.
    pub(super) fn packed_weights(&self, step: usize) -> [Address; 2] {
        self.state.packed.steps[step].expect("the step has weights")
    }

    fn epilogue(&self, index: usize) -> Epilogue {
        let (graph, step) = (self.graph(), &self.plan.fused.steps[index]);
        // A step that writes the output of a BatchNorm is not the one that adds its bias.
        let adds_bias = self.plan.layers[index].is_some();
        let bias = graph.nodes[step.node].bias.filter(|_| adds_bias);
        let mut epilogue = Epilogue {
            out: self.maps(step.output),
            bias: bias.map_or(0, |bias| self.state.parameter(graph, bias)),
            channels: self.shape(step.output).channels as i64,
            ..Epilogue::default()
        };
        if let Some(norm) = step.norm.filter(|_| self.trains()) {
            epilogue.sums = self.space.sums(0);
            epilogue.shift = self.norm_params(norm).running_means;
        }
        epilogue
    }

    fn pool(&mut self, index: usize, input: &FusedInput) {
        let step = &self.plan.fused.steps[index];
        let (from, to) = (self.shape(input.main.tensor), self.shape(step.output));
        let (kernel, size) = match step.kind {
            StepKind::AveragePool(size) => ("average_pool", size),
            StepKind::MaxPool(size) => ("max_pool", size),
            StepKind::Flatten => ("flatten", 1),
            _ => ("write_maps", 1),
        };
        let mut params = PoolParams {
            input: self.input(input),
            epilogue: self.epilogue(index),
            ..self.pool_params(from, to, size)
        };
        if let StepKind::Activation(function) = step.kind {
            params.input.activation = activation(function);
        }
        let grid = match step.kind {
            StepKind::Flatten => {
                // A thread has a group of channels; some also have the zeros behind a vector.
                let groups = self.count * from.len() / 8;
                let zeros = self.count * (to.padded() - to.channels);
                [groups.max(zeros).div_ceil(THREADS as usize), 1, 1]
            }
            _ => self.pool_grid(to),
        };
        self.launch(kernel, grid, SUMS_BYTES, &params);
    }

    pub(super) fn pool_params(&self, from: MapShape, to: MapShape, size: usize) -> PoolParams {
        PoolParams {
            images: self.count as i32,
            in_rows: from.rows as i32,
            in_columns: from.columns as i32,
            out_rows: to.rows as i32,
            out_columns: to.columns as i32,
            padded_channels: from.padded() as i32,
            size: size as i32,
            channels: from.channels as i32,
            ..PoolParams::default()
        }
    }

    /// Blocks of a kernel whose result has this shape.
    pub(super) fn pool_grid(&self, result: MapShape) -> [usize; 3] {
        let tiles = (self.count * result.pixels()).div_ceil(TILE_PIXELS);
        [tiles, result.padded().div_ceil(TILE_CHANNELS), 1]
    }

    fn norm_params(&self, index: usize) -> NormParams {
        let (graph, state) = (self.graph(), self.state);
        let norm = &state.norms[index];
        let node = &graph.nodes[norm.node];
        let (eps, new_weight) = self.batch_norm(index);
        let at = |index: Option<usize>| {
            state.parameter(graph, index.expect("BatchNorm has a weight and a bias"))
        };
        let running = |first: usize| {
            state.model.address + 4 * (first + graph.statistics[index].range.start) as u64
        };
        NormParams {
            channels: norm.channels as i32,
            padded_channels: norm.channels.next_multiple_of(16) as i32,
            eps,
            new_weight,
            batch: state.batch.address,
            pixels: MapShape::new(node.output).pixels() as f64,
            weight: at(node.weight),
            bias: at(node.bias),
            running_means: running(state.layout.means()),
            running_variances: running(state.layout.variances()),
            totals: norm.totals,
            moments: norm.moments,
            means: norm.mean,
            scale: norm.scale,
            shift: norm.shift,
            ..NormParams::default()
        }
    }

    /// From the sums of the batch to its moments, the factors, and new running statistics.
    fn finish_statistics(&mut self, step: usize, norm: usize) {
        let tiles = if self.count == 0 { 0 } else { self.plan.sums(step, self.count)[0] };
        let params =
            NormParams { sums: self.space.sums(0), tiles: tiles as i64, ..self.norm_params(norm) };
        let (channels, sum) = (self.state.norms[norm].channels, HostAction::SumStatistics(norm));
        self.norm_launches("norm_statistics", channels, sum, |phase| NormParams {
            phase,
            ..params
        });
    }
}
