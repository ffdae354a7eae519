//! The launches of an update: measuring, the optimizer, averages.

use std::collections::BTreeMap;
use std::ops::Range;

use crescendo_network::{Graph, Rule};

use super::{SUMS_BYTES, blocks, launch, muon};
use crate::driver::{Address, Launch};
use crate::params::{
    FlatParams, MOST_SGD_GROUPS, PackAllParams, RuleSettings, SgdGroup, SgdParams,
};
use crate::state::{PART_BLOCKS, SecondHalf, State};
use crate::workspace::Workspace;

/// Numbers of a block of the kernel `sgd`, as `optimizer.cu` has them.
const SGD_NUMBERS: usize = 4096;

/// What decides the launches of an update, of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum RuleKind {
    Sgd,
    Muon { steps: usize },
    Frozen,
}

/// Neighbouring parameters with the same rule; one alone for Muon.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct RuleGroup {
    pub kind: RuleKind,
    pub parameters: Range<usize>,
}

/// The groups of the rules of all parameters, and the settings of each parameter's.
pub(crate) fn rule_groups(rules: &[Rule]) -> (Vec<RuleGroup>, Vec<RuleSettings>) {
    let mut groups: Vec<RuleGroup> = Vec::new();
    for (index, rule) in rules.iter().enumerate() {
        let kind = match rule {
            Rule::Sgd(_) => RuleKind::Sgd,
            Rule::Muon(muon) => RuleKind::Muon { steps: muon.steps },
            Rule::Frozen => RuleKind::Frozen,
        };
        let same = index > 0 && rules[index - 1] == *rule && !matches!(kind, RuleKind::Muon { .. });
        match groups.last_mut().filter(|_| same) {
            Some(group) => group.parameters.end = index + 1,
            None => groups.push(RuleGroup { kind, parameters: index..index + 1 }),
        }
    }
    let settings = rules.iter().map(|rule| match *rule {
        Rule::Sgd(sgd) => RuleSettings {
            learning_rate: sgd.learning_rate,
            momentum: sgd.momentum,
            weight_decay: sgd.weight_decay,
            nesterov: sgd.nesterov.into(),
        },
        Rule::Muon(muon) => RuleSettings {
            learning_rate: muon.learning_rate,
            momentum: muon.momentum,
            weight_decay: 0.0,
            nesterov: muon.nesterov.into(),
        },
        Rule::Frozen => RuleSettings::default(),
    });
    (groups, settings.collect())
}

/// Applies the gradients and clears them.
pub(crate) fn update(
    graph: &Graph,
    state: &State,
    space: &Workspace,
    groups: &[RuleGroup],
) -> Vec<Launch> {
    let mut flat = Vec::new();
    // Matrices with the same number of steps share their launches.
    let mut matrices: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for group in groups {
        match group.kind {
            RuleKind::Muon { steps } => {
                matrices.entry(steps).or_default().push(group.parameters.start);
            }
            RuleKind::Sgd | RuleKind::Frozen => flat.push(group),
        }
    }
    let flat = flat.chunks(MOST_SGD_GROUPS).map(|groups| sgd(graph, state, groups));
    let matrices = matrices
        .iter()
        .flat_map(|(&steps, indices)| muon::update(graph, state, space.muon(), indices, steps));
    flat.chain(matrices).collect()
}

/// SGD for all groups, and zeros for the gradients of frozen ones.
fn sgd(graph: &Graph, state: &State, groups: &[&RuleGroup]) -> Launch {
    let mut params = SgdParams {
        parameters: state.model.address,
        gradients: state.gradients.address,
        momentum: state.momentum.address,
        rules: state.rules.address,
        count: groups.len() as i32,
        ..SgdParams::default()
    };
    let mut blocks = 0;
    for (group, to) in groups.iter().zip(&mut params.groups) {
        let first = graph.parameters[group.parameters.start].range.start;
        let end = graph.parameters[group.parameters.end - 1].range.end;
        let rule = match group.kind {
            RuleKind::Frozen => -1,
            _ => group.parameters.start as i32,
        };
        *to = SgdGroup { first: first as i64, end: end as i64, rule, first_block: blocks as i32 };
        blocks += end.div_ceil(SGD_NUMBERS) - first / SGD_NUMBERS;
    }
    launch("sgd", [blocks, 1, 1], 0, &params)
}

/// Shared memory of a block that packs weights: 64 results by eight sums by nine taps, and the layer.
const PACK_BYTES: usize = 4 * (64 * (8 * 9 + 1) + 4);

/// Lays out the weights as kernels read them.
pub(crate) fn pack(state: &State) -> Launch {
    let packed = &state.packed;
    let params = PackAllParams { layers: packed.table.address, count: packed.count as i64 };
    launch("pack_weights", [packed.blocks, 1, 1], PACK_BYTES, &params)
}

/// Exchanges the gradients of the two halves of a batch.
pub(crate) fn exchange_halves(graph: &Graph, state: &State, second: &SecondHalf) -> Launch {
    let parameters = second.gradients.address;
    let flat = FlatParams { parameters, ..gradients(graph, state) };
    launch("exchange", [blocks(graph.parameter_count()), 1, 1], 0, &flat)
}

/// Measures the squared norms of the gradients of both halves and of their sum, which takes the place of the first; the
/// second become zeros.
pub(crate) fn add_halves(graph: &Graph, state: &State, second: &SecondHalf) -> Vec<Launch> {
    let len = graph.parameter_count();
    let whole = gradients(graph, state);
    let (first, other) = (state.gradients.address, second.gradients.address);
    let half = FlatParams { gradients: other, ..whole };
    let sum = |kernel, flat| Launch { threads: 32, ..launch(kernel, [1, 1, 1], 0, flat) };
    let blend = |parameters, gradients, factor: u32| {
        let weight = second.factors.address + 4 * Address::from(factor);
        let flat = FlatParams { parameters, gradients, weight, ..whole };
        launch("blend", [blocks(len), 1, 1], 0, &flat)
    };
    vec![
        square_parts(&whole),
        sum("add_part", &whole),
        square_parts(&half),
        sum("add_part", &half),
        // The mean of both, which is exact but for the rounding of their sum, and then twice that.
        blend(first, other, 0),
        clear(other, len),
        blend(other, first, 1),
        exchange_halves(graph, state, second),
        clear(other, len),
        square_parts(&whole),
        sum("set_whole", &whole),
    ]
}

fn square_parts(flat: &FlatParams) -> Launch {
    launch("square_parts", [PART_BLOCKS as usize, 1, 1], SUMS_BYTES, flat)
}

fn gradients(graph: &Graph, state: &State) -> FlatParams {
    FlatParams {
        gradients: state.gradients.address,
        parts: state.parts.address,
        result: state.result.address,
        len: graph.parameter_count() as i64,
        ..FlatParams::default()
    }
}

/// Sets so many numbers to zero.
pub(crate) fn clear(address: Address, len: usize) -> Launch {
    let flat = FlatParams { gradients: address, len: len as i64, ..FlatParams::default() };
    launch("clear_numbers", [blocks(len), 1, 1], 0, &flat)
}

/// Blends the model into its average.
pub(crate) fn blend(state: &State, average: Address) -> Launch {
    pair("blend", state, average)
}

/// Exchanges the model and its average.
pub(crate) fn exchange(state: &State, average: Address) -> Launch {
    pair("exchange", state, average)
}

fn pair(kernel: &'static str, state: &State, average: Address) -> Launch {
    let flat = FlatParams {
        parameters: average,
        gradients: state.model.address,
        weight: state.average_weight.address,
        len: state.layout.len() as i64,
        ..FlatParams::default()
    };
    launch(kernel, [blocks(state.layout.len()), 1, 1], 0, &flat)
}
