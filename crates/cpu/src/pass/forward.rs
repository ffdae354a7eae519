//! The forward pass.

use std::time::Instant;

use crescendo_kernels::epilogue::{BatchStatistics, Epilogue};
use crescendo_kernels::{
    ConvAlgorithm, Convolution, DisjointSlice, activation, convolution, linear, max_pool, pooling,
};
use crescendo_network::EngineError;
use crescendo_plan::{FusedStep, StepKind};

use super::{Mode, Operands, Pass};
use crate::algorithm::Layer;
use crate::buffers::{ReadArena, sums_len};
use crate::convert::function;

impl Pass<'_> {
    /// Computes every step.
    pub fn forward(&mut self) -> Result<(), EngineError> {
        if self.count == 0 {
            return self.forward_without_images();
        }
        if self.trains() {
            self.tuning.begin_pass(self.count);
        }
        for (index, step) in self.plan.fused.steps.iter().enumerate() {
            self.use_tiles(index);
            let begin = Instant::now();
            match step.kind {
                StepKind::Flatten | StepKind::Linear | StepKind::Activation(_) => {
                    self.vector_forward(index, step);
                }
                _ => self.maps_forward(index, step)?,
            }
            self.count_seconds(index, false, begin.elapsed().as_secs_f64());
        }
        if let Mode::Inference(folded) = &mut self.mode {
            folded.version = Some(self.state.version);
        }
        Ok(())
    }

    /// Takes part in the sums over all processes, if there are any.
    fn forward_without_images(&mut self) -> Result<(), EngineError> {
        if let Mode::Training { alone: Some(_), .. } = self.mode {
            return Ok(());
        }
        for step in &self.plan.fused.steps {
            if let Some(norm) = step.norm {
                let maps = self.operands(0).view.maps(step.output);
                self.finish_statistics(norm, maps)?;
            }
        }
        Ok(())
    }

    /// The logits `[N, classes]`.
    pub fn logits(&mut self) -> &[f32] {
        let Operands { view, arena, .. } = self.operands(0);
        view.vector(&ReadArena::all(arena), view.plan.fused.logits())
    }

    fn maps_forward(&mut self, index: usize, step: &FusedStep) -> Result<(), EngineError> {
        let trains = self.trains();
        let folds = !trains && matches!(step.kind, StepKind::Convolution);
        let bias = self.prepare_bias(index, step, folds);
        let layer = self.layers[index];
        if let Some(Layer::Convolution(layer, algorithm)) = layer {
            self.pack_weights(index, step, &layer, algorithm);
        }
        if let (false, false, Some(norm)) = (trains || self.is_folded(), folds, step.norm) {
            self.use_running_statistics(norm);
        }
        let operands = self.operands(index);
        let Operands { view, processor, arena, sums, workspace, packed, .. } = operands;
        let maps = view.maps(step.output);
        let written = [Some(step.output), step.save_input].map(|tensor| Some(view.range(tensor?)));
        let (arena, [out, saved]) = ReadArena::split(arena, written);
        let save = saved.map(|saved| view.stored_mut(saved));
        let prologue = view.prologue(&arena, &step.input, save);
        let norm = step.norm.filter(|_| trains);
        let sums = &mut sums[0][..sums_len(maps)];
        if norm.is_some() {
            sums.fill(0.0);
        }
        let epilogue = Epilogue {
            shape: maps,
            bias: bias.then(|| &operands.bias[..maps.padded_channels()]),
            out: view.stored_mut(out.expect("it is written")),
            sums: norm.map(|norm| BatchStatistics {
                sums: DisjointSlice::new(sums),
                shift: &view.norms[norm].sum_offset,
            }),
        };
        match (step.kind, layer) {
            (_, Some(Layer::Convolution(layer, algorithm))) => {
                let packed = &packed.as_slice()[..layer.packed_len(algorithm)];
                convolution::forward(
                    processor, workspace, algorithm, &layer, &prologue, packed, &epilogue,
                );
            }
            (StepKind::AveragePool(size), _) => {
                pooling::average(processor, size, &prologue, &epilogue);
            }
            (StepKind::MaxPool(size), _) => {
                max_pool::forward(processor, size, &prologue, &epilogue);
            }
            _ => pooling::materialise(processor, &prologue, &epilogue),
        }
        match norm {
            Some(norm) => self.finish_statistics(norm, maps),
            None => Ok(()),
        }
    }

    /// Fills in the bias that the step adds, with that of a BatchNorm that is folded in; in inference only if the state
    /// has changed. Returns whether there is one.
    fn prepare_bias(&mut self, index: usize, step: &FusedStep, folds: bool) -> bool {
        if !matches!(step.kind, StepKind::Convolution) {
            return false;
        }
        let (_, bias) = self.state.model.parameters(&self.plan.graph, step.node);
        let norm = step.norm.filter(|_| folds);
        if bias.is_empty() && norm.is_none() {
            return false;
        }
        if self.is_folded() {
            return true;
        }
        self.buffers.bias.fill(0.0);
        self.buffers.bias[..bias.len()].copy_from_slice(bias);
        if let Some(norm) = norm {
            self.use_running_statistics(norm);
            let affine = &self.state.norms[norm];
            let channels = affine.scale.iter().zip(&affine.shift);
            let both = self.buffers.bias.iter_mut().zip(&mut self.buffers.scale);
            for ((bias, factor), (&scale, &shift)) in both.zip(channels) {
                *bias = *bias * scale + shift;
                *factor = scale;
            }
        }
        if let Mode::Inference(folded) = &mut self.mode {
            folded.biases[index].clone_from(&self.buffers.bias);
        }
        true
    }

    /// Packs a convolution's weights. In inference the BatchNorm that [`prepare_bias`](Self::prepare_bias)
    /// found is folded in, and they are packed only if the state has changed.
    fn pack_weights(
        &mut self,
        index: usize,
        step: &FusedStep,
        layer: &Convolution,
        algorithm: ConvAlgorithm,
    ) {
        if self.is_folded() {
            return;
        }
        let (weight, _) = self.state.model.parameters(&self.plan.graph, step.node);
        let (packed, scale) = match &mut self.mode {
            Mode::Training { .. } => (&mut self.buffers.packed, None),
            Mode::Inference(folded) => {
                let scale = step.norm.map(|_| self.buffers.scale.as_slice());
                (&mut folded.packed[index], scale)
            }
        };
        let packed = &mut packed.as_mut_slice()[..layer.packed_len(algorithm)];
        convolution::pack_weights(self.processor, algorithm, layer, weight, scale, packed);
    }

    fn vector_forward(&mut self, index: usize, step: &FusedStep) {
        let Operands { view, processor, model, arena, workspace, .. } = self.operands(index);
        let written = [Some(view.range(step.output)), None];
        let (arena, [out, _]) = ReadArena::split(arena, written);
        let out = out.expect("it is written");
        let input = step.input.main.tensor;
        match (step.kind, view.plan.layers[index]) {
            (StepKind::Flatten, _) => {
                pooling::flatten(processor, &view.prologue(&arena, &step.input, None), out);
            }
            (_, Some(Layer::Linear(layer))) => {
                let (weight, bias) = model.parameters(&view.plan.graph, step.node);
                let x = view.vector(&arena, input);
                let bias = (!bias.is_empty()).then_some(bias);
                linear::forward(processor, workspace, &layer, x, weight, bias, out);
            }
            (StepKind::Activation(f), _) => {
                activation::forward(processor, function(f), view.vector(&arena, input), out);
            }
            _ => unreachable!("not a step on vectors"),
        }
    }
}
