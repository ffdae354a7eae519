//! The memory that passes work in: allocated when a batch size is first seen, used by training and inference in turn.

use std::sync::Arc;

use crescendo_network::EngineError;
use crescendo_plan::{FusedStep, MemoryPlan, TensorId};

use crate::driver::{Address, Buffer, Driver};
use crate::pass::muon;
use crate::plan::ExecutionPlan;
use crate::window::{Layer, MapShape};

/// How many bytes of each kind a pass needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sizes([usize; 10]);

/// What lies where.
#[derive(Clone, Copy)]
enum Part {
    Arena,
    /// The images as they come, and as maps.
    Uploaded,
    Images,
    Labels,
    /// Losses of images in f64, and whether they are right.
    Losses,
    /// Sums of tiles for up to two BatchNorms.
    Sums,
    /// The gradient of an output, through its BatchNorm.
    OutputGradient,
    WeightSums,
    /// The input of a layer, with what comes before it applied.
    Applied,
    /// Parts of the products of a linear layer.
    LinearSums,
}

impl Sizes {
    /// The sizes for a pass over so many images.
    pub fn new(plan: &ExecutionPlan, memory: &MemoryPlan, images: usize) -> Sizes {
        let graph = &plan.graph;
        let input = plan.precision.size(graph.input);
        let layers = || plan.layers.iter().flatten();
        let trains = memory.trains();
        let weight_sums =
            |layer: &Layer| 4 * plan.weight_tiling(*layer, images).blocks * layer.weight_sums_len();
        let mut sizes = Sizes::default();
        let mut set = |part: Part, bytes: usize| sizes.0[part as usize] = bytes;
        // Muon works where the maps of its batch lay.
        let muon = if trains { muon::space(graph) } else { 0 };
        set(Part::Arena, (memory.len * images).max(muon));
        set(Part::Uploaded, 4 * graph.input.len() * images);
        set(Part::Images, input * images);
        set(Part::Labels, 2 * images);
        set(Part::Losses, 12 * images);
        if trains {
            set(Part::Sums, 2 * sums_size(plan, images));
            set(Part::OutputGradient, saved_gradient_size(plan) * images);
            let bias_sums = layers().map(|layer| 8 * BIAS_PARTS * layer.output.padded());
            set(Part::WeightSums, layers().map(weight_sums).chain(bias_sums).max().unwrap_or(0));
        }
        let linear_sums = |layer: &Layer| {
            let directions = [(false, layer.output), (true, layer.input)];
            let sums = directions
                .map(|(gradient, to)| 4 * plan.linear_sums(*layer, images, gradient) * to.padded());
            sums[0].max(if trains { sums[1] } else { 0 })
        };
        set(Part::LinearSums, layers().map(linear_sums).max().unwrap_or(0));
        set(Part::Applied, applied_size(plan, trains) * images);
        sizes
    }

    /// The sizes that serve both.
    pub fn max(self, other: Sizes) -> Sizes {
        let mut sizes = self;
        for (size, other) in sizes.0.iter_mut().zip(other.0) {
            *size = (*size).max(other);
        }
        sizes
    }

    /// All bytes.
    pub fn total(self) -> usize {
        self.0.iter().map(|size| size.next_multiple_of(256)).sum()
    }
}

/// Parts of the pixels that are summed up by themselves for the gradient of a bias, at most.
pub(crate) const BIAS_PARTS: usize = 64;

/// Bytes for each image of the largest gradient that is saved for the gradient of the weights.
fn saved_gradient_size(plan: &ExecutionPlan) -> usize {
    let steps = plan.fused.steps.iter().zip(&plan.layers).filter(|(step, layer)| {
        let saves = |layer: Layer| plan.has_patches(layer) || layer.gradient_reads_all();
        step.norm.is_some() && layer.is_some_and(saves)
    });
    let size = |step: &FusedStep| plan.precision.size(plan.fused.tensors[step.output.0].shape);
    steps.map(|(step, _)| size(step)).max().unwrap_or(0)
}

/// Bytes for each image of the largest input that is applied for a layer and not saved.
fn applied_size(plan: &ExecutionPlan, trains: bool) -> usize {
    let steps = plan.fused.steps.iter().zip(&plan.layers).filter(|(step, layer)| {
        let is_saved = trains && step.save_input.is_some();
        layer.is_some_and(|layer| plan.has_patches(layer)) && !step.input.is_plain() && !is_saved
    });
    let size =
        |step: &FusedStep| plan.precision.size(plan.fused.tensors[step.input.main.tensor.0].shape);
    steps.map(|(step, _)| size(step)).max().unwrap_or(0)
}

/// Bytes of the sums of one BatchNorm's tiles, at most.
fn sums_size(plan: &ExecutionPlan, images: usize) -> usize {
    let steps = plan.fused.steps.iter().enumerate().map(|(index, step)| {
        let padded = |tensor: TensorId| MapShape::new(plan.fused.tensors[tensor.0].shape).padded();
        let [forward, backward] = plan.sums(index, images);
        2 * 4 * (forward * padded(step.output)).max(backward * padded(step.input.main.tensor))
    });
    steps.max().unwrap_or(0)
}

/// The memory.
pub(crate) struct Workspace {
    buffer: Buffer,
    sizes: Sizes,
}

impl Workspace {
    pub fn new(driver: &Arc<dyn Driver>) -> Result<Workspace, EngineError> {
        Ok(Workspace { buffer: Buffer::new(driver, 0)?, sizes: Sizes::default() })
    }

    /// Whether there is room.
    pub fn has(&self, sizes: Sizes) -> bool {
        self.sizes.max(sizes) == self.sizes
    }

    /// Makes room; addresses change.
    pub fn reserve(&mut self, driver: &Arc<dyn Driver>, sizes: Sizes) -> Result<(), EngineError> {
        let sizes = self.sizes.max(sizes);
        // The old memory is given back first.
        self.sizes = Sizes::default();
        self.buffer = Buffer::new(driver, 0)?;
        self.buffer = Buffer::new(driver, sizes.total())?;
        self.sizes = sizes;
        Ok(())
    }

    fn address(&self, part: Part) -> Address {
        let before = &self.sizes.0[..part as usize];
        let offset: usize = before.iter().map(|size| size.next_multiple_of(256)).sum();
        self.buffer.address + offset as Address
    }

    pub fn arena(&self) -> Address {
        self.address(Part::Arena)
    }
    pub fn uploaded(&self) -> Address {
        self.address(Part::Uploaded)
    }
    pub fn images(&self) -> Address {
        self.address(Part::Images)
    }
    pub fn labels(&self) -> Address {
        self.address(Part::Labels)
    }
    pub fn losses(&self) -> Address {
        self.address(Part::Losses)
    }
    /// Sums of the tiles of one of two BatchNorms.
    pub fn sums(&self, which: usize) -> Address {
        let half = self.sizes.0[Part::Sums as usize] / 2;
        self.address(Part::Sums) + (which * half) as Address
    }
    pub fn output_gradient(&self) -> Address {
        self.address(Part::OutputGradient)
    }
    /// The input of a layer that needs it plain.
    pub fn applied(&self) -> Address {
        self.address(Part::Applied)
    }
    /// Parts of the products of a linear layer.
    pub fn linear_sums(&self) -> Address {
        self.address(Part::LinearSums)
    }
    pub fn weight_sums(&self) -> Address {
        self.address(Part::WeightSums)
    }
    /// For Muon, whose memory lies where maps lay.
    pub fn muon(&self) -> Address {
        self.arena()
    }
}
