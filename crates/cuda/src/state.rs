//! What the engine keeps from one batch to the next, in the device's memory.

mod tensors;

use std::ops::Range;
use std::sync::Arc;

use crescendo_network::{EngineError, Graph, StateKind};

use crate::driver::{Address, Buffer, Driver};
use crate::params::{Batch, PackParams, ResultHead, RuleSettings};
use crate::plan::{ExecutionPlan, Precision};
use crate::window::{Layer, TILE_CHANNELS};

/// Squared norms of the halves of a batch.
const HALVES: usize = 2;

/// Blocks of the kernel that measures gradients, as `optimizer.cu` has it.
pub(crate) const PART_BLOCKS: u32 = 128;

/// The numbers of a model, in f32: parameters, running means, running variances.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ModelLayout {
    parameters: usize,
    channels: usize,
}

impl ModelLayout {
    pub fn new(graph: &Graph) -> ModelLayout {
        ModelLayout { parameters: graph.parameter_count(), channels: graph.statistic_count() }
    }

    pub fn len(self) -> usize {
        self.parameters + 2 * self.channels
    }

    pub fn means(self) -> usize {
        self.parameters
    }

    pub fn variances(self) -> usize {
        self.parameters + self.channels
    }

    /// Where a tensor of the state lies; `None` for a count.
    pub fn range(self, graph: &Graph, kind: StateKind) -> Option<Range<usize>> {
        let shifted = |range: &Range<usize>, by: usize| range.start + by..range.end + by;
        match kind {
            StateKind::Parameter(index) => Some(graph.parameters[index].range.clone()),
            StateKind::RunningMean(index) => {
                Some(shifted(&graph.statistics[index].range, self.means()))
            }
            StateKind::RunningVariance(index) => {
                Some(shifted(&graph.statistics[index].range, self.variances()))
            }
            StateKind::BatchesTracked(_) => None,
        }
    }
}

/// What the last batch gave for a BatchNorm: addresses of numbers for each channel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NormState {
    /// The operation, as an index of [`Graph::nodes`].
    pub node: usize,
    pub channels: usize,
    /// In f32, padded with zeros to whole groups of sixteen.
    pub mean: Address,
    pub scale: Address,
    pub shift: Address,
    pub abc: [Address; 3],
    /// In f64: mean and variance of each channel.
    pub moments: Address,
    /// In f64: two sums of each channel, and the count.
    pub totals: Address,
    /// In f64: two sums of each channel.
    pub gradient_totals: Address,
}

impl NormState {
    /// Where the count of numbers in a channel lies.
    pub fn count(&self) -> Address {
        self.totals + 8 * 2 * self.channels as Address
    }
}

/// The weights of all layers as kernels read them.
pub(crate) struct PackedWeights {
    /// The addresses for each step of the plan: for the convolution, and for the gradient of its input.
    pub steps: Vec<Option<[Address; 2]>>,
    /// A [`PackParams`] for each of them.
    pub table: Buffer,
    pub count: usize,
    /// Blocks that pack them all.
    pub blocks: usize,
    _packed: Buffer,
}

impl PackedWeights {
    pub fn new(
        driver: &Arc<dyn Driver>,
        plan: &ExecutionPlan,
        model: Address,
    ) -> Result<PackedWeights, EngineError> {
        let packed = Buffer::new(driver, PackedWeights::size(plan))?;
        let mut next = packed.address;
        let (mut steps, mut table) = (Vec::new(), Vec::new());
        let mut blocks = 0;
        for (step, layer) in plan.fused.steps.iter().zip(&plan.layers) {
            let addresses = layer.map(|layer| {
                let weight = plan.graph.nodes[step.node].weight.expect("it has a weight");
                let weights = model + 4 * plan.graph.parameters[weight].range.start as Address;
                [false, true].map(|gradient| {
                    let [sums, results] = layer.sums_and_results(gradient);
                    let address = next;
                    next += packed_bytes(plan, layer, gradient) as Address;
                    table.push(PackParams {
                        weights,
                        packed: address,
                        outputs: layer.output.channels as i32,
                        inputs: layer.input.channels as i32,
                        kernel: layer.kernel as i32,
                        padded_sums: sums as i32,
                        padded_results: results as i32,
                        gradient: gradient.into(),
                        f32: (plan.precision == Precision::F32).into(),
                        first: blocks as i32,
                    });
                    let sums_at_once = if layer.kernel == 1 { 64 } else { 8 };
                    blocks += results / TILE_CHANNELS * sums.div_ceil(sums_at_once);
                    address
                })
            });
            steps.push(addresses);
        }
        let bytes: &[u8] = bytemuck::cast_slice(&table);
        let buffer = Buffer::new(driver, bytes.len())?;
        driver.upload(buffer.address, bytes)?;
        Ok(PackedWeights { steps, table: buffer, count: table.len(), blocks, _packed: packed })
    }

    /// Bytes of all packed weights.
    pub fn size(plan: &ExecutionPlan) -> usize {
        let layers = plan.layers.iter().flatten();
        let both =
            |layer: &Layer| packed_bytes(plan, *layer, false) + packed_bytes(plan, *layer, true);
        layers.map(both).sum()
    }
}

fn packed_bytes(plan: &ExecutionPlan, layer: Layer, gradient: bool) -> usize {
    (plan.precision.bytes() * layer.packed_len(gradient)).next_multiple_of(256)
}

/// The second half of a batch that is measured.
pub(crate) struct SecondHalf {
    /// Its gradients, zeros between updates.
    pub gradients: Buffer,
    /// The numbers 1/2 and 2.
    pub factors: Buffer,
}

impl SecondHalf {
    pub fn new(driver: &Arc<dyn Driver>, graph: &Graph) -> Result<SecondHalf, EngineError> {
        let factors = Buffer::new(driver, 2 * 4)?;
        driver.upload(factors.address, bytemuck::bytes_of(&[0.5f32, 2.0]))?;
        Ok(SecondHalf { gradients: Buffer::zeros(driver, 4 * graph.parameter_count())?, factors })
    }
}

/// The model, the optimizer's state, and what passes leave behind.
pub(crate) struct State {
    pub layout: ModelLayout,
    pub model: Buffer,
    pub packed: PackedWeights,
    /// The average of the model, once there is one.
    pub average: Option<Buffer>,
    pub gradients: Buffer,
    pub momentum: Buffer,
    /// What measuring the halves of a batch takes, once there was one.
    pub second_half: Option<SecondHalf>,
    pub batches_tracked: Vec<i64>,
    pub norms: Vec<NormState>,
    /// A [`RuleSettings`] for each parameter.
    pub rules: Buffer,
    /// A [`Batch`].
    pub batch: Buffer,
    /// A [`ResultHead`], and squared norms.
    pub result: Buffer,
    /// Sums of [`PART_BLOCKS`] blocks in f64.
    pub parts: Buffer,
    /// The weight of the model in its average.
    pub average_weight: Buffer,
    /// Class weights, or nothing.
    pub class_weights: Buffer,
    /// The memory of `norms`.
    _norms: Buffer,
}

impl State {
    pub fn new(driver: &Arc<dyn Driver>, plan: &ExecutionPlan) -> Result<State, EngineError> {
        let graph = &plan.graph;
        let layout = ModelLayout::new(graph);
        let parameters = 4 * graph.parameter_count();
        let (norms, buffer) = norms(driver, graph)?;
        let model = Buffer::new(driver, 4 * layout.len())?;
        let mut initial = vec![0.0f32; layout.len()];
        initial[layout.variances()..].fill(1.0);
        driver.upload(model.address, bytemuck::cast_slice(&initial))?;
        Ok(State {
            layout,
            packed: PackedWeights::new(driver, plan, model.address)?,
            model,
            average: None,
            gradients: Buffer::zeros(driver, parameters)?,
            momentum: Buffer::zeros(driver, parameters)?,
            second_half: None,
            batches_tracked: vec![0; graph.statistics.len()],
            norms,
            rules: Buffer::new(driver, size_of::<RuleSettings>() * graph.parameters.len())?,
            batch: Buffer::new(driver, size_of::<Batch>())?,
            result: Buffer::zeros(driver, size_of::<ResultHead>() + 8 * HALVES)?,
            parts: Buffer::new(driver, 8 * PART_BLOCKS as usize)?,
            average_weight: Buffer::new(driver, 4)?,
            class_weights: Buffer::new(driver, 0)?,
            _norms: buffer,
        })
    }

    /// Bytes that a state takes, without an average; with the gradients of a second half, which measuring takes.
    pub fn size(plan: &ExecutionPlan) -> usize {
        let graph = &plan.graph;
        let model = ModelLayout::new(graph).len();
        let norms: usize = norm_lens(graph).map(|(_, len)| len).sum();
        let rules = size_of::<RuleSettings>() * graph.parameters.len();
        let parts = 8 * PART_BLOCKS as usize;
        4 * (model + 3 * graph.parameter_count())
            + norms
            + 8 * HALVES
            + rules
            + parts
            + PackedWeights::size(plan)
    }

    /// The address of the running means, which the variances follow.
    pub fn statistics(&self) -> Address {
        self.model.address + 4 * self.layout.means() as Address
    }

    /// The address of a parameter.
    pub fn parameter(&self, graph: &Graph, index: usize) -> Address {
        self.model.address + 4 * graph.parameters[index].range.start as Address
    }

    /// The address of a parameter's gradient.
    pub fn gradient(&self, graph: &Graph, index: usize) -> Address {
        self.gradients.address + 4 * graph.parameters[index].range.start as Address
    }
}

/// For each BatchNorm its operation, and the bytes that it takes.
fn norm_lens(graph: &Graph) -> impl Iterator<Item = (usize, usize)> {
    let norms = graph.nodes.iter().enumerate();
    norms.filter_map(|(node, layer)| {
        let channels = graph.statistics[layer.statistics?].range.len();
        let padded = channels.next_multiple_of(16);
        Some((node, 6 * 4 * padded + norm_f64(channels)))
    })
}

/// Bytes of the numbers in f64 of a BatchNorm, so many that the next one is aligned as this one.
fn norm_f64(channels: usize) -> usize {
    (8 * (6 * channels + 1)).next_multiple_of(64)
}

fn norms(driver: &Arc<dyn Driver>, graph: &Graph) -> Result<(Vec<NormState>, Buffer), EngineError> {
    let total = norm_lens(graph).map(|(_, len)| len).sum();
    let buffer = Buffer::zeros(driver, total)?;
    let mut next = buffer.address;
    let mut take = |bytes: usize| {
        let address = next;
        next += bytes as Address;
        address
    };
    let norms = norm_lens(graph).map(|(node, _)| {
        let statistics = graph.nodes[node].statistics.expect("it is a BatchNorm");
        let channels = graph.statistics[statistics].range.len();
        let padded = 4 * channels.next_multiple_of(16);
        let [mean, scale, shift, a, b, c] = [(); 6].map(|()| take(padded));
        let numbers = take(norm_f64(channels));
        let pairs = 8 * 2 * channels as Address;
        NormState {
            node,
            channels,
            mean,
            scale,
            shift,
            abc: [a, b, c],
            moments: numbers,
            gradient_totals: numbers + pairs,
            // The count follows.
            totals: numbers + 2 * pairs,
        }
    });
    Ok((norms.collect(), buffer))
}
