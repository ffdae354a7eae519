//! The operands of kernels: from tensors and gradients of the plan to slices of memory, prologues and
//! epilogues.

use std::ops::Range;

use crescendo_kernels::epilogue::{
    ActivationDerivative, DerivativeAt, GradientEpilogue, NormGradientSums,
};
use crescendo_kernels::prologue::{Affine, GradientPrologue, NormGradient, Prologue, Residual};
use crescendo_kernels::{DisjointSlice, MapShape, MapsMut, MapsRef, as_bf16, as_bf16_mut};
use crescendo_network::ActivationStorage;
use crescendo_plan::{Delivery, FusedInput, IMAGES, NormedTensor, StepKind, TensorId};

use crate::buffers::{ReadArena, sums_len};
use crate::convert::{function, map_shape};
use crate::memory_layout::{MemoryLayout, numbers};
use crate::plan::ExecutionPlan;
use crate::state::NormState;

/// What operands are made from: everything that a step reads but the arena.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    pub plan: &'a ExecutionPlan,
    pub memory: &'a MemoryLayout,
    /// `[N, C, H, W]`.
    pub images: &'a [f32],
    pub count: usize,
    pub norms: &'a [NormState],
    /// Whether BatchNorms behind convolutions are folded into packed weights.
    pub folded: bool,
}

impl<'a> View<'a> {
    /// The shape of a tensor of maps.
    pub fn maps(&self, tensor: TensorId) -> MapShape {
        let maps = map_shape(self.plan.fused.tensors[tensor.0].shape, self.count);
        maps.expect("the tensor has maps")
    }

    /// Where a tensor lies in the arena.
    pub fn range(&self, tensor: TensorId) -> Range<usize> {
        let offset = self.memory.plan.tensors[tensor.0].expect("the images are not in the arena");
        let shape = self.plan.fused.tensors[tensor.0].shape;
        offset * self.count..(offset + numbers(shape, self.memory.storage)) * self.count
    }

    /// Where a gradient lies in the arena.
    pub fn gradient_range(&self, gradient: usize) -> Range<usize> {
        let offset = self.memory.plan.gradients[gradient].expect("every gradient has an offset");
        let shape = self.plan.gradients.gradients[gradient].shape;
        offset * self.count..(offset + numbers(shape, ActivationStorage::F32)) * self.count
    }

    /// The numbers of a vector.
    pub fn vector(&self, arena: &ReadArena<'a>, tensor: TensorId) -> &'a [f32] {
        arena.get(self.range(tensor))
    }

    /// Memory of the arena as maps that are written.
    pub fn stored_mut(&self, numbers: &'a mut [f32]) -> MapsMut<'a> {
        match self.memory.storage {
            ActivationStorage::F32 => MapsMut::f32(numbers),
            ActivationStorage::Bf16 => MapsMut::bf16(as_bf16_mut(numbers)),
        }
    }

    fn stored(&self, arena: &ReadArena<'a>, tensor: TensorId) -> MapsRef<'a> {
        if tensor == IMAGES {
            return MapsRef::Nchw(self.images);
        }
        let numbers = arena.get(self.range(tensor));
        match self.memory.storage {
            ActivationStorage::F32 => MapsRef::F32(numbers),
            ActivationStorage::Bf16 => MapsRef::Bf16(as_bf16(numbers)),
        }
    }

    fn affine(&self, term: NormedTensor) -> Option<Affine<'a>> {
        let producer = self.plan.fused.producer(term.tensor);
        let folded =
            self.folded && producer.is_some_and(|step| matches!(step.kind, StepKind::Convolution));
        let norm = &self.norms[term.norm.filter(|_| !folded)?];
        Some(Affine { scale: &norm.scale, shift: &norm.shift })
    }

    /// Maps as a step reads them.
    pub fn prologue(
        &self,
        arena: &ReadArena<'a>,
        input: &FusedInput,
        save: Option<MapsMut<'a>>,
    ) -> Prologue<'a> {
        let FusedInput { main, residual, activation } = *input;
        Prologue {
            shape: self.maps(main.tensor),
            value: self.stored(arena, main.tensor),
            affine: self.affine(main),
            residual: residual.map(|term| Residual {
                value: self.stored(arena, term.tensor),
                affine: self.affine(term),
            }),
            activation: activation.map(function),
            save,
        }
    }

    /// The gradient from which a step's backward starts.
    pub fn gradient_prologue(&self, arena: &ReadArena<'a>, step: usize) -> GradientPrologue<'a> {
        let (fused, own) = (&self.plan.fused.steps[step], &self.plan.gradients.steps[step]);
        GradientPrologue {
            shape: self.maps(fused.output),
            gradient: arena.get(self.gradient_range(own.output)),
            norm: fused.norm.map(|norm| {
                let [a, b, c] = &self.norms[norm].abc;
                NormGradient { value: self.stored(arena, fused.output), a, b, c }
            }),
        }
    }

    /// Where a step's backward delivers the gradient of its input.
    pub fn gradient_epilogue(
        &self,
        arena: &ReadArena<'a>,
        delivery: &Delivery,
        dx: &'a mut [f32],
        sums: &'a mut [Vec<f64>; 2],
    ) -> GradientEpilogue<'a> {
        let gradient = &self.plan.gradients.gradients[delivery.gradient];
        let input = &gradient.input;
        let maps = self.maps(input.main.tensor);
        let offsets = &self.memory.plan.gradients;
        let in_place = |&addend: &usize| offsets[addend] == offsets[delivery.gradient];
        let accumulate = delivery.accumulate || delivery.addends.iter().any(in_place);
        let mut addends = delivery
            .addends
            .iter()
            .filter(|addend| !in_place(addend))
            .map(|&addend| arena.get(self.gradient_range(addend)));
        let mut epilogue = GradientEpilogue {
            accumulate,
            addends: [addends.next(), addends.next()],
            ..GradientEpilogue::plain(maps, DisjointSlice::new(dx))
        };
        if !delivery.last {
            return epilogue;
        }
        epilogue.derivative = input.activation.map(|activation| ActivationDerivative {
            function: function(activation),
            at: match gradient.saved_output() {
                Some(saved) => DerivativeAt::Output(self.stored(arena, saved)),
                None => {
                    let argument = FusedInput { activation: None, ..*input };
                    DerivativeAt::Input(self.prologue(arena, &argument, None))
                }
            },
        });
        for ((slot, term), sums) in epilogue.norms.iter_mut().zip(input.terms()).zip(sums) {
            let Some(norm) = term.norm else { continue };
            let sums = &mut sums[..sums_len(maps)];
            sums.fill(0.0);
            *slot = Some(NormGradientSums {
                value: self.stored(arena, term.tensor),
                mean: &self.norms[norm].mean,
                sums: DisjointSlice::new(sums),
            });
        }
        epilogue
    }
}
