//! The launches of an update: measuring, the optimizer, averages.

use std::ops::Range;

use crescendo_network::{Graph, Rule};

use super::{SUMS_BYTES, blocks, launch};
use crate::driver::{Address, Launch};
use crate::params::{
    FlatParams, MuonParams, PackAllParams, ProductParams, RuleSettings, WeightSumParams,
};
use crate::state::{PART_BLOCKS, State};
use crate::workspace::Workspace;

/// Newton and Schulz's polynomial, as [`crescendo_network::Muon`] has it.
const POLYNOMIAL: [f32; 3] = [3.4445, -4.7750, 2.0315];
/// Rows and columns of a block of `matrix_product`, and its shared memory.
const PRODUCT_SIDE: usize = 64;
const PRODUCT_BYTES: usize = 2 * 16 * (PRODUCT_SIDE + 1) * 4;

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
    let mut launches = Vec::new();
    for group in groups {
        let first = &graph.parameters[group.parameters.start];
        let end = graph.parameters[group.parameters.end - 1].range.end;
        let at = |base: Address| base + 4 * first.range.start as Address;
        let rule =
            state.rules.address + (size_of::<RuleSettings>() * group.parameters.start) as Address;
        let len = end - first.range.start;
        let flat = FlatParams {
            parameters: at(state.model.address),
            gradients: at(state.gradients.address),
            momentum: at(state.momentum.address),
            rule,
            len: len as i64,
            ..FlatParams::default()
        };
        match group.kind {
            RuleKind::Sgd => launches.push(launch("sgd", [blocks(len), 1, 1], 0, &flat)),
            RuleKind::Frozen => {
                launches.push(launch("clear_numbers", [blocks(len), 1, 1], 0, &flat));
            }
            RuleKind::Muon { steps } => {
                muon(&mut launches, first.shape[0], steps, &flat, state, space);
            }
        }
    }
    launches
}

fn muon(
    launches: &mut Vec<Launch>,
    rows: usize,
    steps: usize,
    flat: &FlatParams,
    state: &State,
    space: &Workspace,
) {
    let len = flat.len as usize;
    let columns = len / rows;
    let (side, width) = (rows.min(columns), rows.max(columns));
    let bytes = |numbers: usize| 4 * numbers as Address;
    // The step, and the next one; x x^T, and the polynomial of it.
    let mut x = space.muon();
    let mut y = x + bytes(len);
    let gram = y + bytes(len);
    let polynomial = gram + bytes(side * side);
    let mut params = MuonParams {
        weight: flat.parameters,
        gradient: flat.gradients,
        momentum: flat.momentum,
        step: x,
        step_parts: state.parts.address,
        weight_parts: state.parts.address + 8 * Address::from(PART_BLOCKS),
        rule: flat.rule,
        rows: rows as i64,
        columns: columns as i64,
        transpose: (rows > columns).into(),
    };
    let parts = [PART_BLOCKS as usize, 1, 1];
    launches.push(launch("muon_begin", parts, SUMS_BYTES, &params));
    launches.push(launch("muon_scale", [blocks(len), 1, 1], 0, &params));
    let [a, b, c] = POLYNOMIAL;
    let mut product = |rows: usize, columns: usize, params: ProductParams| {
        let params = ProductParams { rows: rows as i32, columns: columns as i32, ..params };
        let grid = [columns.div_ceil(PRODUCT_SIDE), rows.div_ceil(PRODUCT_SIDE), 1];
        launches.push(launch("matrix_product", grid, PRODUCT_BYTES, &params));
    };
    for _ in 0..steps {
        // (a + b (x x^T) + c (x x^T)^2) x
        let plain = ProductParams { product: 1.0, ..ProductParams::default() };
        let inner = width as i32;
        let params = ProductParams { a: x, b: x, out: gram, inner, transposed: 1, ..plain };
        product(side, side, params);
        let inner = side as i32;
        let square = ProductParams { a: gram, b: gram, c: gram, out: polynomial, inner, ..plain };
        product(side, side, ProductParams { product: c, addend: b, diagonal: a, ..square });
        product(side, width, ProductParams { a: polynomial, b: x, out: y, inner, ..plain });
        std::mem::swap(&mut x, &mut y);
    }
    params.step = x;
    launches.push(launch("muon_finish", [blocks(len), 1, 1], 0, &params));
}

/// Lays out the weights as kernels read them.
pub(crate) fn pack(state: &State) -> Launch {
    let params = PackAllParams { layers: state.packed.table.address };
    // Blocks of a layer: the largest has some millions of numbers.
    launch("pack_weights", [64, state.packed.count, 1], 0, &params)
}

/// Exchanges the gradients of the two halves of a batch.
pub(crate) fn exchange_halves(graph: &Graph, state: &State, second: Address) -> Launch {
    let len = graph.parameter_count();
    let flat = FlatParams { parameters: second, ..gradients(graph, state) };
    launch("exchange", [blocks(len), 1, 1], 0, &flat)
}

/// Measures the squared norms of the gradients of both halves and of their sum, which takes the place of the first; the
/// second become zeros.
pub(crate) fn add_halves(graph: &Graph, state: &State, second: Address) -> Vec<Launch> {
    let len = graph.parameter_count();
    let whole = gradients(graph, state);
    let half = |gradients: Address| FlatParams { gradients, ..whole };
    let sum = |kernel, flat| Launch { threads: 32, ..launch(kernel, [1, 1, 1], 0, flat) };
    // As the partial sums of a layer with one output are added to its gradient.
    let add = WeightSumParams {
        sums: second,
        gradient: state.gradients.address,
        splits: 1,
        taps: 1,
        outputs: 1,
        inputs: len as i64,
        padded_outputs: 1,
        padded_inputs: len as i64,
    };
    vec![
        square_parts(&whole),
        sum("add_part", &whole),
        square_parts(&half(second)),
        sum("add_part", &half(second)),
        launch("sum_weight_gradient", [blocks(len), 1, 1], 0, &add),
        square_parts(&whole),
        sum("set_whole", &whole),
        clear(second, len),
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
