//! The operands of kernels: from tensors and gradients of the plan to addresses.

use crescendo_network::{Activation, Operation};
use crescendo_plan::{Delivery, FusedInput, IMAGES, NormedTensor, TensorId};

use super::Pass;
use crate::driver::Address;
use crate::params::{
    Activation as ActivationParams, ApplyParams, GradientEpilogue, GradientInput, Input, Maps,
    NormSums, Term,
};
use crate::window::{MapShape, THREADS};

/// Pixels of a thread at a time, and groups of channels of a block at most, as `apply.cu` has them.
const APPLY_AT_ONCE: usize = 4;
const APPLY_GROUPS: usize = 32;

impl Pass<'_> {
    /// The shape of a tensor.
    pub(super) fn shape(&self, tensor: TensorId) -> MapShape {
        MapShape::new(self.plan.fused.tensors[tensor.0].shape)
    }

    /// A tensor in memory.
    pub(super) fn maps(&self, tensor: TensorId) -> Maps {
        let shape = self.plan.fused.tensors[tensor.0].shape;
        let f32 = self.plan.precision.stores_f32(shape).into();
        let data = match self.memory.tensors[tensor.0] {
            None => self.space.images(),
            Some(offset) => self.space.arena() + (offset * self.count) as Address,
        };
        debug_assert!(tensor == IMAGES || data != self.space.images());
        Maps { data, f32 }
    }

    /// A gradient in memory.
    pub(super) fn gradient_maps(&self, gradient: usize) -> Maps {
        let shape = self.plan.gradients.gradients[gradient].shape;
        let offset = self.memory.gradients[gradient].expect("every gradient has an offset");
        let data = self.space.arena() + (offset * self.count) as Address;
        Maps { data, f32: self.plan.precision.stores_f32(shape).into() }
    }

    fn term(&self, term: NormedTensor) -> Term {
        let value = self.maps(term.tensor);
        match term.norm {
            None => Term { value, ..Term::default() },
            Some(norm) => {
                let norm = &self.state.norms[norm];
                Term { value, scale: norm.scale, shift: norm.shift }
            }
        }
    }

    /// How a step reads its input.
    pub(super) fn input(&self, input: &FusedInput) -> Input {
        Input {
            main: self.term(input.main),
            residual: input.residual.map(|term| self.term(term)).unwrap_or_default(),
            activation: input.activation.map(activation).unwrap_or_default(),
        }
    }

    /// An input with what comes before it applied, in maps of its own: in `out`, or in the workspace.
    pub(super) fn plain(&mut self, input: &FusedInput, out: Option<Maps>) -> Input {
        if input.is_plain() {
            return self.input(input);
        }
        let value = out.unwrap_or(Maps { data: self.space.applied(), f32: 0 });
        self.apply(self.input(input), self.shape(input.main.tensor), value);
        Input { main: Term { value, ..Term::default() }, ..Input::default() }
    }

    /// Applies what comes before a layer to whole maps.
    pub(super) fn apply(&mut self, input: Input, shape: MapShape, out: Maps) {
        let (pixels, groups) = (self.count * shape.pixels(), shape.padded() / 8);
        let rows = THREADS as usize / groups.min(APPLY_GROUPS);
        let params =
            ApplyParams { input, out, pixels: pixels as i64, channels: shape.padded() as i64 };
        let blocks = pixels.div_ceil(APPLY_AT_ONCE * rows).min(8 * self.plan.chip.multiprocessors);
        self.launch("apply_input", [blocks, groups.div_ceil(APPLY_GROUPS), 1], 0, &params);
    }

    /// The gradient from which a step's backward starts.
    pub(super) fn gradient_input(&self, step: usize) -> GradientInput {
        let (fused, own) = (&self.plan.fused.steps[step], &self.plan.gradients.steps[step]);
        let gradient = self.gradient_maps(own.output);
        match fused.norm {
            None => GradientInput { gradient, ..GradientInput::default() },
            Some(norm) => {
                let [a, b, c] = self.state.norms[norm].abc;
                GradientInput { gradient, value: self.maps(fused.output), a, b, c }
            }
        }
    }

    /// Where a step's backward delivers the gradient of its input.
    pub(super) fn gradient_epilogue(&self, delivery: &Delivery) -> GradientEpilogue {
        let gradient = &self.plan.gradients.gradients[delivery.gradient];
        let input = &gradient.input;
        let offsets = &self.memory.gradients;
        // Such a part is where the sum will be.
        let in_place = |&addend: &usize| offsets[addend] == offsets[delivery.gradient];
        let accumulate = delivery.accumulate || delivery.addends.iter().any(in_place);
        let mut addends = delivery.addends.iter().filter(|addend| !in_place(addend));
        let mut addend = || addends.next().map(|&a| self.gradient_maps(a)).unwrap_or_default();
        let mut epilogue = GradientEpilogue {
            out: self.gradient_maps(delivery.gradient),
            accumulate: accumulate.into(),
            addend: [addend(), addend()],
            ..GradientEpilogue::default()
        };
        if !delivery.last {
            return epilogue;
        }
        if let Some(function) = input.activation {
            epilogue.activation = activation(function);
            match gradient.saved_output() {
                Some(saved) => epilogue.saved = self.maps(saved),
                None => epilogue.argument = self.input(&FusedInput { activation: None, ..*input }),
            }
        }
        for (which, term) in input.terms().enumerate() {
            let Some(norm) = term.norm else { continue };
            epilogue.norm[which] = NormSums {
                value: self.maps(term.tensor),
                mean: self.state.norms[norm].mean,
                sums: self.space.sums(which),
            };
        }
        epilogue
    }

    /// The epsilon of a BatchNorm, and the weight of a new batch.
    pub(super) fn batch_norm(&self, norm: usize) -> (f64, f64) {
        match self.graph().nodes[self.state.norms[norm].node].operation {
            Operation::BatchNorm { eps, new_weight, .. } => (eps, new_weight),
            _ => unreachable!("statistics belong to a BatchNorm"),
        }
    }
}

/// An activation as kernels take it: the numbers are those of `ActivationKind` in `maps.cuh`.
pub(super) fn activation(function: Activation) -> ActivationParams {
    let (kind, constant) = match function {
        Activation::Relu => (1, 0.0),
        Activation::LeakyRelu { slope } => (2, slope),
        Activation::Elu => (3, 0.0),
        Activation::Sigmoid => (4, 0.0),
        Activation::Silu => (5, 0.0),
        Activation::Gelu => (6, 0.0),
        Activation::Scale { factor } => (7, factor),
    };
    ActivationParams { kind, constant }
}
